"""The page of `dagr score --page`, in a real browser, from disk and from a server."""

import base64
import functools
import http.server
import io
import json
import re
import shutil
import threading
import time
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

EVIL = "<img src=x onerror=alert(1)>.mp4"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


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


def data_of(path):
    """Returns the data block of a page."""
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(block[1])


def picture(url):
    """Returns the pixels of a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


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
    height, width = maps["height"], maps["width"]
    sheet = picture(maps["sheet"])
    for number, wanted in enumerate(np.concatenate([s.maps["saliency"] for s in seen])):
        top, left = number // maps["columns"] * height, number % maps["columns"] * width
        tile = sheet[top : top + height, left : left + width] / 255
        large = Image.fromarray(wanted).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(tile, np.asarray(large), atol=0.04)  # JPEG of quality 85
    assert picture(plain["thumb"]).shape == (168, 224, 3)  # 128 x 96 scaled to a width of 224


@pytest.fixture(scope="module")
def no_maps(no_maps_checkpoint, tmp_path_factory):
    """A page of a score that uses no maps, though its checkpoint holds a saliency network."""
    home = tmp_path_factory.mktemp("no-maps")
    write(home / "plain.mp4", moving_bar(20), g="10")
    call = ["score", str(home / "plain.mp4"), "--checkpoint", str(no_maps_checkpoint)]
    assert cli.main([*call, "--page", str(home / "page.html")]) == 0
    return home / "page.html"


def test_a_score_without_maps_has_a_page_without_maps(no_maps, no_maps_checkpoint):
    scorer = Scorer.from_checkpoint(no_maps_checkpoint)
    (file,) = data_of(no_maps)["files"]
    assert file["row"]["score"] == scorer.score(file["row"]["file"]).score
    assert file["maps"] == {} and picture(file["thumb"]).shape == (168, 224, 3)
    (seen,) = [one for one in looks(scorer, file["row"]["file"]) if isinstance(one, Seen)]
    assert seen.maps == scorer.maps(file["row"]["file"]) == {} and len(seen.frames) == 4


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
    assert f"{tmp_path / 'talk_files'}: is there and is not of a page; name the page" in told


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


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if not BROWSER:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """A browser page; `tab.asked` has its requests, `tab.wrong` its errors."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        tab = context.new_page()
        tab.asked, tab.wrong = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("console", lambda message: tab.wrong.append(message.text))
        tab.on("dialog", lambda dialog: tab.wrong.append(dialog.message))
        yield tab


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without log messages on stderr."""

    def log_message(self, *_):
        pass


@pytest.fixture(params=["disk", "server"])
def address(request, made):
    if request.param == "disk":
        yield made.as_uri()
        return
    handler = functools.partial(Server, directory=str(made.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page.html"
        server.shutdown()


def until(tab, condition):
    """Waits for a condition; the content policy of the page blocks Playwright's own wait."""
    deadline = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def show(tab, address, name):
    """Opens a video of the page by its link, and waits until it is shown."""
    tab.goto(address)
    tab.get_by_role("link", name=name).click()
    until(tab, "video.readyState >= 2")


def seen(tab):
    """Returns the total opacity of the saliency over the picture; 0 if none is shown."""
    return tab.evaluate(
        """() => heat.hidden ? 0 : heat.getContext("2d").getImageData(0, 0, heat.width, heat.height)
           .data.filter((_, i) => i % 4 === 3).reduce((a, b) => a + b, 0)"""
    )


def test_it_plays_and_asks_nobody_else(tab, address):
    for name in ("plain.mp4", "other.mkv", EVIL):
        show(tab, address, name)
        tab.evaluate("video.muted = true; video.play()")
        until(tab, "video.currentTime > 0.2")
    home = address.rpartition("/")[0]
    assert all(url.startswith((home, "data:")) for url in tab.asked) and not tab.wrong
    proxies = [url for url in tab.asked if "page_files" in url]
    assert proxies and all(url.endswith("page_files/2.mp4") for url in proxies)
    assert tab.evaluate("[video.videoWidth, video.videoHeight]") == [64, 48]


def test_what_it_is_not_allowed_it_does_not_do(tab, made):
    tab.goto(made.as_uri())
    asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), lambda *_: asked.append(_)) as server:
        there = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = "document.body.append(Object.assign(document.createElement('script'), {}))"
        for attempt in (
            f"new Promise(end => Object.assign(new Image(), {{onerror: end, src: '{there}'}}))",
            f"fetch('{there}').catch(() => 0)",
            script.replace("{}", f"{{src: '{there}'}}"),
            script.replace("{}", "{text: 'x = 1'}"),
        ):
            tab.evaluate(attempt)
        assert tab.evaluate("typeof x") == "undefined"
        server.shutdown()
    assert not asked and len([line for line in tab.wrong if "Content Security Policy" in line]) >= 4


def test_saliency_comes_and_goes(tab, made):
    show(tab, made.as_uri(), "plain.mp4")
    until(tab, "!heat.hidden")
    full = seen(tab)
    assert full > 0
    tab.get_by_label("Strength").fill("20")
    assert 0 < seen(tab) < full / 2
    tab.get_by_label("Saliency").uncheck()
    assert seen(tab) == 0
    tab.keyboard.press("s")
    assert seen(tab) > 0
    box, video = tab.locator("#heat").bounding_box(), tab.locator("#video").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(128 / 96, rel=0.02)
    assert box["x"] >= video["x"] - 1 and box["height"] <= video["height"] + 1


def test_one_map_needs_no_choice_and_none_no_tools(tab, made, no_maps):
    show(tab, made.as_uri(), "plain.mp4")
    until(tab, "!heat.hidden")
    assert tab.locator(".maps:visible").count() == 2 and not tab.locator("#choose").is_visible()
    tab.goto(no_maps.as_uri())
    until(tab, "video.readyState >= 2")
    assert tab.locator(".maps:visible").count() == 0 and seen(tab) == 0
    tab.keyboard.press("s")
    assert seen(tab) == 0 and "saliency" not in tab.locator("#facts").inner_text().lower()
    assert tab.get_by_role("button", name="Full screen").is_visible() and not tab.wrong


def test_the_saliency_is_that_of_the_time(tab, made):
    show(tab, made.as_uri(), "plain.mp4")
    until(tab, "!heat.hidden")
    maps = data_of(made)["files"][2]["maps"]["saliency"]
    sheet, width, height = picture(maps["sheet"]), maps["width"], maps["height"]
    for number in (0, 5, 11):
        tab.evaluate(
            """time => new Promise(done => {
                 video.addEventListener("seeked", () => requestAnimationFrame(done), {once: true});
                 video.currentTime = time; })""",
            maps["seconds"][number] + 1e-4,
        )
        pixels = tab.evaluate(
            """() => Array.from(heat.getContext("2d")
               .getImageData(0, 0, heat.width, heat.height).data)"""
        )
        opacity = np.array(pixels).reshape(height, width, 4)[..., 3] / 255 / 0.6
        top, left = number // maps["columns"] * height, number % maps["columns"] * width
        wanted = sheet[top : top + height, left : left + width] / 255
        np.testing.assert_allclose(opacity, wanted, atol=0.02)


def test_the_timeline_seeks_and_follows(tab, made):
    show(tab, made.as_uri(), "plain.mp4")
    chart = tab.locator("#chart")
    box = chart.bounding_box()
    chart.click(position={"x": 40 + 0.75 * (box["width"] - 52), "y": 60})
    until(tab, "!video.seeking")
    assert tab.evaluate("video.currentTime") == pytest.approx(0.75 * 2.4, abs=0.05)
    assert float(chart.get_attribute("aria-valuenow")) == pytest.approx(0.75 * 2.4, abs=0.05)
    chart.focus()
    tab.keyboard.press("ArrowLeft")
    until(tab, "!video.seeking")
    assert tab.evaluate("video.currentTime") == pytest.approx(0.8, abs=0.01)
    assert tab.locator("#chart .part.now").count() == 1
    tab.keyboard.press("Home")
    tab.evaluate("video.muted = true; video.play()")
    until(tab, "Number(chart.getAttribute('aria-valuenow')) > 0.3")
    worst = data_of(made)["files"][2]["row"]["worst"]["score"]
    assert tab.locator("#chart .part.worst title").text_content().startswith(f"{worst:.1f} at")


def names(tab):
    return [name.partition("/")[2] for name in tab.locator("#rows td.name").all_text_contents()]


def test_the_table_sorts_and_filters(tab, made):
    tab.goto(made.as_uri())
    files = [file["row"] for file in data_of(made)["files"]]
    scored = [row for row in files if "error" not in row]
    rows = tab.locator("#rows tr")
    for key in ("score", "fps"):
        for down in (False, True):
            title = {"score": "Score", "fps": "Frames/s"}[key]
            tab.get_by_role("button", name=title).click()
            wanted = sorted(scored, key=lambda row: row[key], reverse=down)
            shown = rows.locator("td.name").all_text_contents()
            assert shown[:3] == [row["file"] for row in wanted]
            assert "text.mp4" in shown[3] and "FFmpeg cannot read it" in shown[3]
            order = tab.get_by_role("columnheader", name=title).get_attribute("aria-sort")
            assert order == ("descending" if down else "ascending")
    tab.get_by_label("Filter").fill("HEVC 63")
    assert rows.count() == 1 and "other.mkv" in rows.inner_text()
    assert tab.locator("#count").inner_text() == "1 of 4 videos"
    tab.get_by_label("Filter").fill("nothing")
    assert rows.count() == 0


def test_names_stay_text(tab, made):
    show(tab, made.as_uri(), EVIL)
    assert tab.locator("h2").inner_text().endswith(EVIL)
    tab.get_by_role("link", name="All videos").click()
    assert tab.locator("#rows").get_by_text(EVIL).count() == 1
    assert tab.locator("b, img[src=x]").count() == 0 and not tab.wrong


def test_by_keyboard(tab, made):
    tab.goto(made.as_uri())
    tab.get_by_label("Filter").focus()
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent").endswith("plain.mp4"):
            break
    tab.keyboard.press("Enter")
    until(tab, "video.readyState >= 2")
    tab.locator("#name").click()
    tab.keyboard.press("Space")
    until(tab, "video.currentTime > 0.1")
    tab.get_by_role("link", name="Previous").press("Enter")
    until(tab, "document.querySelector('h2').textContent.endsWith('other.mkv')")


@pytest.mark.parametrize("width", [320, 700, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_windows_and_colours(browser, made, width, scheme):
    with browser.new_context(
        viewport={"width": width, "height": 700}, color_scheme=scheme
    ) as context:
        tab = context.new_page()
        for place in ("", "#3"):
            tab.goto(made.as_uri() + place)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        level = np.mean([int(part) for part in re.findall(r"\d+", ground)])
        assert level > 200 if scheme == "light" else level < 60


def test_a_video_that_has_gone_says_so(tab, made, tmp_path):
    alone = tmp_path / "page.html"
    shutil.copy(made, alone)
    tab.goto(f"{alone.as_uri()}#3")
    alert = tab.get_by_role("alert")
    alert.wait_for()
    assert "cannot play ./my%20clips%20%231/plain.mp4: the file has moved" in alert.inner_text()
