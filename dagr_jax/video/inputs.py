"""Which pictures of a video a model sees: plain data that a checkpoint holds and `video/` executes.

An `InputSpec` names the streams of a model. A stream says which frames of a clip it takes, how they
are resized and cropped, and whether a short clip is masked. Nothing else in the program decides
which frames are looked at.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.resize import FILTERS, resize, short_side
from dagr_jax.video.sampling import (
    all_indices,
    even_indices,
    fragment_indices,
    linspace_indices,
    map_indices,
    segments_indices,
    windows_of,
)

Size = tuple[int, int]

RULES = ("linspace", "segments", "even", "fragments", "all", "windows")
PLACES = ("center", "corners", "random")


@dataclasses.dataclass(frozen=True)
class Resize:
    """How a frame is resized; without `size` and `short_side` it keeps its own size.

    Attributes:
        size: (height, width).
        short_side: Length that the shorter side gets; the aspect ratio stays.
        kernel: Of `resize.FILTERS`.
        antialias: See `resize.resize`.
    """

    size: Size | None = None
    short_side: int = 0
    kernel: str = "bilinear"
    antialias: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.short_side:
            raise DagrError("a resize has a size or a short_side, not both")
        if self.kernel not in FILTERS:
            known = ", ".join(FILTERS)
            raise DagrError(f"resize kernel {self.kernel!r} is unknown; use one of {known}")

    def target(self, height: int, width: int) -> Size:
        """(height, width) that a frame gets."""
        if self.size is not None:
            return self.size
        return short_side(height, width, self.short_side) if self.short_side else (height, width)

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """Frames (..., h, w, 3) uint8 → (..., height, width, 3) uint8."""
        size = self.target(*frames.shape[-3:-1])
        if size == frames.shape[-3:-1]:
            return frames
        return resize(frames, size, self.kernel, antialias=self.antialias)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Windows that are cut out of a resized frame, the same for all frames of a clip.

    Attributes:
        size: (height, width) of a window; a side that is longer than the frame's is cut to it.
        places: In evaluation: "center", one window; or "corners", four. A frame that is not larger
            than the window gives one.
        training: In training: "random", as many windows at random places; or as `places`.
    """

    size: Size
    places: str = "center"
    training: str = "random"

    def __post_init__(self) -> None:
        for place in (self.places, self.training):
            if place not in PLACES:
                raise DagrError(f"crop places {place!r} are unknown; use one of {PLACES}")
        if self.places == "random":
            raise DagrError("crops of an evaluation are not random: the score must not change")

    def window(self, height: int, width: int) -> Size:
        """(height, width) of a window in a frame of that size."""
        return min(self.size[0], height), min(self.size[1], width)

    def corners(
        self, height: int, width: int, rng: np.random.Generator | None = None
    ) -> list[Size]:
        """(top, left) of each window.

        Args:
            height, width: Of the frame.
            rng: For training; None: the places of the evaluation.
        """
        h, w = self.window(height, width)
        down, right = height - h, width - w
        places = self.places if rng is None else self.training
        if not (down or right):
            return [(0, 0)]
        if places == "center":
            return [(down // 2, right // 2)]
        if places == "corners":
            return [(0, 0), (0, right), (down, 0), (down, right)]
        assert rng is not None
        count = 4 if self.places == "corners" else 1
        return [(int(rng.integers(down + 1)), int(rng.integers(right + 1))) for _ in range(count)]

    def apply(self, frames: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Frames (t, h, w, 3) → windows (count, t, height, width, 3)."""
        height, width = frames.shape[-3:-1]
        h, w = self.window(height, width)
        return np.stack(
            [
                frames[:, top : top + h, left : left + w]
                for top, left in self.corners(height, width, rng)
            ]
        )


@dataclasses.dataclass(frozen=True)
class Stream:
    """The frames of a clip that one input of a model takes.

    Attributes:
        rule: "linspace", "segments" or "even": `frames` of them (`video.sampling`); "fragments":
            `frames` in `fragments` runs with a `stride` between frames; "all": every frame, evenly
            `frames` of them where there are more; "windows": the consecutive windows of `window`
            frames that hold the frames chosen by `choice` for the stream `of`.
        frames: Frames of a clip; with "all" the most, 0 without a limit.
        resize: Of each frame.
        crops: Cut out of the resized frame; None for the whole frame.
        mask: Where a clip has fewer frames, take each once and mask the rest; otherwise frames are
            repeated. Of the rules "even" and "all".
        fragments, stride: Of the rule "fragments".
        of, window, choice: Of the rule "windows".
        chunk: The frames come in pieces of so many, so that memory does not grow with the clip; 0:
            together. With "windows" a piece is a window.
    """

    rule: str
    frames: int
    resize: Resize = Resize()
    crops: Crops | None = None
    mask: bool = False
    fragments: int = 0
    stride: int = 1
    of: str = ""
    window: int = 0
    choice: str = "matched"
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            known = ", ".join(RULES)
            raise DagrError(f"sampling rule {self.rule!r} is unknown; use one of {known}")
        if self.frames < (0 if self.rule == "all" else 1) and self.rule != "windows":
            raise DagrError(f"a stream of {self.frames} frames holds nothing; ask for at least 1")
        if self.mask and self.rule not in ("even", "all"):
            raise DagrError(f"the rule {self.rule!r} repeats frames, so nothing is masked")
        if self.rule == "fragments" and (self.fragments < 1 or self.frames % self.fragments):
            raise DagrError(f"{self.frames} frames do not divide over {self.fragments} fragments")
        if self.rule == "windows" and (self.window < 1 or not self.of):
            raise DagrError("the rule 'windows' needs a window of frames and the stream it is of")

    def indices(self, length: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Frames of a clip of `length` frames, (n,) int64, as ranks in presentation order.

        Args:
            length: Frames of the clip, at least 1.
            rng: Draws what is random in training; None gives the frames of the evaluation.
        """
        match self.rule:
            case "linspace":
                return linspace_indices(length, self.frames)
            case "segments":
                return segments_indices(length, self.frames)
            case "even":
                fewer = self.mask and length < self.frames
                return all_indices(length, 0) if fewer else even_indices(length, self.frames)
            case "fragments":
                return fragment_indices(length, self.fragments, self.frames, self.stride, rng)
            case "all":
                return all_indices(length, self.frames)
        raise ValueError("the frames of windows follow from another stream; ask the InputSpec")

    @property
    def fixed(self) -> bool:
        """Whether every clip gives an array of the same shape."""
        sized = self.resize.size is not None and self.rule not in ("all", "windows")
        return sized and not self.mask


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The streams of a model.

    Attributes:
        streams: Name → stream, in the order in which the model takes them.
    """

    streams: Mapping[str, Stream]

    def __post_init__(self) -> None:
        for name, stream in self.streams.items():
            if stream.rule == "windows" and stream.of not in self.streams:
                raise DagrError(f"the windows {name!r} are of {stream.of!r}, which is no stream")

    def indices(self, name: str, length: int) -> np.ndarray:
        """Frames of a clip that a stream takes, (n,), or of windows (k, window)."""
        stream = self.streams[name]
        return self.windows(name, length)[0] if stream.window else stream.indices(length)

    def windows(self, name: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the windows of a stream, and where the chosen frames are among them.

        Returns:
            (k, window) int64 frames, and (n,) int64 places in the k · window frames.
        """
        stream = self.streams[name]
        frames = self.streams[stream.of].indices(length)
        return windows_of(map_indices(frames, length, stream.choice), length, stream.window)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return {name: dataclasses.asdict(stream) for name, stream in self.streams.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "InputSpec":
        """What `to_json` gave.

        Raises:
            DagrError: A field is unknown or does not fit.
        """
        streams = {}
        for name, fields in data.items():
            given = dict(fields)
            resized = dict(given.pop("resize", {}))
            if resized.get("size") is not None:
                resized["size"] = tuple(resized["size"])
            crops = given.pop("crops", None)
            try:
                if crops is not None:
                    crops = Crops(**{**crops, "size": tuple(crops["size"])})
                streams[name] = Stream(**given, resize=Resize(**resized), crops=crops)
            except TypeError as error:
                raise DagrError(f"stream {name!r}: {error}") from error
        return cls(streams)
