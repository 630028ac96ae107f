"""The frames that a model sees of a video, for the whole video and for each segment."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from av.video.frame import VideoFrame

from dagr_jax.video.clock import Timeline
from dagr_jax.video.index import read_packets
from dagr_jax.video.inputs import InputSpec, Resize
from dagr_jax.video.reading import PacketMismatch, Reading, VideoInfo, by_packets, in_full
from dagr_jax.video.stream import Limits, VideoError


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some frames of a stream that is read in pieces.

    Attributes:
        start: First frame of the clip in the video.
        length: Number of frames of the video that the clip covers.
        stream: Name of the stream.
        places: (k,) int64 positions of these frames in the flattened `InputSpec.indices`.
        frames: (k, height, width, 3) uint8 RGB; with crops (count, k, height, width, 3).
    """

    start: int
    length: int
    stream: str
    places: np.ndarray
    frames: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clip:
    """The frames of a video, or of a segment of it, that a model sees.

    Attributes:
        start: First frame of the clip in the video.
        length: Number of frames of the video that the clip covers.
        inputs: Name → (n, height, width, 3) uint8 RGB of each stream that is not read in pieces;
            with crops (count, n, height, width, 3). The pieces of the other streams come before the
            clip.
    """

    start: int
    length: int
    inputs: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """The clips that will follow. A plan invalidates the clips that came before it.

    Attributes:
        bounds: (start, length) in frames of each clip: first the whole video, then its segments.
        fps: Frames per second; 0: unknown.
        shown: (begin, end) of each clip in seconds after the file begins to play, as in a player;
            0: unknown.
        path: Name of the video, for errors.
        different: The bounds without duplicates.
    """

    bounds: tuple[tuple[int, int], ...]
    fps: float
    shown: tuple[tuple[float, float], ...] = ()
    path: str = ""

    @property
    def different(self) -> tuple[tuple[int, int], ...]:
        return tuple(dict.fromkeys(self.bounds))


def plan_clips(path: str | os.PathLike[str], timeline: Timeline, seconds: float) -> ClipPlan:
    """Plans the clips of a video: the whole video, and its segments.

    Segments are cut by time: each begins with the frame that is shown nearest to a multiple of
    `seconds`. A part of the video in which no frame begins has no segment.

    Args:
        path: Name of the video, for the error.
        timeline: When its frames are shown.
        seconds: Duration of a segment in seconds; 0: no segments. A remainder that is shorter than
            half a segment is added to the last segment.

    Raises:
        VideoError: Segments are requested, and the frame rate is unknown.
    """
    length, fps = len(timeline.seconds), timeline.fps
    bounds = [(0, length)]
    if seconds and not fps:
        raise VideoError(path, "it has no frame rate", "score it without segments")
    if seconds:
        count = max(round(timeline.duration / seconds), 1)
        cuts = np.arange(count) * seconds - 0.5 / fps
        # The last bit of a time must not decide between two frames.
        starts = np.unique(np.searchsorted(timeline.seconds, cuts - 1e-6)).tolist()
        bounds += [(a, b - a) for a, b in zip(starts, [*starts[1:], length], strict=True) if b > a]
    begins = (timeline.begin + np.append(timeline.seconds, timeline.duration)).tolist()
    shown = tuple((begins[start], begins[start + count]) for start, count in bounds)
    return ClipPlan(tuple(bounds), fps, shown, os.fspath(path))


def read_clips(
    path: str | os.PathLike[str],
    spec: InputSpec,
    seconds: float = 0.0,
    limits: Limits | None = None,
) -> Iterator[ClipPlan | Piece | Clip | VideoInfo]:
    """Reads the clips of a video file.

    The file is read once, or twice if its packets do not identify its frames. Memory use is bounded
    by two clips (for streams in pieces, by two pieces), for any length of the video.

    Args:
        path: Video file.
        spec: Frames that the model sees, and their sizes.
        seconds: Duration of a segment in seconds; 0: no segments.
        limits: Limits on the video; None: no limits.

    Yields:
        A ClipPlan; then pieces and clips as soon as they are complete; last the VideoInfo of the
        file. If the decoded frames differ from what the packets announce, a second ClipPlan follows
        and the clips start again.

    Raises:
        VideoError: The file cannot be decoded or exceeds the limits, or segments are requested and
            the frame rate is unknown.
    """
    packets = read_packets(path, limits)
    timeline = packets.timeline if packets.count else Timeline.of([None], 0.0, packets.nominal_fps)
    plan = plan_clips(path, timeline, seconds)
    assembler = ClipAssembler(plan, spec)
    yield plan
    reading = Reading(path)
    if packets.tell:
        found = by_packets(reading, packets, assembler.ranks, limits)
    else:
        found = enumerate(in_full(reading, limits))
    try:
        yield from assembler.clips(found, reading)
        as_told = packets.tell or plan_of(reading, seconds) == plan
    except PacketMismatch:
        as_told = False
    if not as_told:
        # The number and the times of the frames are known only at the end of the file.
        if packets.tell:
            reading = Reading(path)
            for _ in in_full(reading, limits):
                pass
        plan = plan_of(reading, seconds)
        yield plan
        reading = Reading(path)
        again = enumerate(in_full(reading, limits))
        yield from ClipAssembler(plan, spec).clips(again, reading)
    yield reading.info()


def plan_of(reading: Reading, seconds: float) -> ClipPlan:
    """Plans the clips of a file that was decoded to its end."""
    return plan_clips(reading.path, reading.timeline, seconds)


def clips_of(
    frames: Sequence[np.ndarray] | np.ndarray, spec: InputSpec, plan: ClipPlan
) -> Iterator[Piece | Clip]:
    """Yields the pieces and clips of frames in memory.

    Args:
        frames: (T, H, W, 3) uint8 RGB frames.
        spec: Frames that the model sees, and their sizes.
        plan: Clips of the video.
    """
    assembler = ClipAssembler(plan, spec)
    yield from assembler.assemble((rank, frames[rank]) for rank in sorted(assembler.ranks))


@dataclasses.dataclass
class _Unit:
    """Entries of a stream that are output together.

    Attributes:
        number: Index of the clip in the plan.
        stream: Name of the stream.
        first: Index of the first entry.
        ranks: Rank of the frame of each entry.
        missing: Number of frames that have not been decoded yet.
        kept: Rank → prepared frame.
    """

    number: int
    stream: str
    first: int
    ranks: list[int]
    missing: int
    kept: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


class ClipAssembler:
    """Collects the frames that the clips of a plan need, and outputs clips when they are complete.

    Args:
        plan: Clips of the video.
        spec: Frames that the model sees, and their sizes.

    Attributes:
        ranks: Ranks of all frames that are needed.
    """

    def __init__(self, plan: ClipPlan, spec: InputSpec):
        self._plan, self._spec = plan, spec
        self._takers: dict[int, list[_Unit]] = {}  # rank → units that need the frame
        self._open = [0] * len(plan.different)  # number of incomplete units of each clip
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

    def clips(
        self, found: Iterable[tuple[int, VideoFrame]], reading: Reading
    ) -> Iterator[Piece | Clip]:
        """Yields the pieces and clips of decoded frames. Clips that lack a frame are left out.

        Args:
            found: (rank, decoded frame) pairs.
            reading: Reading of the file, which has noted its first frame.
        """
        wanted = ((rank, frame) for rank, frame in found if rank in self._takers)
        # The conversion to RGB is here, so that only needed frames are converted.
        yield from self.assemble((rank, reading.rgb(frame)) for rank, frame in wanted)

    def assemble(self, found: Iterable[tuple[int, np.ndarray]]) -> Iterator[Piece | Clip]:
        """Yields the pieces and clips of RGB frames. Clips that lack a frame are left out.

        Args:
            found: (rank, frame) pairs; a frame is (height, width, 3) uint8 RGB.
        """
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
        """Yields the outputs of a unit whose frames are all present.

        Args:
            unit: Complete unit.
            inputs: Stream name → frames of the clip so far, which is changed in place.

        Raises:
            VideoError: The frames of the unit have different sizes.
        """
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
