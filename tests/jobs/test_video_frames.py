import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxfield.errors import FormatError
from voxfield.jobs.video_frames import FrameSchedule, place_frames, plan_frames
from voxfield.render.video import write_video


def frames(count: int, sharp: set[int] = frozenset()) -> np.ndarray:
    """Flat pictures with a white top, but noise at the numbers ``sharp``."""
    pictures = np.full((count, 64, 96, 3), 60, dtype=np.uint8)
    pictures[:, :16] = 250
    random = np.random.default_rng(0)
    for index in sharp:
        pictures[index, 16:] = random.integers(0, 256, (48, 96, 3), dtype=np.uint8)
    return pictures


def place(video: Path, count: int, images: Path) -> tuple[list[str], list[str]]:
    placed, faults = place_frames(video, plan_frames(video, count), images, lambda _: None)
    assert [one.name for one in placed] == [f"frame_{index:05d}.jpg" for index in range(1, len(placed) + 1)]
    return [one.source for one in placed], [fault.reason for fault in faults]


def test_the_sharpest_of_each_window_is_taken(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(20, {3, 6, 14, 15}), fps=10, quality=5)
    counted: list[int] = []
    plan = plan_frames(tmp_path / "a.mp4", 4)
    assert plan == FrameSchedule(frames=20, start=0.0, seconds=2.0, windows=4)
    placed, faults = place_frames(tmp_path / "a.mp4", plan, tmp_path / "images", counted.append)
    assert sum(counted) == 20
    assert not faults
    # The last two are neighbours, on either side of a border between windows.
    assert [one.source for one in placed] == ["0.300 s", "0.600 s", "1.400 s", "1.500 s"]


def test_a_short_video_gives_all_its_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(5), fps=10)
    assert place(tmp_path / "a.mp4", 150, tmp_path / "images")[0] == [f"{index / 10:.3f} s" for index in range(5)]


@pytest.mark.parametrize(
    ("matrix", "white"),
    [((1, 0, 0, 1), "top"), ((0, 1, -1, 0), "right"), ((-1, 0, 0, -1), "bottom"), ((0, -1, 1, 0), "left")],
)
def test_frames_are_turned_as_the_file_says(tmp_path: Path, matrix: tuple[int, ...], white: str) -> None:
    write_video(tmp_path / "a.mp4", frames(3), fps=10)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    # The track header's matrix, as phones write it: (x, y) becomes (a x + c y, b x + d y).
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    place(tmp_path / "a.mp4", 3, tmp_path / "images")
    with Image.open(tmp_path / "images" / "frame_00001.jpg") as picture:
        seen = np.asarray(picture.convert("L"))
    assert seen.shape == ((96, 64) if white in {"left", "right"} else (64, 96))
    edges = {"top": seen[:8], "bottom": seen[-8:], "left": seen[:, :8], "right": seen[:, -8:]}
    assert {name: bool(edge.mean() > 200) for name, edge in edges.items()} == {name: name == white for name in edges}


def test_a_file_cut_short_gives_the_frames_before(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(40, set(range(40))), fps=10)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
    sources, _ = place(tmp_path / "a.mp4", 10, tmp_path / "images")
    assert 2 <= len(sources) <= 10
    assert sources[0] == "0.000 s" or float(sources[0].removesuffix(" s")) < 0.4


def test_a_file_without_its_index_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(4), fps=10)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:500])
    with pytest.raises(FormatError, match=r"a\.mp4: cannot be read as a video"):
        plan_frames(tmp_path / "a.mp4", 4)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))
    with pytest.raises(FormatError, match="has no video stream"):
        plan_frames(tmp_path / "a.wav", 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
    ],
)
def test_lists_of_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    write_video(tmp_path / "secret.mp4", frames(3), fps=10)
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=r"is a list of other files|cannot be read as a video"):
        plan_frames(tmp_path / name, 3)
