"""The two tasks, and the pure train step they share.

A task says what is trained, what the loss of a batch is, and what the model predicts. A step is a
pure function of (state, batch, key); `mesh.jit_train_step` compiles it.

Imports jax, flax, optax and the layers below alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from dagr_jax.layers.augment import Augment, augment_batch
from dagr_jax.models import dagr
from dagr_jax.models.dagr.losses import quality_loss, saliency_loss
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train.state import TrainState, Tree, create_state

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
LossFn = Callable[[dict[str, Tree], Batch, jax.Array], tuple[jax.Array, tuple[Tree, Metrics]]]


class Task(Protocol):
    """What `loop.fit` needs to know of a task."""

    def init_state(
        self, variables: Mapping[str, Tree], tx: optax.GradientTransformation
    ) -> TrainState: ...

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]: ...

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> jax.Array: ...


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, ema: float = 0.0
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, batch, key) -> (state, metrics)`.

    Args:
      loss_fn: (variables, batch, key) → (loss, (new batch_stats, metrics)); only `state.params`
        is differentiated, and of the new statistics only those of the trained part are kept.
      tx: the optimizer that made `state.opt_state`.
      ema: decay of the weights' average; the state must have one then (`with_average`).

    Returns:
      A pure function. `key` is the run's base key, the same at every step: the step number is
      folded in here, so that a resumed run draws what the uninterrupted one would have drawn.
      Metrics: 'loss', 'grad_norm' (before clipping) and those of the task, float scalars.
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


def to_unit(x: Num[Array, "..."]) -> Float[Array, "..."]:
    """[0, 255] → [0, 1] in the default float type (float64 under jax_enable_x64)."""
    return x.astype(jnp.result_type(float)) / 255


@dataclasses.dataclass(frozen=True)
class SaliencyTask:
    """Pretraining of the saliency network (REFERENCE.md §2). All of it is trained.

    Batch: frames uint8 (B,T,H,W,3), maps uint8 (B,T,H,W) ground-truth density, index int32 (B,).

    Attributes:
      model: models.dagr.unet3d.Model.
      preset: 'paper' or 'release', the loss's arithmetic.
      gamma: weight of the KL term.
      augment: frames and maps are augmented together.
    """

    model: nn.Module
    preset: str = "paper"
    gamma: float = 0.01
    augment: Augment = Augment()

    def init_state(
        self, variables: Mapping[str, Tree], tx: optax.GradientTransformation
    ) -> TrainState:
        """A state at step 0 that trains every parameter."""
        return create_state(variables, tx)

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Loss of one batch in training mode → (loss, (batch_stats, {'kl', 'cc'}))."""
        augment_key, dropout_key = jax.random.split(key)
        frames, maps = augment_batch(
            augment_key, batch["index"], batch["frames"], batch["maps"], self.augment
        )
        logits, new = self.model.apply(
            variables,
            to_unit(frames),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        assert maps is not None  # they are in the batch
        loss, parts = saliency_loss(logits, to_unit(maps), preset=self.preset, gamma=self.gamma)
        return loss, (new.get("batch_stats", {}), parts)

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> Float[Array, "b t h w"]:
        """Saliency maps of a batch, each min-max normalised to [0, 1] on its own."""
        logits = self.model.apply(variables, to_unit(batch["frames"]), train=False)
        return dagr.normalize_maps(cast(jax.Array, logits))


@dataclasses.dataclass(frozen=True)
class QualityTask:
    """Training of the quality model on frames and *stored* saliency maps (REFERENCE.md §3).

    Only the submodule 'vqa' is trained; the saliency network stays as it is and travels along in
    `TrainState.frozen`, so that every checkpoint is a complete DAGR. With `train_saliency` it is
    trained too, through the fused frames, its batch statistics as they are; it sees whole frames,
    all of them, before they are augmented. The rank term of the loss couples the whole global batch
    (with accumulation: the micro-batch).

    Batch: frames uint8 (B,T,H,W,3), maps uint8 (B,T,h,w) (may lack when the model has no saliency
    network), target float32 (B,) in [0,1], index int32 (B,).

    Attributes:
      model: models.dagr.Model.
      preset: 'paper' or 'release', the loss's arithmetic.
      weight: weight of the rank term.
      augment: frames and maps are augmented together, one draw a video.
      train_saliency: the batch needs no maps then.

    Raises:
      DagrError: `train_saliency` of the preset 'release', whose maps are rounded to 8 bits: no
        gradient passes.
    """

    model: nn.Module
    preset: str = "paper"
    weight: float = 0.1
    augment: Augment = Augment()
    train_saliency: bool = False

    def __post_init__(self) -> None:
        if self.train_saliency and self.preset == "release":
            raise DagrError(
                "train_saliency: the preset release rounds the maps, which no gradient passes; "
                "take the preset paper, or leave the saliency network as it is"
            )

    def init_state(
        self, variables: Mapping[str, Tree], tx: optax.GradientTransformation
    ) -> TrainState:
        """A state at step 0 that trains params['vqa'] (and the saliency net), freezes the rest."""
        trained = ("vqa", "saliency") if self.train_saliency else ("vqa",)
        return create_state(variables, tx, train_only=trained)

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Loss of one batch in training mode → (loss, (batch_stats, {'l1', 'rank'}))."""
        augment_key, dropout_key = jax.random.split(key)
        stored = batch.get("maps")
        if self.train_saliency:
            looked = self.model.apply(variables, batch["frames"], method="maps")
            stored = 255 * cast(jax.Array, looked)  # as stored ones are
        frames, maps = augment_batch(
            augment_key, batch["index"], batch["frames"], stored, self.augment
        )
        scores, new = self.model.apply(
            variables,
            frames,
            None if maps is None else to_unit(maps),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
            method="score",
        )
        loss, parts = quality_loss(scores, batch["target"], preset=self.preset, weight=self.weight)
        stats = {**variables["batch_stats"], **new.get("batch_stats", {})}
        return loss, (stats, parts)

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> Float[Array, " b"]:
        """Scores of a batch from its stored maps, on the [0, 1] scale of the target, unclipped.

        With `train_saliency` there are none, and the saliency network makes them.
        """
        if self.train_saliency:
            return self.predict_frames(variables, batch["frames"])
        maps = batch.get("maps")
        scores = self.model.apply(
            variables,
            batch["frames"],
            None if maps is None else to_unit(maps),
            train=False,
            method="score",
        )
        return cast(jax.Array, scores)

    def predict_frames(
        self, variables: Mapping[str, Tree], frames: Num[Array, "b t h w 3"]
    ) -> Float[Array, " b"]:
        """Scores from frames alone: the saliency network runs too."""
        return cast(jax.Array, self.model.apply(variables, frames, train=False))
