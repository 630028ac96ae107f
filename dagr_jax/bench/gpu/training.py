"""Training steps at the paper's batch sizes: time and memory by type, form and remat."""

from collections.abc import Iterator
from typing import Any

from dagr_jax.bench.gpu.comparing import compare, with_compiled
from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import Spec, dtypes


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Times training steps: users' settings first, then `remat`, then forms of the convolutions.

    Args:
        plan: Plan of the part.

    Yields:
        Rows of the sides and ratios.
    """
    yield from with_compiled(_rows(plan), plan)


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    sizes, kind, batch = plan.sizes, "train saliency", plan.sizes.train_saliency
    first = dtypes()[0]
    steps = [Spec(kind, dtype, batch=batch) for dtype in dtypes()]
    steps[1:1] = [Spec(kind, first, batch=batch, remat=remat) for remat in ("norms", "blocks")]
    yield from compare(steps, plan)
    quality = [Spec("train quality", dtype, batch=sizes.train_quality) for dtype in dtypes()]
    yield from compare(quality, plan)
    for dtype in dtypes():
        yield from compare([Spec(kind, dtype, form, batch) for form in sizes.forms], plan)
