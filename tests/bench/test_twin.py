"""The PyTorch twin: golden numbers of the release, and the same results as the JAX side."""

import jax
import numpy as np
import pytest

from dagr_jax.convert import from_state_dict
from dagr_jax.models import dagr
from dagr_jax.models.dagr import losses, quality_net, unet3d

torch = pytest.importorskip("torch", reason="needs PyTorch")

from dagr_jax.bench import twin, twin_losses  # noqa: E402
from dagr_jax.bench.golden import weight as golden_weight  # noqa: E402

pytestmark = pytest.mark.torch

SMALL_UNET = {"widths": (4, 6), "bottleneck": 8, "num_registers": 2, "register_dim": 5}
SMALL_VQA = {
    "stage_sizes": (1, 2, 1, 1),
    "width": 4,
    "num_layers": 1,
    "mlp_dim": 8,
    "projection_dim": 12,
    "temporal_dim": 16,
    "regressor": (8, 4),
    "dropout": 0.2,
}


def load(net, weights):
    """Loads all weights into the twin, strictly, in eval mode."""
    net.load_state_dict({key: torch.from_numpy(np.asarray(w)) for key, w in weights.items()})
    return net.eval()


def max_error(got, want):
    """Returns the largest difference, relative to the spread of the expected values."""
    return np.abs(got.detach().numpy() - want).max() / want.std()


def gradient_errors(net, expected):
    """Returns errors of all nonzero gradients, relative to their norms: (norms, values)."""
    norms, values = [], []
    for key, parameter in net.named_parameters():
        norm, *first = expected[f"grad/{key}"]
        if norm < 1e-5:  # a bias before BatchNorm: its true gradient is zero
            assert parameter.grad.norm() < 1e-5, key
            continue
        grad = parameter.grad.double().flatten()
        norms.append(abs(grad.norm().item() - norm) / norm)
        values.append(np.abs(grad[: len(first)].numpy() - first).max() / norm)
    return norms, values


@pytest.fixture(scope="module")
def unet(golden_weights):
    return load(twin.UNet3D(preset="release"), golden_weights("unet_registers"))


@pytest.fixture(scope="module")
def video(golden_data):
    return torch.from_numpy(golden_data([7, 1], 2, 8, 3, 40, 56))


@pytest.fixture(scope="module")
def fused(golden_data):
    return torch.from_numpy(golden_data([7, 3], 3, 3, 8, 64, 96))


def test_logits_with_registers(unet, video, golden):
    expected = golden("unet_registers")
    with torch.no_grad():
        logits = unet(video)
        tokens = unet.registers(4)
    # The same float32 sums; those of the first convolution are in a different order.
    assert max_error(logits, expected["logits"]) < 5e-5
    np.testing.assert_allclose(tokens, expected["tokens"][0], rtol=0, atol=1e-6)


def test_logits_without_registers(golden_weights, video, golden):
    net = load(twin.UNet3D(num_registers=0, preset="release"), golden_weights("unet_plain"))
    with torch.no_grad():
        assert max_error(net(video), golden("unet_plain")["logits"]) < 5e-5


def test_saliency_training_step(golden_weights, video, golden, golden_data):
    """Logits, loss, all gradients and running statistics of one step of the release."""
    expected = golden("unet_registers")
    net = load(twin.UNet3D(preset="release"), golden_weights("unet_registers")).train()
    target = torch.from_numpy(golden_data([7, 2], 2, 8, 1, 40, 56))[:, :, 0]
    logits = net(video)
    loss = twin_losses.saliency_loss(logits[:, 0], target, "release")
    loss.backward()
    # BatchNorm over few values at the bottom amplifies rounding.
    assert max_error(logits, expected["train_logits"]) < 2e-4
    assert loss.item() == pytest.approx(expected["train_loss"], rel=2e-6)
    norms, values = gradient_errors(net, expected)
    # Small gradients are differences of large sums: PyTorch's own gradients with and without oneDNN
    # differ by up to 2 % of their norm, and float64 is no closer to the golden gradients.
    assert len(norms) > 40 and max(norms + values) < 3e-2
    assert np.median(norms) < 1e-3 and np.median(values) < 1e-3
    statistics = net.state_dict()
    for key in (key for key in expected if key.startswith("stat/")):
        mine = statistics[key.removeprefix("stat/")]
        np.testing.assert_allclose(mine, expected[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_full_quality_net(golden_weights, fused, golden, golden_data):
    """Features, score, loss and all gradients; the golden gradients are in eval mode."""
    expected = golden("vqa")
    net = load(twin.Quality(preset="release"), golden_weights("simple_fusion"))
    features = net.frame_features(fused)
    # The same float32 operations; only their kernels may differ between machines.
    assert max_error(features, expected["resnet_features_mean"]) < 2e-5
    assert max_error(net.temporal_analyzer(features), expected["temporal_features"]) < 2e-5
    score = net(fused)
    np.testing.assert_allclose(score.detach(), expected["simple_fusion"], rtol=1e-5)
    loss = twin_losses.quality_loss(score, torch.from_numpy(golden_data([7, 4], 3)), "release")
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    loss.backward()
    norms, values = gradient_errors(net, expected)
    assert len(norms) > 150 and max(norms + values) < 2e-5


@pytest.mark.parametrize(("head", "num_heads"), [("spatial", 4), ("temporal", 1)])
def test_heads_of_the_ablation(head, num_heads, golden_weights, fused, golden):
    net = twin.Quality(head, num_heads=num_heads, preset="release")
    load(net, golden_weights(f"{head}_only"))
    with torch.no_grad():
        np.testing.assert_allclose(net(fused), golden("vqa")[f"{head}_only"], rtol=1e-5)


def test_release_losses(golden):
    release = golden("losses")
    pred, true = (torch.from_numpy(release[key][:, :, 0]) for key in ("pred", "true"))
    kl, cc = twin_losses.release_kl(pred, true), twin_losses.release_cc(pred, true)
    # float32 sums of a few thousand terms.
    np.testing.assert_allclose(kl, release["release_kl"], rtol=2e-6)
    np.testing.assert_allclose(cc, release["release_cc"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(0.01 * kl + cc.mean(), release["release_total_001"], rtol=2e-6)
    pred, true = (torch.from_numpy(release[key]) for key in ("rank_pred", "rank_true"))
    rank = twin_losses.quality_loss(pred, true, "release", 1.0) - (pred - true).abs().mean()
    np.testing.assert_allclose(rank, release["release_spearman"], rtol=2e-6)


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("case", ["random", "constant", "no fixation"])
def test_saliency_loss_is_that_of_jax(preset, case):
    """Value and gradient in float64, also with an all-zero target and with constant maps."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 6, 5)), rng.uniform(size=(2, 3, 6, 5))
    if case == "constant":
        logits[:] = 0.5
    elif case == "no fixation":
        target[1, 2] = 0
    x = torch.tensor(logits, requires_grad=True)
    loss = twin_losses.saliency_loss(x, torch.from_numpy(target), preset, gamma=0.1)
    loss.backward()
    with jax.enable_x64(True):
        want, grad = jax.value_and_grad(
            lambda x: losses.saliency_loss(x, target, preset=preset, gamma=0.1)[0]
        )(logits)
    assert loss.item() == pytest.approx(float(want), abs=1e-12)
    if case == "constant":
        # With minimum = maximum there is no derivative, and the sides choose different values.
        assert torch.isfinite(x.grad).all()
    else:
        np.testing.assert_allclose(x.grad, grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("case", ["random", "ties", "constant"])
def test_quality_loss_is_that_of_jax(preset, case):
    rng = np.random.default_rng(1)
    scores, target = rng.normal(size=9), rng.uniform(size=9)
    if case == "ties":
        scores[3:6], target[1:4] = scores[3], target[1]
    elif case == "constant":
        scores[:] = 0.5
    x = torch.tensor(scores, requires_grad=True)
    loss = twin_losses.quality_loss(x, torch.from_numpy(target), preset, weight=0.5)
    loss.backward()
    with jax.enable_x64(True):
        want, grad = jax.value_and_grad(
            lambda x: losses.quality_loss(x, target, preset=preset, weight=0.5)[0]
        )(scores)
    assert loss.item() == pytest.approx(float(want), abs=1e-12)
    # For constant predictions, the soft ranks have slopes of 1e6.
    np.testing.assert_allclose(x.grad, grad, rtol=0, atol=1e-12 * max(1.0, np.abs(grad).max()))


@pytest.mark.parametrize(
    "fields",
    [{"preset": "paper"}, {"preset": "release"}, {"preset": "paper", "num_registers": 0}],
    ids=["paper", "release", "plain"],
)
def test_twin_of_a_saliency_net(fields, golden_data):
    model = unet3d.Model(**{**SMALL_UNET, **fields})
    check_twin(model, golden_data([0], 2, 5, 16, 12, 3), (0, 1, 4, 2, 3), lambda y: y[:, 0])


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "paper", "normalize": True, "num_heads": 8},
        {"preset": "release"},
        {"preset": "paper", "head": "spatial"},
        {"preset": "release", "head": "temporal", "normalize": True, "num_heads": 2},
    ],
    ids=["full, paper", "full, release", "spatial", "temporal"],
)
def test_twin_of_a_quality_net(fields, golden_data):
    model = quality_net.Model(**{**SMALL_VQA, **fields})
    check_twin(model, golden_data([1], 2, 5, 32, 40, 3), (0, 4, 1, 2, 3), lambda y: y)


def check_twin(model, x, axes, select):
    """Both sides have the same output in eval mode, with the converted weights of the twin."""
    net = twin.twin_of(model)
    load(net, {k: golden_weight(k, tuple(v.shape)) for k, v in net.state_dict().items()})
    _, variables = from_state_dict({key: value.numpy() for key, value in net.state_dict().items()})
    with torch.no_grad():
        got = select(net(torch.from_numpy(x.transpose(axes))))
    want = jax.jit(model.apply)(variables, x)
    assert np.std(want) > 1e-3
    # float32 through a dozen layers.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1.0, np.abs(want).max()))


def test_other_models_have_no_twin():
    with pytest.raises(
        TypeError, match="Model has no twin; give a unet3d.Model or a quality_net.Model"
    ):
        twin.twin_of(dagr.Model(saliency=None, vqa={}))
    with pytest.raises(ValueError, match="preset 'torch' is unknown; use one of paper, release"):
        twin.UNet3D(preset="torch")
    with pytest.raises(ValueError, match="head 'both' is unknown; use one of full, spatial"):
        twin.Quality(head="both")


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (lambda: twin.UNet3D(), 96_243_333),
        (lambda: twin.Quality(), 67_096_385),
        (lambda: twin.Quality("spatial"), 28_261_953),
        (lambda: twin.Quality("temporal", num_heads=1), 9_231_105),
    ],
    ids=["saliency", "full", "spatial", "temporal"],
)
def test_parameter_count_at_paper_size(net, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count
