"""What a model sees of a video: the frames of its streams, of the whole and of each segment."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from av.video.frame import VideoFrame

from dagr_jax.video.index import read_packets
from dagr_jax.video.inputs import InputSpec, Resize
from dagr_jax.video.reading import PacketMismatch, Reading, VideoInfo, by_packets, in_full
from dagr_jax.video.stream import Limits, VideoError, picture


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some frames of a stream that comes in pieces.

    Attributes:
        start, length: The frames of the video that the clip of the stream stands for.
        stream: Name of the stream.
        places: (k,) int64: which entries of `InputSpec.indices` these are, flattened.
        frames: (k, height, width, 3) uint8 RGB; with crops (count, k, height, width, 3).
    """

    start: int
    length: int
    stream: str
    places: np.ndarray
    frames: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clip:
    """The pictures of a video, or of a segment of it, that a model sees.

    Attributes:
        start, length: The frames of the video that it stands for.
        inputs: Name → (n, height, width, 3) uint8 RGB of each stream that does not come in pieces;
            with crops (count, n, height, width, 3). The pieces of the others came before.
    """

    start: int
    length: int
    inputs: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """What clips will come of a video; clips that came before it do not count.

    Attributes:
        bounds: (start, length) of each: of the whole video, and then of its segments.
        fps: Frames per second, 0 where unknown.
        shown: (begin, end) in seconds of each, from the first frame on; 0 where unknown.
        path: Name of the video, for errors.
        different: The bounds, those that are alike once.
    """

    bounds: tuple[tuple[int, int], ...]
    fps: float
    shown: tuple[tuple[float, float], ...] = ()
    path: str = ""

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
    return ClipPlan(tuple(bounds), fps, shown, os.fspath(path))


def read_clips(
    path: str | os.PathLike[str],
    spec: InputSpec,
    seconds: float = 0.0,
    limits: Limits | None = None,
) -> Iterator[ClipPlan | Piece | Clip | VideoInfo]:
    """Reads a file once, or twice where its packets do not tell its frames apart.

    Memory is bounded by two clips, of streams in pieces by two pieces, whatever the length of the
    video.

    Args:
        path: Video file.
        spec: Which frames, how large.
        seconds: Of a segment; 0 for none.
        limits: Beyond which nothing is read.

    Yields:
        A ClipPlan; pieces and clips as they are complete; the file's VideoInfo. A second plan
        begins again: decoding gave other frames than the file had promised.

    Raises:
        VideoError: The file cannot be decoded, or segments are asked for and it has no times.
    """
    packets = read_packets(path, limits)
    if limits is not None and packets.fps:
        limits.check_seconds(path, packets.count / packets.fps)
    plan = plan_clips(path, max(packets.count, 1), packets.fps, seconds, packets.seconds)
    assembler = ClipAssembler(plan, spec)
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
        yield from ClipAssembler(plan, spec).clips(again)
    yield reading.info()


def clips_of(
    frames: Sequence[np.ndarray] | np.ndarray, spec: InputSpec, plan: ClipPlan
) -> Iterator[Piece | Clip]:
    """The pieces and clips of frames in memory, (T, H, W, 3) uint8 RGB."""
    assembler = ClipAssembler(plan, spec)
    yield from assembler.assemble((rank, frames[rank]) for rank in sorted(assembler.ranks))


def _in_order(reading: Reading, count: int) -> bool:
    """Whether the frames that came out are so many, in the order of their presentation."""
    return len(reading.times) == count and bool((np.diff(reading.order()) == 1).all())


@dataclasses.dataclass
class _Unit:
    """Entries of a stream that are given out together.

    Attributes:
        number: Of the clip in the plan.
        stream: Name of the stream.
        first: Number of the first entry.
        ranks: Frame of each entry.
        missing: Frames that have not come.
        kept: Rank → the prepared frame.
    """

    number: int
    stream: str
    first: int
    ranks: list[int]
    missing: int
    kept: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


class ClipAssembler:
    """The frames that the clips of a plan want, and the clips as they become complete.

    Attributes:
        ranks: All of these frames.
    """

    def __init__(self, plan: ClipPlan, spec: InputSpec):
        self._plan, self._spec = plan, spec
        self._takers: dict[int, list[_Unit]] = {}  # rank → what wants it
        self._open = [0] * len(plan.different)  # of each clip, units that are not complete
        for number, (start, length) in enumerate(plan.different):
            for name, stream in spec.streams.items():
                ranks = (start + spec.indices(name, length)).reshape(-1).tolist()
                size = stream.chunk or len(ranks)
                for first in range(0, len(ranks), size):
                    own = ranks[first : first + size]
                    unit = _Unit(number, name, first, own, len(set(own)))
                    self._open[number] += 1
                    for rank in set(own):
                        self._takers.setdefault(rank, []).append(unit)
        self.ranks = self._takers.keys()

    def clips(self, found: Iterable[tuple[int, VideoFrame]]) -> Iterator[Piece | Clip]:
        """Pieces and clips of decoded (rank, frame); those that lack a frame are left out."""
        wanted = ((rank, frame) for rank, frame in found if rank in self._takers)
        # Converted here, so that a frame that nobody wants is not.
        yield from self.assemble((rank, picture(frame, None, False)) for rank, frame in wanted)

    def assemble(self, found: Iterable[tuple[int, np.ndarray]]) -> Iterator[Piece | Clip]:
        """Pieces and clips of (rank, (height, width, 3) uint8 RGB)."""
        inputs: list[dict[str, np.ndarray]] = [{} for _ in self._open]
        for rank, frame in found:
            resized: dict[Resize, np.ndarray] = {}
            for unit in self._takers.get(rank, []):
                if rank in unit.kept:
                    continue
                stream = self._spec.streams[unit.stream]
                if stream.resize not in resized:
                    resized[stream.resize] = stream.resize.apply(frame)
                shot = resized[stream.resize]
                unit.kept[rank] = stream.crops.apply(shot[None]) if stream.crops else shot
                unit.missing -= 1
                if not unit.missing:
                    yield from self._complete(unit, inputs[unit.number])

    def _complete(self, unit: _Unit, inputs: dict[str, np.ndarray]) -> Iterator[Piece | Clip]:
        """What a unit gives once all of its frames are there."""
        stream, bound = self._spec.streams[unit.stream], self._plan.different[unit.number]
        shots = [unit.kept[rank] for rank in unit.ranks]
        unit.kept = {}
        shapes = {shot.shape for shot in shots}
        if len(shapes) > 1:
            raise VideoError(
                self._plan.path,
                f"its frames have {len(shapes)} sizes",
                "re-encode it at one size; this model sees frames at their own size",
            )
        frames = np.concatenate(shots, axis=1) if stream.crops else np.stack(shots)
        if stream.chunk:
            places = unit.first + np.arange(len(unit.ranks))
            yield Piece(*bound, unit.stream, places, frames)
        else:
            inputs[unit.stream] = frames
        self._open[unit.number] -= 1
        if not self._open[unit.number]:
            names = [name for name in self._spec.streams if name in inputs]
            yield Clip(*bound, {name: inputs[name] for name in names})
            inputs.clear()
