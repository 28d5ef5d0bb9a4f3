"""NanoVDB files, read back by a reader written from the specification, which also reads a file of OpenVDB's."""

import struct
import zlib

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.storage.nanovdb import write_nanovdb
from voxfield.storage.vdb import VdbGrid, read_vdb
from voxfield.voxels.sparse import SparseVolume, Tiles


class NanoGrid:
    """One grid of floats or vectors of a NanoVDB file: random access as NanoVDB.h does it, by walking from the root."""

    def __init__(self, raw, record, name):
        self.raw, self.name = raw, name
        (self.grid_bytes, _, self.key, self.active) = struct.unpack_from("<4Q", record, 0)
        self.type, self.kind = struct.unpack_from("<2I", record, 32)
        self.box = struct.unpack_from("<6i", record, 88)
        self.counts = struct.unpack_from("<4I3I", record, 140)
        assert len(raw) == self.grid_bytes
        assert raw[:8] == b"NanoVDB0"
        assert raw[40 : 40 + len(name)] == name
        turn = np.frombuffer(raw, "<f8", 9, 296 + 88).reshape(3, 3)
        self.matrix = np.eye(4)
        self.matrix[:3, :3], self.matrix[:3, 3] = turn, np.frombuffer(raw, "<f8", 3, 296 + 88 + 144)
        self.tree = 672
        self.root = self.tree + struct.unpack_from("<4q", raw, self.tree)[3]
        self.width = {1: 1, 6: 3}[self.type]
        (tiles,) = struct.unpack_from("<I", raw, self.root + 24)
        at = self.root + 28
        self.background, self.low, self.high = (self.number(at + 4 * self.width * which) for which in range(3))
        # Six words of box, one of count, three values and two of statistics, in whole 32 bytes.
        first = self.root + -(-(28 + 12 * self.width + 8) // 32) * 32
        self.tiles = {}
        for number in range(tiles):
            key, child, state = struct.unpack_from("<QqI", raw, first + 32 * number)
            self.tiles[key] = child, state, self.number(first + 32 * number + 20)

    def number(self, at):
        """A float, or a vector as a tuple."""
        found = struct.unpack_from(f"<{self.width}f", self.raw, at)
        return found if self.width > 1 else found[0]

    def value(self, x, y, z):
        """Value and state of a voxel."""
        key = sum((coordinate & 0xFFFFFFFF) >> 12 << shift for coordinate, shift in ((z, 0), (y, 21), (x, 42)))
        if key not in self.tiles:
            return self.background, False
        child, state, value = self.tiles[key]
        if not child:
            return value, bool(state)
        upper = self.root + child
        found = self.entry(upper, x, y, z, 4096, 128)
        if isinstance(found, tuple):
            return found
        found = self.entry(found, x, y, z, 128, 8)
        if isinstance(found, tuple):
            return found
        place = (x & 7) << 6 | (y & 7) << 3 | z & 7
        values = found + -(-(80 + 8 * self.width + 8) // 32) * 32
        return self.number(values + 4 * self.width * place), self.bit(found + 16, place)

    def entry(self, node, x, y, z, side, entry_side):
        """The place of the child that holds a voxel, or value and state of the tile."""
        count = side // entry_side
        place = 0
        for coordinate in (x, y, z):
            place = place * count + (coordinate & (side - 1)) // entry_side
        mask = count**3 // 8
        # A union of a value and 8 bytes, which aligns to those.
        table = node + -(-(32 + 2 * mask + 8 * self.width + 8) // 32) * 32 + (8 if self.width == 1 else 16) * place
        if self.bit(node + 32 + mask, place):
            return node + struct.unpack_from("<q", self.raw, table)[0]
        return self.number(table), self.bit(node + 32, place)

    def bit(self, at, place):
        return bool(self.raw[at + place // 8] >> (place % 8) & 1)


def read_nanovdb(path):
    raw = path.read_bytes()
    assert raw[:8] == b"NanoVDB0"
    version, count, _ = struct.unpack_from("<IHH", raw, 8)
    assert version >> 21 == 32
    at, records = 16, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", raw, at + 136)
        records.append((raw[at : at + 176], raw[at + 176 : at + 176 + length]))
        at += 176 + length
    grids = []
    for record, name in records:
        size, codec = struct.unpack_from("<Q", record, 8)[0], struct.unpack_from("<H", record, 168)[0]
        body = raw[at : at + size]
        if codec == 1:
            assert struct.unpack_from("<Q", body)[0] == size - 8
            body = zlib.decompress(body[8:])
        grids.append(NanoGrid(body, record, name))
        at += size
    assert at == len(raw)
    return grids


def volume_with_tiles(channels=()):
    draw = np.random.default_rng(0)
    origins = np.array([[0, 0, 0], [-8, 8, 120], [-4096, 0, 0], [5000 // 8 * 8, -9000 // 8 * 8, 64]], np.int32)
    active = draw.random((4, 8, 8, 8)) < 0.4
    active[3] = False
    tiles = Tiles(
        origins=np.array([[8192, 0, 0], [-8192, 4096, 0], [16384, 128, 0], [16384, 0, 256], [16392, 0, 0]], np.int32),
        sides=np.array([4096, 4096, 128, 128, 8], np.int32),
        values=draw.normal(size=(5, *channels)).astype(np.float32),
        active=np.array([True, False, True, False, True]),
    )
    return SparseVolume.from_blocks(
        origins,
        draw.normal(size=(4, 8, 8, 8, *channels)).astype(np.float32),
        active,
        background=draw.normal(size=channels).astype(np.float32),
        tiles=tiles,
    )


def assert_same_everywhere(grid, volume):
    """Whatever ``volume`` has near its blocks, near its tiles and far from both, ``grid`` has."""
    draw = np.random.default_rng(1)
    near = volume.origins[draw.integers(0, 4, 800)] + draw.integers(-2, 10, (800, 3))
    starts = volume.tiles.origins[draw.integers(0, 5, 200)] + draw.integers(-9, 12, (200, 3))
    wanted = np.concatenate([near, starts, draw.integers(-20000, 20000, (200, 3))])
    values, active = volume.values_at(wanted)
    for place, value, on in zip(wanted.tolist(), values.tolist(), active.tolist(), strict=True):
        assert grid.value(*place) == (tuple(value) if isinstance(value, list) else value, on)


@pytest.mark.parametrize("compression", ["none", "zip"])
def test_vectors_are_where_they_were(tmp_path, compression):
    volume = volume_with_tiles(channels=(3,))
    half = SparseVolume.from_dense(np.arange(24, dtype=np.float16).reshape(3, 2, 2, 2))
    grids = [
        VdbGrid(name="velocity", volume=volume, grid_class="staggered"),
        VdbGrid(name="density", volume=volume_with_tiles()),
        VdbGrid(name="half", volume=half),
    ]
    first, second, third = read_nanovdb(write_nanovdb(tmp_path / "a.nvdb", grids, compression=compression))
    assert [grid.type for grid in (first, second, third)] == [6, 1, 6]
    assert (first.kind, first.active) == (3, volume.active_count)
    low, high = volume.active_bounds
    assert first.box == (*low.tolist(), *(high - 1).tolist())
    assert first.background == tuple(volume.background.tolist())
    assert_same_everywhere(first, volume)
    assert_same_everywhere(second, grids[1].volume)
    assert third.value(1, 0, 1) == ((5.0, 13.0, 21.0), True)


@pytest.mark.parametrize("compression", ["none", "zip"])
def test_every_voxel_is_where_it_was(tmp_path, compression):
    volume = volume_with_tiles()
    matrix = np.array([[0.1, 0.02, 0, 3], [0, 0.2, 0, -4], [0, 0, 0.3, 5], [0, 0, 0, 1.0]])
    grids = [
        VdbGrid(name="smoke", volume=volume, index_to_world=matrix, grid_class="fog volume"),
        VdbGrid(name="é", volume=SparseVolume.from_dense(np.zeros((2, 2, 2), np.float16))),
    ]
    first, second = read_nanovdb(write_nanovdb(tmp_path / "a.nvdb", grids, compression=compression))
    assert (first.name, second.name) == (b"smoke\0", "é".encode() + b"\0")
    assert (first.type, first.kind) == (1, 2)
    assert first.active == volume.active_count
    low, high = volume.active_bounds
    assert first.box == (*low.tolist(), *(high - 1).tolist())
    assert np.array_equal(first.matrix, matrix)
    assert (first.low, first.high) == pytest.approx(tuple(map(float, volume.active_range())))
    assert_same_everywhere(first, volume)
    assert second.active == 0
    assert second.value(0, 0, 0) == (0.0, False)


def test_layouts_are_those_of_nanovdb(tmp_path):
    from voxfield.storage import nanovdb

    # sizeof of NanoVDB.h's nodes, root and root tiles, of float and of Vec3f.
    for channels, wanted in (((), [2144, 33856, 270400, 64, 32]), ((3,), [6272, 66624, 532544, 96, 32])):
        layout = nanovdb._LAYOUTS[channels]
        came = (layout.leaf, layout.lower, layout.upper, layout.root, layout.tile)
        assert [one.itemsize for one in came] == wanted
    # Where PNanoVDB.h's pnanovdb_grid_type_constants has minimum, maximum, mean, deviation and values of Vec3f.
    names = ("low", "high", "mean", "deviation")
    places = [[one.fields[name][1] for name in names] for one in (layout.root, layout.upper, layout.lower, layout.leaf)]
    assert places == [[40, 52, 64, 68], [8224, 8236, 8248, 8252], [1056, 1068, 1080, 1084], [80, 92, 104, 108]]
    assert [one.fields["table"][1] for one in (layout.upper, layout.lower)] == [8256, 1088]
    assert layout.leaf.fields["values"][1] == 128
    assert layout.tile.fields["value"][1] == 20
    assert nanovdb._name_key(b"surface") == 0x0000099B6446AED5  # as OpenVDB wrote it


def test_what_has_no_place_is_refused(tmp_path):
    path = tmp_path / "a.nvdb"
    path.write_bytes(b"old")
    pairs = SparseVolume.from_dense(np.ones((2, 2, 2, 2), np.float32))
    good = SparseVolume.from_dense(np.ones((2, 2, 2), np.float32))
    for grid, message in (
        (VdbGrid(name="v", volume=pairs), r"grid 'v': .*float32 with channels \(2,\)"),
        (VdbGrid(name="d", volume=SparseVolume.from_dense(np.ones((2, 2, 2)))), "float64"),
        (VdbGrid(name="n" * 256, volume=good), "255 bytes"),
        (VdbGrid(name="m", volume=good, index_to_world=np.zeros((4, 4))), "index_to_world"),
    ):
        with pytest.raises(InputError, match=message):
            write_nanovdb(path, grid)
    with pytest.raises(InputError, match="compression"):
        write_nanovdb(path, VdbGrid(name="x", volume=good), compression="blosc")
    with pytest.raises(InputError, match="1 to 65,535"):
        write_nanovdb(path, [])
    assert path.read_bytes() == b"old"


@pytest.mark.slow
def test_the_reader_reads_openvdbs_own_file_and_ours(shared_data, tmp_path):
    (torus,) = read_nanovdb(shared_data / "vdb/torus.nvdb")
    assert torus.name == b"surface\0"
    assert torus.key == 0x0000099B6446AED5
    assert torus.active == 3001
    x, y, z = np.meshgrid(np.arange(-14, 15), np.arange(-8, 9), np.arange(-14, 15), indexing="ij")
    counted = sum(torus.value(*one)[1] for one in np.stack([x, y, z], -1).reshape(-1, 3).tolist())
    assert counted == 3001
    (grid,) = read_vdb(shared_data / "vdb/sphere_houdini_official.vdb")
    (ours,) = read_nanovdb(write_nanovdb(tmp_path / "a.nvdb", grid, compression="zip"))
    coordinates, values = grid.volume.active_voxels()
    for place, value in zip(coordinates[::97].tolist(), values[::97].tolist(), strict=True):
        assert ours.value(*place) == (value, True)
