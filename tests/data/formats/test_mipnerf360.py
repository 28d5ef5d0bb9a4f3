"""The scenes of Mip-NeRF 360 as their authors hand them out: a COLMAP model, LLFF's poses, reduced pictures."""

from pathlib import Path
from types import ModuleType

import pytest

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture

COUNT = 17


@pytest.fixture
def scene(captures: ModuleType, tmp_path: Path) -> Path:
    """Of 46x31 pixels: reduced by 4 that is 11.5x7.75, and their program rounds."""
    captures.WIDTH, captures.HEIGHT, before = 46, 31, (captures.WIDTH, captures.HEIGHT)
    try:
        cameras = captures.some_cameras(COUNT)
        captures.write_llff(tmp_path, cameras)
        for file in (tmp_path / "images").iterdir():
            file.unlink()
        captures.write_colmap(tmp_path, cameras)
    finally:
        captures.WIDTH, captures.HEIGHT = before
    for factor, size in ((2, (23, 16)), (4, (12, 8)), (8, (6, 4))):
        for index in range(COUNT):
            # Bluer than the full pictures, to tell them apart.
            captures.picture(tmp_path / f"images_{factor}/{index:03d}.jpg", 12, size)
    return tmp_path


@pytest.mark.parametrize(("factor", "size"), [(2, (23, 16)), (4, (12, 8))])
def test_the_published_protocol(scene: Path, factor: int, size: tuple[int, int]) -> None:
    options = CaptureOptions(downscale=factor)
    test, train = (read_capture(scene, split=split, options=options) for split in ("test", "train"))
    assert test.source["format"] == "colmap"
    assert test.source["downscale"] == factor
    assert test.names == ("000.jpg", "008.jpg", "016.jpg")
    assert set(train.names) == {f"{index:03d}.jpg" for index in range(COUNT)} - set(test.names)
    assert all(one.path.parent.name == f"images_{factor}" for one in test.images._pictures)
    assert test.images.shape(0) == (size[1], size[0], 3)
    # The lens shows what it showed: focal lengths shrink as the pictures did.
    assert test.cameras.focal[0].tolist() == pytest.approx([40 * size[0] / 46, 40 * size[1] / 31])
    assert test.unbounded


def test_auto_takes_what_was_published(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxfield.data import capture_reading

    # As 1,600 is to 4,946 pixels out of doors, and to 3,114 within.
    for longest, factor in ((15, 4), (24, 2)):
        monkeypatch.setattr(capture_reading, "LONGEST_SIDE", longest)
        assert read_capture(scene, split="test").source["downscale"] == factor
