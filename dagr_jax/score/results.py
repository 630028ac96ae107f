"""Results of scoring a video."""

import dataclasses
import html
from collections.abc import Iterable, Mapping
from typing import Any

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.stream import VideoError


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of a video and its score.

    Attributes:
        start, end: Start and end of the segment, in seconds after the file begins to play.
        score: Score of the segment, computed as if it were a separate video (`Result.score`).
    """

    start: float
    end: float
    score: float


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one video.

    Attributes:
        file: Path of the file, as the user gave it; "" if frames were given.
        score: 100 · prediction on the checkpoint's [0, 1] scale, **not clipped**: the score of a
            video that is worse or better than all training videos may be outside [0, 100].
        mos: The prediction on the scale of the training set, `mos_range`, not clipped.
        mos_range: (lowest, highest) MOS of the training set.
        dataset: Name of the data set that the checkpoint was trained on.
        worst: Segment with the lowest score; None without segments.
        segments: Segments in the order of the video; empty unless segments were requested.
        frames: Number of frames that `score` is computed from.
        total_frames: Number of frames in the file.
        duration: Duration in seconds; 0 if unknown.
        width, height: Display size in pixels; for frames without a file, the size of the frames.
        fps: Frames per second; 0 if unknown.
        rotation: Degrees by which the frames were rotated, clockwise.
        codec, pix_fmt, color_space: FFmpeg's names of the codec, of the stored pixel format and of
            the colour matrix; "" if unknown.
        bit_depth: Bits per stored sample.
        hdr: "pq" or "hlg" if the file is marked as HDR, else "". HDR code values are read as if
            they were SDR.
        bit_rate: Bits per second of the video stream; 0 if unknown.
        damaged: Number of packets that could not be read or decoded, plus packets and frames marked
            as corrupt, among those that were read.
        notes: What was unusual in the file and how it was treated, separated by "; "; "" if
            nothing was.
        seconds: Wall time of scoring in seconds, without the time of reading ahead.
        model, preset, step, version: Model name, preset, training step and package version of the
            checkpoint.
        checkpoint: Digest of the weights and the settings that a score depends on, twelve
            hexadecimal digits.
    """

    file: str
    score: float
    mos: float
    mos_range: tuple[float, float]
    dataset: str
    worst: Segment | None
    segments: tuple[Segment, ...]
    frames: int
    total_frames: int
    duration: float
    width: int
    height: int
    fps: float
    rotation: int
    codec: str
    pix_fmt: str
    color_space: str
    bit_depth: int
    hdr: str
    bit_rate: float
    damaged: int
    notes: str
    seconds: float
    model: str
    preset: str
    step: int
    version: str
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data, in the order of the class."""
        row = dataclasses.asdict(self)
        return {**row, "mos_range": list(self.mos_range), "segments": list(row["segments"])}

    def noted(self, problems: Iterable[DagrError]) -> "Result":
        """Returns the result with some problems in its notes, each once."""
        told = {**dict.fromkeys(filter(None, self.notes.split("; ")))}
        told |= dict.fromkeys(error.problem for error in problems)
        return dataclasses.replace(self, notes="; ".join(told))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Result":
        """Makes a Result from the output of `to_dict`."""
        segments = tuple(Segment(**part) for part in row["segments"])
        worst = row["worst"] and Segment(**row["worst"])
        low, high = row["mos_range"]
        return cls(**{**row, "segments": segments, "worst": worst, "mos_range": (low, high)})

    def _repr_html_(self) -> str:
        """Returns an HTML table, for notebooks."""
        low, high = self.mos_range
        shown = {
            "score": f"{self.score:.1f} of 100",
            "mos": f"{self.mos:.2f} on {low:g}\N{EN DASH}{high:g} of {self.dataset}",
            "video": f"{self.width} \N{MULTIPLICATION SIGN} {self.height}, {self.fps:g} frames/s, "
            f"{self.duration:.1f} s, {self.codec}",
            "model": ", ".join(
                filter(None, [self.model, self.preset, f"checkpoint {self.checkpoint}"])
            ),
        }
        if self.worst:
            shown["worst"] = (
                f"{self.worst.score:.1f} from {self.worst.start:.1f} to {self.worst.end:.1f} s"
            )
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in shown.items()
        )
        caption = f"<caption>{html.escape(self.file)}</caption>" if self.file else ""
        return f"<table>{caption}{rows}</table>"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A video that could not be scored.

    Attributes:
        file: Path of the file, as the user gave it.
        error: The error in one line: file, problem, remedy.
    """

    file: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data."""
        return dataclasses.asdict(self)


def not_finite(name: str) -> VideoError:
    """Returns the error for a score that is no finite number, of the video `name`."""
    remedy = "use another checkpoint; the weights of this one may not be finite"
    return VideoError(name, "its score is not a finite number", remedy)
