"""Batch normalisation with PyTorch's conventions.

The running average of Flax's own BatchNorm uses the biased batch variance. PyTorch uses the
unbiased one (docs/reference.md, section 2), and further training of a converted network must
continue with the same convention.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.parameter import parameter


class BatchNorm(nn.Module):
    """Normalises each channel (last axis) over all other axes.

    Statistics and arithmetic are float32 (float64 with jax_enable_x64) for every input type. The
    output has the type of the input. The parameters are `scale` and `bias` (C,), the batch
    statistics `mean` and `var` (C,). Under jit with a sharded batch, the statistics are those of
    the global batch.

    Attributes:
        epsilon: Constant added to the variance.
        momentum: Weight of the new batch in the running average (as PyTorch defines momentum).
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "*b c"], *, train: bool = False
    ) -> Float[Array, "*b c"]:
        """Normalises the input.

        Args:
            x: (..., C) input.
            train: Use the statistics of the batch and update the running statistics. Otherwise use
                the running statistics.

        Returns:
            (..., C), in the type of `x`.
        """
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
            # Two passes, because E[x²] − E[x]² is imprecise for small variances.
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
