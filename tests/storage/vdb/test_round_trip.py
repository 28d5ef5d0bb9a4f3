"""What is written is what is read, for every type, compression and option."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError
from voxfield.storage.vdb import VdbFile, VdbGrid, read_vdb, values, write_vdb
from voxfield.storage.vdb.metadata import OpaqueMetadata
from voxfield.storage.vdb.transform import matrix_of_bounds
from voxfield.voxels.sparse import SparseVolume

KINDS = ["float", "double", "int32", "int64", "bool", "vec3s", "vec3d", "vec3i"]
BLOCK = np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8)


def one_block(values=BLOCK, active=None, **options):
    on = values.reshape(1, 8, 8, 8, -1).any(axis=-1) if active is None else active
    return SparseVolume.from_blocks(np.zeros((1, 3), np.int32), values, on, **options)


def as_stream(path):
    """Turn a file into what a program writes that cannot go back: no grid says where it is."""
    raw = bytearray(path.read_bytes())
    for header in VdbFile(path).grids:
        raw[header.start - 24 : header.start] = bytes(24)
    raw[20] = 0
    path.write_bytes(raw)


@pytest.mark.parametrize("active_mask", [True, False], ids=["masked", "all"])
@pytest.mark.parametrize("compression", ["none", "zip", "blosc"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_and_compression(tmp_path, make_volume, same, kind, compression, active_mask):
    volumes = [make_volume(kind, seed, background) for seed, background in ((0, 5.0), (1, 0.0))]
    grids = [VdbGrid(name=f"n{i}", volume=volume) for i, volume in enumerate(volumes)]
    path = write_vdb(tmp_path / "a.vdb", grids, compression=compression, active_mask=active_mask, level=3)
    for volume, grid in zip(volumes, read_vdb(path), strict=True):
        assert same(volume, grid.volume)


@pytest.mark.parametrize("kind", ["float", "double", "vec3s", "vec3d"])
@pytest.mark.parametrize("compression", ["none", "blosc"])
def test_halves_are_rounded_once(tmp_path, make_volume, same, kind, compression):
    volume = make_volume(kind)
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=volume, half=True)], compression=compression)
    (once,) = read_vdb(path)
    assert once.half
    dtype = volume.values.dtype
    rounded = volume.values.astype(np.float32).astype(np.float16).astype(dtype)
    # Tiles of the root stay in full precision, as in OpenVDB's own files.
    assert np.array_equal(once.volume.values, rounded)
    assert np.array_equal(once.volume.active, volume.active)
    (twice,) = read_vdb(write_vdb(tmp_path / "b.vdb", [once]))
    assert same(once.volume, twice.volume)


def test_halves_in_memory_are_halves_in_the_file(tmp_path):
    volume = one_block(BLOCK.astype(np.float16))
    (grid,) = read_vdb(write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=volume)]))
    assert grid.half
    assert grid.volume.values.dtype == np.float32
    assert np.array_equal(grid.volume.values, BLOCK)


def test_values_beyond_halves_are_refused(tmp_path):
    path = tmp_path / "a.vdb"
    with pytest.raises(InputError, match="65504, got 70000"):
        write_vdb(path, [VdbGrid(name="a", volume=one_block(np.full_like(BLOCK, 7e4)), half=True)])
    assert not list(tmp_path.iterdir())
    infinite = one_block(np.full_like(BLOCK, np.inf))
    (grid,) = read_vdb(write_vdb(path, [VdbGrid(name="a", volume=infinite, half=True)]))
    assert np.isinf(grid.volume.values).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(st.sampled_from([0.0, -0.0, 1.5, -1.5, np.nan, np.inf, -np.inf, 3.0]), min_size=1, max_size=4),
    background=st.sampled_from([0.0, 1.5, -1.5, np.nan, np.inf]),
    filled=st.sampled_from([0.0, 0.5, 1.0]),
    compression=st.sampled_from(["none", "zip", "blosc"]),
    seed=st.integers(0, 99),
)
def test_any_mixture_of_inactive_values(tmp_path, same, chosen, background, filled, compression, seed):
    draw = np.random.default_rng(seed)
    block = draw.choice(np.array(chosen, np.float32), size=(1, 8, 8, 8))
    volume = one_block(block, draw.random((1, 8, 8, 8)) < filled, background=background)
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=volume)], compression=compression)
    assert same(volume, read_vdb(path)[0].volume)


def test_nothing_at_all(tmp_path, same):
    empty = SparseVolume.from_dense(np.zeros((4, 4, 4), np.float32), background=0.0)
    assert read_vdb(write_vdb(tmp_path / "a.vdb", [])) == []
    (grid,) = read_vdb(write_vdb(tmp_path / "b.vdb", [VdbGrid(name="a", volume=empty)]))
    assert same(empty, grid.volume)


def test_names_metadata_and_instances(tmp_path):
    metadata = {
        "text": "über\udcff",
        "empty": "",
        "yes": True,
        "whole": -7,
        "large": np.int64(3),
        "larger": 2**40,
        "double": 0.1,
        "float": np.float32(0.1),
        "half": np.float16(0.5),
        "pair": np.array([1, 2], np.int32),
        "triple": np.array([1.5, 2, 3]),
        "four": np.arange(4, dtype=np.float32),
        "matrix": np.arange(16.0).reshape(4, 4),
        "strange": OpaqueMetadata("thing", b"\x00\x01"),
    }
    shared = one_block()
    grids = [
        VdbGrid(name="a", volume=shared, grid_class="fog volume", metadata=metadata),
        VdbGrid(name="a", volume=one_block(BLOCK * 2)),
        VdbGrid(name="", volume=shared, index_to_world=np.diag([2.0, 2, 2, 1])),
        VdbGrid(name="b", volume=shared, half=True),
    ]
    path = write_vdb(tmp_path / "a.vdb", grids, metadata={"title": "x"})
    file = VdbFile(path)
    assert file.metadata == {"title": "x"}
    assert [header.name for header in file.grids] == ["a", "a", "", "b"]
    assert [header.unique_name for header in file.grids] == ["a\x1e0", "a\x1e1", "\x1e0", "b"]
    assert [header.parent for header in file.grids] == ["", "", "a\x1e0", ""]
    read = [file.read(header) for header in file.grids]
    assert read[2].volume is read[0].volume
    assert read[3].volume is not read[0].volume
    assert np.array_equal(read[2].index_to_world, np.diag([2.0, 2, 2, 1]))
    assert read[0].grid_class == "fog volume"
    assert list(read[0].metadata) == list(metadata)
    for name, value in metadata.items():
        found = read[0].metadata[name]
        assert np.array_equal(found, value)
        assert np.asarray(found).dtype == np.asarray(value).dtype
    with pytest.raises(InputError, match="2 grids named 'a'"):
        file.read("a")
    with pytest.raises(InputError, match=r"no grid named 'c'.*Known: , a, a, b"):
        file.read("c")


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([0.1, 0.1, 0.1, 1]),
        np.diag([0.1, 0.2, 0.3, 1]),
        matrix_of_bounds(np.array([-1.0, -2, -3]), np.array([1.0, 2, 3]), np.array([8, 8, 8])),
        matrix_of_bounds(np.zeros(3), np.ones(3), np.array([8, 8, 8])),
        np.array([[0, -1.0, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]),
        np.diag([-1.0, 1, 1, 1]),
        np.diag([1e-9, 1e-9, 1e-9, 1]),
    ],
)
def test_transforms(tmp_path, matrix):
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=one_block(), index_to_world=matrix)])
    assert np.array_equal(read_vdb(path)[0].index_to_world, matrix)


def test_a_grid_over_a_box_has_its_values_at_the_cells_middles():
    matrix = matrix_of_bounds(np.array([-1.0, 0, 0]), np.array([1.0, 4, 8]), np.array([4, 4, 4]))
    assert (matrix @ (0, 0, 0, 1)).tolist() == [-0.75, 0.5, 1.0, 1.0]
    assert (matrix @ (3, 3, 3, 1)).tolist() == [0.75, 3.5, 7.0, 1.0]


@pytest.mark.parametrize("kind", ["float", "bool"])
def test_streams_are_read(tmp_path, make_volume, same, kind):
    volume = make_volume(kind)
    grids = [VdbGrid(name=name, volume=volume) for name in ("a", "b")]
    path = write_vdb(tmp_path / "a.vdb", [*grids, VdbGrid(name="c", volume=one_block())])
    as_stream(path)
    file = VdbFile(path)
    assert [header.parent for header in file.grids] == ["", "a", ""]
    assert all(same(file.read(name).volume, volume) for name in "ab")
    assert np.array_equal(file.read("c").volume.values, BLOCK)


def test_a_summary_needs_no_values(tmp_path, make_volume):
    volume = make_volume("float")
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=volume, grid_class="level set")], compression="zip")
    header = VdbFile(path).grids[0]
    raw = bytearray(path.read_bytes())
    raw[header.blocks :] = b"\xff" * (len(raw) - header.blocks)
    path.write_bytes(raw)
    summary = VdbFile(path).summary("a")
    assert summary.topology.active_count == volume.active_count
    assert summary.grid_class == "level set"
    with pytest.raises(FormatError, match=r"a\.vdb: cut short or damaged"):
        VdbFile(path).read("a")


def test_one_grid_is_read_whatever_the_others_are(tmp_path):
    shared = one_block()
    grids = [
        VdbGrid(name="first", volume=shared),
        VdbGrid(name="twin", volume=shared),
        VdbGrid(name="last", volume=one_block()),
    ]
    path = write_vdb(tmp_path / "a.vdb", grids)
    path.write_bytes(path.read_bytes().replace(b"Tree_float", b"Tree_pints", 1))
    file = VdbFile(path)
    assert (file.grids[0].type_name, file.grids[0].kind) == ("pints", None)
    with pytest.raises(FormatError, match="type pints, which is not read"):
        file.read("first")
    with pytest.raises(FormatError, match="not such a grid"):
        file.read("twin")
    assert np.array_equal(file.read("last").volume.values, BLOCK)


def test_the_same_grids_make_the_same_bytes(tmp_path, make_volume):
    one, two = (
        write_vdb(tmp_path / name, [VdbGrid(name="a", volume=make_volume("float"))]).read_bytes() for name in "ab"
    )
    assert one == two
    other = write_vdb(tmp_path / "c", [VdbGrid(name="a", volume=make_volume("float", 1))])
    assert VdbFile(other).uuid != VdbFile(tmp_path / "a").uuid


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=one_block())])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(values.ValueCodec, "write", full)
    with pytest.raises(OSError, match="no room left"):
        write_vdb(path, [VdbGrid(name="a", volume=one_block(BLOCK * 2))])
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.vdb"]


def test_without_blosc_everything_else_works(tmp_path, monkeypatch):
    grids = [VdbGrid(name="a", volume=one_block())]
    packed = write_vdb(tmp_path / "a.vdb", grids)
    monkeypatch.setitem(__import__("sys").modules, "blosc", None)
    with pytest.raises(MissingExtraError, match="pip install blosc"):
        read_vdb(packed)
    with pytest.raises(MissingExtraError, match="pip install blosc"):
        write_vdb(tmp_path / "b.vdb", grids)
    assert np.array_equal(read_vdb(write_vdb(packed, grids, compression="zip"))[0].volume.values, BLOCK)


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"volume": one_block(BLOCK.astype(np.uint8))}, {}, "got uint8"),
        ({"volume": one_block(np.ones((1, 8, 8, 8, 2), np.float32))}, {}, r"channels \(2,\)"),
        ({"index_to_world": np.zeros((4, 4))}, {}, "index_to_world"),
        ({"index_to_world": np.eye(3)}, {}, "index_to_world"),
        ({"index_to_world": np.full((4, 4), np.nan)}, {}, "index_to_world"),
        ({"grid_class": "smoke"}, {}, "got 'smoke'"),
        ({"metadata": {"a": {"b": 1}}}, {}, "metadata 'a'.*JSON"),
        ({"metadata": {"a": 2**70}}, {}, "64 bits"),
        ({"metadata": {"": 1}}, {}, "at least one letter"),
        ({}, {"compression": "lz4"}, "none, zip or blosc"),
        ({}, {"level": 10}, "level"),
    ],
)
def test_bad_input_is_named(tmp_path, grid, options, message):
    with pytest.raises(InputError, match=message):
        write_vdb(tmp_path / "a.vdb", [VdbGrid(**{"name": "a", "volume": one_block(), **grid})], **options)
    assert not list(tmp_path.iterdir())


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.vdb"):
        VdbFile(tmp_path / "none.vdb")
    with pytest.raises(FormatError, match="is a folder"):
        VdbFile(tmp_path)
