"""LSVQ: 38,811 videos; official train, test and 1080p test lists (Ying et al., CVPR 2021)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dagr_jax.data.labels import Label, LabelError, read_columns
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    return read_columns(path, ("name",), ("mos",))


def _names(name: str) -> Iterator[str]:
    # The official files list videos without an extension.
    yield name if PurePosixPath(name).suffix == ".mp4" else f"{name}.mp4"


def _part(path: Path, label: Label) -> str:
    """Returns the part from the column is_test of the official file, or from a list's file name."""
    said = label.row.get("is_test", "").casefold()
    if said:
        if said not in ("true", "false", "1", "0", "1.0", "0.0"):
            raise LabelError(path, f"line {label.line}: is_test is {said!r}", "write True or False")
        return "test" if said in ("true", "1", "1.0") else "train"
    stem = path.stem.casefold()
    if "test" in stem or "1080p" in stem:
        return "test"
    return "train" if "train" in stem else ""


DATASET = RatedSet(
    title="LSVQ",
    citation="Ying et al., Patch-VQ: 'Patching up' the video quality problem, CVPR 2021",
    scale=(0.0, 100.0),
    counts={"train": 28056, "test": 7182, "1080p": 3573},
    readers=(("labels_train_test.csv", _read), ("labels_test_1080p.csv", _read)),
    names=_names,
    content=lambda name: name.removesuffix(".mp4"),
    part=_part,
)
