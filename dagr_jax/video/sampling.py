"""Which frames of a video are looked at: index arithmetic alone, in exact integers.

An index is a rank in presentation order (0 is the first frame shown), not a time, also when the
frame rate varies (REFERENCE section 6, "frame choice").
"""

import numpy as np

from dagr_jax.runtime.errors import DagrError

RULES = ("linspace", "segments")
MAP_CHOICES = ("matched", "linspace", "first", "static")


def linspace_indices(length: int, n: int) -> np.ndarray:
    """The release's rule: ``floor(linspace(0, length - 1, n))`` (REFERENCE section 1).

    Args:
        length: number of frames of the video, at least 1.
        n: number of frames to choose, at least 1.

    Returns:
        (n,) int64, non-decreasing, from 0 to length - 1. A video shorter than n repeats frames;
        the last index is always the last frame, except that n = 1 gives the first one.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    if n == 1:
        return np.zeros(1, np.int64)
    # Integers, so that an exact quotient can never fall to the frame below by rounding.
    return np.arange(n, dtype=np.int64) * (length - 1) // (n - 1)


def segments_indices(length: int, n: int) -> np.ndarray:
    """The paper's text: the middle frame of each of n equal segments (REFERENCE section 6).

    Args:
        length: number of frames of the video, at least 1.
        n: number of segments, at least 1.

    Returns:
        (n,) int64, non-decreasing, each ``floor((i + 1/2) * length / n)``, always below length.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    return (2 * np.arange(n, dtype=np.int64) + 1) * length // (2 * n)


def even_indices(length: int, n: int) -> np.ndarray:
    """n frames at the same interval from the first one on, ``floor(i * length / n)`` (A²INet).

    Returns:
        (n,) int64, non-decreasing; a video shorter than n repeats frames.

    Raises:
        DagrError: length or n is below 1.
    """
    _check(length, n)
    return np.arange(n, dtype=np.int64) * length // n


def all_indices(length: int, most: int = 0) -> np.ndarray:
    """Every frame; of a video of more than `most` frames, `most` by `even_indices`.

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
    """n frames in runs, one run in each of equal segments of the video (KVQ, FAST-VQA).

    Args:
        length: number of frames of the video, at least 1.
        fragments: number of segments.
        n: number of frames, a multiple of `fragments`.
        stride: frames from one frame of a run to the next.
        rng: draws the offset of each run within its segment; None puts each run in the middle of
            the room it has, so that a video always gives the same frames.

    Returns:
        (n,) int64. A run is `stride * n / fragments` frames long; where a segment is not longer,
        its offset is 0. Frames beyond the end wrap around to the beginning.

    Raises:
        DagrError: length or n is below 1.
        ValueError: n does not divide over the fragments.
    """
    _check(length, n)
    if fragments < 1 or n % fragments:
        raise ValueError(f"{n} frames do not divide over {fragments} fragments")
    each, segment = n // fragments, length // fragments
    room = max(segment - each * stride, 0)
    if rng is None or not room:
        offsets = np.full(fragments, room // 2, np.int64)
    else:
        offsets = rng.integers(0, room, fragments)
    first = segment * np.arange(fragments, dtype=np.int64) + offsets
    return (first[:, None] + stride * np.arange(each)).reshape(-1) % length


def sample_indices(length: int, n: int, rule: str = "linspace") -> np.ndarray:
    """Indices of n frames out of ``length`` by the named rule, one of ``RULES``.

    Returns:
        (n,) int64; see the function of the rule.

    Raises:
        DagrError: unknown rule, or length or n is below 1.
    """
    if rule == "linspace":
        return linspace_indices(length, n)
    if rule == "segments":
        return segments_indices(length, n)
    raise DagrError(f"sampling rule {rule!r} is unknown; use one of: {', '.join(RULES)}")


def map_indices(frames: np.ndarray, num_maps: int, choice: str) -> np.ndarray:
    """Which of a video's saliency maps go with its sampled frames (REFERENCE section 1).

    Args:
        frames: (n,) indices of the sampled frames, as `sample_indices` gives them.
        num_maps: maps of the video, one for each of its frames where none was lost.
        choice: "matched", each frame's own map; "linspace", the release's rule for KoNViD-1k,
            LIVE-VQC and YouTube-UGC, evenly over the maps whatever the frames; "first", its rule
            for LSVQ, the first n maps (a defect: they do not belong to the frames); "static", the
            first map for all frames. Beyond the last map the last one is repeated.

    Returns:
        (n,) int64 from 0 to num_maps - 1.

    Raises:
        DagrError: unknown choice, or num_maps is below 1.
    """
    n = len(frames)
    if choice not in MAP_CHOICES:
        raise DagrError(f"choice of maps {choice!r} is unknown; use one of {MAP_CHOICES}")
    wanted = {
        "matched": np.asarray(frames, np.int64),
        "linspace": linspace_indices(num_maps, n),
        "first": np.arange(n, dtype=np.int64),
        "static": np.zeros(n, np.int64),
    }
    return np.minimum(wanted[choice], num_maps - 1)


def windows_of(chosen: np.ndarray, length: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows that hold chosen frames, of a video cut into consecutive windows.

    Args:
        chosen: (n,) frame indices.
        length: number of frames of the video.
        window: frames in a window; the last one is filled up with the last frame.

    Returns:
        frames: (k, window) int64, the frames of each window that holds a chosen one, in order.
        place: (n,) where each chosen frame stands in the k · window frames.
    """
    _check(length, window)
    numbers, which = np.unique(np.asarray(chosen, np.int64) // window, return_inverse=True)
    frames = np.minimum(numbers[:, None] * window + np.arange(window), length - 1)
    return frames, which * window + chosen % window


def _check(length: int, n: int) -> None:
    if length < 1:
        raise DagrError(f"a video of {length} frames cannot be sampled; it needs at least 1")
    if n < 1:
        raise DagrError(f"{n} frames cannot be chosen; ask for at least 1")
