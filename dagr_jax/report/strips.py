"""Frames of clips and what models look at in them (the paper's Table 5)."""

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
from dagr_jax.score.results import Seen

_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Shown:
    """A clip with the maps of models.

    Attributes:
        label: What stands beside its frames.
        frames: (T, H, W, 3) uint8.
        maps: (what stands beside it, (T, h, w) in [0, 1]) for each model that has a saliency net.
    """

    label: str
    frames: np.ndarray
    maps: Sequence[tuple[str, np.ndarray]]


def look(clip: str, scorers: Mapping[str, Scorer]) -> Shown:
    """The frames of a file that models see, their maps and scores.

    Raises:
        VideoError: The file cannot be read.
        DagrError: The models sample other frames.
    """
    frames, maps, scores = None, [], []
    for name, scorer in scorers.items():
        # The last: where a file's index was wrong, what came before does not count.
        *_, seen = (one for one in scorer.looks(clip) if isinstance(one, Seen))
        if frames is not None and not np.array_equal(frames, seen.frames):
            raise DagrError(f"{clip}: the checkpoints see other frames; draw one at a time")
        frames = seen.frames
        score = f"score {scorer.score(clip).score:.1f}"
        if seen.maps is None or not scorer.model.alpha:  # a network that nothing has trained
            scores.append(score if len(scorers) == 1 else f"{name}: {score}")
        else:
            maps.append((f"{in_lines(name)}\n{score}", seen.maps))
    assert frames is not None  # there is a checkpoint
    return Shown("\n".join([in_lines(printable(Path(clip).name)), *scores]), frames, maps)


def draw(path: Path, clips: Sequence[Shown]) -> None:
    """Writes `strips` of some clips as a PNG."""
    save(strips(clips), path)


def strips(clips: Sequence[Shown]) -> Figure:
    """Of each clip a line of frames, and below it one of overlays for each model."""
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
    """A name in lines of about some width, broken behind underscores where there are any."""
    return "\n".join(
        line.replace("_ ", "_") for line in textwrap.wrap(name.replace("_", "_ "), width)
    )
