"""Saliency training on windows of longer gaze records, and scores with fewer frames afterwards."""

import json

import numpy as np
import pytest

from dagr_jax import cli, stages
from dagr_jax.configs import saliency
from dagr_jax.data.loader import SaliencySource
from dagr_jax.data.prepare import WHOLE, Gaze, Saliency, open_records, pack, write_shard
from dagr_jax.data.records import Listed, read_list, write_list
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.stages.run import Run
from dagr_jax.train.checkpoints import load_variables
from tests.data.test_gaze import source  # noqa: F401 (a generated DHF1K of 7 frames a video)
from tests.tiny_run import shrink, tiny_config
from tests.train.tiny import same_bits


def dhf1k(source, **section):  # noqa: F811
    config = shrink(saliency.get_config("dhf1k,embedded"))
    config.dataset.args.source = str(source)
    config.split.val = 0.25
    config.saliency.update({"steps": 4, **section})
    return config


def cut_by_hand(folder, out, window):
    """Copies a prepared gaze set with each window as a record of its own."""
    videos, frames = open_records(folder, "saliency"), open_records(folder, "gaze")
    each = len(frames) // len(videos)
    (out / "shards").mkdir(parents=True)
    shards, listed = [], []
    for i, row in enumerate(read_list(folder)):
        for start in range(0, each, window):
            own = [frames[i * each + start + t] for t in range(window)]
            points = [np.insert(one["points"], 0, t, axis=1) for t, one in enumerate(own)]
            path = out / "shards" / f"{i:03d}_{start:03d}.npz"
            record = {
                "video": row.video,
                "content": row.content,
                "shape": videos[i]["shape"],
                "frames": np.stack([one["frame"] for one in own]),
                "maps": np.stack([one["map"] for one in own]),
                "points": np.concatenate(points).astype(np.int32),
            }
            write_shard(path, record)
            shards.append(path)
            listed.append(Listed(f"{row.video}_{start}", row.content, row.part, row.digest))
    for kind in (Gaze, Saliency):
        pack(kind, out, {WHOLE: shards})
    write_list(out, listed)
    held = json.loads((folder / "prepared.json").read_text())
    held["stream"]["frames"] = window
    (out / "prepared.json").write_text(json.dumps(held))
    (out / "dataset.json").write_text((folder / "dataset.json").read_text())


def test_windows_equal_windows_that_are_cut_by_hand(source, tmp_path):  # noqa: F811
    """Training, validation and the order of the items: the same bits."""
    config = dhf1k(source, num_frames=6, window=3)
    stages.run_stages(config, tmp_path / "windows")
    data = tmp_path / "windows" / "data"
    assert len(open_records(data, "gaze")) == 6 * len(open_records(data, "saliency"))
    cut_by_hand(data, tmp_path / "cut", 3)
    by_hand = dhf1k(source, num_frames=3)
    by_hand.data_dir = str(tmp_path / "cut")
    stages.run_stages(by_hand, tmp_path / "hand")
    one, two = (load_variables(tmp_path / name) for name in ("windows", "hand"))
    assert same_bits(one[0], two[0]) and one[1]["metrics"] == two[1]["metrics"]
    assert one[1]["inputs"]["frames"]["frames"] == config.sampling.num_frames == 4
    rows = Run(config, tmp_path / "windows").rows["test"]
    whole, windows = SaliencySource(data, rows), SaliencySource(data, rows, 3)
    assert len(windows) == 2 * len(whole) and windows.contents[:2] == [whole.contents[0]] * 2
    for name in ("frames", "maps", "fixations"):
        both = np.concatenate([windows[4][name], windows[5][name]])
        np.testing.assert_array_equal(both, whole[2][name])
    with pytest.raises(DagrError, match="6 frames, which do not divide into windows of 4"):
        SaliencySource(data, rows, 4)


@pytest.mark.slow
def test_trained_on_windows_and_scored_with_fewer_frames(tmp_path, capsys):
    """The embedded corpus holds 10 frames of gaze and 4 sampled frames of a clip."""
    config = tiny_config()
    config.saliency.update({"num_frames": 10, "window": 5})
    stages.run_stages(config, tmp_path)
    found = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert -1 <= found["saliency"]["cc"] <= 1 and found["saliency"]["temporal_consistency"] <= 1
    clip = sorted((tmp_path / "data" / "videos").iterdir())[0]
    scorer = Scorer.from_checkpoint(tmp_path)
    assert scorer.meta["inputs"]["frames"]["frames"] == 4
    assert np.isfinite(scorer.score(clip).score)
    call = f"report saliency {tmp_path} --data {tmp_path / 'data'} --window 5 --format json".split()
    assert cli.main([*call, "--bootstrap", "5"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["videos"] == 15 and row["nss"]["value"] == pytest.approx(found["saliency"]["nss"])
