"""JSON artifacts of a run, and the check that a folder belongs to the current configuration."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from dagr_jax.report import tables
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError


class StageError(DagrError):
    """A stage cannot run. The message is one line: folder or field, problem, remedy."""


def plain(tree: Any) -> Any:
    """Converts a config section to plain data that JSON can hold: dicts, lists and numbers."""
    if isinstance(tree, config_dict.ConfigDict):
        tree = tree.to_dict()
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def digest(config: Any) -> str:
    """Returns the digest of a configuration, twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def read_json(path: Path) -> Any:
    """Reads a file that `write_json` wrote."""
    return json.loads(path.read_text())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically. An undefined number (NaN) becomes null, as JSON has no NaN."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(tables.defined(value), indent=2, allow_nan=False) + "\n")


def claim(path: Path, wanted: Any, what: str) -> None:
    """Checks that the JSON file of an artifact belongs to the current configuration.

    Args:
        path: JSON file that holds the configuration of the artifact.
        wanted: Current configuration, as plain data.
        what: Kind of the artifact, for the error message, such as "a run".

    Raises:
        StageError: The file holds another configuration.
    """
    refuse_differences(path.parent, json.loads(path.read_text()), wanted, what)


def refuse_differences(folder: Path, held: Any, wanted: Any, what: str) -> None:
    """Checks that an artifact belongs to the current configuration.

    Args:
        folder: Folder of the artifact, for the error message.
        held: Configuration of the artifact, as plain data.
        wanted: Current configuration, as plain data.
        what: Kind of the artifact, for the error message, such as "a run".

    Raises:
        StageError: The configurations differ.
    """
    differing = list(_differences(held, wanted))
    if differing:
        raise StageError(
            f"{folder}: holds {what} of another configuration ({'; '.join(differing)}); "
            "use another --workdir"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old} and is now {new}"
