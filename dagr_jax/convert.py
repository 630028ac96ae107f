"""PyTorch state_dicts of the release → Flax models and variables (REFERENCE sections 2 and 3).

Five networks are known, by their keys: the saliency net with and without registers, and the full,
spatial-only and temporal-only quality nets. Sizes are read from the arrays; the check of names and
shapes is two-sided and complete before anything is returned. How a parameter is laid out follows
from the type of its layer, never from its rank.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.models import unet3d, vqa

Arrays = Mapping[str, np.ndarray]
Permute = Callable[[np.ndarray], np.ndarray]


class StateDictError(ValueError):
    """A state_dict that is not one of the five networks; the message lists every difference."""


@dataclass(frozen=True)
class _Rule:
    """One parameter of a layer type: its key's ending, its place in Flax, its layout."""

    suffix: str
    collection: str
    name: str
    to_flax: Permute
    to_torch: Permute


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _axes(*order: int) -> tuple[Permute, Permute]:
    """A transposition to Flax's axes, and back."""
    back = tuple(int(i) for i in np.argsort(order))
    return lambda a: a.transpose(order), lambda a: a.transpose(back)


_BIAS = _Rule(".bias", "params", "bias", _same, _same)

_LAYERS: dict[str, tuple[_Rule, ...]] = {
    "conv2d": (_Rule(".weight", "params", "kernel", *_axes(2, 3, 1, 0)),),
    "conv3d": (_Rule(".weight", "params", "kernel", *_axes(2, 3, 4, 1, 0)), _BIAS),
    # A 1×1×1 convolution is a linear map of the channels here.
    "conv1x1x1": (
        _Rule(
            ".weight",
            "params",
            "kernel",
            lambda a: a[:, :, 0, 0, 0].T,
            lambda a: a.T[:, :, None, None, None],
        ),
        _BIAS,
    ),
    "linear": (_Rule(".weight", "params", "kernel", *_axes(1, 0)), _BIAS),
    # The attention's joint projection: PyTorch joins its names with an underscore.
    "in_proj": (
        _Rule("_weight", "params", "kernel", *_axes(1, 0)),
        _Rule("_bias", "params", "bias", _same, _same),
    ),
    "layernorm": (_Rule(".weight", "params", "scale", _same, _same), _BIAS),
    "batchnorm": (
        _Rule(".weight", "params", "scale", _same, _same),
        _BIAS,
        _Rule(".running_mean", "batch_stats", "mean", _same, _same),
        _Rule(".running_var", "batch_stats", "var", _same, _same),
    ),
    "tokens": (
        _Rule(
            "", "params", "tokens", lambda a: a[0, :, :, 0, 0], lambda a: a[None, :, :, None, None]
        ),
    ),
}

# (PyTorch's name of a layer, its path in Flax, its type)
Layer = tuple[str, str, str]


def from_state_dict(arrays: Arrays) -> tuple[nn.Module, dict[str, Any]]:
    """Converts a state_dict of the PyTorch release.

    Keys may carry the prefix 'module.'; 'num_batches_tracked' is not needed. The number of
    attention heads cannot be read from arrays: it is the release's, 4 in the full net and 1 in the
    temporal-only one.

    Args:
      arrays: name → array, the bare state_dict.

    Returns:
      model: `unet3d.Model` or `vqa.Model` with preset 'release' and the sizes of the arrays.
      variables: {'params', 'batch_stats'}, float32; without 'batch_stats' where there are none.

    Raises:
      StateDictError: the network is none of the five, or keys are missing, unexpected or of the
        wrong shape; all of them are listed.
    """
    arrays = _strip(arrays)
    model, layers = _recognise(arrays)
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    try:
        template = jax.eval_shape(model.init, jax.random.key(0), video)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise StateDictError(f"the sizes in the state_dict fit no network: {error}") from error

    flat: dict[str, Any] = {}
    expected: set[str] = set()
    missing, misshapen = [], []
    for torch_name, path, kind in layers:
        for rule in _LAYERS[kind]:
            key = torch_name + rule.suffix
            expected.add(key)
            place = f"{rule.collection}/{path}/{rule.name}"
            want = rule.to_torch(np.broadcast_to(np.float32(0), _leaf(template, place).shape)).shape
            if key not in arrays:
                missing.append(key)
            elif arrays[key].shape != want:
                misshapen.append(f"{key} {arrays[key].shape} instead of {want}")
            else:
                flat[place] = rule.to_flax(arrays[key])
    unexpected = [
        key for key in arrays if key not in expected and not key.endswith("num_batches_tracked")
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise StateDictError(f"the state_dict does not fit {_describe(model)}: {listed}")
    return model, _nest(flat)


def _strip(arrays: Arrays) -> dict[str, np.ndarray]:
    """Arrays as numpy, names without the 'module.' that parallel wrappers add."""
    stripped: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        name = key
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in stripped:
            raise StateDictError(f"the state_dict holds {name} twice, with and without 'module.'")
        stripped[name] = np.asarray(value)
    return stripped


def _recognise(arrays: Arrays) -> tuple[nn.Module, list[Layer]]:
    """The model that the keys name, of the arrays' sizes, and its layers."""
    if any(key.startswith("encoder1.") for key in arrays):
        return _recognise_unet(arrays)
    if any(key.startswith("combined_projector.") for key in arrays):
        return _recognise_vqa(arrays, "full")
    if any(key.startswith("spatial_projector.") for key in arrays):
        return _recognise_vqa(arrays, "spatial")
    if any(key.startswith("temporal_analyzer.proj.") for key in arrays):
        return _recognise_vqa(arrays, "temporal")
    some = ", ".join(list(arrays)[:3]) or "no key at all"
    raise StateDictError(
        "the state_dict is none of the five networks of the release: it has none of encoder1.*, "
        f"combined_projector.*, spatial_projector.*, temporal_analyzer.proj.* but {some}; "
        "give the bare state_dict (the entry model_state_dict or state_dict of a checkpoint)"
    )


def _recognise_unet(arrays: Arrays) -> tuple[nn.Module, list[Layer]]:
    levels = max(_numbers(arrays, r"encoder([1-9]\d*)\."))
    registers = any(key == "register_tokens" or key.startswith("token_proj.") for key in arrays)
    paper = unet3d.Model()
    model = unet3d.Model(
        widths=tuple(
            _size(arrays, f"encoder{i}.0.weight", 0, (*paper.widths, *[64] * i)[i - 1])
            for i in range(1, levels + 1)
        ),
        bottleneck=_size(arrays, "bottleneck.0.weight", 0, paper.bottleneck),
        num_registers=_size(arrays, "register_tokens", 1, paper.num_registers) if registers else 0,
        register_dim=_size(arrays, "register_tokens", 2, paper.register_dim),
        preset="release",
    )
    blocks = [f"encoder{i}" for i in range(1, levels + 1)] + ["bottleneck"]
    blocks += [f"decoder{i}" for i in range(levels, 0, -1)]
    layers: list[Layer] = []
    if registers:
        layers.append(("register_tokens", "registers", "tokens"))
        layers.append(("token_proj", "registers/proj", "conv1x1x1"))
    for block in blocks:
        for i, (conv, norm) in enumerate(((0, 1), (3, 4)), start=1):
            layers.append((f"{block}.{conv}", f"{block}/conv{i}", "conv3d"))
            layers.append((f"{block}.{norm}", f"{block}/bn{i}", "batchnorm"))
    layers.append(("attention.0", "attention1", "conv1x1x1"))
    layers.append(("attention.2", "attention2", "conv1x1x1"))
    layers.append(("final_conv", "final_conv", "conv1x1x1"))
    return model, layers


def _recognise_vqa(arrays: Arrays, head: str) -> tuple[nn.Module, list[Layer]]:
    paper = vqa.Model()
    encoder = "temporal_analyzer.transformer_encoder.layers"
    projector = {
        "full": "combined_projector",
        "spatial": "spatial_projector",
        "temporal": "temporal_analyzer.proj",
    }[head]
    stages = [
        1 + max(_numbers(arrays, rf"spatial_analyzer\.features\.{stage}\.(\d+)\."), default=-1)
        for stage in (4, 5, 6, 7)
    ]
    num_layers = 1 + max(_numbers(arrays, re.escape(encoder) + r"\.(\d+)\."), default=-1)
    projection = _size(arrays, f"{projector}.weight", 0, paper.projection_dim)
    model = vqa.Model(
        head=head,
        stage_sizes=tuple(n or m for n, m in zip(stages, paper.stage_sizes, strict=True)),
        width=_size(arrays, "spatial_analyzer.features.0.weight", 0, paper.width),
        num_layers=num_layers or paper.num_layers,
        num_heads=1 if head == "temporal" else paper.num_heads,
        mlp_dim=_size(arrays, f"{encoder}.0.linear1.weight", 0, paper.mlp_dim),
        projection_dim=projection,
        temporal_dim=projection,
        regressor=tuple(
            _size(arrays, f"regressor.regressor.{i}.weight", 0, width)
            for i, width in zip((0, 3), paper.regressor, strict=True)
        ),
        preset="release",
    )
    layers: list[Layer] = []
    if head != "temporal":
        layers += _resnet_layers(model.stage_sizes)
    if head != "spatial":
        for i in range(model.num_layers):
            here, there = f"{encoder}.{i}", f"temporal/layer{i}"
            layers.append((f"{here}.self_attn.in_proj", f"{there}/self_attn/in_proj", "in_proj"))
            layers.append((f"{here}.self_attn.out_proj", f"{there}/self_attn/out_proj", "linear"))
            for name in ("linear1", "linear2"):
                layers.append((f"{here}.{name}", f"{there}/{name}", "linear"))
            for name in ("norm1", "norm2"):
                layers.append((f"{here}.{name}", f"{there}/{name}", "layernorm"))
    layers.append((projector, "projector", "linear"))
    for i, index in enumerate((0, 3, 6)):
        layers.append((f"regressor.regressor.{index}", f"regress/linear{i}", "linear"))
    return model, layers


def _resnet_layers(stage_sizes: Sequence[int]) -> Iterator[Layer]:
    """torchvision's ResNet inside a Sequential: 0 conv1, 1 bn1, 4…7 the stages."""
    here = "spatial_analyzer.features"
    yield f"{here}.0", "resnet/conv1", "conv2d"
    yield f"{here}.1", "resnet/bn1", "batchnorm"
    for stage, blocks in enumerate(stage_sizes):
        for block in range(blocks):
            name, path = f"{here}.{4 + stage}.{block}", f"resnet/layer{stage + 1}_{block}"
            for i in (1, 2, 3):
                yield f"{name}.conv{i}", f"{path}/conv{i}", "conv2d"
                yield f"{name}.bn{i}", f"{path}/bn{i}", "batchnorm"
            if block == 0:
                yield f"{name}.downsample.0", f"{path}/downsample_conv", "conv2d"
                yield f"{name}.downsample.1", f"{path}/downsample_bn", "batchnorm"


def _size(arrays: Arrays, key: str, axis: int, default: int) -> int:
    """Length of an axis; the paper's size where the array is missing (and will be reported)."""
    if key in arrays and arrays[key].ndim > axis:
        return arrays[key].shape[axis]
    return default


def _numbers(arrays: Arrays, pattern: str) -> list[int]:
    """The numbers that the pattern finds at the start of the keys."""
    return [int(m[1]) for m in (re.match(pattern, key) for key in arrays) if m]


def _describe(model: nn.Module) -> str:
    if isinstance(model, unet3d.Model):
        registers = f"with {model.num_registers}" if model.num_registers else "without"
        return f"the saliency net {registers} registers"
    return f"the quality net with the head {model.head!r}"


def _leaf(tree: Mapping[str, Any], path: str) -> Any:
    for part in path.split("/"):
        tree = tree[part]
    return tree


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dicts of float32 device arrays of 'a/b/c' → array."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = jnp.asarray(value, jnp.float32)
    return tree
