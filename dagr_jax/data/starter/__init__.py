"""The starter corpus: photographs and clips as platforms deliver them, labelled by VMAF.

`dagr prepare starter --source DIR` makes it from the sources that docs/starter.md lists. Its labels
are a full-reference measure, not human opinion.
"""

from pathlib import Path

from dagr_jax.data.rated import RatedSet
from dagr_jax.data.starter import corpus, labels

CORPUS = corpus.Corpus(seed=22, contents=(400, 50, 80), frames=12)


def _make(source: Path, folder: Path, workers: int) -> Path:
    """Makes the videos and labels of the corpus in a folder; returns the label file."""
    return labels.write(folder, corpus.make(folder, source, CORPUS, workers))


DATASET = RatedSet(
    title="the starter corpus",
    citation="dagr_jax, docs/starter.md",
    scale=labels.SCALE,
    counts={"": 6 * sum(CORPUS.contents)},
    readers=((labels.NAME, labels.read),),
    names=lambda name: (),
    content=lambda name: Path(name).stem.rpartition("_")[0],
    part=lambda path, label: label.row["split"],
    relative=labels.relative,
    make=_make,
)
