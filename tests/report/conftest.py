"""Pages that the tests look at."""

import dataclasses

import pytest

from dagr_jax import cli
from dagr_jax.models.contract import MapFacts
from dagr_jax.report import page as pages
from dagr_jax.report.page import Page
from dagr_jax.score.maps import Seen, looks
from tests.video.clips import moving_bar, write

from .pages import EVIL


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A page for a folder of four files, one of them not a video; three segments each."""
    home = tmp_path_factory.mktemp("page")
    clips = home / "my clips #1"
    clips.mkdir()
    write(clips / "plain.mp4", moving_bar(60, 96, 128), g="10")
    write(clips / EVIL, moving_bar(48))
    # Browsers do not support the container, the codec and the odd size.
    write(clips / "other.mkv", moving_bar(36, 47, 63), "hevc", pix_fmt="yuv444p")
    (clips / "text.mp4").write_text("</script><b>no video")
    path = home / "page.html"
    code = cli.main(
        ["score", str(clips), "--checkpoint", str(checkpoint), "--page", str(path)]
        + ["--segments", "0.8", "--format", "json"]
    )
    assert code == 1
    return path


@pytest.fixture(scope="module")
def no_maps(no_maps_checkpoint, tmp_path_factory):
    """A page of a score that uses no maps, though its checkpoint holds a saliency network."""
    home = tmp_path_factory.mktemp("no-maps")
    write(home / "plain.mp4", moving_bar(20), g="10")
    call = ["score", str(home / "plain.mp4"), "--checkpoint", str(no_maps_checkpoint)]
    assert cli.main([*call, "--page", str(home / "page.html")]) == 0
    return home / "page.html"


@pytest.fixture
def two_maps(scorer, tmp_path, monkeypatch):
    """A page of a model that gives two maps, one of them for every other frame alone."""

    def both(*arguments, **options):
        for one in looks(*arguments, **options):
            if isinstance(one, Seen):
                maps = one.maps["saliency"]
                one = one._replace(maps={"saliency": maps, "damage": 1 - maps[::2]})
            yield one

    monkeypatch.setattr(pages, "looks", both)
    contract = type(scorer.contract)
    maps = {**contract.facts.maps, "damage": MapFacts("where it is bad", "viridis")}
    monkeypatch.setattr(contract, "facts", dataclasses.replace(contract.facts, maps=maps))
    path = write(tmp_path / "plain.mp4", moving_bar(20), g="10")
    page = Page(tmp_path / "page.html", scorer)
    page.add(scorer.score(path).to_dict())
    page.write()
    return tmp_path / "page.html"
