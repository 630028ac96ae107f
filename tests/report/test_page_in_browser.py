"""The page of `dagr score --page`, in a real browser, from disk and from a server."""

import functools
import http.server
import re
import shutil
import threading
import time

import matplotlib
import numpy as np
import pytest

from dagr_jax import cli
from tests.odd_files import late_picture

from .pages import EVIL, data_of, tile

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


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


def heat_of(tab, maps):
    """Red, green, blue and opacity of what covers the picture."""
    pixels = tab.evaluate(
        """() => Array.from(heat.getContext("2d")
           .getImageData(0, 0, heat.width, heat.height).data)"""
    )
    return np.array(pixels).reshape(maps["height"], maps["width"], 4)


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
    tab.get_by_role("checkbox", name="Saliency").uncheck()
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
    for number in (0, 5, 11):
        tab.evaluate(
            """time => new Promise(done => {
                 video.addEventListener("seeked", () => requestAnimationFrame(done), {once: true});
                 video.currentTime = time; })""",
            maps["seconds"][number] + 1e-4,
        )
        opacity = heat_of(tab, maps)[..., 3] / 255 / 0.6
        np.testing.assert_allclose(opacity, tile(maps, number), atol=0.02)


def test_pictures_that_begin_after_the_sound(tab, checkpoint, tmp_path):
    """Two seconds of sound, then a second of pictures: the chart and the saliency wait as well."""
    file = late_picture(tmp_path).path
    page = tmp_path / "page.html"
    call = ["score", str(file), "--checkpoint", str(checkpoint), "--page", str(page)]
    assert cli.main([*call, "--segments", "0.5"]) == 0
    tab.goto(page.as_uri())
    until(tab, "video.readyState >= 2 && sheet !== null")
    assert tab.evaluate("heat.hidden") and tab.evaluate("video.currentTime") == 0
    assert tab.evaluate("lengthOf()") == pytest.approx(3, abs=0.05)
    assert tab.evaluate("partsOf(now.row)[0].start") == 2
    tab.evaluate("video.currentTime = 2.2")
    until(tab, "!heat.hidden && partAt(video.currentTime) === 0")
    assert not tab.wrong


def test_of_two_maps_one_is_chosen(tab, two_maps):
    tab.goto(two_maps.as_uri())
    until(tab, "video.readyState >= 2 && !heat.hidden")
    maps = data_of(two_maps)["files"][0]["maps"]
    choice = tab.get_by_role("combobox", name="Map")
    assert choice.locator("option").all_text_contents() == ["Saliency", "Damage"]
    for title, colours in (("Saliency", "inferno"), ("Damage", "viridis"), ("Saliency", "inferno")):
        choice.select_option(title)
        until(tab, f"!heat.hidden && mapname.textContent === '{title}' && sheet !== null")
        own = maps[title.lower()]
        pixels = heat_of(tab, own)
        np.testing.assert_allclose(pixels[..., 3] / 255 / 0.6, tile(own, 0), atol=0.02)
        strong = pixels[..., 3] > 100  # where the canvas keeps colours to a few levels
        levels = np.rint(255 * tile(own, 0)[strong]).astype(int)
        wanted = matplotlib.colormaps[colours](levels, bytes=True)[:, :3].astype(int)
        assert strong.any() and np.abs(pixels[strong][:, :3] - wanted).max() <= 8
    assert tab.get_by_text("Damage", exact=True).count() == 2 and not tab.wrong


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
