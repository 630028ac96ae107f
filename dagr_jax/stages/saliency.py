"""Stages `saliency` and `maps`: the saliency network and what it predicts."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax import __version__
from dagr_jax.data import loader, prepare
from dagr_jax.data.map_folder import folder_of, read_maps
from dagr_jax.layers.augment import Augment
from dagr_jax.report.plots import overlay
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_folder
from dagr_jax.stages.run import Run, StageError, digest, plain, progress, read_json, write_json
from dagr_jax.stages.saliency_scores import quick_scores, saliency_source
from dagr_jax.stages.weights import initial, pretrained_saliency, start_from
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.loop import fit
from dagr_jax.train.meta import Best, is_finished
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import SaliencyTask
from dagr_jax.video.decode import decode_frames

Maps = tuple[np.ndarray, list[np.ndarray]]  # record numbers, the maps (T, h, w) of each


def saliency_stage(run: Run) -> Path | None:
    """Pretrains the saliency network: checkpoints and log in `saliency/`."""
    if not run.uses_saliency:
        return None
    folder = run.workdir / "saliency"
    section, meta = run.section("saliency"), run.meta("saliency")
    if distributed.first(lambda: is_finished(folder, section.steps, meta)):
        return folder
    if run.saliency_data is None or (section.init and not section.steps):
        return _adopt(run, section, meta, folder)
    source = saliency_source(run, "train")
    task = SaliencyTask(
        run.saliency_model, run.config.preset, section.gamma, Augment(flip=section.flip)
    )
    validation = saliency_source(run, "val")
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = state.variables_to_use()
        return quick_scores(run, predict, variables, validation, section.batch_size)

    look = jax.jit(task.predict)
    first = source[0]["frames"]
    fresh = initial(run.saliency_model, run.config.seed, first[None].astype(np.float32))
    variables = start_from(section.init, "saliency", fresh, run.config.preset)
    optimizer = make_optimizer(section.optim, section.steps, section.epoch_steps)
    train_iter = loader.train_iterator(
        source,
        batch_size=section.batch_size,
        seed=run.config.seed,
        workers=run.config.workers,
        share=distributed.share(),
    )
    with contextlib.closing(train_iter):
        fit(
            name="saliency",
            task=task,
            config=section,
            state=task.init_state(variables, optimizer),
            train_iter=train_iter,
            evaluate=evaluate,
            workdir=run.workdir,
            meta=meta,
            mesh=run.mesh,
            best=Best("cc"),
            pictures=lambda state: overlays(look, state.variables_to_use(), validation),
        )
    return folder


def no_gaze(what: str) -> StageError:
    """The error of a saliency network that nothing can teach."""
    return StageError(
        f"{what}: holds no gaze maps to train the saliency network on; set "
        "config.saliency.data_dir to a prepared saliency set, or config.saliency.init to "
        "trained weights with steps and epochs 0, or config.maps.folder to maps of another "
        "model, or config.model.args.alpha to 0"
    )


def _adopt(run: Run, section: Any, meta: Mapping[str, Any], folder: Path) -> Path:
    """Takes over a network that another run trained, as it is."""
    if section.steps or not section.init:
        raise no_gaze(str(run.data))
    frames = np.zeros((1, 2, *run.saliency_size, 3), np.float32)
    fresh = initial(run.saliency_model, run.config.seed, frames)
    variables = start_from(section.init, "saliency", fresh, run.config.preset)
    distributed.first(lambda: write_variables(folder, variables, meta), makes=folder)
    return folder


def overlays(
    predict: Callable[..., Any], variables: Any, source: loader.SaliencySource
) -> dict[str, np.ndarray]:
    """Of three records the middle frame, the true and the predicted saliency, side by side."""
    chosen = np.linspace(0, len(source) - 1, 3).astype(int).tolist()
    items = [source[i] for i in chosen]
    predicted = predict(variables, {"frames": np.stack([x["frames"] for x in items])})
    pictures = {}
    for i, item, maps in zip(chosen, items, np.asarray(predicted), strict=True):
        t = len(maps) // 2
        frame = item["frames"][t]
        both = [overlay(frame, m) for m in (item["maps"][t] / 255.0, maps[t])]
        pictures[f"validation/record_{i}"] = np.hstack([frame, *both])
    return pictures


def maps_stage(run: Run) -> Path | None:
    """Makes the maps of the training and validation videos: the record set `maps/`.

    The test part has none: the `test` stage runs the whole model from its frames. Where the network
    was taken over from another run as it is, that run's maps are as well, if `maps.json` there says
    that they are those that would be made here.
    """
    if not run.stores_maps:
        return None
    folder = run.workdir / "maps"
    if distributed.first(folder.exists):
        return folder
    sources = {
        part: loader.QualitySource(run.data, run.rows[part], run.mos_range)
        for part in ("train", "val")
    }
    variables = pretrained_saliency(run) if run.uses_saliency else {}
    told = _made_of(run, variables, sources)
    section = run.config.saliency
    there = Path(section.init) / "maps"
    shared = bool(section.init) and not section.steps and not section.epochs
    with atomic_folder(folder) as partial:
        if shared and distributed.first(lambda: _is_made_of(there, told)):
            distributed.first(lambda: _take_over(there, partial))
        else:
            write_maps(run, variables, partial, sources)
            distributed.first(lambda: write_json(partial / "maps.json", told))
    return folder


def _made_of(
    run: Run, variables: Mapping[str, Any], sources: Mapping[str, loader.QualitySource]
) -> dict[str, Any]:
    """All that stored maps depend on, as `maps.json` says it."""
    weights = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(variables), key=str):
        weights.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        weights.update(np.asarray(leaf).tobytes())
    videos = {part: [f["video"].decode() for f in source.facts] for part, source in sources.items()}
    return {
        "version": __version__,
        "weights": weights.hexdigest(),
        "dtype": run.config.model.args.dtype,
        "maps": {k: v for k, v in plain(run.config.maps).items() if k != "batch_size"},
        "preset": run.config.preset,
        "size": list(run.saliency_size),
        "prepared": read_json(run.data / "prepared.json"),
        "videos": digest(videos),
    }


def _is_made_of(folder: Path, told: Mapping[str, Any]) -> bool:
    said = folder / "maps.json"
    return said.is_file() and read_json(said) == told


def _take_over(there: Path, folder: Path) -> None:
    """Fills an empty folder with another run's maps; they share the disk where that is possible."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copy2(source, target)

    shutil.copytree(there, folder, copy_function=link, dirs_exist_ok=True)


def write_maps(
    run: Run,
    variables: Mapping[str, Any],
    folder: Path,
    sources: Mapping[str, loader.QualitySource],
) -> None:
    """Makes the maps of some videos: the record set `maps` in `folder`.

    Args:
        run: Its `config.maps` says which frames the saliency network sees, or who made the maps.
        variables: Of the whole model; of the quality network nothing is needed.
        folder: Exists.
        sources: Name of a part → its videos.
    """
    predicted = _maps_of_sampled
    if run.map_plan.outside:
        predicted = _maps_of_folder
    elif run.map_plan.window:
        predicted = _maps_of_windows
    shards: dict[str, list[Path]] = {}
    for split, source in sources.items():
        names = [fact["video"] for fact in source.facts]
        shards[split] = [folder / f"{split}{i}.npz" for i in range(len(source))]
        with progress(len(_own(source)), f"maps: {split}", "video") as bar:
            for index, maps in predicted(run, variables, source):
                for i, m in zip(index, maps, strict=True):
                    stored = np.floor(m * 255 + 0.5).astype(np.uint8)
                    record = {"video": names[i].decode(), "maps": stored}
                    prepare.write_shard(shards[split][i], record)
                    bar.update()
    distributed.meet()

    def pack() -> None:
        prepare.pack(prepare.Maps, folder, shards)
        for path in (path for paths in shards.values() for path in paths):
            path.unlink()

    distributed.first(pack)


def _own(source: loader.QualitySource) -> range:
    """Numbers of the records whose maps this process writes."""
    number, count = distributed.share()
    return range(number, len(source), count)


def _maps_of_sampled(
    run: Run, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Maps]:
    """(record numbers, their maps): the sampled frames of a record are one window.

    All processes predict each batch together.
    """
    apply = meshes.jit_predict(
        lambda v, batch: run.model.apply(v, batch["frames"], method="maps"), run.mesh
    )
    for index, maps in run.predict(apply, variables, source, run.config.maps.batch_size):
        own = np.isin(index, _own(source))
        yield index[own], [run.map_plan.of_sampled(m) for m in maps[own]]


def _maps_of_folder(
    run: Run, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Maps]:
    """(record number, its maps): what another model made; there are no variables."""
    home = Path(run.config.maps.folder)
    for i in _own(source):
        fact = source.facts[i]
        length = int(fact["length"])
        maps = read_maps(
            folder_of(home, fact["video"].decode()),
            run.sampling.indices(length),
            length,
            run.map_plan.choice,
            run.saliency_size,
            run.config.preset,
        )
        yield np.array([i]), [maps]


def _maps_of_windows(
    run: Run, variables: Mapping[str, Any], source: loader.QualitySource
) -> Iterator[Maps]:
    """(record number, its maps): windows over every frame, from the source files.

    Each process predicts for videos of its own, on its own devices.
    """
    here = meshes.make_mesh(jax.local_devices())
    variables = meshes.put_whole(jax.device_get(variables), here)
    look = jax.jit(lambda v, frames: run.model.apply(v, frames, method="maps"))
    for i in _own(source):
        fact = source.facts[i]
        path = Path(run.facts["videos"] or run.data / "videos") / fact["video"].decode()
        if not path.is_file():
            raise StageError(f"{path}: is gone, and maps of every frame need the source files")
        length = int(fact["length"])

        def read(indices: np.ndarray, antialias: bool, path: Path = path) -> np.ndarray:
            return decode_frames(path, indices, run.sampling.size, antialias=antialias)

        maps = run.map_plan.maps(
            lambda frames: look(variables, frames), read, run.sampling.indices(length), length
        )
        yield np.array([i]), [maps]
