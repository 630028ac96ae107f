"""KoNViD-1k: 1,200 user videos from Flickr, 960×540, 8 seconds (Hosu et al., QoMEX 2017)."""

import re
from collections.abc import Iterator
from pathlib import Path

from dagr_jax.data.labels import Label, read_columns
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    return read_columns(path, ("flickr_id", "file_name"), ("mos",))


def _flickr_id(name: str) -> str:
    """'KoNViD_1k_videos/3015.mp4', '3015_original_centercrop_960x540_8s.mp4', '3015' → '3015'."""
    stem = Path(name).name
    found = re.match(r"\d+", stem)
    return found[0] if found else stem


def _names(name: str) -> Iterator[str]:
    number = _flickr_id(name)
    yield f"{number}.mp4"
    yield f"{number}_original_centercrop_960x540_8s.mp4"


DATASET = RatedSet(
    title="KoNViD-1k",
    citation="Hosu et al., The Konstanz natural video database (KoNViD-1k), QoMEX 2017",
    scale=(1.0, 5.0),
    counts={"": 1200},
    readers=(("KoNViD_1k_mos.csv", _read), ("KoNViD_1k_attributes.csv", _read)),
    names=_names,
    content=_flickr_id,
)
