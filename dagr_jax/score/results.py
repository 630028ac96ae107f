"""What comes of scoring a video."""

import dataclasses
import html
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a video and its score.

    Attributes:
        start, end: Seconds from the first frame of the video. Segments hold as many frames each;
            where the frame rate varies, they last differently.
        score: Of its frames alone, as of a video of their own (see `Result`).
    """

    start: float
    end: float
    score: float


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one video.

    Attributes:
        file: The path as it was given; "" for frames.
        score: 100 · prediction on the checkpoint's [0, 1] scale, **not clipped**: a video worse
            or better than all training videos may leave [0, 100].
        mos: The same on the training set's own scale, `mos_range`.
        mos_range: (lowest, highest) of that scale.
        dataset: Data set that the checkpoint was trained on.
        worst: The segment of the lowest score, None without segments.
        segments: In the order of the video; none unless they were asked for.
        frames: Frames that were looked at for `score`.
        total_frames: Frames that the file holds.
        duration: Seconds (0 where unknown).
        width, height: Pixels as displayed (of frames given without a file: their own).
        fps: Frames per second (0 where unknown).
        rotation: Clockwise degrees that the frames were turned by.
        codec, pix_fmt, color_space: FFmpeg's names of the codec, the stored pixel format and the
            matrix of its colours; "" where unknown.
        bit_depth: Bits of a stored sample.
        hdr: "pq" or "hlg" where the file says so: its code values were taken as if they were SDR.
        bit_rate: Bits per second of the video stream (0 where unknown).
        damaged: Packets that could not be decoded and frames marked as corrupt, of what was read.
        seconds: Wall time that its scoring took, less what was read ahead.
        model, preset, step, version: What scored: model name, preset, checkpoint step, package
            version of the checkpoint.
        checkpoint: Twelve digits that stand for the weights and how they are used.
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
    seconds: float
    model: str
    preset: str
    step: int
    version: str
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, in the order of the class."""
        row = dataclasses.asdict(self)
        return {**row, "mos_range": list(self.mos_range), "segments": list(row["segments"])}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Result":
        """What `to_dict` gave, back."""
        segments = tuple(Segment(**part) for part in row["segments"])
        worst = row["worst"] and Segment(**row["worst"])
        low, high = row["mos_range"]
        return cls(**{**row, "segments": segments, "worst": worst, "mos_range": (low, high)})

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
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
        file: The path as it was given.
        error: Why, in one line that names the file and the remedy.
    """

    file: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)
