"""`dagr report table` and `compare`."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dagr_jax import cli
from dagr_jax.metrics import agreement, resampling

REAL = Path(__file__).resolve().parents[3] / "shared" / "predictions"
FUSION = "fusion=0.428*dover_aesthetic + 0.572*dover_technical"


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of `dagr report`."""
    code = cli.main(["report", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def two(tmp_path):
    """Two data sets, three versions per content; model a in both, model b only in the second."""
    rng = np.random.default_rng(0)
    for name, count, models in (("one", 30, ("a",)), ("two", 60, ("a", "b"))):
        mos = rng.uniform(1, 5, count)
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "mos", "content", *models])
            for i, value in enumerate(mos):
                guesses = [value + rng.normal() * (1 + k) for k in range(len(models))]
                writer.writerow([f"{i}.mp4", value, i // 3, *guesses])
    return tmp_path


def columns(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {k: np.array([float(row[k]) for row in rows]) for k in rows[0] if k != "video"}


def test_table_is_scipys(two, capsys):
    code, out, err = run(
        capsys, "table", two / "one.csv", f"B:set={two / 'two.csv'}", "--format", "json"
    )
    assert (code, out) == (1, "") and "has predictions of 2 models (a, b)" in err
    sources = [two / "one.csv", f"second={two / 'two.csv'}"]
    code, out, _ = run(capsys, "table", *sources, "--format", "json", "--bootstrap", 50)
    rows = {(row["model"], row["dataset"]): row for row in json.loads(out)["rows"]}
    assert code == 0 and list(rows) == [("a", "one"), ("a", "second"), ("b", "second")]
    data = columns(two / "two.csv")
    row = rows["b", "second"]
    assert row["srcc"]["value"] == pytest.approx(stats.spearmanr(data["b"], data["mos"])[0])
    assert row["plcc"]["value"] == pytest.approx(stats.pearsonr(data["b"], data["mos"])[0])
    assert row["krcc"]["value"] == pytest.approx(stats.kendalltau(data["b"], data["mos"])[0])
    off = np.sqrt(np.mean((data["b"] - data["mos"]) ** 2))
    assert row["rmse"]["value"] == pytest.approx(off) and row["rmse_fitted"]["value"] < off
    low, high = resampling.bootstrap(
        agreement.srcc, data["b"], data["mos"], data["content"].astype(int).astype(str), n=50
    )
    assert (row["srcc"]["low"], row["srcc"]["high"]) == pytest.approx((low, high))


def test_published_rows_stand_apart(two, capsys):
    call = ["table", f"LSVQ={two / 'one.csv'}", "--published", "--bootstrap", 5]
    rows = json.loads(run(capsys, *call, "--format", "json")[1])["rows"]
    marked = [row for row in rows if row["source"] == "published"]
    assert len(marked) == 7 and len(rows) == 8
    assert {"model": "DAGR-VQA", "dataset": "LSVQ", "source": "published"}.items() <= (
        marked[0].items()
    )
    assert marked[0]["srcc"] == {"value": 0.907} and marked[0]["plcc"] == {"value": 0.892}
    text = run(capsys, *call, "--format", "md")[1]
    assert "| DAGR-VQA (published) | 0.907 / 0.892 |" in text
    assert re.search(r"^\| a \| 0\.\d{3} / 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \|", text, re.MULTILINE)
    latex = run(capsys, *call, "--format", "latex")[1]
    assert latex.startswith("\\begin{tabular}{lcccc}") and "& 0.907 / 0.892" in latex
    lines = list(csv.DictReader(run(capsys, *call, "--format", "csv")[1].splitlines()))
    assert lines[1]["srcc"] == "0.907" and lines[1]["srcc_low"] == ""


def test_out_is_written_whole(two, capsys):
    out = two / "table.md"
    call = ["table", two / "one.csv", "--format", "md", "--bootstrap", 5]
    shown = run(capsys, *call)[1]
    code, again, _ = run(capsys, *call[:2], "--bootstrap", 5, "--out", out)
    assert code == 0 and again != shown and out.read_text() == shown
    with pytest.raises(SystemExit):
        run(capsys, *call, "--out", two / "table.exe")
    assert "the suffix names no format" in capsys.readouterr().err


def test_a_run_tells_its_name_and_data_set(tiny_run, capsys):
    for source in (tiny_run, tiny_run / "test" / "predictions.csv", tiny_run / "test"):
        rows = json.loads(run(capsys, "table", source, "--format", "json", "--bootstrap", 20)[1])[
            "rows"
        ]
        told = json.loads((tiny_run / "test" / "metrics.json").read_text())
        assert (rows[0]["model"], rows[0]["dataset"]) == (tiny_run.name, "synthetic")
        assert rows[0]["srcc"]["value"] == pytest.approx(told["srcc"]["value"], abs=1e-6)


def test_compare(two, capsys):
    source = f"set={two / 'two.csv'}"
    call = ["compare", source, source, "--models", "a", "b", "--bootstrap", 200]
    code, out, err = run(capsys, *call)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "A: a, B: b, 60 videos of set"
    assert re.fullmatch(r"dagr: the 60 videos show \d+ contents, so they are not .*\n", err)
    assert lines[-1].startswith("a ranks better than b: SRCC differs by 0.")
    found = json.loads(run(capsys, *call, "--format", "json")[1])
    data = columns(two / "two.csv")
    assert found["t"]["p"] == pytest.approx(stats.ttest_rel(data["a"], data["b"]).pvalue)
    assert found["verdict"] == lines[-1] and found["low"] > 0


def test_the_order_of_the_two_changes_nothing(two, capsys):
    """Only one file lists contents; in both orders the bootstrap draws whole contents."""
    cells = [line.split(",") for line in (two / "two.csv").read_text().splitlines()]
    (two / "a.csv").write_text("\n".join(",".join((c[0], c[1], c[3])) for c in cells))
    (two / "b.csv").write_text("\n".join(",".join((c[0], c[1], c[2], c[4])) for c in cells))
    found = [
        json.loads(run(capsys, "compare", f"x={one}", f"x={other}", "--format", "json")[1])
        for one, other in ((two / "a.csv", two / "b.csv"), (two / "b.csv", two / "a.csv"))
    ]
    assert found[0]["low"] == pytest.approx(-found[1]["high"])
    assert found[0]["high"] == pytest.approx(-found[1]["low"])


def test_averages_are_over_what_all_have(two, capsys):
    cells = [line.split(",") for line in (two / "two.csv").read_text().splitlines()]
    (two / "a.csv").write_text("\n".join(",".join((c[0], c[1], c[3])) for c in cells))
    one, other = f"one={two / 'one.csv'}", f"second={two / 'a.csv'}"
    call = ["table", one, other, "--format", "json", "--bootstrap", 2]
    rows = {row["dataset"]: row for row in json.loads(run(capsys, *call)[1])["rows"]}
    values = [rows[name]["srcc"]["value"] for name in ("one", "second")]
    assert rows["average"]["srcc"]["value"] == pytest.approx(np.mean(values))
    weighted = rows["weighted average"]
    assert weighted["srcc"]["value"] == pytest.approx((values[0] + 2 * values[1]) / 3)
    assert weighted["n"] == 90 and "rmse" not in weighted
    call[1:1] = [f"B:third={two / 'one.csv'}"]  # no data set has both A and B
    rows = json.loads(run(capsys, *call)[1])["rows"]
    assert len(rows) == 3 and not [row for row in rows if "average" in row["dataset"]]


def test_models_with_signs_in_their_names_are_fused(two, capsys):
    sources = [f"FAST-VQA:x={two / 'one.csv'}", f"FAST:x={two / 'one.csv'}"]
    call = ["table", *sources, "--fuse", "f=0.5*FAST-VQA - FAST", "--format", "json"]
    rows = json.loads(run(capsys, *call, "--bootstrap", 2)[1])["rows"]
    # 0.5 z - z: the order is reversed.
    assert rows[2]["srcc"]["value"] == pytest.approx(-rows[0]["srcc"]["value"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs a line of names, video and mos and a model among them, and rows"),
        ("video,mos\na,1\n", "needs a line of names"),
        ("video,mos,p\na,1,x\n", "line 2: p is 'x'; give a finite number"),
        ("video,mos,p\na,1,nan\n", "line 2: p is 'nan'"),
        ("video,mos,p\na,1,1\na,2,2\n", "a is in it twice"),
        ("video,mos,p\na,1\n", "line 2 has 2 cells and the first line 3; correct the line"),
    ],
)
def test_bad_files(tmp_path, capsys, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    code, out, err = run(capsys, "table", path)
    assert (code, out) == (1, "") and err.startswith(f"dagr: {path}: ") and says in err
    assert err.count("\n") == 1


def test_what_does_not_go_together(two, capsys):
    code, _, err = run(capsys, "compare", f"x={two / 'one.csv'}", f"x={two / 'two.csv'}")
    assert code == 1 and "has a, b; name the ones to compare with --models A B" in err
    call = ["compare", f"x={two / 'one.csv'}", f"x={two / 'two.csv'}", "--models", "a", "a"]
    code, _, err = run(capsys, *call)
    assert code == 1 and "a and a on x: 30 videos are of one alone (30.mp4 is one)" in err
    for recipe in ("x=a+c", "a", "x=", "x=2*a+"):
        code, _, err = run(capsys, "table", two / "one.csv", "--fuse", recipe)
        assert code == 1 and f"{recipe}: is not NAME=0.4*MODEL+0.6*MODEL of the models a" in err
    sources = [f"A:one={two / 'one.csv'}", f"B:two={two / 'one.csv'}"]
    code, _, err = run(capsys, "table", *sources, "--fuse", "x=A+B")
    assert code == 1 and "no data set has all of these models" in err
    code, _, err = run(capsys, "table", two / "one.csv", two / "one.csv")
    assert code == 1 and "a on one: two have this name; put MODEL:DATASET= before one" in err
    assert run(capsys, "table", two / "gone.csv")[0] == 1


@pytest.mark.skipif(not REAL.exists(), reason="the real predictions are not there")
def test_real_predictions(capsys):
    """The published SRCC of DOVER's fusion on two data sets, and who is better."""
    sources = [f"LIVE-VQC={REAL / 'dover_live_vqc.csv'}", f"CVD2014={REAL / 'dover_cvd2014.csv'}"]
    call = ["table", *sources, "--fuse", FUSION, "--format", "json", "--bootstrap", 20]
    rows = {(r["model"], r["dataset"]): r for r in json.loads(run(capsys, *call)[1])["rows"]}
    assert rows["fusion", "LIVE-VQC"]["srcc"]["value"] == pytest.approx(0.831, abs=5e-4)
    assert rows["fusion", "CVD2014"]["srcc"]["value"] == pytest.approx(0.833, abs=5e-4)
    assert all(row["logistic"]["converged"] for row in rows.values() if "logistic" in row)
    call = ["compare", sources[0], sources[0], "--models", "dover_technical", "dover_aesthetic"]
    assert "dover_technical ranks better than dover_aesthetic" in run(capsys, *call)[1]
