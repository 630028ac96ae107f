"""Processes that read videos ahead of who scores them, and that a bad file may take with it.

Each process is a fresh interpreter (`python -m dagr_jax.video.readers`), so that nothing of the
caller's program runs twice. Tasks go there and clips come back over a socket, as JSON lines and
bare pixels. A socket holds little: a process that is ahead waits with one clip in its hands, so
memory is bounded by one clip a process.
"""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import av
import numpy as np

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.clip import Clip, ClipPlan, Piece, read_clips
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.reading import VideoInfo
from dagr_jax.video.stream import Limits, VideoError

Message = ClipPlan | Piece | Clip | VideoInfo


class Readers:
    """Reads videos in several processes; a context manager that ends them.

    Args:
        count: Processes, which are started at once.
        patience: Seconds that a process may be silent before it is given up, and the file with it.
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
        """Reads videos one after the other, those to come meanwhile.

        Args:
            paths: Files; taken as they are needed, one a process ahead.
            spec, seconds, limits: Of `video.clip.read_clips`.

        Yields:
            Each path, and what `read_clips` yields of it; that iterator raises VideoError for a
            file that cannot be decoded, that kills the process or that keeps it too long. It must
            be taken to its end, or is when the next path is asked for.
        """
        task = {
            "spec": spec.to_json(),
            "seconds": seconds,
            "limits": limits and dataclasses.asdict(limits),
        }
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


class _Process:
    """One reading process, which is started again after it was lost."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
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
        except OSError:  # it died between two files
            self.end()
            self._start()
            self._socket.send_bytes(json.dumps(task).encode())

    def answers(self, path: str, patience: float) -> Iterator[Message]:
        try:
            while (message := self._receive(patience)) is not None:
                yield message
        except TimeoutError:
            problem = f"decoding it gave nothing for {patience:g} s"
            remedy = "re-encode it, or give it more time (--timeout)"
        except (EOFError, OSError):
            code = self._program.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            problem, remedy = f"decoding it ended the decoder ({name})", "re-encode it"
        else:
            return
        self.end()
        self._start()
        raise VideoError(path, problem, remedy)

    def _receive(self, patience: float) -> Message | None:
        """The next message; None at the end of a file."""
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
    """What a reading process does: files as they are asked for, until the socket closes."""

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
        limits = task["limits"] and Limits(**task["limits"])
        spec = InputSpec.from_json(task["spec"])
        try:
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
        except (av.FFmpegError, OSError, MemoryError) as error:
            remedy = "re-encode it, or score a smaller version"
            send("error", [task["path"], _failed(error), remedy])
        except Exception as error:  # a defect: its traceback is shown, and the next file is read
            traceback.print_exc()
            remedy = "report this defect with the traceback above"
            send("error", [task["path"], _failed(error), remedy])


def _failed(error: Exception) -> str:
    """What went wrong, in one line."""
    told = str(error).splitlines()[0] if str(error) else "no reason given"
    return f"reading it failed ({type(error).__name__}: {told})"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    with contextlib.suppress(BrokenPipeError), Connection(int(sys.argv[1])) as opened:
        serve(opened)
