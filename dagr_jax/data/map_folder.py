"""Saliency maps of other models (UNISAL, ViNet-S, DiffSal, …), stored as folders of pictures."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from dagr_jax.video.pictures import pictures, read_picture
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import map_indices
from dagr_jax.video.stream import VideoError


def folder_of(home: str | os.PathLike[str], video: str) -> Path:
    """Returns the folder of a video's maps: `home/<path of the video without its suffix>`."""
    return Path(home) / PurePosixPath(video).with_suffix("")


def read_maps(
    folder: Path, frames: np.ndarray, length: int, choice: str, size: tuple[int, int], preset: str
) -> np.ndarray:
    """Reads the maps of a video's sampled frames.

    Args:
        folder: Folder of grey pictures, in the order of their names: one for each frame of the
            video, or one for each sampled frame.
        frames: (n,) indices of the sampled frames.
        length: Number of frames of the video.
        choice: Rule that selects maps for the sampled frames, if there is one map per frame
            (`map_indices`).
        size: (h, w) of the returned maps in pixels; maps are resized with antialiasing.
        preset: "paper" scales each map to [0, 1] (eq. 14), and a constant map to 1. "release" uses
            the maps as they are, as the release does.

    Returns:
        (n, h, w) float32 in [0, 1].

    Raises:
        VideoError: There are no maps, the number of maps is neither that of the frames nor that of
            the sampled frames, or a map cannot be read.
    """
    found = pictures(folder)
    if not found:
        raise VideoError(folder, "holds no maps", "give the folder above one folder a video")
    if len(found) == len(frames):
        chosen = map_indices(np.arange(len(found)), len(found), choice)
    elif choice == "matched" and len(found) != length:
        raise VideoError(
            folder,
            f"has {len(found)} maps for a video of {length} frames, of which {len(frames)} are "
            "looked at",
            "give one for each, or maps.choice=linspace",
        )
    else:
        chosen = map_indices(frames, len(found), choice)
    grey = [read_picture(found[i], "L")[..., None] for i in chosen.tolist()]
    maps = np.stack([resize_bilinear(g, size, antialias=True)[..., 0] for g in grey]) / 255.0
    if preset == "release":
        return maps.astype(np.float32)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (maps - low) / span, 1.0).astype(np.float32)
