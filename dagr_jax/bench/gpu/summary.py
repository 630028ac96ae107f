"""Results as one JSON file and one Markdown page."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.bench.gpu.timing import NOT_STARTED
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

# Folder in the repository with the results of real cards.
KEPT = Path(__file__).resolve().parents[3] / "docs" / "results" / "gpu"
_PAPER = "frames/s as the paper counts"
_TITLES = {
    "saliency": "Saliency window",
    "quality": "Quality network, whole model, Table 4",
    "training": "Training step",
}


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes `results.json` and `results.md`, each atomically.

    Args:
        folder: Output folder.
        result: Results of the measurement.
    """
    with atomic_file(folder / "results.json") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    with atomic_file(folder / "results.md") as partial:
        partial.write_text(page(result))


def publish(folder: Path, kept: Path = KEPT) -> list[Path]:
    """Copies the results of a real card to the repository, as `<card>.json` and `<card>.md`.

    Args:
        folder: Folder of the results.
        kept: Output folder; it is created if missing.

    Returns:
        The written files.

    Raises:
        DagrError: The folder has no results, or results of a CPU or of small sizes. The message is
            one line.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise DagrError(f"{folder}: holds no results.json; name the folder of --out")
    result = json.loads(path.read_text())
    name = card(result)
    if name is None or result["small"]:
        raise DagrError(f"{path}: not of a GPU at full size; only such results are kept")
    kept.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    files = [kept / f"{slug}.json", kept / f"{slug}.md"]
    for file, text in zip(files, (path.read_text(), page(result)), strict=True):
        with atomic_file(file) as partial:
            partial.write_text(text)
    return files


def card(result: Mapping[str, Any]) -> str | None:
    """Returns the name of the GPU; None if JAX used a CPU."""
    machine = _row(result, "facts", "machine")
    if not machine or machine["backend"] == "cpu":
        return None
    return str(_row(result, "facts", "card").get("name") or machine["devices"][0])


def page(result: Mapping[str, Any]) -> str:
    """Formats the results as Markdown."""
    machine = _row(result, "facts", "machine")
    blocks = [f"# {card(result) or machine.get('cpu', 'Unknown machine')}"]
    if result["small"]:
        blocks.append("**Small sizes, for a test: the times are meaningless.**")
    blocks.append(_machine(result))
    blocks.append(_table(result["parts"], ("name", "status", "seconds", "limit_s", "error")))
    peaks = {row["dtype"]: _rate(row) for row in _rows(result, "facts") if _rate(row)}
    blocks.append("## Peak rates\n\n" + _measures(_rows(result, "facts"), {}))
    if checks := _rows(result, "correctness"):
        outside = sum(row.get("within") is False for row in checks)
        failed = sum("error" in row for row in checks)
        blocks.append(
            "## Correctness\n\n"
            "Golden values: largest error in units of their standard deviation. Golden gradients: "
            "median relative error. Forms: largest error in units of the largest value. Errors of "
            "TF32, and of minimal filtering in bfloat16, have no limit. "
            f"{outside} of {len(checks)} checks exceed their limit, {failed} did not run."
            "\n\n" + _table(checks, ("what", "dtype", "off", "allowed", "within", "error"))
        )
    for part, title in _TITLES.items():
        if rows := _rows(result, part):
            blocks.append(f"## {title}\n\n" + _measures(rows, peaks))
            if ratios := [row for row in rows if "ratio" in row]:
                text = "Time of the first side / time of the second; below 1 is faster.\n\n"
                blocks.append(text + _table(ratios, ("what", "ratio")))
    if rows := _rows(result, "profile"):
        columns = ("what", "kernel", "share", "file", "kilobytes", "error")
        blocks.append("## Profile of the two slowest programs\n\n" + _table(rows, columns))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _machine(result: Mapping[str, Any]) -> str:
    facts = [("", _row(result, "facts", name)) for name in ("card", "machine", "versions")]
    told = [
        f"* {key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}"
        for _, row in facts
        for key, value in row.items()
        if key != "what" and not (key == "jax" and row["what"] == "machine")
    ]
    return "\n".join([f"* measured: {result['time']}, dagr_jax {result['version']}", *told])


def _measures(rows: Iterable[Mapping[str, Any]], peaks: Mapping[str, float]) -> str:
    """Makes the table of times, rates and memory.

    Rates use the minimum FLOP of a program if known, else the FLOP that XLA counts.
    """
    shown, skipped = [], []
    for row in rows:
        if row.get("error", "").startswith(NOT_STARTED):
            skipped.append(row["what"])
        elif "error" in row:
            shown.append({"what": row["what"], "error": row["error"]})
        elif "frames_per_s_paper" in row and "median_s" not in row:  # the published value
            shown.append({"what": row["what"], _PAPER: row["frames_per_s_paper"]})
        if "median_s" not in row:
            continue
        told: dict[str, Any] = {
            "what": row["what"].strip(),
            "median ms": f"{1e3 * row['median_s']:.3f}",
            "fastest-slowest": f"{1e3 * row['fastest_s']:.3f}-{1e3 * row['slowest_s']:.3f}",
        }
        if rate := _rate(row):
            told["TFLOP/s"] = f"{rate:.4g}"
            if peak := peaks.get(row.get("dtype", "")):
                told["of peak"] = f"{rate / peak:.3f}"
        if "moved_gb" in row:
            told["GB/s"] = f"{row['moved_gb'] / row['median_s']:.4g}"
        for field, title in (
            ("frames_per_s", "frames/s"),
            ("frames_per_s_paper", _PAPER),
            ("peak_memory_mb", "peak MB"),
            ("first_s", "first call s"),
        ):
            if field in row:
                told[title] = row[field]
        shown.append(told)
    order = ("what", "median ms", "fastest-slowest", "TFLOP/s", "of peak", "GB/s", "frames/s")
    blocks = [_table(shown, (*order, _PAPER, "peak MB", "first call s", "error"))]
    if skipped:
        blocks.append(f"Not measured, no time was left: {'; '.join(skipped)}.")
    return "\n\n".join(filter(None, blocks))


def _rate(row: Mapping[str, Any]) -> float:
    """Returns the rate of a row in TFLOP/s; 0 if its FLOP are unknown."""
    work = row.get("needed_gflop") or row.get("xla_gflop") or 0.0
    return work / row["median_s"] / 1e3 if "median_s" in row and "dtype" in row else 0.0


def _rows(result: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    return [row for one in result["parts"] if one["name"] == part for row in one["rows"]]


def _row(result: Mapping[str, Any], part: str, what: str) -> dict[str, Any]:
    return next((row for row in _rows(result, part) if row["what"] == what), {})


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Makes a Markdown table of the columns that at least one row has."""
    used = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    if not used:
        return ""
    lines = [f"| {' | '.join(used)} |", f"|{'---|' * len(used)}"]
    for row in rows:
        cells = ["" if row.get(name) is None else str(row[name]) for name in used]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
