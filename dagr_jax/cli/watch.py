"""`dagr watch`."""

import argparse
import json
import math
import signal
import sys
from typing import Any

from dagr_jax.cli import options
from dagr_jax.runtime.errors import DagrError


def add(commands: Any) -> None:
    """Adds the command `dagr watch`."""
    watch = commands.add_parser(
        "watch",
        help="score live video, window by window",
        description="Prints one JSON line per window until the video ends or you press Ctrl-C. "
        "Exit code: 0 at the end, 1 if the source cannot be read (any more) or a window could not "
        "be scored, 2 for a usage error.",
    )
    watch.add_argument(
        "source",
        metavar="SOURCE",
        help="a growing file, a named pipe, - for stdin, or a URL that FFmpeg opens; in a format "
        "that is readable without its end, such as MPEG-TS or Matroska",
    )
    options.add_checkpoint(watch)
    watch.add_argument(
        "--window",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="length of a window (default: 2)",
    )
    watch.add_argument(
        "--waiting",
        type=int,
        default=2,
        metavar="N",
        help="number of windows that may wait for scoring; if there are more, the oldest is "
        "dropped (default: 2)",
    )
    watch.add_argument(
        "--every",
        action="store_true",
        help="never drop a window: the source waits, or scoring lags behind",
    )
    watch.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="time without data after which a file has ended, or a URL is reconnected "
        "(default: 10)",
    )
    watch.add_argument(
        "--retries",
        type=int,
        default=10,
        metavar="N",
        help="successive attempts to connect to a URL, 1, 2, 4, ... at most 30 s apart "
        "(default: 10)",
    )
    options.add_max_pixels(watch)
    watch.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if min(arguments.window, arguments.timeout) <= 0 or arguments.retries < 0:
        parser.error("watch: --window and --timeout must be above 0, and --retries at least 0")
    if min(arguments.waiting, arguments.max_pixels) < 1:
        parser.error("watch: --waiting and --max-pixels must be at least 1")
    from dagr_jax.runtime.compile_cache import keep_compiled
    from dagr_jax.score import Scorer
    from dagr_jax.score.live import LiveFailure, LiveScore, watch
    from dagr_jax.video.live import Feed
    from dagr_jax.video.stream import Limits

    keep_compiled()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scorer = Scorer.from_checkpoint(arguments.checkpoint)
    feed = Feed(
        arguments.source,
        scorer.inputs,
        arguments.window,
        waiting=arguments.waiting,
        every=arguments.every,
        patience=arguments.timeout,
        retries=arguments.retries,
        limits=Limits(arguments.max_pixels, math.inf),
    )
    scored, failed, dropped, code = 0, 0, 0, 0
    try:
        for item in watch(scorer, feed):
            if isinstance(item, LiveScore):
                scored, dropped = scored + 1, item.dropped
                print(json.dumps(item.to_dict()), flush=True)
            elif isinstance(item, LiveFailure):
                failed, dropped = failed + 1, item.dropped
                print(json.dumps(item.to_dict()), flush=True)
            else:
                told = f"{arguments.source}: {item.reason}; next attempt in {item.pause:g} s"
                print(f"dagr: {told}", file=sys.stderr)
    except DagrError as error:  # a VideoError, or the checkpoint needs maps
        if arguments.debug:
            raise
        print(f"dagr: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        pass
    if scored or not code:
        told = f"{scored} windows scored, {dropped} dropped"
        if failed:
            told, code = f"{told}, {failed} could not be scored", 1
        if feed.rest:
            told += f"; the last {feed.rest:.2f} s are shorter than a window and were not scored"
        print(f"dagr: {told}", file=sys.stderr)
    return code
