import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.train.state import create_state, make_optimizer, make_schedule

from .tiny import optim


def test_cosine_with_warmup_has_the_rates_of_its_formula():
    schedule = make_schedule(optim(learning_rate=1.0, warmup_steps=4, end_value=0.1), 24)
    np.testing.assert_allclose([schedule(i) for i in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0], 1e-6)
    # Halfway through the 20 updates after the warm-up: the mean of both ends.
    assert schedule(14) == pytest.approx(0.55, rel=1e-6)
    assert schedule(24) == pytest.approx(0.1, rel=1e-5)


def test_schedule_counts_updates_not_micro_batches():
    schedule = make_schedule(optim(learning_rate=1.0, warmup_steps=0, accumulate=4), 40)
    assert schedule(5) == pytest.approx(0.5, rel=1e-6)
    assert schedule(10) == pytest.approx(0.0, abs=1e-7)


def test_constant_schedule_stays():
    schedule = make_schedule(optim(schedule="constant", learning_rate=0.3, warmup_steps=0), 10)
    assert schedule(0) == schedule(9) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "sgd"}, "optim.name='sgd'"),
        ({"schedule": "step"}, "optim.schedule='step'"),
        ({"accumulate": 0}, "optim.accumulate=0"),
        ({"warmup_steps": 10}, "optim.warmup_steps=10 is not below the 10 updates"),
    ],
)
def test_bad_optim_config_is_named(changes, says):
    with pytest.raises(DagrError, match=says):
        make_optimizer(optim(**changes), 10)


def test_clip_norm_bounds_what_adam_sees():
    tx = make_optimizer(optim(clip_norm=1.0, warmup_steps=0), 10)
    params = {"w": jnp.zeros(2)}
    _, opt_state = tx.update({"w": jnp.array([30.0, 40.0])}, tx.init(params), params)
    # Adam's first moment after one step is 0.1 of the clipped gradient, (0.6, 0.8).
    np.testing.assert_allclose(optax.tree.get(opt_state, "mu")["w"], [0.06, 0.08], rtol=1e-6)


def test_weight_decay_is_decoupled_in_adamw_and_a_gradient_in_adam():
    params = {"w": jnp.array([2.0])}
    steps = {}
    for name in ("adam", "adamw"):
        config = optim(name=name, weight_decay=0.5, schedule="constant", warmup_steps=0)
        tx = make_optimizer(config, 10)
        updates, _ = tx.update({"w": jnp.zeros(1)}, tx.init(params), params)
        steps[name] = float(updates["w"][0])
    assert steps["adam"] == pytest.approx(-0.02, rel=1e-4)  # sign of the decay × learning rate
    assert steps["adamw"] == pytest.approx(-0.02 * 0.5 * 2.0, rel=1e-5)


def test_frozen_parts_are_outside_the_optimizer_and_inside_the_variables():
    variables = {
        "params": {"saliency": {"w": jnp.ones(3)}, "vqa": {"w": jnp.zeros(2)}},
        "batch_stats": {"saliency": {"mean": jnp.ones(1)}, "vqa": {"mean": jnp.zeros(1)}},
    }
    tx = make_optimizer(optim(), 10)
    state = create_state(variables, tx, train_only=("vqa",))
    assert set(state.params) == set(state.batch_stats) == {"vqa"}
    assert set(optax.tree.get(state.opt_state, "mu")) == {"vqa"}
    assert jax.tree.structure(state.variables()) == jax.tree.structure(variables)
    with pytest.raises(ValueError, match="cannot train quality: the parameters are saliency, vqa"):
        create_state(variables, tx, train_only=("quality",))


def test_torch_cosine_rises_again_after_its_period_and_changes_once_an_epoch():
    config = optim(
        schedule="torch_cosine",
        period=4,
        learning_rate=1.0,
        end_value=0.2,
        warmup_steps=0,
        accumulate=2,
    )
    schedule = make_schedule(config, 200, epoch_steps=6)  # three updates per epoch
    rates = [float(schedule(update)) for update in range(30)]
    # PyTorch's CosineAnnealingLR(T_max=4, eta_min=0.2) from 1: 0.6 halfway, later back up.
    epochs = [1.0, 0.2 + 0.4 * (1 + 2**-0.5), 0.6, 0.2 + 0.4 * (1 - 2**-0.5), 0.2]
    wanted = [*epochs, *reversed(epochs[:-1]), epochs[1]]
    np.testing.assert_allclose(rates, np.repeat(wanted, 3), rtol=1e-6)
    with pytest.raises(DagrError, match="optim.period=0: torch_cosine needs T_max in epochs"):
        make_schedule(optim(schedule="torch_cosine"), 10)


PARAMS = {"net": {"stem": {"kernel": jnp.array([3.0, 4.0])}, "head": {"bias": jnp.array([1.0])}}}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def updates_of(groups, **changes):
    fields = {"name": "adamw", "weight_decay": 0.5, "schedule": "constant", "warmup_steps": 0}
    tx = make_optimizer(optim(groups=groups, **{"clip_norm": 0.0, **fields, **changes}), 10)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    return updates["net"]["stem"]["kernel"], updates["net"]["head"]["bias"], state


def test_a_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(
        DagrError, match=r"optim.groups: '\*bias' is not a valid regular expression"
    ):
        updates_of((("*bias", 1.0, 1.0),))


def test_the_cosine_ends_with_the_last_update():
    """10 steps with 4 accumulated give 2 updates; the last 2 batches change nothing."""
    schedule = make_schedule(optim(accumulate=4, warmup_steps=0), 10)
    assert schedule(0) > schedule(1) > schedule(2) == pytest.approx(0.0, abs=1e-12)


def test_groups_scale_rate_and_decay_and_the_first_match_counts():
    groups = ((r"net/stem/.*", 0.1, 1.0), (r".*/bias", 1.0, 0.0), (r".*", 5.0, 5.0))
    with pytest.raises(DagrError, match="is not the first match of any parameter"):
        updates_of(groups)
    kernel, bias, _ = updates_of(groups[:2])
    # Adam's first step is the learning rate, 0.02; decoupled decay adds rate · decay · parameter.
    np.testing.assert_allclose(kernel, -0.002 * (1 + 0.5 * np.array([3.0, 4.0])), rtol=1e-5)
    np.testing.assert_allclose(bias, [-0.02], rtol=1e-5)
    plain = updates_of(())[:2]
    for ours, theirs in zip(updates_of(((".*", 1.0, 1.0),))[:2], plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_rate_of_zero_freezes_and_leaves_the_gradient_norm():
    groups = ((r"net/stem/.*", 0.0, 1.0), (r".*", 1.0, 1.0))
    kernel, _, state = updates_of(groups, clip_norm=0.5, name="adam", weight_decay=0.0)
    np.testing.assert_array_equal(kernel, [0.0, 0.0])
    # The norm is that of the bias only, 1. Clipping leaves 0.5, and Adam's moment is 0.1 of it.
    mu = [x for x in jax.tree.leaves(optax.tree.get(state, "mu")) if x.shape == (1,)]
    np.testing.assert_allclose(mu[0], [0.05], rtol=1e-6)


def test_a_parameter_that_no_group_covers_is_an_error():
    says = r"no rule matches net/head/bias; add \('\.\*', 1.0, 1.0\) as the last rule"
    with pytest.raises(DagrError, match=says):
        updates_of((("net/stem/.*", 1.0, 1.0),))


def test_the_average_follows_the_weights_with_its_decay():
    tx = make_optimizer(optim(), 10)
    state = create_state({"params": {"w": jnp.zeros(1)}}, tx).with_average()
    values, expected = [1.0, 2.0, 4.0], 0.0
    for t, value in enumerate(values, start=1):
        state = state.replace(params={"w": jnp.array([value])}, step=jnp.int32(t)).averaged(0.25)
        keep = min(0.25, (1 + t) / (10 + t))
        expected = keep * expected + (1 - keep) * value
        assert state.variables_to_use()["params"]["w"] == pytest.approx(expected, rel=1e-6)
        assert state.variables()["params"]["w"] == value
