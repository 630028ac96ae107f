"""A tiny task, to test the training loop without a network."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.train.meta import make_meta
from dagr_jax.train.state import create_state, make_optimizer
from dagr_jax.video.inputs import InputSpec, Resize, Stream

RECORDS = 24


class Tiny(nn.Module):
    """(B, 4) → (B,)."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.tanh(nn.Dense(8)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(1)(x)[:, 0]


@dataclasses.dataclass(frozen=True)
class TinyTask:
    model: nn.Module = Tiny()
    trained: tuple[str, ...] | None = None

    def loss(self, variables, batch, key):
        out = self.model.apply(variables, batch["x"], train=True, rngs={"dropout": key})
        loss = jnp.mean((out - batch["target"]) ** 2)
        return loss, (variables["batch_stats"], {"mse": loss})

    def predict(self, variables, batch):
        return self.model.apply(variables, batch["x"])


def records(bad=None):
    x = np.random.default_rng(0).uniform(-1, 1, (RECORDS, 4)).astype(np.float32)
    target = (x @ np.array([0.5, -0.3, 0.2, 0.1]) + 0.4).astype(np.float32)
    if bad is not None:
        target[bad] = np.nan
    return [{"x": x[i], "target": target[i], "index": np.int32(i)} for i in range(RECORDS)]


def batches(batch_size=8, bad=None):
    source = grain.MapDataset.source(records(bad)).shuffle(seed=3).repeat()
    # Grain reads 500 batches ahead by default, in 16 threads.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(source.batch(batch_size, drop_remainder=True).to_iter_dataset(ahead))


def optim(**changes):
    fields = {
        "name": "adam",
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 2,
        "end_value": 0.0,
        "b2": 0.999,
        "clip_norm": 1.0,
        "accumulate": 1,
        "ema": 0.0,
        "groups": (),
    }
    return SimpleNamespace(**{**fields, **changes})


def stage(**changes):
    fields = {"steps": 40, "epoch_steps": 3, "eval_every": 10, "log_every": 5, "batch_size": 8}
    fields |= {"patience": 0, "seed": 5, "optim": optim()}
    return SimpleNamespace(**{**fields, **changes})


@functools.cache
def tiny_variables():
    return jax.jit(Tiny().init)(jax.random.key(0), jnp.zeros((1, 4)))


def tiny_state(config, dropout=0.0):
    task = TinyTask(Tiny(dropout))
    return task, create_state(tiny_variables(), make_optimizer(config.optim, config.steps))


INPUTS = InputSpec({"frames": Stream("linspace", 8, Resize((8, 8)))})


def meta(**changes):
    fields = make_meta(
        model="dagr",
        model_args={"alpha": 0.5},
        preset="paper",
        dataset="synthetic",
        mos_range=(1.0, 5.0),
        inputs=json.loads(json.dumps(INPUTS.to_json())),
        settings={"window": 0, "choice": "matched"},
        config_digest="abc",
        worker_count=0,
    )
    return {**fields, **changes}


def same_bits(a, b):
    """True when two trees are equal to the last bit."""
    equal = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return jax.tree.all(equal)
