import struct
import sys

import numpy as np
import pytest

from voxfield.data.formats.points import CLOUD_SUFFIXES, read_points
from voxfield.errors import FormatError, MissingExtraError, MissingFileError

POINTS = np.array([[0.5, 1.0, -2.0], [3.25, 4.0, 5.5], [1e3, -1.0, 0.125]])

PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
PCD = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\n"


def rows(points=POINTS, sign=" ", more=""):
    return "".join(sign.join(f"{one:g}" for one in point) + more + "\n" for point in points)


def pcd(data: str, body: bytes, header: str = PCD) -> bytes:
    return f"{header}POINTS 3\nDATA {data}\n".encode() + body


def binary_records() -> bytes:
    return b"".join(struct.pack("<3fI", *point, 7) for point in POINTS)


def compressed_columns() -> bytes:
    """By LZF's rule for literals alone: a byte n - 1, then n bytes."""
    plain = POINTS.T.astype("<f4").tobytes() + np.full(3, 7, "<u4").tobytes()
    packed = b"".join(bytes([len(plain[at : at + 32]) - 1]) + plain[at : at + 32] for at in range(0, len(plain), 32))
    return struct.pack("<II", len(packed), len(plain)) + packed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xyz", rows()),
        ("a.xyz", "# comment\n\n" + rows(more=" 9 9 9")),
        ("a.csv", "x [nm],y [nm],z [nm]\n" + rows(sign=",")),
        ("a.csv", 'id,"x","y","z",note\n' + "".join(f"7,{x},{y},{z},4\n" for x, y, z in POINTS)),
        ("a.csv", rows(sign=";")),
        ("a.CSV", "\ufeffx,y,z\n" + rows(sign=",")),
        ("a.pts", "3\n" + rows(more=" 1 2 3")),
        ("a.pwn", rows(more=" 0 0 1")),
        ("a.txt", "xcoord ycoord zcoord\n" + rows()),
        ("a.ply", PLY + rows()),
        ("a.pcd", pcd("ascii", rows(more=" 7").encode())),
        ("a.pcd", pcd("binary", binary_records())),
        ("a.pcd", pcd("binary_compressed", compressed_columns())),
    ],
)
def test_reads_positions(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_points(path)
    assert found.shape == (3, 3)
    assert found.dtype in (np.float32, np.float64)
    np.testing.assert_allclose(found, POINTS)


def test_reads_las(tmp_path):
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = [0.001] * 3
    las = laspy.LasData(header)
    las.x, las.y, las.z = POINTS.T
    for name in ("a.las", "a.laz"):
        las.write(tmp_path / name)
        np.testing.assert_allclose(read_points(tmp_path / name), POINTS, atol=6e-4)
    whole = (tmp_path / "a.laz").read_bytes()
    (tmp_path / "short.laz").write_bytes(whole[:250])
    with pytest.raises(FormatError, match="no readable LAS file"):
        read_points(tmp_path / "short.laz")
    # The number of points, at its place in the header of LAS 1.2.
    (tmp_path / "vast.las").write_bytes(whole[:107] + struct.pack("<I", 2**32 - 1) + whole[111:])
    with pytest.raises(FormatError, match="more than are read"):
        read_points(tmp_path / "vast.las")


def test_says_which_extra_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.las").write_bytes(b"LASF")
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[points\]"):
        read_points(tmp_path / "a.las")


def test_keeps_points_that_are_not_finite_and_empty_files(tmp_path):
    (tmp_path / "a.xyz").write_text("nan 1 2\n1 2 3\n")
    assert np.isnan(read_points(tmp_path / "a.xyz")).sum() == 1
    (tmp_path / "b.xyz").write_text("")
    assert read_points(tmp_path / "b.xyz").shape == (0, 3)
    (tmp_path / "c.pcd").write_bytes(pcd("ascii", b"", PCD).replace(b"POINTS 3", b"POINTS 0"))
    assert read_points(tmp_path / "c.pcd").shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "1 2 three\n", "expected numbers, or a header"),
        ("a.xyz", "1 2 3\n4 5\n", "lines that are no points"),
        ("a.csv", "a,b,c\n1,2,3\n", "names x, y and z"),
        ("a.xyz", b"\xff\xfe\x00\x01" * 20, "expected numbers"),
        ("a.ply", "ply\nformat ascii 1.0\n", "no readable .ply"),
        ("a.ply", b"\x00" * 100, "no readable .ply"),
        ("a.pcd", "VERSION 0.7\n", "lacks or misstates 'FIELDS'"),
        ("a.pcd", pcd("ascii", rows(POINTS[:2], more=" 7").encode()), "states 3 points and holds 2"),
        ("a.pcd", pcd("binary", binary_records()[:-1]), "states 3 points and holds 2"),
        ("a.pcd", pcd("zip", b""), "DATA is 'zip'"),
        ("a.pcd", pcd("ascii", rows(more=" 7").encode(), PCD.replace("x y z", "a b c")), "expected the fields x, y"),
        ("a.pcd", pcd("ascii", b"", PCD.replace("TYPE F F F U", "TYPE F F")), "lacks or misstates"),
        ("a.pcd", pcd("binary", b"", PCD.replace("COUNT 1", "COUNT 99999")), "lacks or misstates"),
        ("a.pcd", pcd("binary_compressed", b"\1"), "compressed data does not fit"),
        ("a.pcd", pcd("binary_compressed", struct.pack("<II", 4, 48) + b"\xff" * 4), "compressed data is damaged"),
        ("a.pcd", pcd("binary_compressed", struct.pack("<II", 4, 2**31) + b"1234"), "compressed data does not fit"),
        ("a.pcd", pcd("binary_compressed", struct.pack("<II", 2**32 - 1, 48) + b"12"), "compressed data does not fit"),
        ("a.pcd", pcd("binary", b"").replace(b"POINTS 3", b"POINTS 99999999999"), "lacks or misstates"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_a_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=message) as caught:
        read_points(path)
    assert str(path) in str(caught.value)


def test_missing_files_are_named(tmp_path):
    for suffix in CLOUD_SUFFIXES:
        with pytest.raises((MissingFileError, MissingExtraError)):
            read_points(tmp_path / f"none{suffix}")


@pytest.mark.slow
def test_real_clouds(shared_data):
    sizes = {
        "autzen-utm.pcd": 1065, "bun0.pcd": 397, "bunny.pcd": 397, "car6.pcd": 10031, "cturtle.pcd": 167198,
        "milk_color.pcd": 13704, "room_scan1.pcd": 112586, "table_scene_mug_stereo_textured.pcd": 307200,
        "colored_cloud.pcd": 1000, "ball.ply": 31374, "hippo1.ply": 6104, "bunnyData.pts": 30571, "kitten.xyz": 5210,
        "oni.pwn": 1435, "radar.xyz": 20950, "autzen_trim.laz": 110000, "simple.copc.laz": 1065, "extrabytes.las": 1065,
        "gene_drosophila_bdtnp/geometry.txt": 6078,
    }  # fmt: skip
    for name, count in sizes.items():
        points = read_points(shared_data / "pointclouds" / name)
        assert points.shape == (count, 3), name
        assert np.isfinite(points).any(), name
