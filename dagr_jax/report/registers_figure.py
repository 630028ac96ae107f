"""Figure 6: how much the register tokens depend on the content of a video."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dagr_jax.report.plots import BLUE, ORANGE, STYLE, save

# Colours of Okabe and Ito, and markers; their combinations distinguish 48 contents.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP"


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Features of videos, and how well they separate the contents.

    Attributes:
        name: Name of the features.
        features: (n, d) features.
        place: (n, 2) t-SNE of the features, seed 0.
        silhouette: Silhouette score in [-1, 1] of the classes in the standardised features; 1: the
            classes are well separated, 0: they overlap.
        chance: 95 % quantile of the silhouette score with shuffled classes. A score above it is
            significant.
        control: Whether the features do without registers.
    """

    name: str
    features: np.ndarray
    place: np.ndarray
    silhouette: float
    chance: float
    control: bool = False


@dataclasses.dataclass(frozen=True)
class Registers:
    """Data of figure 6.

    Attributes:
        classes: Content of each of the n videos.
        tokens: (N, N) projected register tokens, token by channel, that the network concatenates to
            the input.
        difference: Largest difference of `tokens` between any two videos.
        clouds: The response to the registers, its control (the same layer with silent registers),
            and other features.
    """

    classes: tuple[str, ...]
    tokens: np.ndarray
    difference: float
    clouds: tuple[Cloud, ...]


def draw(path: Path, found: Registers) -> None:
    """Draws the tokens, the t-SNE of two clouds, and the silhouettes of all clouds.

    Args:
        path: PNG file to write.
        found: Data from `studies.registers`. The t-SNE is that of the first two clouds.
    """
    names = list(dict.fromkeys(found.classes))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 8.2), layout="constrained")
        axes: Any = figure.subplots(2, 2)
        _tokens(axes[0, 0], found)
        _silhouettes(axes[0, 1], found)
        for ax, cloud in zip(axes[1], found.clouds, strict=False):
            for number, name in enumerate(names):
                chosen = np.array([label == name for label in found.classes])
                marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
                colour = _COLOURS[number % len(_COLOURS)]
                x, y = cloud.place[chosen].T
                ax.scatter(x, y, s=26, color=colour, marker=marker, linewidths=0, label=name)
            ax.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
            ax.set_title(cloud.name, fontsize=10, loc="left")
        count = len(found.classes)
        figure.supxlabel(
            f"{count} videos of {len(names)} contents, one symbol per content", fontsize=9
        )
        save(figure, path)


def _silhouettes(ax: Any, found: Registers) -> None:
    """Draws the silhouette of each cloud, and the height that shuffled classes reach."""
    clouds = found.clouds
    places = np.arange(len(clouds))
    colours = [ORANGE if cloud.control else BLUE for cloud in clouds]
    ax.barh(places, [cloud.silhouette for cloud in clouds], color=colours, height=0.6)
    ax.plot([cloud.chance for cloud in clouds], places, "k|", markersize=16, markeredgewidth=2)
    for y, cloud in zip(places, clouds, strict=True):
        ax.annotate(
            f"{cloud.silhouette:+.3f}", (1.01, y), xycoords=("axes fraction", "data"), va="center"
        )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(yticks=places, yticklabels=[_wrapped(cloud.name) for cloud in clouds], xlim=(-1, 1))
    ax.set_ylim(len(clouds) - 0.4, -0.6)
    ax.set_xlabel("silhouette by content")
    ax.set_title(
        "orange: without registers; line: 95 % of shuffled contents", fontsize=10, loc="left"
    )


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 28))


def _tokens(ax: Any, found: Registers) -> None:
    bound = float(np.abs(found.tokens).max())
    image = ax.imshow(found.tokens, cmap="PuOr", vmin=-bound, vmax=bound)
    ax.figure.colorbar(image, ax=ax, shrink=0.7, label="value")
    count = len(found.tokens)
    ax.set(xlabel="register channel", ylabel="token", xticks=range(count), yticks=range(count))
    ax.grid(False)
    told = f"largest difference between two videos: {found.difference:g}"
    ax.set_title(f"register tokens, projected\n{told}", fontsize=10, loc="left")
