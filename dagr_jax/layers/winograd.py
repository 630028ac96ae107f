"""Minimal filtering (Winograd 1980; Lavin & Gray, CVPR 2016), along one axis.

m outputs of a filter with three taps need m + 2 multiplications instead of 3m. Two outputs with
zero neighbours need three. Along the time axis of a 3×3×3 convolution, a "multiplication" is a 2-D
convolution of a whole frame: 8 frames need 12 of them instead of 22.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Evaluation points of the polynomials of m outputs, in addition to infinity. Among small fractions,
# these lose the least precision: float32 errors are 2 to 7 times those of plain summation.
_POINTS: dict[int, tuple[Fraction, ...]] = {
    1: (Fraction(0), Fraction(1)),
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    3: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)),
    5: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2), Fraction(-2)),
}


def tiles(length: int) -> list[int]:
    """Divides an axis into tiles of 3 to 5 outputs, if possible.

    Args:
        length: Length of the axis.

    Returns:
        Number of outputs of each tile.
    """
    if length <= 5:
        return [length]
    fours, rest = divmod(length, 4)
    # 4k+1: one tile of 5 replaces a 4; 4k+2: two tiles of 3 replace a 4; 4k+3: one tile of 3.
    return [4] * (fours - (1 if rest in (1, 2) else 0)) + {0: [], 1: [5], 2: [3, 3], 3: [3]}[rest]


@dataclasses.dataclass(frozen=True)
class Product:
    """A 2-D convolution of mixtures of frames with a mixture of the kernel's time taps.

    Attributes:
        taps: (3,) weights of the kernel's time taps.
        frames: (k, T) weights of the frames in each of the k mixtures.
        outputs: (T, k) weights of the k results in each output frame.
    """

    taps: np.ndarray
    frames: np.ndarray
    outputs: np.ndarray


@functools.cache
def plan(length: int) -> tuple[Product, ...]:
    """Plans a convolution along an axis with zero padding 1.

    Args:
        length: Length of the axis, T.

    Returns:
        Products; the sum of their outputs is the convolution.
    """
    if length == 2:
        # y0 = k1 x0 + k2 x1 and y1 = k0 x0 + k1 x1 share k1 (x0 + x1).
        both = Product(np.array([0.0, 1, 0]), np.array([[1.0, 1]]), np.array([[1.0], [1]]))
        first = Product(np.array([0.0, -1, 1]), np.array([[0.0, 1]]), np.array([[1.0], [0]]))
        second = Product(np.array([1.0, -1, 0]), np.array([[1.0, 0]]), np.array([[0.0], [1]]))
        return both, first, second
    products, start = [], 0
    for m, run in itertools.groupby(tiles(length)):
        starts = [start + m * i for i in range(len(list(run)))]
        start = starts[-1] + m
        a, g, b = matrices(m)
        for z in range(m + 2):
            # Tiles of the same size have the same mixture of taps, so their frames form one batch.
            frames = np.zeros((len(starts), length + 2))
            outputs = np.zeros((length, len(starts)))
            for k, begin in enumerate(starts):
                frames[k, begin : begin + m + 2] = b[z]
                outputs[begin : begin + m, k] = a[:, z]
            products.append(Product(g[z], frames[:, 1:-1], outputs))
    return tuple(products)


@functools.cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the three linear maps of the filter: y = A [(G k) ⊙ (B x)].

    The filter is y_i = Σ_q k_q x_{i+q} with taps k (3,), inputs x (m + 2,) and outputs y (m,).

    Args:
        m: Number of outputs, 1 to 5.

    Returns:
        A (m, m + 2), G (m + 2, 3) and B (m + 2, m + 2), float64.
    """
    points, n = _POINTS[m], m + 2
    a = _vandermonde(points, m).T
    g = _vandermonde(points, 3)
    b = np.linalg.inv(_vandermonde(points, n).astype(float)).T
    # Balanced factors give the most precise products. Powers of two scale without rounding.
    scale = 2.0 ** np.round(np.log2(np.linalg.norm(b, axis=1)))
    b[np.abs(b) < 1e-12] = 0.0
    return a.astype(float), g.astype(float) * scale[:, None], b / scale[:, None]


def _vandermonde(points: Sequence[Fraction], columns: int) -> np.ndarray:
    """Returns powers 0 … columns − 1 of each point; the row of infinity is 0 … 0, 1."""
    rows = [[point**k for k in range(columns)] for point in points]
    rows.append([Fraction(0)] * (columns - 1) + [Fraction(1)])
    return np.array(rows, object)
