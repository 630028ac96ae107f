"""What training carries from step to step, and the optimizer that changes it.

Imports jax, flax and optax alone, so that a train step can be built where nothing else is
installed.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

Tree = Any  # a nested dict of arrays


class OptimConfig(Protocol):
    """The `optim` section of a config: plain data, read by attribute, without defaults.

    Attributes:
      name: 'adam' (weight decay is added to the gradient, as torch's Adam does) or 'adamw'
        (decoupled weight decay).
      learning_rate: the peak rate.
      weight_decay: 0 switches it off.
      schedule: 'cosine' (from the peak to `end_value`) or 'constant'.
      warmup_steps: optimizer updates over which the rate rises linearly to the peak.
      end_value: the rate at the end of the cosine.
      b2: decay of Adam's second moments; its memory is about 1 / (1 − b2) updates.
      clip_norm: gradients are scaled down to this global L2 norm; 0 switches it off.
      accumulate: train steps whose gradients are averaged into one optimizer update.
    """

    name: str
    learning_rate: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    end_value: float
    b2: float
    clip_norm: float
    accumulate: int


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint must hold to go on: replicated over the mesh, donated each step.

    `params` and `batch_stats` hold what is trained. `frozen` holds the top-level parts of the
    variables that are not (the saliency network under the quality model), so that the state
    always contains a complete model.

    Attributes:
      step: train steps done, int32 scalar (with accumulation: micro-batches, not updates).
      params: trained parameters.
      batch_stats: running statistics of the trained part.
      opt_state: Optax state.
      frozen: {'params': …, 'batch_stats': …} of the untrained parts; both may be empty.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    frozen: Tree

    def variables(self, params: Tree | None = None) -> dict[str, Tree]:
        """The complete variables for `Model.apply`, with `params` in place of the state's own."""
        own = self.params if params is None else params
        return {
            "params": {**self.frozen["params"], **own},
            "batch_stats": {**self.frozen["batch_stats"], **self.batch_stats},
        }


def create_state(
    variables: Mapping[str, Tree],
    tx: optax.GradientTransformation,
    train_only: Collection[str] | None = None,
) -> TrainState:
    """A state at step 0 from a model's variables (pretrained weights already in place).

    Args:
      variables: {'params', 'batch_stats'} as `Model.init` gives them ('batch_stats' may lack).
      tx: the optimizer; it sees the trained parameters only.
      train_only: names of the top-level modules to train; None trains all of them.

    Raises:
      ValueError: `train_only` names a module that the parameters do not have.
    """
    params = dict(variables["params"])
    stats = dict(variables.get("batch_stats", {}))
    chosen = set(params if train_only is None else train_only)
    if missing := sorted(chosen - set(params)):
        raise ValueError(
            f"cannot train {', '.join(missing)}: the parameters are {', '.join(sorted(params))}"
        )
    trained = {k: v for k, v in params.items() if k in chosen}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        batch_stats={k: v for k, v in stats.items() if k in chosen},
        opt_state=tx.init(trained),
        frozen={
            "params": {k: v for k, v in params.items() if k not in chosen},
            "batch_stats": {k: v for k, v in stats.items() if k not in chosen},
        },
    )


def make_schedule(optim: OptimConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of optimizer updates done (REFERENCE.md §2, §3: cosine).

    Args:
      optim: see `OptimConfig`.
      total_steps: train steps of the whole run (micro-batches when accumulating); the cosine
        ends with the last update.

    Raises:
      ValueError: unknown schedule, or a warm-up that fills the whole run.
    """
    updates = math.ceil(total_steps / optim.accumulate)
    peak, warmup = optim.learning_rate, optim.warmup_steps
    if warmup >= updates > 0 and warmup > 0:
        raise ValueError(
            f"optim.warmup_steps={warmup} leaves nothing of the {updates} updates of this run; "
            "lower it or raise steps"
        )
    if optim.schedule == "cosine":
        alpha = optim.end_value / peak if peak else 0.0
        main = optax.cosine_decay_schedule(peak, max(updates - warmup, 1), alpha)
    elif optim.schedule == "constant":
        main = optax.constant_schedule(peak)
    else:
        raise ValueError(f"optim.schedule={optim.schedule!r} is unknown; use cosine or constant")
    if not warmup:
        return main
    # Starts one notch above zero: a first update at rate 0 would be a wasted batch.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, main], [warmup])


def make_optimizer(optim: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Clip, Adam or AdamW, schedule, and accumulation, from the config.

    Raises:
      ValueError: an unknown optimizer or schedule, or accumulate < 1.
    """
    if optim.accumulate < 1:
        raise ValueError(f"optim.accumulate={optim.accumulate} must be at least 1")
    schedule = make_schedule(optim, total_steps)
    parts = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    if optim.name == "adamw":
        parts.append(optax.adamw(schedule, b2=optim.b2, weight_decay=optim.weight_decay))
    elif optim.name == "adam":
        if optim.weight_decay:
            parts.append(optax.add_decayed_weights(optim.weight_decay))
        parts.append(optax.adam(schedule, b2=optim.b2))
    else:
        raise ValueError(f"optim.name={optim.name!r} is unknown; use adam or adamw")
    tx = optax.chain(*parts)
    if optim.accumulate == 1:
        return tx
    # Clipping is inside: it acts on the averaged gradient, as on one large batch.
    multi = optax.MultiSteps(tx, optim.accumulate, accumulator_dtype=jnp.result_type(float))
    return multi.gradient_transformation()
