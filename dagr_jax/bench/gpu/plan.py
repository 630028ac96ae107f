"""Plan of a part: sizes, time limit, and the results of earlier parts."""

import dataclasses
import time
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the networks and of their inputs.

    Attributes:
        frames, height, width: Of one video.
        saliency, quality: Fields of `unet3d.Model` and of the quality network's `Model`; none for
            the paper's.
        batches: Videos at once, in inference.
        train_saliency, train_quality: Videos of a training step.
        matrix: Rows of the matrix product that tells the peak.
        copied: Bytes of the array that is copied.
        forms: Of the saliency network's convolutions (`conv_form`), most important first.
        golden: Types in which the golden numbers are checked; a CPU is slow in bfloat16.
        saliency_gflop: GFLOP without which one window cannot be computed (docs/performance.md);
            None where that is not known.
        rounds: Timed rounds.
        sample_s: Seconds that one timed sample lasts at least, by repeating the call.
    """

    frames: int
    height: int
    width: int
    saliency: dict[str, Any]
    quality: dict[str, Any]
    batches: tuple[int, ...]
    train_saliency: int
    train_quality: int
    matrix: int
    copied: int
    forms: tuple[str, ...]
    golden: tuple[str, ...]
    saliency_gflop: float | None
    rounds: int
    sample_s: float


# The paper's networks, window and batches.
PAPER = Sizes(
    frames=8,
    height=224,
    width=398,
    saliency={},
    quality={},
    batches=(1, 4, 16),
    train_saliency=4,
    train_quality=5,
    matrix=8192,
    copied=1 << 30,
    forms=("native", "taps", "winograd", "mixed"),
    golden=("float32", "bfloat16", "tf32"),
    saliency_gflop=1380.0,
    rounds=7,
    sample_s=0.05,
)
SMALL = Sizes(
    frames=4,
    height=32,
    width=48,
    saliency={"widths": (2, 3), "bottleneck": 4, "num_registers": 2, "register_dim": 3},
    quality={
        "stage_sizes": (1,),
        "width": 4,
        "num_layers": 1,
        "num_heads": 2,
        "mlp_dim": 8,
        "projection_dim": 8,
        "regressor": (8, 4),
    },
    batches=(1,),
    train_saliency=1,
    train_quality=2,
    matrix=128,
    copied=1 << 16,
    forms=("winograd",),
    golden=("float32",),
    saliency_gflop=None,
    rounds=2,
    sample_s=0.0,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a part.

    Attributes:
        sizes: Sizes of networks and inputs.
        until: Time (`time.monotonic`) after which the part should start nothing new. Its process is
            killed a little later.
        before: Results of the earlier parts, as `parts.run_parts` yields them.
        folder: Output folder for files to keep.
    """

    sizes: Sizes
    until: float
    before: tuple[dict[str, Any], ...]
    folder: Path

    @property
    def left(self) -> float:
        """Seconds during which the part may start something new."""
        return self.until - time.monotonic()

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Returns the rows of an earlier part."""
        return [row for result in self.before if result["name"] == part for row in result["rows"]]
