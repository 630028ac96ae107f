"""`report.html` of a run."""

import csv
import html.parser
import io
import json

import numpy as np
import pytest

from dagr_jax import stages
from dagr_jax.report import strips
from dagr_jax.report.run_page import Outcome, RunFacts, _grouped, run_page
from dagr_jax.runtime import energy
from dagr_jax.stages import report
from dagr_jax.stages.run import Run
from tests.tiny_run import tiny_config


class Page(html.parser.HTMLParser):
    """Parser of the text, tables and pictures of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.sources: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert tag != "script"

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(tiny_run):
    return Page((tiny_run / "report.html").read_text())


def test_the_page_tells_what_the_test_measured(tiny_run, page):
    result = json.loads((tiny_run / "test" / "metrics.json").read_text())
    rows = {row[0]: row[1:] for row in page.rows if row}
    for name, key in (("SRCC", "srcc"), ("RMSE", "rmse"), ("PLCC, logistic fit", "plcc_fitted")):
        wanted = [result[key][k] for k in ("value", "low", "high")]
        assert rows[name] == ["" if x is None else f"{x:.3f}" for x in wanted]
    assert rows["bitrate"] == [f"{result['baselines']['bitrate']:.3f}"]
    assert rows["predicted"][0] == f"{result['saliency']['cc']:.3f}"
    assert f"{result['n']} test videos" in page.text


def test_the_page_tells_how_the_run_was_made(tiny_run, page):
    rows = {row[0]: row[1:] for row in page.rows if row}
    config = json.loads((tiny_run / "config.json").read_text())
    assert json.dumps(config, indent=2) in page.text
    assert rows["cores"] and rows["jax"] and rows["dagr_jax"]
    told = [name for name in rows if name in stages.stages_of(Run(tiny_config(), tiny_run))]
    assert told == ["prepare", "saliency", "maps", "vqa", "test"]
    total = sum(float(rows[name][0]) for name in told)
    assert float(rows["all"][0]) == pytest.approx(total, abs=0.01)


def test_the_page_needs_nothing_else(page):
    # Scatter plot, residuals, worst, best and curves, all embedded in the page.
    assert len(page.sources) == 5
    assert all(source.startswith("data:image/") for source in page.sources)


def test_a_run_without_a_test_has_a_page_too(tmp_path):
    facts = RunFacts("<b>run</b>", dict(CONFIG), {}, [], {"saliency": [], "vqa": []}, None)
    text = run_page(facts)
    assert "<b>run" not in text and "&lt;b&gt;run" in text
    assert not Page(text).sources and "dagr, x, recipe r, preset paper, seed 0" in text
    # Other models have neither recipe nor preset.
    plain = {name: CONFIG[name] for name in ("model", "dataset", "seed")}
    assert "dagr, x, seed 0" in run_page(RunFacts("r", plain, {}, [], {}, None))


CONFIG = {
    "model": {"name": "dagr"},
    "dataset": {"name": "x"},
    "recipe": "r",
    "preset": "paper",
    "seed": 0,
}


def test_undefined_values_are_empty():
    result = {"dataset": "x", "n": 3}
    values = dict.fromkeys(("value", "low", "high"))
    names = ("srcc", "plcc", "krcc", "rmse", "plcc_fitted", "rmse_fitted")
    result |= {name: values for name in names}
    mos = np.array([1.0, 2.0, 4.0])
    tested = Outcome(result, mos, mos + 0.1, {"content": ["a", "b", "c"]}, [], [])
    rows = Page(run_page(RunFacts("r", CONFIG, {}, [], {}, tested))).rows
    assert ["SRCC", "", "", ""] in rows


def test_of_many_groups_those_that_are_furthest_off():
    labels = np.array([f"{i:02d}" for i in range(30)])
    values = np.arange(30.0) - 9
    assert [name for name, _ in _grouped(labels, values)] == [f"{i}" for i in range(29, 19, -1)]
    assert [name for name, _ in _grouped(labels[:4], values[:4])] == ["00", "01", "02", "03"]


def test_times_add_up_until_a_stage_is_finished(tmp_path):
    report.note_time(tmp_path, "vqa", 10.0, 60.0, finished=False)
    with open(tmp_path / "times.jsonl", "a") as stream:
        stream.write('{"stage": "te')  # cut short
    report.note_time(tmp_path, "vqa", 5.5, 10.0, finished=True)
    report.note_time(tmp_path, "vqa", 0.1, 1.0, finished=True)  # the stage did nothing
    report.note_time(tmp_path, "test", 1.0, None, finished=True)
    assert report.times(tmp_path) == [
        {"stage": "vqa", "seconds": 15.5, "joules": 70.0},
        {"stage": "test", "seconds": 1.0, "joules": None},
    ]


def test_energy_is_read_where_the_machine_tells_it(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with energy.Meter() as meter:
        pass
    assert meter.joules is None

    def write(name: str, value: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("5000000\n")

    write("intel-rapl:0", 1_000_000)
    write("intel-rapl:1", 4_500_000)
    write("intel-rapl:0:0", 7)  # a part of package 0, counted there
    with energy.Meter() as meter:
        write("intel-rapl:0", 3_000_000)
        meter.look()
        write("intel-rapl:1", 500_000)  # it wrapped around
        write("intel-rapl:0:0", 900_000)
    assert meter.joules == pytest.approx(2.0 + 1.0)


def test_names_with_dollars_are_drawn_as_they_are():
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    figure = strips.strips([strips.Shown("cost_$5_$6.mp4", frames, [])])
    figure.savefig(io.BytesIO(), format="png")  # mathtext would be parsed here, and fail


def test_the_worst_and_the_best_clips_are_those_of_the_predictions(tiny_run):
    tested = report._tested(Run(tiny_config(), tiny_run))
    with open(tiny_run / "test" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    errors = {r["video"]: abs(float(r["mos"]) - float(r["prediction"])) for r in rows}
    order = sorted(errors, key=lambda name: -errors[name])

    def names(clips):
        return [clip.label.partition("\npredicted")[0].replace("\n", "") for clip in clips]

    assert names(tested.worst) == order[:3] and names(tested.best) == order[::-1][:3]
    assert tested.groups["content"] == [name[:10] for name in errors]
