"""The split of a prepared set into training, validation and test records."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import config_dict

from dagr_jax.data.records import Listed, read_list
from dagr_jax.data.splits import PARTS, Protocol, SplitError, read_split, write_split
from dagr_jax.runtime.texts import read_own_table
from dagr_jax.stages.artifacts import StageError


def parts_of(data: Path, chosen: config_dict.ConfigDict) -> list[str]:
    """Returns the part of each record of a prepared set: "train", "val" or "test".

    Args:
        data: Folder of the prepared set.
        chosen: Section `split` of a configuration.

    Raises:
        StageError: The split file or the protocol does not fit the set.
    """
    listed = read_list(data)
    try:
        if chosen.file:
            return read_split(Path(chosen.file), listed)
        fields = {name: chosen[name] for name in ("test", "val", "folds", "fold", "seed")}
        protocol = Protocol(name=chosen.protocol, **fields)
        contents = [row.content for row in listed]
        return protocol.assign(contents, [row.part for row in listed])
    except SplitError as error:
        raise StageError(str(error)) from error


def rows_of(parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns part → (N,) numbers of its records."""
    numbers = np.array(parts)
    return {part: np.flatnonzero(numbers == part) for part in PARTS}


def of_gaze_set(data: Path, chosen: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Returns the split section for a separate gaze set.

    The set is split as its files define, or at random if they define no split.

    Args:
        data: Folder of the prepared gaze set.
        chosen: Section `split` of the configuration of the run.
    """
    own = config_dict.ConfigDict(chosen)
    with own.unlocked():
        said = {row.part for row in read_list(data)}
        own.file, own.protocol = "", "random" if "" in said else "official"
        own.fold = max(own.fold, 0)  # these protocols have no folds, and -1 means all folds
    return own


def write_parts(path: Path, data: Path, parts: Sequence[str]) -> None:
    """Writes the split of a prepared set as CSV, for people and for `unseen`."""
    write_split(path, read_list(data), list(parts))


def unseen(
    checkpoint: Path, listed: Sequence[Listed], splits: Sequence[str] = ("split.csv",)
) -> np.ndarray:
    """Selects the records whose contents a checkpoint was neither trained nor validated on.

    Records are recognised by the digests of their files, not by their names.

    Args:
        checkpoint: Working directory of a run, or the folder of a stage in it.
        listed: Records of a prepared set.
        splits: Names of the split files of the working directory. Files that are missing are
            ignored.

    Returns:
        (N,) numbers of the unseen records.

    Raises:
        StageError: The checkpoint is one file, which does not tell what it was trained on.
    """
    if checkpoint.is_file():
        raise StageError(
            f"{checkpoint}: does not tell on which videos it was trained; give the run that it was "
            "packed from"
        )
    homes = [home for home in (checkpoint, checkpoint.parent) if (home / splits[0]).is_file()]
    seen: set[str] = set()
    for path in [homes[0] / name for name in splits] if homes else []:
        if path.is_file():
            rows = read_own_table(path).rows
            seen |= {row["digest"] for _, row in rows if row["part"] != "test"}
    contents = {row.content for row in listed if row.digest and row.digest in seen}
    return np.array([i for i, row in enumerate(listed) if row.content not in contents], int)
