"""Scoring on more than one machine, by Ray Data (the extra `ray`).

Each worker is an actor with the whole model and reading processes of its own. Files go to the
workers in small groups and rows come back in the order of the files. A worker that is lost is
started again and its group with it; each file is counted by its number, so never twice.
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

# What a local cluster may keep of the weights, and of rows, which are text. Ray's own choice is a
# third of the machine's memory.
OBJECT_STORE = 1 << 30
# What a worker takes: JAX, a model of the paper's size, its buffers for one clip, two reading
# processes. Workers of a smaller machine get an equal share.
WORKER_MEMORY = 3 << 30
# A group gives a worker something to read ahead; with a worker, one group is lost.
_GROUP = 8


class Cluster:
    """A Ray cluster for scoring; a context manager that leaves it, or stops a local one.

    It is best made before JAX is loaded: starting Ray forks, and JAX has threads by then.

    Args:
        workers: Actors. With GPUs in the cluster each takes one, otherwise an equal share of the
            cores; each `WORKER_MEMORY`.
        address: "local" starts a cluster on this machine, with `OBJECT_STORE`; others are those of
            `ray.init`, as "auto" or "ray://host:10001".
        patience: Of the workers' `video.readers.Readers`.

    Raises:
        DagrError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, workers: int, address: str = "local", patience: float = 600.0):
        # Ray reports how it is used to its makers, unless told not to; and its core writes an error
        # for each actor of Ray Data, which has its arguments in the object store.
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
            with _no_stderr():  # where Ray's core says what log level it has
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
        """Scores files with the weights of a scorer, which go to the workers.

        Args:
            scorer: What scores.
            files: Paths that all machines of the cluster know.
            maps, segments, limits, batch_size: Of `Scorer.score_many`.

        Yields:
            As `Scorer.score_many`: a row for each file, in their order.

        Raises:
            ray.exceptions.RayError: Ray gave up.
            DagrError: Ray lost a row.
        """
        from dagr_jax.score import Failure, Result

        done = 0
        options = (maps, segments, limits, batch_size, self._patience)
        for number, row in self._rows(scorer, files, options) if files else ():
            if number < done:  # of a group that was begun again
                continue
            if number > done:
                break
            done += 1
            yield Failure(**row) if "error" in row else Result.from_dict(row)
        if done < len(files):
            raise DagrError(files[done], "Ray gave no row for it", "score it again")

    def _rows(
        self, scorer: "Scorer", files: Sequence[str], options: tuple[Any, ...]
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(number of the file, its row), as Ray gives them."""
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
        # Workers run in folders of their own. Names as JSON: Arrow has none that are no UTF-8.
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
    """Raises DagrError where nobody listens, which Ray notices after many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _no_cluster(address) from error


def _no_cluster(address: str) -> DagrError:
    return DagrError(
        f"no cluster answers at {address}; start it, or leave the address out for a new one"
    )


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Keeps what other than Python code writes off stderr; errors are raised all the same."""
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
    """What an actor holds, and does with a group of files."""

    def __init__(self, weights: Sequence[Any], meta: Mapping[str, Any], options: tuple[Any, ...]):
        import ray

        from dagr_jax.video.readers import Readers

        self._maps, self._segments, self._limits, self._batch_size, patience = options
        self._readers = Readers(2, patience)  # they start while JAX does
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
