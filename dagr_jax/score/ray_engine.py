"""Scoring on several machines with Ray Data (needs the extra `ray`).

Each worker is an actor with the complete model and its own reading processes. Files go to the
workers in small groups, and rows come back in the order of the files. If a worker is lost, Ray
starts it again and its group is rescored. Each file has a number, so no file is reported twice.
"""

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dagr_jax.runtime.errors import DagrError

if TYPE_CHECKING:
    from dagr_jax.score import Failure, Result, Scorer
    from dagr_jax.video.stream import Limits

# Bytes of the object store of a local cluster, for the weights and the rows, which are text. Ray's
# default is a third of the machine's memory.
OBJECT_STORE = 1 << 30
# Bytes that a worker needs: JAX, a model of the paper's size, its buffers for one clip, two reading
# processes. On a smaller machine the workers get equal shares of the memory.
WORKER_MEMORY = 3 << 30
# Files per group. A group lets a worker read ahead; if a worker is lost, one group is lost.
_GROUP = 8


class Cluster:
    """A Ray cluster for scoring. As a context manager, it disconnects, or stops a local cluster.

    Create it before JAX is imported if possible: Ray forks when it starts, and forking is not safe
    once JAX has started threads.

    Args:
        workers: Number of actors. If the cluster has GPUs, each actor takes one GPU; otherwise each
            takes an equal share of the cores. Each takes `WORKER_MEMORY`.
        address: "local" starts a cluster on this machine, with an object store of `OBJECT_STORE`.
            Other addresses are those of `ray.init`, such as "auto" or "ray://host:10001".
        patience: Seconds without output from a decoder, after which a worker gives up a file
            (`video.readers.Readers`).

    Raises:
        DagrError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, workers: int, address: str = "local", patience: float = 600.0):
        # Disable Ray's usage reports. Silence Ray's core, which logs an error for each actor of
        # Ray Data, because the arguments of the actor are in the object store.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise DagrError("Ray is not installed; pip install 'dagr-jax[ray]'") from error
        _check(address)
        self._workers, self._patience = workers, patience
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        try:
            with _no_stderr():  # Ray's core prints its log level there
                ray.init(
                    address=address,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **(local if address == "local" else {}),
                )
        except ConnectionError as error:
            raise _no_cluster(address) from error

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def score_many(
        self,
        scorer: "Scorer",
        files: Sequence[str],
        *,
        maps: "Callable[[str], str | os.PathLike[str]] | None" = None,
        segments: float = 0.0,
        limits: "Limits | None" = None,
        batch_size: int = 1,
    ) -> "Iterator[Result | Failure]":
        """Scores files on the workers, which receive the weights of a scorer.

        Args:
            scorer: Scorer of the checkpoint.
            files: Paths of the files; all machines of the cluster must see the files at these
                paths.
            maps: Function: path as given → folder of its maps, for a checkpoint that was trained
                with maps of another model.
            segments: Length of a segment in seconds; 0: no segments.
            limits: Largest number of pixels and seconds; a file above a limit is refused.
            batch_size: Number of clips per batch on a device.

        Yields:
            A Result for each file, or a Failure if the file cannot be read, in the order of the
            files.

        Raises:
            ray.exceptions.RayError: Ray gave up.
            DagrError: Ray lost a row.
        """
        from dagr_jax.score import Failure, Result

        done = 0
        options = (maps, segments, limits, batch_size, self._patience)
        for number, row in self._rows(scorer, files, options) if files else ():
            if number < done:  # a row of a group that was rescored; it was yielded before
                continue
            if number > done:
                break
            done += 1
            yield Failure(**row) if "error" in row else Result.from_dict(row)
        if done < len(files):
            raise DagrError(files[done], "Ray returned no result for it", "score it again")

    def _rows(
        self, scorer: "Scorer", files: Sequence[str], options: tuple[Any, ...]
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yields (number of the file, row of the file) in the order in which Ray returns them."""
        import jax
        import ray

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        group = min(_GROUP, max(1, len(files) // (2 * self._workers)))
        found = ray.cluster_resources()
        # A worker must fit on one machine.
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in nodes if node.get("CPU") and node.get("memory")]
        cores = min([found.get("CPU", 1) // self._workers, *(node["CPU"] for node in nodes)])
        memory = min([found["memory"] // self._workers, *(node["memory"] for node in nodes)])
        share = {"num_gpus": 1.0} if found.get("GPU") else {"num_cpus": max(cores, 0.5)}
        # Paths are absolute because each worker runs in its own folder. Names are JSON because
        # Arrow cannot hold names that are not valid UTF-8.
        asked = [
            {"number": number, "name": json.dumps(name), "path": json.dumps(os.path.abspath(name))}
            for number, name in enumerate(files)
        ]
        weights = ray.put(jax.tree.map(np.asarray, scorer.variables))
        given = ray.data.from_items(asked, override_num_blocks=-(-len(files) // group))
        scored = given.map_batches(
            _Worker,
            fn_constructor_args=([weights], scorer.meta, options),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=self._workers, max_tasks_in_flight_per_actor=1),
            memory=min(WORKER_MEMORY, memory),
            **share,
        )
        for row in scored.iter_rows():
            yield row["number"], json.loads(row["row"])


def _check(address: str) -> None:
    """Raises DagrError if nothing listens at the address; Ray would notice after many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _no_cluster(address) from error


def _no_cluster(address: str) -> DagrError:
    return DagrError(
        f"no cluster answers at {address}; start it, or omit the address to start a new one here"
    )


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Discards what code outside Python writes to stderr; exceptions are still raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Worker:
    """State of an actor; a call scores one group of files."""

    def __init__(self, weights: Sequence[Any], meta: Mapping[str, Any], options: tuple[Any, ...]):
        import ray

        from dagr_jax.video.readers import Readers

        self._maps, self._segments, self._limits, self._batch_size, patience = options
        self._readers = Readers(2, patience)  # they start while JAX is imported
        from dagr_jax.runtime.compile_cache import keep_compiled
        from dagr_jax.score import Scorer

        keep_compiled()
        self._scorer = Scorer(ray.get(weights[0]), meta)

    def __call__(self, group: Mapping[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        from dagr_jax.score import Failure

        names = [json.loads(name) for name in group["name"]]
        paths = [json.loads(path) for path in group["path"]]
        named = dict(zip(paths, names, strict=True))
        maps = self._maps
        rows = self._scorer.score_many(
            paths,
            maps=(lambda path: maps(named[path])) if maps else None,
            segments=self._segments,
            limits=self._limits,
            batch_size=self._batch_size,
            readers=self._readers,
        )
        for number, name, path, row in zip(group["number"], names, paths, rows, strict=True):
            told = {**row.to_dict(), "file": name}
            if isinstance(row, Failure):
                told["error"] = row.error.replace(path, name, 1)
            yield {"number": [int(number)], "row": [json.dumps(told)]}
