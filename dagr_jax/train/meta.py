"""Checkpoint metadata: how to use a checkpoint, which run it belongs to, and its metrics.

The metadata is plain JSON next to the weights, so that it can be read without them.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagr_jax import __version__
from dagr_jax.runtime.errors import DagrError, environment, in_a_line

# A run resumes only from a checkpoint that has the same values in all of these fields.
MUST_MATCH = ("model", "version", "config_digest", "worker_count")


# Orbax and TensorStore raise many types on files that are truncated, missing or of another format;
# for the bytes of an array, they raise a bare Exception.
READ_ERRORS = (Exception,)


class CheckpointError(DagrError):
    """A checkpoint is missing or incomplete, or belongs to another run. The message is one line."""


def make_meta(
    *,
    model: str,
    model_args: Mapping[str, Any],
    preset: str,
    dataset: str,
    mos_range: tuple[float, float] | None,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    config_digest: str,
    worker_count: int,
) -> dict[str, Any]:
    """Makes the metadata of a checkpoint.

    Args:
        model: Name of the model in registry.models(), or name of one network of such a model
            (`Contract.networks`).
        model_args: Fields from which the model is built again.
        preset: 'paper' or 'release'.
        dataset: Name of the data set in registry.DATASETS.
        mos_range: (lowest, highest) MOS, the ends of the [0, 1] scale; None for a saliency stage.
        inputs: Frames of a video that the model sees (`InputSpec.to_json`).
        settings: Other plain data that a score depends on (`Contract.settings`).
        config_digest: Digest of the stage's config. A run with another digest cannot resume.
        worker_count: Number of Grain worker processes. The state of the iterator depends on it.

    Returns:
        The metadata as JSON data.
    """
    return {
        "model": model,
        "model_args": dict(model_args),
        "preset": preset,
        "dataset": dataset,
        "mos_range": None if mos_range is None else list(mos_range),
        "inputs": dict(inputs),
        "settings": dict(settings),
        "config_digest": config_digest,
        "worker_count": worker_count,
        "version": __version__,
    }


@dataclasses.dataclass(frozen=True)
class Best:
    """The validation metric that selects the checkpoint to use. Ties go to the later step.

    Attributes:
        metric: Name of the metric.
        mode: 'max' if higher is better, 'min' if lower is better.
    """

    metric: str = "srcc"
    mode: str = "max"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"best.mode={self.mode!r} must be max or min")

    def rank(self, metrics: Mapping[str, Any] | None) -> float:
        """Returns the rank of a checkpoint with these metrics; larger is better.

        The rank is −inf if the metric is missing or undefined (NaN).
        """
        value = (metrics or {}).get(self.metric)
        if value is None or math.isnan(value):
            return -math.inf
        return float(value) if self.mode == "max" else -float(value)


BY_SRCC = Best("srcc", "max")


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns metrics for JSON, which has no NaN: an undefined one becomes null.

    For example, the SRCC of constants is undefined.
    """
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


def complete_steps(directory: Path) -> Iterator[int]:
    """Yields the steps that are completely written and not partly deleted.

    Orbax writes a step into a temporary folder and renames it at the end. If a process is killed
    while it deletes a step, parts of the folder are missing.
    """
    with environment(directory, CheckpointError):
        for child in directory.iterdir() if directory.is_dir() else ():
            parts = (child / "_CHECKPOINT_METADATA", child / "meta" / "metadata")
            if child.name.isdigit() and all(part.exists() for part in parts):
                yield int(child.name)


def best_step(directory: Path) -> int | None:
    """Returns the best step by the metric that the latest step names.

    It is the latest step if no step has the metric, and None if there is no step.
    """
    metas = {step: read_meta(directory / str(step)) for step in complete_steps(directory)}
    if not metas:
        return None
    chosen = metas[max(metas)]["best"]
    if chosen is None:
        return max(metas)
    best = Best(**chosen)
    return max(metas, key=lambda step: (best.rank(metas[step]["metrics"]), step))


def best_rank(directory: Path, best: Best) -> float:
    """Returns the rank of the best step (`Best.rank`); −inf if there is no step."""
    step = best_step(directory)
    return -math.inf if step is None else best.rank(read_meta(directory / str(step))["metrics"])


def is_finished(directory: Path, steps: int, meta: Mapping[str, Any], wait: int = 0) -> bool:
    """Returns whether the folder of a stage holds the last step of this run.

    Args:
        directory: Folder of the stage.
        steps: Number of train steps of the whole run.
        meta: Metadata of this run. Every field of MUST_MATCH must equal the checkpoint's.
        wait: Number of steps without a new best one after which training ends; 0: it ends at the
            last step only.

    Raises:
        CheckpointError: The folder holds steps of another run (the message lists the differences),
            or it is unreadable.
    """
    step = max(complete_steps(directory), default=None)
    if step is None:
        return False
    where = directory / str(step)
    refuse_differences(where, read_meta(where), meta)
    return step >= steps or bool(wait and step - (best_step(directory) or 0) >= wait)


def read_meta(where: Path) -> dict[str, Any]:
    try:
        return json.loads((where / "meta" / "metadata").read_text())
    except READ_ERRORS as error:
        raise unreadable(where, error) from error


def unreadable(where: Path, error: Exception) -> CheckpointError:
    """Returns the error for a checkpoint that cannot be read. It may be whole all the same."""
    for path in (where, *where.rglob("*")):
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return CheckpointError(path, "may not be read", "change its permissions")
    return CheckpointError(
        where,
        f"cannot be read ({in_a_line(error)[:200]})",
        "copy it again; if it is damaged, move it away to use an earlier step",
    )


def refuse_differences(where: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differs = [
        f"{key} is {stored.get(key)!r} in the checkpoint, {wanted[key]!r} in this run"
        for key in MUST_MATCH
        if key in wanted and stored.get(key) != wanted[key]
    ]
    if differs:
        raise CheckpointError(
            f"{where}: belongs to another run ({'; '.join(differs)}); "
            "restore these settings or use a new workdir"
        )
