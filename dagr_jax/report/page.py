"""One HTML file that shows scored videos: player, maps, quality over time, facts, a table."""

import base64
import hashlib
import io
import json
import math
import os
import string
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import numpy as np
from PIL import Image

from dagr_jax import __version__
from dagr_jax.report.tables import defined
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError, environment, one_file
from dagr_jax.score import Result, Scorer
from dagr_jax.score.maps import looks
from dagr_jax.video.clip import ClipPlan
from dagr_jax.video.decode import timed_frames
from dagr_jax.video.files import OF_PAGE
from dagr_jax.video.readers import Readers
from dagr_jax.video.stream import Limits, VideoError
from dagr_jax.video.transcode import transcode

# Formats that all current browsers play. The page shows a message if a browser lacks the codec.
_PLAYED = {".mp4", ".m4v", ".mov", ".webm"}
_PLAYED_AS = {
    "h264": {"yuv420p", "yuvj420p"},
    "vp8": {"yuv420p"},
    "vp9": {"yuv420p", "yuv420p10le"},
    "av1": {"yuv420p", "yuv420p10le"},
}
# JPEG has blocks of 8 pixels. Map sizes are multiples of a block, so that maps on one sheet do not
# bleed into each other.
_BLOCK, _MAP_SIDE, _THUMB_WIDTH = 8, 96, 224
# Maximum number of maps per video, so that the page stays small for a video of hours.
_MOST_MAPS = 600


class Page:
    """The page of one call of `dagr score`, built file by file.

    Args:
        path: HTML file to write. Copies of videos that browsers cannot play are written to the
            folder `<name of the page>_files` next to it.
        scorer: Scorer that produced the results.
        segments: Length of a segment in seconds, as in the scoring.
        limits: Limits on videos, as in the scoring.
        readers: Processes one of which reads the files, so that they cannot crash this one; None:
            this process reads them.

    Raises:
        DagrError: That folder exists and does not belong to a page.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        scorer: Scorer,
        segments: float = 0.0,
        limits: Limits | None = None,
        readers: Readers | None = None,
    ):
        self._path = Path(path)
        self._scorer, self._readers = scorer, readers
        self._options = {"segments": segments, "limits": limits, "readers": readers}
        self._files: list[dict[str, Any]] = []
        self._copies = self._path.with_name(f"{self._path.stem}_files")
        if self._copies.exists() and not (self._copies / OF_PAGE).exists():
            raise DagrError(
                self._copies, "exists and does not belong to a page", "give the page another name"
            )

    def add(self, row: Mapping[str, Any]) -> list[VideoError]:
        """Adds a video, which is read once more for its maps.

        A map or a copy that fails costs only itself: the video stands on the page with its score.

        Args:
            row: Row of a Result or a Failure.

        Returns:
            Why maps or a copy could not be made; empty if nothing failed.

        Raises:
            DagrError: A copy cannot be written, for example because the disk is full.
        """
        entry: dict[str, Any] = {"row": dict(row)}
        self._files.append(entry)
        if "error" in row:
            return []
        result = Result.from_dict(row)
        entry |= {"link": _relative(result.file, self._path.parent), "maps": {}}
        found = []
        for make in (self._look, self._copy):
            try:
                with one_file(result.file, VideoError, "drawing it for the page"):
                    entry |= make(result)
            except VideoError as error:
                found.append(error)
        entry["row"] = result.noted(found).to_dict()
        return found

    def _look(self, result: Result) -> dict[str, Any]:
        seen = _Seen.of(self._scorer, result, self._options)
        return {"thumb": seen.thumbnail, "maps": seen.sheets()}

    def _copy(self, result: Result) -> dict[str, Any]:
        """Writes a copy of a file that browsers cannot play."""
        if plays(result):
            return {}
        with environment(self._copies):
            self._copies.mkdir(exist_ok=True)
            (self._copies / OF_PAGE).touch()
        copy = self._copies / f"{len(self._files)}.mp4"
        frames = (self._readers.frames if self._readers else timed_frames)(result.file)
        transcode(copy, result.file, _even(frames), result.fps)
        return {"link": _relative(str(copy), self._path.parent), "proxy": True}

    def write(self) -> None:
        """Writes the page atomically.

        Raises:
            DagrError: The page cannot be written.
        """
        with atomic_file(self._path) as partial:
            partial.write_text(self._html(), encoding="utf-8")

    def _html(self) -> str:
        told = self._scorer.meta
        low, high = told["mos_range"]
        names = [os.path.basename(file["row"]["file"]) for file in self._files]
        title = f"{names[0] if len(names) == 1 else f'{len(names)} videos'} · video quality"
        data = {
            "title": title,
            "model": f"{_named(told)}, step {told['step']}, checkpoint {self._scorer.digest}, "
            f"trained on {told['dataset']} (MOS {low:g}\N{EN DASH}{high:g})",
            "maps": {
                name: {"meaning": facts.meaning, "colours": _colours(facts.colours)}
                for name, facts in self._scorer.contract.facts.maps.items()
            },
            "files": self._files,
        }
        style, script = _asset("page.css"), _asset("page.js")
        # Videos are not copied: they may be anywhere on the same disk or server as the page.
        policy = (
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
            f"media-src 'self' file:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
        )
        return string.Template(_asset("page.html")).substitute(
            csp=policy,
            version=__version__,
            title="Video quality",
            style=style,
            script=script,
            # "<" could end the block or start a comment in it.
            data=json.dumps(defined(data), allow_nan=False).replace("<", "\\u003c"),
        )


def _named(meta: Mapping[str, Any]) -> str:
    """The model, and its preset where it has one."""
    preset = f", preset {meta['preset']}" if meta["preset"] else ""
    return f"{meta['model']}{preset}"


class _Seen:
    """Small pictures of the frames and maps from which a video was scored."""

    def __init__(self) -> None:
        self.thumbnail = ""
        self._maps: dict[str, list[tuple[float, np.ndarray]]] = {}

    @classmethod
    def of(cls, scorer: Scorer, result: Result, options: Mapping[str, Any]) -> "_Seen":
        seen, taken, stride = cls(), 0, 1
        for message in looks(scorer, result.file, **options):
            if isinstance(message, ClipPlan):  # what came before does not count
                seen, taken = cls(), 0
                total = len(message.bounds) * result.frames
                stride = math.ceil(total / _MOST_MAPS)
                continue
            if not seen.thumbnail:
                middle = message.frames[len(message.frames) // 2]
                seen.thumbnail = _thumbnail(middle, result.width / result.height)
            count = len(message.seconds)
            for number, seconds in enumerate(message.seconds.tolist()):
                if taken % stride == 0:
                    for name, maps in message.maps.items():  # perhaps fewer than frames
                        own = _small(maps[number * len(maps) // count])
                        seen._maps.setdefault(name, []).append((round(seconds, 3), own))
                taken += 1
        return seen

    def sheets(self) -> dict[str, dict[str, Any]]:
        """The maps of each name as one picture, row after row, and when each is shown."""
        return {name: _sheet(maps) for name, maps in self._maps.items()}


def _sheet(timed: list[tuple[float, np.ndarray]]) -> dict[str, Any]:
    order = np.argsort([seconds for seconds, _ in timed], kind="stable").tolist()
    maps = np.stack([timed[i][1] for i in order])
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    sheet = np.zeros((lines, columns, height, width), np.uint8)
    sheet.reshape(-1, height, width)[:count] = maps
    picture = sheet.transpose(0, 2, 1, 3).reshape(lines * height, columns * width)
    return {
        "sheet": _data_url(Image.fromarray(picture), quality=85),
        "columns": columns,
        "width": width,
        "height": height,
        "seconds": [timed[i][0] for i in order],
    }


def plays(result: Result) -> bool:
    """Returns whether browsers can play a file, judged by its suffix, codec and pixel format."""
    suffix = Path(result.file).suffix.lower()
    return suffix in _PLAYED and result.pix_fmt in _PLAYED_AS.get(result.codec, ())


def _even(frames: Iterator[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    """Pads frames to even sizes, which 4:2:0 needs, by repeating the last row or column."""
    for seconds, frame in frames:
        height, width = frame.shape[:2]
        yield seconds, np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _small(saliency: np.ndarray) -> np.ndarray:
    """Converts a map (h, w) in [0, 1] to uint8 and resizes its longer side to `_MAP_SIDE`."""
    height, width = saliency.shape
    scale = _MAP_SIDE / max(height, width)
    size = [max(_BLOCK, round(side * scale / _BLOCK) * _BLOCK) for side in (width, height)]
    picture = Image.fromarray(np.asarray(saliency, np.float32))
    resized = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(resized).clip(0, 1) * 255).astype(np.uint8)


def _thumbnail(frame: np.ndarray, aspect: float) -> str:
    """Makes a thumbnail of a model input frame, in the display aspect ratio of the video."""
    size = _THUMB_WIDTH, min(max(round(_THUMB_WIDTH / aspect), 1), 4 * _THUMB_WIDTH)
    return _data_url(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS), quality=80)


def _data_url(picture: Image.Image, quality: int) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _colours(name: str) -> str:
    """256 colours of a colour map of matplotlib, six hexadecimal digits each."""
    return matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3].tobytes().hex()


def _relative(path: str, folder: Path) -> str:
    """Returns a path as a link relative to a folder. Bytes that are not UTF-8 are preserved."""
    return "./" + quote(os.fsencode(os.path.relpath(path, folder)))


def _asset(name: str) -> str:
    return resources.files("dagr_jax.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Returns the hash that identifies a block of the page in the content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
