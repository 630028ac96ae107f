"""The example of docs/adding_a_model.md, as it stands there."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest

from dagr_jax import cli, registry, stages
from dagr_jax.runtime.errors import DagrError
from tests.programs import ROOT, install


@pytest.mark.slow
def test_the_example_of_the_page_works(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "adding_a_model.md").read_text()
    model, config = (block.partition("```")[0] for block in page.split("```python\n")[1:])
    (tmp_path / "grey_model.py").write_text(model)
    (tmp_path / "grey_config.py").write_text(config)
    point = page.partition('[project.entry-points."dagr_jax.models"]\n')[2].splitlines()[0].strip()
    install(tmp_path, "grey", "[dagr_jax.models]\n" + point.replace('"', "") + "\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert cli.main(["models"]) == 0
    assert "grey: Grey (2026)" in capsys.readouterr().out
    configs = importlib.import_module("grey_config")
    tiny, whole = configs.get_config("tiny"), configs.get_config()
    assert whole.quality.steps == 200 and whole.keys() == tiny.keys()
    assert configs.get_config("synthetic,wide").model.args.width == 16
    with pytest.raises(DagrError, match="recipe 'huge' of grey is unknown; only wide is"):
        configs.get_config("synthetic,huge")
    stages.run_stages(tiny, tmp_path / "run")
    with open(tmp_path / "run" / "test" / "predictions.csv", newline="") as stream:
        rows = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    assert len(rows) == 15
    name = min(rows)
    clip = str(tmp_path / "run" / "data" / "videos" / name)
    capsys.readouterr()
    call = ["score", clip, "--checkpoint", str(tmp_path / "run"), "--format", "json"]
    assert cli.main([*call, "--segments", "0.2", "--page", str(tmp_path / "page.html")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["mos"] == pytest.approx(rows[name], abs=1e-5) and len(row["segments"]) == 2
    assert "where the frame is dark" in (tmp_path / "page.html").read_text()
    count = sum(np.size(leaf) for leaf in _leaves(tmp_path / "run"))
    assert count == registry.contract("grey").facts.parameters
    sys.modules.pop("grey_model")


def _leaves(workdir):
    import jax

    from dagr_jax.train.checkpoints import load_variables

    return jax.tree.leaves(load_variables(workdir)[0]["params"])
