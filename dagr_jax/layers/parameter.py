"""Fast access to module parameters."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array


def parameter(
    module: nn.Module, name: str, init: Callable[..., Array], shape: Sequence[int]
) -> Array | np.ndarray:
    """Returns a float32 parameter, like `module.param(name, init, shape)`.

    `module.param` traces the initializer again at every access to compare shapes, which takes a
    third of the time to trace a network. This function compares the shapes directly.

    Args:
        module: Module that owns the parameter.
        name: Name of the parameter.
        init: Initializer, called as init(key, shape, dtype) if the parameter does not exist yet.
        shape: Shape of the parameter.

    Returns:
        The parameter, of shape `shape`.

    Raises:
        flax.errors.ScopeParamShapeError: The existing parameter has a different shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, tuple(shape), jnp.float32)
    value: Array | np.ndarray = module.get_variable("params", name)
    if jnp.shape(value) != tuple(shape):
        path = module.scope.path_text if module.scope is not None else ""
        raise ScopeParamShapeError(name, path, jnp.shape(value), tuple(shape))
    return value
