"""Whether the scores of a model fall when a clip gets worse: three ladders of a clip.

A model that is used on real videos must at least order the deliveries of one clip: by the rate of
the encoder, by the size, and by the blur of a small picture that is shown large.
"""

import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.video.decode import decode_frames, probe
from dagr_jax.video.encode import write_video
from dagr_jax.video.resize import resize

# Constant rate factors of x264; and heights and widths as shares of the clip's own.
RATES = (18, 24, 30, 36, 42, 48)
SIZES = (1.0, 0.7, 0.5, 0.35, 0.25)
NAMES = ("crf", "resolution", "blur")
_NEARLY_LOSSLESS = 12


def ladders(scorer: Scorer, clip: Path, seconds: float) -> list[dict[str, Any]]:
    """Makes and scores the ladders of a clip.

    Args:
        scorer: The model.
        clip: Video file.
        seconds: Length of the beginning of the clip that is used.

    Returns:
        For each ladder of `NAMES`: `clip`, `ladder`, `tau` (Kendall's τ-b of the score against the
        strength of the distortion; −1: the score falls at every step), and `scores` from the
        weakest to the strongest distortion.

    Raises:
        VideoError: The clip cannot be read.
    """
    info = probe(clip)
    fps = info.fps if 1 <= info.fps <= 240 else 25.0
    count = min(max(round(seconds * fps), 2), info.num_frames)
    frames = decode_frames(clip, np.arange(count))
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.mp4"
        for name in NAMES:
            scores = []
            for shown, crf in _steps(frames, name):
                rate = Fraction(fps).limit_denominator(1001)
                write_video(path, shown, fps=rate, crf=crf)
                scores.append(scorer.score(path).score)
            tau = stats.kendalltau(np.arange(len(scores)), scores).statistic
            rows.append({"clip": str(clip), "ladder": name, "tau": float(tau), "scores": scores})
    return rows


def _steps(frames: np.ndarray, name: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the frames and the rate factor of each step of a ladder, the best first."""
    if name == "crf":
        yield from ((frames, crf) for crf in RATES)
        return
    height, width = frames.shape[1:3]
    for share in SIZES:
        size = (max(int(height * share) // 2 * 2, 2), max(int(width * share) // 2 * 2, 2))
        shown = frames if share == 1 else resize(frames, size, "bicubic", antialias=True)
        if name == "blur":
            shown = resize(shown, (height, width), "bicubic")
        yield shown, _NEARLY_LOSSLESS


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summarises the ladders of several clips.

    Args:
        rows: Rows of `ladders`.

    Returns:
        For each ladder and for all: number of ladders, median τ, and the share of ladders with
        τ ≤ −0.6.

    Raises:
        DagrError: There are no rows.
    """
    if not rows:
        raise DagrError("no clip gave a ladder; give at least one readable video")
    found = []
    for name in (*NAMES, "all"):
        taus = np.array([row["tau"] for row in rows if name in (row["ladder"], "all")])
        # A model that gives all steps the same score has no τ, and orders nothing.
        taus = np.nan_to_num(taus, nan=0.0)
        found.append(
            {
                "ladder": name,
                "clips": len(taus),
                "median_tau": float(np.median(taus)),
                "in_order": float((taus <= -0.6).mean()),
            }
        )
    return found
