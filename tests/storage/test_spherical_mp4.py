"""What an MP4 tells headsets of its pictures."""

import struct
from pathlib import Path

import numpy as np
import pytest

from voxfield.errors import FormatError, InputError
from voxfield.render.video import write_video
from voxfield.storage.spherical_mp4 import write_spherical

HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"sv3d", b"proj"}
SKIPPED = {b"stsd": 8, b"avc1": 78}


def boxes(data: bytes, start: int = 0, end: int | None = None, path: str = "") -> dict[str, bytes]:
    """The content of every box by its path; checks that they fill what holds them."""
    found, at, end = {}, start, len(data) if end is None else end
    while at < end:
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= end - at, (path, kind)
        name = f"{path}/{kind.decode('latin-1')}"
        found[name] = data[at + 8 : at + size]
        if kind in HOLDERS or kind in SKIPPED:
            found |= boxes(data, at + 8 + SKIPPED.get(kind, 0), at + size, name)
        at += size
    return found


def clip(path: Path, frames: int = 3) -> Path:
    pictures = [np.full((32, 64, 3), 7 * index, dtype=np.uint8) for index in range(frames)]
    write_video(path, pictures, fps=24)
    return path


ENTRY = "/moov/trak/mdia/minf/stbl/stsd/avc1"


@pytest.mark.parametrize(
    ("layout", "mode", "bounds"),
    [
        ("mono360", 0, (0, 0, 0, 0)),
        ("top-bottom360", 1, (0, 0, 0, 0)),
        ("left-right180", 2, (0, 0, 1 << 30, 1 << 30)),
    ],
)
def test_the_boxes_say_how_the_sphere_lies_in_frames(tmp_path: Path, layout, mode, bounds) -> None:
    path = clip(tmp_path / "film.mp4")
    before = boxes(path.read_bytes())
    write_spherical(path, layout)
    found = boxes(path.read_bytes())
    assert found[f"{ENTRY}/st3d"] == bytes([0, 0, 0, 0, mode])
    assert found[f"{ENTRY}/sv3d/svhd"] == bytes(4) + b"Voxfield\0"
    assert found[f"{ENTRY}/sv3d/proj/prhd"] == bytes(16)
    assert struct.unpack(">4I", found[f"{ENTRY}/sv3d/proj/equi"][4:]) == bounds
    assert found[f"{ENTRY}/avcC"] == before[f"{ENTRY}/avcC"]
    assert found["/mdat"] == before["/mdat"]


def test_the_film_plays_as_before(tmp_path: Path) -> None:
    import av

    path = clip(tmp_path / "film.mp4", frames=30)
    with av.open(str(path)) as container:
        before = [frame.to_ndarray() for frame in container.decode(video=0)]
    write_spherical(path, "left-right180")
    with av.open(str(path)) as container:
        after = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert len(after) == 30
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_chunks_before_the_index_stay_where_they_are(tmp_path: Path) -> None:
    import av

    path = tmp_path / "slow.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for shade in range(0, 200, 20):
            picture = av.VideoFrame.from_ndarray(np.full((32, 64, 3), shade, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert list(boxes(path.read_bytes()))[-1].startswith("/moov")
    write_spherical(path, "mono360")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 10


def test_files_that_are_none_are_left_as_they_are(tmp_path: Path) -> None:
    path = clip(tmp_path / "film.mp4")
    whole = path.read_bytes()
    index = whole.index(b"moov")
    broken = {
        "empty": b"",
        "text": b"not a film at all, but long enough to look at",
        "cut": whole[: len(whole) // 2],
        "no index": whole[: index - 4],
        "huge box": whole.replace(b"stbl", b"stbX"),
        "table": whole[: whole.index(b"stco") + 8] + b"\xff\xff\xff\xff" + whole[whole.index(b"stco") + 12 :],
    }
    for name, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"film\.mp4"):
            write_spherical(path, "mono360")
        assert path.read_bytes() == content, name


def test_boxes_are_added_once_and_layouts_are_known(tmp_path: Path) -> None:
    path = clip(tmp_path / "film.mp4")
    write_spherical(path, "mono360")
    with pytest.raises(FormatError, match="already"):
        write_spherical(path, "mono360")
    with pytest.raises(InputError, match="layout"):
        write_spherical(path, "cube")  # type: ignore[arg-type]
