"""Distributed runs: several processes, on one machine or on many.

All processes compute. Work that is done once, such as preparing data and writing files, is done by
process 0 while the others wait. Processes wait for each other, and learn that another process has
ended, through the coordination service that `jax.distributed` starts in process 0. A collective
would not do: a wait may last hours, and Ctrl-C must be able to end it. In a run with one process,
the functions of this module do nothing.
"""

import collections
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from jax.experimental import multihost_utils

from dagr_jax.runtime.errors import DagrError

T = TypeVar("T")

# Seconds: between two queries of the coordination service; for the main thread to exit by itself
# after another process has exited; for all processes to be told of an exit; for a file to appear.
_POLL, _GRACE, _FAREWELL, _APPEAR = 0.1, 5.0, 30.0, 120.0

_END = "dagr/end/"
_numbers = itertools.count()
_leaving = threading.Lock()
_left = threading.Event()
_watcher = threading.Thread(target=lambda: _watch(), daemon=True)


class DistributedError(DagrError):
    """The processes of a run cannot connect or do not match. The message is one line."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
    timeout: int = 300,
) -> None:
    """Connects this process to the other processes of the run. Without arguments it does nothing.

    Call it before anything else uses JAX. After it, a process that ends early must call `leave`,
    which ends the other processes too. In a run that ends normally, all processes call
    `disconnect`.

    Args:
        coordinator: HOST:PORT on which process 0 listens. All processes use the same value.
        num_processes: Number of processes.
        process_id: Number of this process, 0 … num_processes − 1, different in every process.
        detect: Take these three values from the environment instead (SLURM, Open MPI, a TPU pod or
            Kubernetes).
        timeout: Seconds to wait for the other processes.

    Raises:
        DistributedError: An argument is missing, process 0 does not answer, or the processes have
            different numbers of devices.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if not detect and len(missing) == len(given):
        return
    if detect and len(missing) < len(given):
        raise DistributedError("--distributed finds out by itself what the other three flags say")
    if missing and not detect:
        raise DistributedError(f"{', '.join(missing)} missing: {', '.join(given)} go together")
    # JAX's preemption service would catch SIGTERM; the training loop handles SIGTERM itself.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator is not None and num_processes is not None and process_id is not None:
        _check(coordinator, num_processes, process_id)
        if process_id:
            _await_answer(coordinator, timeout)
    try:
        with _ctrl_c_kills():
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # All three values are given, so JAX has nothing to detect.
                cluster_detection_method=None if detect else "deactivate",
                initialization_timeout=timeout,
            )
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        if detect and not jax.distributed.is_initialized():
            first = f"--distributed finds no SLURM, Open MPI, TPU or Kubernetes job ({first})"
        raise DistributedError(
            f"{first}; name --coordinator, --num_processes and --process_id"
        ) from None
    _watcher.start()
    # All processes start their backends here, at the same time, because a backend waits only
    # minutes for the devices of the others. The first collective also runs here, so that processes
    # that cannot reach each other fail now. Gloo prints a greeting on stdout, which is reserved for
    # results, so stdout is closed meanwhile.
    with _stdout_closed():
        held = collections.Counter(device.process_index for device in jax.devices())
        if len(set(held.values())) > 1:
            raise DistributedError(
                f"processes have unlike numbers of devices, {dict(held)}; give all as many"
            )
        multihost_utils.sync_global_devices("dagr/connect")


def several() -> bool:
    """Returns whether the run has more than one process."""
    return jax.distributed.is_initialized() and _state().num_processes > 1


def share() -> tuple[int, int]:
    """Returns (number of this process, number of processes)."""
    return (jax.process_index(), jax.process_count()) if several() else (0, 1)


def is_first() -> bool:
    """Returns whether this is process 0, the process that writes files."""
    return share()[0] == 0


def first(work: Callable[[], T], makes: Path | None = None) -> T:
    """Runs `work` in process 0 only; the other processes wait until it is done.

    All processes must make these calls in the same order.

    Args:
        work: Function that process 0 calls. If it raises, the error is raised in process 0, which
            must call `leave` to end the other processes.
        makes: File or folder that `work` creates on the shared file system. The other processes
            wait until they can see it.

    Returns:
        The return value of `work`, in all processes. With several processes it must be JSON data.

    Raises:
        DistributedError: `makes` does not appear in this process: the file system is not shared.
    """
    if not several():
        return work()
    client, folder = _client(), f"dagr/first/{next(_numbers)}/"
    if is_first():
        result = work()
        client.key_value_set(folder + "said", json.dumps(result))
        return result
    while not (said := client.key_value_dir_get(folder)):
        time.sleep(_POLL)
    until = time.monotonic() + _APPEAR
    while makes is not None and not makes.exists():
        if time.monotonic() > until:
            raise DistributedError(
                f"{makes}: process 0 made it and it is not here; the workdir must lie on a file "
                "system that all processes share"
            )
        time.sleep(_POLL)
    return json.loads(said[0][1])


def meet() -> None:
    """Waits until all processes have called this function (a barrier)."""
    if not several():
        return
    client, folder = _client(), f"dagr/meet/{next(_numbers)}/"
    number, count = share()
    client.key_value_set(f"{folder}{number}", "")
    while len(client.key_value_dir_get(folder)) < count:
        time.sleep(_POLL)


def disconnect() -> None:
    """Disconnects this process at the normal end of a run. All processes must call it."""
    if jax.distributed.is_initialized():
        meet()
        _left.set()
        _watcher.join()
        jax.distributed.shutdown()


def leave(said: str, code: int) -> NoReturn:
    """Ends all processes of the run at once with one exit code.

    In a run with one process, it ends this process.

    Another process may be blocked in a collective that never ends, where no exception can reach
    it. Its watcher thread ends it, unless it exits by itself within seconds.

    Args:
        said: Reason, printed on stderr.
        code: Exit code of all processes.
    """
    if not jax.distributed.is_initialized():
        print(said, file=sys.stderr)
        sys.exit(code)
    _left.set()
    _end(said, code)


def _end(said: str, code: int) -> NoReturn:
    """Tells the other processes, waits until they know, and exits without Python's cleanup.

    The cleanup would wait for processes that never arrive, and would free buffers that collectives
    still use.
    """
    with _leaving:  # either the main thread or the watcher thread, not both
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        state = _state()  # not from JAX's devices: they may be the part that failed
        said = f"process {state.process_id} of {state.num_processes}: {said}"
        print(said, file=sys.stderr, flush=True)
        sys.stdout.flush()
        with contextlib.suppress(RuntimeError, ValueError):  # other processes may be dead already
            if ends := _client().key_value_dir_get(_END):
                # The end of another process may have caused the error here: use its exit code.
                code = json.loads(ends[0][1])[1]
            _client().key_value_set(f"{_END}{state.process_id}", json.dumps([said, code]))
            _client().wait_at_barrier("dagr/farewell", int(_FAREWELL * 1000))
        if state.process_id == 0:
            time.sleep(1)  # process 0 runs the service, so the others must exit first
        os._exit(code)


def _watch() -> None:
    """Ends this process when another process has ended early."""
    while not _left.wait(1.0):
        try:
            ends = _client().key_value_dir_get(_END)
        except (RuntimeError, ValueError):  # the service is gone; JAX itself ends the process
            return
        if ends and not _left.wait(_GRACE):
            said, code = json.loads(ends[0][1])
            _end(f"ended because of {said.splitlines()[0]}", code)


def _state() -> Any:
    # Not public in JAX 0.10; Orbax uses the same object.
    from jax._src.distributed import global_state

    return global_state


def _client() -> Any:
    """Returns the client of the coordination service, with its key-value store and barriers."""
    client = _state().client
    assert client is not None  # callers run only in a distributed run
    return client


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise DistributedError(f"--coordinator={coordinator} must be HOST:PORT, such as node0:9876")
    if not 0 <= process_id < num_processes:
        raise DistributedError(
            f"--process_id={process_id} must be 0 … {num_processes - 1} with "
            f"--num_processes={num_processes}"
        )
    if process_id == 0:  # test the port first: JAX may crash on a port that it cannot use
        try:
            _listen(int(port)).close()
        except (OSError, OverflowError) as error:
            raise DistributedError(
                f"--coordinator={coordinator}: process 0 cannot listen there ({error}); take "
                "another port"
            ) from None


def _listen(port: int) -> socket.socket:
    """Listens on all addresses of this host, as the coordination service does."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _await_answer(coordinator: str, timeout: int) -> None:
    """Waits until process 0 listens. JAX itself would abort with a page of stack addresses."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise DistributedError(
                    f"--coordinator={coordinator}: no answer in {timeout} s ({error}); is process "
                    "0 running, and its port open?"
                ) from None
            time.sleep(0.5)


@contextlib.contextmanager
def _ctrl_c_kills() -> Iterator[None]:
    """Makes Ctrl-C end the process at once. Python's handler would wait for the C++ code."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _stdout_closed() -> Iterator[None]:
    """Discards everything that this process writes to stdout, from C++ code too."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
