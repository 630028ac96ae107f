"""What a checkpoint says of itself: how to use it, which run it is of, and how good it is.

Plain JSON beside the weights, so that it can be asked without reading them.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagr_jax import __version__
from dagr_jax.runtime.errors import DagrError

# A run goes on only from a checkpoint that agrees with it in all of these.
MUST_MATCH = ("model", "version", "config_digest", "worker_count")


# What Orbax and TensorStore raise on files that are cut, lost or of another format: whatever there
# is, and for the bytes of an array a bare Exception.
READ_ERRORS = (Exception,)


class CheckpointError(DagrError):
    """A checkpoint is missing, incomplete, or of another run. One line."""


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
    """What a checkpoint says of itself, as JSON.

    Args:
      model: name in registry.models(), or of one network of such a model (`Contract.networks`).
      model_args: fields that build it again.
      preset: 'paper' or 'release'.
      dataset: name in registry.DATASETS.
      mos_range: (lowest, highest) MOS, the ends of the [0, 1] scale; None for a saliency stage.
      inputs: which pictures of a video the model sees (`InputSpec.to_json`).
      settings: plain data besides these that a score depends on (`Contract.settings`).
      config_digest: digest of the stage's config; another digest is refused on resume.
      worker_count: Grain worker processes; the iterator's state depends on it.
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
    """Which validation metric chooses the checkpoint to use. Ties go to the later step."""

    metric: str = "srcc"
    mode: str = "max"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"best.mode={self.mode!r} must be max or min")

    def rank(self, metrics: Mapping[str, Any] | None) -> float:
        """Larger is better; −inf where the metric is missing or undefined (NaN)."""
        value = (metrics or {}).get(self.metric)
        if value is None or math.isnan(value):
            return -math.inf
        return float(value) if self.mode == "max" else -float(value)


BY_SRCC = Best("srcc", "max")


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics for JSON, which has no NaN: an undefined one (SRCC of constants) becomes null."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


def complete_steps(directory: Path) -> Iterator[int]:
    """Steps whose write was finished, and whose deletion was not begun.

    Orbax renames a folder into place as its last act; what a kill left of deleting one lacks parts.
    """
    if directory.is_dir():
        for child in directory.iterdir():
            parts = (child / "_CHECKPOINT_METADATA", child / "meta" / "metadata")
            if child.name.isdigit() and all(part.exists() for part in parts):
                yield int(child.name)


def best_step(directory: Path) -> int | None:
    """The best step by the metric that the latest names; the latest where none has it."""
    metas = {step: read_meta(directory / str(step)) for step in complete_steps(directory)}
    if not metas:
        return None
    chosen = metas[max(metas)]["best"]
    if chosen is None:
        return max(metas)
    best = Best(**chosen)
    return max(metas, key=lambda step: (best.rank(metas[step]["metrics"]), step))


def is_finished(directory: Path, steps: int, meta: Mapping[str, Any]) -> bool:
    """Whether a stage's folder holds the last step of this very run.

    Raises:
      CheckpointError: it holds steps of another run, with what differs; or is unreadable.
    """
    step = max(complete_steps(directory), default=None)
    if step is None:
        return False
    where = directory / str(step)
    refuse_differences(where, read_meta(where), meta)
    return step >= steps


def read_meta(where: Path) -> dict[str, Any]:
    try:
        return json.loads((where / "meta" / "metadata").read_text())
    except READ_ERRORS as error:
        raise unreadable(where, error) from error


def unreadable(where: Path, error: Exception) -> CheckpointError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(f"{where}: cannot be read ({first}); delete this folder to fall back")


def refuse_differences(where: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differs = [
        f"{key} {stored.get(key)!r} there, {wanted[key]!r} here"
        for key in MUST_MATCH
        if key in wanted and stored.get(key) != wanted[key]
    ]
    if differs:
        raise CheckpointError(
            f"{where}: is of another run ({'; '.join(differs)}); "
            "restore these settings or use a new workdir"
        )
