"""Initial weights of a stage: fresh, published, from another run, or from earlier stages."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax import registry
from dagr_jax.convert import READERS
from dagr_jax.models.contract import Outputs, TrainStage
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.run import Run
from dagr_jax.train.checkpoints import load_variables, tree_shapes
from dagr_jax.train.meta import complete_steps, is_finished

Tree = dict[str, Any]


def initial(stage: TrainStage, seed: int) -> Tree:
    """Makes fresh variables for the module of a stage.

    Initialisation is compiled as one program, because running it operation by operation takes five
    times as long. The "rbg" generator compiles five times as fast as the default one on CPUs. Its
    numbers are the same in every run, but differ between kinds of devices.

    Args:
        stage: The stage.
        seed: Seed of the random numbers.

    Returns:
        {"params", "batch_stats", …} of the module.

    Raises:
        DagrError: The complete model does not return `Outputs` as the contract says.
    """

    def begin(key: jax.Array, given: Any) -> Tree:
        outputs, variables = stage.module.init_with_output(key, given)
        if not stage.part:  # the complete model
            facts = registry.contract(stage.model).facts
            check_outputs(outputs, batch, facts.maps, stage.model)
        return dict(variables)

    example = {name: np.zeros(shape, np.float32) for name, shape in stage.example.items()}
    given: Any = example.get("", example)  # the only input, or all inputs by name
    batch = next(iter(stage.example.values()))[0]
    return jax.jit(begin)(jax.random.key(seed, impl="rbg"), given)


def check_outputs(outputs: Any, batch: int, maps: Collection[str], model: str) -> None:
    """Checks that a model returns what the rest of the program needs.

    Args:
        outputs: Outputs of the model, as arrays or as their shapes.
        batch: Number of videos in the batch.
        maps: Names of the maps that the model can output (`Facts.maps`).
        model: Name of the model, for the error message.

    Raises:
        DagrError: The type, a shape or the name of a map is wrong.
    """
    told, shapes = "", {}
    if isinstance(outputs, Outputs) and isinstance(outputs.maps, Mapping):
        shapes = {name: jnp.shape(one) for name, one in outputs.maps.items()}
    if not isinstance(outputs, Outputs):
        told = f"returns {type(outputs).__name__}, not Outputs"
    elif jnp.shape(outputs.score) != (batch,):
        told = f"returns a score of shape {jnp.shape(outputs.score)}, not {(batch,)}"
    elif not isinstance(outputs.maps, Mapping):
        told = "returns maps that are not a dict, name → (B, T, h, w); without maps, give {}"
    elif unknown := shapes.keys() - set(maps):
        told = f"returns the map {min(unknown)}, which Facts.maps does not describe"
    elif flat := [name for name, shape in shapes.items() if len(shape) != 4]:
        told = f"returns the map {flat[0]} of shape {shapes[flat[0]]}, not (B, T, h, w)"
    if told:
        raise DagrError(f"the model {model} {told}")


def complete_start(run: Run, stage: TrainStage) -> Tree:
    """Returns the variables that a stage starts from, including the results of earlier stages.

    Args:
        run: The run.
        stage: The stage.

    Returns:
        {"params", "batch_stats", …} of the module of the stage.

    Raises:
        StageError: An earlier stage is not finished, or the weights of another run do not match.
    """
    variables = begin_with(run, stage, run.config[stage.name].init)
    for part, name in stage.begins_with.items():
        before = run.stages[name]
        assert isinstance(before, TrainStage)  # guaranteed by the contract
        own = trained(run, before)
        kinds = variables.keys() | own.keys()
        variables = {kind: dict(variables.get(kind, {})) for kind in kinds}
        for kind, tree in own.items():
            variables[kind][part] = tree
    return variables


def begin_with(run: Run, stage: TrainStage, init: str) -> Tree:
    """Makes fresh variables for a stage and inserts published weights, or those of another run.

    Args:
        run: The run.
        stage: The stage.
        init: Working directory of another run, or the folder of a stage in it; "" for none.

    Returns:
        {"params", "batch_stats", …} of the module of the stage.

    Raises:
        StageError: The checkpoint has another preset, or a name or shape differs.
    """
    variables = initial(stage, run.config.seed)
    if not init:
        for one in stage.pretrained:
            if one.source and (own := _at(variables, one.path)):
                _put(variables, one.path, READERS[one.reader](one.source, own))
        return variables
    if stage.task.trained is None:
        return _start_from(run, init, stage.part, variables)
    # Also the parts that no stage trains, such as a frozen backbone.
    for part in [name for name in variables["params"] if name not in stage.begins_with]:
        _put(variables, (part,), _start_from(run, init, part, _at(variables, (part,))))
    return variables


def trained(run: Run, stage: TrainStage) -> Tree:
    """Returns the best variables of a finished training stage.

    Args:
        run: The run.
        stage: The stage.

    Returns:
        {"params", "batch_stats", …} of the module of the stage.

    Raises:
        StageError: The stage is not finished.
        CheckpointError: The folder of the stage belongs to another run, or cannot be read.
    """
    folder, section = run.workdir / stage.name, run.section(stage)
    wait = section.patience * section.eval_every
    if not is_finished(folder, section.steps, run.meta(stage), wait):
        done = max(complete_steps(folder), default=0)
        raise StageError(
            f"{folder}: saved at step {done} of {section.steps}; run the stage {stage.name} to "
            "its end first"
        )
    return load_variables(folder)[0]


def _start_from(run: Run, path: str, part: str, fresh: Tree) -> Tree:
    """Loads the variables of one network from the checkpoint of another run.

    The preset and the fields of `Contract.meanings` must match, because other weights have the same
    shapes but a different meaning.

    Args:
        run: This run.
        path: Working directory of another run, or the folder of a stage in it.
        part: Place of the network in a complete model; "" for the complete model.
        fresh: Fresh variables of the network in this run, for comparison of names and shapes.

    Returns:
        {"params", "batch_stats", …} of the network.

    Raises:
        StageError: The preset, another such field, a name or a shape differs.
    """
    variables, meta = load_variables(path)
    preset = run.config.get("preset", "")
    if part and part in variables["params"]:
        variables = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    if meta["preset"] != preset:
        raise StageError(
            f"{path}: its preset is {meta['preset']} and the preset of this run is {preset}; "
            "use the same preset, or another init"
        )
    theirs = meta["model_args"]
    theirs = theirs if meta["model"] in run.contract.networks else theirs.get(part) or {}
    ours = run.model_args.get(part) or {}
    for field, default in run.contract.meanings.get(part, {}).items():
        there, here = theirs.get(field, default), ours.get(field, default)
        if there != here:
            raise StageError(
                f"{path}: its {part} network has {field} {there}, and that of this run has {here}; "
                "use the model section of that run, or another init"
            )
    # A network without BatchNorm has no statistics: the tree is empty or missing.
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
            f"{'; '.join(differing[:5])}); use the model section of that run, or another init"
        )
    return variables


def _at(variables: Tree, path: tuple[str, ...]) -> Tree:
    """Returns the variables of a part, kind → tree; {} if the model has no such part."""
    found = {}
    for kind, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[kind] = tree
    return found if "params" in found else {}


def _put(variables: Tree, path: tuple[str, ...], own: Tree) -> None:
    """Inserts the variables of a part at their place in the model; changes `variables`."""
    for kind, tree in own.items():
        node = variables[kind] = dict(variables[kind])
        for name in path[:-1]:
            node[name] = dict(node[name])
            node = node[name]
        node[path[-1]] = tree
