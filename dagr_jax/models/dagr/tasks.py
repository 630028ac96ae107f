"""The two training tasks of DAGR: the loss of a batch and the prediction of each network."""

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
    """Pretraining of the saliency network (docs/reference.md, section 2). All of it is trained.

    A batch holds frames (B, T, H, W, 3) uint8, maps (B, T, H, W) uint8 ground-truth density, and
    index (B,) int32.

    Attributes:
        model: A models.dagr.unet3d.Model.
        preset: Arithmetic of the loss, 'paper' or 'release'.
        gamma: Weight of the KL term.
        augment: Augmentation, applied to frames and maps together.
    """

    model: nn.Module
    preset: str = "paper"
    gamma: float = 0.01
    augment: Augment = Augment()

    @property
    def trained(self) -> tuple[str, ...] | None:
        """None: every module of the network is trained."""
        return None

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Returns (loss, (batch_stats, {'kl', 'cc'})) of one batch in training mode.

        Args:
            variables: {'params', 'batch_stats'} of the network.
            batch: Name → array (see the class).
            key: Random key of the step.
        """
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
        assert maps is not None  # the batch contains maps
        loss, parts = saliency_loss(logits, to_unit(maps), preset=self.preset, gamma=self.gamma)
        return loss, (new.get("batch_stats", {}), parts)

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> Float[Array, "b t h w"]:
        """Returns the saliency maps (B, T, H, W) of a batch, each min-max normalised to [0, 1].

        Args:
            variables: {'params', 'batch_stats'} of the network.
            batch: Name → array, with 'frames' (B, T, H, W, 3) uint8.
        """
        logits = self.model.apply(variables, to_unit(batch["frames"]), train=False)
        return normalize_maps(cast(jax.Array, logits))


@dataclasses.dataclass(frozen=True)
class QualityTask:
    """Training of the quality model with *stored* saliency maps (docs/reference.md, section 3).

    Only the submodule 'vqa' is trained. The saliency network does not change and is kept in
    `TrainState.frozen`, so that every checkpoint is a complete DAGR. With `train_saliency`, the
    saliency network is also trained, through the fused frames, with fixed batch statistics. It
    then sees all frames, whole and before augmentation. The rank term of the loss couples the whole
    global batch (with gradient accumulation, the micro-batch).

    A batch holds frames (B, T, H, W, 3) uint8, maps (B, T, h, w) uint8 (optional if the model has
    no saliency network), target (B,) float32 in [0, 1], and index (B,) int32.

    Attributes:
        model: A models.dagr.Model.
        preset: Arithmetic of the loss, 'paper' or 'release'.
        weight: Weight of the rank term.
        augment: Augmentation, applied to frames and maps together, with one draw per video.
        train_saliency: Whether the saliency network is trained too. The batch then needs no maps.

    Raises:
        DagrError: `train_saliency` is set with the preset 'release', which rounds maps to 8 bits,
            so that no gradient reaches the saliency network.
    """

    model: Model
    preset: str = "paper"
    weight: float = 0.1
    augment: Augment = Augment()
    train_saliency: bool = False

    def __post_init__(self) -> None:
        if self.train_saliency and self.preset == "release":
            raise DagrError(
                "train_saliency: the preset release rounds the maps, so no gradient reaches the "
                "saliency network; use the preset paper, or set train_saliency to False"
            )

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Names of the top-level modules that are trained. The others do not change."""
        return ("vqa", "saliency") if self.train_saliency else ("vqa",)

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Returns (loss, (batch_stats, {'l1', 'rank'})) of one batch in training mode.

        Args:
            variables: {'params', 'batch_stats'} of the complete model.
            batch: Name → array (see the class).
            key: Random key of the step.
        """
        augment_key, dropout_key = jax.random.split(key)
        stored = batch.get("maps")
        if self.train_saliency:
            # In [0, 255], like stored maps.
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
        """Returns the scores (B,) of a batch, on the [0, 1] scale of the target, not clipped.

        The scores use the stored maps of the batch. If the batch has no maps, or with
        `train_saliency`, the saliency network computes the maps.

        Args:
            variables: {'params', 'batch_stats'} of the complete model.
            batch: Name → array (see the class).
        """
        given = {"frames": batch["frames"]}
        if "maps" in batch and not self.train_saliency:
            given["maps"] = to_unit(batch["maps"])
        return cast(Outputs, self.model.apply(variables, given, train=False)).score
