import io
import zipfile

import numpy as np
import pytest

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.npz import map_npy, npz_bytes, read_npz

ARRAYS = {"voxels": np.eye(4, dtype=bool), "hash": np.array("ab12"), "none": np.zeros((0, 3), np.float32)}


@pytest.mark.parametrize("compress", [True, False])
def test_round_trip_also_through_numpy(tmp_path, compress):
    path = tmp_path / "a.npz"
    path.write_bytes(npz_bytes(ARRAYS, compress=compress))
    with np.load(path, allow_pickle=False) as theirs:
        for name, array in read_npz(path).items():
            assert np.array_equal(array, ARRAYS[name])
            assert np.array_equal(theirs[name], ARRAYS[name])
    np.savez_compressed(path, **ARRAYS)
    assert np.array_equal(read_npz(path)["voxels"], ARRAYS["voxels"])


def test_what_is_not_wanted_is_not_looked_at(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, voxels=np.zeros(1 << 12, np.int64), some=np.array([None]), level=np.array(3))
    assert read_npz(path, wanted="level".__eq__, most_bytes=100) == {"level": 3}


def test_equal_arrays_give_equal_bytes():
    assert npz_bytes(ARRAYS) == npz_bytes({name: array.copy() for name, array in ARRAYS.items()})


def member(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("voxels.npy", content)
    return stream.getvalue()


def claims(shape: str) -> bytes:
    header = f"{{'descr': '|b1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    whole = npz_bytes(ARRAYS)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        member(b"no array"),
        member(claims("(2, 2, 2)")[:-1]),
        member(claims("(99999, 99999, 99999)")),
        member(claims("(-2, -4)")),
        member(pickled.getvalue()),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"a\.npz"):
            read_npz(path)
    with pytest.raises(MissingFileError, match="no such file"):
        read_npz(tmp_path / "b.npz")


def test_large_claims_are_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    path.write_bytes(npz_bytes({"voxels": np.zeros(1 << 16, bool)}))
    with pytest.raises(FormatError, match="more than 1,000"):
        read_npz(path, most_bytes=1000)


def test_sizes_that_an_archive_only_claims_take_no_memory(tmp_path):
    path = tmp_path / "claims.npz"
    raw = bytearray(npz_bytes({"voxels": np.zeros(1 << 10, np.float32)}))
    listed = raw.rindex(b"PK\x01\x02")  # the archive's directory: its entry states the size of what is packed
    raw[listed + 20 : listed + 24] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="states 3,221,225,472 bytes, the file has"):
        read_npz(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 3), ()])
def test_npy_files_are_mapped_as_numpy_wrote_them(tmp_path, shape, order):
    array = np.asarray(np.random.default_rng(0).random(shape), order=order)
    np.save(tmp_path / "a.npy", array)
    found = map_npy(tmp_path / "a.npy")
    assert np.array_equal(found, array)
    assert found.shape == shape


HEADERS = (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }",
    b"(" * 3000,
    b"",
    b"\xff\xfe",
)


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_npy_files_that_lie(tmp_path, header):
    text = header + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(12))
    with pytest.raises(FormatError, match=r"a\.npy"):
        map_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.raises(FormatError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(MissingFileError, match="no such file"):
        map_npy(tmp_path / "b.npy")
