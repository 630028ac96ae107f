"""Several processes, on one machine or on many, that make one run.

All of them compute; process 0 alone does what is done once, such as preparing data and writing
files, and the others wait for it. They wait, and hear of each other's end, through the
coordination service that `jax.distributed` starts in process 0, and not through a collective: a
wait may last hours, and Ctrl-C ends it. In a run of one process nothing here does anything.
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

# Seconds: between two looks at the coordination service; for the main thread to leave by itself
# once another process has left; for all processes to hear of an end; for a file to appear.
_POLL, _GRACE, _FAREWELL, _APPEAR = 0.1, 5.0, 30.0, 120.0

_END = "dagr/end/"
_numbers = itertools.count()
_leaving = threading.Lock()
_left = threading.Event()
_watcher = threading.Thread(target=lambda: _watch(), daemon=True)


class DistributedError(DagrError):
    """The processes of a run do not find each other, or do not fit together; one line."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
    timeout: int = 300,
) -> None:
    """Makes this process one of several; without arguments nothing happens.

    To be called before anything else uses JAX. From then on a process that ends early must do so
    by `leave`, which ends the others too; all others end by `disconnect`.

    Args:
      coordinator: HOST:PORT where process 0 listens; all processes reach it by this name.
      num_processes: how many there are.
      process_id: 0 … num_processes − 1, another for each.
      detect: instead of these three, ask the environment: SLURM, Open MPI, a TPU pod, Kubernetes.
      timeout: seconds to wait for the others.

    Raises:
      DistributedError: an argument is missing, or nothing answers, or hosts have unlike devices.
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
    # The service catches SIGTERM to let others ask for it; here the training loop does.
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
                # Given in full, nothing is left to find out about.
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
    # All together, as a backend waits only minutes for the others' devices; and a first collective,
    # so that processes which cannot reach each other say so now. Gloo greets on stdout, where only
    # results belong.
    with _stdout_closed():
        held = collections.Counter(device.process_index for device in jax.devices())
        if len(set(held.values())) > 1:
            raise DistributedError(
                f"processes have unlike numbers of devices, {dict(held)}; give all as many"
            )
        multihost_utils.sync_global_devices("dagr/connect")


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and _state().num_processes > 1


def share() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    return (jax.process_index(), jax.process_count()) if several() else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return share()[0] == 0


def first(work: Callable[[], T], makes: Path | None = None) -> T:
    """Process 0 does the work; the others wait for it.

    All processes must come here, in the same order.

    Args:
      work: run in process 0 alone. An error in it is raised there; `leave` tells the others.
      makes: what it leaves on the shared file system; the others wait until they see it.

    Returns:
      What `work` returned, in all processes; JSON where there are several.

    Raises:
      DistributedError: `makes` does not appear here, so that the file system is not shared.
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
    """Waits until all processes are here."""
    if not several():
        return
    client, folder = _client(), f"dagr/meet/{next(_numbers)}/"
    number, count = share()
    client.key_value_set(f"{folder}{number}", "")
    while len(client.key_value_dir_get(folder)) < count:
        time.sleep(_POLL)


def disconnect() -> None:
    """The orderly end, in all processes."""
    if jax.distributed.is_initialized():
        meet()
        _left.set()
        _watcher.join()
        jax.distributed.shutdown()


def leave(said: str, code: int) -> NoReturn:
    """Ends all processes of the run at once, with an exit code; or this one where it is alone.

    Another process may sit in a collective that will never end, so that no exception can reach it:
    its watching thread ends it, unless it leaves by itself within seconds.

    Args:
      said: why, for stderr.
      code: of all processes.
    """
    if not jax.distributed.is_initialized():
        print(said, file=sys.stderr)
        sys.exit(code)
    _left.set()
    _end(said, code)


def _end(said: str, code: int) -> NoReturn:
    """Tells the others, waits until they have heard, and exits without Python's farewells.

    These would wait for processes that are not coming, and destroy what collectives still use.
    """
    with _leaving:  # the main thread or the watching one, not both
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        state = _state()  # not JAX's devices, which may be what failed
        said = f"process {state.process_id} of {state.num_processes}: {said}"
        print(said, file=sys.stderr, flush=True)
        sys.stdout.flush()
        with contextlib.suppress(RuntimeError, ValueError):  # others may be dead already
            if ends := _client().key_value_dir_get(_END):
                code = json.loads(ends[0][1])[1]  # an error may follow from another's end
            _client().key_value_set(f"{_END}{state.process_id}", json.dumps([said, code]))
            _client().wait_at_barrier("dagr/farewell", int(_FAREWELL * 1000))
        if state.process_id == 0:
            time.sleep(1)  # the service lives here: the others go first
        os._exit(code)


def _watch() -> None:
    """Ends this process when another one has left early."""
    while not _left.wait(1.0):
        try:
            ends = _client().key_value_dir_get(_END)
        except (RuntimeError, ValueError):  # the service is gone, which JAX itself acts on
            return
        if ends and not _left.wait(_GRACE):
            said, code = json.loads(ends[0][1])
            _end(f"ended because of {said.splitlines()[0]}", code)


def _state() -> Any:
    # Not public in JAX 0.10; Orbax coordinates itself through the same object.
    from jax._src.distributed import global_state

    return global_state


def _client() -> Any:
    """The coordination service's: keys with values, and barriers."""
    client = _state().client
    assert client is not None  # the callers have asked
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
    if process_id == 0:  # asked before JAX does, which may crash
        try:
            _listen(int(port)).close()
        except (OSError, OverflowError) as error:
            raise DistributedError(
                f"--coordinator={coordinator}: process 0 cannot listen there ({error}); take "
                "another port"
            ) from None


def _listen(port: int) -> socket.socket:
    """On all addresses of this host, as the service will."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _await_answer(coordinator: str, timeout: int) -> None:
    """Waits until process 0 listens; JAX itself would abort, with a page of addresses."""
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
    """Ctrl-C ends the process at once: Python's handler would wait until C++ code is done."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _stdout_closed() -> Iterator[None]:
    """To everything in this process, C++ included."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
