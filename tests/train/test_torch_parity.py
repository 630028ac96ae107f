"""Training parity with PyTorch: 20 optimizer steps of both recipes and both networks, float64.

The JAX side is this project's trainer with the recipe of the config. The PyTorch side is a loop as
a user of `torch.optim` would write it, with the twin of the network and its losses. In float64 only
the order of sums differs, so all constants of optimizer, schedule, clipping, accumulation,
BatchNorm and losses must be equal. Small networks, no dropout, no augmentation.
"""

import jax
import numpy as np
import pytest

from dagr_jax.configs.vqa import get_config
from dagr_jax.convert import from_state_dict
from dagr_jax.models import dagr
from dagr_jax.models.dagr import quality_net, unet3d
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.train.state import create_state, make_optimizer, make_schedule
from dagr_jax.train.steps import make_train_step

torch = pytest.importorskip("torch", reason="needs PyTorch")

from dagr_jax.bench import twin, twin_losses  # noqa: E402
from dagr_jax.bench.golden import weight as golden_weight  # noqa: E402

pytestmark = pytest.mark.torch

UPDATES = 20
# Period of the schedule in the tests, in epochs of two updates: the learning rate is lowest at
# update 8 and highest again at update 16.
PERIOD, UPDATES_AN_EPOCH = 4, 2
UNET = {"widths": (2, 3), "bottleneck": 4, "num_registers": 2, "register_dim": 3}
VQA = {
    "stage_sizes": (1, 1, 1, 1),
    "width": 2,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 8,
    "projection_dim": 8,
    "regressor": (8, 4),
    "dropout": 0.0,
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Reduces compilation, and PyTorch's threads, which slow down small layers."""
    jax.config.update("jax_disable_most_optimizations", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    jax.config.update("jax_disable_most_optimizations", False)


def recipe(name, stage, raised=1):
    """Returns the config of a recipe, with a short period and learning rates times `raised`."""
    config = get_config(f"konvid1k,{name}").copy_and_resolve_references()
    optim = config[stage].optim
    optim.learning_rate *= raised
    optim.end_value *= raised
    if optim.schedule == "torch_cosine":
        optim.period = PERIOD
    return config, optim


def batches(count, size, shape):
    """Batches in the format of the loader: uint8 frames and maps (B, T, H, W), target in [0, 1]."""
    for number in range(count):
        rng = np.random.default_rng(number)
        yield {
            "frames": rng.integers(0, 256, (size, *shape, 3), np.uint8),
            "maps": rng.integers(0, 256, (size, *shape), np.uint8),
            "target": rng.uniform(0, 1, size).astype(np.float32),
            "index": np.arange(size, dtype=np.int32),
        }


def with_weights(net, scale=1.0):
    """The twin in float64, with weights that are exact in float32; kernels times `scale`."""
    weights = {}
    for key, value in net.state_dict().items():
        weight = golden_weight(key, tuple(value.shape))
        weights[key] = torch.from_numpy(np.asarray(weight * scale if value.ndim > 1 else weight))
    net.load_state_dict(weights)
    return net.double()


def variables_of(net):
    """Returns the float64 variables of a float64 twin.

    `convert` rounds to float32, so the rounding residual is converted too: 48 bits together.
    """
    state = {
        key: value.numpy()
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    high = {key: value.astype(np.float32) for key, value in state.items()}
    low = {key: (value - high[key]).astype(np.float32) for key, value in state.items()}
    parts = [from_state_dict(arrays)[1] for arrays in (high, low)]
    return jax.tree.map(lambda a, b: np.asarray(a, np.float64) + np.asarray(b), *parts)


def train_torch(net, loss_of, optim, data):
    """Runs the plain PyTorch loop.

    Returns the loss of every step; and for every update the learning rate and, with clipping, the
    gradient norm.
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    optimizer = kind(
        net.parameters(),
        lr=optim.learning_rate,
        betas=(0.9, optim.b2),
        weight_decay=optim.weight_decay,
    )
    by_epoch = {"torch_cosine": True, "cosine": False}[optim.schedule]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=optim.period if by_epoch else UPDATES, eta_min=optim.end_value
    )
    losses, rates, norms = [], [], []
    net.train()
    for number, batch in enumerate(data, start=1):
        loss = loss_of({key: torch.from_numpy(value).double() for key, value in batch.items()})
        losses.append(loss.item())
        (loss / optim.accumulate).backward()
        if number % optim.accumulate:
            continue
        if optim.clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), optim.clip_norm)
            norms.append(norm.item())
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        optimizer.zero_grad()
        if not by_epoch or len(rates) % UPDATES_AN_EPOCH == 0:
            scheduler.step()
    return losses, rates, norms


def train_jax(task, variables, optim, data):
    """Runs this project's trainer; returns its last state and the loss of every step."""
    tx = make_optimizer(optim, UPDATES * optim.accumulate, UPDATES_AN_EPOCH * optim.accumulate)
    state = create_state(variables, tx, task.trained)
    step = jax.jit(make_train_step(task.loss, tx, optim.ema))
    key, losses = jax.random.key(0), []
    for batch in data:
        state, metrics = step(state, batch, key)
        losses.append(metrics["loss"])
    return jax.device_get((state, losses))


def check(net, loss_of, task, optim, data, module=None):
    """Trains both sides on the same batches and compares everything that training changes.

    Args:
        module: Name of the twin's network in the JAX model; None: the twin is the whole model.

    Returns:
        Largest change of a parameter, and PyTorch's gradient norms before clipping.
    """
    data = list(data)
    with jax.enable_x64(True):
        before = variables_of(net)
        variables = {k: {module: v} if module else v for k, v in before.items()}
        state, ours = train_jax(task, variables, optim, data)
        theirs, rates, norms = train_torch(net, loss_of, optim, data)
        after = variables_of(net)
        schedule = make_schedule(
            optim, UPDATES * optim.accumulate, UPDATES_AN_EPOCH * optim.accumulate
        )
        our_rates = [float(schedule(update)) for update in range(UPDATES)]
    # PyTorch computes each learning rate from the previous one, so rounding errors accumulate.
    np.testing.assert_allclose(our_rates, rates, rtol=0, atol=1e-12 * max(rates))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    for part in ("params", "batch_stats"):
        got = getattr(state, part)[module] if module else getattr(state, part)
        # Most agree to 1e-13. Biases before BatchNorm and of attention keys have a true gradient
        # of 0. Their gradient is rounding, 1e-17, and the 1e-8 in Adam's quotient keeps it small.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-8), got, after[part]
        )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before["params"], after["params"])
    return max(jax.tree.leaves(moved)), norms


@pytest.mark.parametrize("name", ["paper", "release"])
def test_saliency_training(name):
    config, optim = recipe(name, "saliency")
    gamma = config.saliency.gamma
    # Small kernels before BatchNorm have large gradients; some exceed the clip norm of `release`.
    net = with_weights(twin.twin_of(unet3d.Model(**UNET, preset=name)), scale=0.25)

    def loss_of(batch):
        logits = net(batch["frames"].permute(0, 1, 4, 2, 3) / 255)
        return twin_losses.saliency_loss(logits[:, 0], batch["maps"] / 255, name, gamma)

    task = SaliencyTask(
        unet3d.Model(**UNET, preset=name, dtype="float64"), preset=name, gamma=gamma
    )
    data = batches(UPDATES * optim.accumulate, config.saliency.batch_size, (4, 8, 10))
    moved, norms = check(net, loss_of, task, optim, data)
    assert moved > 0.01  # 20 updates of at most 5e-3
    if name == "release":
        assert optim.accumulate == 4
        assert min(norms) < optim.clip_norm < max(norms)


# At the learning rates of the recipes, weight decay and the lowest learning rate have hardly any
# effect within 20 updates.
@pytest.mark.parametrize("raised", [1, 1000])
@pytest.mark.parametrize("name", ["paper", "release"])
def test_quality_training(name, raised):
    config, optim = recipe(name, "vqa", raised)
    alpha, weight = config.model.args.alpha, config.vqa.rank_weight
    fields = {**VQA, "head": config.model.args.vqa.head}
    net = with_weights(twin.twin_of(quality_net.Model(**fields, preset=name)))

    def loss_of(batch):
        frames, maps = batch["frames"] / 255, batch["maps"] / 255
        fused = (1 - alpha) * frames + alpha * frames * maps[..., None]
        scores = net(fused.permute(0, 4, 1, 2, 3))
        return twin_losses.quality_loss(scores, batch["target"], name, weight)

    model = dagr.Model(saliency=None, vqa=fields, alpha=alpha, preset=name, dtype="float64")
    task = QualityTask(model, preset=name, weight=weight)
    data = batches(UPDATES * optim.accumulate, config.vqa.batch_size, (2, 32, 32))
    moved, _ = check(net, loss_of, task, optim, data, module="vqa")
    assert moved > 5 * optim.learning_rate
    assert fields["head"] == {"paper": "full", "release": "spatial"}[name]
