"""How much the register tokens depend on the content of a video (the paper's figure 6).

The tokens, and the output of `return_tokens` in the PyTorch release, are the same for every video
(docs/reference.md, section 2), so a plot of them cannot show contents. Two quantities can differ
between videos: the change that the registers cause in the first encoder level, after its ReLU, and
the features of the bottleneck. Both also depend on the pixels, which separate contents by
themselves. Controls show how much: the same features of the network with silent registers, and the
mean colour of the frames.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from dagr_jax.models.dagr import unet3d
from dagr_jax.report.registers_figure import Cloud, Registers
from dagr_jax.stages.artifacts import StageError
from dagr_jax.studies.saliency_table import network_of, records_of

# Number of label shuffles that determine the silhouette at chance level.
_SHUFFLES = 200


def registers_of(
    checkpoint: Path,
    data: Path,
    part: str,
    classes: Mapping[str, str] | None = None,
    window: int = 0,
) -> Registers:
    """Computes the features of a network with registers for the videos of a saliency set.

    Args:
        checkpoint: Working directory of a run, or folder of a stage.
        data: Folder of the prepared set.
        part: Part of the set, as in `saliency_table.records_of`.
        classes: {video: class}; None: the contents of the set.
        window: Number of successive frames that the network sees together, whose features are then
            averaged over the video; 0: all of a record.

    Returns:
        Data of figure 6.

    Raises:
        StageError, CheckpointError: The network has no registers, a video has no class, there are
            fewer than four videos or two classes, or no class has two videos.
    """
    source, _ = records_of(data, part, [checkpoint], window)
    model, variables = network_of(checkpoint, data, source, window)
    if not model.num_registers:
        raise StageError(f"{checkpoint}: its saliency network has no registers; name another")
    contents = dict(zip(source.videos, source.contents, strict=True))
    labels = tuple(contents.values()) if classes is None else _labels([*contents], classes)
    if len(labels) < 4 or not 2 <= len(set(labels)) < len(labels):
        raise StageError(
            f"{data}: {len(labels)} videos of {len(set(labels))} classes; a silhouette needs "
            "classes with several videos each, so take another set or part, or name the classes"
        )
    wanted = ("registers", "encoder1", "bottleneck")

    @jax.jit
    def look(variables: Any, frames: jax.Array) -> dict[str, jax.Array]:
        _, kept = model.apply(
            variables,
            frames.astype(jnp.float32) / 255,
            capture_intermediates=lambda module, _: module.name in wanted,
            mutable=["intermediates"],
        )
        found = {name: kept["intermediates"][name]["__call__"][0] for name in wanted}
        means = {name: found[name].mean(axis=(0, 1, 2, 3)) for name in wanted[1:]}
        return {**means, "registers": found["registers"]}

    silent = without_registers(variables)
    kept: dict[str, list[dict[str, np.ndarray]]] = {video: [] for video in contents}
    for i, video in enumerate(source.videos):
        frames = source[i]["frames"][None]
        seen, bare = jax.device_get((look(variables, frames), look(silent, frames)))
        bare = {f"{name} silent": bare[name] for name in wanted[1:]}
        kept[video].append({**seen, **bare, "colour": frames.mean((0, 1, 2, 3))})

    def features(name: str) -> np.ndarray:
        return np.stack([np.mean([one[name] for one in own], axis=0) for own in kept.values()])

    response = features("encoder1") - features("encoder1 silent")
    clouds = (
        _cloud("response of the first encoder level to the registers", response, labels),
        _cloud("first encoder level, registers silent", features("encoder1 silent"), labels, True),
        _cloud("bottleneck", features("bottleneck"), labels),
        _cloud("bottleneck, registers silent", features("bottleneck silent"), labels, True),
        _cloud("mean colour", features("colour"), labels, True),
    )
    added = np.stack([one["registers"] for own in kept.values() for one in own])
    apply = jax.jit(lambda v: _tokens(model, v))
    return Registers(
        labels, np.asarray(apply(variables)), float(np.ptp(added, axis=0).max()), clouds
    )


def _labels(videos: Sequence[str], classes: Mapping[str, str]) -> tuple[str, ...]:
    missing = [video for video in videos if video not in classes]
    if missing:
        raise StageError(f"{len(missing)} videos have no class, {missing[0]!r} first; add them")
    return tuple(classes[video] for video in videos)


def without_registers(variables: Any) -> Any:
    """Returns the variables of the network with all register parameters set to 0."""
    flat = flatten_dict(variables["params"])
    silent = {k: jnp.zeros_like(v) if k[0] == "registers" else v for k, v in flat.items()}
    return {**variables, "params": unflatten_dict(silent)}


def _tokens(model: Any, variables: Any) -> jax.Array:
    """Returns the projected tokens, (N tokens, N channels).

    The layout 'channels' uses the diagonal.
    """
    own = unet3d.Registers(model.num_registers, model.register_dim)
    values = own.apply({"params": variables["params"]["registers"]}, model.num_registers)
    values = cast(jax.Array, values)
    return jnp.diag(jnp.diag(values)) if model.register_layout == "channels" else values


def _cloud(
    name: str, features: np.ndarray, classes: tuple[str, ...], control: bool = False
) -> Cloud:
    spread = features.std(axis=0)
    used = (features - features.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    if not used.shape[1]:
        raise StageError(f"{name}: is the same for all videos; nothing can be drawn")
    labels = np.asarray(classes)
    rng = np.random.default_rng(0)
    by_chance = [silhouette_score(used, rng.permutation(labels)) for _ in range(_SHUFFLES)]
    perplexity = min(30.0, (len(used) - 1) / 3)
    place = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(used)
    return Cloud(
        name,
        features,
        place,
        float(silhouette_score(used, labels)),
        float(np.quantile(by_chance, 0.95)),
        control,
    )
