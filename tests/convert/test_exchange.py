"""`dagr convert`: files of PyTorch weights to checkpoints, and back."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from dagr_jax import cli, convert
from dagr_jax.score import Scorer
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from tests.convert.small import arrays_of, small_full_shapes, small_unet_shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{part of the model: (file, arrays) of a small network}."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for part, shapes in (("saliency", small_unet_shapes()), ("vqa", small_full_shapes())):
        arrays = arrays_of(shapes)
        path = folder / f"{part}.safetensors"
        convert.write_safetensors(path, arrays, {})
        made[part] = (str(path), arrays)
    return made


def same_file(path, arrays):
    back = safetensors.numpy.load_file(path)
    assert back.keys() == arrays.keys()
    for key, value in arrays.items():
        assert (back[key].dtype, back[key].shape) == (value.dtype, value.shape), key
        assert back[key].tobytes() == value.tobytes(), key


@pytest.mark.parametrize("part", ["saliency", "vqa"])
def test_one_network_there_and_back(tmp_path, files, part, capsys):
    path, arrays = files[part]
    out, back = str(tmp_path / "net"), str(tmp_path / "back.safetensors")
    assert cli.main(["convert", path, "--out", out]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: the ")
    assert cli.main(["convert", out, "--to-torch", back]) == 0
    assert capsys.readouterr().out == f"{back}\n"
    same_file(back, arrays)
    with safetensors.safe_open(back, "np") as stream:
        assert stream.metadata()["preset"] == "release"
    with pytest.raises(CheckpointError, match="holds one network, which gives no score by itself"):
        Scorer.from_checkpoint(out)


def test_two_networks_become_a_checkpoint_that_scores(tmp_path, files, capsys):
    out = str(tmp_path / "dagr")
    arguments = ["convert", "--saliency", files["saliency"][0], "--vqa", files["vqa"][0]]
    arguments += [
        "--alpha",
        "0.25",
        "--maps",
        "first",
        "--dataset",
        "lsvq",
        "--mos-range",
        "1",
        "5",
    ]
    assert cli.main([*arguments, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "the saliency net with 4 registers and the quality net with the head 'full'" in said
    _, meta = load_variables(out)
    assert meta["model_args"]["alpha"] == 0.25 and meta["preset"] == "release"
    assert meta["settings"] == {"window": 8, "choice": "first", "outside": False}
    windows = meta["inputs"]["windows"]
    assert (windows["window"], windows["choice"], windows["of"]) == (8, "first", "frames")
    frames = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), np.uint8)
    result = Scorer.from_checkpoint(out).score(frames)
    assert np.isfinite(result.score) and result.mos_range == (1.0, 5.0)
    assert result.mos == pytest.approx(1 + 4 * result.score / 100)

    assert cli.main(["convert", out, "--to-torch", str(tmp_path / "x.safetensors")]) == 0
    for part, (_, arrays) in files.items():
        same_file(tmp_path / f"x.{part}.safetensors", arrays)


def test_without_saliency_there_is_none(tmp_path, files):
    out = str(tmp_path / "dagr")
    assert cli.main(["convert", "--vqa", files["vqa"][0], "--alpha", "0", "--out", out]) == 0
    variables, meta = load_variables(out)
    assert set(variables["params"]) == {"vqa"} and meta["model_args"]["saliency"] is None
    assert cli.main(["convert", out, "--to-torch", str(tmp_path / "x.safetensors")]) == 0
    same_file(tmp_path / "x.vqa.safetensors", files["vqa"][1])


def test_a_network_without_statistics(tmp_path, golden_weights):
    """The temporal-only network has no BatchNorm."""
    arrays = golden_weights("temporal_only")
    path, out = tmp_path / "t.safetensors", str(tmp_path / "t")
    convert.write_safetensors(path, arrays, {})
    assert cli.main(["convert", str(path), "--out", out]) == 0
    assert cli.main(["convert", out, "--to-torch", str(tmp_path / "b.safetensors")]) == 0
    same_file(tmp_path / "b.safetensors", arrays)


def test_errors_are_one_line_and_leave_nothing_behind(tmp_path, files, capsys):
    saliency, quality = files["saliency"][0], files["vqa"][0]
    broken = dict(files["saliency"][1])
    del broken["final_conv.bias"]
    convert.write_safetensors(tmp_path / "broken.safetensors", broken, {})
    (tmp_path / "there").mkdir()
    out = str(tmp_path / "out")
    cases = [
        ([str(tmp_path / "no.safetensors"), "--out", out], "there is no such file"),
        ([str(tmp_path / "broken.safetensors"), "--out", out], "missing: final_conv.bias"),
        ([saliency, "--out", str(tmp_path / "there")], "there: already exists; use another"),
        (["--saliency", saliency, "--out", out], "needs a quality network; pass it as --vqa"),
        (
            ["--saliency", saliency, "--vqa", quality, "--window", "-1", "--out", out],
            "window must be at least 0, got -1",
        ),
        (["--vqa", quality, "--out", out], "alpha 0.5 needs a saliency network"),
        (["--vqa", saliency, "--alpha", "0", "--out", out], "it holds the saliency net with 4"),
        (
            ["--saliency", saliency, "--vqa", quality, "--alpha", "2", "--out", out],
            "alpha must be in [0, 1], got 2.0",
        ),
        ([str(tmp_path), "--to-torch", f"{out}.safetensors"], "no complete checkpoint in it"),
        ([str(tmp_path), "--to-torch", f"{out}.pth"], "its suffix is not .safetensors"),
    ]
    before = sorted(p.name for p in tmp_path.iterdir())
    for arguments, said in cases:
        assert cli.main(["convert", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("dagr: ") and said in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.pth"],
        ["a.pth", "--vqa", "b.pth", "--out", "c"],
        ["a.pth", "--alpha", "0", "--out", "c"],
        ["--vqa", "a.pth", "--to-torch", "c"],
        ["a.pth", "--out", "c", "--to-torch", "d"],
        ["--vqa", "a.pth", "--out", "c", "--mos-range", "5", "1"],
        ["--vqa", "a.pth", "--out", "c", "--maps", "best"],
    ],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", *arguments])
    assert stop.value.code == 2 and "convert" in capsys.readouterr().err
