"""Speed of the quality network and the whole model, and the paper's Table 4 on decoded frames."""

from collections.abc import Iterator
from typing import Any

from dagr_jax.bench import table4
from dagr_jax.bench.gpu.comparing import compare, with_compiled
from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import Spec, dtypes


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Times the quality network and the whole model at each batch size, and Table 4.

    Rows of the whole model have `frames_per_s_paper`, which counts all 240 frames of a video as the
    paper does, and `frames_per_s`, which counts the frames that the networks see.

    Args:
        plan: Plan of the part.

    Yields:
        Rows of the sides and ratios.
    """
    yield from with_compiled(_rows(plan), plan)


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    first, *others = plan.sizes.batches
    yield from _both(plan, first)
    yield from _table4(plan)
    for batch in others:
        yield from _both(plan, batch)


def _both(plan: Plan, batch: int) -> Iterator[dict[str, Any]]:
    yield from compare([Spec("quality", dtype, batch=batch) for dtype in dtypes()], plan)
    for row in compare([Spec("model", dtype, batch=batch) for dtype in dtypes()], plan):
        if "median_s" in row:
            videos = batch / row["median_s"]
            row["frames_per_s"] = round(videos * plan.sizes.frames, 1)
            row["frames_per_s_paper"] = round(videos * table4.LENGTH, 1)
        yield row


def _table4(plan: Plan) -> Iterator[dict[str, Any]]:
    """Times ten videos one after the other, including the copies to and from the card."""
    sizes = plan.sizes
    args = {"saliency": sizes.saliency, "vqa": sizes.quality}
    decoded = (sizes.frames, (sizes.height, sizes.width))
    for row in table4.measure(args, decoded)["rows"]:
        if "looked_at_per_s" in row:  # use the field names of the rows of the whole model
            row["frames_per_s_paper"] = row.pop("frames_per_s")
            row["frames_per_s"] = row.pop("looked_at_per_s")
        elif "frames_per_s" in row:
            row["frames_per_s_paper"] = row.pop("frames_per_s")
        yield row
