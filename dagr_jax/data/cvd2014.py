"""CVD2014: 234 videos from 78 cameras, five scenes (Nuutinen et al., TIP 2016)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dagr_jax.data.labels import Label, read_columns
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    """Reads Realignment_MOS.csv (semicolons, decimal commas, the scene in its own column)."""
    found = read_columns(path, ("File_name",), ("Realignment MOS", "RealignmentMOS"))
    return [
        Label(_path(label.video, label.row.get("Content", "")), label.mos, label.row, label.line)
        for label in found
    ]


def _path(name: str, scene: str) -> str:
    """Makes the path of a video: 'Test03_City_D12', 'City' → 'Test3/City/Test03_City_D12.avi'."""
    test = re.match(r"Test0?(\d+)_", name)
    if not test or not scene:
        return f"{name}.avi"
    return f"Test{test[1]}/{scene}/{name}.avi"


def _names(name: str) -> Iterator[str]:
    yield name if name.endswith(".avi") else f"{name}.avi"


def _content(name: str) -> str:
    """Returns the scene, which the cameras of all six tests filmed: 'Test03_City_D12' → 'City'."""
    parts = PurePosixPath(name).stem.split("_")
    return parts[1] if len(parts) > 2 else parts[0]


DATASET = RatedSet(
    title="CVD2014",
    citation="Nuutinen et al., CVD2014 - A database for evaluating no-reference video quality "
    "assessment algorithms, IEEE TIP 2016",
    # The published extremes: realignment over the six tests moves scores outside 0 to 100.
    scale=(-6.5, 93.38),
    counts={"": 234},
    readers=(("Realignment_MOS.csv", _read),),
    names=_names,
    content=_content,
)
