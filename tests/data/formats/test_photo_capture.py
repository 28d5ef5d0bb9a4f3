"""Layouts without lists of their own hold out the same pictures, whichever reader reads them."""

import pytest

from voxfield.data.capture import CaptureOptions
from voxfield.data.formats.photo_capture import hold_out, present_frames

UNLISTED = ("nerfstudio", "colmap", "llff", "record3d", "polycam", "neus", "metashape")


@pytest.mark.parametrize("name", UNLISTED)
def test_every_nth_picture_is_held_out(tmp_path, captures, read, name):
    captures.WRITERS[name](tmp_path, captures.some_cameras(centred=True))
    train, val, test = (read(tmp_path, split, eval_every=4) for split in ("train", "val", "test"))
    everything = sorted(train.names + test.names)
    assert len(everything) == captures.COUNT
    assert list(test.names) == list(val.names) == everything[::4]
    assert test.source["split_rule"] == train.source["split_rule"] == "every 4th"


@pytest.mark.parametrize("name", ["nerfstudio", "neus"])
def test_pictures_that_are_gone_are_listed_and_not_counted(tmp_path, captures, read, name):
    captures.WRITERS[name](tmp_path, captures.some_cameras())
    first = min(file for file in tmp_path.rglob("*.png") if file.parent.name != "mask")
    first.unlink()
    # A name in its folder that leads nowhere: what a disconnected drive leaves behind.
    first.symlink_to(tmp_path / "disconnected.png")
    capture = read(tmp_path, "test", eval_every=4)
    (gone,) = capture.skipped
    assert gone.reason.endswith(": no such file. Restore it or remove its frame.")
    everything = sorted(capture.names + read(tmp_path, eval_every=4).names)
    assert len(everything) == captures.COUNT - 1
    assert list(capture.names) == everything[::4]


def test_nothing_present_holds_nothing_out():
    assert present_frames([]) == ([], ())
    assert hold_out([], "test", CaptureOptions()) == ([], "every 8th")
    assert hold_out([3, 5, 9], "test", CaptureOptions(eval_every=2))[0] == [3, 9]
