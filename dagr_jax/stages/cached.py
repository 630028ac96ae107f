"""Cached streams: the output of a frozen network for each video, computed once and stored.

`stream_stage` runs any `CachedStream`. It writes records to `<workdir>/<name>/`, and everything
that they depend on to `made_of.json` in that folder.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax import __version__
from dagr_jax.data import loader, prepare
from dagr_jax.data.map_folder import folder_of, read_maps
from dagr_jax.models.contract import CachedStream, TrainStage
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_folder
from dagr_jax.stages.artifacts import StageError, digest, plain, read_json, write_json
from dagr_jax.stages.console import progress
from dagr_jax.stages.prepare import read_prepared
from dagr_jax.stages.quality import quality_source
from dagr_jax.stages.run import Run
from dagr_jax.stages.start import begin_with, trained
from dagr_jax.train import mesh as meshes
from dagr_jax.video.clip import ClipPlan, Piece, read_clips
from dagr_jax.video.inputs import InputSpec

Entries = tuple[np.ndarray, list[np.ndarray]]  # record numbers, the entries (T, …) of each


def stream_stage(run: Run, stream: CachedStream) -> Path:
    """Computes a stream for the training and validation videos: the record set `<name>/`.

    The test part has no stored stream: the `test` stage runs the complete model from the frames. If
    the networks were taken unchanged from another run, the records of that run are reused, provided
    that its `made_of.json` shows that they equal the records that this run would make.

    Args:
        run: The run.
        stream: The stream.

    Returns:
        Folder of the record set.
    """
    folder = run.workdir / stream.name
    if distributed.first(folder.exists):
        return folder
    sources = {part: quality_source(run, part) for part in ("train", "val")}
    makers = [] if stream.outside else _makers(run, stream)
    variables = {} if stream.outside else _variables(run, stream, makers)
    told = _made_of(run, stream, variables, sources)
    sections = [run.config[stage.name] for stage in makers]
    inits = {section.init for section in sections}
    adopted = len(inits) == 1 and not any(s.steps or s.epochs for s in sections)
    there = Path(inits.pop()) / stream.name if adopted and all(inits) else None
    with atomic_folder(folder) as partial:
        if there is not None and distributed.first(lambda: _is_made_of(there, told)):
            distributed.first(lambda: _take_over(there, partial))
        else:
            write_stream(run, stream, variables, partial, sources)
            distributed.first(lambda: write_json(partial / "made_of.json", told))
    return folder


def _makers(run: Run, stream: CachedStream) -> list[TrainStage]:
    """Returns the training stages of the networks that compute a stream."""
    return [
        stage
        for stage in run.stages.values()
        if isinstance(stage, TrainStage) and stage.part and stage.part in stream.parts
    ]


def _variables(run: Run, stream: CachedStream, makers: list[TrainStage]) -> dict[str, Any]:
    """Returns the variables that compute a stream, at their places in the complete model.

    They are the best ones of the stages that train them. Those of a part that no stage trains by
    itself are what the complete model starts from.
    """
    found: dict[str, Any] = {}
    for stage in makers:
        for kind, tree in trained(run, stage).items():
            found.setdefault(kind, {})[stage.part] = tree
    frozen = set(stream.parts) - {stage.part for stage in makers}
    if frozen:
        start = begin_with(run, run.last, run.config[run.last.name].init)
        for kind, tree in start.items():
            for part in frozen & tree.keys():
                found.setdefault(kind, {})[part] = tree[part]
    return found


def _made_of(
    run: Run,
    stream: CachedStream,
    variables: Mapping[str, Any],
    sources: Mapping[str, loader.QualitySource],
) -> dict[str, Any]:
    """Returns everything that stored entries depend on, as plain data."""
    weights = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(variables), key=str):
        weights.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        weights.update(np.asarray(leaf).tobytes())
    videos = {part: [f["video"].decode() for f in source.facts] for part, source in sources.items()}
    return {
        "version": __version__,
        "weights": weights.hexdigest(),
        "model": {"name": run.contract.name, "dtype": run.model_args.get("dtype", "")},
        "settings": plain(run.contract.settings(run.config)),
        "folder": stream.folder,
        "inputs": plain(run.inputs.to_json()),
        "size": list(stream.size),
        "prepared": read_prepared(run.data),
        "videos": digest(videos),
    }


def _is_made_of(folder: Path, told: Mapping[str, Any]) -> bool:
    said = folder / "made_of.json"
    return said.is_file() and read_json(said) == told


def _take_over(there: Path, folder: Path) -> None:
    """Fills an empty folder with the records of another run, as hard links to save disk space."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system, or a file system without hard links
            shutil.copy2(source, target)

    shutil.copytree(there, folder, copy_function=link, dirs_exist_ok=True)


def write_stream(
    run: Run,
    stream: CachedStream,
    variables: Mapping[str, Any],
    folder: Path,
    sources: Mapping[str, loader.QualitySource],
) -> None:
    """Computes a stream for some videos: the record set `<name>` in `folder`.

    Args:
        run: The run; its prepared set holds the frames.
        stream: The stream.
        variables: Variables of the parts of the model that compute the stream.
        folder: Existing folder of the record set.
        sources: Name of a part of the split → its videos.
    """
    computed = _of_stored
    if stream.outside:
        computed = _of_folder
    elif stream.of != run.stored[0]:
        computed = _of_files
    shards: dict[str, list[Path]] = {}
    for split, source in sources.items():
        names = [fact["video"] for fact in source.facts]
        shards[split] = [folder / f"{split}{i}.npz" for i in range(len(source))]
        with progress(len(_own(source)), f"{stream.name}: {split}", "video") as bar:
            for index, entries in computed(run, stream, variables, source):
                for i, own in zip(index, entries, strict=True):
                    record = {"video": names[i].decode(), "entries": _stored(stream, own)}
                    prepare.write_shard(shards[split][i], record)
                    bar.update()
    distributed.meet()

    def pack() -> None:
        prepare.pack_stream(folder, stream.name, shards)
        for path in (path for paths in shards.values() for path in paths):
            path.unlink()

    distributed.first(pack)


def _stored(stream: CachedStream, entries: np.ndarray) -> np.ndarray:
    if stream.quantized:
        return np.floor(entries * 255 + 0.5).astype(np.uint8)
    return np.asarray(entries, np.float32)


def _own(source: loader.QualitySource) -> range:
    """Returns the numbers of the records that this process writes."""
    number, count = distributed.share()
    return range(number, len(source), count)


def _of_stored(
    run: Run, stream: CachedStream, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Entries]:
    """Yields (record numbers, entries) from the stored frames; all processes share each batch."""
    apply = meshes.jit_predict(
        lambda v, batch: stream.compute(v, {stream.of: batch[stream.of]}), run.mesh
    )
    for index, entries in run.predict(apply, variables, source, stream.batch_size):
        own = np.isin(index, _own(source))
        yield index[own], [stream.chosen(one) for one in entries[own]]


def _of_folder(
    run: Run, stream: CachedStream, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Entries]:
    """Yields (record number, entries) from pictures that another model made."""
    home = Path(stream.folder)
    for i in _own(source):
        fact = source.facts[i]
        length = int(fact["length"])
        maps = read_maps(
            folder_of(home, fact["video"].decode()),
            run.inputs.indices(stream.of, length),
            length,
            stream.choice,
            stream.size,
            "release" if stream.release else "paper",
        )
        yield np.array([i]), [maps]


def _of_files(
    run: Run, stream: CachedStream, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Entries]:
    """Yields (record number, entries) from the source files, which are read piece by piece.

    Each process computes different videos, on its own devices.
    """
    here = meshes.make_mesh(jax.local_devices())
    variables = meshes.put_whole(jax.device_get(variables), here)
    compute = jax.jit(stream.compute)
    spec = InputSpec(
        {
            name: one
            for name, one in run.inputs.streams.items()
            if name in (stream.of, run.inputs.streams[stream.of].of)
        }
    )
    for i in _own(source):
        fact = source.facts[i]
        path = Path(run.facts["videos"] or run.data / "videos") / fact["video"].decode()
        if not path.is_file():
            raise StageError(
                f"{path}: does not exist, but {stream.name} are computed from the source files; "
                "restore the file"
            )
        found: list[tuple[np.ndarray, np.ndarray]] = []
        length = int(fact["length"])
        for message in read_clips(path, spec):
            if isinstance(message, ClipPlan):
                found.clear()
                length = message.bounds[0][1]
            elif isinstance(message, Piece) and message.stream == stream.of:
                entries = compute(variables, {stream.of: message.frames[None]})
                found.append((message.places, np.asarray(entries[0])))
        yield np.array([i]), [spec.joined(stream.of, length, found)]
