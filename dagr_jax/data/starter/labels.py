"""Labels of the starter corpus: how good a delivery looks, from 0 to 100, by its measures.

Source: docs/starter.md, which describes how the label was chosen.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.data.labels import Label, read_columns
from dagr_jax.data.starter.delivery import UNMEASURED
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.texts import open_text

SCALE = (0.0, 100.0)
# Shorter side in pixels → label of what is delivered at this size without visible compression, as a
# share of the label at 1080: the mean over 14 scenes of 1080 lines (x264, rate factor 10).
_OF_SIZE = {
    0: 0.0,
    144: 0.407,
    180: 0.550,
    240: 0.702,
    288: 0.778,
    360: 0.855,
    432: 0.901,
    540: 0.943,
    640: 0.965,
    720: 0.976,
    900: 0.988,
    1080: 1.0,
}
NAME = "labels.csv"


def quality(row: Mapping[str, Any]) -> float:
    """Computes the label of a video.

    The mean of VMAF at full size and at half size, because at full size everything that was
    delivered at a fraction of the size of its scene is equally bad. The label of a small scene is
    lower by what a scene of 1080 lines loses at this size: a viewer compares it with larger ones.

    Args:
        row: A row of `corpus.make`.

    Returns:
        The label, in [0, 100].
    """
    side = min(row["scene_height"], row["scene_width"])
    share = float(np.interp(side, list(_OF_SIZE), list(_OF_SIZE.values())))
    return share * 0.5 * (row["vmaf_3"] + row["vmaf_half"])


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the labels and all facts of the videos to `folder/labels.csv`; returns its path."""
    path = folder / NAME
    with atomic_file(path) as partial, open_text(partial) as stream:
        fields = ["video", "mos", *(name for name in rows[0] if name not in ("video", "sources"))]
        writer = csv.DictWriter(stream, [*fields, "sources"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            measured = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(
                {**measured, "mos": f"{quality(row):.4f}", "sources": " ".join(row["sources"])}
            )
    return path


def read(path: Path) -> list[Label]:
    """Reads the labels that `write` wrote, for training, validation and test.

    Videos whose labels are comparable only within their content are for training alone: no metric
    can be computed from them and others. Videos with a fault that VMAF cannot measure have no label
    at all.
    """
    found = read_columns(path, ("video",), ("mos",))
    measured = [one for one in found if one.row["fault"] not in UNMEASURED]
    return [one for one in measured if one.row["split"] == "train" or not relative(one)]


def relative(label: Label) -> bool:
    """Returns whether a label is comparable only with those of its content."""
    return label.row["absolute"] == "False"
