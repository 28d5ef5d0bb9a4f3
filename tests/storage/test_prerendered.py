import sys

import h5py
import numpy as np
import pytest

from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError
from voxfield.storage.prerendered import (
    BatchKind,
    BatchWriter,
    SampleFacts,
    batch_name,
    find_batches,
    pack_sample,
    quantise,
    read_batch_about,
    read_metadata,
    write_metadata,
)

SHAPE = (3, 4, 5)


def grid(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random(SHAPE, np.float32)
    values[values < 0.5] = 0
    return values


def write(path, compression="gzip", dtype="float32", count=3, most=4):
    kind = BatchKind(shape=SHAPE, dtype=dtype, compression=compression)
    with BatchWriter(path, kind, {"parameters_hash": "abc", "first": 0, "stop": most}, most) as writer:
        for index in range(count):
            stored, scale, _ = quantise(grid(index), dtype)
            facts = SampleFacts(
                index=2 * index, scale=scale, source_range=(0, 9), stored_range=(0, 1), points=5, outside=1
            )
            writer.add(pack_sample(stored, kind), facts)
        writer.finish({"failures": []})


@pytest.mark.parametrize("compression", ["gzip", "lzf", "none", "zstd", "blosc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_samples_come_back(tmp_path, compression, dtype):
    if compression in {"zstd", "blosc"}:
        pytest.importorskip("hdf5plugin")
    write(tmp_path / "a.h5", compression, dtype)
    about = read_batch_about(tmp_path / "a.h5")
    assert about.indices.tolist() == [0, 2, 4]
    assert about.shape == SHAPE
    assert about.parameters_hash == "abc"
    with h5py.File(tmp_path / "a.h5") as file:
        voxels = file["voxels"]
        assert voxels.chunks == (1, *SHAPE)
        assert voxels.shape == (3, *SHAPE)
        assert voxels.dtype == dtype
        for index in range(3):
            values = voxels[index].astype(np.float32) * (1 if about.scales is None else about.scales[index])
            np.testing.assert_allclose(values, grid(index), atol={"float32": 0, "float16": 5e-4, "uint8": 2e-3}[dtype])


def test_a_sample_that_does_not_shrink_is_kept_as_it_is(tmp_path):
    kind = BatchKind(shape=SHAPE, dtype="float32", compression="lzf")
    noise = np.random.default_rng(0).integers(0, 2**31, SHAPE).astype(np.int32).view(np.float32)
    with BatchWriter(tmp_path / "a.h5", kind, {}, 1) as writer:
        chunk = pack_sample(noise, kind)
        facts = SampleFacts(index=0, scale=1, source_range=(0, 1), stored_range=(0, 1), points=1, outside=0)
        writer.add(chunk, facts)
        writer.finish({})
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["voxels"][0].tobytes() == noise.tobytes()


@pytest.mark.parametrize("most", [0.0, 1e-30, 1.0, 5000.0])
def test_the_error_of_quantising_is_told(most):
    values = grid(3) * np.float32(most)
    for dtype in ("float32", "float16", "uint8"):
        stored, scale, error = quantise(values, dtype)
        back = stored.astype(np.float32) * np.float32(scale)
        assert error == pytest.approx(float(np.abs(back - values).max()), rel=1e-6, abs=1e-37)
        assert dtype != "float32" or error == 0
        assert dtype != "uint8" or error <= 0.501 * most / 255
        assert (stored[values == 0] == 0).all()


def test_float16_is_not_asked_too_much():
    with pytest.raises(InputError, match="more than float16 holds"):
        quantise(np.array([70_000], np.float32), "float16")


def test_batches_are_found_in_order(tmp_path):
    for number in (10_000, 2, 9_999):
        (tmp_path / batch_name(number)).touch()
    (tmp_path / ".voxels_batch_0003.h5.abc.partial").touch()
    assert [path.name for path in find_batches(tmp_path)] == [batch_name(n) for n in (2, 9_999, 10_000)]


def test_unknown_kinds_are_refused():
    for change, message in (
        ({"compression": "gz"}, "compression: unknown value 'gz'. Did you mean gzip"),
        ({"dtype": "int8"}, "dtype: unknown value 'int8'. Did you mean uint8"),
    ):
        with pytest.raises(InputError, match=message):
            BatchKind(**{"shape": SHAPE, "dtype": "float32", "compression": "gzip", **change})


def test_says_which_extra_is_missing(monkeypatch, tmp_path):
    pytest.importorskip("hdf5plugin")
    write(tmp_path / "a.h5", "zstd")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[hdf5-fast\]"):
        BatchKind(shape=SHAPE, dtype="float32", compression="blosc")
    with pytest.raises(MissingExtraError, match=r"a\.h5: needs hdf5plugin"):
        read_batch_about(tmp_path / "a.h5")


def test_damaged_batches(tmp_path):
    path = tmp_path / "a.h5"
    write(path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 3], b"\0" * 2000):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"a\.h5: cannot be read.*half-written"):
            read_batch_about(path)
    with pytest.raises(MissingFileError):
        read_batch_about(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.create_dataset("other", (1,), "f4"), "holds no 'voxels'"),
        (lambda file: file.create_dataset("voxels", (2, 3, 4), "f4"), r"expected voxels \(N, D, H, W\)"),
        (lambda file: file.create_dataset("voxels", (1, 1 << 20, 1 << 20, 1 << 20), "f4", chunks=True), "states"),
        (lambda file: (file.create_dataset("voxels", (2, 3, 4, 5), "f4"), file.__setitem__("indices", [1])), "damaged"),
    ],
)  # fmt: skip
def test_files_that_are_no_batches(tmp_path, make, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(FormatError, match=message):
        read_batch_about(tmp_path / "a.h5")


def test_metadata(tmp_path):
    with pytest.raises(MissingFileError, match="no pre-rendered voxels are there"):
        read_metadata(tmp_path)
    with pytest.raises(MissingFileError, match="no pre-rendered voxels are there"):
        read_metadata(tmp_path / "none")
    write(tmp_path / batch_name(0))
    with pytest.raises(MissingFileError, match="was not completed: run the same"):
        read_metadata(tmp_path)
    write_metadata(tmp_path, {"total_samples": 3, "sigma": [1.0, 2.0, 0.5]})
    assert read_metadata(tmp_path) == {"total_samples": 3, "sigma": [1.0, 2.0, 0.5]}
    for content in ("- 1\n", "{", "!!python/object/apply:os.system [true]", "\0"):
        (tmp_path / "metadata.yaml").write_text(content)
        with pytest.raises(FormatError, match=r"metadata\.yaml"):
            read_metadata(tmp_path)
