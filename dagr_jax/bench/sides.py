"""The two sides of a comparison: one of our networks, and PyTorch's with the same weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dagr_jax.convert import to_state_dict


def random_variables(model: Any, *inputs: Any, seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    """Variables filled with random numbers, without compiling `init`.

    Kernels have variance 2 / fan_in, scales and variances lie around one, the rest around zero.
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
    """Where PyTorch's sides run: "cuda", "cpu", or "" where it is not installed."""
    try:
        import torch
    except ImportError:
        return ""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtypes() -> list[str]:
    """Our types that are worth measuring: a CPU multiplies bfloat16 more slowly than float32."""
    return ["float32"] if jax.default_backend() == "cpu" else ["float32", "bfloat16"]


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """How programs that are traced inside multiply float32.

    Args:
        dtype: "float32" for exact products, which GPUs do not take by default; "tf32"; "bfloat16".
    """
    chosen = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}[dtype]
    with jax.default_matmul_precision(chosen):
        yield


def torch_tf32(on: bool) -> None:
    """Whether PyTorch multiplies float32 by TF32 on GPUs; the setting is the process's."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def torch_net(kind: str, model: Any, variables: Any, *, channels_last: bool = False) -> Any:
    """The network in PyTorch, with the same weights, on `torch_device`.

    Args:
        kind: "unet3d" or "vqa".
        model: Our module.
        variables: Its variables.
        channels_last: Weights in the layout that PyTorch's half-precision kernels want.
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
    """Saliency and quality network of a `dagr.Model` by `torch_net`, in eval mode."""

    def net(kind: str, part: str) -> Any:
        own = {collection: tree[part] for collection, tree in variables.items()}
        return torch_net(kind, getattr(model, part), own, channels_last=channels_last).eval()

    return net("unet3d", "saliency"), net("vqa", "vqa")
