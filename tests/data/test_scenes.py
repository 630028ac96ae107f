"""Scenes of the embedded corpus."""

import numpy as np
import pytest

from dagr_jax.data import scenes


def render(seed, names=("coffee", "brick")):
    return scenes.render(np.random.default_rng(seed), list(names), 64, 96, 6)


def test_the_same_seed_gives_the_same_scene_and_another_one_another():
    np.testing.assert_array_equal(render(3).frames, render(3).frames)
    assert (render(3).frames != render(4).frames).mean() > 0.5


def test_every_photograph_is_there_and_is_reduced_never_enlarged():
    for name, (_, _, least) in scenes.PHOTOGRAPHS.items():
        image = scenes._photograph(name)
        assert image.mode == "RGB" and min(image.size) > 250
        assert least >= 1.0


def test_objects_move_and_are_painted_where_the_centres_say():
    scene = render(5)
    assert np.abs(np.diff(scene.centres, axis=0)).max() > 0.2
    # The last object is drawn last, so nothing hides it.
    for t in range(6):
        y, x = np.rint(scene.centres[t, -1]).astype(int)
        if 2 < y < 61 and 2 < x < 93:
            patch = scene.frames[t, y - 1 : y + 2, x - 1 : x + 2].astype(int)
            # Objects are saturated (half hue); backgrounds are desaturated.
            assert np.ptp(patch.mean((0, 1))) > 25


def test_gaze_follows_the_objects():
    scene = scenes.Scene(
        frames=np.zeros((2, 40, 80, 3), np.uint8),
        centres=np.array([[[10.0, 20.0]], [[-5.0, 20.0]]]),
        radii=np.array([6.0]),
    )
    density = scenes.gaze_map(scene, 0, (20, 40))
    assert density.sum() == pytest.approx(1.0)
    # Centre (10, 20) of a 40 × 80 frame lies between cells 4 and 5, 9 and 10 of a 20 × 40 map.
    assert np.unravel_index(density.argmax(), density.shape) in {(4, 9), (4, 10), (5, 9), (5, 10)}
    # The object has left the frame, so the map is uniform.
    np.testing.assert_allclose(scenes.gaze_map(scene, 1, (20, 40)), 1 / 800)


def test_fixations_fall_where_the_density_is():
    density = np.zeros((4, 5))
    density[1, 2], density[3, 4] = 0.75, 0.25
    points = scenes.fixations(density, 300, (41, 53), np.random.default_rng(0))
    assert points.shape == (300, 2) and points.dtype == np.int32
    cells = points * (4, 5) // (41, 53)
    assert {*map(tuple, cells.tolist())} == {(1, 2), (3, 4)}
    assert (cells[:, 0] == 1).mean() == pytest.approx(0.75, abs=0.1)
    # Cell (1, 2) is rows 11 to 20 and columns 22 to 31: all are drawn.
    inside = points[cells[:, 0] == 1]
    assert {*inside[:, 0].tolist()} == {*range(11, 21)}
    assert {*inside[:, 1].tolist()} == {*range(22, 32)}
