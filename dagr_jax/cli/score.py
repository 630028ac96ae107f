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

# The columns that the table for people shows; the other formats hold every field.
_TABLE = ("file", "score", "mos", "worst", "total_frames", "width", "height", "fps", "error")


def add(commands: Any) -> None:
    """Adds the command."""
    score = commands.add_parser(
        "score",
        help="score videos without a reference",
        description="Exit code: 0 all scored, 1 some could not be, 2 usage.",
    )
    score.add_argument(
        "files",
        nargs="+",
        metavar="PATH",
        help="video files, folders of them, patterns, @LIST of names, or - for names on stdin",
    )
    options.add_checkpoint(score)
    score.add_argument(
        "--segments",
        type=float,
        metavar="SECONDS",
        help="also score each segment of so many seconds, and name the worst (0: none; 2 with "
        "--page)",
    )
    score.add_argument(
        "--maps",
        metavar="DIR",
        help="saliency maps, a folder of pictures for each file: for a checkpoint that was "
        "trained with those of another model",
    )
    score.add_argument(
        "--overlay",
        metavar="DIR",
        help="for each file a video with saliency as a heat map and the running score, and a "
        "contact sheet (needs the saliency of every frame: slow)",
    )
    score.add_argument(
        "--page",
        metavar="FILE",
        help="one .html with a player for each file, its saliency and its quality over time; what "
        "browsers do not play is copied as H.264 to a folder beside it",
    )
    options.add_output(score)
    score.add_argument(
        "--resume", action="store_true", help="go on with an --out that was interrupted"
    )
    score.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="clips that the device scores at once (1); other sizes may round otherwise",
    )
    score.add_argument(
        "--workers",
        type=int,
        default=max(1, min(8, (os.cpu_count() or 1) // 2)),
        metavar="N",
        help="processes that decode ahead, with Ray those that score too (half of the cores, at "
        "most 8)",
    )
    score.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what scores: this process, or a Ray cluster (needs the extra 'ray')",
    )
    score.add_argument(
        "--ray-address",
        default="local",
        metavar="ADDRESS",
        help="of the cluster, as auto or ray://host:10001 (a new one on this machine)",
    )
    score.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="give up a file whose decoding gives nothing for so long (600)",
    )
    options.add_max_pixels(score)
    score.add_argument(
        "--max-seconds", type=float, default=4 * 3600, metavar="N", help="of a video (4 hours)"
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
    if arguments.engine == "ray":  # which prints what happens to its workers
        messages.enter_context(contextlib.redirect_stdout(sys.stderr))
    with engine, messages:
        from dagr_jax.runtime.compile_cache import keep_compiled
        from dagr_jax.score import Scorer

        keep_compiled()
        scorer = Scorer.from_checkpoint(arguments.checkpoint)
        return _score(arguments, scorer, files, total, engine, stdout)


def _engine(arguments: argparse.Namespace, count: int) -> "Readers | Cluster":
    """What reads the files ahead, or scores them elsewhere. It starts while JAX does."""
    if arguments.engine == "ray":
        from dagr_jax.score.ray_engine import Cluster

        return Cluster(count, arguments.ray_address, arguments.timeout)
    from dagr_jax.video.readers import Readers

    return Readers(count, arguments.timeout)


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if arguments.segments is None:
        arguments.segments = 2.0 if arguments.page and not arguments.maps else 0.0
    if arguments.page and not arguments.page.lower().endswith((".html", ".htm")):
        parser.error(f"score: --page {arguments.page}: name an .html file")
    if arguments.page and not os.path.isdir(os.path.dirname(arguments.page) or "."):
        parser.error(f"score: --page {arguments.page}: there is no folder of that name")
    if arguments.resume and not arguments.out:
        parser.error("score: --resume goes on with an --out FILE; name it")
    if min(arguments.batch_size, arguments.workers, arguments.max_pixels) < 1:
        parser.error("score: --batch-size, --workers and --max-pixels must be at least 1")
    if arguments.segments < 0 or min(arguments.timeout, arguments.max_seconds) <= 0:
        parser.error("score: --segments, --timeout and --max-seconds must be above 0")


def _score(
    arguments: argparse.Namespace,
    scorer: "Scorer",
    files: Iterable[str],
    total: int | None,
    engine: "Readers | Cluster",
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
    taken: set[str] = set()  # names of overlays
    stopped, mistake = "", None
    try:
        if arguments.out:
            row_file = RowFile(arguments.out, told, resume=arguments.resume)
        if arguments.page:
            from dagr_jax.report.page import Page

            page = Page(arguments.page, scorer, arguments.segments, limits)
        found = _rows(arguments, scorer, files, engine, limits, row_file)
        # None: where stderr is no terminal.
        for row in tqdm(found, total=total, unit="video", disable=None):
            row = _drawn(arguments.overlay, page, scorer, row, taken)
            rows.append(row)
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
        with contextlib.suppress(OSError):  # the disk may be full still
            row_file.close()
    if mistake and (arguments.debug or not rows):
        raise mistake
    failed = [row["error"] for row in rows if "error" in row]
    if arguments.format != "jsonl":
        stdout.write(_shown(rows, arguments.format))
    if failed and len(rows) > 1:
        print(f"dagr: {len(failed)} of {len(rows)} could not be scored:", file=sys.stderr)
    for line in failed:
        print(f"dagr: {line}", file=sys.stderr)
    if stopped:
        going_on = row_file is not None and row_file.path.exists()
        kept = "; the same command with --resume goes on" if going_on else ""
        of = "" if total is None else f" of {total}"
        print(f"dagr: {stopped} after {len(rows)}{of}{kept}", file=sys.stderr)
        return 130 if stopped == "interrupted" else 1
    return 1 if failed else 0


def _rows(
    arguments: argparse.Namespace,
    scorer: "Scorer",
    files: Iterable[str],
    engine: "Readers | Cluster",
    limits: "Limits",
    row_file: RowFile | None,
) -> Iterator[dict[str, Any]]:
    """A row for each file: of an earlier call, or anew."""
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
) -> dict[str, Any]:
    """A row, after its pictures; its failure where the file has changed since it was scored."""
    from dagr_jax.video.stream import VideoError

    try:
        if overlay and "error" not in row:
            _draw(overlay, scorer, row, taken)
        if page:
            page.add(row)
    except VideoError as error:
        row = {"file": row["file"], "error": str(error)}
        if page:
            page.add(row)
    return row


def _draw(folder: str, scorer: "Scorer", row: dict[str, Any], taken: set[str]) -> None:
    """The overlay of a scored file; files of one name get numbers, in their order."""
    from dagr_jax.report.overlay import write_overlay
    from dagr_jax.score import Result

    stem = name = os.path.basename(row["file"])
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}-{number}"
    taken.add(name)
    write_overlay(scorer, Result.from_dict(row), Path(folder), name)


def _shown(rows: list[dict[str, Any]], form: str) -> str:
    if form != "table":
        return tables.render(rows, form)
    shown = [{key: row[key] for key in _TABLE if row.get(key) is not None} for row in rows]
    for row in shown:
        if worst := row.get("worst"):
            row["worst"] = f"{worst['score']:.1f} at {worst['start']:g}-{worst['end']:g} s"
        if "error" in row:  # which begins with the file, as the row does
            row["error"] = row["error"].removeprefix(f"{row['file']}: ")
    text = tables.render(shown, form)
    if first := next((row for row in rows if "error" not in row), None):
        low, high = first["mos_range"]
        text += (
            f"score: 0-100, not clipped. mos: on the scale {low:g}-{high:g} of "
            f"{first['dataset']!r}. {first['model']}, preset {first['preset']!r}.\n"
        )
    return text
