"""HDF5 files of others: faults are ours, and nothing leads out of the file."""

import h5py
import numpy as np
import pytest

from voxfield.data.point_arrays import PointArrays
from voxfield.data.volume_batches import VolumeOptions, open_volumes
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.hdf5 import check_heaps, hdf5_faults, item_inside


@pytest.mark.parametrize("error", [OSError("x"), RuntimeError("x"), KeyError("x"), OverflowError("x"), MemoryError()])
def test_faults_are_ours(error):
    with pytest.raises(FormatError, match=r"^a: "), hdf5_faults("a", "Do."):
        raise error


def test_what_is_ours_or_absent_stays_so():
    with pytest.raises(InputError), hdf5_faults("a", "Do."):
        raise InputError("x")
    with pytest.raises(MissingFileError), hdf5_faults("a", "Do."):
        raise FileNotFoundError


def test_nothing_leads_to_another_file(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["voxels"] = np.random.default_rng(0).random((2, 3, 3, 3)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("secret.h5", "voxels")
        layout = h5py.VirtualLayout((2, 3, 3, 3), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "voxels", (2, 3, 3, 3))
        file.create_virtual_dataset("virtual", layout)
        file["own/data"] = np.zeros(3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert item_inside(tmp_path / "a.h5", file, "own/data").shape == (3,)
        for name, message in (
            ("linked", "link to another file"),
            ("virtual", "lies in other files"),
            ("b", "holds no"),
        ):
            with pytest.raises(FormatError, match=message):
                item_inside(tmp_path / "a.h5", file, name)
    with pytest.raises(FormatError, match=r"another file|other files"):
        open_volumes(tmp_path / "a.h5", VolumeOptions())


def test_heaps_that_would_keep_the_library_reading_are_refused(tmp_path):
    path = tmp_path / "clouds.h5"
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("data", (3,), h5py.vlen_dtype(np.float32))
        for index in range(3):
            rows[index] = np.arange(12 + 3 * index, dtype=np.float32)
    check_heaps(path)
    assert len(PointArrays(path)) == 3
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    # The second value becomes free room without a length: HDF5 2.0 would stand there for ever.
    raw[heap + 80 : heap + 96] = bytes(16)
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="heap of texts is damaged"):
        PointArrays(path)
    # Heaps within heaps take no more steps than the file has bytes.
    claim = b"GCOL\x01\0\0\0" + (1 << 40).to_bytes(8, "little")
    value_like_a_heap = (1).to_bytes(8, "little") + len(claim).to_bytes(8, "little")
    (tmp_path / "many").write_bytes((claim + value_like_a_heap) * 20_000)
    with pytest.raises(FormatError, match="heap"):
        check_heaps(tmp_path / "many")
