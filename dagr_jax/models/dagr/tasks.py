"""DAGR's two training tasks: what the loss of a batch is, and what the networks predict."""

import dataclasses
from collections.abc import Mapping
from typing import cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from dagr_jax.layers.augment import Augment, augment_batch, to_unit
from dagr_jax.models.contract import Batch, Metrics, Outputs, Tree
from dagr_jax.models.dagr.losses import quality_loss, saliency_loss
from dagr_jax.models.dagr.model import Model, normalize_maps, saliency_maps
from dagr_jax.runtime.errors import DagrError


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

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Every module of the network is trained."""
        return None

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
        return normalize_maps(cast(jax.Array, logits))


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

    model: Model
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

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Top-level modules that are trained; the others stay as they are."""
        return ("vqa", "saliency") if self.train_saliency else ("vqa",)

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Loss of one batch in training mode → (loss, (batch_stats, {'l1', 'rank'}))."""
        augment_key, dropout_key = jax.random.split(key)
        stored = batch.get("maps")
        if self.train_saliency:
            # As stored ones are, in [0, 255].
            stored = 255 * saliency_maps(self.model, variables, batch["frames"])
        frames, maps = augment_batch(
            augment_key, batch["index"], batch["frames"], stored, self.augment
        )
        given = {"frames": frames} if maps is None else {"frames": frames, "maps": to_unit(maps)}
        outputs, new = self.model.apply(
            variables, given, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key}
        )
        loss, parts = quality_loss(
            outputs.score, batch["target"], preset=self.preset, weight=self.weight
        )
        stats = {**variables["batch_stats"], **new.get("batch_stats", {})}
        return loss, (stats, parts)

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> Float[Array, " b"]:
        """Scores of a batch, on the [0, 1] scale of the target, unclipped.

        From its stored maps; where it has none, or with `train_saliency`, the saliency network
        makes them.
        """
        given = {"frames": batch["frames"]}
        if "maps" in batch and not self.train_saliency:
            given["maps"] = to_unit(batch["maps"])
        return cast(Outputs, self.model.apply(variables, given, train=False)).score
