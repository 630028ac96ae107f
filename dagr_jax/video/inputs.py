"""The frames of a video that a model sees, as plain data that checkpoints store.

An `InputSpec` names the streams of a model. A stream defines which frames of a clip it takes, how
they are resized and cropped, and whether a short clip is masked. Nothing else in the program
selects frames.
"""

import dataclasses
from collections.abc import Mapping, Sequence
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
PLACES = ("center", "corners", "spread", "random")
# Windows of "spread", (y, x) as shares of the room: in the middle, and towards two corners.
_SPREAD = ((0.5, 0.5), (0.2, 0.25), (0.8, 0.75))


@dataclasses.dataclass(frozen=True)
class Resize:
    """How a frame is resized. Without `size` and `short_side`, the frame keeps its own size.

    Attributes:
        size: (height, width) of the result in pixels; None: see `short_side`.
        short_side: Length of the shorter side of the result in pixels, with the same aspect ratio;
            0: none.
        kernel: Name of the kernel, one of `resize.FILTERS`.
        antialias: Whether to resize with antialiasing (see `resize.resize`).

    Raises:
        DagrError: Both `size` and `short_side` are set, or the kernel is unknown.
    """

    size: Size | None = None
    short_side: int = 0
    kernel: str = "bilinear"
    antialias: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.short_side:
            raise DagrError("a resize has both size and short_side; set only one, not both")
        if self.kernel not in FILTERS:
            known = ", ".join(FILTERS)
            raise DagrError(f"resize kernel {self.kernel!r} is unknown; use one of {known}")

    def target(self, height: int, width: int) -> Size:
        """Returns the (height, width) of a resized frame.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.
        """
        if self.size is not None:
            return self.size
        return short_side(height, width, self.short_side) if self.short_side else (height, width)

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """Resizes frames: (..., h, w, 3) uint8 → (..., height, width, 3) uint8."""
        size = self.target(*frames.shape[-3:-1])
        if size == frames.shape[-3:-1]:
            return frames
        return resize(frames, size, self.kernel, antialias=self.antialias)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Windows that are cut out of a resized frame, at the same places for all frames of a clip.

    Attributes:
        size: (height, width) of a window in pixels. A side that is longer than the side of the
            frame is reduced to it, unless `mirror` is set.
        places: Places in evaluation: "center" (one window), "corners" (four windows) or "spread"
            (three windows, in the middle and towards two opposite corners). A frame that is not
            larger than the window gives one window; with "spread", three equal ones.
        training: Places in training: "random" (the same number of windows, at random places), or
            one of the places in evaluation.
        mirror: Whether a frame that is smaller than the window is extended by mirroring it, so that
            the windows of all clips have the same shape.

    Raises:
        DagrError: Places are unknown, or the places in evaluation are random.
    """

    size: Size
    places: str = "center"
    training: str = "random"
    mirror: bool = False

    def __post_init__(self) -> None:
        for place in (self.places, self.training):
            if place not in PLACES:
                raise DagrError(f"crop places {place!r} are unknown; use one of {PLACES}")
        if self.places == "random":
            raise DagrError(
                "crop places in evaluation must not be random, because scores would vary; "
                "use center, corners or spread"
            )

    def window(self, height: int, width: int) -> Size:
        """Returns the (height, width) of a window.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.
        """
        if self.mirror:
            return self.size
        return min(self.size[0], height), min(self.size[1], width)

    def corners(
        self, height: int, width: int, rng: np.random.Generator | None = None
    ) -> list[Size]:
        """Returns the (top, left) corner of each window in pixels.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.
            rng: Random generator, for training; None: the places in evaluation.
        """
        h, w = self.window(height, width)
        down, right = max(height - h, 0), max(width - w, 0)
        places = self.places if rng is None else self.training
        if not (down or right) and "spread" not in (self.places, places):
            return [(0, 0)]
        if places == "center":
            return [(down // 2, right // 2)]
        if places == "corners":
            return [(0, 0), (0, right), (down, 0), (down, right)]
        if places == "spread":
            return [(int(y * down), int(x * right)) for y, x in _SPREAD]
        assert rng is not None
        count = {"corners": 4, "spread": len(_SPREAD)}.get(self.places, 1)
        return [(int(rng.integers(down + 1)), int(rng.integers(right + 1))) for _ in range(count)]

    def apply(self, frames: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Cuts out the windows: (t, h, w, 3) → (count, t, height, width, 3).

        Args:
            frames: (t, h, w, 3) resized frames.
            rng: Random generator, for training; None: the places in evaluation.
        """
        height, width = frames.shape[-3:-1]
        h, w = self.window(height, width)
        if h > height or w > width:
            missing = ((0, max(h - height, 0)), (0, max(w - width, 0)))
            frames = np.pad(frames, ((0, 0), *missing, (0, 0)), mode="symmetric")
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
        rule: Sampling rule. "linspace", "segments" or "even": `frames` frames (`video.sampling`).
            "fragments": `frames` frames in `fragments` runs, with a `stride` between frames. "all":
            every frame; if there are more than `frames`, `frames` of them, evenly. "windows": the
            consecutive windows of `window` frames that contain the frames that `choice` selects for
            the stream `of`.
        frames: Number of frames of a clip. With "all", the maximum; 0: no maximum.
        resize: How each frame is resized.
        crops: Windows that are cut out of the resized frame; None: the whole frame.
        mask: What to do if a clip has fewer than `frames` frames. True: take each frame once and
            mask the rest; False: repeat frames. Only for the rules "even" and "all".
        fragments: Number of runs, for the rule "fragments".
        stride: Distance between the frames of a run, in frames, for the rule "fragments".
        of: Name of the stream whose frames the windows contain, for the rule "windows".
        window: Number of frames of a window, for the rule "windows".
        choice: Choice of the frames in the windows (`sampling.map_indices`), for the rule
            "windows".
        chunk: Number of frames of a piece. Reading in pieces keeps memory use independent of the
            length of the clip. 0: all frames together. With "windows", a piece is a window.

    Raises:
        DagrError: The rule is unknown, or the fields do not fit the rule.
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
            raise DagrError(f"a stream of {self.frames} frames is empty; set at least 1")
        if self.mask and self.rule not in ("even", "all"):
            raise DagrError(
                f"the rule {self.rule!r} repeats frames, so mask has no effect; "
                "use the rule even or all, or set mask to False"
            )
        if self.rule == "fragments" and (self.fragments < 1 or self.frames % self.fragments):
            raise DagrError(
                f"{self.frames} frames cannot be split evenly over {self.fragments} fragments; "
                "use a multiple of fragments"
            )
        if self.rule == "windows" and (self.window < 1 or not self.of):
            raise DagrError("the rule 'windows' needs a window and a stream; set window and of")

    def indices(self, length: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Returns the frames that the stream takes of a clip.

        Args:
            length: Number of frames of the clip, at least 1.
            rng: Random generator, for training; None: the frames in evaluation.

        Returns:
            (n,) int64 ranks in presentation order.

        Raises:
            DagrError: The length is below 1.
            ValueError: The rule is "windows" (see `InputSpec.indices`).
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
        raise ValueError(
            "the frames of windows depend on another stream; use the indices of the InputSpec"
        )

    @property
    def fixed(self) -> bool:
        """Whether the arrays of all clips have the same shape."""
        sized = self.resize.size is not None and self.rule not in ("all", "windows")
        return sized and not self.mask


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The streams of a model.

    Attributes:
        streams: Name → stream, in the order in which the model takes them.

    Raises:
        DagrError: Windows refer to a stream that does not exist.
    """

    streams: Mapping[str, Stream]

    def __post_init__(self) -> None:
        for name, stream in self.streams.items():
            if stream.rule == "windows" and stream.of not in self.streams:
                raise DagrError(
                    f"stream {name!r}: {stream.of!r} is not the name of a stream; correct of"
                )

    def indices(self, name: str, length: int) -> np.ndarray:
        """Returns the frames of a clip that a stream takes.

        Args:
            name: Name of the stream.
            length: Number of frames of the clip, at least 1.

        Returns:
            (n,) int64 ranks in presentation order; for windows (k, window).
        """
        stream = self.streams[name]
        return self.windows(name, length)[0] if stream.window else stream.indices(length)

    def windows(self, name: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the frames of the windows of a stream, and the positions of the chosen frames.

        Args:
            name: Name of the stream, which has the rule "windows".
            length: Number of frames of the clip, at least 1.

        Returns:
            (k, window) int64 frames; and (n,) int64 positions of the chosen frames in the
            k · window frames.
        """
        stream = self.streams[name]
        frames = self.streams[stream.of].indices(length)
        return windows_of(map_indices(frames, length, stream.choice), length, stream.window)

    def joined(
        self, name: str, length: int, pieces: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Joins what was computed from the pieces of a stream (`clip.Piece`).

        Args:
            name: Name of the stream.
            length: Number of frames of the clip.
            pieces: (places of the frames, entries (k, …)) of each piece, in any order.

        Returns:
            (n, …) entries in the order of the frames; of windows, those of the chosen frames.
        """
        order = np.argsort(np.concatenate([places for places, _ in pieces]))
        entries = np.concatenate([entries for _, entries in pieces])[order]
        return entries[self.windows(name, length)[1]] if self.streams[name].window else entries

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as plain data, for a checkpoint."""
        return {name: dataclasses.asdict(stream) for name, stream in self.streams.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "InputSpec":
        """Makes a specification from the data of `to_json`.

        Args:
            data: Name → fields of each stream.

        Raises:
            DagrError: A field is unknown or has a wrong value.
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
