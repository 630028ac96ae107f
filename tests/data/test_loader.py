"""Grain pipelines, on a plain list of records."""

import contextlib
import signal

import numpy as np
import psutil
import pytest

from dagr_jax.data import loader
from dagr_jax.runtime.errors import DagrError


class Records:
    """Twelve records of one byte."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"frames": np.full((2, 2), index, np.uint8), "index": np.int32(index)}


def order(seed, count=6, workers=0):
    batches = loader.train_iterator(Records(), batch_size=4, seed=seed, workers=workers)
    return [next(batches)["index"].tolist() for _ in range(count)]


def test_an_epoch_holds_every_record_once_and_the_next_has_another_order():
    batches = order(0)
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_remainder_of_an_epoch_is_dropped():
    batches = loader.train_iterator(Records(), batch_size=5, seed=0, workers=0)
    for _ in range(6):
        epoch = np.concatenate([next(batches)["index"] for _ in range(2)])
        assert len(set(epoch.tolist())) == 10  # a batch across two epochs could repeat records


def test_a_reading_process_outlives_the_signals_that_end_a_run():
    """The trainer may need one more batch to save a checkpoint."""
    known = set(psutil.Process().children(recursive=True))
    with contextlib.closing(
        loader.train_iterator(Records(), batch_size=4, seed=0, workers=1)
    ) as batches:
        got = [next(batches)["index"].tolist()]
        readers = [
            child
            for child in set(psutil.Process().children(recursive=True)) - known
            if "resource_tracker" not in " ".join(child.cmdline())
        ]
        assert readers
        for reader in readers:
            reader.send_signal(signal.SIGTERM)
            reader.send_signal(signal.SIGINT)
        got += [next(batches)["index"].tolist() for _ in range(11)]
    assert got == order(0, count=12)
    gone, alive = psutil.wait_procs(readers, timeout=20)
    assert not alive


def test_the_order_follows_from_the_seed():
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_worker_process_reads_the_same_order():
    assert order(1, workers=1) == order(1)


class Clips:
    """Four records of six frames, each frame filled with its number, and their maps."""

    num_frames = 6

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.read(index, np.arange(6))

    def read(self, index, chosen, rng=None):
        frames = chosen.astype(np.uint8)[:, None]
        return {"frames": frames, "maps": frames, "index": np.int32(index)}


def chosen_frames(workers=0):
    batches = loader.train_iterator(Clips(), batch_size=4, seed=3, workers=workers, frames=2)
    return [next(batches) for _ in range(5)]


def test_a_subset_of_frames_is_in_order_with_its_maps_and_new_each_epoch():
    batches = chosen_frames()
    drawn = np.stack([b["frames"][..., 0] for b in batches])  # epoch, record, frame
    assert drawn.shape == (5, 4, 2)
    assert (np.diff(drawn.astype(int)) > 0).all()
    assert len({tuple(pair) for pair in drawn.reshape(-1, 2)}) > 5  # of 15 possible pairs
    for batch in batches:
        np.testing.assert_array_equal(batch["frames"], batch["maps"])
    for batch, again in zip(batches, chosen_frames(workers=1), strict=True):
        np.testing.assert_array_equal(batch["frames"], again["frames"])


def test_more_frames_than_a_record_holds_are_refused():
    with pytest.raises(DagrError, match="frames=7 exceeds the 6 frames"):
        loader.train_iterator(Clips(), batch_size=2, seed=0, workers=0, frames=7)


def test_a_subset_of_frames_wants_a_source_that_reads_frames():
    with pytest.raises(TypeError, match="Records has only whole records"):
        loader.train_iterator(Records(), batch_size=2, seed=0, workers=0, frames=1)


def test_evaluation_pads_and_masks_the_last_batch():
    batches = list(loader.eval_batches(Records(), batch_size=5))
    assert [len(b["index"]) for b in batches] == [5, 5, 5]
    real = np.concatenate([b["index"][b["mask"]] for b in batches])
    np.testing.assert_array_equal(real, np.arange(12))
    np.testing.assert_array_equal(batches[-1]["mask"], [True, True, False, False, False])
    # Padding repeats the last record.
    np.testing.assert_array_equal(batches[-1]["index"], [10, 11, 11, 11, 11])
    np.testing.assert_array_equal(batches[-1]["frames"][-1], np.full((2, 2), 11))


def test_a_training_part_smaller_than_the_batch_is_refused():
    with pytest.raises(DagrError, match="12 records, fewer than the batch of 13"):
        loader.train_iterator(Records(), batch_size=13, seed=0, workers=0)
