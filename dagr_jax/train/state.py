"""The training state and the optimizer that updates it.

This module imports only jax, flax and optax, so that a train step can be built where nothing else
is installed.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dagr_jax.runtime.errors import DagrError

Tree = Any  # a nested dict of arrays


class OptimConfig(Protocol):
    """The `optim` section of a config: plain data, read by attribute, without defaults.

    Attributes:
        name: 'adam' (weight decay is added to the gradient, as in PyTorch's Adam) or 'adamw'
            (decoupled weight decay).
        learning_rate: Peak learning rate.
        weight_decay: Weight decay; 0: none.
        schedule: 'cosine' (from the peak to `end_value` over the whole run), 'torch_cosine'
            (PyTorch's CosineAnnealingLR: the rate changes once per epoch and rises again after
            `period` epochs) or 'constant'.
        period: T_max of 'torch_cosine', in epochs; 0 for other schedules.
        warmup_steps: Number of optimizer updates over which the rate rises linearly to the peak.
        end_value: Lowest learning rate of a cosine schedule.
        b2: Decay of Adam's second moments. Adam averages over about 1 / (1 − b2) updates.
        clip_norm: Maximum global L2 norm, to which larger gradients are scaled down; 0: none.
        accumulate: Number of train steps whose gradients are averaged into one optimizer update.
        ema: Decay of the exponential moving average of the weights; 0: none. The averaged weights
            are then evaluated, kept and used. The decay at step t is min(ema, (1 + t) / (10 + t)).
        groups: Rules (regular expression, rate, decay). The first rule that matches the whole name
            of a parameter, such as 'vqa/resnet/conv1/kernel', multiplies its learning rate by
            `rate` and its weight decay by `decay`. A rate of 0 freezes parameters, but the running
            statistics of BatchNorm layers still follow the data. Empty: no multipliers.
    """

    name: str
    learning_rate: float
    weight_decay: float
    schedule: str
    period: int
    warmup_steps: int
    end_value: float
    b2: float
    clip_norm: float
    accumulate: int
    ema: float
    groups: Sequence[tuple[str, float, float]]


class TrainState(struct.PyTreeNode):
    """Training state. It is replicated over the mesh and donated at each step.

    A checkpoint holds all of it, so that a run can resume. `params` and `batch_stats` hold the
    trained parts. `frozen` holds the top-level parts of the variables that are not trained (such as
    the saliency network of the quality model), so that the state always contains a complete model.

    Attributes:
        step: Number of train steps done, int32 scalar. With gradient accumulation, it counts
            micro-batches, not updates.
        params: Trained parameters.
        batch_stats: Running statistics of the trained parts.
        opt_state: Optax state.
        frozen: {'params': …, 'batch_stats': …} of the untrained parts; both may be empty.
        average: {'params': …, 'batch_stats': …}, the running average of the trained parts; None if
            no average is kept.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    frozen: Tree
    average: Tree | None = None

    def variables(self, params: Tree | None = None) -> dict[str, Tree]:
        """Returns the complete variables for a train step.

        Args:
            params: Trained parameters that replace those of the state; None: those of the state.
        """
        own = self.params if params is None else params
        return self._complete(own, self.batch_stats)

    def variables_to_use(self) -> dict[str, Tree]:
        """Returns the complete variables to evaluate, keep and score with.

        These are the averaged variables if the state keeps an average.
        """
        if self.average is None:
            return self.variables()
        return self._complete(self.average["params"], self.average["batch_stats"])

    def _complete(self, params: Tree, batch_stats: Tree) -> dict[str, Tree]:
        return {
            "params": {**self.frozen["params"], **params},
            "batch_stats": {**self.frozen["batch_stats"], **batch_stats},
        }

    def with_average(self) -> "TrainState":
        """Returns the state with a weight average that starts at the current weights."""
        return self.replace(average={"params": self.params, "batch_stats": self.batch_stats})

    def averaged(self, decay: float) -> "TrainState":
        """Returns the state with its average updated by the current weights.

        Args:
            decay: Decay of the average, before its warm-up.
        """
        t = self.step.astype(jnp.result_type(float))
        keep = jnp.minimum(decay, (1 + t) / (10 + t))
        now = {"params": self.params, "batch_stats": self.batch_stats}

        def mix(old: jax.Array, new: jax.Array) -> jax.Array:
            return (keep * old + (1 - keep) * new).astype(old.dtype)

        return self.replace(average=jax.tree.map(mix, self.average, now))


def create_state(
    variables: Mapping[str, Tree],
    tx: optax.GradientTransformation,
    train_only: Collection[str] | None = None,
) -> TrainState:
    """Makes a state at step 0 from the variables of a model.

    Args:
        variables: {'params', 'batch_stats'} as `Model.init` returns them, with pretrained weights
            already in place. 'batch_stats' may be missing.
        tx: Optimizer. It sees only the trained parameters.
        train_only: Names of the top-level modules to train; None: all modules.

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


def make_schedule(optim: OptimConfig, total_steps: int, epoch_steps: int = 1) -> optax.Schedule:
    """Makes the learning rate as a function of the optimizer updates done.

    Source of the cosine: docs/reference.md, sections 2 and 3.

    Args:
        optim: Optimizer settings (see `OptimConfig`).
        total_steps: Number of train steps of the whole run. With gradient accumulation, these are
            micro-batches, and micro-batches at the end that do not fill an update have no effect.
            The cosine ends with the last update.
        epoch_steps: Number of train steps of an epoch, for 'torch_cosine'.

    Raises:
        DagrError: The schedule is unknown, the warm-up fills the whole run, or 'torch_cosine' has
            no period.
    """
    updates = total_steps // optim.accumulate
    peak, warmup = optim.learning_rate, optim.warmup_steps
    if warmup >= updates > 0 and warmup > 0:
        raise DagrError(
            f"optim.warmup_steps={warmup} is not below the {updates} updates of this run; "
            "lower it or raise steps"
        )
    if optim.schedule == "cosine":
        alpha = optim.end_value / peak if peak else 0.0
        main = optax.cosine_decay_schedule(peak, max(updates - warmup, 1), alpha)
    elif optim.schedule == "torch_cosine":
        main = _torch_cosine(optim, epoch_steps)
    elif optim.schedule == "constant":
        main = optax.constant_schedule(peak)
    else:
        raise DagrError(
            f"optim.schedule={optim.schedule!r} is unknown; use cosine, torch_cosine or constant"
        )
    if not warmup:
        return main
    # The rise starts above zero: a first update at rate 0 would waste a batch.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _torch_cosine(optim: OptimConfig, epoch_steps: int) -> optax.Schedule:
    if optim.period < 1:
        raise DagrError(
            f"optim.period={optim.period}: torch_cosine needs T_max in epochs; set it to at least 1"
        )

    def rate(update: jax.typing.ArrayLike) -> jax.Array:
        # PyTorch sets the rate at the end of an epoch: an update has the rate of its last batch.
        last = (jnp.asarray(update) + 1) * optim.accumulate - 1
        epoch = last // epoch_steps
        swing = (1 + jnp.cos(jnp.pi * epoch / optim.period)) / 2
        return optim.end_value + (optim.learning_rate - optim.end_value) * swing

    return rate


def make_optimizer(
    optim: OptimConfig, total_steps: int, epoch_steps: int = 1
) -> optax.GradientTransformation:
    """Makes the optimizer: clipping, Adam or AdamW, schedule, parameter groups, accumulation.

    Args:
        optim: Optimizer settings (see `OptimConfig`).
        total_steps: Number of train steps of the whole run.
        epoch_steps: Number of train steps of an epoch, for 'torch_cosine'.

    Raises:
        DagrError: The optimizer or the schedule is unknown, or accumulate is below 1. `init` of the
            optimizer raises it if no group covers a parameter, or if a group covers no parameter.
    """
    if optim.accumulate < 1:
        raise DagrError(f"optim.accumulate={optim.accumulate} must be at least 1")
    if optim.name not in ("adam", "adamw"):
        raise DagrError(f"optim.name={optim.name!r} is unknown; use adam or adamw")
    schedule = make_schedule(optim, total_steps, epoch_steps)

    def adam(rate: float, decay: float) -> optax.GradientTransformation:
        if not rate:
            return optax.set_to_zero()

        def scaled(update: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
            return rate * schedule(update)

        own_rate = schedule if rate == 1 else scaled
        weight_decay = decay * optim.weight_decay
        if optim.name == "adamw":
            return optax.adamw(own_rate, b2=optim.b2, weight_decay=weight_decay)
        plain = optax.adam(own_rate, b2=optim.b2)
        if not weight_decay:
            return plain
        return optax.chain(optax.add_decayed_weights(weight_decay), plain)

    parts = []
    if optim.clip_norm:
        if any(not rate for _, rate, _ in optim.groups):
            # Frozen parameters do not count in the norm.
            parts.append(_by_group(optim, lambda rate, _: _pass_or_stop(rate)))
        parts.append(_clip(optim.clip_norm))
    parts.append(_by_group(optim, adam) if optim.groups else adam(1.0, 1.0))
    tx = optax.chain(*parts)
    if optim.accumulate == 1:
        return tx
    # Clipping is inside: it acts on the averaged gradient, as on one large batch.
    multi = optax.MultiSteps(tx, optim.accumulate, accumulator_dtype=jnp.result_type(float))
    return multi.gradient_transformation()


def _clip(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients down to a global L2 norm, with the 1e-6 of PyTorch's clip_grad_norm_.

    Args:
        max_norm: Largest global L2 norm.
    """

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _pass_or_stop(rate: float) -> optax.GradientTransformation:
    return optax.identity() if rate else optax.set_to_zero()


def _by_group(
    optim: OptimConfig, make: Callable[[float, float], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """Applies one transformation per group.

    Args:
        optim: Optimizer settings, with `groups`.
        make: Function (rate, decay) of a group → transformation.
    """
    return optax.multi_transform(
        {str(i): make(rate, decay) for i, (_, rate, decay) in enumerate(optim.groups)},
        functools.partial(_labels, [pattern for pattern, _, _ in optim.groups]),
    )


def _labels(patterns: Sequence[str], params: Tree) -> Tree:
    """Returns, for each parameter, the number of the first pattern that matches its whole name.

    Args:
        patterns: Regular expressions.
        params: Tree of parameters.

    Returns:
        A tree like `params` of numbers as strings.

    Raises:
        DagrError: A pattern is invalid, no pattern matches a parameter, or a pattern is not the
            first match of any parameter.
    """
    uncovered, used = [], set()
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise DagrError(
            f"optim.groups: {error.pattern!r} is not a valid regular expression ({error}); "
            "correct it"
        ) from error

    def label(path: Sequence[Any], _: Any) -> str:
        name = "/".join(str(part.key) for part in path)
        for number, pattern in enumerate(compiled):
            if pattern.fullmatch(name):
                used.add(number)
                return str(number)
        uncovered.append(name)
        return ""

    labels = jax.tree_util.tree_map_with_path(label, params)
    if uncovered:
        raise DagrError(
            f"optim.groups: no rule matches {', '.join(uncovered)}; "
            "add ('.*', 1.0, 1.0) as the last rule"
        )
    if idle := [p for number, p in enumerate(patterns) if number not in used]:
        raise DagrError(
            f"optim.groups: {', '.join(map(repr, idle))} is not the first match of any parameter; "
            "correct or remove it"
        )
    return labels
