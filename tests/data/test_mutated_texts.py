"""500 mutated label files, tables and lists: each is read, or is one clear line."""

import numpy as np

from dagr_jax.data import folder, labels
from dagr_jax.runtime.errors import DagrError
from dagr_jax.runtime.texts import read_table
from dagr_jax.video.files import expand

TABLE = "video,mos\nKöln.mp4,3.5\nà la plage.mp4,2\n"
LIST = "videos/a.mp4, -1, -1, 3.5\nvideos/b.mp4, -1, -1, 2.25\n"
COMMA = "é.mp4;3,5\nb.mp4;2,25\n"
CHINESE = "name,mos\n视频一.mp4,3.2\n测试视频.mp4,4.4\n"
ODD = b'",;\t\n\r\x00\xff\xfe\xef\xbb\xbf0.'


def mutated(rng: np.random.Generator, whole: bytes) -> bytes:
    data = bytearray(whole * rng.integers(1, 4))
    for _ in range(rng.integers(1, 8)):
        place = int(rng.integers(0, max(len(data), 1)))
        match int(rng.integers(0, 4)):
            case 0:
                data[place : place + 1] = rng.bytes(1)
            case 1:
                data[place:place] = ODD[(at := rng.integers(0, len(ODD))) : at + 1]
            case 2:
                del data[place : place + int(rng.integers(1, 9))]
            case _:
                data = data[: place + 1]
    return bytes(data)


def test_500_mutated_texts(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labels.csv"
    texts = [TABLE.encode(kind) for kind in ("utf-8", "utf-16", "cp1252")]
    texts += [LIST.encode(), COMMA.encode("cp1252"), CHINESE.encode("gb18030")]
    refused = 0

    def attempt(read):
        nonlocal refused
        try:
            return read()
        except DagrError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)

    for i in range(500):
        path.write_bytes(mutated(rng, texts[i % len(texts)]))
        if (table := attempt(lambda: read_table(path))) is not None:
            assert all(row.keys() == set(table.header) for _, row in table.rows)
        if attempt(lambda: labels.is_list(path)):
            attempt(lambda: labels.read_list(path))
        for one in attempt(lambda: folder.DATASET.sources(tmp_path, path)) or ():
            assert one.video and one.path is None
        # A list of files is read as it is: every line that is not empty is a name.
        assert all(attempt(lambda: list(expand([f"@{path}"]))) or [True])
    assert 200 < refused < 2000
