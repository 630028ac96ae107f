"""Linear layer with PyTorch's default initialisation.

The networks start as PyTorch's do: kernels and biases uniform in ±1/sqrt(fan_in).
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
    """Initializer, uniform in ±1/sqrt(fan_in): PyTorch's default for kernels and for biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """Linear map of the last axis; also serves as a 1×1×1 convolution.

    Attributes:
      features: output channels.
      dtype: compute type (the parameters are float32); None for the default float type.
      kernel_init: None for PyTorch's default.
      bias_init: None for PyTorch's default.
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
