"""Speed of the saliency network: every form of its convolutions, type and batch size."""

from collections.abc import Iterator
from typing import Any

from dagr_jax.bench.gpu.comparing import compare, with_compiled
from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import Spec, dtypes


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Times the saliency network at each batch size, the smallest first.

    The form "mixed" is measured only in training, because its value is that of "taps".

    Args:
        plan: Plan of the part.

    Yields:
        Rows of the sides and ratios.
    """
    yield from with_compiled(_rows(plan), plan)


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    forms = [form for form in plan.sizes.forms if form != "mixed"]
    for batch in plan.sizes.batches:
        specs = [Spec("saliency", dtype, form, batch) for form in forms for dtype in dtypes()]
        yield from compare(specs, plan)
