"""Selection of the frames of a video: only index arithmetic, in exact integers.

An index is a rank in presentation order (0 is the first frame shown), not a time, also if the frame
rate varies (docs/reference.md, section 6, "frame choice").
"""

import numpy as np

from dagr_jax.runtime.errors import DagrError

RULES = ("linspace", "segments")
MAP_CHOICES = ("matched", "linspace", "first", "first_map")


def linspace_indices(length: int, n: int) -> np.ndarray:
    """Selects frames by the rule of the release: ``floor(linspace(0, length - 1, n))``.

    Source: docs/reference.md, section 1.

    Args:
        length: Number of frames of the video, at least 1.
        n: Number of frames to choose, at least 1.

    Returns:
        (n,) int64, non-decreasing, from 0 to length - 1. If the video is shorter than n, frames are
        repeated. The last index is the last frame; with n = 1, it is the first frame.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    if n == 1:
        return np.zeros(1, np.int64)
    # Integers, so that rounding cannot move an exact quotient to the frame before.
    return np.arange(n, dtype=np.int64) * (length - 1) // (n - 1)


def segments_indices(length: int, n: int) -> np.ndarray:
    """Selects the middle frame of each of n equal segments, as the text of the paper states.

    Source: docs/reference.md, section 6.

    Args:
        length: Number of frames of the video, at least 1.
        n: Number of segments, at least 1.

    Returns:
        (n,) int64, non-decreasing, each ``floor((i + 1/2) * length / n)``, always below length.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    return (2 * np.arange(n, dtype=np.int64) + 1) * length // (2 * n)


def even_indices(length: int, n: int) -> np.ndarray:
    """Selects n frames at equal intervals from the first frame: ``floor(i * length / n)`` (A²INet).

    Args:
        length: Number of frames of the video, at least 1.
        n: Number of frames to choose, at least 1.

    Returns:
        (n,) int64, non-decreasing. If the video is shorter than n, frames are repeated.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    return np.arange(n, dtype=np.int64) * length // n


def all_indices(length: int, most: int = 0) -> np.ndarray:
    """Selects every frame, up to a maximum.

    Args:
        length: Number of frames of the video, at least 1.
        most: Maximum number of frames; 0: no maximum. If the video has more frames, `even_indices`
            selects `most` of them.

    Returns:
        (n,) int64, increasing.

    Raises:
        DagrError: length is below 1.
    """
    _check(length, 1)
    return even_indices(length, most) if 0 < most < length else np.arange(length, dtype=np.int64)


def fragment_indices(
    length: int,
    fragments: int,
    n: int,
    stride: int,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Selects n frames in runs, one run in each of equal segments of the video (KVQ, FAST-VQA).

    Args:
        length: Number of frames of the video, at least 1.
        fragments: Number of segments.
        n: Number of frames to choose, a multiple of `fragments`.
        stride: Distance between the frames of a run, in frames.
        rng: Random generator of the offset of each run in its segment; None: each run is in the
            middle of its segment, so that a video always gives the same frames.

    Returns:
        (n,) int64. A run is `stride * n / fragments` frames long. If its segment is not longer than
        that, its offset is 0. Indices after the last frame continue at the first frame.

    Raises:
        DagrError: length or n is below 1.
        ValueError: n cannot be split evenly over the fragments.
    """
    _check(length, n)
    if fragments < 1 or n % fragments:
        raise ValueError(f"{n} frames cannot be split evenly over {fragments} fragments")
    each, segment = n // fragments, length // fragments
    room = max(segment - each * stride, 0)
    if rng is None or not room:
        offsets = np.full(fragments, room // 2, np.int64)
    else:
        offsets = rng.integers(0, room, fragments)
    first = segment * np.arange(fragments, dtype=np.int64) + offsets
    return (first[:, None] + stride * np.arange(each)).reshape(-1) % length


def sample_indices(length: int, n: int, rule: str = "linspace") -> np.ndarray:
    """Selects frames by the rule of a name.

    Args:
        length: Number of frames of the video, at least 1.
        n: Number of frames to choose, at least 1.
        rule: Name of the rule, one of ``RULES``.

    Returns:
        (n,) int64 (see `linspace_indices` and `segments_indices`).

    Raises:
        DagrError: The rule is unknown, or length or n is below 1.
    """
    if rule == "linspace":
        return linspace_indices(length, n)
    if rule == "segments":
        return segments_indices(length, n)
    raise DagrError(f"sampling rule {rule!r} is unknown; use one of: {', '.join(RULES)}")


def map_indices(frames: np.ndarray, num_maps: int, choice: str) -> np.ndarray:
    """Selects the saliency maps of a video that are used with its sampled frames.

    Source: docs/reference.md, section 1.

    Args:
        frames: (n,) indices of the sampled frames, as `sample_indices` returns them.
        num_maps: Number of maps of the video: one per frame, if no map is missing.
        choice: "matched": the map of each frame. "linspace": evenly spaced maps, independent of the
            frames (the rule of the release for KoNViD-1k, LIVE-VQC and YouTube-UGC). "first": the
            first n maps (the rule of the release for LSVQ; a defect, because these maps do not
            belong to the frames). "first_map": the first map for all frames. An index after the
            last map is replaced by the last map.

    Returns:
        (n,) int64, from 0 to num_maps - 1.

    Raises:
        DagrError: The choice is unknown, or num_maps is below 1.
    """
    n = len(frames)
    if choice not in MAP_CHOICES:
        raise DagrError(f"choice of maps {choice!r} is unknown; use one of {MAP_CHOICES}")
    wanted = {
        "matched": np.asarray(frames, np.int64),
        "linspace": linspace_indices(num_maps, n),
        "first": np.arange(n, dtype=np.int64),
        "first_map": np.zeros(n, np.int64),
    }
    return np.minimum(wanted[choice], num_maps - 1)


def windows_of(chosen: np.ndarray, length: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Selects the windows that contain chosen frames. The video is cut into consecutive windows.

    Args:
        chosen: (n,) indices of the chosen frames.
        length: Number of frames of the video, at least 1.
        window: Number of frames of a window. The last window is padded with the last frame.

    Returns:
        (k, window) int64 frames of the windows that contain a chosen frame, in order; and (n,)
        positions of the chosen frames in the k · window frames.

    Raises:
        DagrError: length or window is below 1.
    """
    _check(length, window)
    numbers, which = np.unique(np.asarray(chosen, np.int64) // window, return_inverse=True)
    frames = np.minimum(numbers[:, None] * window + np.arange(window), length - 1)
    return frames, which * window + chosen % window


def _check(length: int, n: int) -> None:
    if length < 1:
        raise DagrError(f"a video of {length} frames cannot be sampled; it needs at least 1")
    if n < 1:
        raise DagrError(f"{n} frames cannot be chosen; set at least 1")
