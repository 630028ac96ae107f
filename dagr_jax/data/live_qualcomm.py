"""LIVE-Qualcomm: 208 videos, 54 scenes, 8 phones, raw YUV (Ghadiyaram et al., TCSVT 2018)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from dagr_jax.data.labels import Label, LabelError, field, numbers, pair, read_mat
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    """Reads the unbiased MOS of qualcommSubjectiveData.mat. Folders are named by distortion."""
    held = read_mat(path)
    videos = field(path, held, "qualcommVideoData")
    names = np.atleast_1d(field(path, videos, "vidNames"))
    folders = np.atleast_1d(field(path, videos, "distortionNames"))
    kinds = numbers(path, field(path, videos, "distortionType")).astype(int)
    if not len(names) or len(kinds) != len(names) or kinds.min() < 1 or kinds.max() > len(folders):
        raise LabelError(path, "distortionType does not fit vidNames", "copy it again")
    paths = [f"{folders[kind - 1]}/{name}" for kind, name in zip(kinds, names, strict=True)]
    return pair(path, paths, field(path, held, "qualcommSubjectiveData", "unBiasedMOS"))


def _names(name: str) -> Iterator[str]:
    stem = PurePosixPath(name).stem
    yield from (f"{stem}{suffix}" for suffix in (".yuv", ".mp4", ".avi"))


def _content(name: str) -> str:
    """Returns the scene: '0723_ManUnderTree_GS5_03_20140723.yuv' → 'ManUnderTree'."""
    parts = PurePosixPath(name).stem.split("_")
    return parts[1] if len(parts) > 1 else parts[0]


DATASET = RatedSet(
    title="LIVE-Qualcomm",
    citation="Ghadiyaram et al., In-capture mobile video distortions: a study of subjective "
    "behavior and objective algorithms, IEEE TCSVT 2018",
    scale=(0.0, 100.0),
    counts={"": 208},
    readers=(("qualcommSubjectiveData.mat", _read),),
    names=_names,
    raw=(1920, 1080, 30),
    content=_content,
)
