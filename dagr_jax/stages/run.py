"""A run: its configuration, its folder, and what all stages ask of them."""

import csv
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict
from tqdm import tqdm

from dagr_jax.data import loader
from dagr_jax.data.prepare import Sampling, has_records
from dagr_jax.data.records import Listed, read_list
from dagr_jax.data.splits import PARTS, Protocol, SplitError, read_split, write_split
from dagr_jax.models.dagr import unet3d
from dagr_jax.registry import model_module
from dagr_jax.report import tables
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import MapPlan
from dagr_jax.train import mesh as meshes
from dagr_jax.train.loop import predict_all
from dagr_jax.train.meta import make_meta


class StageError(DagrError):
    """A stage cannot run; one line that names the folder and the remedy."""


# What the weights of a training stage depend on.
_DATA = ("seed", "preset", "dataset", "split", "sampling", "model", "saliency")
SECTIONS = {"saliency": _DATA, "vqa": (*_DATA, "maps", "vqa")}


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder that its artifacts lie in."""

    config: config_dict.ConfigDict
    workdir: Path

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return meshes.make_mesh()

    @functools.cached_property
    def data(self) -> Path:
        """Folder of the prepared set: `config.data_dir`, or `data/` of the workdir."""
        return Path(self.config.data_dir) if self.config.data_dir else self.workdir / "data"

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the prepared set says of itself: `mos_range`, and `videos`, the files' folder."""
        return json.loads((self.data / "dataset.json").read_text())

    @property
    def mos_range(self) -> tuple[float, float]:
        low, high = self.facts["mos_range"]
        return float(low), float(high)

    @functools.cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part → numbers of its records in the prepared set; written down in `split.csv`."""
        return self._divide(self.data, self.workdir / "split.csv", self.config.split)

    @property
    def saliency_data(self) -> Path | None:
        """Folder of the prepared saliency set; None where there is none."""
        given = self.config.saliency.data_dir
        folder = Path(given) if given else self.data
        return folder if given or has_records(folder, "saliency") else None

    @functools.cached_property
    def saliency_rows(self) -> dict[str, np.ndarray]:
        """Part → numbers of its records in the saliency set.

        A set beside the quality set is split with it. One of its own is split as its files say, or
        else at random; `saliency_split.csv` says how.
        """
        if self.saliency_data is None or self.saliency_data == self.data:
            return self.rows
        chosen = config_dict.ConfigDict(self.config.split)
        with chosen.unlocked():
            said = {row.part for row in read_list(self.saliency_data)}
            chosen.file, chosen.protocol = "", "random" if "" in said else "official"
            chosen.fold = max(chosen.fold, 0)  # of which neither knows; -1 would be all of them
        return self._divide(self.saliency_data, self.workdir / "saliency_split.csv", chosen)

    def _divide(
        self, data: Path, path: Path, chosen: config_dict.ConfigDict
    ) -> dict[str, np.ndarray]:
        listed = read_list(data)
        try:
            if chosen.file:
                parts = read_split(Path(chosen.file), listed)
            else:
                fields = {name: chosen[name] for name in ("test", "val", "folds", "fold", "seed")}
                protocol = Protocol(name=chosen.protocol, **fields)
                contents = [row.content for row in listed]
                parts = protocol.assign(contents, [row.part for row in listed])
            if distributed.is_first():
                write_split(path, listed, parts)
        except SplitError as error:
            raise StageError(str(error)) from error
        numbers = np.array(parts)
        return {part: np.flatnonzero(numbers == part) for part in PARTS}

    @functools.cached_property
    def sampling(self) -> Sampling:
        chosen = self.config.sampling
        return Sampling(chosen.num_frames, chosen.rule, tuple(chosen.size))

    @functools.cached_property
    def model_args(self) -> dict[str, Any]:
        args = plain(self.config.model.args)
        return {**args, "saliency": None} if self.map_plan.outside else args

    @functools.cached_property
    def model(self) -> Any:
        return model_module(self.config.model.name).Model(**self.model_args)

    @property
    def saliency_args(self) -> dict[str, Any]:
        args = self.model_args
        return {"preset": args["preset"], "dtype": args["dtype"], **args["saliency"]}

    @functools.cached_property
    def saliency_model(self) -> unet3d.Model:
        return unet3d.Model(**self.saliency_args)

    def predict(
        self, predict: Callable[..., jax.Array], variables: Any, source: Any, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(numbers, predictions) of the records of a source, batch by batch, by all processes.

        Args:
            predict: Of `mesh.jit_predict`.
            variables: Anywhere; they are put on all devices.
            source: Records by number.
            batch_size: Raised to what divides over the devices.
        """
        devices = self.mesh.size
        return predict_all(
            predict,
            meshes.put_whole(variables, self.mesh),
            loader.eval_batches(
                source, batch_size=-(-batch_size // devices) * devices, share=distributed.share()
            ),
            self.mesh,
        )

    @property
    def map_plan(self) -> MapPlan:
        chosen = self.config.maps
        release = self.config.preset == "release"
        return MapPlan(chosen.window, chosen.choice, antialias=release, outside=bool(chosen.folder))

    @property
    def uses_maps(self) -> bool:
        return self.config.model.args.alpha > 0

    @property
    def uses_saliency(self) -> bool:
        """Whether there is a saliency network: α is not 0, and no other model made the maps."""
        return self.uses_maps and not self.map_plan.outside

    @property
    def stores_maps(self) -> bool:
        """Whether maps are made once and kept: unless the network that makes them still learns."""
        return self.uses_maps and not self.config.vqa.train_saliency

    @property
    def saliency_size(self) -> tuple[int, int]:
        return tuple(self.config.model.args.saliency_size or self.config.sampling.size)

    def section(self, stage: str) -> config_dict.ConfigDict:
        """The resolved section of a training stage, `resolve_steps`."""
        if stage == "vqa":
            return resolve_steps(self.config.vqa, len(self.rows["train"]))
        records = 0 if self.saliency_data is None else len(self.saliency_rows["train"])
        return resolve_steps(self.config.saliency, records)

    def meta(self, stage: str) -> dict[str, Any]:
        """What a training stage's checkpoint says of itself; its digest is of `SECTIONS`."""
        chosen = {name: plain(self.config[name]) for name in SECTIONS[stage]}
        alone = stage == "saliency"
        return make_meta(
            model="unet3d" if alone else self.config.model.name,
            model_args=self.saliency_args if alone else self.model_args,
            preset=self.config.preset,
            dataset=self.config.dataset.name,
            mos_range=None if alone else self.mos_range,
            sampling={"num_frames": self.sampling.num_frames, "rule": self.sampling.rule},
            resize={"size": list(self.sampling.size), "antialias": False},
            maps={
                "window": self.config.maps.window,
                "choice": self.config.maps.choice,
                "outside": self.map_plan.outside,
            },
            config_digest=digest(chosen),
            worker_count=self.config.workers,
        )


def resolve_steps(section: config_dict.ConfigDict, records: int) -> config_dict.ConfigDict:
    """A training section with epochs turned into steps, and `epoch_steps` for schedules.

    Args:
        section: With `steps` (0: from `epochs`) and `eval_every` (0: once an epoch).
        records: Size of the training part; the remainder of an epoch is dropped.
    """
    epoch = max(records // section.batch_size, 1)
    resolved = config_dict.ConfigDict(section)
    with resolved.unlocked():
        resolved.steps = section.steps or section.epochs * epoch
        resolved.epoch_steps = epoch
        resolved.eval_every = section.eval_every or epoch
    return resolved


def unseen(
    checkpoint: Path, listed: Sequence[Listed], splits: Sequence[str] = ("split.csv",)
) -> np.ndarray:
    """Numbers of the records whose contents a checkpoint was neither trained nor validated on.

    They are known by the files' digests, whatever their names.

    Args:
        checkpoint: A run's workdir, or a stage's folder in one.
        listed: Of a prepared set.
        splits: Names of the files of that workdir that tell; those that are not there tell nothing.
    """
    homes = [home for home in (checkpoint, checkpoint.parent) if (home / splits[0]).is_file()]
    seen: set[str] = set()
    for path in [homes[0] / name for name in splits] if homes else []:
        if path.is_file():
            with open(path, newline="") as stream:
                seen |= {row["digest"] for row in csv.DictReader(stream) if row["part"] != "test"}
    contents = {row.content for row in listed if row.digest and row.digest in seen}
    return np.array([i for i, row in enumerate(listed) if row.content not in contents], int)


def plain(tree: Any) -> Any:
    """A config section as dicts, lists and numbers, as JSON holds it."""
    if isinstance(tree, config_dict.ConfigDict):
        tree = tree.to_dict()
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that stand for a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; it has no NaN: what is undefined becomes null."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(tables.defined(value), indent=2, allow_nan=False) + "\n")


def say(text: str) -> None:
    """A line on stderr, of process 0."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def progress(total: int, desc: str, unit: str) -> tqdm:
    """A bar on the terminal of process 0."""
    return tqdm(total=total, desc=desc, unit=unit, disable=None if distributed.is_first() else True)


def claim(path: Path, wanted: Any, what: str) -> None:
    """Raises StageError if the JSON at `path` says that something else was made there."""
    differing = list(_differences(json.loads(path.read_text()), wanted))
    if differing:
        raise StageError(
            f"{path.parent}: {what} of another configuration ({'; '.join(differing)}); "
            "take another --workdir, or delete it"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old} and is now {new}"
