"""Batch normalisation with PyTorch's conventions.

Flax's own keeps the biased batch variance in its running average; PyTorch keeps the unbiased one
(REFERENCE section 2), and converted networks that are trained further must go on as they began.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.parameter import parameter


class BatchNorm(nn.Module):
    """Normalises the last axis (channels) over all other axes.

    Statistics and arithmetic are float32 (float64 under jax_enable_x64) whatever the input type;
    the output has the input's type.
    Parameters `scale` and `bias` (C,), batch statistics `mean` and `var` (C,). Under jit with a
    sharded batch the statistics are those of the global batch.

    Attributes:
      epsilon: added to the variance.
      momentum: weight of the new batch in the running average (PyTorch's meaning of the word).
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "*b c"], *, train: bool = False
    ) -> Float[Array, "*b c"]:
        """Args: x, (..., C); train: use the batch's statistics and update the running ones."""
        channels = (x.shape[-1],)
        scale = parameter(self, "scale", nn.initializers.ones, channels)
        bias = parameter(self, "bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        wide = jnp.asarray(x, jnp.result_type(float))
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1]
            mean = wide.mean(axes)
            # Two passes: E[x²] − E[x]² loses the digits of small variances.
            var = jnp.square(wide - mean).mean(axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = 1.0 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        y = (wide - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return y.astype(x.dtype)
