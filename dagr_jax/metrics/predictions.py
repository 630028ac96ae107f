"""Prediction files: predictions of models for the videos of data sets."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from dagr_jax.runtime import texts
from dagr_jax.runtime.errors import DagrError

# Columns of a predictions.csv that do not hold predictions of a model.
FEWEST = 3  # videos; of two, every rank correlation is 1 or -1
_FACTS = ("video", "mos", "content")


class PredictionsError(DagrError):
    """A predictions file cannot be used. The message is one line: the file and the fix."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of one model for one data set.

    Attributes:
        model: Name of the model.
        dataset: Name of the data set.
        videos: Names of the n videos.
        mos: (n,) MOS on the scale of the data set.
        values: (n,) predictions on any scale.
        contents: n content labels, equal for the versions of one scene. Equal to `videos` if the
            contents are unknown.
    """

    model: str
    dataset: str
    videos: tuple[str, ...]
    mos: np.ndarray
    values: np.ndarray
    contents: tuple[str, ...]


def read(source: str) -> list[Predictions]:
    """Reads the predictions of a source.

    Args:
        source: One of these, with an optional prefix DATASET= or MODEL:DATASET=:
            a CSV file with the columns `video`, `mos`, optionally `content`, and one column for
            each model; a folder with such a file, as written by `dagr evaluate`; or the working
            directory of a run, whose `split.csv` lists the contents. Without a prefix, the data
            set is that of the run, or the name of the file. A column `prediction` is named after
            the run or the file.

    Returns:
        One entry for each model.

    Raises:
        PredictionsError: The file is missing or has the wrong format.
    """
    names, equals, path = source.partition("=")
    if not equals or os.path.exists(source):  # a name with = in it
        names, path = "", source
    model, _, dataset = names.rpartition(":")
    place = Path(path)
    if place.is_dir():
        test = place / "test" / "predictions.csv"
        place = test if test.exists() else place / "predictions.csv"
    told = place.parent / "metrics.json"
    home = place.parent.parent if place.parent.name == "test" else place.parent
    if not dataset:
        dataset = _dataset_of(told) if told.exists() else place.stem
    rows = _rows(place)
    columns = [name for name in rows[0] if name not in _FACTS]
    if model and len(columns) > 1:
        raise PredictionsError(
            f"{place}: has predictions of {len(columns)} models ({', '.join(columns)}), so that it "
            f"cannot be called {model!r}; leave that out"
        )
    mos = _numbers(place, rows, "mos")
    values = {column: _numbers(place, rows, column) for column in columns}
    if len(rows) < FEWEST:
        raise PredictionsError(
            place,
            f"has {len(rows)} videos; a correlation needs at least {FEWEST}",
            "give the predictions of more videos",
        )
    contents = _contents(home / "split.csv") if told.exists() else {}
    videos = tuple(row["video"] for row in rows)
    known = tuple(row.get("content") or contents.get(row["video"], "") for row in rows)
    own = home.resolve().name if told.exists() else place.stem
    return [
        Predictions(
            model=model or (own if column == "prediction" else column),
            dataset=dataset,
            videos=videos,
            mos=mos,
            values=values[column],
            contents=known if all(known) else videos,
        )
        for column in columns
    ]


def fuse(models: Sequence[Predictions], recipe: str) -> list[Predictions]:
    """Fuses models: a weighted sum of their standardised predictions.

    Args:
        models: Predictions of models for any data sets.
        recipe: NAME=0.4*MODEL+0.6*MODEL. The predictions of each model for a data set are first
            scaled to mean 0 and standard deviation 1.

    Returns:
        The fused predictions, for each data set that has all models of the recipe.

    Raises:
        PredictionsError: The recipe is not valid, no data set has all its models, or the
            predictions of one model are constant.
    """
    name, _, total = recipe.partition("=")
    known = list(dict.fromkeys(one.model for one in models))
    # Match the longest names first: a name may contain signs and the name of another model.
    names = "|".join(re.escape(model) for model in sorted(known, key=len, reverse=True))
    term = re.compile(rf"\s*([+-]?)\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?({names})\s*(?=[+-]|$)")
    terms, place = [], 0
    while match := term.match(total, place):
        sign, weight, model = match.groups()
        terms.append((float(weight or 1) * (-1 if sign == "-" else 1), model))
        place = match.end()
    if not (name and terms) or place < len(total):
        raise PredictionsError(
            f"--fuse {recipe}: is not NAME=0.4*MODEL+0.6*MODEL of the models {', '.join(known)}"
        )
    made = []
    for dataset in dict.fromkeys(one.dataset for one in models):
        of = {one.model: one for one in models if one.dataset == dataset}
        if not all(model in of for _, model in terms):
            continue
        first, values = of[terms[0][1]], np.zeros(len(of[terms[0][1]].mos))
        for weight, model in terms:
            first, other = align(first, of[model])
            if np.ptp(other) == 0:
                raise PredictionsError(f"--fuse {recipe}: {model} is constant on {dataset}")
            values += weight * stats.zscore(other)
        made.append(dataclasses.replace(first, model=name.strip(), values=values))
    if not made:
        raise PredictionsError(f"--fuse {recipe}: no data set has all of these models")
    return made


def align(one: Predictions, other: Predictions) -> tuple[Predictions, np.ndarray]:
    """Aligns the predictions of two models for the same videos.

    Args:
        one: Predictions of the first model; they set the order of the videos.
        other: Predictions of the second model.

    Returns:
        `one`, with the contents of `other` if its own are unknown; and the values of `other`, (n,),
        in the order of `one`.

    Raises:
        PredictionsError: The videos, their MOS or their contents differ.
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
    theirs = tuple(other.contents[i] for i in order)
    if one.contents == one.videos:
        one = dataclasses.replace(one, contents=theirs)
    elif theirs != one.videos and not _alike(one.contents, theirs):
        raise PredictionsError(f"{pair}: the same videos have other contents; give them the same")
    return one, other.values[order]


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Returns whether two lists of labels define the same groups."""
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len(set(one)) == len(set(other))


def refuse_twins(models: Sequence[Predictions]) -> None:
    """Raises PredictionsError if two models of one data set have the same name."""
    seen: set[tuple[str, str]] = set()
    for one in models:
        if (one.model, one.dataset) in seen:
            raise PredictionsError(
                f"{one.model} on {one.dataset}: two have this name; put MODEL:DATASET= before one"
            )
        seen.add((one.model, one.dataset))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        remedy = "give a predictions.csv or the workdir of a finished run"
        raise PredictionsError(path, "there is no such file", remedy)
    header, numbered = texts.read_table(path, PredictionsError)
    known = {name: name.casefold() for name in header if name.casefold() in _FACTS}
    header = [known.get(name, name) for name in header]
    numbered = [
        (line, {known.get(name, name): cell for name, cell in row.items()})
        for line, row in numbered
    ]
    if not numbered or not {"video", "mos"} < set(header):
        raise PredictionsError(
            f"{path}: needs a line of names, video and mos and a model among them, and rows"
        )
    if "" in header:
        raise PredictionsError(path, "a column has no name", "name the model, or drop the column")
    seen: set[str] = set()
    for _, row in numbered:
        if row["video"] in seen:
            raise PredictionsError(f"{path}: {row['video']} is in it twice; leave one out")
        seen.add(row["video"])
    return [row for _, row in numbered]


def _dataset_of(path: Path) -> str:
    """The data set that a metrics.json names."""
    try:
        return json.loads(path.read_text())["dataset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PredictionsError(
            path, "names no data set", "put DATASET= before the file of predictions"
        ) from error


def _numbers(path: Path, rows: Sequence[dict[str, str]], column: str) -> np.ndarray:
    found = []
    for number, row in enumerate(rows, 2):
        try:
            value = float(row[column].replace(",", "."))
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
    """Reads {video: content} from the split file of a run; empty if there is no such file."""
    if not path.exists():
        return {}
    return {row["video"]: row["content"] for _, row in texts.read_own_table(path).rows}
