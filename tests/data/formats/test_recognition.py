"""Every layout is recognised by its own reader and by no other, and none is silently wrong about a broken file."""

import shutil

import pytest
import torch

from voxfield.data import capture_reading
from voxfield.data.capture import FORMATS, CaptureOptions
from voxfield.errors import FormatError, VoxfieldError
from voxfield.geometry.pose import is_rigid

NAMES = [name for name in FORMATS if name != "auto"]
FILES = {
    "blender": "transforms_train.json",
    "nerfstudio": "transforms.json",
    "colmap": "sparse/0/images.bin",
    "llff": "poses_bounds.npy",
    "pynerf": "metadata.json",
    "record3d": "metadata.json",
    "polycam": "keyframes",
    "neus": "cameras_sphere.npz",
    "eyefultower": "cameras.json",
    "metashape": "cameras.xml",
}


@pytest.fixture(params=NAMES)
def capture(request, tmp_path, captures):
    folder = tmp_path / "capture"
    folder.mkdir()
    captures.WRITERS[request.param](folder, captures.some_cameras(centred=True))
    return request.param, folder


def test_every_format_is_tested_and_tried(captures):
    assert list(capture_reading._FORMATS) == NAMES == list(captures.WRITERS) == list(FILES)


def test_each_is_recognised_by_its_own_reader_only(capture):
    name, folder = capture
    for path in (folder, folder / FILES[name]):
        assert [other for other, reader in capture_reading._FORMATS.items() if reader.recognises(path)] == [name]


def test_other_files_beside_a_capture_are_not_taken_for_it(capture):
    _, folder = capture
    (folder / "notes.txt").write_text("lens cleaned")
    (folder / "drawing.xml").write_text("<svg/>")
    for path in (folder / "notes.txt", folder / "drawing.xml"):
        assert not [name for name, reader in capture_reading._FORMATS.items() if reader.recognises(path)]


def test_a_folder_and_its_file_are_the_same_capture(capture, read):
    name, folder = capture
    by_folder, by_file = read(folder), read(folder / FILES[name])
    assert by_folder.source["format"] == name
    assert by_folder.source["hash"]
    assert len(by_folder) == len(by_file) >= 6
    assert torch.equal(by_folder.cameras.camera_to_world, by_file.cameras.camera_to_world)


def test_named_formats_are_taken_at_their_word(capture, read):
    name, folder = capture
    assert read(folder, format=name).source["format"] == name


def test_worlds_are_the_same_for_every_split(capture, read):
    _, folder = capture
    train = read(folder, orientation="up", centre="auto", auto_scale=True)
    test = read(folder, "test", orientation="up", centre="auto", auto_scale=True)
    assert torch.equal(train.transform.matrix, test.transform.matrix)
    assert bool(is_rigid(train.cameras.camera_to_world).all())
    # Blender's and PyNeRF's splits have files of their own here.
    assert not {*train.names} & {*test.names}


def test_missing_pictures_are_skipped_and_counted(capture, read):
    name, folder = capture
    before = read(folder)
    first = before.names[0].rsplit("/", 1)[-1]
    for path in folder.rglob("*"):
        if path.name in {first, f"{first}.png"} and path.parent.name != "mask":
            path.unlink()
    if name == "llff":
        # Its poses belong to pictures by their order alone: which one is missing cannot be told.
        with pytest.raises(FormatError, match=r"holds 9 poses, but .* holds 8 pictures"):
            read(folder)
        return
    after = read(folder)
    assert not before.skipped
    assert any("no such file" in item.reason or "no picture" in item.reason for item in after.skipped)
    assert before.names[0] not in after.names
    # Every eighth of those that exist is held out: at most one picture changes sides.
    assert len(after) >= len(before) - 2


def test_a_model_beside_another_capture_is_not_taken_for_it(tmp_path, captures, read):
    # As the published scenes of EyefulTower come: their folder colmap is a capture of its own.
    captures.WRITERS["eyefultower"](tmp_path, captures.some_cameras())
    captures.WRITERS["colmap"](tmp_path / "colmap", captures.some_cameras())
    assert read(tmp_path).source["format"] == "eyefultower"
    assert read(tmp_path / "colmap").source["format"] == "colmap"


@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, -3])
def test_files_cut_short_are_errors(capture, kept, read):
    name, folder = capture
    file = folder / FILES[name]
    files = sorted((file / "corrected_cameras").iterdir()) if file.is_dir() else [file]
    content = files[0].read_bytes()
    files[0].write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(VoxfieldError) as caught:
        read(folder, format=name)
    assert str(files[0]) in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_a_named_format_without_its_files_is_an_error(tmp_path, read):
    for name in NAMES:
        with pytest.raises(VoxfieldError) as caught:
            read(tmp_path, format=name)
        assert str(tmp_path) in str(caught.value)


def test_links_that_lead_outside_are_refused(capture, read, tmp_path):
    _, folder = capture
    outside = tmp_path / "outside"
    outside.mkdir()
    first = read(folder).names[0].rsplit("/", 1)[-1]
    for path in [path for path in folder.rglob("*") if path.name in {first, f"{first}.png"} and path.is_file()]:
        shutil.move(path, outside / path.name)
        path.symlink_to(outside / path.name)
    with pytest.raises(VoxfieldError, match="leads outside the data folder"):
        read(folder)
    assert len(read(folder, allow_outside=True)) >= 6


def test_unknown_formats_are_named():
    with pytest.raises(VoxfieldError, match="Did you mean record3d"):
        CaptureOptions(format="record3")
