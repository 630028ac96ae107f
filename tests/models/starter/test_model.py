"""The starter model: its features, the order loss, and the whole way from a run to a score."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax import registry, stages
from dagr_jax.data.prepare import open_records
from dagr_jax.models.starter.config import default_config, tiny_config
from dagr_jax.models.starter.model import Model, statistics
from dagr_jax.models.starter.task import HeadTask, order_loss
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.stages import StageError

SMALL = Model(levels=("stem", "3"), width=8, num_heads=2, mlp_dim=8)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    given = {
        "frames": rng.integers(0, 256, (2, 3, 32, 48, 3), np.uint8),
        "windows": rng.integers(0, 256, (2, 3, 3, 32, 32, 3), np.uint8),
    }
    variables = jax.jit(SMALL.init)(jax.random.key(0), given)
    return variables, given


def test_number_of_parameters():
    model = Model(**default_config("starter").model.args)
    given = {"frames": np.zeros((1, 2, 64, 64, 3)), "windows": np.zeros((1, 3, 2, 64, 64, 3))}
    shapes = jax.eval_shape(model.init, jax.random.key(0), given)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
    assert count == registry.contract("starter").facts.parameters == 4_253_057


def test_statistics_are_means_and_deviations_of_each_level():
    rng = np.random.default_rng(1)
    maps = {
        "1": jnp.asarray(rng.normal(3, 2, (2, 4, 5, 3))),
        "2": jnp.asarray(rng.random((2, 1, 2, 2))),
    }
    found = statistics(maps, ("2", "1"))
    assert found.shape == (2, 10)
    for n in range(2):
        wanted = np.concatenate(
            [f(maps[level][n], axis=(0, 1)) for level in ("2", "1") for f in (np.mean, np.std)]
        )
        np.testing.assert_allclose(found[n], wanted, atol=1e-4)  # the root of 1e-8


def test_a_score_from_frames_is_that_of_stored_features(small):
    variables, given = small
    whole = SMALL.apply(variables, given["frames"], method="whole")
    details = SMALL.apply(variables, given["windows"], method="details")
    assert whole.shape == details.shape == (2, 3, 2 * (32 + 40))
    stored = SMALL.apply(variables, {"whole": whole, "details": details}).score
    np.testing.assert_allclose(stored, SMALL.apply(variables, given).score, atol=1e-6)
    # The features of windows are the mean over the windows of each frame.
    each = [SMALL.apply(variables, given["windows"][:, i], method="whole") for i in range(3)]
    np.testing.assert_allclose(details, np.mean(each, axis=0), atol=1e-5)


def test_order_loss_by_hand():
    score, target = np.array([0.1, 0.3, 0.2, 0.9]), np.array([0.2, 0.6, 0.4, 0.1])
    content = np.array([7, 7, 7, 8], np.int32)
    pairs = [(0, 1), (0, 2), (2, 1)]  # (worse, better) of content 7; the score is in this order
    cost = [np.log1p(np.exp(-20 * (score[b] - score[a]))) for a, b in pairs]
    weight = [target[b] - target[a] for a, b in pairs]
    wanted = np.average(cost, weights=weight)
    np.testing.assert_allclose(order_loss(score, target, content), wanted, rtol=1e-5)
    # Video 3 is alone in its content; without pairs there is nothing to order.
    assert order_loss(score, target, np.arange(4, dtype=np.int32)) == 0
    assert order_loss(-score, target, content) > 10 * wanted


def test_relative_targets_count_within_their_content_alone(small):
    variables, given = small
    features = {
        "whole": SMALL.apply(variables, given["frames"], method="whole"),
        "details": SMALL.apply(variables, given["windows"], method="details"),
    }
    batch = {
        **{name: jnp.concatenate([one, one * 0.9]) for name, one in features.items()},
        "target": jnp.array([0.1, 0.8, 0.3, 0.5]),
        "content": jnp.array([0, 1, 2, 2]),
        "relative": jnp.array([False, False, True, True]),
    }
    task = HeadTask(SMALL, order_weight=0.5)
    key = jax.random.key(3)
    loss, (_, parts) = task.loss(variables, batch, key)
    # A shift of both relative targets changes nothing; swapping them changes the order alone.
    shifted, _ = task.loss(variables, {**batch, "target": jnp.array([0.1, 0.8, 0.5, 0.7])}, key)
    np.testing.assert_allclose(shifted, loss, rtol=1e-6)
    swapped = {**batch, "target": jnp.array([0.1, 0.8, 0.5, 0.3])}
    other, (_, told) = task.loss(variables, swapped, key)
    np.testing.assert_allclose(told["l1"], parts["l1"], rtol=1e-6)
    np.testing.assert_allclose(told["rank"], parts["rank"], rtol=1e-6)
    assert abs(float(told["order"] - parts["order"])) > 1e-4 and other != loss


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("starter") / "run"
    stages.run_stages(tiny_config(), workdir)
    return workdir


def test_a_run_trains_the_head_alone_and_scores_as_it_tested(run):
    scorer = Scorer.from_checkpoint(run)
    rows = (run / "test" / "predictions.csv").read_text().splitlines()
    header, first = rows[0].split(","), rows[1].split(",")
    told = dict(zip(header, first, strict=True))
    result = scorer.score(run / "data" / "videos" / told["video"])
    name = next(key for key in told if key not in ("video", "content", "mos"))
    # Stored features are float32, and a batch of one may round differently.
    np.testing.assert_allclose(result.mos, float(told[name]), atol=1e-4)
    assert result.frames == 2 and scorer.maps(run / "data" / "videos" / told["video"]) == {}
    segments = scorer.score(run / "data" / "videos" / told["video"], segments=0.2).segments
    assert len(segments) == 2


def test_the_batch_has_no_frames_and_features_are_those_of_the_backbone(run):
    stored = open_records(run / "whole", "whole", "train")
    frames = open_records(run / "data", "frames")
    scorer = Scorer.from_checkpoint(run)
    own = np.stack([frames[t]["frame"] for t in range(2)])
    features = scorer.model.apply(scorer.variables, own[None], method="whole")[0]
    np.testing.assert_allclose(stored[0]["entries"], features, atol=1e-4)


def test_another_run_starts_from_all_weights_of_a_run(run, tmp_path):
    config = tiny_config()
    with config.unlocked():
        config.data_dir = str(run / "data")
        config.vqa.update({"init": str(run), "steps": 2})
    stages.run_stages(config, tmp_path / "tuned")
    before, after = (Scorer.from_checkpoint(path).variables for path in (run, tmp_path / "tuned"))
    same = jax.tree.map(np.array_equal, before["params"], after["params"])
    assert all(jax.tree.leaves(same["backbone"])) and not all(jax.tree.leaves(same["head"]))


def test_random_backbones_are_for_the_embedded_corpus_alone(tmp_path):
    config = default_config("folder")
    with config.unlocked():
        config.dataset.args.source = str(tmp_path)
    with pytest.raises(StageError, match="config.vqa.backbone: the starter model needs the Imag"):
        stages.run_stages(config, tmp_path / "run")
    with pytest.raises(DagrError, match="recipe 'paper' is unknown; one of starter"):
        default_config("folder", "paper")


def test_metadata_are_plain(run):
    meta = json.loads(next((run / "vqa").glob("*/meta/metadata")).read_text())
    assert meta["model"] == "starter" and meta["inputs"]["windows"]["crops"]["mirror"] is True
