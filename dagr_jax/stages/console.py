"""What a run prints on stderr: lines and progress bars, of process 0 alone."""

import sys

from tqdm import tqdm

from dagr_jax.runtime import distributed


def say(text: str) -> None:
    """Prints a line on stderr, in process 0."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def progress(total: int, desc: str, unit: str) -> tqdm:
    """A progress bar on the terminal of process 0."""
    return tqdm(total=total, desc=desc, unit=unit, disable=None if distributed.is_first() else True)
