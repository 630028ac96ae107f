"""Runs the stages of a configuration.

python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded [STAGE …]
python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation [RUN …]

To run several processes, on one machine or on many, start the same command in each process. Add
--distributed, or --coordinator, --num_processes and --process_id. All processes must share the
working directory.
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
_WORKDIR = flags.DEFINE_string("workdir", None, "Working directory of the run.", required=True)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT on which process 0 listens; all processes must reach it at this address.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Take coordinator, num_processes and process_id from SLURM, Open MPI, a TPU pod or Kubernetes.",
)


def main(argv: list[str]) -> None:
    """Runs the stages of a configuration, or the runs of a sweep.

    An error that the user can fix is printed as one line, and the exit code is 1. Any other
    exception is a defect, and its traceback is printed. After Ctrl-C or SIGTERM, training saves the
    last finished step, other stages leave no incomplete files, and the exit code is 130, as in
    shells after Ctrl-C. When one of several processes ends, all end with its exit code.

    Args:
        argv: Program name, then names of stages or of runs of a sweep; without names, all.
    """
    # Imported here: JAX takes a second to import, and the process may still restart itself.
    from dagr_jax.runtime import distributed
    from dagr_jax.runtime.compile_cache import keep_compiled
    from dagr_jax.stages import run_stages

    # After Ctrl-C, Python's resource tracker frees the batches in Grain's queue and warns about it.
    # The warning is of no use to the user.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    # Only results and progress are shown. Messages of libraries are for debugging (--verbosity=1).
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
        # The stages share programs, and so do the runs that differ in the seed or in the weights.
        if not distributed.several():
            keep_compiled()
        # Not earlier: during the wait for other processes, only the default action of a signal
        # can end this process.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run_stages(_CONFIG.value, workdir, argv[1:])
        if distributed.is_first():
            _show(workdir)
        distributed.disconnect()
    except DagrError as error:
        said, code = f"error: {error}", 1
    except KeyboardInterrupt as stop:
        said, code = f"{str(stop) or 'interrupted'}; run the same command again to continue", 130
    except Exception as error:
        if not distributed.several():
            raise
        said, code = f"{type(error).__name__}: {error}\n{traceback.format_exc().rstrip()}", 1
    # Not inside the handlers, where the exception would keep the last batch and its shared memory.
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
    """Prints the results of a run, of folds or of a sweep."""
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
