"""Strips of frames with the saliency maps of models (the paper's Table 5)."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dagr_jax.report.plots import STYLE, overlay, save, show_pictures_alone
from dagr_jax.report.tables import printable
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.score.maps import Seen, looks

_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Shown:
    """A clip with the saliency maps of models.

    Attributes:
        label: Text next to the frames.
        frames: (T, H, W, 3) uint8.
        maps: (text next to the maps, (T, h, w) maps in [0, 1]) for each model that has a saliency
            network.
    """

    label: str
    frames: np.ndarray
    maps: Sequence[tuple[str, np.ndarray]]


def look(clip: str, scorers: Mapping[str, Scorer]) -> Shown:
    """Returns the frames of a file that the models see, with their maps and scores.

    Args:
        clip: Path of the video file.
        scorers: {name: scorer} of each model; at least one.

    Raises:
        VideoError: The file cannot be read.
        DagrError: The models sample different frames.
    """
    frames, maps, scores = None, [], []
    for name, scorer in scorers.items():
        # The last: where a file's index was wrong, what came before does not count.
        *_, seen = (one for one in looks(scorer, clip) if isinstance(one, Seen))
        if frames is not None and not np.array_equal(frames, seen.frames):
            raise DagrError(f"{clip}: the checkpoints see other frames; draw one at a time")
        frames = seen.frames
        score = f"score {scorer.score(clip).score:.1f}"
        if not seen.maps:
            scores.append(score if len(scorers) == 1 else f"{name}: {score}")
        for title, own in seen.maps.items():
            several = f" {title}" if len(seen.maps) > 1 else ""
            maps.append((f"{in_lines(name)}{several}\n{score}", own))
    assert frames is not None  # there is a checkpoint
    return Shown("\n".join([in_lines(printable(Path(clip).name)), *scores]), frames, maps)


def draw(path: Path, clips: Sequence[Shown]) -> None:
    """Writes `strips` of clips as a PNG file.

    Args:
        path: PNG file to write.
        clips: Clips with their maps.
    """
    save(strips(clips), path)


def strips(clips: Sequence[Shown]) -> Figure:
    """Draws a row of frames for each clip, and below it a row of overlays for each model.

    Args:
        clips: Clips with their maps.
    """
    lines = [
        (clip, label, maps) for clip in clips for label, maps in [(clip.label, None), *clip.maps]
    ]
    ratios = [clip.frames.shape[1] / clip.frames.shape[2] for clip, _, _ in lines]
    width = 2.2  # inches of a column
    with matplotlib.rc_context(STYLE):
        height = sum(ratio * width + 0.05 for ratio in ratios) + 0.3 * len(clips)
        figure = Figure(
            figsize=(_COLUMNS * width + 2.2, height),
            layout=ConstrainedLayoutEngine(h_pad=0.02, hspace=0.01),
        )
        axes: Any = figure.subplots(len(lines), _COLUMNS, squeeze=False, height_ratios=ratios)
        for row, (clip, label, maps) in zip(axes, lines, strict=True):
            chosen = np.linspace(0, len(clip.frames) - 1, _COLUMNS).astype(int)
            for ax, t in zip(row, chosen.tolist(), strict=True):
                frame = clip.frames[t]
                ax.imshow(frame if maps is None else overlay(frame, maps[t]))
                if maps is None:
                    ax.set_title(f"frame {t + 1} of {len(clip.frames)}", fontsize=8, pad=3)
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
        show_pictures_alone(axes.flat)
    return figure


def in_lines(name: str, width: int = 24) -> str:
    """Breaks a name into lines of at most about `width` characters, after underscores if any."""
    return "\n".join(
        line.replace("_ ", "_") for line in textwrap.wrap(name.replace("_", "_ "), width)
    )
