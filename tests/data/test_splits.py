"""Splits by content: deterministic, with every protocol of the field."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagr_jax.data.records import Listed
from dagr_jax.data.splits import PROTOCOLS, Protocol, SplitError, read_split, write_split


def contents_of(videos, contents, seed=0):
    """Content keys of n videos; each content has at least one video."""
    rng = np.random.default_rng(seed)
    keys = [*range(contents), *rng.integers(0, contents, videos - contents)]
    return [f"c{k}" for k in rng.permutation(keys)]


@given(
    st.integers(12, 60),
    st.integers(0, 100),
    st.integers(0, 4),
    st.sampled_from(PROTOCOLS),
    st.integers(0, 2**31),
)
def test_no_content_stands_on_two_sides(contents, more, fold, name, seed):
    keys = contents_of(contents + more, contents, seed % 7)
    official = ["test" if hash_of(key) % 4 == 0 else "train" for key in keys]
    if len(set(official)) < 2:
        official = ["test" if key == "c0" else "train" for key in keys]
    parts = Protocol(name, fold=fold, seed=seed).assign(keys, official)
    sides = {
        part: {k for k, p in zip(keys, parts, strict=True) if p == part} for part in set(parts)
    }
    assert sum(map(len, sides.values())) == contents  # no content twice
    assert set(sides) == ({"train", "val"} if name == "train" else {"train", "val", "test"})


def hash_of(key):
    return int(key[1:]) * 2654435761 % 2**32 >> 7


def test_the_papers_split_is_80_10_10():
    keys = contents_of(1000, 1000)
    parts = Protocol().assign(keys)
    assert [parts.count(part) for part in ("train", "val", "test")] == [800, 100, 100]


def test_shares_count_videos_not_contents():
    keys = [*["big"] * 50, *[f"c{i}" for i in range(950)]]
    for seed in range(5):
        parts = Protocol(seed=seed).assign(keys)
        assert 75 <= parts.count("test") <= 125 and 75 <= parts.count("val") <= 125


def test_ten_random_80_20_have_their_own_test_parts():
    keys = contents_of(500, 500)
    tests = []
    for fold in range(10):
        parts = Protocol("repeated", test=0.2, fold=fold).assign(keys)
        assert [parts.count(part) for part in ("train", "val", "test")] == [360, 40, 100]
        tests.append({k for k, p in zip(keys, parts, strict=True) if p == "test"})
    assert len({frozenset(t) for t in tests}) == 10
    # Two random fifths of 500 have 20 elements in common on average.
    assert all(5 < len(a & b) < 40 for a in tests for b in tests if a is not b)


def test_the_folds_of_a_k_fold_cover_everything_once():
    keys = contents_of(103, 103)
    tests = []
    for fold in range(5):
        parts = Protocol("kfold", folds=5, fold=fold).assign(keys)
        tests += [k for k, p in zip(keys, parts, strict=True) if p == "test"]
    assert sorted(tests) == sorted(keys)


def test_the_official_test_list_is_the_test_part():
    keys = [f"c{i}" for i in range(40)]
    official = ["test" if i % 4 == 0 else "train" for i in range(40)]
    parts = Protocol("official").assign(keys, official)
    assert [p == "test" for p in parts] == [p == "test" for p in official]
    assert parts.count("val") == 3
    with pytest.raises(
        SplitError, match="no official split of all its videos; take protocol random"
    ):
        Protocol("official").assign(keys, [""] * 40)
    with pytest.raises(SplitError, match="content a stands in the official lists train and test"):
        Protocol("official").assign(["a", "a", "b"], ["train", "test", "train"])


def test_a_whole_data_set_can_train():
    parts = Protocol("train").assign([f"c{i}" for i in range(20)])
    assert (parts.count("train"), parts.count("val")) == (18, 2)


def test_an_official_validation_part_is_the_validation_part():
    official = ["train", "val", "test", "train"]
    assert Protocol("official").assign(["a", "b", "c", "a"], official) == official
    with pytest.raises(SplitError, match="content a stands in the official lists train and val"):
        Protocol("official").assign(["a", "a", "c", "d"], official)


@given(st.randoms(use_true_random=False), st.sampled_from(["random", "repeated", "kfold"]))
def test_the_order_of_the_videos_changes_nothing(random, name):
    keys = contents_of(60, 30)
    first = dict(zip(keys, Protocol(name).assign(keys), strict=True))
    random.shuffle(keys)
    assert dict(zip(keys, Protocol(name).assign(keys), strict=True)) == first
    assert dict(zip(keys, Protocol(name, seed=1).assign(keys), strict=True)) != first


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "best"}, "protocol 'best' is unknown; one of random"),
        ({"test": 0.6, "val": 0.4}, "test 0.6 and val 0.4 must be shares"),
        ({"name": "kfold", "fold": 5}, "fold 5 of 5 is none"),
    ],
)
def test_bad_protocols(fields, said):
    with pytest.raises(SplitError, match=said):
        Protocol(**fields)


def test_too_few_contents():
    with pytest.raises(SplitError, match="2 contents leave nothing for train; add videos, or take"):
        Protocol().assign(["a", "b"])


LISTED = [
    Listed("a.mp4", "a", digest="0a"),
    Listed("b, c.mp4", "b"),
    Listed("d.mp4", "x"),
    Listed("e.mp4", "x"),
]


def test_files_there_and_back(tmp_path):
    path = tmp_path / "split.csv"
    parts = ["train", "val", "test", "test"]
    write_split(path, LISTED, parts)
    before = path.stat().st_mtime_ns
    write_split(path, LISTED, parts)
    assert path.stat().st_mtime_ns == before
    assert read_split(path, LISTED) == parts
    # The file may list the videos in any order, and not all of them.
    path.write_text('part,video\ntest,d.mp4\ntrain,a.mp4\nval,"b, c.mp4"\n')
    assert read_split(path, LISTED) == ["train", "val", "test", ""]
    with pytest.raises(SplitError, match="the videos were split otherwise before; take another"):
        write_split(path, LISTED, parts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,part\na,train\n", "it has no column 'video'; write video,part"),
        ("video,part\na.mp4,dev\n", "line 2: part 'dev' is none of train, val, test"),
        ("video,part\na.mp4,val\na.mp4,val\n", "line 3: a.mp4 stands there twice"),
        ("video,part\nf.mp4,val\n", "line 2: f.mp4 is not in the prepared set; drop the line"),
        ("video,part\nd.mp4,val\ne.mp4,test\n", "content x stands in val and test; keep it"),
        ("video,part\nd.mp4,train\n", "it names no video for val; name some"),
    ],
)
def test_bad_files_are_named(tmp_path, text, said):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(SplitError, match=said) as error:
        read_split(path, LISTED)
    assert str(error.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SplitError, match="there is no such file"):
        read_split(tmp_path / "split.csv", LISTED)
