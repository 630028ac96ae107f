"""Scoring videos with a checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.models.contract import Contract, Outputs
from dagr_jax.runtime.errors import DagrError, failed, one_file
from dagr_jax.score.predictor import Predictor
from dagr_jax.score.progress import PendingClip, PendingVideo, forget
from dagr_jax.score.results import Failure, Result, Segment, not_finite
from dagr_jax.score.sources import Video, is_path, messages_of, name_of
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from dagr_jax.video.clip import Clip, ClipPlan, Piece
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.readers import Message, Readers
from dagr_jax.video.reading import VideoInfo
from dagr_jax.video.stream import Limits, VideoError

Folder = str | os.PathLike[str]


class Scorer:
    """A model with its weights, ready to score.

    Args:
        variables: {"params", "batch_stats"} of a complete model.
        meta: Metadata of the checkpoint (`train.meta.make_meta`).
    """

    def __init__(self, variables: Mapping[str, Any], meta: Mapping[str, Any]):
        self.meta = dict(meta)
        self._predictor = Predictor(variables, meta)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "Scorer":
        """Loads the best checkpoint of a run.

        Args:
            path: Working directory of a run, its `vqa/` folder, or a folder that `dagr convert`
                wrote.

        Returns:
            The scorer.

        Raises:
            CheckpointError: There is no complete checkpoint of a model that scores.
        """
        variables, meta = load_variables(Path(path))
        if meta["mos_range"] is None:
            raise CheckpointError(
                f"{path}: holds one network, which gives no score by itself; name the "
                "workdir of a finished run, or a checkpoint of a complete model"
            )
        return cls(variables, meta)

    @property
    def model(self) -> Any:
        """The Flax module."""
        return self._predictor.model

    @property
    def variables(self) -> Mapping[str, Any]:
        """{"params", "batch_stats"} of the complete model."""
        return self._predictor.variables

    @property
    def digest(self) -> str:
        """Digest of the weights and of all settings that a score depends on, 12 hex digits."""
        return self._predictor.digest

    @property
    def inputs(self) -> InputSpec:
        """Specification of the frames that the model reads from a clip."""
        return self._predictor.inputs

    @property
    def contract(self) -> Contract:
        """The contract of the model."""
        return self._predictor.contract

    @property
    def outside(self) -> bool:
        """Whether the checkpoint was trained with maps of another model."""
        return self._predictor.outside is not None

    def predict(self, pictures: Iterable[Piece | Clip]) -> float:
        """Predicts the quality of one clip.

        Args:
            pictures: The pieces of the clip's streams, if there are any, then the clip, made with
                `inputs`.

        Returns:
            The prediction on the checkpoint's [0, 1] scale, not clipped.

        Raises:
            DagrError: The checkpoint was trained with maps of another model, or no clip is given.
        """
        return float(self.outputs(pictures).score)

    def outputs(self, pictures: Iterable[Piece | Clip]) -> Outputs:
        """Runs the model on one clip.

        Args:
            pictures: The pieces of the clip's streams, if there are any, then the clip, made with
                `inputs`.

        Returns:
            The outputs of the model, without the batch axis.

        Raises:
            DagrError: The checkpoint was trained with maps of another model, or no clip is given.
        """
        self._check(PendingVideo("clip", None), 0.0)
        for one in pictures:
            if isinstance(one, Piece):
                self._predictor.take(one)
            else:
                return self._predictor.predict([self._predictor.ready(one)], 1)[0]
        raise DagrError("the pictures hold no clip; give those of a whole clip")

    def score(
        self,
        video: Video,
        *,
        maps: Folder | None = None,
        segments: float = 0.0,
        limits: Limits | None = None,
    ) -> Result:
        """Scores one video.

        Args:
            video: Path of a file; all frames as (T, H, W, 3) uint8 RGB; or a binary file object,
                which is copied to a temporary file.
            maps: Folder of the video's saliency maps (`data.map_folder`); required for a checkpoint
                that was trained with maps of another model, and refused for others.
            segments: Length of a segment in seconds, scored as a separate video; 0: no segments.
            limits: Largest number of pixels and seconds; a file above a limit is refused.

        Returns:
            The score and the facts of the video.

        Raises:
            VideoError: The file or a map cannot be read; the message names it.
            DagrError: The frames have another shape or type; maps are missing, or given but not
                needed; or segments were requested for frames, which have no times, or with maps of
                another model.
        """
        one = PendingVideo(name_of(video), maps)
        self._check(one, segments)
        pending: list[PendingClip] = []
        with messages_of(video, self.inputs, segments, limits) as messages:
            self._take(one, messages, pending, 1)
        return self._result(one)

    def score_many(
        self,
        videos: Iterable[Video],
        *,
        maps: Callable[[str], Folder] | None = None,
        segments: float = 0.0,
        limits: Limits | None = None,
        batch_size: int = 1,
        readers: Readers | None = None,
    ) -> Iterator[Result | Failure]:
        """Scores videos one after the other.

        Args:
            videos: Videos, each a path, frames or a file object as `score` takes it; consumed
                lazily.
            maps: Path as given → folder of its maps, as in `score`.
            segments: Length of a segment in seconds, scored as a separate video; 0: no segments.
            limits: Largest number of pixels and seconds; a file above a limit is refused.
            batch_size: Number of clips per batch on the device. Each batch size compiles another
                program, which may round differently in the last digits.
            readers: Processes that read the files ahead; None: files are read one by one here.

        Yields:
            A Result for each video as soon as it is scored, or a Failure if its file cannot be
            read or scored, for whatever reason, in the order of the videos. A file that fails does
            not stop the run.

        Raises:
            DagrError: An argument is wrong, for the same reasons as in `score`.
        """
        pending: list[PendingClip] = []
        under_way: deque[PendingVideo] = deque()
        for video, opened in self._opened(videos, segments, limits, readers):
            name = name_of(video)
            one = PendingVideo(name, maps(name) if maps else None)
            self._check(one, segments)
            under_way.append(one)
            try:
                with one_file(name or "file object", VideoError, "scoring it"), opened as messages:
                    self._take(one, messages, pending, batch_size)
            except VideoError as error:
                one.failure = str(error)
                forget(one, pending)
            while under_way and under_way[0].done:
                yield self._row(under_way.popleft())
        self._predict(pending, batch_size)
        yield from map(self._row, under_way)

    def maps(self, video: Video) -> dict[str, np.ndarray]:
        """Computes the maps that the score of a video uses.

        Args:
            video: Path, frames or file object, as `score` takes it.

        Returns:
            Name → (T, h, w) float32 in [0, 1], for each map of the model; {} if the score uses no
            maps.

        Raises:
            DagrError: The video cannot be read, the frames have another shape or type, or the
                checkpoint was trained with maps of another model.
        """
        found: list[Piece | Clip] = []
        with messages_of(video, self.inputs, 0.0, None) as messages:
            for message in messages:
                if isinstance(message, ClipPlan):
                    found.clear()
                elif isinstance(message, Piece | Clip):
                    found.append(message)
        outputs = self.outputs(found)
        return {name: np.asarray(m, np.float32) for name, m in outputs.maps.items()}

    def _check(self, one: PendingVideo, segments: float) -> None:
        if self.outside != (one.folder is not None):
            raise DagrError(
                f"{one.name or 'frames'}: the checkpoint was trained with saliency maps of another "
                "model; give its folder of maps"
                if self.outside
                else f"{one.folder}: the checkpoint makes its own saliency maps; leave these out"
            )
        if segments and self.outside:
            raise DagrError(
                "segments cannot be scored with maps of another model; score without segments"
            )

    def _opened(
        self,
        videos: Iterable[Video],
        segments: float,
        limits: Limits | None,
        readers: Readers | None,
    ) -> Iterator[tuple[Video, contextlib.AbstractContextManager[Iterable[Message]]]]:
        """Yields each video with a context manager that gives the messages read from it."""
        if readers is None:
            for video in videos:
                yield video, messages_of(video, self.inputs, segments, limits)
            return
        ours, theirs = itertools.tee(videos)
        paths = (os.fspath(video) for video in theirs if is_path(video))
        read = readers.read(paths, self._predictor.inputs, segments, limits)
        for video in ours:
            if not is_path(video):
                yield video, messages_of(video, self.inputs, segments, limits)
                continue
            _, messages = next(read)
            yield video, contextlib.nullcontext(messages)

    def _take(
        self,
        one: PendingVideo,
        messages: Iterable[Message],
        waiting: list[PendingClip],
        batch_size: int,
    ) -> None:
        """Consumes the messages of a video, and scores clips whenever a batch is full."""
        for message in messages:
            match message:
                case ClipPlan():
                    one.plan = message
                    forget(one, waiting)
                    self._predictor.forget()
                    if self._predictor.whole:  # compile while the clips are being decoded
                        self._predictor.program(batch_size)
                case Piece():
                    self._predictor.take(message)
                case Clip():
                    ready = self._predictor.ready(message, one.folder)
                    waiting.append(PendingClip(one, ready))
                    if len(waiting) == batch_size:
                        self._predict(waiting, batch_size)
                case VideoInfo():
                    one.info = message

    def _predict(self, waiting: list[PendingClip], batch_size: int) -> None:
        """Scores the pending clips, at most one batch. An error belongs to all videos in it."""
        if not waiting:
            return
        try:
            found = self._predictor.predict([one.clip for one in waiting], batch_size)
        except DagrError:
            raise
        except Exception as error:
            for one in waiting:
                name = one.video.name or "frames"
                one.video.failure = str(failed(name, VideoError, "scoring it", error))
                one.video.cause = error
        else:
            for one, outputs in zip(waiting, found, strict=True):
                one.video.predictions[one.clip.start, one.clip.length] = float(outputs.score)
        waiting.clear()

    def _first_stream(self, length: int) -> np.ndarray:
        """Returns the indices of the frames that the first stream samples from a video."""
        return next(iter(self.inputs.streams.values())).indices(length)

    def _row(self, one: PendingVideo) -> Result | Failure:
        if not one.failure:
            try:
                return self._result(one)
            except VideoError as error:
                one.failure = str(error)
        return Failure(one.name, one.failure)

    def _result(self, one: PendingVideo) -> Result:
        """Makes the result of a video that is completely scored.

        Raises:
            VideoError: The score is not a finite number.
            Exception: The model raised it.
        """
        if one.cause is not None:
            raise one.cause
        assert one.plan is not None and one.info is not None
        if not all(map(math.isfinite, one.predictions.values())):
            raise not_finite(one.name or "frames")
        low, high = self.meta["mos_range"]
        prediction, bounds = one.predictions[one.plan.bounds[0]], one.plan.bounds[1:]
        segments = tuple(
            Segment(round(begin, 3), round(end, 3), 100.0 * one.predictions[bound])
            for bound, (begin, end) in zip(bounds, one.plan.shown[1:], strict=False)
        )
        facts = dataclasses.asdict(one.info)
        del facts["path"]
        return Result(
            file=one.name,
            score=100.0 * prediction,
            mos=low + prediction * (high - low),
            mos_range=(low, high),
            dataset=self.meta["dataset"],
            worst=min(segments, key=lambda segment: segment.score, default=None),
            segments=segments,
            frames=len(self._first_stream(one.info.num_frames)),
            total_frames=facts.pop("num_frames"),
            duration=round(facts.pop("duration"), 3),
            fps=round(facts.pop("fps"), 3),
            bit_rate=round(facts.pop("bit_rate")),
            **facts,
            seconds=round(time.perf_counter() - one.begin, 3),
            model=self.meta["model"],
            preset=self.meta["preset"],
            step=self.meta["step"],
            version=self.meta["version"],
            checkpoint=self.digest,
        )
