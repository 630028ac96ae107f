"""What a model looks at in a video: a few frames of the whole of it, and of each segment."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame

from dagr_jax.video.index import read_packets
from dagr_jax.video.reading import PacketMismatch, Reading, VideoInfo, by_packets, in_full
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import map_indices, sample_indices, windows_of
from dagr_jax.video.stream import Limits, Size, VideoError, picture


@dataclasses.dataclass(frozen=True)
class Look:
    """Which frames of a clip a model sees, and how large.

    Attributes:
        num_frames: Frames that are scored.
        rule: How they are chosen (`video.sampling.sample_indices`).
        size: (height, width) that they are resized to.
        window: 0, or the length of the consecutive windows that the saliency net sees besides, of
            which those are read whose maps count.
        choice: Which maps count (`video.sampling.map_indices`).
        antialias: How the frames of the windows are resized.
    """

    num_frames: int
    rule: str
    size: Size
    window: int = 0
    choice: str = "matched"
    antialias: bool = False

    def frames(self, length: int) -> np.ndarray:
        """Indices of the frames of a clip of that length, (num_frames,)."""
        return sample_indices(length, self.num_frames, self.rule)

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows' frames (k, window), and where in them the maps are (num_frames,)."""
        if not self.window:
            return np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
        chosen = map_indices(self.frames(length), length, self.choice)
        return windows_of(chosen, length, self.window)


@dataclasses.dataclass(frozen=True)
class Clip:
    """The pictures of a video, or of a segment of it, that a model sees.

    Attributes:
        start, length: The frames of the video that it stands for.
        frames: (num_frames, height, width, 3) uint8 RGB.
        windows: (k, window, height, width, 3) uint8 RGB; none for a `Look` without windows.
    """

    start: int
    length: int
    frames: np.ndarray
    windows: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """What clips will come of a video; clips that came before it do not count.

    Attributes:
        bounds: (start, length) of each: of the whole video, and then of its segments.
        fps: Frames per second, 0 where unknown.
        shown: (begin, end) in seconds of each, from the first frame on; 0 where unknown.
        different: The bounds, those that are alike once.
    """

    bounds: tuple[tuple[int, int], ...]
    fps: float
    shown: tuple[tuple[float, float], ...] = ()

    @property
    def different(self) -> tuple[tuple[int, int], ...]:
        return tuple(dict.fromkeys(self.bounds))


def plan_clips(
    path: str | os.PathLike[str],
    length: int,
    fps: float,
    seconds: float,
    times: Sequence[float] = (),
) -> ClipPlan:
    """A video, and its segments of so many seconds, or rather of as many frames each as that is.

    Args:
        path: Its name, for the error.
        length: Frames.
        fps: Frames per second, 0 where unknown.
        seconds: Of a segment; 0 for none. A rest of less than half of that belongs to the last.
        times: When each frame is shown; where this is not known of all, the rate tells.

    Raises:
        VideoError: Segments are asked for, and nothing tells the frame rate.
    """
    bounds = [(0, length)]
    if seconds and not fps:
        raise VideoError(path, "it has no frame rate", "score it without segments")
    if seconds:
        each = max(seconds * fps, 1.0)
        starts = [round(i * each) for i in range(max(round(length / each), 1))]
        bounds += [(a, b - a) for a, b in zip(starts, [*starts[1:], length], strict=True)]
    begins = [time - times[0] for time in times]
    if len(begins) != length:
        begins = [number / fps if fps else 0.0 for number in range(length)]
    begins.append(begins[-1] + (1 / fps if fps else 0.0))  # when the last frame ends
    shown = tuple((begins[start], begins[start + count]) for start, count in bounds)
    return ClipPlan(tuple(bounds), fps, shown)


def read_clips(
    path: str | os.PathLike[str], look: Look, seconds: float = 0.0, limits: Limits | None = None
) -> Iterator[ClipPlan | Clip | VideoInfo]:
    """Reads a file once, or twice where its packets do not tell its frames apart.

    Memory is bounded by two clips, whatever the length of the video.

    Args:
        path: Video file.
        look: Which frames, how large.
        seconds: Of a segment; 0 for none.
        limits: Beyond which nothing is read.

    Yields:
        A ClipPlan; the clips as they are complete; the file's VideoInfo. A second plan begins
        again: decoding gave other frames than the file had promised.

    Raises:
        VideoError: The file cannot be decoded, or segments are asked for and it has no times.
    """
    packets = read_packets(path, limits)
    if limits is not None and packets.fps:
        limits.check_seconds(path, packets.count / packets.fps)
    plan = plan_clips(path, max(packets.count, 1), packets.fps, seconds, packets.seconds)
    assembler = ClipAssembler(plan, look)
    yield plan
    reading = Reading(path)
    if packets.tell:
        found = by_packets(reading, packets, assembler.ranks, limits)
    else:
        found = enumerate(in_full(reading, limits))
    try:
        yield from assembler.clips(found)
        as_told = packets.tell or _in_order(reading, packets.count)
    except PacketMismatch:
        as_told = False
    if not as_told:
        # Only the end of the file tells how many frames there are, and which is which.
        if packets.tell:
            reading = Reading(path)
            for _ in in_full(reading, limits):
                pass
        info = reading.info()
        plan = plan_clips(path, info.num_frames, info.fps, seconds, reading.seconds())
        rank_of = np.argsort(reading.order()).tolist()
        again = zip(rank_of, in_full(Reading(path), limits), strict=False)
        yield plan
        yield from ClipAssembler(plan, look).clips(again)
    yield reading.info()


def clips_of(frames: np.ndarray, look: Look, plan: ClipPlan) -> Iterator[Clip]:
    """The clips of frames in memory, (T, H, W, 3) uint8 RGB."""
    for start, length in plan.different:
        shown = frames[start : start + length]
        windows = shown[look.windows(length)[0]]
        yield Clip(
            start,
            length,
            resize_bilinear(shown[look.frames(length)], look.size),
            resize_bilinear(windows, look.size, antialias=look.antialias),
        )


def _in_order(reading: Reading, count: int) -> bool:
    """Whether the frames that came out are so many, in the order of their presentation."""
    return len(reading.times) == count and bool((np.diff(reading.order()) == 1).all())


class ClipAssembler:
    """The frames that clips want, and the clips as they become complete.

    Attributes:
        ranks: Of all of these frames.
    """

    def __init__(self, plan: ClipPlan, look: Look):
        self._plan, self._look = plan, look
        self._parts = []  # of each clip, ((n,) ranks of frames, (k, window) ranks of windows)
        self._takers: dict[int, list[int]] = {}  # rank → numbers of the clips that want it
        for number, (start, length) in enumerate(plan.different):
            parts = start + look.frames(length), start + look.windows(length)[0]
            self._parts.append(parts)
            for rank in {*parts[0].tolist(), *parts[1].reshape(-1).tolist()}:
                self._takers.setdefault(rank, []).append(number)
        self.ranks = self._takers.keys()

    def clips(self, found: Iterable[tuple[int, VideoFrame]]) -> Iterator[Clip]:
        """Clips of (rank, frame); a clip whose frames do not all come is left out."""
        kept: list[dict[int, tuple[np.ndarray, ...]]] = [{} for _ in self._parts]
        missing = [0] * len(self._parts)
        for numbers in self._takers.values():
            for number in numbers:
                missing[number] += 1
        for rank, frame in found:
            numbers = self._takers.get(rank, [])
            if numbers:
                shot = self._shots(frame)
            for number in numbers:
                kept[number][rank] = shot
                if len(kept[number]) == missing[number]:
                    yield self._clip(number, kept[number])
                    kept[number] = {}

    def _shots(self, frame: VideoFrame) -> tuple[np.ndarray, ...]:
        """A frame as it is scored and, with windows, as the saliency net sees it."""
        look = self._look
        shots = (picture(frame, look.size, False),)
        if look.window and look.antialias:
            return (*shots, picture(frame, look.size, True))
        return shots

    def _clip(self, number: int, kept: dict[int, tuple[np.ndarray, ...]]) -> Clip:
        frames, windows = self._parts[number]
        height, width = self._look.size
        pictures = [kept[rank][-1] for rank in windows.reshape(-1).tolist()]
        return Clip(
            *self._plan.different[number],
            np.stack([kept[rank][0] for rank in frames.tolist()]),
            np.array(pictures, np.uint8).reshape(*windows.shape, height, width, 3),
        )
