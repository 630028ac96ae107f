"""The contract of the starter model: its inputs, two cached streams and one training stage."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dagr_jax.models.contract import (
    Batch,
    CachedStream,
    Config,
    Contract,
    Facts,
    TrainStage,
    Tree,
)
from dagr_jax.models.starter.model import Model
from dagr_jax.models.starter.task import HeadTask
from dagr_jax.models.weights import Pretrained
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream

# Sections of the config that the weights depend on.
_SECTIONS = ("seed", "dataset", "split", "sampling", "model", "vqa")


class Starter(Contract):
    """Frozen ImageNet features of the whole frame and of native windows, and a trained head."""

    name = "starter"
    facts = Facts(
        title="Starter",
        paper="dagr_jax, docs/starter.md",
        year=2026,
        parameters=4_253_057,
        score="100 · predicted label on the [0, 1] scale of the training set, not clipped",
    )

    def build(self, args: Mapping[str, Any]) -> nn.Module:
        return Model(**args)

    def default_config(self, dataset: str, recipe: str = "") -> Config:
        from dagr_jax.models.starter.config import default_config

        return default_config(dataset, recipe)

    def tiny_config(self) -> Config:
        from dagr_jax.models.starter.config import tiny_config

        return tiny_config()

    def inputs(self, config: Config) -> InputSpec:
        chosen = config.sampling
        frames: int = chosen.num_frames
        height, width = chosen.size
        windows = Crops(tuple(chosen.window), "spread", "spread", mirror=True)
        return InputSpec(
            {
                # Without antialiasing: the finest structure of a large frame is sampled, not lost.
                "frames": Stream("segments", frames, Resize((height, width))),
                "windows": Stream("segments", frames, crops=windows, chunk=frames),
            }
        )

    def model_args(self, config: Config) -> dict[str, Any]:
        args: dict[str, Any] = config.model.args.to_dict()
        return args

    def settings(self, config: Config) -> dict[str, Any]:
        return {"levels": list(config.model.args.levels)}  # the stored features depend on them

    def streams(
        self, model: nn.Module, inputs: InputSpec, settings: Mapping[str, Any]
    ) -> Sequence[CachedStream]:
        return self._streams(model, batch_size=1)

    def _streams(self, model: nn.Module, batch_size: int) -> tuple[CachedStream, ...]:
        assert isinstance(model, Model)
        return tuple(
            CachedStream(
                name=name,
                of=of,
                compute=functools.partial(_compute, model, name, of),
                parts=("backbone",),
                batch_size=batch_size,
            )
            for name, of in (("whole", "frames"), ("details", "windows"))
        )

    def stages(self, config: Config) -> Sequence[TrainStage | CachedStream]:
        args, section = self.model_args(config), config.vqa
        model = Model(**args)
        frames, size, window = (
            config.sampling.num_frames,
            config.sampling.size,
            config.sampling.window,
        )
        if (
            not (section.backbone or section.init)
            and section.steps
            and config.dataset.name != "synthetic"
        ):
            raise DagrError(
                "config.vqa.backbone: the starter model needs the ImageNet weights of "
                "EfficientNet-Lite0; name their file (docs/starter.md), or start from trained "
                "weights with config.vqa.init"
            )
        streams = self._streams(model, config.features.batch_size)
        train = TrainStage(
            name="vqa",
            records="quality",
            task=HeadTask(model, section.rank_weight, section.order_weight),
            module=model,
            model=self.name,
            args=args,
            example={
                "frames": (1, frames, *size, 3),
                "windows": (1, 3, frames, *window, 3),
            },
            streams=tuple(stream.name for stream in streams),
            stored=False,
            contents=True,
            sections=_SECTIONS,
            pretrained=(Pretrained(section.backbone, ("backbone",), "efficientnet"),),
        )
        return [*streams, train]


def _compute(
    model: Model, name: str, of: str, variables: Mapping[str, Tree], batch: Batch
) -> jax.Array:
    return jnp.asarray(model.apply(variables, batch[of], method=name))


CONTRACT = Starter()
