"""Plot style and the overview picture of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dagr_jax.runtime.atomic import atomic_file

# Readable at half size. The colours below are colour-blind safe (Okabe and Ito).
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    # File names are shown unchanged, including dollar signs.
    "text.parse_math": False,
}
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
# (colour, marker, line style) of the first, second, … series of a plot.
LOOKS = [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PINK, "D", ":")]


def spread(values: np.ndarray, count: int = 3) -> list[int]:
    """Selects values spread over the range, from low to high.

    Args:
        values: (n,) values.
        count: Number of values to select.

    Returns:
        Indices of the selected values.
    """
    order = np.argsort(values, kind="stable")
    return [int(order[round(q * (len(order) - 1))]) for q in np.linspace(0.08, 0.92, count)]


def overlay(frame: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Draws a saliency map as a heat map over a greyish frame.

    Args:
        frame: (H, W, 3) uint8.
        saliency: (h, w) float in [0, 1]; resized to the frame.

    Returns:
        (H, W, 3) uint8.
    """
    size = (frame.shape[1], frame.shape[0])
    heat = Image.fromarray(saliency.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(heat), 0, 1)[..., None]
    colour = matplotlib.colormaps["inferno"](level[..., 0])[..., :3] * 255
    grey = frame.mean(-1, keepdims=True)
    weight = 0.75 * level**0.7
    return ((1 - weight) * (0.6 * grey + 0.4 * frame) + weight * colour + 0.5).astype(np.uint8)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, atomically."""
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def show_pictures_alone(axes: Iterable[Any]) -> None:
    """Removes ticks, grid and frame from axes that show pictures."""
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(False)


def overview(
    path: Path,
    *,
    frames: Sequence[np.ndarray],
    maps: Sequence[Mapping[str, np.ndarray]],
    chosen: Sequence[int],
    mos: np.ndarray,
    predictions: np.ndarray,
    srcc: Mapping[str, float],
    dataset: str,
) -> None:
    """Draws frames, overlays of the first map that the model gives, and the scatter.

    Args:
        path: PNG to write.
        frames: For each chosen video (T, H, W, 3) uint8.
        maps: For each chosen video name → (T, h, w) in [0, 1]; {} where its score uses none.
        chosen: Their rows in `mos` and `predictions`.
        mos: (N,) MOS of the test videos.
        predictions: (N,) predicted MOS.
        srcc: SRCC with its interval: "value", "low" and "high".
        dataset: Name of the data set.
    """
    name = next(iter(maps[0]), "") if maps else ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.7), layout="constrained")
        panels: Any = figure.subfigures(1, 2, width_ratios=[1.45, 1])
        left, right = panels
        axes = left.subplots(len(frames), 4, squeeze=False)
        for row, (video, i) in enumerate(zip(frames, chosen, strict=True)):
            moments = (len(video) // 4, 3 * len(video) // 4)
            for k, t in enumerate(moments):
                axes[row, 2 * k].imshow(video[t])
                if name:
                    own = maps[row][name]  # a model may give fewer maps than frames
                    axes[row, 2 * k + 1].imshow(overlay(video[t], own[t * len(own) // len(video)]))
                if row == 0:
                    axes[row, 2 * k].set_title(f"frame {t + 1} of {len(video)}", fontsize=9)
                    axes[row, 2 * k + 1].set_title(name, fontsize=9)
            label = f"MOS {mos[i]:.2f}\npredicted {predictions[i]:.2f}"
            axes[row, 0].set_ylabel(
                label, rotation=0, ha="right", va="center", fontsize=9, labelpad=8
            )
        show_pictures_alone(axes.flat)

        ax = right.subplots()
        low = min(mos.min(), predictions.min())
        high = max(mos.max(), predictions.max())
        ax.plot([low, high], [low, high], color="0.6", linewidth=1, label="equal")
        ax.scatter(mos, predictions, s=22, color=BLUE, alpha=0.75, linewidths=0, label="video")
        ax.scatter(
            mos[list(chosen)],
            predictions[list(chosen)],
            s=70,
            facecolors="none",
            edgecolors=ORANGE,
            linewidths=1.8,
            label="shown on the left",
        )
        ax.set(xlabel="MOS of the test part", ylabel="predicted MOS")
        interval = f"[{srcc['low']:.2f}, {srcc['high']:.2f}]"
        ax.set_title(f"{dataset}: {len(mos)} videos, SRCC {srcc['value']:.3f} {interval}")
        ax.legend(frameon=False, loc="upper left", fontsize=9)
        save(figure, path)
