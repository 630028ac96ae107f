"""Stages `saliency` and `maps`: the saliency network and what it predicts."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax import saliency_metrics
from dagr_jax.data import loader, prepare
from dagr_jax.data.map_folder import folder_of, read_maps
from dagr_jax.report.plots import overlay
from dagr_jax.stages.run import Run, StageError, progress, whole_folder
from dagr_jax.stages.weights import initial, pretrained_saliency, start_from
from dagr_jax.train import hosts
from dagr_jax.train import mesh as meshes
from dagr_jax.train.augment import Augment
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.loop import fit
from dagr_jax.train.meta import Best, is_finished
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import SaliencyTask
from dagr_jax.video.decode import decode_frames

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
Maps = tuple[np.ndarray, list[np.ndarray]]  # record numbers, the maps (T, h, w) of each


def saliency_stage(run: Run) -> Path | None:
    """Pretrains the saliency network: checkpoints and log in `saliency/`."""
    if not run.uses_saliency:
        return None
    folder = run.workdir / "saliency"
    section, meta = run.section("saliency"), run.meta("saliency")
    if hosts.first(lambda: is_finished(folder, section.steps, meta)):
        return folder
    if run.saliency_data is None or (section.init and not section.steps):
        return _adopt(run, section, meta, folder)
    source = _saliency_source(run, "train")
    task = SaliencyTask(
        run.saliency_model, run.config.preset, section.gamma, Augment(flip=section.flip)
    )
    validation = _saliency_source(run, "val")
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = state.variables_to_use()
        return saliency_scores(run, predict, variables, validation, section.batch_size)

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
        share=hosts.share(),
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


def _adopt(run: Run, section: Any, meta: Mapping[str, Any], folder: Path) -> Path:
    """Takes over a network that another run trained, as it is."""
    if section.steps or not section.init:
        raise StageError(
            f"{run.data}: holds no gaze maps to train the saliency network on; set "
            "config.saliency.data_dir to a prepared saliency set, or config.saliency.init to "
            "trained weights with steps and epochs 0, or config.maps.folder to maps of another "
            "model, or config.model.args.alpha to 0"
        )
    frames = np.zeros((1, 2, *run.saliency_size, 3), np.float32)
    fresh = initial(run.saliency_model, run.config.seed, frames)
    variables = start_from(section.init, "saliency", fresh, run.config.preset)
    hosts.first(lambda: write_variables(folder, variables, meta), makes=folder)
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


def saliency_scores(
    run: Run, predict: Callable[..., Any], variables: Any, source: Any, batch_size: int
) -> dict[str, float]:
    """Mean CC and NSS of predicted maps over the frames of a saliency set."""
    scores = []
    for index, maps in run.predict(predict, variables, source, batch_size):
        scores += [
            frame_scores(source[i], m, QUICK) for i, m in zip(index.tolist(), maps, strict=True)
        ]
    return mean_scores(scores)


# (map, truth in [0, 1], fixations) → value; what is cheap enough for every validation.
QUICK: dict[str, Metric] = {
    "cc": lambda m, truth, fixations: saliency_metrics.cc(m, truth),
    "nss": lambda m, truth, fixations: saliency_metrics.nss(m, fixations),
}
ALL: dict[str, Metric] = {
    **QUICK,
    "sim": lambda m, truth, fixations: saliency_metrics.sim(m, truth),
    "kld": lambda m, truth, fixations: saliency_metrics.kld(m, truth),
    "auc_judd": lambda m, truth, fixations: saliency_metrics.auc_judd(m, fixations),
    "auc_borji": lambda m, truth, fixations: saliency_metrics.auc_borji(m, fixations, seed=0),
}


def frame_scores(
    item: Mapping[str, np.ndarray], maps: np.ndarray, scorers: Mapping[str, Metric]
) -> list[dict[str, float]]:
    """Metric → value for each frame of one saliency record; `maps` (T, h, w)."""
    truths = item["maps"] / 255.0
    return [
        {name: scorer(m, truth, fixations) for name, scorer in scorers.items()}
        for m, truth, fixations in zip(maps, truths, item["fixations"], strict=True)
    ]


def mean_scores(videos: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """The mean of each metric over all frames of all videos."""
    frames = [frame for video in videos for frame in video]
    return {name: _mean_of_defined([frame[name] for frame in frames]) for name in frames[0]}


def _mean_of_defined(values: Sequence[float]) -> float:
    """A frame without fixations has no NSS: it is left out of the mean, not counted as zero."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def maps_stage(run: Run) -> Path | None:
    """Makes the maps of the training and validation videos: the record set `maps/`.

    The test part has none: the `test` stage runs the whole model from its frames.
    """
    if not run.uses_maps:
        return None
    folder = run.workdir / "maps"
    if hosts.first(folder.exists):
        return folder
    sources = {
        part: loader.QualitySource(run.data, run.rows[part], run.mos_range)
        for part in ("train", "val")
    }
    variables = pretrained_saliency(run) if run.uses_saliency else {}
    with whole_folder(folder) as partial:
        write_maps(run, variables, partial, sources)
    return folder


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
    hosts.meet()

    def pack() -> None:
        prepare.pack(prepare.Maps, folder, shards)
        for path in (path for paths in shards.values() for path in paths):
            path.unlink()

    hosts.first(pack)


def _own(source: loader.QualitySource) -> range:
    """Numbers of the records whose maps this process writes."""
    number, count = hosts.share()
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


def maps_of_test(run: Run, params: Any, stats: Any) -> list[np.ndarray]:
    """Predicted maps (T, h, w) of each record of the saliency test part."""
    source = _saliency_source(run, "test")
    task = SaliencyTask(run.saliency_model, run.config.preset)
    predict = meshes.jit_predict(task.predict, run.mesh)
    variables = {"params": params["saliency"], "batch_stats": stats["saliency"]}
    batches = run.predict(predict, variables, source, run.config.saliency.batch_size)
    return [m for _, maps in batches for m in maps]


def _saliency_source(run: Run, part: str) -> loader.SaliencySource:
    assert run.saliency_data is not None  # the callers have looked
    return loader.SaliencySource(run.saliency_data, run.saliency_rows[part])


def saliency_report(run: Run, predicted: Sequence[np.ndarray]) -> dict[str, Any]:
    """All saliency metrics of `maps_of_test`, beside those of maps that ignore the video."""
    source, training = _saliency_source(run, "test"), _saliency_source(run, "train")
    mean_map = np.mean([training[i]["maps"].mean(0) for i in range(len(training))], axis=0)
    centre = saliency_metrics.centre_bias(*mean_map.shape)
    shape = predicted[0].shape
    return {
        **_report_on(source, predicted),
        "centre_bias": _report_on(source, [np.broadcast_to(centre, shape)] * len(source)),
        "training_mean": _report_on(source, [np.broadcast_to(mean_map, shape)] * len(source)),
    }


def _report_on(source: loader.SaliencySource, maps: Sequence[np.ndarray]) -> dict[str, float]:
    """All metrics of the maps of each record, (T, h, w) each; NaN where one is undefined."""
    looked = {c: np.zeros(maps[0].shape[1:]) for c in source.contents}
    for index, content in enumerate(source.contents):
        looked[content] += source[index]["fixations"].sum(0)
    everywhere = sum(looked.values())
    videos, steady = [], []
    for index, content in enumerate(source.contents):
        item, others = source[index], everywhere - looked[content]
        scorers = {**ALL, "auc_shuffled": _shuffled(others)}
        videos.append(frame_scores(item, maps[index], scorers))
        steady.append(saliency_metrics.temporal_consistency(maps[index], item["frames"]))
    return {**mean_scores(videos), "temporal_consistency": _mean_of_defined(steady)}


def _shuffled(others: np.ndarray) -> Metric:
    def score(m: np.ndarray, truth: np.ndarray, fixations: np.ndarray) -> float:
        return saliency_metrics.auc_shuffled(m, fixations, others, seed=0)

    return score
