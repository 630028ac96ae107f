"""Linear layer with PyTorch's default initialisation.

Kernels and biases are uniform in ±1/sqrt(fan_in), so that networks start as in PyTorch.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from dagr_jax.layers.parameter import parameter


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns an initializer, uniform in ±1/sqrt(fan_in): PyTorch's default for kernel and bias.

    Args:
        fan_in: Number of inputs of each output.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """Linear map of the last axis, (..., C) → (..., features). Also used as 1×1×1 convolution.

    Attributes:
        features: Number of output channels.
        dtype: Compute type; None: the default float type. The parameters are float32.
        kernel_init: Initializer of the kernel; None: PyTorch's default.
        bias_init: Initializer of the bias; None: PyTorch's default.
    """

    features: int
    dtype: Any = None
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "*b c"]) -> Float[Array, "*b d"]:
        default = fan_in_uniform(x.shape[-1])
        dtype = jnp.dtype(self.dtype or jnp.result_type(float))
        kernel = parameter(
            self, "kernel", self.kernel_init or default, (x.shape[-1], self.features)
        )
        bias = parameter(self, "bias", self.bias_init or default, (self.features,))
        return jnp.asarray(x, dtype) @ jnp.asarray(kernel, dtype) + jnp.asarray(bias, dtype)
