"""Splits into training, validation and test parts by content, with the field's protocols.

No content appears in more than one part. A split depends only on the contents, the protocol and the
seed, not on the order of the videos. There is always a validation part, so that the test part is
never used for selection.
"""

import collections
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dagr_jax.data.records import Listed
from dagr_jax.runtime import texts
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

PARTS = ("train", "val", "test")
PROTOCOLS = ("random", "repeated", "official", "kfold", "train")


class SplitError(DagrError):
    """A split cannot be made or is not valid. The message is one line."""


@dataclass(frozen=True)
class Protocol:
    """Protocol by which a data set is split.

    Attributes:
        name: Name of the protocol.
            "random": the shares `test` and `val` of all videos are test and validation part, the
            rest is the training part (80:10:10 in the paper).
            "repeated": one of any number of random splits into training and test part, selected by
            `fold`. The share `val` of the training part is the validation part. The common ten
            80/20 splits are folds 0 to 9 with `test` 0.2.
            "official": the test list of the data set. The share `val` of the other videos is the
            validation part.
            "kfold": the part with number `fold` of `folds` equal parts is the test part.
            "train": no test part, for training on a whole data set and testing on another one.
        test: Share of the test part, in (0, 1).
        val: Share of the validation part, in (0, 1).
        folds: Number of folds, for "kfold".
        fold: Number of the fold, from 0, for "kfold" and "repeated".
        seed: Seed of the random draws.
    """

    name: str = "random"
    test: float = 0.1
    val: float = 0.1
    folds: int = 5
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise SplitError(f"protocol {self.name!r} is unknown; one of {', '.join(PROTOCOLS)}")
        if not (0 < self.val < 1 and 0 < self.test < 1 and self.val + self.test < 1):
            raise SplitError(f"test {self.test} and val {self.val} must be shares that leave some")
        if self.fold < 0 or (self.name == "kfold" and not 0 <= self.fold < self.folds >= 2):
            raise SplitError(f"fold {self.fold} of {self.folds} is none; folds count from 0")

    def assign(self, contents: Sequence[str], parts: Sequence[str] = ()) -> list[str]:
        """Assigns each video to a part.

        Args:
            contents: Content key of each video.
            parts: For "official": part of each video in the data set's own files, "train" or
                "test". If these files also define a "val" part, it is the validation part.

        Returns:
            "train", "val" or "test" for each video.

        Raises:
            SplitError: There are too few contents, or the official lists share a content or leave
                out a video.
        """
        if self.name == "official" and set(parts) == set(PARTS):
            _sides(contents, parts)
            return list(parts)
        rest = sorted(set(contents))
        if self.name == "official":
            testing = self._official(contents, parts)
        elif self.name == "train":
            testing = set()
        elif self.name == "kfold":
            order = self._shuffled(rest, "kfold")
            testing = set(order[self.fold :: self.folds])
        else:
            stream = f"repeated {self.fold}" if self.name == "repeated" else "random"
            testing = self._take(rest, contents, self.test * len(contents), stream)
        rest = [content for content in rest if content not in testing]
        left = sum(content not in testing for content in contents)
        # A share of the videos outside the test part; for "random" (80:10:10), a share of all.
        wanted = self.val * (len(contents) if self.name == "random" else left)
        validating = self._take(rest, contents, wanted, "val")
        chosen = [
            "test" if c in testing else "val" if c in validating else "train" for c in contents
        ]
        needed = PARTS if self.name != "train" else PARTS[:2]
        if empty := [part for part in needed if part not in chosen]:
            raise SplitError(
                f"{len(set(contents))} contents leave nothing for {', '.join(empty)}; "
                "add videos, or take another protocol"
            )
        return chosen

    def _official(self, contents: Sequence[str], parts: Sequence[str]) -> set[str]:
        unnamed = sum(part not in ("train", "test") for part in parts)
        if len(parts) != len(contents) or unnamed:
            raise SplitError(
                "the data set has no official split of all its videos; take protocol random"
            )
        return _sides(contents, parts)["test"]

    def _shuffled(self, contents: Sequence[str], stream: str) -> list[str]:
        """Returns the contents in random order. Each use has its own order, named by `stream`."""
        rng = np.random.default_rng([self.seed, *stream.encode()])
        return [contents[i] for i in rng.permutation(len(contents))]

    def _take(
        self, pool: Sequence[str], contents: Sequence[str], videos: float, stream: str
    ) -> set[str]:
        """Draws contents from the pool until they have about `videos` videos; at least one content.

        Args:
            pool: Contents to draw from.
            contents: Content key of each video.
            videos: Number of videos to reach.
            stream: Name of the random stream.
        """
        sizes = collections.Counter(contents)
        taken: set[str] = set()
        held = 0
        for content in self._shuffled(pool, stream):
            # Add the last content only if the total gets closer to the requested number.
            if taken and held + sizes[content] - videos > videos - held:
                break
            taken.add(content)
            held += sizes[content]
            if held >= videos:
                break
        return taken


def _sides(contents: Sequence[str], parts: Sequence[str]) -> dict[str, set[str]]:
    """Returns the contents of each official part.

    Raises:
        SplitError: A content is in two parts.
    """
    sides: dict[str, set[str]] = {}
    part_of: dict[str, str] = {}
    for content, part in zip(contents, parts, strict=True):
        if part_of.setdefault(content, part) != part:
            raise SplitError(
                f"content {content} stands in the official lists {part_of[content]} and {part}; "
                "take protocol random"
            )
        sides.setdefault(part, set()).add(content)
    return sides


def write_split(path: Path, listed: Sequence[Listed], parts: Sequence[str]) -> None:
    """Writes a split file (video, content, part, digest) atomically, unless it exists.

    Args:
        path: The file.
        listed: Videos of a prepared set.
        parts: Part of each video; "" leaves the video out.

    Raises:
        SplitError: The file exists and has a different split.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "content", "part", "digest"))
    for row, part in zip(listed, parts, strict=True):
        if part:
            writer.writerow((row.video, row.content, part, row.digest))
    if path.exists():
        if os.fsdecode(path.read_bytes()) != text.getvalue():
            raise SplitError(
                f"{path}: the videos were split otherwise before; take another --workdir"
            )
        return
    with atomic_file(path) as partial:
        partial.write_bytes(os.fsencode(text.getvalue()))


def read_split(path: Path, listed: Sequence[Listed]) -> list[str]:
    """Reads a split file, written by `write_split` or by the user.

    Args:
        path: CSV file with the columns `video` and `part`; other columns are ignored.
        listed: Videos of the prepared set. Contents are taken from this list, not from the file.

    Returns:
        Part of each video of `listed`, "" if the file does not list it.

    Raises:
        SplitError: The file does not exist, a column is missing, a part is unknown, a video is not
            in the set or is listed twice, a content is in two parts, or the training or validation
            part is empty.
    """
    if not path.is_file():
        raise SplitError(f"{path}: there is no such file; give a CSV with video,content,part")
    content_of = {row.video: row.content for row in listed}
    header, rows = texts.read_own_table(path, SplitError)
    if not {row.get("video") for _, row in rows} <= content_of.keys():
        header, rows = texts.read_table(path, SplitError)  # of another program
    if missing := [column for column in ("video", "part") if rows and column not in header]:
        raise SplitError(f"{path}: it has no column {missing[0]!r}; write video,part")
    found: dict[str, str] = {}
    part_of: dict[str, str] = {}
    for number, row in rows:
        video, part = row["video"], row.get("part", "")
        if part not in PARTS:
            raise SplitError(f"{path}: line {number}: part {part!r} is none of {', '.join(PARTS)}")
        if video not in content_of:
            raise SplitError(
                f"{path}: line {number}: {video} is not in the prepared set; drop the line, or "
                "see the set's report.csv for why it is not"
            )
        if video in found:
            raise SplitError(f"{path}: line {number}: {video} stands there twice; drop one line")
        content = content_of[video]
        if part_of.setdefault(content, part) != part:
            raise SplitError(
                f"{path}: line {number}: content {content} stands in {part_of[content]} and "
                f"{part}; keep it in one"
            )
        found[video] = part
    if empty := [part for part in PARTS[:2] if part not in part_of.values()]:
        raise SplitError(f"{path}: it names no video for {', '.join(empty)}; name some")
    return [found.get(row.video, "") for row in listed]
