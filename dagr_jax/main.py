"""Runs the stages of a configuration.

python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded [STAGE …]
python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation [RUN …]

In several processes, on one machine or on many, the same command in each, with a workdir that all
share, and --distributed, or --coordinator, --num_processes and --process_id.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from dagr_jax.runtime import startup
from dagr_jax.runtime.errors import DagrError, environment

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/vqa.py", "Configuration file.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run's artifacts.", required=True)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 listens, as all processes reach it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes make the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This one's number, from 0.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Take these three from SLURM, Open MPI, a TPU pod or Kubernetes."
)


def main(argv: list[str]) -> None:
    """Runs the stages named after the flags, or all; of a sweep, the runs that are named.

    A mistake that the user can fix is one line and exit code 1; any other exception is a defect and
    shows its traceback. After Ctrl-C or SIGTERM training saves the step that is
    done, the other stages leave nothing half-written, and the exit code is 130, as shells report
    Ctrl-C. Of several processes all end when one does, with its exit code.
    """
    # Imported here: JAX takes a second to load, and the process may have been started twice.
    from dagr_jax.runtime import distributed
    from dagr_jax.stages import run_stages

    # Ctrl-C leaves batches in Grain's queue to Python's resource tracker, which frees them; that
    # it had to is no news for the user.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    # Results and progress are ours; the libraries' remarks are for debugging (--verbosity=1).
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    workdir = Path(_WORKDIR.value)
    said, code = "", 0
    try:
        file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
        with environment(file), open(file):  # absl reports a missing file only when it is used
            pass
        distributed.connect(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            detect=_DISTRIBUTED.value,
        )
        # Not before: nothing interrupts the wait for other processes but the signals' own way.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run_stages(_CONFIG.value, workdir, argv[1:])
        if distributed.is_first():
            _show(workdir)
        distributed.disconnect()
    except DagrError as error:
        said, code = f"error: {error}", 1
    except KeyboardInterrupt as stop:
        said, code = f"{str(stop) or 'interrupted'}; the same command goes on from here", 130
    except Exception as error:
        if not distributed.several():
            raise
        said, code = f"{type(error).__name__}: {error}\n{traceback.format_exc().rstrip()}", 1
    # Not inside the handlers, which would keep the last batch and its shared memory alive.
    if code:
        distributed.leave(said, code)


def _parsed(argv: list[str]) -> list[str]:
    """Parses the flags and loads the configuration; a mistake is one line and exit code 1."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # absl's error follows from ours, and its message holds a traceback of it.
        known = [one for one in _causes(error) if isinstance(one, DagrError)]
        if not known and "\n" in str(error):
            raise
        said = str(known[-1] if known else error)
    except AttributeError as error:
        # ml_collections has no other error for a --config.FIELD that does not exist.
        if any(frame.name == "get_config" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        field = str(error).strip("\"'")
        said = f"--config: it has no field {field}; check the names of the fields"
    print(f"error: {said}", file=sys.stderr)
    sys.exit(1)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it follows from."""
    while error is not None:
        yield error
        error = error.__context__


def _show(workdir: Path) -> None:
    """Prints what a run, folds or a sweep have measured."""
    from dagr_jax.report import figures, tables

    for result in (workdir / "test" / "metrics.json", workdir / "folds.json"):
        if result.exists():
            print(result.read_text(), end="")
    sweep = workdir / "sweep.json"
    if sweep.exists():
        print(tables.render(figures.table(json.loads(sweep.read_text())), "table"), end="")


if __name__ == "__main__":
    startup.set_up()
    app.run(main, flags_parser=_parsed)
