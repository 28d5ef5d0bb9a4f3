"""Files that are cut, damaged or made to harm: a FormatError that names the file, in little time and memory."""

import struct
import tracemalloc
import zlib

import blosc
import numpy as np
import pytest

from voxfield.errors import FormatError
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.storage.vdb.cursor import Cursor, packed_text
from voxfield.storage.vdb.layout import ACTIVE_MASK, BLOSC, VALUE_TYPES, ZIP
from voxfield.storage.vdb.transform import read_transform
from voxfield.storage.vdb.values import ValueCodec
from voxfield.voxels.sparse import SparseVolume

CODECS = [("none", True), ("zip", True), ("blosc", True), ("zip", False)]


def small_grids():
    """Two grids, one an instance, over two upper nodes and a tile."""
    draw = np.random.default_rng(0)
    dense = np.where(draw.random((9, 9, 9)) < 0.3, draw.normal(size=(9, 9, 9)), 0).astype(np.float32)
    volume = SparseVolume.from_dense(dense, origin=(-4, -4, 4))
    return [
        VdbGrid(name="density", volume=volume, metadata={"note": "x", "number": 2}),
        VdbGrid(name="again", volume=volume, half=False),
        VdbGrid(name="flags", volume=SparseVolume.from_dense(dense > 0)),
    ]


@pytest.fixture(params=CODECS, ids=lambda one: f"{one[0]}-{'masked' if one[1] else 'all'}")
def good(request, tmp_path):
    compression, active_mask = request.param
    return write_vdb(tmp_path / "good.vdb", small_grids(), compression=compression, active_mask=active_mask)


def read_all(path):
    """Every grid of a file, whether or not others can be read."""
    file = VdbFile(path)
    for header in file.grids:
        file.read(header)


@pytest.mark.parametrize("stream", [False, True], ids=["offsets", "stream"])
def test_cut_anywhere(good, tmp_path, stream):
    raw = bytearray(good.read_bytes())
    starts = [header.start for header in VdbFile(good).grids]
    if stream:
        for start in starts:
            raw[start - 24 : start] = bytes(24)
        raw[20] = 0
    path = tmp_path / "cut.vdb"
    draw = np.random.default_rng(1)
    # Every byte of what is not the many bytes of masks and values, and some of these.
    ends = {*range(min(500, starts[0] + 200)), *draw.integers(0, len(raw), 60).tolist(), len(raw) - 1}
    ends |= {start + shift for start in starts for shift in range(-40, 40, 3)}
    for end in sorted(one for one in ends if one < len(raw)):
        path.write_bytes(raw[:end])
        with pytest.raises(FormatError, match=r"cut\.vdb: "):
            read_all(path)


def test_hundreds_of_mutations(good, tmp_path):
    raw = good.read_bytes()
    path = tmp_path / "mutated.vdb"
    draw = np.random.default_rng(2)
    starts = [header.start for header in VdbFile(good).grids]
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    try:
        for number in range(150):
            changed = bytearray(raw)
            for _ in range(draw.integers(1, 6)):
                # Half of the blows hit the descriptors and what begins a grid, where counts and sizes stand.
                near = starts[draw.integers(len(starts))] + draw.integers(-60, 400)
                at = int(near) if number % 2 else int(draw.integers(len(raw)))
                changed[min(at, len(raw) - 1)] = draw.choice([0, 1, 127, 128, 255, draw.integers(256)])
            path.write_bytes(changed)
            try:
                read_all(path)
                outcomes["read"] += 1
            except FormatError as error:
                outcomes["refused"] += "mutated.vdb" in str(error)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
    assert sum(outcomes.values()) == 150
    assert min(outcomes.values()) > 5


HUGE = struct.pack("<I", 0xFFFFFFF0)


@pytest.mark.parametrize(
    "patch",
    [
        lambda raw, header: raw.__setitem__(slice(57, 61), HUGE),  # metadata of the file
        lambda raw, header: raw.__setitem__(slice(61, 65), HUGE),  # grids: a negative count
        lambda raw, header: raw.__setitem__(slice(61, 65), struct.pack("<i", 2**31 - 1)),
        lambda raw, header: raw.__setitem__(slice(65, 69), HUGE),  # length of a name
        lambda raw, header: raw.__setitem__(slice(header.start + 4, header.start + 8), HUGE),  # metadata of the grid
        lambda raw, header: raw.__setitem__(slice(header.start - 24, header.start - 16), struct.pack("<q", -1)),
        lambda raw, header: raw.__setitem__(slice(header.start - 8, header.start), struct.pack("<q", 2**62)),
        lambda raw, header: raw.__setitem__(slice(header.start - 8, header.start), struct.pack("<q", 70)),
        lambda raw, header: raw.__setitem__(slice(header.start, header.start + 4), HUGE),  # compression
        lambda raw, header: patch_tree(raw, 0, struct.pack("<i", 2)),  # buffers per leaf
        lambda raw, header: patch_tree(raw, 8, HUGE),  # tiles
        lambda raw, header: patch_tree(raw, 12, HUGE),  # nodes
        lambda raw, header: patch_tree(raw, 16, struct.pack("<3i", 1, 0, 0)),  # origin between the nodes
        lambda raw, header: patch_tree(raw, 16, struct.pack("<3i", 2**31 - 4096, 2**31 - 1, 0)),
        lambda raw, header: patch_tree(raw, 28 + 8192, b"\x07"),  # sort of inactive values
    ],
)
def test_absurd_counts_and_places(tmp_path, patch):
    good = write_vdb(tmp_path / "good.vdb", small_grids()[:1], compression="zip")
    raw = bytearray(good.read_bytes())
    patch(raw, VdbFile(good).grids[0])
    path = tmp_path / "absurd.vdb"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"absurd\.vdb: "):
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def patch_tree(raw, at, piece):
    """Change a byte of the first grid's tree, which begins after its transform."""
    begin = raw.index(b"UniformScaleMap") + len(b"UniformScaleMap") + 15 * 8
    raw[begin + at : begin + at + len(piece)] = piece


def test_two_nodes_at_one_place(tmp_path):
    volume = SparseVolume.from_voxels(np.array([[0, 0, 0], [4096, 0, 0]]), np.ones(2, np.float32))
    path = write_vdb(tmp_path / "a.vdb", [VdbGrid(name="a", volume=volume)], compression="none")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<3i", 4096, 0, 0), struct.pack("<3i", 0, 0, 0)))
    with pytest.raises(FormatError, match="two nodes at one place"):
        read_all(path)


@pytest.mark.parametrize("version", [0, 221, 226, 2**31])
def test_other_versions_are_named(tmp_path, version):
    path = write_vdb(tmp_path / "a.vdb", small_grids()[:1])
    raw = bytearray(path.read_bytes())
    raw[8:12] = struct.pack("<I", version)
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=f"version {version} is not read, only 222 to 225"):
        VdbFile(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not an OpenVDB file"),
        (b"PK\x03\x04", "not an OpenVDB file"),
        (b"NanoVDB0" + bytes(100), "is a NanoVDB file, which is written here but not read"),
        (bytes(100), "not an OpenVDB file"),
    ],
)
def test_other_files_are_named(tmp_path, raw, said):
    path = tmp_path / "a.vdb"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=rf"a\.vdb: {said}"):
        VdbFile(path)


def codec(flags, **options):
    return ValueCodec(kind=VALUE_TYPES["float"], flags=flags | ACTIVE_MASK, **options)


def lying_blosc(**fields):
    """A Blosc run of 512 floats whose header says something else."""
    packed = bytearray(blosc.compress(bytes(2048), typesize=4, cname="lz4"))
    for at, value in fields.items():
        packed[int(at[1:]) : int(at[1:]) + 4] = struct.pack("<I", value)
    return bytes(packed)


@pytest.mark.parametrize(
    ("flags", "run"),
    [
        (ZIP, zlib.compress(bytes(50_000_000))),
        (ZIP, zlib.compress(bytes(2047))),
        (ZIP, zlib.compress(bytes(2048))[:-1]),
        (ZIP, b"\x00"),
        (BLOSC, lying_blosc(_4=2**31 - 1)),
        (BLOSC, lying_blosc(_4=2044)),
        (BLOSC, lying_blosc(_8=2**31 - 1)),
        (BLOSC, lying_blosc(_8=0)),
        (BLOSC, lying_blosc(_12=2**31 - 1)),
        (BLOSC, b"\x02\x01"),
    ],
)
def test_bombs_and_lies_of_compressed_runs(tmp_path, flags, run):
    path = tmp_path / "bomb.vdb"
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"bomb\.vdb: .*2,048 bytes"):
            codec(flags).read(Cursor(struct.pack("<q", len(run)) + run, path), 512)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [-2047, -(2**63), 2**62, 0])
def test_lengths_of_runs_that_cannot_be(tmp_path, length):
    with pytest.raises(FormatError, match=r"bomb\.vdb: "):
        codec(ZIP).read(Cursor(struct.pack("<q", length) + bytes(2048), tmp_path / "bomb.vdb"), 512)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("AffineMap", [np.nan] * 16),
        ("AffineMap", [0.0] * 16),
        ("AffineMap", [*np.eye(4).ravel()[:15], 2.0]),
        ("UniformScaleMap", [0.0] * 15),
        ("ScaleTranslateMap", [np.inf] * 18),
        ("NonlinearFrustumMap", [1.0] * 30),
        ("TranslationMap", [1.0]),
    ],
)
def test_transforms_that_are_none(tmp_path, kind, numbers):
    raw = packed_text(kind) + np.array(numbers, "<f8").tobytes()
    with pytest.raises(FormatError, match=r"a\.vdb: "):
        read_transform(Cursor(raw, tmp_path / "a.vdb"))
