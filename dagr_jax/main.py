"""Runs the stages of a configuration.

python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded [STAGE …]
"""

import json
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from dagr_jax.stages import run_stages
from dagr_jax.train.loop import TrainingError

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/vqa.py", "Configuration file.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run's artifacts.")


def main(argv: list[str]) -> None:
    """Runs the stages named after the flags, or all; an error is one line and exit code 1."""
    try:
        run_stages(_CONFIG.value, _WORKDIR.value, argv[1:])
    except (ValueError, OSError, TrainingError) as error:
        sys.exit(f"error: {error}")
    _print_result()


def _print_result() -> None:
    """Prints the test's figures, when the test is there."""
    path = Path(_WORKDIR.value) / "test" / "metrics.json"
    if path.exists():
        print(json.dumps(json.loads(path.read_text()), indent=2))


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)
