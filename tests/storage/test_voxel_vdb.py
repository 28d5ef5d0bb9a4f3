"""Voxel grids as OpenVDB files: exact, readable by OpenVDB, hostile files refused."""

import json
import shutil
import subprocess
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

import voxfield
from voxfield.errors import FormatError, InputError, MissingFileError, VolumeFormatError
from voxfield.storage.vdb import VdbFile, read_vdb, write_vdb
from voxfield.storage.vdb.metadata import OpaqueMetadata
from voxfield.storage.voxel_vdb import METADATA_NAME, is_voxel_vdb, read_voxel_vdb, write_voxel_vdb
from voxfield.voxels.sparse_edit import crop, prune, sparsify
from voxfield.voxels.voxel_grid import VoxelGrid

LAYOUTS = ("grids", "compact")


def make_grid(resolution=(11, 9, 6), *, degree=2, share=0.3, dtype=torch.float32, seed=0):
    """A grid of random voxels in a box that is no cube."""
    generator = torch.Generator().manual_seed(seed)
    stored = torch.rand(resolution[::-1], generator=generator) < share
    links = torch.where(stored, stored.reshape(-1).cumsum(0).reshape(stored.shape) - 1, -1).int()
    count = int(stored.sum())
    density = torch.randn(count, generator=generator, dtype=torch.float64)
    sh = torch.randn(count, 3, (degree + 1) ** 2, generator=generator, dtype=torch.float64)
    return VoxelGrid.from_values(links, density.to(dtype), sh.to(dtype), (-1.0, 0.1, 2.0, 1.0, 1 / 3, 2.5))


def shifted(tiles, by):
    """The tiles, moved along x."""
    return replace(tiles, origins=tiles.origins + np.array([by, 0, 0], np.int32))


def assert_same(one, other):
    """The grids agree bit for bit."""
    assert (one.resolution, one.scene_bounds, one.sh_degree) == (other.resolution, other.scene_bounds, other.sh_degree)
    assert one.density.dtype == other.density.dtype
    assert torch.equal(one.links, other.links)
    assert torch.equal(one.density, other.density)
    assert torch.equal(one.sh, other.sh)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("compression", ["blosc", "zip", "none"])
def test_grids_come_back_bit_for_bit(tmp_path, layout, dtype, compression):
    grid = make_grid(dtype=dtype)
    path = write_voxel_vdb(
        tmp_path / "grid.vdb", grid, layout=layout, compression=compression, configuration={"a": [1]}
    )
    found = read_voxel_vdb(path)
    assert_same(found.grid, grid)
    assert (found.layout, found.configuration) == (layout, {"a": [1]})
    assert is_voxel_vdb(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("resolution", "degree", "share"),
    [((2, 2, 2), 0, 1.0), ((8, 8, 8), 1, 1.0), ((17, 2, 9), 3, 0.1), ((5, 5, 5), 2, 0)],
)
def test_sizes_degrees_and_nothing_at_all(tmp_path, layout, resolution, degree, share):
    grid = make_grid(resolution, degree=degree, share=share)
    assert_same(read_voxel_vdb(write_voxel_vdb(tmp_path / "grid.vdb", grid, layout=layout)).grid, grid)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_rounds_once(tmp_path, layout):
    grid = make_grid()
    once = read_voxel_vdb(write_voxel_vdb(tmp_path / "once.vdb", grid, layout=layout, half=True)).grid
    assert torch.equal(once.density, grid.density.half().float())
    assert torch.equal(once.sh, grid.sh.half().float())
    assert_same(read_voxel_vdb(write_voxel_vdb(tmp_path / "twice.vdb", once, layout=layout, half=True)).grid, once)
    with torch.no_grad():
        grid.density[0] = 1e6
    with pytest.raises(InputError, match="up to 65504"):
        write_voxel_vdb(tmp_path / "once.vdb", grid, layout=layout, half=True)
    assert torch.equal(read_voxel_vdb(tmp_path / "once.vdb").grid.density, once.density)  # the old file is untouched


def test_voxels_lie_where_the_grid_has_them(tmp_path):
    grid = make_grid(share=1.0)
    density = VdbFile(write_voxel_vdb(tmp_path / "grid.vdb", grid)).read("density")
    index = torch.tensor([[0, 0, 0], [10, 8, 5], [3, 7, 2]])
    world = density.index_to_world @ np.c_[index, np.ones(3)].T
    low, high = (
        torch.tensor(end, dtype=torch.float64) for end in (grid.scene_bounds.minimum, grid.scene_bounds.maximum)
    )
    expected = low + (index + 0.5) / torch.tensor(grid.resolution) * (high - low)
    np.testing.assert_allclose(world[:3].T, expected)
    # The field there is the voxel's own value: nothing is shifted by half a voxel.
    values, _ = density.volume.values_at(index.numpy())
    sampled = grid.query(expected.float()).density.detach()
    np.testing.assert_allclose(values, sampled, atol=1e-4)
    assert density.grid_class == "fog volume"


def test_openvdb_reads_the_grids(openvdb_python, tmp_path):
    grid = make_grid(share=0.5)
    path = write_voxel_vdb(tmp_path / "grid.vdb", grid)
    code = (
        "import sys, json, numpy as np, pyopenvdb as vdb\n"
        "grids, metadata = vdb.readAll(sys.argv[1])\n"
        "dense = np.zeros((11, 9, 6), np.float32); grids[0].copyToArray(dense)\n"
        "last = np.zeros((11, 9, 6, 3), np.float32); grids[-1].copyToArray(last)\n"
        "np.savez(sys.argv[2], dense=dense, last=last)\n"
        "print(json.dumps([[g.name for g in grids], grids[0].activeVoxelCount(),\n"
        "    grids[0].transform.indexToWorld((3, 2, 1)), json.loads(metadata['plenoxels'])['resolution']]))\n"
    )
    done = subprocess.run(
        [openvdb_python, "-c", code, str(path), str(tmp_path / "out.npz")], capture_output=True, text=True, check=True
    )
    names, active, place, resolution = json.loads(done.stdout)
    assert names == ["density", *(f"sh_coeff_{k}" for k in range(9))]
    assert (active, resolution) == (grid.num_voxels, [11, 9, 6])
    np.testing.assert_allclose(place, [-1 + 3.5 / 11 * 2, 0.1 + 2.5 / 9 * (1 / 3 - 0.1), 2 + 1.5 / 6 * 0.5])
    with np.load(tmp_path / "out.npz") as arrays:
        stored = grid.links >= 0
        rows = grid.links[stored].long()
        assert np.array_equal(arrays["dense"].T[stored.numpy()], grid.density.detach()[rows])
        assert np.array_equal(arrays["last"].transpose(2, 1, 0, 3)[stored.numpy()], grid.sh.detach()[rows][:, :, 8])


@pytest.mark.skipif(shutil.which("vdb_print") is None, reason="needs vdb_print: apt-get install libopenvdb-tools")
def test_openvdb_opens_the_compact_layout(tmp_path):
    grid = make_grid()
    path = write_voxel_vdb(tmp_path / "grid.vdb", grid, layout="compact", half=True)
    done = subprocess.run(["vdb_print", "-l", str(path)], capture_output=True, text=True, check=True)
    assert "Tree_int32_5_4_3" in done.stdout
    assert f"Number of active voxels:       {grid.num_voxels:,}\n" in done.stdout


def test_what_other_programs_do_to_a_file(tmp_path):
    """Pruned to tiles, thinned, cropped, scaled: what is left is read."""
    grid = make_grid((16, 16, 16), share=1.0)
    with torch.no_grad():
        grid.density[:300] = 3.0
        grid.density[grid.links[:8, :8, :8].reshape(-1).long()] = 5.0  # a whole block
    path = write_voxel_vdb(tmp_path / "grid.vdb", grid)
    metadata, grids = VdbFile(path).metadata, read_vdb(path)
    tiled = [replace(one, volume=prune(one.volume)) for one in grids]
    assert len(tiled[0].volume.tiles) == 1
    assert_same(read_voxel_vdb(write_vdb(tmp_path / "tiled.vdb", tiled, metadata=metadata)).grid, grid)

    beyond = replace(tiled[0], volume=replace(tiled[0].volume, tiles=shifted(tiled[0].volume.tiles, 16)))
    with pytest.raises(VolumeFormatError, match="tiles beyond it"):
        read_voxel_vdb(write_vdb(tmp_path / "beyond.vdb", [beyond, *tiled[1:]], metadata=metadata))

    thin = [replace(one, volume=sparsify(one.volume, 0.5)) for one in grids]
    found = read_voxel_vdb(write_vdb(tmp_path / "thin.vdb", thin, metadata=metadata)).grid
    kept = grid.density.abs() > 0.5
    assert found.num_voxels == int(kept.sum())
    own = grid.sh.detach()[found.rows_in(grid)]
    dropped = (own.abs() <= 0.5).all(dim=1, keepdim=True).expand_as(own)
    assert torch.equal(found.sh, torch.where(dropped, 0, own))

    for layout in LAYOUTS:
        whole = write_voxel_vdb(tmp_path / "whole.vdb", grid, layout=layout)
        part = [replace(one, volume=crop(one.volume, (0, 3, 0), (16, 9, 16))) for one in read_vdb(whole)]
        found = read_voxel_vdb(write_vdb(tmp_path / "part.vdb", part, metadata=VdbFile(whole).metadata)).grid
        stored = torch.zeros(16, 16, 16, dtype=torch.bool)
        stored[:, 3:9] = True
        assert torch.equal(found.links >= 0, stored)
        assert torch.equal(found.density, grid.density.detach()[found.rows_in(grid)])

    moved = [replace(one, index_to_world=np.diag([2.0, 3, 4, 1])) for one in grids]
    found = read_voxel_vdb(write_vdb(tmp_path / "moved.vdb", moved, metadata=metadata)).grid
    assert found.scene_bounds.minimum == (-1, -1.5, -2)
    assert found.scene_bounds.size == (32, 48, 64)
    turned = [replace(one, index_to_world=np.eye(4)[[1, 0, 2, 3]]) for one in grids]
    with pytest.raises(VolumeFormatError, match="were turned"):
        read_voxel_vdb(write_vdb(tmp_path / "turned.vdb", turned, metadata=metadata))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [5, 8, 16])
def test_chunks_lie_where_the_grid_has_them(tmp_path, layout, side):
    grid, together = make_grid((21, 10, 17)), {}
    for chunk in grid.chunks(side):
        found = read_voxel_vdb(write_voxel_vdb(tmp_path / f"chunk_{chunk.id}.vdb", chunk, layout=layout)).grid
        assert (found.resolution, found.scene_bounds) == (grid.resolution, grid.scene_bounds)
        rows = found.rows_in(grid)
        assert torch.equal(found.density, grid.density[rows])
        assert torch.equal(found.sh, grid.sh[rows])
        together.update(dict.fromkeys(rows.tolist(), chunk.id))
    assert sorted(together) == list(range(grid.num_voxels))
    assert sorted(set(together.values())) == list(range(len(set(together.values()))))


def test_merged_chunks_are_the_grid(tmp_path):
    grid = make_grid((21, 10, 17))
    parts = [write_voxel_vdb(tmp_path / f"{chunk.id}.vdb", chunk) for chunk in grid.chunks(8)]
    voxfield.merge_volumes(parts, tmp_path / "whole.vdb", same_names="over")
    assert_same(read_voxel_vdb(tmp_path / "whole.vdb").grid, grid)


def test_other_programs_see_a_background(tmp_path):
    grid = make_grid()
    path = write_voxel_vdb(tmp_path / "grid.vdb", grid, background=-1.0)
    assert VdbFile(path).read("density").volume.background == -1
    assert_same(read_voxel_vdb(path).grid, grid)


def test_memory_follows_the_blocks_at_once(tmp_path):
    grid = make_grid((48, 48, 48), share=1.0)
    peaks = []
    for blocks in (8, 10**6):
        tracemalloc.start()
        try:
            write_voxel_vdb(tmp_path / f"{blocks}.vdb", grid, compression="none", blocks_at_once=blocks)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (tmp_path / "8.vdb").read_bytes() == (tmp_path / "1000000.vdb").read_bytes()
    vectors = 48**3 * 12
    assert peaks[0] < 1.25 * vectors  # rows twice, states, and a few blocks
    assert peaks[1] > peaks[0] + vectors  # of a harmonic


def test_options_that_make_no_sense(tmp_path):
    grid = make_grid()
    for options in ({"layout": "both"}, {"compression": "lz4"}, {"level": 10}, {"blocks_at_once": 0}):
        with pytest.raises(InputError):
            write_voxel_vdb(tmp_path / "grid.vdb", grid, **options)
    for configuration in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(InputError, match="plain values"):
            write_voxel_vdb(tmp_path / "grid.vdb", grid, configuration=configuration)
    assert not (tmp_path / "grid.vdb").exists()


class TestFilesThatAreNone:
    def altered(self, tmp_path, written_as="grids", change_grid=None, **changes):
        """A written file with other metadata."""
        path = write_voxel_vdb(tmp_path / "grid.vdb", make_grid(), layout=written_as)
        said = json.loads(VdbFile(path).metadata[METADATA_NAME])
        said.update({key: value for key, value in changes.items() if value is not None})
        said = {key: value for key, value in said.items() if changes.get(key, "") is not None}
        grids = [one if change_grid is None else change_grid(one) for one in read_vdb(path)]
        return write_vdb(tmp_path / "altered.vdb", grids, metadata={METADATA_NAME: json.dumps(said)})

    @pytest.mark.parametrize(
        "changes",
        [{"format": "other"}, {"version": "1"}, {"resolution": [11, 9]}, {"resolution": [11, 9, 1]},
         {"resolution": [11, 9, 6.5]}, {"resolution": [2**20] * 3}, {"scene_bounds": [0, 0, 0, 0, 0, 0]},
         {"scene_bounds": "abcdef"}, {"scene_bounds": None}, {"sh_degree": 4}, {"sh_degree": True}, {"dtype": "int8"},
         {"model_config": [1]}, {"layout": "other"}, {"layout": None}, {"resolution": [10, 9, 6]}, {"sh_degree": 3}],
        ids=str,
    )  # fmt: skip
    def test_descriptions(self, tmp_path, changes):
        with pytest.raises(VolumeFormatError, match=r"altered\.vdb: "):
            read_voxel_vdb(self.altered(tmp_path, **changes))

    def test_newer_versions(self, tmp_path):
        with pytest.raises(VolumeFormatError, match="newer Voxfield"):
            read_voxel_vdb(self.altered(tmp_path, version=2))

    def test_few_voxels_do_not_ask_for_gigabytes(self, tmp_path):
        tracemalloc.start()
        try:
            with pytest.raises(VolumeFormatError, match="too few"):
                read_voxel_vdb(self.altered(tmp_path, resolution=[1200, 1200, 1200]))
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "metadata",
        [{"rows": np.int64(-1)}, {"rows": np.int64(2**40)}, {"rows": 5}, {"rows": np.int64(10**6)}, {"channels": 3},
         {"precision": "float8"}, {"precision": "float64"}, {"payload_compression": "lzma"}, {"payload": "text"},
         {"payload": OpaqueMetadata("voxfield_payload", b"")},
         {"payload": OpaqueMetadata("voxfield_payload", b"\xff" * 5000)}],
        ids=str,
    )  # fmt: skip
    def test_payloads(self, tmp_path, metadata):
        path = self.altered(
            tmp_path, "compact", change_grid=lambda one: replace(one, metadata={**one.metadata, **metadata})
        )
        with pytest.raises(VolumeFormatError, match=r"altered\.vdb: "):
            read_voxel_vdb(path)

    def test_rows_beyond_the_payload(self, tmp_path):
        def shifted(one):
            return replace(one, volume=replace(one.volume, values=one.volume.values + 1))

        with pytest.raises(VolumeFormatError, match="rows and a payload that fit"):
            read_voxel_vdb(self.altered(tmp_path, "compact", change_grid=shifted))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_values_that_are_not_finite(self, tmp_path, layout):
        grid = make_grid()
        with torch.no_grad():
            grid.sh[3] = float("nan")
        with pytest.raises(VolumeFormatError, match="finite"):
            read_voxel_vdb(write_voxel_vdb(tmp_path / "nan.vdb", grid, layout=layout))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_cut_short(self, tmp_path, layout):
        raw = write_voxel_vdb(tmp_path / "grid.vdb", make_grid((4, 4, 4)), layout=layout).read_bytes()
        path = tmp_path / "cut.vdb"
        for end in range(0, len(raw), max(1, len(raw) // 150)):
            path.write_bytes(raw[:end])
            with pytest.raises(VolumeFormatError, match=r"cut\.vdb: "):
                read_voxel_vdb(path)

    def test_other_files(self, tmp_path):
        grid = read_vdb(write_voxel_vdb(tmp_path / "grid.vdb", make_grid()))[0]
        with pytest.raises(VolumeFormatError, match="no voxel grid of Voxfield"):
            read_voxel_vdb(write_vdb(tmp_path / "fog.vdb", [grid]))
        with pytest.raises(MissingFileError):
            read_voxel_vdb(tmp_path / "none.vdb")
        metadata = VdbFile(tmp_path / "grid.vdb").metadata
        path = write_vdb(tmp_path / "other.vdb", [replace(grid, name="other")], metadata=metadata)
        with pytest.raises(VolumeFormatError, match="no grid named 'density'"):
            read_voxel_vdb(path)
        assert issubclass(VolumeFormatError, FormatError)
