"""The starter corpus: scenes, deliveries and measures, from generated photographs and clips."""

import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from dagr_jax import cli
from dagr_jax.data import starter
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.data.starter import corpus, delivery, labels, masters, measure, sources
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.decode import decode_frames, probe
from tests.video.clips import moving_bar, write


def photograph(rng, height, width):
    """Blocks of several sizes and colours: edges at every scale, as in a photograph."""
    picture = np.zeros((height, width, 3), np.uint8)
    for size in (40, 16, 3):
        blocks = rng.integers(0, 90, (height // size + 1, width // size + 1, 3), np.uint8)
        picture += np.kron(blocks, np.ones((size, size, 1), np.uint8))[:height, :width]
    return picture


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A source folder with the fewest files of each kind, small ones."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    counts = {"osie": 203, "kodak": 9, "wallpapers": 5}
    for name, count in counts.items():
        home = folder / sources.KINDS[name].folder
        home.mkdir(parents=True)
        picture = photograph(rng, 240, 320)
        for i in range(count):
            Image.fromarray(np.roll(picture, 7 * i, axis=1)).save(home / f"{i:04d}.png")
    (folder / "clips").mkdir()
    for i in range(4):
        write(folder / "clips" / f"{i}.mp4", moving_bar(20, height=96, width=160), rate=25)
    return folder


def test_no_file_is_in_two_parts(material):
    found = sources.find(material)
    parts = {part: {s.path for s in found if s.part == part} for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(found) == 203 + 9 + 5 + 4
    assert not any(a & b for a, b in itertools.combinations(parts.values(), 2))
    for kind, (val, test) in {k: v.parts for k, v in sources.KINDS.items()}.items():
        own = [s.part for s in found if s.kind == kind]
        assert own.count("val") == val and own.count("test") == test
    # The split of OSIE is that of the gaze set.
    assert [s.part for s in found if s.kind == "osie"][-100:] == ["test"] * 100
    assert found == sources.find(material)


def test_missing_material_is_named(tmp_path):
    with pytest.raises(DagrError, match="there is no such folder; check --source"):
        sources.find(tmp_path / "none")
    with pytest.raises(DagrError, match="its subfolder osie/images has 0 pictures"):
        sources.find(tmp_path)


def test_scenes_depend_on_their_seed_alone_and_are_of_all_kinds(material, monkeypatch):
    monkeypatch.setattr(masters, "SIDES", (96,))
    own = [s for s in sources.find(material) if s.part == "train"]
    names = {s.name for s in own}
    seen = {}
    for seed in range(40):
        scene = masters.render(np.random.default_rng(seed), own, 3)
        assert scene.frames.shape[0] == 3 and scene.frames.dtype == np.uint8
        assert scene.frames.shape[1] % 2 == scene.frames.shape[2] % 2 == 0
        assert set(scene.sources) <= names and scene.sources
        assert scene.absolute == (scene.kind != "soft")
        seen[scene.kind] = (seed, scene)
    assert seen.keys() == masters.SCENES.keys()
    for seed, scene in seen.values():
        again = masters.render(np.random.default_rng(seed), own, 3)
        np.testing.assert_array_equal(again.frames, scene.frames)


def test_a_moving_crop_is_never_enlarged_and_stays_inside():
    rng = np.random.default_rng(0)
    grey = Image.fromarray(np.full((50, 70, 3), 90, np.uint8))
    for _ in range(200):
        height, width = int(rng.integers(20, 51)), int(rng.integers(20, 71))
        shot, _ = masters._moving(rng, grey, [], height, width, 4)
        assert shot.shape == (4, height, width, 3) and (shot == 90).all()


def test_deliveries_cover_sizes_codecs_and_faults():
    rng = np.random.default_rng(0)
    plans = [how for _ in range(150) for how in delivery.plan(rng, 1080)]
    assert {how.codec for how in plans} == delivery.CODECS.keys()
    assert {how.fault for how in plans} == {"", *delivery.FAULTS}
    assert {how.side for how in plans} == set(delivery.SIDES)
    assert any(how.again and how.shown > how.side for how in plans)
    for how in plans:
        best, worst = delivery.CODECS[how.codec][1]
        assert best <= how.crf <= worst and 144 <= how.side <= how.shown <= 1080
    # A scene that is smaller than all of these sizes is delivered in its own.
    assert {how.shown for how in delivery.plan(rng, 100)} == {100}


@pytest.mark.parametrize("codec", delivery.CODECS)
def test_a_delivery_has_the_announced_size_and_all_frames(tmp_path, codec):
    rng = np.random.default_rng(1)
    frames = np.stack([np.roll(photograph(rng, 96, 160), 4 * t, axis=1) for t in range(6)])
    frames[1:] = frames[0]
    crf = delivery.CODECS[codec][1][0]
    how = delivery.Delivery("", 0.0, 64, codec, crf, 96, "h264", 20)
    path = tmp_path / f"a{how.suffix}"
    delivery.deliver(path, frames, 25, how, rng)
    info = probe(path)
    assert (info.height, info.width, info.num_frames) == (96, 160, 6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    once = delivery.Delivery("", 0.0, 64, codec, crf, 64)
    path = tmp_path / f"b{once.suffix}"
    delivery.deliver(path, frames, 25, once, rng)
    info = probe(path)
    assert (info.height, info.width, info.num_frames) == (64, 106, 6)


@pytest.mark.parametrize("fault", delivery.FAULTS)
def test_faults_are_visible(tmp_path, fault):
    rng = np.random.default_rng(2)
    still = photograph(rng, 96, 160)[..., :1].repeat(3, axis=-1)  # 4:2:0 blurs colours
    frames = np.stack([np.roll(still, 5 * t, axis=1) for t in range(12)])
    how = delivery.Delivery(fault, 1.0, 96, "h264", 5, 96)
    path = tmp_path / "a.mp4"
    delivery.deliver(path, frames, 25, how, rng)
    seen = decode_frames(path, np.arange)
    shown = np.abs(seen.astype(int) - frames).mean(axis=(1, 2, 3))
    good = tmp_path / "b.mp4"
    delivery.deliver(good, frames, 25, delivery.Delivery("", 0, 96, "h264", 5, 96), rng)
    floor = np.abs(decode_frames(good, np.arange).astype(int) - frames).mean()
    assert shown.max() > 3 * floor


def test_labels_of_small_scenes_are_lower():
    row = {"vmaf_3": 80.0, "vmaf_half": 90.0}
    at = {
        side: labels.quality({**row, "scene_height": side, "scene_width": 2 * side})
        for side in (144, 162, 480, 1080)
    }
    assert at[1080] == 85.0 and at[144] == pytest.approx(0.407 * 85)
    assert at[162] == pytest.approx(0.4785 * 85)  # half way between 144 and 180
    assert at[144] < at[162] < at[480] < at[1080]
    portrait = labels.quality({**row, "scene_height": 480, "scene_width": 144})
    assert portrait == at[144]


@pytest.mark.vmaf
class TestMeasures:
    @pytest.fixture(autouse=True)
    def tool(self):
        pytest.importorskip("imageio_ffmpeg", reason="its ffmpeg has libvmaf; not installed")

    def test_measures_fall_with_size_and_rate_and_frames_are_aligned(self, tmp_path):
        rng = np.random.default_rng(3)
        still = photograph(rng, 216, 384)
        frames = np.stack([np.roll(still, 3 * t, axis=1) for t in range(6)])
        reference = tmp_path / "reference.mkv"
        measure.write_reference(reference, frames, 25)
        found = []
        for side, codec, crf in ((216, "h264", 1), (216, "vp9", 50), (108, "h264", 12)):
            how = delivery.Delivery("", 0.0, side, codec, crf, side)
            path = tmp_path / f"{side}_{codec}{how.suffix}"
            # Containers have different time bases; frame t must meet frame t all the same.
            delivery.deliver(path, frames, 25, how, rng)
            found.append(measure.measure(path, reference, (216, 384)))
            assert found[-1].keys() == set(measure.NAMES)
        for name in ("vmaf_3", "vmaf_half", "ssim", "vif_2"):
            best, *others = (one[name] for one in found)
            assert best > max(others)
        assert found[0]["vmaf_3"] > 95 and found[0]["ssim"] > 0.99

    def test_a_file_that_is_no_video_is_one_line(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"x")
        with pytest.raises(DagrError, match=r"a\.mp4: libvmaf failed"):
            measure.measure(tmp_path / "a.mp4", tmp_path / "a.mp4", (64, 64))

    def test_the_command_makes_the_corpus_and_continues(
        self, material, tmp_path, monkeypatch, capsys
    ):
        # Both run in this process, so that the small sizes reach the making.
        monkeypatch.setattr(masters, "SIDES", (96,))
        monkeypatch.setattr(starter, "CORPUS", corpus.Corpus(5, (2, 1, 1), 4))
        monkeypatch.setattr(corpus, "worker_pool", here)
        out = tmp_path / "set"
        command = ["prepare", "starter", "--source", str(material), "--out", str(out)]
        # Deliveries of a scene this small may be the same file.
        command += ["--frames", "2", "--size", "24", "32", "--max-failures", "4"]
        making = corpus._make
        calls = []

        def stop_at_the_third(*args):
            calls.append(args[-1])
            if len(calls) == 3:
                raise KeyboardInterrupt
            making(*args)

        monkeypatch.setattr(corpus, "_make", stop_at_the_third)
        assert cli.main(command) == 130
        assert not out.exists()
        # Other settings are refused; another choice of frames keeps what was made.
        monkeypatch.setattr(starter, "CORPUS", corpus.Corpus(6, (2, 1, 1), 4))
        assert cli.main(command) == 1
        assert "holds videos of other sources, settings" in capsys.readouterr().err
        monkeypatch.setattr(starter, "CORPUS", corpus.Corpus(5, (2, 1, 1), 4))
        command[command.index("--frames") + 1] = "3"
        assert cli.main(command) == 0
        assert sorted(calls) == [0, 1, 2, 2, 3]  # finished contents are not made again
        assert "videos used" in capsys.readouterr().err

        listed = read_list(out)
        assert {one.part for one in listed} == {"train", "val", "test"}
        with open(out / "labels.csv", newline="") as file:
            made = list(csv.DictReader(file))
        assert [row["split"] for row in made] == ["train"] * 12 + ["val"] * 6 + ["test"] * 6
        used = {one.video for one in listed}
        rows = [row for row in made if row["video"] in used]
        records = open_records(out, "quality")
        by_name = {row["video"]: row for row in rows}
        for record, one in zip(records, listed, strict=True):
            row = by_name[one.video]
            assert record["relative"] == (row["absolute"] == "False")
            assert one.part == "train" or not record["relative"]
            assert one.video == row["video"] and one.content == row["content"]
            assert record["mos"] == pytest.approx(float(row["mos"]), abs=1e-4)
            assert 0 <= record["mos"] <= 100
            assert (out / "videos" / one.video).is_file()
        assert not any(row["fault"] in delivery.UNMEASURED for row in rows)
        facts = json.loads((out / "dataset.json").read_text())
        assert facts["relative"] == sum(row["absolute"] == "False" for row in rows)
        assert facts["videos"] == "" and facts["mos_range"] == [0, 100]


class here:  # noqa: N801 - stands for the function worker_pool
    """An executor that runs each job at once, in this process."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, work, *args):
        from concurrent.futures import Future

        job = Future()
        job.set_result(work(*args))
        return job
