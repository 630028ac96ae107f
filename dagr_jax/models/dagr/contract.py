"""The contract of DAGR-VQA: its inputs, maps, two training stages and PyTorch names."""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from dagr_jax.layers.augment import Augment
from dagr_jax.models.contract import (
    Batch,
    CachedStream,
    Config,
    Contract,
    Facts,
    MapFacts,
    TrainStage,
    Tree,
)
from dagr_jax.models.dagr import quality_net, unet3d
from dagr_jax.models.dagr.model import Model, saliency_maps
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.models.weights import ConvertOption, Pretrained, TorchNetwork
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import InputSpec, Resize, Stream
from dagr_jax.video.sampling import MAP_CHOICES

# Sections of the config that the weights of a training stage depend on.
_DATA = ("seed", "preset", "dataset", "split", "sampling", "model", "saliency")

# Defaults of the settings for where the maps of frames come from (`settings`).
_PLAIN = {"window": 0, "choice": "matched", "outside": False}


class Dagr(Contract):
    """Saliency network, fusion with the frames, quality network."""

    name = "dagr"
    facts = Facts(
        title="DAGR-VQA",
        paper="Mithila & Farias, Convolutions Need Registers Too, arXiv 2601.11045",
        year=2026,
        parameters=163_339_718,
        score="100 · predicted MOS on the [0, 1] scale of the training set, not clipped",
        maps={
            "saliency": MapFacts("where viewers are predicted to look; frames are fused with it")
        },
    )
    networks = {"unet3d": (unet3d.Model, "saliency"), "vqa": (quality_net.Model, "vqa")}
    meanings = {"saliency": {"register_layout": "time"}}
    torch = (
        TorchNetwork(
            "unet3d",
            unet3d.TORCH_KEYS,
            unet3d.of_torch,
            unet3d.torch_layers,
            unet3d.describe,
            "saliency",
        ),
        TorchNetwork(
            "vqa",
            quality_net.TORCH_KEYS,
            quality_net.of_torch,
            quality_net.torch_layers,
            quality_net.describe,
            "vqa",
        ),
    )
    convert_options = (
        ConvertOption("alpha", "weight of the saliency, 0 to 1", 0.5),
        ConvertOption(
            "maps",
            "saliency maps for the 8 frames: linspace (as in the release for KoNViD-1k, LIVE-VQC "
            "and YouTube-UGC), first (as for LSVQ), matched, or first_map (the first map for all "
            "frames)",
            "linspace",
            MAP_CHOICES,
        ),
        ConvertOption(
            "window",
            "the saliency network gets all frames, in windows of this length, as in the release; "
            "0: only the sampled frames",
            8,
        ),
    )

    def build(self, args: Mapping[str, Any]) -> nn.Module:
        return Model(**args)

    def default_config(self, dataset: str, recipe: str = "") -> Config:
        from dagr_jax.models.dagr.config import default_config

        return default_config(dataset, recipe)

    def tiny_config(self) -> Config:
        from dagr_jax.models.dagr.config import tiny_config

        return tiny_config()

    def inputs(self, config: Config) -> InputSpec:
        chosen = config.sampling
        return _inputs(
            {"num_frames": chosen.num_frames, "rule": chosen.rule},
            tuple(chosen.size),
            self.settings(config),
            config.preset,
            config.model.args.alpha,
        )

    def model_args(self, config: Config) -> dict[str, Any]:
        args = config.model.args.to_dict()
        return {**args, "saliency": None} if config.maps.folder else args

    def settings(self, config: Config) -> dict[str, Any]:
        maps = config.maps
        return {"window": maps.window, "choice": maps.choice, "outside": bool(maps.folder)}

    def map_size(self, config: Config) -> tuple[int, int]:
        height, width = config.model.args.saliency_size or config.sampling.size
        return height, width

    def gaze_frames(self, config: Config) -> int:
        frames: int = config.saliency.num_frames
        return frames

    def streams(
        self, model: nn.Module, inputs: InputSpec, settings: Mapping[str, Any]
    ) -> Sequence[CachedStream]:
        assert isinstance(model, Model)
        if not model.alpha:
            return ()
        plan = {**_PLAIN, **settings}
        windows = bool(plan["window"]) and not plan["outside"]
        release = model.preset == "release"
        return (
            CachedStream(
                name="maps",
                of="windows" if windows else "frames",
                compute=functools.partial(_compute, model, "windows" if windows else "frames"),
                parts=() if plan["outside"] else ("saliency",),
                quantized=True,
                choice=plan["choice"],
                inline=not (windows or plan["outside"] or plan["choice"] == "first_map"),
                folder=plan.get("folder", "") if plan["outside"] else "",
                outside=plan["outside"],
                size=_map_size(model, inputs),
                release=release,
                batch_size=plan.get("batch_size", 4),
            ),
        )

    def stages(self, config: Config) -> Sequence[TrainStage | CachedStream]:
        args, inputs = self.model_args(config), self.inputs(config)
        model = Model(**args)
        outside = bool(config.maps.folder)
        settings = {**self.settings(config), **config.maps.to_dict(), "outside": outside}
        streams = self.streams(model, inputs, settings)
        found: list[TrainStage | CachedStream] = []
        if model.alpha and not outside:
            found.append(self._saliency(config, args))
        trains = config.vqa.train_saliency
        if trains:
            _check_trains_saliency(config, model, streams)
        found += [] if trains else streams
        return [*found, self._quality(config, model, args, () if trains else streams)]

    def _saliency(self, config: Config, args: Mapping[str, Any]) -> TrainStage:
        own = {"preset": args["preset"], "dtype": args["dtype"], **args["saliency"]}
        module = unet3d.Model(**own)
        section = config.saliency
        return TrainStage(
            name="saliency",
            records="gaze",
            task=SaliencyTask(module, config.preset, section.gamma, Augment(flip=section.flip)),
            module=module,
            model="unet3d",
            args=own,
            example={"": (1, 2, *self.map_size(config), 3)},
            part="saliency",
            frames=section.window,
            best="cc",
            sections=_DATA,
            otherwise="config.maps.folder to maps of another model, or config.model.args.alpha to "
            "0",
        )

    def _quality(
        self,
        config: Config,
        model: Model,
        args: Mapping[str, Any],
        streams: Sequence[CachedStream],
    ) -> TrainStage:
        section = config.vqa
        augment = Augment(
            flip=section.augment.flip,
            jitter=section.augment.jitter,
            crop=tuple(section.augment.crop) or None,
        )
        example = {"frames": (1, 2, *config.sampling.size, 3)}
        if model.alpha:
            example["maps"] = (1, 2, *self.map_size(config))
        own = bool(model.alpha) and not config.maps.folder
        return TrainStage(
            name="vqa",
            records="quality",
            task=QualityTask(
                model, config.preset, section.rank_weight, augment, section.train_saliency
            ),
            module=model,
            model=self.name,
            args=args,
            example=example,
            begins_with={"saliency": "saliency"} if own else {},
            streams=tuple(stream.name for stream in streams),
            frames=section.frames,
            sections=(*_DATA, "maps", "vqa"),
            pretrained=(Pretrained(section.backbone, ("vqa", "resnet")),),
        )

    def shared_run(self, base: Config, made: Config) -> Config | None:
        """Returns the run that makes the saliency network and its maps.

        All runs of the sweep with the same network and maps use them. The settings that the network
        depends on come from `made`; the other settings come from `base`. A run whose map settings
        differ from those of `base` makes its own maps.

        Args:
            base: Configuration of the runs of the sweep, before the changes of each run.
            made: Configuration of one run of the sweep.

        Returns:
            The configuration of the shared run; None if `made` trains no saliency network.
        """
        section = made.saliency
        if not made.model.args.alpha or made.maps.folder or not (section.steps or section.epochs):
            return None
        shared = copy.deepcopy(base)
        for name in ("seed", "preset", "data_dir", "saliency", "split", "sampling"):
            shared[name] = copy.deepcopy(made[name])
        for name in ("preset", "dtype", "saliency_size", "saliency"):
            shared.model.args[name] = copy.deepcopy(made.model.args[name])
        shared.model.args.alpha = base.model.args.alpha or 0.5  # 0 would train no network
        shared.vqa.train_saliency = False
        shared.stages = tuple(s for s in ("prepare", "saliency", "maps") if s in made.stages)
        return shared

    def adopt(self, made: Config, home: str) -> None:
        made.saliency.update({"init": home, "steps": 0, "epochs": 0})

    def assemble(
        self, parts: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        alpha = options["alpha"]
        if "saliency" not in parts and alpha:
            raise DagrError(f"alpha {alpha} needs a saliency network; pass one, or set alpha to 0")
        if "vqa" not in parts:
            raise DagrError("a checkpoint that scores needs a quality network; pass it as --vqa")
        return {"saliency": None, **parts, "alpha": alpha, "preset": "release"}

    def converted(self, options: Mapping[str, Any]) -> tuple[InputSpec, dict[str, Any]]:
        """Returns the inputs and settings that the release uses for every video.

        Source: docs/reference.md, section 1.
        """
        if options["window"] < 0:
            raise DagrError(f"window must be at least 0, got {options['window']}")
        plan = {"window": options["window"], "choice": options["maps"], "outside": False}
        sampling = {"num_frames": 8, "rule": "linspace"}
        return _inputs(sampling, (224, 398), plan, "release", options["alpha"]), plan

    def upgrade(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the metadata of a checkpoint of an earlier version in the current format.

        Version 0.1 stored sampling, size and maps in separate fields, also for a network alone. The
        choice "first_map" was called "static".
        """
        if "inputs" in meta:
            return {
                **meta,
                "inputs": {name: _renamed(stream) for name, stream in meta["inputs"].items()},
                "settings": _renamed(meta["settings"]),
            }
        told = {k: v for k, v in meta.items() if k not in ("sampling", "resize", "maps")}
        plan = _renamed({**_PLAIN, **meta["maps"]})
        alpha = meta["model_args"].get("alpha", 0.0)
        size = tuple(meta["resize"]["size"])
        inputs = _inputs(meta["sampling"], size, plan, meta["preset"], alpha)
        return {**told, "inputs": inputs.to_json(), "settings": plan}


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    old = fields.get("choice") == "static"
    return {**fields, "choice": "first_map"} if old else dict(fields)


def _inputs(
    sampling: Mapping[str, Any],
    size: tuple[int, ...],
    plan: Mapping[str, Any],
    preset: str,
    alpha: float,
) -> InputSpec:
    """Returns the inputs: the sampled frames and, with windows, all frames of the used windows."""
    height, width = size
    frames = Stream(sampling["rule"], sampling["num_frames"], Resize((height, width)))
    streams = {"frames": frames}
    # The frames of windows are read only if their maps are used.
    if plan["window"] and alpha and not plan["outside"]:
        streams["windows"] = Stream(
            "windows",
            0,
            # In the release, frames are antialiased for the saliency network but not for the
            # quality network.
            Resize((height, width), antialias=preset == "release"),
            of="frames",
            window=plan["window"],
            choice=plan["choice"],
            chunk=plan["window"],
        )
    return InputSpec(streams)


def _map_size(model: Model, inputs: InputSpec) -> tuple[int, int]:
    size = model.saliency_size or inputs.streams["frames"].resize.size
    assert size is not None  # `_inputs` sets it
    return size[0], size[1]


def _compute(model: Model, stream: str, variables: Mapping[str, Tree], batch: Batch) -> jax.Array:
    return saliency_maps(model, variables, batch[stream])


def _check_trains_saliency(config: Config, model: Model, streams: Sequence[CachedStream]) -> None:
    """Raises DagrError if the saliency network cannot be trained with the quality network.

    This is so if no gradient reaches it, or if training and testing would use different frames.
    """
    if not all(stream.inline for stream in streams) or not streams or not model.saliency:
        raise DagrError(
            "config.vqa.train_saliency: the saliency network must run on the sampled frames; set "
            "config.model.args.alpha above 0, config.maps.window to 0, choice to matched and "
            "folder to ''"
        )
    if config.vqa.frames not in (0, config.sampling.num_frames):
        raise DagrError(
            "config.vqa.train_saliency: the saliency network needs all frames of a video together; "
            "set config.vqa.frames to 0"
        )


CONTRACT = Dagr()
