"""Minimal filtering (Winograd 1980; Lavin & Gray, CVPR 2016), along one axis.

m outputs of a filter with three taps take m + 2 multiplications instead of 3m. Of two outputs whose
neighbours are zero it takes three. Along the time axis of a 3×3×3 convolution a "multiplication" is
a 2-D convolution of a whole frame: 8 frames take 12 of them instead of 22.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Where the polynomials of m outputs are evaluated, besides infinity. Of the small fractions these
# lose the fewest digits: float32 errors are 2 to 7 times those of plain summation.
_POINTS: dict[int, tuple[Fraction, ...]] = {
    1: (Fraction(0), Fraction(1)),
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    3: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)),
    5: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2), Fraction(-2)),
}


def tiles(length: int) -> list[int]:
    """How many outputs each tile of an axis has, 3 to 5 where that is possible."""
    if length <= 5:
        return [length]
    fours, rest = divmod(length, 4)
    # 4k+1 → one five; 4k+2 → two threes for a four and two; 4k+3 → one three.
    return [4] * (fours - (1 if rest in (1, 2) else 0)) + {0: [], 1: [5], 2: [3, 3], 3: [3]}[rest]


@dataclasses.dataclass(frozen=True)
class Product:
    """A 2-D convolution of mixtures of frames with a mixture of the kernel's time taps.

    Attributes:
        taps: (3,) weights of the kernel's taps.
        frames: (k, T) weights of the frames in each of the k mixtures.
        outputs: (T, k) weights with which the k results add to each frame of the output.
    """

    taps: np.ndarray
    frames: np.ndarray
    outputs: np.ndarray


@functools.cache
def plan(length: int) -> tuple[Product, ...]:
    """The products of a convolution along an axis with zero padding 1, which sum to it."""
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
            # Tiles of one size share the mixture of taps: their frames are one batch.
            frames = np.zeros((len(starts), length + 2))
            outputs = np.zeros((length, len(starts)))
            for k, begin in enumerate(starts):
                frames[k, begin : begin + m + 2] = b[z]
                outputs[begin : begin + m, k] = a[:, z]
            products.append(Product(g[z], frames[:, 1:-1], outputs))
    return tuple(products)


@functools.cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three linear maps of m outputs: y = A [(G k) ⊙ (B x)].

    y_i = Σ_q k_q x_{i+q} for taps k (3,), inputs x (m + 2,) and outputs y (m,).

    Returns:
        A (m, m + 2), G (m + 2, 3) and B (m + 2, m + 2), float64.
    """
    points, n = _POINTS[m], m + 2
    a = _vandermonde(points, m).T
    g = _vandermonde(points, 3)
    b = np.linalg.inv(_vandermonde(points, n).astype(float)).T
    # Products of two numbers of one size keep the most digits; powers of two are exact.
    scale = 2.0 ** np.round(np.log2(np.linalg.norm(b, axis=1)))
    b[np.abs(b) < 1e-12] = 0.0
    return a.astype(float), g.astype(float) * scale[:, None], b / scale[:, None]


def _vandermonde(points: Sequence[Fraction], columns: int) -> np.ndarray:
    """Powers 0 … columns − 1 of the points; infinity has the last one alone."""
    rows = [[point**k for k in range(columns)] for point in points]
    rows.append([Fraction(0)] * (columns - 1) + [Fraction(1)])
    return np.array(rows, object)
