"""Packing shards into ArrayRecord."""

import numpy as np

from dagr_jax.data import prepare


def shard(folder, number):
    path = folder / f"{number}.npz"
    prepare.write_shard(
        path, {"video": f"clip {number}.mp4", "entries": np.full((2, 4, 6), number, np.uint8)}
    )
    return path


def test_records_keep_the_order_of_their_shards_over_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_VIDEOS_PER_FILE", 3)
    (tmp_path / "shards").mkdir()
    shards = [shard(tmp_path / "shards", number) for number in (9, 2, 7, 0, 5, 1, 8)]
    prepare.pack_stream(tmp_path / "set", "maps", {"train": shards, "val": shards[:1]})
    files = sorted(p.name for p in (tmp_path / "set" / "maps").rglob("maps-train.array_record*"))
    assert len(files) == 3
    records = prepare.open_records(tmp_path / "set", "maps", "train")
    assert [r["video"].decode() for r in records] == [
        f"clip {n}.mp4" for n in (9, 2, 7, 0, 5, 1, 8)
    ]
    np.testing.assert_array_equal(records[4]["entries"], np.full((2, 4, 6), 5))
    assert len(prepare.open_records(tmp_path / "set", "maps", "val")) == 1


def test_frames_are_records_of_their_own_in_a_row_for_each_video(tmp_path):
    paths = []
    for number in (3, 1):
        paths.append(tmp_path / f"{number}.npz")
        frames = number * 10 + np.arange(4, dtype=np.uint8)
        prepare.write_shard(paths[-1], {"frames": np.broadcast_to(frames, (2, 5, 3, 4)).T})
    prepare.pack(prepare.Frames, tmp_path / "set", {"val": paths})
    records = prepare.open_records(tmp_path / "set", "frames", "val")
    assert records[0]["frame"].shape == (3, 5, 2)
    assert [int(r["frame"][0, 0, 0]) for r in records] == [30, 31, 32, 33, 10, 11, 12, 13]
