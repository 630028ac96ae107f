"""The weights that a stage begins with: fresh, published, of another run, or of earlier stages."""

from typing import Any

import jax
import numpy as np

from dagr_jax.convert import load_resnet
from dagr_jax.models.contract import TrainStage
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.run import Run
from dagr_jax.train.checkpoints import load_variables, tree_shapes
from dagr_jax.train.meta import complete_steps, is_finished

Tree = dict[str, Any]


def initial(stage: TrainStage, seed: int) -> Tree:
    """Fresh variables of the module of a stage.

    They are compiled as one program: operation by operation it takes five times as long. The "rbg"
    generator compiles five times as fast as the default one on CPUs; its numbers are the same from
    run to run, but another kind of device draws others.
    """
    example = {name: np.zeros(shape, np.float32) for name, shape in stage.example.items()}
    given: Any = example.get("", example)  # the only input, or all by their names
    return jax.jit(stage.module.init)(jax.random.key(seed, impl="rbg"), given)


def complete_start(run: Run, stage: TrainStage) -> Tree:
    """The variables that a stage begins with.

    Raises:
        StageError: An earlier stage has not come to its end, or another run does not fit.
    """
    variables = begin_with(run, stage, run.config[stage.name].init)
    for part, name in stage.begins_with.items():
        before = run.stages[name]
        assert isinstance(before, TrainStage)  # the contract says so
        own = trained(run, before)
        kinds = variables.keys() | own.keys()
        variables = {kind: dict(variables.get(kind, {})) for kind in kinds}
        for kind, tree in own.items():
            variables[kind][part] = tree
    return variables


def begin_with(run: Run, stage: TrainStage, init: str) -> Tree:
    """Fresh variables of a stage, with published weights or those of another run in their place.

    Args:
        run: The run.
        stage: The stage.
        init: Working directory of another run, or the folder of a stage in it; "" for none.

    Raises:
        StageError: The checkpoint has another preset, or a name or shape differs.
    """
    variables = initial(stage, run.config.seed)
    if not init:
        for one in stage.pretrained:
            if one.source and (own := _at(variables, one.path)):
                _put(variables, one.path, load_resnet(one.source, own))
        return variables
    trained_parts = stage.task.trained
    if trained_parts is None:
        return _start_from(init, stage.part, variables, run.config.get("preset", ""))
    for part in trained_parts:
        if own := _at(variables, (part,)):
            _put(variables, (part,), _start_from(init, part, own, run.config.get("preset", "")))
    return variables


def trained(run: Run, stage: TrainStage) -> Tree:
    """The best variables of a training stage that has come to its end.

    Raises:
        StageError: It has not.
        CheckpointError: Its folder is of another run, or unreadable.
    """
    folder, steps = run.workdir / stage.name, run.section(stage).steps
    if not is_finished(folder, steps, run.meta(stage)):
        done = max(complete_steps(folder), default=0)
        raise StageError(
            f"{folder}: saved at step {done} of {steps}; run the stage {stage.name} to its end "
            "first"
        )
    return load_variables(folder)[0]


def _start_from(path: str, part: str, fresh: Tree, preset: str) -> Tree:
    """Variables of one network from the checkpoint of another run.

    Args:
        path: Working directory, or the folder of a stage in it.
        part: Place of the network in a complete model; "" for the complete model.
        fresh: Variables of the network as this run makes it.
        preset: Preset of this run. Weights of one preset fit the other and mean something else.
    """
    variables, meta = load_variables(path)
    if part and part in variables["params"]:
        variables = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    if meta["preset"] != preset:
        raise StageError(
            f"{path}: its preset is {meta['preset']} and the preset of this run is {preset}; "
            "use the same preset, or another init"
        )
    # A network without BatchNorm has no statistics: an empty tree, or none.
    variables = {kind: tree for kind, tree in variables.items() if tree}
    there, here = tree_shapes(variables), tree_shapes(fresh)
    differing = [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise StageError(
            f"{path}: its {part or 'model'} network does not match ({len(differing)} differ: "
            f"{'; '.join(differing[:5])}); use its model section, or another init"
        )
    return variables


def _at(variables: Tree, path: tuple[str, ...]) -> Tree:
    """The variables of a part, by kind; {} where the model has no such part."""
    found = {}
    for kind, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[kind] = tree
    return found if "params" in found else {}


def _put(variables: Tree, path: tuple[str, ...], own: Tree) -> None:
    """Puts the variables of a part in their place."""
    for kind, tree in own.items():
        node = variables[kind] = dict(variables[kind])
        for name in path[:-1]:
            node[name] = dict(node[name])
            node = node[name]
        node[path[-1]] = tree
