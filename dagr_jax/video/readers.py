"""Processes that read videos ahead of scoring. A bad file can crash only its reading process.

Each process is a new interpreter (`python -m dagr_jax.video.readers`), so that no code of the
caller's program runs twice. A socket transports tasks to the process and clips back, as JSON lines
and raw pixels. The buffer of a socket is small: a process that is ahead waits while it holds one
clip. Memory use is therefore bounded by one clip per process.
"""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from dagr_jax.runtime.errors import DagrError, failed
from dagr_jax.video.clip import Clip, ClipPlan, Piece, read_clips
from dagr_jax.video.decode import timed_frames
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.reading import VideoInfo
from dagr_jax.video.stream import Limits, VideoError

Message = ClipPlan | Piece | Clip | VideoInfo


class TimedFrame(NamedTuple):
    """A frame of a video and when it is shown (`video.decode.timed_frames`)."""

    seconds: float
    frame: np.ndarray


class Readers:
    """Reads videos in several processes. A context manager, which ends the processes.

    Args:
        count: Number of processes. They are started at once.
        patience: Seconds without data after which a process is killed and its file fails.
    """

    def __init__(self, count: int, patience: float = 600.0):
        self._patience = patience
        self._processes = [_Process() for _ in range(count)]

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()

    def read(
        self,
        paths: Iterable[str],
        spec: InputSpec,
        seconds: float = 0.0,
        limits: Limits | None = None,
    ) -> Iterator[tuple[str, Iterator[Message]]]:
        """Reads videos in order. Meanwhile, the processes read the next videos.

        Args:
            paths: Video files. They are taken when they are needed, one per process ahead.
            spec: Frames that the model sees, and their sizes.
            seconds: Duration of a segment in seconds; 0: no segments.
            limits: Limits on the videos; None: no limits.

        Yields:
            Each path, and an iterator over the messages of `video.clip.read_clips`. The iterator
            raises VideoError if the file cannot be decoded, crashes the process, or takes too long.
            The next path is yielded after the iterator is exhausted: messages that the caller has
            not taken are discarded.
        """
        task = _clips_of(spec, seconds, limits)
        under_way: deque[tuple[str, _Process]] = deque()
        idle, paths = deque(self._processes), iter(paths)
        while True:
            while idle and (path := next(paths, None)) is not None:
                idle[0].ask({"path": path, **task})
                under_way.append((path, idle.popleft()))
            if not under_way:
                return
            path, process = under_way.popleft()
            messages = process.answers(path, self._patience)
            yield path, messages
            with contextlib.suppress(VideoError):
                for _ in messages:
                    pass
            idle.append(process)

    def clips(
        self, path: str, spec: InputSpec, seconds: float = 0.0, limits: Limits | None = None
    ) -> Iterator[Message]:
        """Reads one video in the first process, as `video.clip.read_clips` does here.

        Like `frames`, it must not be called while `read` is under way.

        Raises:
            VideoError: The file cannot be decoded, crashes the process, or takes too long.
        """
        yield from self._alone({"path": path, **_clips_of(spec, seconds, limits)})

    def frames(self, path: str) -> Iterator[TimedFrame]:
        """Reads every frame of a video in the first process, as `timed_frames` does here.

        Raises:
            VideoError: The file cannot be decoded, crashes the process, or takes too long.
        """
        yield from self._alone({"path": path})

    def _alone(self, task: dict[str, Any]) -> Iterator[Any]:
        process, whole = self._processes[0], False
        process.ask(task)
        try:
            yield from process.answers(task["path"], self._patience)
            whole = True
        except VideoError:
            whole = True  # the process is idle, or has been started again
            raise
        finally:
            if not whole:  # the caller has left
                process.end()
                process.start()


def _clips_of(spec: InputSpec, seconds: float, limits: Limits | None) -> dict[str, Any]:
    return {
        "spec": spec.to_json(),
        "seconds": seconds,
        "limits": limits and dataclasses.asdict(limits),
    }


class _Process:
    """One reading process, which is started again after a crash or timeout."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._socket, theirs = Pipe()
        with theirs:
            self._program = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def end(self) -> None:
        self._socket.close()
        self._program.kill()
        self._program.wait()

    def ask(self, task: dict) -> None:
        try:
            self._socket.send_bytes(json.dumps(task).encode())
        except OSError:  # The process died between two files.
            self.end()
            self.start()
            self._socket.send_bytes(json.dumps(task).encode())

    def answers(self, path: str, patience: float) -> Iterator[Any]:
        try:
            while (message := self._receive(patience)) is not None:
                yield message
        except TimeoutError:
            problem = f"decoding returned nothing for {patience:g} s"
            remedy = "re-encode it, or give it more time (--timeout)"
        except (EOFError, OSError):
            code = self._program.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            problem, remedy = f"it crashed the decoder process ({name})", "re-encode it"
        else:
            return
        self.end()
        self.start()
        raise VideoError(path, problem, remedy)

    def _receive(self, patience: float) -> Message | TimedFrame | None:
        """Returns the next message; None at the end of a file.

        Args:
            patience: Seconds to wait for the message.

        Raises:
            TimeoutError: No message came in time.
            EOFError: The process has ended.
            OSError: The process has ended.
            VideoError: The file cannot be read.
        """
        kind, fields = json.loads(self._bytes(patience))
        if kind == "end":
            return None
        if kind == "error":
            raise VideoError(*fields)
        if kind == "plan":
            pairs = (tuple(map(tuple, fields[name])) for name in ("bounds", "shown"))
            return ClipPlan(next(pairs), fields["fps"], next(pairs), fields["path"])
        if kind == "info":
            return VideoInfo(**fields)
        arrays = {}
        for name, shape in fields["shapes"].items():
            array = np.empty(shape, np.uint8)
            if array.size:
                self._socket.recv_bytes_into(array.data.cast("B"))
            arrays[name] = array
        if kind == "frame":
            return TimedFrame(fields["seconds"], arrays["frame"])
        start, length = fields["start"], fields["length"]
        if kind == "clip":
            return Clip(start, length, arrays)
        ((name, frames),) = arrays.items()
        return Piece(start, length, name, np.array(fields["places"], np.int64), frames)

    def _bytes(self, patience: float) -> bytes:
        if not self._socket.poll(patience):
            raise TimeoutError
        return self._socket.recv_bytes()


def serve(socket: Connection) -> None:
    """Runs a reading process: reads the requested files until the socket closes.

    Args:
        socket: Connection to the process that sends the tasks.
    """

    def send(kind: str, fields: object = None) -> None:
        socket.send_bytes(json.dumps([kind, fields]).encode())

    def send_arrays(kind: str, fields: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        shapes = {name: array.shape for name, array in arrays.items()}
        send(kind, {**fields, "shapes": shapes})
        for array in arrays.values():
            if array.size:
                socket.send_bytes(np.ascontiguousarray(array).data.cast("B"))

    while True:
        try:
            task = json.loads(socket.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            if "spec" not in task:
                for seconds, frame in timed_frames(task["path"]):
                    send_arrays("frame", {"seconds": seconds}, {"frame": frame})
                send("end")
                continue
            limits = task["limits"] and Limits(**task["limits"])
            spec = InputSpec.from_json(task["spec"])
            for message in read_clips(task["path"], spec, task["seconds"], limits):
                match message:
                    case ClipPlan():
                        send("plan", dataclasses.asdict(message))
                    case VideoInfo():
                        send("info", dataclasses.asdict(message))
                    case Clip(start, length, inputs):
                        send_arrays("clip", {"start": start, "length": length}, inputs)
                    case Piece(start, length, stream, places, frames):
                        where = {"start": start, "length": length, "places": places.tolist()}
                        send_arrays("piece", where, {stream: frames})
            send("end")
        except DagrError as error:
            send("error", [task["path"], error.problem, error.remedy])
        except Exception as error:  # costs this file only
            found = failed(task["path"], VideoError, "reading it", error)
            send("error", [task["path"], found.problem, found.remedy])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent process ends this process.
    with contextlib.suppress(BrokenPipeError), Connection(int(sys.argv[1])) as opened:
        serve(opened)
