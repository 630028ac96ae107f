import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.layers.augment import Augment, augment_batch, colour_jitter
from dagr_jax.runtime.errors import DagrError

B, T, H, W = 16, 5, 6, 8


@pytest.fixture(scope="module")
def video():
    """Frames whose red channel equals their map, so that both must move together."""
    frames = np.random.default_rng(0).integers(0, 256, (B, T, H, W, 3), np.uint8)
    return jnp.asarray(frames), jnp.asarray(frames[..., 0])


compiled = jax.jit(augment_batch, static_argnums=4)


def run(video, config, seed=0, index=None):
    index = jnp.arange(B) if index is None else index
    return compiled(jax.random.key(seed), index, *video, config)


def test_default_changes_nothing(video):
    frames, maps = run(video, Augment())
    assert frames.dtype == maps.dtype == jnp.uint8
    assert (frames == video[0]).all() and (maps == video[1]).all()


def test_flip_mirrors_frames_and_maps_of_about_half_the_videos(video):
    frames, maps = run(video, Augment(flip=True))
    assert (frames[..., 0] == maps).all()
    flipped = [bool((frames[i] == video[0][i, :, :, ::-1]).all()) for i in range(B)]
    kept = [bool((frames[i] == video[0][i]).all()) for i in range(B)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 3 <= sum(flipped) <= 13  # binomial(16, 1/2): outside with probability 0.4 %


def test_crop_is_one_window_for_all_frames_and_maps(video):
    frames, maps = run(video, Augment(crop=(4, 5)))
    assert frames.shape == (B, T, 4, 5, 3)
    assert (frames[..., 0] == maps).all()
    places = set()
    for i in range(B):
        found = [
            (y, x)
            for y in range(H - 3)
            for x in range(W - 4)
            if (frames[i] == video[0][i, :, y : y + 4, x : x + 5]).all()
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) >= 4  # 16 draws of 12 places


def test_crop_brings_smaller_maps_to_the_frames_size_first(video):
    small = video[1][:, :, ::2, ::2]
    frames, maps = compiled(jax.random.key(0), jnp.arange(B), video[0], small, Augment(crop=(H, W)))
    assert (frames == video[0]).all()
    wanted = jax.image.resize(small.astype(jnp.float32), (B, T, H, W), "bilinear")
    np.testing.assert_array_equal(maps, wanted)


def test_jitter_is_constant_over_time_and_stays_in_range(video):
    still = jnp.repeat(video[0][:, :1], T, axis=1)
    frames, maps = run((still, video[1]), Augment(jitter=0.2))
    np.testing.assert_array_equal(frames, jnp.repeat(frames[:, :1], T, axis=1))
    assert (maps == video[1]).all()
    assert frames.min() >= 0 and frames.max() <= 255
    assert not np.allclose(frames[0], still[0], atol=1)


def test_jitter_of_a_grey_clip_is_its_brightness_factor():
    key = jax.random.key(4)
    bright = jax.random.uniform(key, (3,), minval=0.8, maxval=1.2)[0]
    grey = jnp.full((2, 3, 3, 3), 100, jnp.uint8)
    # Contrast and saturation pivot on the grey itself; float32 luma weights sum to 1 ± 1e-7.
    np.testing.assert_allclose(colour_jitter(key, grey, 0.2), 100 * bright, rtol=1e-5)


def test_the_draw_belongs_to_the_record_not_to_its_place_in_the_batch(video):
    config = Augment(flip=True, jitter=0.2, crop=(4, 4))
    frames, maps = run(video, config)
    order = jnp.array([7, 3, 12])
    again, again_maps = compiled(jax.random.key(0), order, video[0][order], video[1][order], config)
    # With another batch size, the float arithmetic of the jitter may be fused differently: 1e-3.
    np.testing.assert_allclose(again, frames[order], atol=1e-3)
    np.testing.assert_array_equal(again_maps, maps[order])
    other, _ = run(video, config, seed=1)
    assert not np.allclose(other, frames, atol=1)


def test_a_crop_larger_than_the_frames_is_refused(video):
    with pytest.raises(DagrError, match=r"augment.crop=\(7, 8\) is larger than the frames, 6x8"):
        run(video, Augment(crop=(7, 8)))
