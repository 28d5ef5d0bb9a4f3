"""LAS and LAZ: counts that lie are refused before memory is taken for them."""

import struct

import numpy as np
import pytest

from voxfield.data.formats.las import read_las
from voxfield.errors import FormatError

laspy = pytest.importorskip("laspy", reason="needs laspy")
MOST = 1 << 30


def write(path, count=50, version="1.2", point_format=3):
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales = [0.001] * 3
    cloud = laspy.LasData(header)
    points = np.random.default_rng(0).random((count, 3))
    cloud.x, cloud.y, cloud.z = points.T
    cloud.write(str(path))
    return points


@pytest.mark.parametrize("ending", [".las", ".laz"])
@pytest.mark.parametrize(("version", "point_format"), [("1.2", 3), ("1.4", 6)])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_good_files(tmp_path, ending, version, point_format, count):
    points = write(tmp_path / f"a{ending}", count, version, point_format)
    found = read_las(tmp_path / f"a{ending}", most_bytes=MOST)
    assert found.shape == (count, 3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, points, atol=0.0006)


LIES = {
    "points": (107, "<I", 2**31, "cut short|is no readable"),
    "records": (100, "<I", 2**32 - 1, "records where none can be"),
    "place of points": (96, "<I", 2**32 - 1, "misstates where the points are"),
    "header": (94, "<H", 3, "misstates where the points are"),
    "magic": (0, "<I", 0, "no header of LAS"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("ending", [".las", ".laz"])
def test_counts_that_lie(tmp_path, ending, lie):
    at, kind, value, message = LIES[lie]
    path = tmp_path / f"a{ending}"
    write(path)
    raw = bytearray(path.read_bytes())
    struct.pack_into(kind, raw, at, value)
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=message if lie != "points" else r"a\.la[sz]"):
        read_las(path, most_bytes=MOST)


def test_chunks_that_lie(tmp_path):
    path = tmp_path / "a.laz"
    write(path)
    raw = bytearray(path.read_bytes())
    (points_at,) = struct.unpack_from("<I", raw, 96)
    (table_at,) = struct.unpack_from("<q", raw, points_at)
    for at, kind, value, message in (
        (table_at + 4, "<I", 2**31, "2,147,483,648 chunks"),
        (points_at, "<q", 2**40, "table of chunks is not there"),
        (raw.index(b"laszip encoded") + 52 + 12, "<I", 2**30, "chunks of 1,073,741,824 points"),
    ):
        changed = bytearray(raw)
        struct.pack_into(kind, changed, at, value)
        path.write_bytes(changed)
        with pytest.raises(FormatError, match=message):
            read_las(path, most_bytes=MOST)


def test_more_than_is_read(tmp_path):
    write(tmp_path / "a.las")
    with pytest.raises(FormatError, match="50 points, more than are read"):
        read_las(tmp_path / "a.las", most_bytes=100)
