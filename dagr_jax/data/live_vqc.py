"""LIVE-VQC: 585 videos from 80 users and 43 device models (Sinno & Bovik, TIP 2019)."""

from pathlib import Path, PurePosixPath

from dagr_jax.data.labels import Label, field, pair, read_mat
from dagr_jax.data.rated import RatedSet


def _read(path: Path) -> list[Label]:
    held = read_mat(path)
    return pair(path, field(path, held, "video_list"), field(path, held, "mos"))


DATASET = RatedSet(
    title="LIVE-VQC",
    citation="Sinno and Bovik, Large-scale study of perceptual video quality, IEEE TIP 2019",
    scale=(0.0, 100.0),
    counts={"": 585},
    readers=(("data.mat", _read),),
    names=lambda name: (),
    content=lambda name: PurePosixPath(name).stem,
)
