"""Predictions of models for the videos of data sets, as files hold them."""

import csv
import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

# Columns of a predictions.csv that are no model's.
_FACTS = ("video", "mos", "content")
# One term of a fusion: sign, weight, model.
_TERM = re.compile(
    r"\s*([+-]?)\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?([^\s+*=-][^+*=-]*?)\s*(?=[+-]|$)"
)


class PredictionsError(ValueError):
    """A file of predictions that cannot be used; one line that names it and the mend."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What one model predicts for one data set.

    Attributes:
        model, dataset: Names.
        videos: (n) names.
        mos: (n,) on the data set's scale.
        values: (n,) predictions on whatever scale.
        contents: (n) labels, equal for the versions of one scene.
    """

    model: str
    dataset: str
    videos: tuple[str, ...]
    mos: np.ndarray
    values: np.ndarray
    contents: tuple[str, ...]


def read(source: str) -> list[Predictions]:
    """Reads the predictions that a source names.

    Args:
        source: A CSV file with the columns `video`, `mos`, perhaps `content`, and one for each
            model; or a run's workdir or its `test/`, whose `split.csv` tells contents. Before it
            may stand DATASET= or MODEL:DATASET=; otherwise a run tells its data set and a file is
            called as it is, and a column `prediction` is called as the run or file.

    Raises:
        PredictionsError: The file is missing or is not of that kind.
    """
    names, equals, path = source.rpartition("=")
    if equals and os.path.exists(source):  # a name with = in it
        names, path = "", source
    model, _, dataset = names.rpartition(":")
    place = Path(path)
    home = place if place.is_dir() else place.parent
    if place.is_dir():
        home = place if (place / "test").is_dir() else place.parent
        place = home / "test" / "predictions.csv"
    elif (place.parent / "metrics.json").exists():
        home = place.parent.parent
    told = place.parent / "metrics.json"
    if not dataset:
        dataset = json.loads(told.read_text())["dataset"] if told.exists() else place.stem
    rows = _rows(place)
    columns = [name for name in rows[0] if name not in _FACTS]
    if model and len(columns) > 1:
        raise PredictionsError(
            f"{place}: has predictions of {len(columns)} models ({', '.join(columns)}), so that it "
            f"cannot be called {model!r}; leave that out"
        )
    contents = _contents(home / "split.csv") if told.exists() else {}
    videos = tuple(row["video"] for row in rows)
    own = home.resolve().name if told.exists() else place.stem
    return [
        Predictions(
            model=model or (own if column == "prediction" else column),
            dataset=dataset,
            videos=videos,
            mos=_numbers(place, rows, "mos"),
            values=_numbers(place, rows, column),
            contents=tuple(
                row.get("content") or contents.get(row["video"], row["video"]) for row in rows
            ),
        )
        for column in columns
    ]


def fuse(models: Sequence[Predictions], recipe: str) -> list[Predictions]:
    """A weighted sum of standardised predictions, for each data set that has all of its models.

    Args:
        models: Of any data sets.
        recipe: NAME=0.4*MODEL+0.6*MODEL; each model's predictions of a data set are brought to
            mean 0 and standard deviation 1 first.

    Raises:
        PredictionsError: The recipe is none, or no data set has its models.
    """
    name, _, total = recipe.partition("=")
    terms, place = [], 0
    while match := _TERM.match(total, place):
        sign, weight, model = match.groups()
        terms.append((float(weight or 1) * (-1 if sign == "-" else 1), model))
        place = match.end()
    if not (name and terms) or place < len(total):
        raise PredictionsError(f"--fuse {recipe}: is not NAME=0.4*MODEL+0.6*MODEL")
    made = []
    for dataset in dict.fromkeys(one.dataset for one in models):
        of = {one.model: one for one in models if one.dataset == dataset}
        if not all(model in of for _, model in terms):
            continue
        parts = [of[model] for _, model in terms]
        for part in parts[1:]:
            align(parts[0], part)
        values = sum(
            weight * stats.zscore(align(parts[0], part))
            for (weight, _), part in zip(terms, parts, strict=True)
        )
        made.append(dataclasses.replace(parts[0], model=name.strip(), values=np.asarray(values)))
    if not made:
        known = ", ".join(dict.fromkeys(one.model for one in models))
        raise PredictionsError(
            f"--fuse {recipe}: no data set has all its models; there are {known}"
        )
    return made


def align(one: Predictions, other: Predictions) -> np.ndarray:
    """The other's predictions in the order of the one's videos.

    Raises:
        PredictionsError: They are not of the same videos with the same MOS.
    """
    places = {video: i for i, video in enumerate(other.videos)}
    pair = f"{one.model} and {other.model} on {one.dataset}"
    lacking = sorted(set(one.videos) ^ set(other.videos))
    if lacking:
        raise PredictionsError(
            f"{pair}: {len(lacking)} videos are of one alone ({lacking[0]} is one); compare "
            "predictions of the same videos"
        )
    order = [places[video] for video in one.videos]
    if not np.allclose(other.mos[order], one.mos, rtol=1e-6, atol=1e-9):
        raise PredictionsError(
            f"{pair}: the same videos have another MOS; compare predictions of one data set"
        )
    return other.values[order]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except OSError as error:
        mend = "give a predictions.csv or the workdir of a finished run"
        raise PredictionsError(f"{path}: {error.strerror}; {mend}") from error
    except (csv.Error, UnicodeError) as error:
        raise PredictionsError(f"{path}: is no CSV file; give a predictions.csv") from error
    if not rows or not {"video", "mos"} < rows[0].keys():
        raise PredictionsError(
            f"{path}: needs a line of names, video and mos and a model among them, and rows"
        )
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise PredictionsError(f"{path}: line {number} has not as many cells as the first")
        if row["video"] in seen:
            raise PredictionsError(f"{path}: {row['video']} is in it twice; leave one out")
        seen.add(row["video"])
    return rows


def _numbers(path: Path, rows: Sequence[dict[str, str]], column: str) -> np.ndarray:
    found = []
    for number, row in enumerate(rows, 2):
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise PredictionsError(
                f"{path}: line {number}: {column} is {row[column]!r}; give a finite number, or "
                "leave the video out"
            )
        found.append(value)
    return np.array(found)


def _contents(path: Path) -> dict[str, str]:
    """Video → content, of a run's split; empty where there is none."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["video"]: row["content"] for row in csv.DictReader(file)}
