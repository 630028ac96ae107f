import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dagr_jax.train.state import create_state, make_optimizer, make_schedule

from .tiny import optim


def test_cosine_with_warmup_has_the_rates_of_its_formula():
    schedule = make_schedule(optim(learning_rate=1.0, warmup_steps=4, end_value=0.1), 24)
    np.testing.assert_allclose([schedule(i) for i in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0], 1e-6)
    # Half-way through the 20 updates after the warm-up: the mean of both ends.
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
        ({"warmup_steps": 10}, "optim.warmup_steps=10 leaves nothing of the 10 updates"),
    ],
)
def test_bad_optim_config_is_named(changes, says):
    with pytest.raises(ValueError, match=says):
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
    assert steps["adam"] == pytest.approx(-0.02, rel=1e-4)  # sign of the decay times the rate
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
