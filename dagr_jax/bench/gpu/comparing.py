"""Comparison of our forms and PyTorch's, for one kind of program and one batch size."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

from dagr_jax.bench.gpu import programs, pytorch
from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import Spec
from dagr_jax.bench.gpu.timing import Side, measured_rows

Builders = dict[str, Callable[[], Side]]


def compare(specs: Sequence[Spec], plan: Plan) -> Iterator[dict[str, Any]]:
    """Times specs of one kind and batch size in strict alternation with PyTorch's forms.

    `with_compiled` times PyTorch's compiled form.

    Args:
        specs: Programs to time, most important first.
        plan: Plan of the part.

    Yields:
        Rows of the sides, and the ratio of each of our sides to each of PyTorch's.
    """
    kind, batch = specs[0].kind, specs[0].batch
    ours: Builders = {spec.name: cache(partial(programs.build, spec, plan.sizes)) for spec in specs}
    if importlib.util.find_spec("torch") and "torch" not in sys.modules:
        # Timed before PyTorch is loaded: if its libraries crash next to JAX, these rows stay.
        early = dataclasses.replace(plan, sizes=dataclasses.replace(plan.sizes, rounds=2))
        alone = {f"{name}, alone": build for name, build in ours.items()}
        yield from measured_rows(alone, early, together=alone)
    forms = [form for form in pytorch.forms() if "compiled" not in form]
    theirs = _torch_builders(kind, forms, batch, plan)
    pairs = [(mine, other) for mine in ours for other in theirs]
    yield from measured_rows(_interleaved(ours, theirs), plan, pairs, together=ours)


def with_compiled(rows: Iterable[dict[str, Any]], plan: Plan) -> Iterator[dict[str, Any]]:
    """Adds PyTorch's compiled form, timed against our fastest program of each kind and batch size.

    It is timed last: compiling one network in PyTorch can take as long as everything before it.

    Args:
        rows: Rows of the part, from `compare`.
        plan: Plan of the part.

    Yields:
        The rows as they come, then those of the compiled sides and their ratios.
    """
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        yield row
        if "program" in row and "median_s" in row:
            key = row["program"]["kind"], row["program"]["batch"]
            best[key] = min(best.get(key, row), row, key=lambda row: row["median_s"])
    for (kind, batch), row in best.items():
        forms = [form for form in pytorch.forms() if "compiled" in form]
        theirs = _torch_builders(kind, forms, batch, plan)
        if theirs:
            spec = Spec(**row["program"])
            again = f"{spec.name}, again"
            sides: Builders = {again: partial(programs.build, spec, plan.sizes)}
            yield from measured_rows({**sides, **theirs}, plan, [(again, name) for name in theirs])


def _torch_builders(kind: str, forms: Sequence[str], batch: int, plan: Plan) -> Builders:
    if not pytorch.available():
        return {}
    return {
        pytorch.name_of(kind, form, batch): partial(pytorch.build, kind, form, batch, plan.sizes)
        for form in forms
    }


def _interleaved(ours: Builders, theirs: Builders) -> Builders:
    """Interleaves our sides and theirs, so that both have been measured when time runs out."""
    left, right = list(ours.items()), list(theirs.items())
    mixed: list[tuple[str, Callable[[], Side]]] = []
    while left or right:
        mixed += left[:1] + right[:1]
        left, right = left[1:], right[1:]
    return dict(mixed)
