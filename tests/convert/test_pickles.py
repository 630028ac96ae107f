"""Reading .pth files without PyTorch: the same values, and nothing in a file is executed."""

import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dagr_jax.convert.pickles import DamagedPickle, UnsafePickle, read_pickle

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [GOLDEN / "tensors_zip.pth", GOLDEN / "tensors_series.pth"]
BASE = np.arange(12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "weight": BASE,
    "turned": BASE.T,  # not contiguous, in the same storage
    "row": BASE[1],
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
    "steps": np.array(7),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.array([[0.5]], np.float32),
    "double": np.array([1e-300]),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_types_and_shapes(path):
    held = read_pickle(path)
    assert type(held["state_dict"]) is collections.OrderedDict
    assert list(held["state_dict"]) == list(TENSORS)
    for name, value in TENSORS.items():
        read = held["state_dict"][name]
        assert read.dtype == value.dtype and read.shape == value.shape
        assert read.tobytes() == value.tobytes()
    assert held["epoch"] == 3 and held["lr"] == 0.1 and held["name"] == "net"
    assert held["sizes"] == (1, [2, None], {"a": True}) and held["shape"] == (2, 3)


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **storages: bytes):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("net/data.pkl", data)
        for key, raw in storages.items():
            file.writestr(f"net/data/{key}", raw)


class Storage:
    """A persistent id, for files that PyTorch would not write."""

    def __init__(self, *told):
        self.told = told


class Call:
    """A call of a function of PyTorch that is not imported."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):  # the pickler in Python, whose instructions can be replaced
    def persistent_id(self, value):
        return value.told if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Call):
            self.write(b"c" + value.name.encode() + b"\n")
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(value, Global):
            self.write(b"c" + value.name.encode() + b"\n")
        else:
            super().save(value, save_persistent_id)


class Global:
    def __init__(self, name):
        self.name = name


def written(value) -> bytes:
    out = io.BytesIO()
    Writer(out, protocol=2).dump(value)
    return out.getvalue()


FLOATS = Storage("storage", Global("torch\nFloatStorage"), "0", "cpu", 4)
REBUILD = "torch._utils\n_rebuild_tensor_v2"


def tensor(offset, shape, strides, storage=FLOATS):
    return Call(REBUILD, storage, offset, shape, strides, False, {})


def test_a_tensor_of_a_written_archive_is_read(tmp_path):
    path = tmp_path / "net.pth"
    raw = np.arange(4, dtype=np.float32).tobytes()
    archive(path, written({"x": tensor(1, (3,), (1,))}), **{"0": raw})
    assert read_pickle(path)["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (tensor(2, (3,), (1,)), "larger than its storage"),
        (tensor(-1, (2,), (1,)), "larger than its storage"),
        (tensor(3, (2,), (-1,)), "larger than its storage"),
        (tensor(0, (10**12,), (0,)), "larger than its storage"),  # one element, repeated
        (tensor(5, (0,), (1,)), "larger than its storage"),
        (tensor(0, (4,), (1,), 7), "no storage"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, value, said):
    path = tmp_path / "net.pth"
    archive(path, written({"x": value}), **{"0": bytes(16)})
    with pytest.raises(DamagedPickle, match=said):
        read_pickle(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Call("os\nsystem", "true"), "os.system"),
        (Call("builtins\neval", "1"), "builtins.eval"),
        (Call("torch\nload", "x"), "torch.load"),
        (Call("torch.nn\nLinear", 1, 1), "torch.nn.Linear"),
        (Call("torch\nFloatStorage", 4), "a call of torch FloatStorage"),
        (Global("collections\nOrderedDict"), "collections OrderedDict"),
        (Storage("storage", Global("torch\nQInt8Storage"), "0", "cpu", 4), "torch.QInt8Storage"),
        (Storage("module", "x", "0", "cpu", 4), "the storage"),
    ],
)
def test_everything_but_weights_is_refused_by_name(tmp_path, value, said):
    path = tmp_path / "net.pth"
    archive(path, written({"x": value}), **{"0": bytes(16)})
    with pytest.raises(UnsafePickle, match=said):
        read_pickle(path)


def test_the_state_of_a_function_cannot_be_changed(tmp_path):
    path = tmp_path / "net.pth"
    # BUILD would set attributes of whatever is on the stack.
    data = b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x01\x00\x00\x00aK\x01sb."
    archive(path, data)
    with pytest.raises(UnsafePickle, match="the state of a Name"):
        read_pickle(path)


@pytest.mark.parametrize("instruction", [b"i", b"o", b"\x81"], ids=["INST", "OBJ", "NEWOBJ"])
def test_other_instructions_that_call_are_refused(tmp_path, instruction):
    path = tmp_path / "net.pth"
    named = b"(ios\nsystem\n." if instruction == b"i" else b"(cos\nsystem\n)" + instruction + b"."
    archive(path, b"\x80\x02" + named)
    with pytest.raises(UnsafePickle):
        read_pickle(path)


def series(path: Path, data: bytes, **storages: bytes):
    """A file of the older format with one pickled object."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    out = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine))
    out += data + pickle.dumps(list(storages), 2)
    for raw in storages.values():
        out += struct.pack("<q", len(raw) // 4) + raw
    path.write_bytes(out)


@pytest.mark.parametrize("container", [archive, series])
def test_tensors_of_one_storage_must_agree_on_it(tmp_path, container):
    path = tmp_path / "net.pth"
    more = Storage("storage", Global("torch\nFloatStorage"), "0", "cpu", 10**6)
    wide = Storage("storage", Global("torch\nDoubleStorage"), "0", "cpu", 4)
    container(path, written({"x": tensor(0, (4,), (1,))}), **{"0": bytes(16)})
    assert read_pickle(path)["x"].tolist() == [0] * 4
    for other in (more, wide):
        value = {"x": tensor(0, (4,), (1,)), "y": tensor(0, (4,), (1,), other)}
        container(path, written(value), **{"0": bytes(16)})
        with pytest.raises(DamagedPickle, match="storage 0 has two types or sizes"):
            read_pickle(path)


@pytest.mark.timeout(20)
def test_small_files_do_not_become_large(tmp_path):
    path = tmp_path / "net.pth"
    shared = "x"
    for _ in range(60):  # 2^60 elements, if each were copied
        shared = [shared, shared]
    archive(path, written(shared))
    held = read_pickle(path)
    assert held[0] is held[1]
    storage = Storage("storage", Global("torch\nFloatStorage"), "0", "cpu", 2**18)
    views = [tensor(0, (2**18,), (1,), storage) for _ in range(20_000)]  # 20 GB, if copied
    archive(path, written(views), **{"0": bytes(2**20)})
    assert len(read_pickle(path)) == 20_000


@pytest.mark.parametrize("kind", ["a key", "an item"])
def test_nested_keys_are_refused(tmp_path, kind):
    path = tmp_path / "net.pth"
    # The hash of a tuple that is nested a million times would end the process.
    nested = b")" + 1_000_000 * b"\x85"
    data = b"}" + nested + b"K\x01s." if kind == "a key" else b"\x8f(" + nested + b"\x90."
    archive(path, b"\x80\x04" + data)
    with pytest.raises(UnsafePickle, match="a key of the type tuple"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Call("torch\ndevice", [["cpu"]]), "a device with another name"),
        (Call("_codecs\nencode", "x", "rot13"), "another encoding than latin1"),
        (Call("collections\nCounter", [1, 2]), "a Counter of something"),
        (Call("collections\nOrderedDict", [((1, 2), 3)]), "a key of the type tuple"),
        (
            Call(REBUILD, FLOATS, 0, (2,), (1,), False, {}, {"neg": True}),
            "a negated or conjugated tensor",
        ),
    ],
)
def test_unusual_values_are_refused_by_name(tmp_path, value, said):
    path = tmp_path / "net.pth"
    archive(path, written({"x": value}), **{"0": bytes(16)})
    with pytest.raises(UnsafePickle, match=said):
        read_pickle(path)


def test_overlapping_archives_are_refused(tmp_path):
    path = tmp_path / "net.pth"
    archive(path, written({}), **{"0": bytes(10_000)})
    data = bytearray(path.read_bytes())
    # The directory at the end announces a storage of 100 times the size.
    at = data.rindex((10_000).to_bytes(4, "little"))
    for place in (at, at - 4):
        data[place : place + 4] = (1_000_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DamagedPickle, match="its entries overlap"):
        read_pickle(path)


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "net.pth"  # a small file could hold terabytes
    archive(path, written({}), zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedPickle, match="compressed"):
        read_pickle(path)


def test_a_container_that_contains_itself_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    held: list = []
    held.append(held)
    archive(path, written(held))
    with pytest.raises(DamagedPickle):
        read_pickle(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_damaged_files_are_refused_or_read(tmp_path, path):
    rng, whole = np.random.default_rng(0), path.read_bytes()
    damaged = tmp_path / "net.pth"
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        for at in rng.integers(0, max(len(data), 1), 3):
            data[at : at + 1] = rng.bytes(1)
        damaged.write_bytes(data)
        try:
            read_pickle(damaged)
        except (UnsafePickle, DamagedPickle, ValueError):
            refused += 1
    assert refused > 200  # bytes of storages and names may change without harm


@pytest.mark.torch
class TestBesidePyTorch:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="compares with PyTorch; it is not installed")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_a_network_and_its_optimizer(self, tmp_path, torch, zipped, protocol):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        optimizer = torch.optim.AdamW(net.parameters())
        net(torch.zeros(1, 3, 8, 8)).sum().backward()
        optimizer.step()
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 8])
        held = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.5}
        held |= {"schedule": schedule.state_dict(), "device": torch.device("cuda", 1), "raw": b"a"}
        path = tmp_path / "net.pth"
        torch.save(held, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        # With weights_only, PyTorch reads all of this in protocol 2 alone. The file is our own.
        theirs = torch.load(path, weights_only=protocol == 2)
        _same(torch, theirs, read_pickle(path))


def _same(torch, theirs, ours):
    if isinstance(theirs, torch.Tensor):
        np.testing.assert_array_equal(theirs.detach().numpy(), ours)
    elif isinstance(theirs, dict):
        assert list(theirs) == list(ours)
        for key in theirs:
            _same(torch, theirs[key], ours[key])
    elif isinstance(theirs, list | tuple):
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            _same(torch, one, other)
    elif isinstance(theirs, torch.device):
        assert str(theirs) == ours
    else:
        assert theirs == ours
