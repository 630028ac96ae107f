"""Trivial baselines that a quality model has to beat."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from dagr_jax.metrics.agreement import srcc

FEATURES = ("bitrate", "laplacian_variance", "luminance", "colourfulness")


def features(record: Mapping[str, Any]) -> np.ndarray:
    """Computes the trivial features of one prepared video.

    Args:
        record: Record of a quality set, with `frames` (T, H, W, 3) uint8 and `bit_rate` in bits/s.

    Returns:
        (4,) float64 in the order of `FEATURES`: log10 of the bitrate; variance of the Laplacian of
        the luma; mean luma; colourfulness by Hasler and Süsstrunk (2003). The last three are means
        over the frames, in grey levels.
    """
    frames = record["frames"].astype(np.float32)
    luma = frames @ np.array([0.299, 0.587, 0.114], np.float32)
    sharpness = np.mean([ndimage.laplace(frame).var() for frame in luma])
    red_green = frames[..., 0] - frames[..., 1]
    yellow_blue = (frames[..., 0] + frames[..., 1]) / 2 - frames[..., 2]
    spread = np.hypot(red_green.std((1, 2)), yellow_blue.std((1, 2)))
    shift = np.hypot(red_green.mean((1, 2)), yellow_blue.mean((1, 2)))
    return np.array(
        [
            np.log10(max(float(record["bit_rate"]), 1.0)),
            sharpness,
            luma.mean(),
            np.mean(spread + 0.3 * shift),
        ],
        np.float64,
    )


def evaluate(
    test: Iterable[Mapping[str, Any]], train: Iterable[Mapping[str, Any]] | None = None
) -> dict[str, float]:
    """Computes the SRCC of each trivial feature, and of a regression on all of them.

    Args:
        test: Records to evaluate on, with `mos`.
        train: Records to fit the regression to, with `mos`. None: no regression.

    Returns:
        {feature: SRCC of its raw value, with its sign}. With `train` also "all_features": SRCC of a
        random forest (200 trees, seed 0) that was trained on `train`.
    """
    test_features, test_mos = _table(test)
    scores = {name: srcc(test_features[:, k], test_mos) for k, name in enumerate(FEATURES)}
    if train is None:
        return scores
    train_features, train_mos = _table(train)
    from sklearn.ensemble import RandomForestRegressor  # takes a third of a second

    forest = RandomForestRegressor(n_estimators=200, min_samples_leaf=3, random_state=0)
    forest.fit(train_features, train_mos)
    return {**scores, "all_features": srcc(forest.predict(test_features), test_mos)}


def _table(records: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    rows = [(features(record), float(record["mos"])) for record in records]
    return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
