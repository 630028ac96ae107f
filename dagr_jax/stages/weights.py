"""The weights that a stage begins with: fresh, of another run, or of the stage before."""

import functools
from typing import Any

import jax
import numpy as np

from dagr_jax.convert import load_resnet
from dagr_jax.stages.run import Run, StageError
from dagr_jax.train.checkpoints import load_variables, tree_shapes
from dagr_jax.train.meta import complete_steps, is_finished


def initial(model: Any, seed: int, *inputs: np.ndarray, method: str = "__call__") -> dict[str, Any]:
    """Fresh variables, compiled as one program: op by op it takes five times as long.

    The "rbg" generator compiles five times as fast as the default one on CPUs; its numbers are
    the same from run to run, but another kind of device draws others.
    """
    init = functools.partial(model.init, method=method)
    return jax.jit(init)(jax.random.key(seed, impl="rbg"), *inputs)


def start_from(path: str, part: str, fresh: dict[str, Any], preset: str) -> dict[str, Any]:
    """Variables of one network from another run's checkpoint, to go on training from.

    Args:
        path: A workdir, or a stage's folder in one; "" returns the fresh variables.
        part: "saliency" or "vqa".
        fresh: Variables of the network as this run makes it.
        preset: Of this run. The weights of one preset fit the other and mean something else.

    Raises:
        StageError: The checkpoint has another preset, or any name or shape differs.
    """
    if not path:
        return fresh
    variables, meta = load_variables(path)
    if part in variables["params"]:
        variables = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    if meta["preset"] != preset:
        raise StageError(
            f"{path}: its preset is {meta['preset']} and this run's {preset}; "
            "take the same preset, or another init"
        )
    # A network without BatchNorm has no statistics, said by an empty tree or by none.
    variables = {kind: tree for kind, tree in variables.items() if tree}
    there, here = tree_shapes(variables), tree_shapes(fresh)
    differing = [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise StageError(
            f"{path}: its {part} network is another ({len(differing)} differ: "
            f"{'; '.join(differing[:5])}); take its model section, or another init"
        )
    return variables


def trained(run: Run, stage: str) -> dict[str, Any]:
    """The best variables of a training stage that has come to its end.

    Raises:
        StageError: It has not.
        CheckpointError: Its folder is of another run, or unreadable.
    """
    folder, steps = run.workdir / stage, run.section(stage).steps
    if not is_finished(folder, steps, run.meta(stage)):
        done = max(complete_steps(folder), default=0)
        raise StageError(
            f"{folder}: saved at step {done} of {steps}; run the stage {stage} to its end first"
        )
    return load_variables(folder)[0]


def pretrained_saliency(run: Run) -> dict[str, Any]:
    """The best variables of the `saliency` stage, in their place in the whole model's."""
    variables = trained(run, "saliency")
    return {kind: {"saliency": tree} for kind, tree in variables.items()}


def whole_model(run: Run) -> dict[str, Any]:
    """Variables of the whole model: the pretrained saliency net under the quality net's start."""
    frames = np.zeros((1, 2, *run.sampling.size, 3), np.float32)
    if run.uses_maps:
        maps = np.zeros((1, 2, *run.saliency_size), np.float32)
        fresh = initial(run.model, run.config.seed, frames, maps, method="score")
        there = pretrained_saliency(run) if run.uses_saliency else {}
        fresh = {
            kind: {**fresh.get(kind, {}), **there.get(kind, {})}
            for kind in fresh.keys() | there.keys()
        }
    else:
        fresh = initial(run.model, run.config.seed, frames)
    quality = {kind: tree["vqa"] for kind, tree in fresh.items() if "vqa" in tree}
    if run.config.vqa.backbone and "resnet" in quality["params"] and not run.config.vqa.init:
        backbone = {kind: tree["resnet"] for kind, tree in quality.items()}
        backbone = load_resnet(run.config.vqa.backbone, backbone)
        quality = {kind: {**tree, "resnet": backbone[kind]} for kind, tree in quality.items()}
    quality = start_from(run.config.vqa.init, "vqa", quality, run.config.preset)
    return {
        kind: {**tree, "vqa": quality[kind]} if kind in quality else tree
        for kind, tree in fresh.items()
    }
