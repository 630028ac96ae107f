"""Label files: official formats, lists in the common format, and all kinds of errors."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from dagr_jax.data import cvd2014, konvid1k, labels, live_qualcomm, live_vqc, lsvq, youtube_ugc
from dagr_jax.data.labels import LabelError
from dagr_jax.video.stream import RawVideo

REAL = Path(__file__).resolve().parents[3] / "shared" / "labels"


def rows(found):
    return [(label.video, label.mos) for label in found]


@pytest.mark.parametrize(
    ("module", "names", "counts", "low", "high"),
    [
        (konvid1k, ["KoNViD/labels.txt"], [1200], 1.22, 4.64),
        (live_vqc, ["LIVE_VQC/labels.txt"], [585], 6.22368, 94.2865),
        (cvd2014, ["CVD2014/labels.txt"], [234], -6.5, 93.38),
        (youtube_ugc, ["YouTubeUGC/labels.txt"], [1147], 1.242, 4.677),
        (
            lsvq,
            ["LSVQ/labels_train.txt", "LSVQ/labels_test.txt", "LSVQ/labels_1080p.txt"],
            [28056, 7186, 3573],
            2.4482758620689657,
            91.41935483870968,
        ),
    ],
)
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real label lists in {REAL}")
def test_the_fields_real_lists(module, names, counts, low, high):
    data = module.DATASET
    found = [data.read(REAL / name) for name in names]
    assert [len(part) for part in found] == counts
    mos = [label.mos for part in found for label in part]
    assert (min(mos), max(mos)) == pytest.approx((low, high))
    assert data.scale[0] <= min(mos) and max(mos) <= data.scale[1]
    if module is lsvq:
        parts = [{data.part(REAL / n, x) for x in f} for n, f in zip(names, found, strict=True)]
        assert parts == [{"train"}, {"test"}, {"test"}]
        # The official parts have no video in common.
        assert len({label.video for part in found for label in part}) == sum(counts)


def test_konvid_1k(tmp_path):
    scores = tmp_path / "KoNViD_1k_mos.csv"
    scores.write_text("flickr_id,mos\n3015,2.5\n10053703034,3.46\n")
    assert rows(konvid1k.DATASET.read(scores)) == [("3015", 2.5), ("10053703034", 3.46)]
    more = tmp_path / "KoNViD_1k_attributes.csv"
    more.write_text('id,flickr_id,file_name,MOS,"MOS std"\n1,3015,3015.mp4,2.5,0.4\n')
    assert rows(konvid1k.DATASET.read(more)) == [("3015", 2.5)]
    names = ["3015.mp4", "3015_original_centercrop_960x540_8s.mp4"]
    assert list(konvid1k.DATASET.names("3015")) == names
    for name in ("3015", *names, "KoNViD_1k_videos/3015.mp4"):
        assert konvid1k.DATASET.content(name) == "3015"


def test_live_vqc(tmp_path):
    path = tmp_path / "data.mat"
    videos = np.array([["A001.mp4"], ["A002.mp4"]], dtype=object)
    scipy.io.savemat(path, {"video_list": videos, "mos": np.array([[80.232], [57.3005]])})
    assert rows(live_vqc.DATASET.read(path)) == [("A001.mp4", 80.232), ("A002.mp4", 57.3005)]
    assert live_vqc.DATASET.content("Video/A001.mp4") == "A001"


def test_lsvq(tmp_path):
    """The official file has corners of patches, sizes, is_test and an author's name in GBK."""
    path = tmp_path / "labels_train_test.csv"
    header = "name,p1,height,width,mos_p1,mos,frame_number,is_test,author"
    text = f"{header}\nyfcc-batch1/725,1,540,960,50,76.84375,240,False,\u5f20\n"
    text += "ia-batch2/a b.c,1,540,960,50,50.9,240,True,x\n"
    path.write_bytes(text.encode("gbk"))
    found = lsvq.DATASET.read(path)
    assert rows(found) == [("yfcc-batch1/725", 76.84375), ("ia-batch2/a b.c", 50.9)]
    assert [lsvq.DATASET.part(path, label) for label in found] == ["train", "test"]
    assert list(lsvq.DATASET.names("a b.c")) == ["a b.c.mp4"]
    large = tmp_path / "labels_test_1080p.csv"
    large.write_text("name,height,width,mos\nyfcc-batch1/722,1080,1920,78.7\n")
    assert [lsvq.DATASET.part(large, x) for x in lsvq.DATASET.read(large)] == ["test"]


def test_youtube_ugc(tmp_path):
    path = tmp_path / "original_videos_MOS_for_YouTube_UGC_dataset.xlsx"
    table = pd.DataFrame(
        {
            "vid": ["Sports_2160P-4e9f", "HDR_1080P-49d7", "Vlog_720P-0000"],
            "width": [3840, 1920, 1280],
            "MOS full": [4.405, np.nan, 3.0],
            "MOS chunk00": [4.4, 3.9, 3.1],
        }
    )
    table.to_excel(path, index=False)
    found = youtube_ugc.DATASET.read(path)
    assert [label.video for label in found] == list(table["vid"])
    assert found[0].mos == 4.405 and math.isnan(found[1].mos) and found[2].mos == 3.0
    sheet = tmp_path / "original_videos_MOS_for_YouTube_UGC_dataset.csv"
    table.to_csv(sheet, index=False)
    assert [x.mos for x in youtube_ugc.DATASET.read(sheet)][::2] == [4.405, 3.0]
    delivered = "Sports_2160P-4e9f_crf_10_ss_00_t_20.0.mp4"
    assert next(iter(youtube_ugc.DATASET.names("Sports_2160P-4e9f"))) == delivered
    assert youtube_ugc.DATASET.content(delivered) == "Sports_2160P-4e9f"


def test_cvd2014(tmp_path):
    """The file has semicolons, decimal commas, and empty rows at the end."""
    path = tmp_path / "Realignment_MOS.csv"
    path.write_text(
        "Content;File_name;Realignment MOS;;\n"
        "City;Test01_City_D01;-6,5;;\nTraffic;Test03_Traffic_D12;20,65;;\n;;;;\n"
    )
    found = cvd2014.DATASET.read(path)
    assert rows(found) == [
        ("Test1/City/Test01_City_D01.avi", -6.5),
        ("Test3/Traffic/Test03_Traffic_D12.avi", 20.65),
    ]
    assert [cvd2014.DATASET.content(label.video) for label in found] == ["City", "Traffic"]


def test_live_qualcomm(tmp_path):
    path = tmp_path / "qualcommSubjectiveData.mat"
    names = np.array(["0723_ManUnderTree_GS5_03.yuv", "0805_Stadium_N5_01.yuv"], dtype=object)
    videos = {
        "vidNames": names[:, None],
        "distortionNames": np.array(["Artifacts", "Color", "Stabilization"], dtype=object),
        "distortionType": np.array([[3], [1]]),
    }
    scores = {"unBiasedMOS": np.array([[50.5], [61.25]]), "biasedMOS": np.array([[1.0], [2.0]])}
    scipy.io.savemat(path, {"qualcommVideoData": videos, "qualcommSubjectiveData": scores})
    found = live_qualcomm.DATASET.read(path)
    assert rows(found) == [
        ("Stabilization/0723_ManUnderTree_GS5_03.yuv", 50.5),
        ("Artifacts/0805_Stadium_N5_01.yuv", 61.25),
    ]
    assert live_qualcomm.DATASET.content(found[0].video) == "ManUnderTree"
    (tmp_path / "Artifacts").mkdir()
    (tmp_path / "Artifacts" / "0805_Stadium_N5_01.yuv").touch()
    missing, raw = live_qualcomm.DATASET.sources(tmp_path, path)
    assert missing.path is None
    assert raw.path == RawVideo(str(tmp_path / raw.video), 1920, 1080, fps=30)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.txt", "a.mp4, 1, 1, 3\nb.mp4, 1, 1, high\n", "line 2: MOS is 'high', not a number"),
        ("l.txt", "a.mp4, 1, 1, 9\n", "line 1: MOS 9 of a.mp4 is outside of KoNViD-1k's scale"),
        ("l.txt", "a.mp4, 1, 1, nan\n", "it is no label file of KoNViD-1k"),
        ("KoNViD_1k_mos.csv", "id,score\na,3\n", "no column 'flickr_id' or 'file_name'; it has id"),
        ("KoNViD_1k_mos.csv", "", "it is empty"),
        ("KoNViD_1k_mos.csv", "flickr_id,mos\n", "it names no video"),
        ("KoNViD_1k_mos.csv", b"\xff\xfe\x00", "it is no text in utf-16; save it as UTF-8"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LabelError) as error:
        konvid1k.DATASET.read(path)
    assert str(error.value).startswith(f"{path}: ") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_matlab_files(tmp_path):
    path = tmp_path / "data.mat"
    path.write_bytes(b"no matlab")
    with pytest.raises(LabelError, match="it is no readable MATLAB file"):
        live_vqc.DATASET.read(path)
    scipy.io.savemat(path, {"mos": np.ones(2)})
    with pytest.raises(LabelError, match="it has no video_list; give the data set's own file"):
        live_vqc.DATASET.read(path)
    scipy.io.savemat(path, {"video_list": np.array(["a", "b", "c"], object), "mos": np.ones(2)})
    with pytest.raises(LabelError, match="it has 3 videos and 2 scores"):
        live_vqc.DATASET.read(path)


def test_a_list_may_lack_the_columns_between(tmp_path):
    path = tmp_path / "l.txt"
    path.write_text("a b.mp4\t3.5\n\nc.mp4\t2\n")
    assert rows(labels.read_list(path)) == [("a b.mp4", 3.5), ("c.mp4", 2.0)]


@pytest.fixture
def source(tmp_path):
    """Videos (empty files: only names matter) in folders."""
    folder = tmp_path / "videos"
    long = "one/77_original_centercrop_960x540_8s.mp4"
    for name in ("one/3015.mp4", long, "one/5.mp4", "two/5.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_videos_are_found_by_path_and_by_name(tmp_path, source):
    path = tmp_path / "l.txt"
    path.write_text("3015.mp4,3\nKoNViD_1k_videos/77.mp4,2\ntwo/5.mp4,4\ngone.mp4,1\n")
    found = konvid1k.DATASET.sources(source, path)
    assert [(s.video, s.content, s.mos) for s in found] == [
        ("one/3015.mp4", "3015", 3.0),
        ("one/77_original_centercrop_960x540_8s.mp4", "77", 2.0),
        ("two/5.mp4", "5", 4.0),
        ("gone.mp4", "gone.mp4", 1.0),
    ]
    assert [s.path and s.path.exists() for s in found] == [True, True, True, None]


def test_a_name_that_several_files_have_is_refused(tmp_path, source):
    path = tmp_path / "l.txt"
    path.write_text("5.mp4,3\n")
    with pytest.raises(LabelError, match=r"line 1: 5.mp4 could be one/5.mp4, two/5.mp4; keep one"):
        konvid1k.DATASET.sources(source, path)


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "C:\\x.mp4"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, source, name):
    path = tmp_path / "l.txt"
    path.write_text(f"{name},3\n")
    with pytest.raises(LabelError, match="leaves the source folder; write paths below it"):
        konvid1k.DATASET.sources(source, path)


def test_official_files_are_found(tmp_path):
    with pytest.raises(LabelError, match="KoNViD_1k_mos.csv or KoNViD_1k_attributes.csv is not in"):
        konvid1k.DATASET.find_labels(tmp_path)
    below = tmp_path / "KoNViD_1k_metadata"
    below.mkdir()
    (below / "KoNViD_1k_attributes.csv").touch()
    assert konvid1k.DATASET.find_labels(tmp_path) == below / "KoNViD_1k_attributes.csv"
    (tmp_path / "KoNViD_1k_mos.csv").touch()
    assert konvid1k.DATASET.find_labels(tmp_path) == tmp_path / "KoNViD_1k_mos.csv"
