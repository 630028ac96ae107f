"""What the page of `dagr score --page` holds, and when it is refused."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dagr_jax import cli
from dagr_jax.report import page as pages
from dagr_jax.report.page import Page
from dagr_jax.score import Result, Scorer
from dagr_jax.score.maps import Seen, looks
from dagr_jax.video.files import expand
from tests.video.clips import moving_bar, remux, write

from .pages import EVIL, data_of, picture, tile


def test_maps_and_facts_are_those_of_the_score(made, scorer):
    known = {Path(file["row"]["file"]).name: file for file in data_of(made)["files"]}
    assert list(known) == [EVIL, "other.mkv", "plain.mp4", "text.mp4"]
    assert (
        known["text.mp4"].keys() == {"row"} and "FFmpeg cannot" in known["text.mp4"]["row"]["error"]
    )
    plain = known["plain.mp4"]
    result = scorer.score(plain["row"]["file"], segments=0.8)
    assert plain["row"]["score"] == result.score and len(plain["row"]["segments"]) == 3
    (maps,) = plain["maps"].values()
    told = data_of(made)["maps"]
    assert list(plain["maps"]) == list(told) == ["saliency"]
    assert told["saliency"]["meaning"] == scorer.contract.facts.maps["saliency"].meaning
    assert len(told["saliency"]["colours"]) == 6 * 256
    seen = [one for one in looks(scorer, result.file, segments=0.8) if isinstance(one, Seen)]
    np.testing.assert_allclose(
        maps["seconds"], np.concatenate([s.seconds for s in seen]), atol=6e-4
    )
    size = maps["width"], maps["height"]
    for number, wanted in enumerate(np.concatenate([s.maps["saliency"] for s in seen])):
        large = Image.fromarray(wanted).resize(size, Image.Resampling.BILINEAR)
        # JPEG of quality 85.
        np.testing.assert_allclose(tile(maps, number), np.asarray(large), atol=0.04)
    assert picture(plain["thumb"]).shape == (168, 224, 3)  # 128 x 96 pixels of 224


def test_a_score_without_maps_has_a_page_without_maps(no_maps, no_maps_checkpoint):
    scorer = Scorer.from_checkpoint(no_maps_checkpoint)
    (file,) = data_of(no_maps)["files"]
    assert file["row"]["score"] == scorer.score(file["row"]["file"]).score
    assert file["maps"] == {} and picture(file["thumb"]).shape == (168, 224, 3)
    (seen,) = [one for one in looks(scorer, file["row"]["file"]) if isinstance(one, Seen)]
    assert seen.maps == scorer.maps(file["row"]["file"]) == {} and len(seen.frames) == 4


def test_maps_have_names(two_maps):
    data = data_of(two_maps)
    assert data["maps"]["damage"]["meaning"] == "where it is bad"
    (file,) = data["files"]
    first, second = (file["maps"][name] for name in ("saliency", "damage"))
    assert first["seconds"] == second["seconds"] == [0, 0.24, 0.48, 0.76]  # frames 0, 6, 12, 19
    for number in range(4):  # of every other frame: each stands for the next one too
        wanted = 1 - tile(first, number // 2 * 2)
        np.testing.assert_allclose(tile(second, number), wanted, atol=0.08)  # JPEG, twice


def test_a_long_video_has_few_maps(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_MOST_MAPS", 10)
    path = write(tmp_path / "clip.mp4", moving_bar(100))
    page = Page(tmp_path / "page.html", scorer, 0.2)
    page.add(scorer.score(path, segments=0.2).to_dict())
    page.write()
    (file,) = data_of(tmp_path / "page.html")["files"]
    seconds = file["maps"]["saliency"]["seconds"]
    assert 8 <= len(seconds) <= 10 and seconds[-1] > 3.4
    assert np.ptp(np.diff(seconds)) < 0.2  # maps cover the whole video


def test_a_copy_begins_at_its_beginning(scorer, tmp_path):
    """MPEG-TS may start at any time, such as 1.4 s; and copies are not found in a folder search."""

    def later(_, packet):
        packet.pts += round(2 / packet.time_base)
        packet.dts += round(2 / packet.time_base)

    clip = write(tmp_path / "clip.mp4", moving_bar(30))
    path = remux(clip, tmp_path / "clip.ts", edit=later)
    with av.open(str(path)) as container:
        assert container.start_time > 1_000_000
    page = Page(tmp_path / "page.html", scorer)
    page.add(scorer.score(path).to_dict())
    with av.open(str(tmp_path / "page_files" / "1.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=1e-3)
    wanted = [str(tmp_path / name) for name in ("clip.mp4", "clip.ts")]
    assert list(expand([str(tmp_path)])) == wanted


def test_a_folder_that_is_not_of_a_page_is_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "talk_files").mkdir()
    clip = write(tmp_path / "talk_files" / "1.mp4", moving_bar(5))
    call = ["score", str(clip), "--checkpoint", str(checkpoint), "--page"]
    assert cli.main([*call, str(tmp_path / "talk.html")]) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'talk_files'}: exists and does not belong to a page; give" in told


def test_what_is_no_page_is_a_usage_error(capsys, checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(
            ["score", "x.mp4", "--checkpoint", str(checkpoint), "--page", str(tmp_path / "a.txt")]
        )
    assert "name an .html file" in capsys.readouterr().err


def test_plays_as_it_is(scorer, tmp_path):
    for name, codec, pix_fmt, wanted in (
        ("a.mp4", "h264", "yuv420p", True),
        ("a.mp4", "h264", "yuv444p", False),
        ("a.webm", "vp9", "yuv420p", True),
        ("a.mkv", "av1", "yuv420p", False),
        ("a.mp4", "hevc", "yuv420p", False),
    ):
        path = write(tmp_path / name, moving_bar(8), codec, pix_fmt=pix_fmt)
        assert pages.plays(Result.from_dict(scorer.score(path).to_dict())) == wanted


# ---- in the browser
