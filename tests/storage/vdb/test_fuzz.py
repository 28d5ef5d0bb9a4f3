"""The reader on what hypothesis makes of good files: a `VolumeFormatError` that names the file, or grids."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxfield.errors import DiskFullError, VolumeFormatError
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.storage.vdb import writer as vdb_writer
from voxfield.storage.voxel_pyramid import VoxelPyramid, write_pyramid
from voxfield.storage.voxel_vdb import read_voxel_vdb, write_voxel_vdb
from voxfield.voxels.lod import grid_levels
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.voxel_grid import VoxelGrid

ABSURD = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 4, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x00" * 8, b"\x01"]
MOST_BYTES = 30_000_000
# A file is written once for all examples; nothing of one reaches the next.
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def read_grids(path):
    file = VdbFile(path)
    for header in file.grids:
        file.read(header)


def read_levels(path):
    pyramid = VoxelPyramid(path)
    for level in range(len(pyramid.levels)):
        pyramid.grid(level)


def small_grid():
    stored = torch.zeros(5, 6, 7, dtype=torch.bool)
    stored[1:4, 2:, 3:] = True
    return VoxelGrid((7, 6, 5), (-1, -1, -1, 1, 1, 1), 0, stored=stored)


def write_fog(path):
    dense = np.where(np.random.default_rng(0).random((9, 9, 9)) < 0.3, 1.5, 0).astype(np.float32)
    return write_vdb(path, [VdbGrid(name="fog", volume=SparseVolume.from_dense(dense))], compression="zip")


KINDS = {
    "fog": (write_fog, read_grids),
    "grids": (lambda path: write_voxel_vdb(path, small_grid()), read_voxel_vdb),
    "compact": (lambda path: write_voxel_vdb(path, small_grid(), layout="compact"), read_voxel_vdb),
    "pyramid": (lambda path: write_pyramid(path, grid_levels(small_grid(), 2), brick=8), read_levels),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """A good file's bytes, where to put bad ones, and what reads them."""
    write, read = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return write(folder / "good.vdb").read_bytes(), folder / "bad.vdb", read


def refusal(path, raw, read):
    """Why ``raw`` is refused, in words that name the file; None if it is read. Little memory is taken either way."""
    path.write_bytes(raw)
    said = None
    tracemalloc.start()
    try:
        read(path)
    except VolumeFormatError as error:
        said = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert said is None or "bad.vdb" in said
    return said


def test_every_truncation(kind):
    raw, path, read = kind
    # Every byte of what counts are in, and a few hundred of the masks and values.
    ends = {*range(400), *range(400, len(raw), max(1, len(raw) // 150)), len(raw) - 1}
    assert all(refusal(path, raw[:end], read) for end in sorted(ends) if end < len(raw))


@FUZZ
@given(st.data())
def test_flipped_bytes_and_absurd_counts(kind, data):
    raw, path, read = kind
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the blows hit the beginning, where descriptors and metadata stand.
        reach = data.draw(st.sampled_from([min(900, len(raw)), len(raw)]))
        at = data.draw(st.integers(0, reach - 1))
        piece = data.draw(st.sampled_from(ABSURD) | st.binary(min_size=1, max_size=4))
        changed[at : at + len(piece)] = piece
    refusal(path, bytes(changed), read)


@FUZZ
@given(st.binary(max_size=300), st.booleans())
def test_bytes_of_no_sense(kind, data, magic):
    raw, path, read = kind
    assert refusal(path, raw[: 57 if magic else 0] + data, read)


def test_a_full_disk_is_named_and_costs_nothing(tmp_path, monkeypatch):
    path = write_fog(tmp_path / "fog.vdb")
    before = path.read_bytes()
    written = 0

    def full(self, *pieces):
        nonlocal written
        written += sum(map(len, pieces))
        if written > len(before) // 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(vdb_writer._Output, "write", full)
    with pytest.raises(DiskFullError, match=r"fog\.vdb: there is no room left on its disk"):
        write_fog(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["fog.vdb"]
