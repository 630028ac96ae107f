"""A model of another package, in one file: a small CNN over crops of five frames.

It sees two corner crops of each frame, takes a cached stream of edge statistics, gives a score, a
score of each frame and a map of edges, and has one training stage.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from dagr_jax.models.config import add_training, base_config
from dagr_jax.models.contract import (
    CachedStream,
    Contract,
    Facts,
    MapFacts,
    Outputs,
    TrainStage,
)
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream

CROPS = Crops((24, 32), "corners")


def edges(clip):
    """Edge strength in [0, 1] of (B, count, T, h, w, 3) frames: (B, count, T, h, w)."""
    grey = jnp.asarray(clip, jnp.float32).mean(-1) / 255
    down, right = (jnp.abs(jnp.diff(grey, axis=axis, append=0)) for axis in (-2, -1))
    return jnp.clip(down + right, 0, 1)


class Toy(nn.Module):
    """Score of the mean over crops and frames."""

    width: int = 4

    @nn.compact
    def __call__(self, inputs, *, train=False):
        clip, stats = inputs["clip"], inputs["edges"]  # (B, count, T, h, w, 3), (B, T, 2)
        b, count, t, h, w, _ = clip.shape
        x = jnp.asarray(clip, jnp.float32).reshape(-1, h, w, 3) / 255
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2, name="conv")(x)).mean((1, 2))
        x = x.reshape(b, count, t, -1).mean(1)  # (B, T, width)
        each = nn.Dense(1, name="head")(jnp.concatenate([x, stats], -1))[..., 0]
        return Outputs(each.mean(1), {"edges": edges(clip)[:, 0]}, each)


@dataclasses.dataclass(frozen=True)
class ToyTask:
    """L1 of the score."""

    model: nn.Module
    trained = None

    def loss(self, variables, batch, key):
        """Loss of a batch → (loss, (batch_stats, metrics))."""
        off = jnp.abs(self.model.apply(variables, batch).score - batch["target"]).mean()
        return off, ({}, {"l1": off})

    def predict(self, variables, batch):
        """Scores of a batch."""
        return self.model.apply(variables, batch).score


class ToyContract(Contract):
    """See the module."""

    name = "toy"
    facts = Facts(
        title="Toy",
        paper="None, a test",
        year=2026,
        parameters=119,
        score="100 · predicted MOS on the [0, 1] scale of the training set",
        maps={"edges": MapFacts("where neighbouring pixels differ", "viridis")},
    )

    def build(self, args):
        return Toy(**args)

    def default_config(self, dataset, recipe=""):
        config = base_config("toy", {"width": 4}, dataset, ("edges", "train"))
        add_training(config, "train", batch_size=8, learning_rate=1e-2, steps=12)
        return config.lock()

    def tiny_config(self):
        config = self.default_config("synthetic")
        config.dataset.args.update({"contents": (6, 2, 3), "frames": 10})
        config.train.update({"log_every": 1, "eval_every": 2})
        config.test.bootstrap = 50
        config.workers = 0
        return config

    def inputs(self, config):
        return InputSpec({"clip": Stream("segments", 5, Resize((32, 48)), CROPS)})

    def model_args(self, config):
        return config.model.args.to_dict()

    def settings(self, config):
        return {}

    def streams(self, model, inputs, settings):
        def compute(variables, batch):
            found = edges(batch["clip"])  # (B, count, T, h, w)
            return jnp.stack([found.mean((1, 3, 4)), found.std((1, 3, 4))], -1)  # (B, T, 2)

        return (CachedStream("edges", "clip", compute, parts=()),)

    def stages(self, config):
        model = self.build(self.model_args(config))
        stream = self.streams(model, self.inputs(config), {})[0]
        train = TrainStage(
            name="train",
            records="quality",
            task=ToyTask(model),
            module=model,
            model="toy",
            args=self.model_args(config),
            example={"clip": (1, 4, 5, 24, 32, 3), "edges": (1, 5, 2)},
            streams=("edges",),
            sections=("seed", "dataset", "split", "model", "train"),
        )
        return [stream, train]


CONTRACT = ToyContract()
