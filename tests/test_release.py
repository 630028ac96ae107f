"""The preset `release` in the whole pipeline: file → frames, windowed maps, fusion, score."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest

from dagr_jax import convert, stages
from dagr_jax.convert import exchange
from dagr_jax.models import dagr
from dagr_jax.score import Scorer
from dagr_jax.score.predictor import Ready
from dagr_jax.video.decode import iter_frames, read_clip
from tests.convert.small import arrays_of, small_full_shapes, small_unet_shapes
from tests.tiny_run import tiny_config
from tests.video.clips import moving_bar, write

SIZE = (56, 99)
CLIP = Path(__file__).resolve().parents[2] / "shared" / "videos" / "10053703034.mp4"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """A scorer of two small converted networks."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for part, shapes in (("saliency", small_unet_shapes()), ("vqa", small_full_shapes())):
        paths[part] = folder / f"{part}.safetensors"
        convert.write_safetensors(paths[part], arrays_of(shapes), {})
    exchange.import_model(paths, exchange.Use(options={"alpha": 0.5}), folder / "dagr")
    return with_maps(Scorer.from_checkpoint(folder / "dagr"), 8, "linspace")


def with_maps(scorer: Scorer, window: int, choice: str) -> Scorer:
    """The same weights with another plan for the maps, and small frames."""
    options = {**scorer.meta["model_args"], "window": window, "maps": choice}
    inputs, settings = scorer.contract.converted(options)
    inputs = inputs.to_json()
    for stream in inputs.values():
        assert stream["resize"]["size"] == (224, 398)
        stream["resize"]["size"] = SIZE
    return Scorer(scorer.variables, {**scorer.meta, "inputs": inputs, "settings": settings})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 19 frames: two windows of 8 and one of 3."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write(path, moving_bar(19, height=60, width=100))


def plainly(scorer: Scorer, path: Path, choice: str) -> float:
    """The pipeline of the release, step by step, as in docs/reference.md, section 1."""
    model, variables = scorer.model, scorer._predictor.variables
    every = np.stack(list(iter_frames(path, SIZE, antialias=True)))
    padded = np.concatenate([every, every[-1:].repeat(-len(every) % 8, axis=0)])
    look = jax.jit(lambda v, x: model.apply(v, x, method=lambda m, x: m.saliency(x, train=False)))
    maps = []
    for i in range(0, len(padded), 8):
        video = padded[None, i : i + 8].astype(np.float32) / 255
        for logits in np.asarray(look(variables, video)[0]):
            s = 1 / (1 + np.exp(-logits))
            s = (s - s.min()) / (s.max() - s.min())
            maps.append((s * 255).astype(np.uint8))
    maps = np.stack(maps[: len(every)])
    frames = np.stack(list(iter_frames(path, SIZE)))
    chosen = np.floor(np.linspace(0, len(frames) - 1, 8)).astype(int)
    picked = {
        "linspace": np.floor(np.linspace(0, len(maps) - 1, 8)).astype(int),
        "first": np.arange(8),
        "matched": chosen,
    }[choice]
    s = (maps[picked].astype(np.float32) / 255 - 0.5) / 0.5
    s = np.maximum(s / np.maximum(s.max(axis=(1, 2), keepdims=True), 1e-6), 0.1)
    image = frames[chosen].astype(np.float32) / 255
    fused = (1 - model.alpha) * image + model.alpha * image * s[..., None]
    score = jax.jit(lambda v, x: model.apply(v, x, method=lambda m, x: m.vqa(x, train=False)))
    return float(score(variables, fused[None])[0])


@pytest.mark.parametrize("choice", ["linspace", "first"])
def test_a_file_is_scored_as_the_release_does(scorer, clip, choice):
    scorer = with_maps(scorer, 8, choice)
    result = scorer.score(clip)
    # If one grey level of a map is truncated differently, the score changes by 1e-5.
    assert result.score / 100 == pytest.approx(plainly(scorer, clip, choice), rel=1e-4)


def test_frames_of_a_file_and_the_file_are_one_thing(scorer, clip):
    frames = np.stack(list(iter_frames(clip)))
    assert scorer.score(frames).score == scorer.score(clip).score
    (maps,) = scorer.maps(clip).values()
    assert maps.shape == (8, *SIZE)
    np.testing.assert_array_equal(scorer.maps(frames)["saliency"], maps)
    # Stored bytes, to float32 rounding.
    np.testing.assert_allclose(maps * 255, np.round(maps * 255), atol=1e-4)


@pytest.mark.slow
def test_the_choice_of_maps_changes_the_score(scorer, clip):
    plans = [(8, "linspace"), (8, "matched"), (8, "first"), (0, "matched")]
    linspace, *others = [with_maps(scorer, *plan).score(clip).score for plan in plans]
    # With as many maps as frames, evenly spaced maps are the maps of the frames.
    assert others.pop(0) == linspace
    assert len({round(score, 6) for score in (linspace, *others)}) == 3


@pytest.mark.slow
def test_the_stages_use_the_same_maps_as_the_scorer(tmp_path):
    config = tiny_config()
    with config.unlocked():
        config.preset = "release"
        config.maps.update({"window": 4, "choice": "first"})
        config.dataset.args.contents = (2, 1, 1)
        for section in (config.saliency, config.vqa):
            section.update({"steps": 0, "epochs": 0})  # keep the random weights
    run = stages.Run(config, tmp_path)
    stages.run_stages(config, tmp_path)
    scorer = Scorer.from_checkpoint(tmp_path)
    with open(tmp_path / "test" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5 and not (tmp_path / "test" / "maps").exists()
    for row in rows:
        mos = scorer.score(run.data / "videos" / row["video"]).mos
        assert mos == pytest.approx(float(row["prediction"]), abs=1e-5)


@pytest.fixture(scope="module")
def golden_scorers(tmp_path_factory, golden_weights):
    """Function: α → Scorer of the converted golden weights."""
    folder = tmp_path_factory.mktemp("golden")
    paths = {}
    for part, name in (("saliency", "unet_registers"), ("vqa", "simple_fusion")):
        paths[part] = folder / f"{name}.safetensors"
        convert.write_safetensors(paths[part], golden_weights(name), {})
    scorers = {}
    for alpha in (0.0, 0.5, 1.0):
        out = folder / f"alpha{alpha}"
        exchange.import_model(paths, exchange.Use(options={"alpha": alpha}), out)
        scorers[alpha] = Scorer.from_checkpoint(out)
    return scorers


def remembering(look):
    """Caches the maps, because each window takes seconds at full size."""
    seen = {}

    def once(variables, inputs):
        (frames,) = inputs.values()
        key = frames.tobytes()
        if key not in seen:
            seen[key] = look(variables, inputs)
        return seen[key]

    return once


@pytest.mark.slow
@pytest.mark.skipif(not CLIP.exists(), reason=f"no real clip at {CLIP}")
def test_a_real_clip_end_to_end(golden, golden_scorers, monkeypatch):
    """Frames, maps and scores of the release for a KoNViD-1k clip (tests/golden/README.md)."""
    expected = golden("end_to_end_10053703034")
    scorer = golden_scorers[0.5]
    programs = scorer._predictor._compute
    monkeypatch.setitem(programs, "maps", remembering(programs["maps"]))
    frames, info = read_clip(CLIP, 8, size=(224, 398))
    assert info.num_frames == expected["n_frames"] == 240
    difference = np.abs(frames[:, ::16, ::16].astype(int) - expected["frames_u8_sub"])
    assert difference.mean() < 0.2 and difference.max() <= 2

    # Use the stored frames as one window.
    video = frames[None].astype(np.float32) / 255
    look = jax.jit(lambda v, x: scorer.model.apply(v, x, method=lambda m, x: m.saliency(x)))
    logits = np.asarray(look(scorer._predictor.variables, video))[0, :, ::8, ::8]
    want = expected["sampled_window_logits_sub"]
    # Frames that differ by one grey level at some pixels change logits more than rounding does.
    assert np.abs(logits - want).max() < 0.02 * want.std()

    (maps,) = scorer.maps(CLIP).values()
    stored = np.round(maps * 255)[:, ::8, ::8]
    assert np.abs(stored - expected["saliency_sub"]).max() <= 1
    for alpha, own in golden_scorers.items():
        want = float(expected[f"score_alpha_{alpha:g}"][0])
        given = {"frames": frames, "maps": maps} if alpha else {"frames": frames}
        (outputs,) = own._predictor.predict([Ready(0, 240, given)], 1)
        assert float(outputs.score) == pytest.approx(want, rel=1e-3)

    fused = dagr.fuse(video, dagr.release_maps(maps)[None], 0.5)
    sub = np.moveaxis(np.asarray(fused)[0, :, ::16, ::16], -1, 0)
    # One grey level of the frame, and one of the map, which counts twice.
    assert np.abs(sub - expected["fused_sub"]).max() < 3 / 255
    # Now the whole pipeline, from the file.
    assert scorer.score(CLIP).score / 100 == pytest.approx(
        float(expected["score_alpha_0.5"][0]), rel=1e-2
    )
