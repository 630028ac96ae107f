"""State_dicts of small networks, with PyTorch's names."""

import numpy as np

SMALL = {"encoder1": (7, 4), "encoder2": (4, 8), "bottleneck": (8, 16)}
SMALL |= {"decoder2": (24, 8), "decoder1": (12, 4)}


def small_unet_shapes(registers: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of a saliency network with two levels, by PyTorch's names."""
    shapes: dict[str, tuple[int, ...]] = {}
    if registers:
        shapes |= {"register_tokens": (1, 4, 5, 1, 1), "token_proj.weight": (4, 5, 1, 1, 1)}
        shapes["token_proj.bias"] = (4,)
    for block, (cin, cout) in SMALL.items():
        cin = 3 if block == "encoder1" and not registers else cin
        for conv, norm, c in ((0, 1, cin), (3, 4, cout)):
            shapes[f"{block}.{conv}.weight"] = (cout, c, 3, 3, 3)
            shapes[f"{block}.{conv}.bias"] = (cout,)
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{block}.{norm}.{name}"] = (cout,)
            shapes[f"{block}.{norm}.num_batches_tracked"] = ()
    for i in (0, 2):
        shapes |= {f"attention.{i}.weight": (16, 16, 1, 1, 1), f"attention.{i}.bias": (16,)}
    return shapes | {"final_conv.weight": (1, 4, 1, 1, 1), "final_conv.bias": (1,)}


def arrays_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        key: np.array(i, np.int64)
        if key.endswith("num_batches_tracked")
        else _plausible(key, rng.standard_normal(shape)).astype(np.float32)
        for i, (key, shape) in enumerate(shapes.items())
    }


def _plausible(key: str, value: np.ndarray) -> np.ndarray:
    """Positive variances and kernels of variance 2 / fan_in, so that activations stay bounded."""
    if key.endswith("running_var"):
        return 0.5 + np.abs(value)
    return value * np.sqrt(2 / np.prod(value.shape[1:])) if value.ndim > 1 else value


def small_resnet_shapes(
    stage_sizes: tuple[int, ...] = (2, 1), width: int = 4
) -> dict[str, tuple[int, ...]]:
    """Shapes of a ResNet with ten classes, by the names of torchvision and timm."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}
    norms = [("bn1", width)]
    before = width
    for stage, blocks in enumerate(stage_sizes):
        inner = width * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (inner, before, 1, 1)
            shapes[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * inner, inner, 1, 1)
            norms += [(f"{name}.bn1", inner), (f"{name}.bn2", inner), (f"{name}.bn3", 4 * inner)]
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, before, 1, 1)
                norms.append((f"{name}.downsample.1", 4 * inner))
            before = 4 * inner
    for name, channels in norms:
        for what in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{what}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes | {"fc.weight": (10, before), "fc.bias": (10,)}


def small_full_shapes(stage_sizes: tuple[int, ...] = (2, 1), width: int = 4) -> dict:
    """Shapes of a full quality network with one encoder layer, by the names of the release."""
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in small_resnet_shapes(stage_sizes, width).items():
        child, _, rest = key.partition(".")
        if child != "fc":
            shapes[f"spatial_analyzer.features.{children[child]}.{rest}"] = shape
    d = 4 * width * 2 ** (len(stage_sizes) - 1)
    layer = "temporal_analyzer.transformer_encoder.layers.0"
    shapes |= {
        f"{layer}.self_attn.in_proj_weight": (3 * d, d),
        f"{layer}.self_attn.in_proj_bias": (3 * d,),
        f"{layer}.self_attn.out_proj.weight": (d, d),
        f"{layer}.self_attn.out_proj.bias": (d,),
        f"{layer}.linear1.weight": (6, d),
        f"{layer}.linear1.bias": (6,),
        f"{layer}.linear2.weight": (d, 6),
        f"{layer}.linear2.bias": (d,),
    }
    for norm in ("norm1", "norm2"):
        shapes |= {f"{layer}.{norm}.weight": (d,), f"{layer}.{norm}.bias": (d,)}
    widths = (2 * d, 10, 7, 5, 1)
    names = ("combined_projector", *(f"regressor.regressor.{i}" for i in (0, 3, 6)))
    for name, before, after in zip(names, widths[:-1], widths[1:], strict=True):
        shapes |= {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
    return shapes
