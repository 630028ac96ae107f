"""The two sides of a comparison: our network, and its PyTorch twin with the same weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dagr_jax.convert import to_state_dict


def random_variables(model: Any, *inputs: Any, seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    """Makes random variables of a model, without compiling `init`.

    Kernels have variance 2 / fan_in. Scales and variances are around 1, all others around 0.

    Args:
        model: Flax module.
        *inputs: Arguments of `model.init`.
        seed: Seed of the values.
        **kwargs: Keyword arguments of `model.init`.
    """
    shapes = jax.eval_shape(lambda *a: model.init(jax.random.key(0), *a, **kwargs), *inputs)
    rng = np.random.default_rng(seed)

    def leaf(path: Any, x: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, x.shape)
        elif len(x.shape) > 1:
            value = rng.standard_normal(x.shape) * np.sqrt(2 / np.prod(x.shape[:-1]))
        else:
            value = 0.1 * rng.standard_normal(x.shape)
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def torch_device() -> str:
    """Returns the device of PyTorch's sides: "cuda", "cpu", or "" if it is not installed."""
    try:
        import torch
    except ImportError:
        return ""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtypes() -> list[str]:
    """Returns our types to measure; not bfloat16 on a CPU, which is slower than float32 there."""
    return ["float32"] if jax.default_backend() == "cpu" else ["float32", "bfloat16"]


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Sets the precision of float32 products in programs that are traced inside the context.

    Args:
        dtype: "float32" (full precision, which is not the default on GPUs), "tf32" or "bfloat16".
    """
    chosen = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}[dtype]
    with jax.default_matmul_precision(chosen):
        yield


def torch_tf32(on: bool) -> None:
    """Turns TF32 for float32 products on GPUs on or off in PyTorch, for the whole process."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def torch_net(kind: str, model: Any, variables: Any, *, channels_last: bool = False) -> Any:
    """Makes the PyTorch twin of a network, with the same weights, on `torch_device`.

    Args:
        kind: "unet3d" or "vqa".
        model: Our module.
        variables: Variables of the module.
        channels_last: Store weights channels last, which PyTorch's half-precision kernels need.
    """
    import torch

    from dagr_jax.bench import twin

    net = twin.twin_of(model)
    weights = to_state_dict(kind, model, variables)
    net.load_state_dict({key: torch.from_numpy(np.array(w)) for key, w in weights.items()})
    if channels_last:
        volumes = kind == "unet3d"
        net = net.to(memory_format=torch.channels_last_3d if volumes else torch.channels_last)
    return net.to(torch_device())


def torch_nets(model: Any, variables: Any, *, channels_last: bool = False) -> tuple[Any, Any]:
    """Makes the twins of the saliency and quality network of a `dagr.Model`, in eval mode.

    Args:
        model: `dagr.Model`.
        variables: Variables of the model.
        channels_last: Store weights channels last, which PyTorch's half-precision kernels need.
    """

    def net(kind: str, part: str) -> Any:
        own = {collection: tree[part] for collection, tree in variables.items()}
        return torch_net(kind, getattr(model, part), own, channels_last=channels_last).eval()

    return net("unet3d", "saliency"), net("vqa", "vqa")
