"""What a sample is, on disk and in a batch."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Clip:
    """A labelled video.

    Attributes:
        video: Name of its file, relative to the data set's video folder.
        content: Key of what it shows. Videos of one content never stand in two splits.
        split: "train", "val" or "test".
        mos: Mean opinion score on the data set's own scale.
    """

    video: str
    content: str
    split: str
    mos: float
