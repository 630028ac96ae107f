"""The stages of a run: prepare → saliency → maps → vqa → test.

Each takes the run and leaves one artifact in its workdir, complete or absent; a stage whose
artifact is there is not repeated.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict
from tqdm import tqdm

from dagr_jax import __version__, metrics, saliency_metrics
from dagr_jax.data import loader, prepare
from dagr_jax.models import unet3d
from dagr_jax.registry import dataset_module, model_module
from dagr_jax.report import baselines, plots, tables
from dagr_jax.train import mesh as meshes
from dagr_jax.train.augment import Augment
from dagr_jax.train.checkpoints import BY_SRCC, Best, load_variables, make_meta
from dagr_jax.train.loop import fit, predict_all
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import QualityTask, SaliencyTask


class StageError(ValueError):
    """A stage cannot run; one line that names the folder and the mend."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder that its artifacts lie in."""

    config: config_dict.ConfigDict
    workdir: Path

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return meshes.make_mesh()

    @cached_property
    def data(self) -> Path:
        """Folder of the prepared set: `config.data_dir`, or `data/` of the workdir."""
        return Path(self.config.data_dir) if self.config.data_dir else self.workdir / "data"

    @cached_property
    def mos_range(self) -> tuple[float, float]:
        low, high = dataset_module(self.config.dataset.name).MOS_RANGE
        return float(low), float(high)

    @cached_property
    def sampling(self) -> prepare.Sampling:
        chosen = self.config.sampling
        return prepare.Sampling(chosen.num_frames, chosen.rule, tuple(chosen.size))

    @cached_property
    def model_args(self) -> dict[str, Any]:
        return plain(self.config.model.args)

    @cached_property
    def model(self) -> Any:
        return model_module(self.config.model.name).Model(**self.model_args)

    @cached_property
    def saliency_model(self) -> unet3d.Model:
        args = self.model_args
        shared = {"preset": args["preset"], "dtype": args["dtype"]}
        return unet3d.Model(**{**shared, **args["saliency"]})

    @property
    def uses_saliency(self) -> bool:
        args = self.config.model.args
        return args.saliency is not None and args.alpha > 0

    @property
    def saliency_size(self) -> tuple[int, int]:
        return tuple(self.config.model.args.saliency_size or self.config.sampling.size)

    def meta(self, *sections: str) -> dict[str, Any]:
        """What a checkpoint says of itself; its digest covers the named config sections."""
        chosen = {name: plain(self.config[name]) for name in sections}
        return make_meta(
            model=self.config.model.name,
            model_args=self.model_args,
            preset=self.config.preset,
            dataset=self.config.dataset.name,
            mos_range=self.mos_range,
            sampling={"num_frames": self.sampling.num_frames, "rule": self.sampling.rule},
            resize={"size": list(self.sampling.size), "antialias": False},
            config_digest=digest(chosen),
            worker_count=self.config.workers,
        )


def plain(tree: Any) -> Any:
    """A config section as dicts, lists and numbers, as JSON holds it."""
    if isinstance(tree, config_dict.ConfigDict):
        tree = tree.to_dict()
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that stand for a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old} and is now {new}"


def _claim(path: Path, wanted: Any, what: str) -> None:
    """Raises StageError if the JSON at `path` says that something else was made there."""
    differing = list(_differences(json.loads(path.read_text()), wanted))
    if differing:
        raise StageError(
            f"{path.parent}: {what} of another configuration ({'; '.join(differing)}); "
            "take another --workdir, or delete it"
        )


def prepare_stage(run: Run) -> Path:
    """Makes or decodes the data set: `data/` with the record sets and `prepared.json`."""
    dataset = dataset_module(run.config.dataset.name)
    wanted = {
        "dataset": plain(run.config.dataset),
        "sampling": plain(run.config.sampling),
        "map_size": list(run.saliency_size),
    }
    if run.data.exists():
        _claim(run.data / "prepared.json", wanted, "a prepared set")
        return run.data
    partial = run.data.with_name(f".{run.data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    dataset.prepare(
        partial,
        sampling=run.sampling,
        map_size=run.saliency_size,
        workers=os.cpu_count() or 1,
        **plain(run.config.dataset.args),
    )
    write_json(partial / "prepared.json", wanted)
    os.replace(partial, run.data)
    return run.data


def saliency_stage(run: Run) -> Path | None:
    """Pretrains the saliency network: checkpoints and log in `saliency/`."""
    if not run.uses_saliency:
        return None
    section = run.config.saliency
    task = SaliencyTask(
        run.saliency_model, run.config.preset, section.gamma, Augment(flip=section.flip)
    )
    source = loader.SaliencySource(run.data, "train")
    validation = loader.SaliencySource(run.data, "val")
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        return saliency_scores(run, predict, state.variables(), validation, section.batch_size)

    first = source[0]["frames"]
    variables = initial(run.saliency_model, run.config.seed, first[None].astype(np.float32))
    fit(
        name="saliency",
        task=task,
        config=section,
        state=task.init_state(variables, make_optimizer(section.optim, section.steps)),
        train_iter=loader.train_iterator(
            source,
            batch_size=section.batch_size,
            seed=run.config.seed,
            workers=run.config.workers,
        ),
        evaluate=evaluate,
        workdir=run.workdir,
        meta=run.meta("seed", "preset", "dataset", "sampling", "model", "saliency"),
        mesh=run.mesh,
        best=Best("cc"),
    )
    return run.workdir / "saliency"


def initial(model: Any, seed: int, inputs: np.ndarray) -> dict[str, Any]:
    """Fresh variables, compiled as one program: op by op it takes five times as long."""
    return jax.jit(model.init)(jax.random.key(seed), inputs)


def saliency_scores(
    run: Run, predict: Callable[..., Any], variables: Any, source: Any, batch_size: int
) -> dict[str, float]:
    """Mean CC and NSS of predicted maps over the frames of a saliency set."""
    variables = jax.device_put(variables, meshes.replicated(run.mesh))
    batches = loader.eval_batches(source, batch_size=batch_size)
    scores = []
    for index, maps in predict_all(predict, variables, batches, run.mesh):
        scores += [frame_scores(source[i], m) for i, m in zip(index, maps, strict=True)]
    return _mean_scores(scores)


def frame_scores(item: Mapping[str, np.ndarray], maps: np.ndarray) -> list[tuple[float, float]]:
    """(CC, NSS) of each frame of one saliency record; `maps` (T, h, w)."""
    return [
        (saliency_metrics.cc(m, truth / 255.0), saliency_metrics.nss(m, fixations))
        for m, truth, fixations in zip(maps, item["maps"], item["fixations"], strict=True)
    ]


def _mean_scores(scores: Sequence[Sequence[tuple[float, float]]]) -> dict[str, float]:
    table = np.array([frame for video in scores for frame in video])
    # A frame without fixations has no NSS: it is left out of the mean, not counted as zero.
    cc, nss = np.nanmean(table, axis=0)
    return {"cc": float(cc), "nss": float(nss)}


def maps_stage(run: Run) -> Path | None:
    """Predicts the maps of the training and validation videos: the record set `maps/`.

    The test part has none: the `test` stage runs the whole model from its frames.
    """
    if not run.uses_saliency:
        return None
    folder = run.workdir / "maps"
    if folder.exists():
        return folder
    variables = _with_saliency(run)
    apply = meshes.jit_predict(
        lambda v, batch: run.model.apply(v, batch["frames"], method="maps"), run.mesh
    )
    variables = jax.device_put(variables, meshes.replicated(run.mesh))
    partial = folder.with_name(".maps.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards: dict[str, list[Path]] = {}
    for split in ("train", "val"):
        source = loader.QualitySource(run.data, split, run.mos_range, maps=None)
        names = [record["video"] for record in loader.facts(run.data, split)]
        shards[split] = [partial / f"{split}{i}.npz" for i in range(len(source))]
        batches = loader.eval_batches(source, batch_size=run.config.maps.batch_size)
        with tqdm(total=len(source), desc=f"maps: {split}", unit="video", disable=None) as bar:
            for index, maps in predict_all(apply, variables, batches, run.mesh):
                for i, m in zip(index, maps, strict=True):
                    stored = np.floor(m * 255 + 0.5).astype(np.uint8)
                    record = {"video": names[i].decode(), "maps": stored}
                    prepare.write_shard(shards[split][i], record)
                    bar.update()
    prepare.pack(prepare.Maps, partial, shards)
    for path in (path for paths in shards.values() for path in paths):
        path.unlink()
    os.replace(partial, folder)
    return folder


def _with_saliency(run: Run) -> dict[str, Any]:
    """Variables of the whole model: the pretrained saliency net under a fresh quality net."""
    frames = np.zeros((1, 2, *run.sampling.size, 3), np.float32)
    variables = initial(run.model, run.config.seed, frames)
    if run.uses_saliency:
        pretrained, _ = load_variables(run.workdir / "saliency")
        variables = {
            kind: {**tree, "saliency": pretrained[kind]} for kind, tree in variables.items()
        }
    return variables


def vqa_stage(run: Run) -> Path:
    """Trains the quality network on frames and stored maps: checkpoints and log in `vqa/`."""
    section = run.config.vqa
    task = QualityTask(
        run.model,
        run.config.preset,
        section.rank_weight,
        Augment(
            flip=section.augment.flip,
            jitter=section.augment.jitter,
            crop=section.augment.crop and tuple(section.augment.crop),
            frames=section.augment.frames,
        ),
    )
    maps = run.workdir / "maps" if run.uses_saliency else None
    source = loader.QualitySource(run.data, "train", run.mos_range, maps)
    validation = loader.QualitySource(run.data, "val", run.mos_range, maps)
    targets = np.array([record["mos"] for record in loader.facts(run.data, "val")], np.float64)
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = jax.device_put(state.variables(), meshes.replicated(run.mesh))
        batches = loader.eval_batches(validation, batch_size=run.config.test.batch_size)
        predictions = gather(predict_all(predict, variables, batches, run.mesh), len(targets))
        return quality_scores(to_mos(predictions, run.mos_range), targets)

    fit(
        name="vqa",
        task=task,
        config=section,
        state=task.init_state(_with_saliency(run), make_optimizer(section.optim, section.steps)),
        train_iter=loader.train_iterator(
            source,
            batch_size=section.batch_size,
            seed=run.config.seed,
            workers=run.config.workers,
        ),
        evaluate=evaluate,
        workdir=run.workdir,
        meta=run.meta("seed", "preset", "dataset", "sampling", "model", "saliency", "vqa"),
        mesh=run.mesh,
        best=BY_SRCC,
    )
    return run.workdir / "vqa"


def to_mos(prediction: np.ndarray, mos_range: tuple[float, float]) -> np.ndarray:
    """Predictions on the [0, 1] scale → MOS on the data set's own scale, float64, unclipped."""
    low, high = mos_range
    return low + np.asarray(prediction, np.float64) * (high - low)


def gather(pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """(index, prediction) pairs → predictions in record order, (count,).

    Raises:
        StageError: a record was predicted twice or not at all.
    """
    out = np.full(count, np.nan)
    seen = np.zeros(count, int)
    for index, values in pairs:
        out[index] = values
        np.add.at(seen, index, 1)
    if (seen != 1).any():
        raise StageError(
            f"{(seen == 0).sum()} of {count} records have no prediction and {(seen > 1).sum()} "
            "have several; the record set changed while it was read, run the stage again"
        )
    return out


def quality_scores(predictions: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """SRCC, PLCC, KRCC and RMSE, both arguments on the MOS scale, (N,)."""
    return {name: getattr(metrics, name)(predictions, mos) for name in METRICS}


METRICS = ("srcc", "plcc", "krcc", "rmse")


def test_stage(run: Run) -> Path:
    """Reads the test part, once: `test/predictions.csv`, `metrics.json`, `overview.png`."""
    folder = run.workdir / "test"
    if folder.exists():
        return folder
    variables, meta = load_variables(run.workdir / "vqa")
    variables = jax.device_put(variables, meshes.replicated(run.mesh))
    records = loader.facts(run.data, "test")
    source = loader.QualitySource(run.data, "test", run.mos_range, maps=None)
    predict = meshes.jit_predict(lambda v, b: run.model.apply(v, b["frames"]), run.mesh)
    batches = loader.eval_batches(source, batch_size=run.config.test.batch_size)
    with tqdm(total=len(source), desc="test: scoring", unit="video", disable=None) as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index, values in predict_all(predict, variables, batches, run.mesh):
                bar.update(len(index))
                yield index, values

        predictions = to_mos(gather(counted(), len(source)), run.mos_range)
    videos = [record["video"].decode() for record in records]
    contents = np.array([record["content"].decode() for record in records])
    mos = np.array([record["mos"] for record in records], np.float64)

    result: dict[str, Any] = {"dataset": run.config.dataset.name, "n": len(mos)}
    for name, value in quality_scores(predictions, mos).items():
        low, high = metrics.bootstrap(
            getattr(metrics, name), predictions, mos, contents, n=run.config.test.bootstrap, seed=0
        )
        result[name] = {"value": value, "low": low, "high": high}
    result["baselines"] = baselines.evaluate(loader.facts(run.data, "train"), records)
    if run.uses_saliency:
        result["saliency"] = _saliency_report(run, variables["params"], variables["batch_stats"])
    result["config_digest"] = digest(plain(run.config))
    result["version"] = __version__

    partial = folder.with_name(".test.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    rows = [
        {"video": v, "mos": f"{m:.6f}", "prediction": f"{p:.7f}"}
        for v, m, p in zip(videos, mos, predictions, strict=True)
    ]
    (partial / "predictions.csv").write_text(tables.render(rows, "csv"))
    write_json(partial / "metrics.json", result)
    chosen = plots.spread(mos)
    maps = None
    if run.uses_saliency:
        maps = [
            np.asarray(run.model.apply(variables, records[i]["frames"][None], method="maps")[0])
            for i in chosen
        ]
    plots.overview(
        partial / "overview.png",
        frames=[records[i]["frames"] for i in chosen],
        maps=maps,
        names=[videos[i] for i in chosen],
        chosen=chosen,
        mos=mos,
        predictions=predictions,
        srcc=result["srcc"],
        dataset=run.config.dataset.name,
    )
    os.replace(partial, folder)
    return folder


def _saliency_report(run: Run, params: Any, stats: Any) -> dict[str, Any]:
    """CC and NSS on the saliency test part, beside maps that ignore the video."""
    source = loader.SaliencySource(run.data, "test")
    task = SaliencyTask(run.saliency_model, run.config.preset)
    predict = meshes.jit_predict(task.predict, run.mesh)
    variables = {"params": params["saliency"], "batch_stats": stats["saliency"]}
    size = run.config.saliency.batch_size
    scores = saliency_scores(run, predict, variables, source, size)

    items = [source[i] for i in range(len(source))]
    training = loader.SaliencySource(run.data, "train")
    mean_map = np.mean([training[i]["maps"].mean(0) for i in range(len(training))], axis=0)
    priors = {
        "centre_bias": saliency_metrics.centre_bias(*mean_map.shape),
        "training_mean": mean_map,
    }
    for name, prior in priors.items():
        still = [np.broadcast_to(prior, item["maps"].shape) for item in items]
        frames = [frame_scores(item, m) for item, m in zip(items, still, strict=True)]
        scores[name] = _mean_scores(frames)
    return scores


STAGES: dict[str, Callable[[Run], Path | None]] = {
    "prepare": prepare_stage,
    "saliency": saliency_stage,
    "maps": maps_stage,
    "vqa": vqa_stage,
    "test": test_stage,
}


def run_stages(
    config: config_dict.ConfigDict, workdir: str | os.PathLike[str], names: Sequence[str] = ()
) -> None:
    """Runs stages in their order; those that are finished in `workdir` are not repeated.

    Args:
        config: As `configs/vqa.py` gives it.
        workdir: Folder of all artifacts; made if missing. A second run with the same
            configuration goes on where the first stopped.
        names: Stages of `STAGES`; none named: all of them.

    Raises:
        StageError: An unknown stage, or the workdir belongs to another configuration.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise StageError(f"unknown stage {', '.join(unknown)}; one of {', '.join(STAGES)}")
    run = Run(config, Path(workdir))
    run.workdir.mkdir(parents=True, exist_ok=True)
    home = run.workdir / "config.json"
    if home.exists():
        _claim(home, plain(config), "a run")
    else:
        write_json(home, plain(config))
    for name in [stage for stage in STAGES if not names or stage in names]:
        begin = time.perf_counter()
        artifact = STAGES[name](run)
        seconds = time.perf_counter() - begin
        what = "not needed: alpha is 0" if artifact is None else str(artifact)
        print(f"[{name}] {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)
