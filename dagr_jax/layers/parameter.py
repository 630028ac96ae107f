"""Parameters that cost nothing to look up."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array


def parameter(
    module: nn.Module, name: str, init: Callable[..., Array], shape: Sequence[int]
) -> Array | np.ndarray:
    """`module.param(name, init, shape)`, float32.

    Flax traces the initializer again at every look-up to compare shapes, which takes a third of
    the time to trace a network; here the shapes themselves are compared.

    Raises:
      flax.errors.ScopeParamShapeError: the parameter that is there has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, tuple(shape), jnp.float32)
    value: Array | np.ndarray = module.get_variable("params", name)
    if jnp.shape(value) != tuple(shape):
        path = module.scope.path_text if module.scope is not None else ""
        raise ScopeParamShapeError(name, path, jnp.shape(value), tuple(shape))
    return value
