"""The pure train step that all training stages share.

A step is a pure function of (state, batch, key); `mesh.jit_train_step` compiles it.

This module imports only jax, flax, optax and the layers below it.
"""

from collections.abc import Callable

import jax
import optax

from dagr_jax.models.contract import Batch, Metrics, Tree
from dagr_jax.train.state import TrainState

LossFn = Callable[[dict[str, Tree], Batch, jax.Array], tuple[jax.Array, tuple[Tree, Metrics]]]


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, ema: float = 0.0
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, batch, key) -> (state, metrics)`.

    Args:
        loss_fn: Function (variables, batch, key) → (loss, (new batch_stats, metrics)). Only
            `state.params` is differentiated, and only the new statistics of the trained parts are
            kept.
        tx: Optimizer that made `state.opt_state`.
        ema: Decay of the weight average; 0: none. If it is not 0, the state must have an average
            (`with_average`).

    Returns:
        A pure function. `key` is the base key of the run, the same at every step. The function
        folds the step number in, so that a resumed run makes the same random draws as an
        uninterrupted one. The metrics are 'loss', 'grad_norm' (before clipping) and the metrics of
        the task, all float scalars.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)

        def objective(params: Tree) -> tuple[jax.Array, tuple[Tree, Metrics]]:
            return loss_fn(state.variables(params), batch, step_key)

        (loss, (stats, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        new_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats={name: stats[name] for name in state.batch_stats},
            opt_state=opt_state,
        )
        if ema:
            new_state = new_state.averaged(ema)
        return new_state, {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}

    return step
