"""Overlay videos and contact sheets: the saliency of a model and its score over time."""

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dagr_jax.report.tables import printable
from dagr_jax.runtime.atomic import atomic_file, short_name
from dagr_jax.runtime.errors import DagrError, environment
from dagr_jax.score import Result, Scorer
from dagr_jax.score.maps import maps_over_time
from dagr_jax.video.readers import Readers
from dagr_jax.video.transcode import transcode

_SHEET_WIDTH, _GAP = 320, 8
Tile = tuple[float, np.ndarray, np.ndarray]  # seconds, small frame, small frame with heat map


def heat(frame: np.ndarray, saliency: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Blends a frame with a heat map of its saliency; opacity grows with saliency.

    Args:
        frame: (height, width, 3) uint8 RGB.
        saliency: (h, w) in [0, 1].
        strength: Opacity of the heat map where saliency is 1.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = frame.shape[:2]
    small = Image.fromarray(np.asarray(saliency, np.float32))
    full = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    colours = matplotlib.colormaps["inferno"](full, bytes=True)[..., :3]
    share = (strength * full)[..., None]
    return np.rint(frame * (1 - share) + colours * share).astype(np.uint8)


def write_overlay(
    scorer: Scorer, result: Result, folder: Path, name: str, readers: Readers | None = None
) -> tuple[Path, Path]:
    """Writes a video with the heat map and the current score, and a contact sheet.

    The video is H.264, with the frame size, frame times and sound of the file. The score is that
    of the segment, or that of the whole video if there are no segments.

    Args:
        scorer: Scorer that produced the result.
        result: Result for the file.
        folder: Output folder; it is created if missing.
        name: Name of the new files, without suffix.
        readers: Processes one of which reads the file, so that it cannot crash this one; None: this
            process reads it.

    Returns:
        (.mp4 file, .png file).

    Raises:
        DagrError: The score of the checkpoint uses no map, the file is gone, or the folder cannot
            be written.
    """
    with environment(folder):
        folder.mkdir(parents=True, exist_ok=True)
    film, sheet = (folder / short_name(name, suffix) for suffix in (".mp4", ".png"))
    for target in (film, sheet):
        if target.exists() and target.samefile(result.file):
            raise DagrError(target, "is the video itself", "give another folder")
    tiles: list[Tile] = []
    wanted = set(np.linspace(0, result.total_frames - 1, 8).astype(int).tolist())

    def pictures() -> Iterator[tuple[float, np.ndarray]]:
        found = maps_over_time(scorer, result.file, readers)
        for number, (seconds, frame, maps) in enumerate(found):
            hot = heat(frame, next(iter(maps.values())))
            if number in wanted:
                tiles.append((seconds, _small(frame), _small(hot)))
            yield seconds, _labelled(hot, _score_at(result, seconds))

    transcode(film, result.file, pictures(), result.fps)
    with atomic_file(sheet) as partial:
        _sheet(tiles, result).save(partial, format="PNG", optimize=True)
    return film, sheet


def _score_at(result: Result, seconds: float) -> float:
    """Returns the score of the segment at a time, or of the video if it has no segments."""
    for segment in result.segments:
        if seconds < segment.end:
            return segment.score
    return result.segments[-1].score if result.segments else result.score


def _labelled(frame: np.ndarray, score: float) -> np.ndarray:
    """Writes a score in the corner of a frame, on a dark box so that it is always readable."""
    height, width = frame.shape[:2]
    image = Image.fromarray(frame)
    font = ImageFont.load_default(max(10.0, min(height, width) / 12))
    draw = ImageDraw.Draw(image, "RGBA")
    text, pad = f"{score:.1f}", max(2, height // 80)
    left, top, right, bottom = draw.textbbox((2 * pad, 2 * pad), text, font=font)
    draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 160))
    draw.text((2 * pad, 2 * pad), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


def _small(frame: np.ndarray) -> np.ndarray:
    """Resizes a frame, with antialiasing, to the width of a tile of the contact sheet."""
    height, width = frame.shape[:2]
    size = _SHEET_WIDTH, max(1, round(height * _SHEET_WIDTH / width))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _sheet(tiles: list[Tile], result: Result) -> Image.Image:
    """Makes the contact sheet: frames, the same frames with heat maps, times and scores."""
    height = max(tile.shape[0] for _, tile, _ in tiles)
    title, caption = 34, 24
    columns = min(4, len(tiles))
    lines = -(-len(tiles) // columns)
    line = 2 * height + _GAP + caption + _GAP
    sheet = Image.new(
        "RGB",
        (columns * (_SHEET_WIDTH + _GAP) + _GAP, title + _GAP + lines * line),
        (24, 24, 27),
    )
    draw = ImageDraw.Draw(sheet)
    low, high = result.mos_range
    heading = (
        f"{printable(os.path.basename(result.file))[:60]}    score {result.score:.1f} of 100    "
    )
    heading += f"MOS {result.mos:.2f} on {low:g}-{high:g}"
    draw.text((_GAP, _GAP), heading, font=ImageFont.load_default(20), fill=(244, 244, 245))
    for number, (seconds, frame, hot) in enumerate(tiles):
        left = _GAP + number % columns * (_SHEET_WIDTH + _GAP)
        top = title + _GAP + number // columns * line
        sheet.paste(Image.fromarray(frame), (left, top))
        sheet.paste(Image.fromarray(hot), (left, top + height + _GAP))
        told = f"{seconds:.2f} s"
        if result.segments:
            told += f"    score {_score_at(result, seconds):.1f}"
        draw.text(
            (left, top + 2 * height + _GAP + 2),
            told,
            font=ImageFont.load_default(15),
            fill=(200, 200, 205),
        )
    return sheet
