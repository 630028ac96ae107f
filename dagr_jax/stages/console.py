"""Output of a run on stderr: lines and progress bars, only from process 0."""

import sys

from tqdm import tqdm

from dagr_jax.runtime import distributed


def say(text: str) -> None:
    """Prints a line on stderr, only in process 0."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def progress(total: int, desc: str, unit: str) -> tqdm:
    """Makes a progress bar, which is shown only on the terminal of process 0.

    Args:
        total: Number of units of work.
        desc: Text in front of the bar.
        unit: Name of one unit of work.

    Returns:
        The progress bar.
    """
    return tqdm(total=total, desc=desc, unit=unit, disable=None if distributed.is_first() else True)
