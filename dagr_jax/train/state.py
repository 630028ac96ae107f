"""What training carries from step to step, and the optimizer that changes it.

Imports jax, flax and optax alone, so that a train step can be built where nothing else is
installed.
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
      name: 'adam' (weight decay is added to the gradient, as torch's Adam does) or 'adamw'
        (decoupled weight decay).
      learning_rate: the peak rate.
      weight_decay: 0 switches it off.
      schedule: 'cosine' (from the peak to `end_value`, over the whole run), 'torch_cosine'
        (PyTorch's CosineAnnealingLR: it changes once an epoch and rises again after `period`
        epochs) or 'constant'.
      period: T_max of 'torch_cosine', in epochs; 0 elsewhere.
      warmup_steps: optimizer updates over which the rate rises linearly to the peak.
      end_value: the lowest rate of a cosine.
      b2: decay of Adam's second moments; its memory is about 1 / (1 − b2) updates.
      clip_norm: gradients are scaled down to this global L2 norm; 0 switches it off.
      accumulate: train steps whose gradients are averaged into one optimizer update.
      ema: decay of the average of the weights, which is then what is evaluated, kept and used;
        0 switches it off. It warms up: min(ema, (1 + t) / (10 + t)) at step t.
      groups: rules (regular expression, rate, decay); the first that matches the whole of a
        parameter's name, such as 'vqa/resnet/conv1/kernel', multiplies its learning rate and
        its weight decay. A rate of 0 freezes parameters; the running statistics of a BatchNorm
        among them still follow the data. Empty: everything as it is.
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
      average: {'params': …, 'batch_stats': …}, the running average of the trained part; None
        where none is kept.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    frozen: Tree
    average: Tree | None = None

    def variables(self, params: Tree | None = None) -> dict[str, Tree]:
        """The complete variables for a train step, with `params` in place of the state's own."""
        own = self.params if params is None else params
        return self._complete(own, self.batch_stats)

    def variables_to_use(self) -> dict[str, Tree]:
        """The complete variables to evaluate, keep and score with: the average where one is."""
        if self.average is None:
            return self.variables()
        return self._complete(self.average["params"], self.average["batch_stats"])

    def _complete(self, params: Tree, batch_stats: Tree) -> dict[str, Tree]:
        return {
            "params": {**self.frozen["params"], **params},
            "batch_stats": {**self.frozen["batch_stats"], **batch_stats},
        }

    def with_average(self) -> "TrainState":
        """The same state, which also averages its weights from here on."""
        return self.replace(average={"params": self.params, "batch_stats": self.batch_stats})

    def averaged(self, decay: float) -> "TrainState":
        """The state after its weights have entered their average."""
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


def make_schedule(optim: OptimConfig, total_steps: int, epoch_steps: int = 1) -> optax.Schedule:
    """The learning rate as a function of optimizer updates done (REFERENCE.md §2, §3: cosine).

    Args:
      optim: see `OptimConfig`.
      total_steps: train steps of the whole run (micro-batches when accumulating; those at the end
        that fill no update change nothing); the cosine ends with the last update.
      epoch_steps: train steps of an epoch, which 'torch_cosine' counts in.

    Raises:
      DagrError: unknown schedule, a warm-up that fills the whole run, or 'torch_cosine' without
        a period.
    """
    updates = total_steps // optim.accumulate
    peak, warmup = optim.learning_rate, optim.warmup_steps
    if warmup >= updates > 0 and warmup > 0:
        raise DagrError(
            f"optim.warmup_steps={warmup} leaves nothing of the {updates} updates of this run; "
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
    # Starts one notch above zero: a first update at rate 0 would be a wasted batch.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _torch_cosine(optim: OptimConfig, epoch_steps: int) -> optax.Schedule:
    if optim.period < 1:
        raise DagrError(
            f"optim.period={optim.period}: torch_cosine wants its T_max, in epochs; set it"
        )

    def rate(update: jax.typing.ArrayLike) -> jax.Array:
        # PyTorch sets the rate at the end of an epoch: an update has that of its last batch.
        last = (jnp.asarray(update) + 1) * optim.accumulate - 1
        epoch = last // epoch_steps
        swing = (1 + jnp.cos(jnp.pi * epoch / optim.period)) / 2
        return optim.end_value + (optim.learning_rate - optim.end_value) * swing

    return rate


def make_optimizer(
    optim: OptimConfig, total_steps: int, epoch_steps: int = 1
) -> optax.GradientTransformation:
    """Clip, Adam or AdamW, schedule, groups of parameters and accumulation, from the config.

    Raises:
      DagrError: an unknown optimizer or schedule, or accumulate < 1; from `init`: a parameter
        that no group covers, or a group that covers none.
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
            # What is frozen has no part in the norm.
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
    """Scales gradients down to a global L2 norm, with the 1e-6 of PyTorch's clip_grad_norm_."""

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _pass_or_stop(rate: float) -> optax.GradientTransformation:
    return optax.identity() if rate else optax.set_to_zero()


def _by_group(
    optim: OptimConfig, make: Callable[[float, float], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """One transformation for each group, made from its rate and decay."""
    return optax.multi_transform(
        {str(i): make(rate, decay) for i, (_, rate, decay) in enumerate(optim.groups)},
        functools.partial(_labels, [pattern for pattern, _, _ in optim.groups]),
    )


def _labels(patterns: Sequence[str], params: Tree) -> Tree:
    """The number of the first pattern that matches each parameter's whole name, as a string."""
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
            f"optim.groups covers no {', '.join(uncovered)}; end it with ('.*', 1.0, 1.0)"
        )
    if idle := [p for number, p in enumerate(patterns) if number not in used]:
        raise DagrError(
            f"optim.groups: {', '.join(map(repr, idle))} matches no parameter that an earlier "
            "rule has not; correct or drop it"
        )
    return labels
