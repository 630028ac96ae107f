"""Any folder of videos with a label list: `labels.csv`, `labels.txt`, or a file in `--labels`."""

from pathlib import Path, PurePosixPath

from dagr_jax.data.labels import Label, read_columns
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    """Reads a table with a header: the video, its score, and optionally `content`."""
    return read_columns(
        path, ("video", "file", "filename", "file_name", "name", "path"), ("mos", "score")
    )


DATASET = RatedSet(
    title="the folder",
    citation="",
    scale=None,
    counts={},
    readers=(("labels.csv", _read), ("labels.txt", _read), ("labels.xlsx", _read)),
    names=lambda name: (),
    content=lambda name: PurePosixPath(name).stem,
)
