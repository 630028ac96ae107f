"""Correctness of the networks: golden numbers, a training step, fast forms."""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax import convert
from dagr_jax.bench import golden
from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import dtypes, stored
from dagr_jax.bench.gpu.timing import NOT_STARTED, THREADS, first_line
from dagr_jax.bench.sides import precision
from dagr_jax.layers.attention import TemporalTransformer
from dagr_jax.layers.conv2d import conv2d, kernel_gradient
from dagr_jax.layers.conv3d import FORMS, conv3d, field_conv3d, upsampled_conv3d
from dagr_jax.models.dagr import losses

# Largest allowed errors. Golden values: in units of their standard deviation. Golden scores: in
# units of the largest, because the three scores of a network may differ by a thousandth only.
# Golden gradients: relative to their norm. Fast forms: in units of the largest value. TF32 has only
# ten mantissa bits, so its errors are reported without a limit.
ALLOWED = {"float32": 1e-3, "bfloat16": 3e-2}
ALLOWED_SCORES = {"float32": 1e-4, "bfloat16": 3e-2}
ALLOWED_FORMS = {"float32": 1e-5, "bfloat16": 2e-2}
# The transforms of minimal filtering lose digits that bfloat16 does not have, so "auto" never takes
# them in bfloat16. The error is shown and not judged.
ALLOWED_FILTERING = {"float32": 1e-5}


@dataclasses.dataclass(frozen=True)
class Check:
    """A correctness check.

    Attributes:
        what: Name of the check.
        off: Function: type → error.
        allowed: {type: largest allowed error}. Errors of other types are reported without a limit.
    """

    what: str
    off: Callable[[str], float]
    allowed: dict[str, float]


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yields a row for each check and type: "off", "allowed" and "within"."""
    # float32 first: where that is wrong, the rest says nothing.
    order = sorted(dtypes(), key=["float32", "bfloat16", "tf32"].index)
    golden_numbers, forms = list(_golden()), list(_forms())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        rows = [
            pool.submit(_checked, check, dtype, plan)
            for dtype in order
            for check in (golden_numbers if dtype in plan.sizes.golden else []) + forms
        ]
        for row in rows:
            yield row.result()


def _checked(check: Check, dtype: str, plan: Plan) -> dict[str, Any]:
    """Returns the row of one check in one type."""
    row: dict[str, Any] = {"what": check.what, "dtype": dtype}
    if plan.left < 0:
        return {**row, "error": f"{NOT_STARTED}: no time was left"}
    try:
        with precision(dtype):
            off = check.off(dtype)
    except Exception as error:  # the other checks still run
        return {**row, "error": first_line(error)}
    row["off"] = float(f"{off:.3e}")
    if (allowed := check.allowed.get(dtype)) is not None:
        row |= {"allowed": allowed, "within": bool(off <= allowed)}
    return row


def _golden() -> Iterator[Check]:
    video = functools.cache(lambda: np.moveaxis(golden.data([7, 1], 2, 8, 3, 40, 56), 2, -1))
    fused = functools.cache(lambda: np.moveaxis(golden.data([7, 3], 3, 3, 8, 64, 96), 1, -1))
    for name in ("unet_registers", "unet_plain"):

        def logits(dtype: str, name: str = name) -> float:
            model, variables = _network(name, dtype)
            return _spread(jax.jit(model.apply)(variables, video()), _array(name, "logits")[:, 0])

        yield Check(f"golden {name}, logits", logits, ALLOWED)
    yield Check("golden unet_registers, training step", _saliency_step, ALLOWED)
    for name, key in (
        ("simple_fusion", "simple_fusion"),
        ("spatial_only", "spatial_only"),
        ("temporal_only", "temporal_only"),
    ):

        def scores(dtype: str, name: str = name, key: str = key) -> float:
            model, variables = _network(name, dtype)
            want = _array("vqa", key)
            return _off(jax.jit(model.apply)(variables, fused()), want, np.abs(want).max())

        yield Check(f"golden {name}, scores", scores, ALLOWED_SCORES)

    def features(dtype: str) -> float:
        model, variables = _network("simple_fusion", dtype)
        apply = jax.jit(lambda v, x: model.apply(v, x, method="frame_features"))
        return _spread(apply(variables, fused()), _array("vqa", "resnet_features_mean"))

    def temporal(dtype: str) -> float:
        _, variables = _network("simple_fusion", dtype)
        own = {"params": variables["params"]["temporal"]}
        apply = jax.jit(TemporalTransformer(dtype=stored(dtype)).apply)
        given = _array("vqa", "resnet_features_mean")
        return _spread(apply(own, given), _array("vqa", "temporal_features"))

    yield Check("golden simple_fusion, ResNet features", features, ALLOWED)
    yield Check("golden simple_fusion, transformer", temporal, ALLOWED)
    yield Check("golden simple_fusion, loss and gradients", _quality_step, ALLOWED)


def _network(name: str, dtype: str) -> tuple[Any, Any]:
    model, variables = _converted(name)
    return model.clone(dtype=stored(dtype)), variables


def _converted(name: str) -> tuple[Any, Any]:
    with _CONVERTING:  # once, whichever thread comes first
        return _once_converted(name)


@functools.cache
def _once_converted(name: str) -> tuple[Any, Any]:
    return convert.from_state_dict(golden.weights(name))


_CONVERTING = threading.Lock()


@functools.cache
def _arrays(name: str) -> dict[str, np.ndarray]:
    return golden.arrays(name)


def _array(name: str, key: str) -> np.ndarray:
    return _arrays(name)[key]


def _spread(found: Any, want: np.ndarray) -> float:
    """Returns the largest error in units of the standard deviation of the golden values."""
    return _off(found, want, want.std())


def _off(found: Any, want: np.ndarray, unit: float) -> float:
    off = np.abs(np.asarray(found, np.float64) - want).max() / unit
    return float(off) if np.isfinite(off) else float("inf")


def _saliency_step(dtype: str) -> float:
    """Returns the median error of the gradients of a training step, relative to their norms.

    The largest error is not used. The gradients of the first encoder level and of the registers are
    sums over all positions that nearly cancel, so that even float32 has an error of about 1/100.
    """
    model, variables = _network("unet_registers", dtype)
    video = np.moveaxis(golden.data([7, 1], 2, 8, 3, 40, 56), 2, -1)
    target = golden.data([7, 2], 2, 8, 1, 40, 56)[:, :, 0]

    def loss_of(params: Any) -> Any:
        logits, new = model.apply(
            {**variables, "params": params}, video, train=True, mutable=["batch_stats"]
        )
        return losses.saliency_loss(logits, target, preset="release")[0], new["batch_stats"]

    step = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, stats), grads = step(variables["params"])
    named = convert.to_state_dict("unet3d", model, {"params": grads, "batch_stats": stats})
    return _step_error("unet_registers", "train_loss", loss, named)


def _quality_step(dtype: str) -> float:
    """Returns the error of `_saliency_step` for the full quality network, in eval mode."""
    model, variables = _network("simple_fusion", dtype)
    fused = np.moveaxis(golden.data([7, 3], 3, 3, 8, 64, 96), 1, -1)
    target = golden.data([7, 4], 3)

    def loss_of(params: Any) -> Any:
        scores = model.apply({**variables, "params": params}, fused)
        return losses.quality_loss(scores, target, preset="release")[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(variables["params"])
    named = {"params": grads, "batch_stats": variables["batch_stats"]}
    return _step_error("vqa", "loss", loss, convert.to_state_dict("vqa", model, named))


def _step_error(name: str, key: str, loss: Any, named: dict[str, np.ndarray]) -> float:
    """Returns the maximum of the relative error of the loss and the median gradient error."""
    want = float(_array(name, key))
    off = [1e-3 * error for error in golden.gradient_errors(_arrays(name), named).values()]
    return max(abs(float(loss) - want) / abs(want), float(np.median(off)))


def _forms() -> Iterator[Check]:
    """Yields checks of each fast form against the plain form in float64, value and gradients."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    x, kernel = normal(2, 8, 14, 18, 32), normal(3, 3, 3, 32, 24)
    for form in FORMS:
        if form not in ("auto", "native"):
            yield _form(f"3-D convolution, {form}", conv3d, form, x, kernel)
    low, skip = normal(1, 5, 8, 10, 128), normal(1, 8, 14, 18, 16)
    joined = normal(3, 3, 3, 144, 24)
    yield _form("convolution of an enlarged half", upsampled_conv3d, "winograd", low, skip, joined)
    field, video = normal(8, 4), normal(2, 8, 14, 18, 3)
    constant = normal(3, 3, 3, 7, 24)
    yield _form(
        "convolution of constant channels", field_conv3d, "winograd", field, video, constant
    )
    image, square = normal(4, 28, 30, 32), normal(3, 3, 32, 24)

    def two_d(image: Any, kernel: Any, form: str) -> Any:
        if form != "native":
            return conv2d(image, kernel)
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=axes)

    yield _form("2-D convolution 3x3", two_d, "ours", image, square)
    yield _form("2-D convolution 1x1", two_d, "ours", image, normal(1, 1, 32, 24))

    def by_kernel(image: Any, gradient: Any, form: str) -> Any:
        if form != "native":
            return kernel_gradient(image, gradient, 3)
        zero = jnp.zeros((3, 3, 32, 24), image.dtype)
        return jax.vjp(lambda k: two_d(image, k, "native"), zero)[1](gradient)[0]

    yield _form("gradient by a 2-D kernel", by_kernel, "ours", image, normal(4, 28, 30, 24))


def _form(what: str, function: Callable[..., Any], form: str, *arguments: np.ndarray) -> Check:
    def off(dtype: str) -> float:
        given = [jnp.asarray(a, stored(dtype)) for a in arguments]
        fast = _values(function, form, *given)
        # In float64 on the CPU, with the same rounded inputs: not every card convolves float64.
        rounded = [np.asarray(a, np.float64) for a in given]
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            exact = _values(function, "native", *rounded)
        return max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(fast, exact, strict=True)
        )

    return Check(what, off, ALLOWED_FILTERING if form in _FILTERING else ALLOWED_FORMS)


_FILTERING = ("winograd", "mixed")


def _values(function: Callable[..., Any], form: str, *arguments: Any) -> list[np.ndarray]:
    """Returns the value, and the gradients of its product with a fixed direction."""

    def along(*arguments: Any) -> Any:
        y = function(*arguments, form)
        wide = jnp.result_type(float)
        direction = jnp.cos(jnp.arange(y.size, dtype=wide)).reshape(y.shape)
        return (y.astype(wide) * direction).sum(), y

    everything = tuple(range(len(arguments)))
    (_, y), grads = jax.jit(jax.value_and_grad(along, everything, has_aux=True))(*arguments)
    return [np.asarray(a, np.float64) for a in (y, *grads)]
