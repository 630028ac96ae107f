"""YouTube-UGC: user uploads in 15 categories, 20 seconds (Wang et al., MMSP 2019)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dagr_jax.data.labels import Label, read_columns
from dagr_jax.data.rated import RatedSet

_DELIVERED = "_crf_10_ss_00_t_20.0"


def _read(path: Path) -> list[Label]:
    return read_columns(path, ("vid", "filename"), ("MOS full", "MOSFull", "MOS"))


def _vid(name: str) -> str:
    """'Sports_2160P-4e9f_crf_10_ss_00_t_20.0.mp4' → 'Sports_2160P-4e9f'."""
    plain = re.sub(r"\.(mp4|mkv|webm)$", "", PurePosixPath(name).name, flags=re.IGNORECASE)
    return plain.removesuffix(_DELIVERED)


def _names(name: str) -> Iterator[str]:
    vid = _vid(name)
    yield f"{vid}{_DELIVERED}.mp4"
    yield from (f"{vid}{suffix}" for suffix in (".mp4", ".mkv", ".webm"))


DATASET = RatedSet(
    title="YouTube-UGC",
    citation="Wang et al., YouTube UGC dataset for video compression research, MMSP 2019",
    scale=(1.0, 5.0),
    counts={"": 1380},
    readers=(
        ("original_videos_MOS_for_YouTube_UGC_dataset.xlsx", _read),
        ("original_videos_MOS_for_YouTube_UGC_dataset.csv", _read),
    ),
    names=_names,
    content=_vid,
)
