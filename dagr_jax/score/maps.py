"""Where the saliency maps of a score come from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dagr_jax.video.sampling import map_indices, windows_of

# (frame indices, whether antialiased) → those frames of a video, resized
Read = Callable[[np.ndarray, bool], np.ndarray]


@dataclasses.dataclass(frozen=True)
class MapPlan:
    """How the saliency maps of a video's sampled frames are made.

    Attributes:
        window: 0: the sampled frames are one window of the saliency net, each map is of its frame.
            Otherwise the net runs over every frame of the video, in consecutive windows of so
            many, as the PyTorch release does, and `choice` picks the maps.
        choice: See `video.sampling.map_indices`. Of one window only "static" differs from
            "matched".
        antialias: How the frames of these windows are resized.
        outside: Another model made the maps; there is no saliency net.
    """

    window: int
    choice: str
    antialias: bool
    outside: bool = False

    @property
    def plain(self) -> bool:
        """Whether the maps are those that the whole model makes when it is given the frames."""
        return not (self.window or self.outside or self.choice == "static")

    def of_sampled(self, maps: np.ndarray) -> np.ndarray:
        """The maps (n, h, w) of the sampled frames → those that go with them."""
        return maps[map_indices(np.arange(len(maps)), len(maps), self.choice)]

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "MapPlan":
        """The plan of a checkpoint: the release's maps are made of antialiased frames."""
        return cls(**meta["maps"], antialias=meta["preset"] == "release")

    def maps(
        self,
        look: Callable[[np.ndarray], Any],
        read: Read,
        frames: np.ndarray,
        length: int,
    ) -> np.ndarray:
        """Maps for the sampled frames; of every frame's windows only those are computed that count.

        Args:
            look: (1, window, H, W, 3) uint8 frames → their maps.
            read: Of the video.
            frames: (n,) indices of the sampled frames.
            length: Frames of the video.

        Returns:
            (n, h, w) float32 in [0, 1].
        """
        chosen = map_indices(frames, length, self.choice)
        windows, place = windows_of(chosen, length, self.window)
        pictures = read(windows.reshape(-1), self.antialias)
        pictures = pictures.reshape(*windows.shape, *pictures.shape[1:])
        maps = np.concatenate([np.asarray(look(window[None])[0]) for window in pictures])
        return maps[place]
