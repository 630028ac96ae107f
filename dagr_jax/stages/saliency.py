"""Stages `saliency` and `maps`: the saliency network and what it predicts."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dagr_jax import saliency_metrics
from dagr_jax.data import loader, prepare
from dagr_jax.stages.run import Run, initial, pretrained_saliency, resolve_steps
from dagr_jax.train import mesh as meshes
from dagr_jax.train.augment import Augment
from dagr_jax.train.checkpoints import Best
from dagr_jax.train.loop import fit, predict_all
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import SaliencyTask


def saliency_stage(run: Run) -> Path | None:
    """Pretrains the saliency network: checkpoints and log in `saliency/`."""
    if not run.uses_saliency:
        return None
    source = loader.SaliencySource(run.data, "train")
    section = resolve_steps(run.config.saliency, len(source))
    task = SaliencyTask(
        run.saliency_model, run.config.preset, section.gamma, Augment(flip=section.flip)
    )
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
    variables = pretrained_saliency(run)
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
        names = [fact["video"] for fact in source.facts]
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


def saliency_report(run: Run, params: Any, stats: Any) -> dict[str, Any]:
    """CC and NSS on the saliency test part, beside maps that ignore the video."""
    source = loader.SaliencySource(run.data, "test")
    task = SaliencyTask(run.saliency_model, run.config.preset)
    predict = meshes.jit_predict(task.predict, run.mesh)
    variables = {"params": params["saliency"], "batch_stats": stats["saliency"]}
    size = run.config.saliency.batch_size
    scores: dict[str, Any] = dict(saliency_scores(run, predict, variables, source, size))

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
