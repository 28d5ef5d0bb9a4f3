"""Compressed volumes: exact where they promise it, within the error elsewhere; damage is said."""

import importlib.util
import json
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.compressed import CompressedFile, CompressionConfig, read_compressed, write_compressed
from voxfield.storage.compressed.layout import leaves_of_chunks
from voxfield.storage.compressed.quantiser import Quantiser
from voxfield.storage.vdb import VdbGrid, read_vdb
from voxfield.voxels.sparse import SparseVolume

KINDS = ["float", "double", "int32", "int64", "bool", "vec3s", "vec3i"]


def fixtures_of_vdb():
    path = Path(__file__).parents[1] / "vdb" / "conftest.py"
    spec = importlib.util.spec_from_file_location("vdb_fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


same_volume = fixtures_of_vdb().same_volume
make_volume = fixtures_of_vdb().make_volume


def blob(size=40, origin=(-7, 3, 130), dtype=np.float32):
    """A smooth ball of fog."""
    axis = np.linspace(-1, 1, size)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)
    dense = np.clip(1.2 - 1.5 * radius, 0, 1) + 0.1 * (radius < 0.7) * np.sin(6 * axis)
    return SparseVolume.from_dense(np.maximum(dense, 0).astype(dtype), origin=origin)


def exact_but_values(one, other):
    """Topology, tiles and inactive values are the same."""
    return (
        np.array_equal(one.active, other.active)
        and np.array_equal(one.origins, other.origins)
        and one.values[~one.active].tobytes() == other.values[~other.active].tobytes()
        and one.tiles.values.tobytes() == other.tiles.values.tobytes()
        and np.array_equal(one.tiles.origins, other.tiles.origins)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [0.0, 0.7, 30.0])
def test_every_type_within_its_error(tmp_path, make_volume, kind, error):
    volume = make_volume(kind)
    path = tmp_path / "a.vxv"
    (report,) = write_compressed(path, [VdbGrid(name="x", volume=volume)], CompressionConfig(max_error=error))
    (grid,) = read_compressed(path)
    assert exact_but_values(volume, grid.volume)
    if error == 0.0 or kind == "bool" or (kind != "float" and "i" in kind and error < 1):
        assert same_volume(volume, grid.volume)
        assert report.largest_error == 0
    off = np.abs(grid.volume.values.astype(np.float64) - volume.values.astype(np.float64))[volume.active]
    assert off.max(initial=0) <= error
    assert report.largest_error == off.max(initial=0)


def test_relative_errors_are_of_the_range_and_sizes_fall(tmp_path):
    volume, sizes = blob(), []
    span = float(np.subtract(*volume.active_range()[::-1]))
    for share in (0.001, 0.01, 0.05):
        path = tmp_path / f"{share}.vxv"
        (report,) = write_compressed(path, [VdbGrid(name="x", volume=volume)], CompressionConfig(relative_error=share))
        assert report.largest_error <= report.max_error == pytest.approx(share * span)
        assert report.rmse <= report.largest_error
        assert report.value_range == pytest.approx(span)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < volume.active_count  # less than a byte a voxel


def test_values_that_are_not_finite_and_huge_ones_stay(tmp_path):
    values = blob().values.copy()
    values[0, :4, 0, 0] = np.nan, np.inf, -np.inf, 3e38
    volume = SparseVolume.from_blocks(blob().origins, values, np.ones(values.shape, np.bool_))
    write_compressed(tmp_path / "a.vxv", [VdbGrid(name="x", volume=volume)], CompressionConfig(max_error=0.01))
    (grid,) = read_compressed(tmp_path / "a.vxv")
    assert np.array_equal(grid.volume.values[0, :4, 0, 0], values[0, :4, 0, 0], equal_nan=True)
    finite = np.isfinite(values)
    assert np.abs(grid.volume.values[finite].astype(float) - values[finite].astype(float)).max() <= 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_halves_are_within_the_error_after_rounding(tmp_path, dtype):
    volume = blob(dtype=dtype)
    path = tmp_path / "a.vxv"
    write_compressed(path, [VdbGrid(name="x", volume=volume, half=True)], CompressionConfig(max_error=0.003))
    grid = CompressedFile(path).read("x")
    assert grid.half
    assert grid.volume.values.dtype == dtype
    assert np.array_equal(grid.volume.values, grid.volume.values.astype(np.float16))
    off = np.abs(grid.volume.values.astype(float) - volume.values.astype(float))[volume.active]
    assert off.max() <= 0.003


def several(volume):
    matrix = np.diag([0.1, 0.2, 0.3, 1.0])
    return [
        VdbGrid(
            name="density",
            volume=volume,
            index_to_world=matrix,
            grid_class="fog volume",
            metadata={"note": "é", "n": 2},
        ),
        VdbGrid(name="twin", volume=volume),
        VdbGrid(name="twin", volume=blob(9)),
        VdbGrid(name="empty", volume=SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32))),
    ]


def test_several_grids_keep_names_places_and_sharing(tmp_path):
    path = tmp_path / "a.vxv"
    reports = write_compressed(path, several(blob()), CompressionConfig(max_error=0.01), metadata={"title": "t"})
    file = CompressedFile(path)
    assert (file.codec, file.metadata) == ("quantised", {"title": "t"})
    assert [header.name for header in file.grids] == [report.name for report in reports]
    assert reports[1].nbytes == file.grids[1].nbytes == 0
    grids = read_compressed(path)
    assert grids[0].volume is grids[1].volume
    assert (grids[0].grid_class, grids[0].metadata) == ("fog volume", {"note": "é", "n": 2})
    assert np.array_equal(grids[0].index_to_world, np.diag([0.1, 0.2, 0.3, 1.0]))
    assert grids[3].volume.active_count == 0
    assert read_compressed(path, ["empty", "density"])[1].name == "density"
    with pytest.raises(InputError, match="2 grids named 'twin'"):
        file.read("twin")
    with pytest.raises(InputError, match="Did you mean density"):
        file.read("densty")


def test_parts_are_those_of_the_whole(tmp_path, make_volume):
    for number, volume in enumerate((blob(100), make_volume("float"))):
        path = tmp_path / f"{number}.vxv"
        write_compressed(path, [VdbGrid(name="x", volume=volume)], CompressionConfig(max_error=0.01))
        file = CompressedFile(path)
        whole = file.read("x").volume
        draw = np.random.default_rng(0)
        coordinates, _ = whole.active_voxels()
        wanted = coordinates[draw.integers(0, len(coordinates), 500)] + draw.integers(-9, 9, (500, 3))
        values, active = CompressedFile(path).open("x").values_at(wanted)
        expected = whole.values_at(wanted)
        assert np.array_equal(values, expected[0])
        assert np.array_equal(active, expected[1])
        low, high = coordinates[0] - 10, coordinates[0] + 30
        part = CompressedFile(path).read_box("x", low, high).volume
        assert len(part.origins) < len(whole.origins)
        assert np.array_equal(part.to_dense(low, high), whole.to_dense(low, high))
        assert np.array_equal(part.to_dense_mask(low, high), whole.to_dense_mask(low, high))
        with pytest.raises(InputError, match="box"):
            file.read_box("x", high, low)


def test_a_part_decodes_only_its_chunks(tmp_path, monkeypatch):
    volume = blob(120)
    path = tmp_path / "a.vxv"
    write_compressed(path, [VdbGrid(name="x", volume=volume)], CompressionConfig(max_error=0.01))
    decoded = []
    from voxfield.storage.compressed import reader

    real = reader.decode_chunk
    monkeypatch.setattr(reader, "decode_chunk", lambda *args, **kw: decoded.append(1) or real(*args, **kw))
    grid = CompressedFile(path).open("x")
    assert not decoded
    for _ in range(3):
        grid.values_at(volume.origins[:1])
    assert len(decoded) == 1
    grid.read()
    assert len(decoded) > 2


def test_settings_are_checked():
    for wrong in ({}, {"max_error": 1.0, "relative_error": 0.1}, {"max_error": -1.0}, {"relative_error": 2.0}):
        with pytest.raises(InputError):
            CompressionConfig(**wrong)
    with pytest.raises(InputError, match="codec"):
        CompressionConfig(codec="jpeg", max_error=1.0)


def test_both_ends_of_the_range_are_levels():
    quantiser = Quantiser.fitted(-0.3, 1.0, 0.011, whole=False)
    ends = np.array([-0.3, 1.0])
    assert quantiser.values(quantiser.levels(ends), ends.dtype, half=False) == pytest.approx(ends, abs=1e-12)
    assert quantiser.step <= 0.022


def test_a_background_within_the_range_is_a_level():
    for error in (0.011, 0.2, 5.0):
        quantiser = Quantiser.fitted(-2.3, 3.0, error, whole=False, background=0.1)
        wanted = np.array([0.1, -2.3, 3.0])
        found = quantiser.values(quantiser.levels(wanted), wanted.dtype, half=False)
        assert found[0] == pytest.approx(0.1, abs=1e-12)
        assert np.abs(found - wanted).max() <= error
        assert quantiser.step <= 2 * error


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.vxv"
    write_compressed(path, several(blob(24)), CompressionConfig(max_error=0.01))
    return path


def test_other_files(tmp_path, good):
    path = tmp_path / "bad.vxv"
    with pytest.raises(MissingFileError, match="no such file"):
        CompressedFile(path)
    with pytest.raises(FormatError, match="folder"):
        CompressedFile(tmp_path)
    for raw in (b"", b" BDV\0\0\0\0" + bytes(100), b"PK\x03\x04"):
        path.write_bytes(raw)
        with pytest.raises(FormatError, match=r"bad\.vxv: "):
            CompressedFile(path)
    raw = bytearray(good.read_bytes())
    raw[8] = 3
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="version 3, and 1 to 2 are read"):
        CompressedFile(path)


def test_cut_anywhere(tmp_path, good):
    raw, path = good.read_bytes(), tmp_path / "cut.vxv"
    for end in {*range(40), *np.linspace(40, len(raw) - 1, 60).astype(int).tolist()}:
        path.write_bytes(raw[:end])
        with pytest.raises(FormatError, match=r"cut\.vxv: "):
            read_compressed(path)


def test_every_change_is_noticed(tmp_path, good):
    raw, path = good.read_bytes(), tmp_path / "changed.vxv"
    draw = np.random.default_rng(0)
    # Where there are no tiles, zlib's stream of nothing ends in bits that mean nothing.
    padding = {match.start() + 3 for match in re.finditer(re.escape(zlib.compress(b"", 9)), raw)}
    tracemalloc.start()
    try:
        for at in draw.integers(8, len(raw), 100).tolist():
            changed = bytearray(raw)
            changed[at] ^= 1 << int(draw.integers(8))
            path.write_bytes(changed)
            if at in padding:
                continue
            with pytest.raises(FormatError, match=r"changed\.vxv: "):
                read_compressed(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def with_directory(raw, packed):
    """A file with other bytes for its directory, and the right checksum."""
    length = struct.unpack_from("<I", raw, 12)[0]
    return raw[:12] + struct.pack("<II", len(packed), zlib.crc32(packed)) + packed + raw[20 + length :]


def rewritten(raw, change):
    """A file whose directory was changed."""
    length = struct.unpack_from("<I", raw, 12)[0]
    directory = json.loads(zlib.decompress(raw[24 : 20 + length]))
    change(directory)
    text = json.dumps(directory).encode()
    return with_directory(raw, struct.pack("<I", len(text)) + zlib.compress(text))


def test_directories_that_unpack_to_another_size(tmp_path, good):
    path, raw = tmp_path / "bomb.vxv", good.read_bytes()
    bomb = zlib.compress(bytes(10**8), 9)
    tracemalloc.start()
    try:
        for said in (0, 5, 10**8 - 1, 2**32 - 1):
            path.write_bytes(with_directory(raw, struct.pack("<I", said) + bomb[: 10**4]))
            with pytest.raises(FormatError, match=r"bomb\.vxv: "):
                CompressedFile(path)
        path.write_bytes(with_directory(raw, b"ab"))
        with pytest.raises(FormatError, match=r"bomb\.vxv: "):
            CompressedFile(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ["quantised", "neural"])
def test_files_of_the_first_version_are_read(codec):
    """They have a plain directory, ten taps, and no word of their chunks' sizes."""
    path = Path(__file__).parent / f"version-1-{codec}.vxv"
    assert path.read_bytes()[8] == 1
    x, y, z = np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij")
    was = np.maximum(1 - ((x - 5) ** 2 + (y - 6) ** 2 + (z - 5.5) ** 2) / 30, 0).astype(np.float32)
    (grid,) = read_compressed(path)
    assert np.array_equal(grid.volume.to_dense_mask((0, 0, 0), (12, 12, 12)), was != 0)
    assert np.abs(grid.volume.to_dense((0, 0, 0), (12, 12, 12)) - was).max() <= 0.05
    assert codec == "neural" or zlib.crc32(grid.volume.to_dense((0, 0, 0), (12, 12, 12)).tobytes()) == 700520715


def test_large_grids_have_an_even_number_of_chunks():
    assert [leaves_of_chunks(leaves) for leaves in (0, 1, 511, 512, 1024, 1025, 2049)] == [
        1,
        1,
        511,
        256,
        512,
        513,
        513,
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("leaves", 2**62),
        ("leaves", -1),
        ("leaves", 3),
        ("cubes", 2**62),
        ("cubes", 2**20),
        ("cubes", 1.5),
        ("chunks", [2**62]),
        ("chunks", []),
        ("chunks", "x"),
        ("chunks_at", 2**63 - 1),
        ("chunk_leaves", 0),
        ("chunk_leaves", 2000),
        ("chunk_leaves", "x"),
        ("topology", [0]),
        ("topology", [2**62, 5]),
        ("tiles", [0, 5, 2**50]),
        ("tiles", [0, 5, 1]),
        ("quantisers", []),
        ("quantisers", [{"offset": 0, "step": 0}]),
        ("quantisers", [{"offset": "0", "step": 1}]),
        ("type", "points"),
        ("type", "vec3s"),
        ("background", "AA=="),
        ("background", "!"),
        ("transform", ""),
        ("metadata", "/////w=="),
        ("data_of", 7),
        ("half", True),
    ],
)
def test_directories_that_lie(tmp_path, good, field, value):
    path = tmp_path / "lie.vxv"

    def change(directory):
        directory["grids"] = directory["grids"][:1]
        directory["grids"][0][field] = value

    path.write_bytes(rewritten(good.read_bytes(), change))
    tracemalloc.start()
    try:
        if field == "half":  # the same numbers, rounded on
            assert read_compressed(path)[0].half
        else:
            with pytest.raises(FormatError, match=r"lie\.vxv: "):
                read_compressed(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_huge_grids_are_refused_before_memory_is_taken(good):
    with pytest.raises(FormatError, match="most_bytes"):
        read_compressed(good, ["density"], most_bytes=10_000)


def test_a_failed_write_leaves_the_old_file(tmp_path, good):
    before = good.read_bytes()
    bad = VdbGrid(name="x", volume=blob(9), index_to_world=np.zeros((4, 4)))
    with pytest.raises(InputError, match="index_to_world"):
        write_compressed(good, [bad], CompressionConfig(max_error=0.1))
    assert good.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dragon", "dragon_with_xform", "fluid_data_0190", "smoke1_official", "fogTommy"])
def test_real_files(shared_data, tmp_path, name):
    grids = read_vdb(shared_data / f"vdb/{name}.vdb")
    reports = write_compressed(tmp_path / "a.vxv", grids, CompressionConfig(relative_error=0.02))
    for grid, again, report in zip(grids, read_compressed(tmp_path / "a.vxv"), reports, strict=True):
        assert exact_but_values(grid.volume, again.volume)
        off = np.abs(grid.volume.values.astype(float) - again.volume.values.astype(float))
        assert off.max() <= 0.02 * report.value_range
