"""`dagr score`."""

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from dagr_jax.cli import options
from dagr_jax.cli.row_file import RowFile, RowFileError
from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError

if TYPE_CHECKING:
    from dagr_jax.report.page import Page
    from dagr_jax.score import Scorer
    from dagr_jax.score.ray_engine import Cluster
    from dagr_jax.video.readers import Readers
    from dagr_jax.video.stream import Limits

# Columns of the table format; the other formats have all fields.
_TABLE = (
    *("file", "score", "mos", "worst", "total_frames", "width", "height", "fps"),
    *("damaged", "notes", "error"),
)


def add(commands: Any) -> None:
    """Adds the command `dagr score`."""
    score = commands.add_parser(
        "score",
        help="score videos without a reference",
        description="Predicts the quality of videos. Exit code: 0 if all files were scored, 1 if "
        "some failed or could not be drawn, 2 for a usage error.",
    )
    score.add_argument(
        "files",
        nargs="+",
        metavar="PATH",
        help="video files, folders, patterns, @LIST (a file with one name per line), or - (names "
        "on stdin)",
    )
    options.add_checkpoint(score)
    score.add_argument(
        "--segments",
        type=float,
        metavar="SECONDS",
        help="also score each segment of this length, and report the worst one; 0: no segments "
        "(default: 0, with --page 2)",
    )
    score.add_argument(
        "--maps",
        metavar="DIR",
        help="saliency maps of another model, one folder of pictures per file, for a checkpoint "
        "that was trained with such maps",
    )
    score.add_argument(
        "--overlay",
        metavar="DIR",
        help="write for each file a video with a saliency heat map and the current score, and a "
        "contact sheet (slow: needs the saliency of every frame)",
    )
    score.add_argument(
        "--page",
        metavar="FILE",
        help="write an .html page with a player, saliency and quality over time for each file; "
        "files that browsers cannot play are copied as H.264 to a folder next to it",
    )
    options.add_output(score)
    score.add_argument(
        "--resume", action="store_true", help="continue an interrupted call with the same --out"
    )
    score.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="clips per batch on the device; the batch size may change rounding (default: 1)",
    )
    score.add_argument(
        "--workers",
        type=int,
        default=max(1, min(8, (os.cpu_count() or 1) // 2)),
        metavar="N",
        help="processes that decode ahead; with Ray, workers that decode and score (default: half "
        "of the cores, at most 8)",
    )
    score.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where to score: in this process, or on a Ray cluster (needs the extra 'ray'; "
        "default: local)",
    )
    score.add_argument(
        "--ray-address",
        default="local",
        metavar="ADDRESS",
        help="address of the Ray cluster, such as auto or ray://host:10001 (default: a new cluster "
        "on this machine)",
    )
    score.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="give up a file if its decoder gives no output for this time (default: 600)",
    )
    options.add_max_pixels(score)
    score.add_argument(
        "--max-seconds",
        type=float,
        default=4 * 3600,
        metavar="N",
        help="refuse videos that are longer than this, in seconds (default: 14400, 4 hours)",
    )
    score.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    options.check_output(arguments, parser)
    _check(arguments, parser)
    # Imported here: `dagr --help` and usage errors need neither PyAV nor JAX.
    from dagr_jax.video.files import expand

    files: Iterable[str] = expand(arguments.files)
    total = None
    if "-" not in arguments.files or arguments.engine == "ray":
        try:
            files = list(files)
        except DagrError as error:
            parser.error(f"score: {error}")
        total = len(files)
    count = min(arguments.workers, total or arguments.workers)
    try:
        engine = _engine(arguments, count)
    except DagrError as error:
        if arguments.debug:
            raise
        print(f"dagr: --engine ray: {error}", file=sys.stderr)
        return 1
    stdout, messages = sys.stdout, contextlib.ExitStack()
    if arguments.engine == "ray":  # Ray prints messages about its workers on stdout
        messages.enter_context(contextlib.redirect_stdout(sys.stderr))
    with engine, messages, _drawer(arguments) as drawing:
        from dagr_jax.runtime.compile_cache import keep_compiled
        from dagr_jax.score import Scorer

        keep_compiled()
        scorer = Scorer.from_checkpoint(arguments.checkpoint)
        return _score(arguments, scorer, files, total, engine, drawing, stdout)


def _engine(arguments: argparse.Namespace, count: int) -> "Readers | Cluster":
    """Starts the readers that decode ahead, or the Ray cluster, while JAX is being imported."""
    if arguments.engine == "ray":
        from dagr_jax.score.ray_engine import Cluster

        return Cluster(count, arguments.ray_address, arguments.timeout)
    from dagr_jax.video.readers import Readers

    return Readers(count, arguments.timeout)


def _drawer(
    arguments: argparse.Namespace,
) -> "contextlib.AbstractContextManager[Readers | None]":
    """Starts the process that decodes for pages and overlays, if they are asked for.

    The processes of the engine read ahead in the meantime.
    """
    if not (arguments.page or arguments.overlay):
        return contextlib.nullcontext()
    from dagr_jax.video.readers import Readers

    return Readers(1, arguments.timeout)


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if arguments.segments is None:
        arguments.segments = 2.0 if arguments.page and not arguments.maps else 0.0
    if arguments.page and not arguments.page.lower().endswith((".html", ".htm")):
        parser.error(f"score: --page {arguments.page}: name an .html file")
    if arguments.page and not os.path.isdir(os.path.dirname(arguments.page) or "."):
        parser.error(f"score: --page {arguments.page}: its folder does not exist; create it")
    if arguments.resume and not arguments.out:
        parser.error("score: --resume continues a call with --out FILE; add --out FILE")
    if min(arguments.batch_size, arguments.workers, arguments.max_pixels) < 1:
        parser.error("score: --batch-size, --workers and --max-pixels must be at least 1")
    if arguments.segments < 0 or min(arguments.timeout, arguments.max_seconds) <= 0:
        parser.error(
            "score: --segments must be at least 0, and --timeout and --max-seconds above 0"
        )


def _score(
    arguments: argparse.Namespace,
    scorer: "Scorer",
    files: Iterable[str],
    total: int | None,
    engine: "Readers | Cluster",
    drawing: "Readers | None",
    stdout: TextIO,
) -> int:
    from dagr_jax.video.stream import Limits

    limits = Limits(arguments.max_pixels, arguments.max_seconds)
    told = {
        "checkpoint": scorer.digest,
        "segments": arguments.segments,
        "batch_size": arguments.batch_size,
        "maps": arguments.maps,
        "limits": [limits.pixels, limits.seconds],
    }
    row_file, page, rows = None, None, []
    undrawn: list[str] = []
    taken: set[str] = set()  # names of overlays
    stopped, mistake = "", None
    try:
        if arguments.out:
            row_file = RowFile(arguments.out, told, resume=arguments.resume)
        if arguments.page:
            from dagr_jax.report.page import Page

            page = Page(arguments.page, scorer, arguments.segments, limits, drawing)
        found = _rows(arguments, scorer, files, engine, limits, row_file)
        # disable=None: no progress bar if stderr is not a terminal.
        for row in tqdm(found, total=total, unit="video", disable=None):
            row, problems = _drawn(arguments.overlay, page, scorer, row, taken, drawing)
            rows.append(row)
            undrawn += map(str, problems)
            if row_file:
                row_file.add(row)
            if arguments.format == "jsonl":
                stdout.write(tables.render([row], "jsonl"))
                stdout.flush()
        if page:
            page.write()
        if row_file:
            row_file.finish()
    except RowFileError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        stopped = "interrupted"
    except DagrError as error:
        stopped, mistake = f"{error}; stopped", error
    if stopped and row_file:
        with contextlib.suppress(OSError):  # the disk may still be full
            row_file.close()
    if mistake and (arguments.debug or not rows):
        raise mistake
    failed = [row["error"] for row in rows if "error" in row]
    if arguments.format != "jsonl":
        stdout.write(_shown(rows, arguments.format))
    if failed and len(rows) > 1:
        print(f"dagr: {len(failed)} of {len(rows)} could not be scored:", file=sys.stderr)
    for line in [*failed, *undrawn]:
        print(f"dagr: {line}", file=sys.stderr)
    if stopped:
        resumable = row_file is not None and row_file.path.exists()
        kept = "; continue with the same command and --resume" if resumable else ""
        of = "" if total is None else f" of {total}"
        print(f"dagr: {stopped} after {len(rows)}{of}{kept}", file=sys.stderr)
        return 130 if stopped == "interrupted" else 1
    return 1 if failed or undrawn else 0


def _rows(
    arguments: argparse.Namespace,
    scorer: "Scorer",
    files: Iterable[str],
    engine: "Readers | Cluster",
    limits: "Limits",
    row_file: RowFile | None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each file: the row of an earlier call, or a new one."""
    from dagr_jax.data.map_folder import folder_of
    from dagr_jax.video.readers import Readers

    ours, theirs = itertools.tee(
        (file, row_file.known(file) if row_file else None) for file in files
    )
    unknown = (file for file, row in theirs if row is None)
    maps = arguments.maps
    options: dict[str, Any] = {
        "maps": (lambda file: folder_of(maps, os.path.basename(file))) if maps else None,
        "segments": arguments.segments,
        "limits": limits,
        "batch_size": arguments.batch_size,
    }
    if isinstance(engine, Readers):
        scored = scorer.score_many(unknown, readers=engine, **options)
    else:
        scored = engine.score_many(scorer, list(unknown), **options)
    for _, row in ours:
        yield dict(row) if row is not None else next(scored).to_dict()


def _drawn(
    overlay: str | None,
    page: "Page | None",
    scorer: "Scorer",
    row: dict[str, Any],
    taken: set[str],
    drawing: "Readers | None",
) -> tuple[dict[str, Any], list[DagrError]]:
    """Makes the overlay and page entry of a row.

    Returns:
        The row, in whose notes stands what could not be drawn; and why.
    """
    from dagr_jax.runtime.errors import one_file
    from dagr_jax.score import Result
    from dagr_jax.video.stream import VideoError

    problems: list[DagrError] = []
    if overlay and "error" not in row:
        try:
            with one_file(row["file"], VideoError, "drawing its overlay"):
                _draw(overlay, scorer, row, taken, drawing)
        except VideoError as error:
            problems.append(error)
    if page:
        problems += page.add(row)
    if problems:
        row = Result.from_dict(row).noted(problems).to_dict()
    return row, problems


def _draw(
    folder: str,
    scorer: "Scorer",
    row: dict[str, Any],
    taken: set[str],
    drawing: "Readers | None",
) -> None:
    """Writes the overlay of a scored file. Files with the same name are numbered in order."""
    from dagr_jax.report.overlay import write_overlay
    from dagr_jax.score import Result

    stem = name = os.path.basename(row["file"])
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}-{number}"
    taken.add(name)
    write_overlay(scorer, Result.from_dict(row), Path(folder), name, drawing)


def _shown(rows: list[dict[str, Any]], form: str) -> str:
    if form != "table":
        return tables.render(rows, form)
    shown = [{key: row[key] for key in _TABLE if row.get(key) is not None} for row in rows]
    for row in shown:
        for name in ("damaged", "notes"):  # columns only where there is something to say
            if not row.get(name):
                row.pop(name, None)
        if worst := row.get("worst"):
            row["worst"] = f"{worst['score']:.1f} at {worst['start']:g}-{worst['end']:g} s"
        if "error" in row:  # the message starts with the file, which the row already shows
            row["error"] = row["error"].removeprefix(f"{row['file']}: ")
    text = tables.render(shown, form)
    if first := next((row for row in rows if "error" not in row), None):
        low, high = first["mos_range"]
        preset = f", preset {first['preset']!r}" if first["preset"] else ""
        text += (
            f"score: 0-100, not clipped. mos: on the scale {low:g}-{high:g} of "
            f"{first['dataset']!r}. {first['model']}{preset}.\n"
        )
    return text
