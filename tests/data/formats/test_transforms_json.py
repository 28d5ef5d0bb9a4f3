"""Faults in a transforms file: each is an error of one or two lines that names the file and the fix."""

import json
import math

import pytest

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import posed_images, write_blender, write_nerfstudio
from voxfield.errors import FormatError, MissingFileError, VoxfieldError

HUGE = "HUGE_INTEGER"


@pytest.fixture(params=["blender", "nerfstudio"])
def capture(request, tmp_path):
    """A good capture of either layout: (folder, its JSON file)."""
    written = posed_images(count=3, resolution=8)
    if request.param == "blender":
        write_blender(tmp_path, [written])
        return tmp_path, tmp_path / "transforms_train.json"
    write_nerfstudio(tmp_path, written)
    return tmp_path, tmp_path / "transforms.json"


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    # 10**400 has no float: Python's encoder writes it, its decoder reads it, float() overflows.
    file.write_text(json.dumps(values).replace(f'"{HUGE}"', "1" + "0" * 400))


def failure(folder, error=FormatError) -> str:
    with pytest.raises(error) as caught:
        read_capture(folder)
    assert isinstance(caught.value, VoxfieldError)
    message = str(caught.value)
    assert message.count("\n") <= 1
    return message


def fails_after(capture, change, *words):
    folder, file = capture
    edit(file, change)
    message = failure(folder)
    assert str(file) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON at line 1"),
        (b'{"frames": [', "not valid JSON"),
        (b"\xff\xfe\x00", "not a JSON text file"),
        (b"[1, 2]", "expected a JSON object"),
        (b"[" * 100_000, "not a JSON text file"),
        (b"{}", "expected 'frames' to be a list, got nothing"),
    ],
)
def test_malformed_files(capture, content, words):
    folder, file = capture
    file.write_bytes(content)
    message = failure(folder)
    assert str(file) in message
    assert words in message


def test_a_byte_order_mark_does_no_harm(capture):
    folder, file = capture
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_capture(folder)) >= 2


@pytest.mark.parametrize("frames", [{"a": 1}, "frames", 3, None])
def test_frames_that_are_no_list(capture, frames):
    fails_after(capture, lambda values: values.update(frames=frames), "expected 'frames' to be a list")


def test_no_frames(capture):
    fails_after(capture, lambda values: values.update(frames=[]), "list of frames is empty")


def frame_with(**changes):
    return lambda values: values["frames"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values["frames"].insert(1, 5), "expected an object, got 5"),
        (frame_with(file_path=None), "no file_path"),
        (frame_with(file_path=""), "no file_path"),
        (frame_with(file_path=7), "expected file_path to be a string, got 7"),
        (frame_with(file_path="a\0b"), "NUL"),
        (frame_with(mask_path=["m.png"]), "expected mask_path to be a string"),
    ],
)
def test_frames_without_a_usable_path(capture, change, words):
    fails_after(capture, change, words, "frame 1")


IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def pose_with(row, column, value):
    rows = [list(entries) for entries in IDENTITY]
    rows[row][column] = value
    return frame_with(transform_matrix=rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (frame_with(transform_matrix=None), "no transform_matrix"),
        (frame_with(transform_matrix="identity"), "expected transform_matrix to be 4 rows of 4 numbers"),
        (frame_with(transform_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "4 rows of 4 numbers"),
        (frame_with(transform_matrix=IDENTITY[:2]), "4 rows of 4 numbers"),
        (pose_with(0, 0, "one"), "4 rows of 4 numbers"),
        (pose_with(0, 0, True), "4 rows of 4 numbers"),
        (pose_with(0, 3, math.nan), "NaN, infinite or huge"),
        (pose_with(0, 3, math.inf), "NaN, infinite or huge"),
        (pose_with(0, 3, 1e300), "NaN, infinite or huge"),
        (pose_with(0, 3, HUGE), "NaN, infinite or huge"),
        (pose_with(3, 0, 2.0), "transposed"),
        (pose_with(0, 0, -1), "mirrors"),
        (pose_with(0, 1, 0.5), "not perpendicular"),
        (frame_with(transform_matrix=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), "scales by 2"),
        (frame_with(transform_matrix=[[0] * 4] * 3 + [[0, 0, 0, 1]]), "singular"),
    ],
)
def test_poses_that_are_not_rigid(capture, change, words):
    fails_after(capture, change, words, "frame 1")


def test_rounded_poses_are_repaired(capture):
    folder, file = capture

    def round_poses(values):
        for frame in values["frames"]:
            frame["transform_matrix"] = [[round(entry, 3) for entry in row] for row in frame["transform_matrix"]]

    edit(file, round_poses)
    rotation = read_capture(folder).cameras.camera_to_world[:, :, :3]
    error = (rotation @ rotation.mT - rotation.new_ones(3).diag()).abs().max()
    assert float(error) < 1e-6


def test_poses_without_their_last_row_are_read(capture):
    folder, file = capture
    expected = read_capture(folder).cameras.camera_to_world
    edit(file, lambda values: [frame["transform_matrix"].pop() for frame in values["frames"]])
    assert read_capture(folder).cameras.camera_to_world.equal(expected)


def lens_with(**changes):
    def change(values):
        for key in ("camera_angle_x", "fl_x", "fl_y"):
            values.pop(key, None)
        values.update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lens_with(), "no focal length"),
        (lens_with(fl_x=0), "expected fl_x to be a number above 0, got 0"),
        (lens_with(fl_x=-5.0), "expected fl_x to be a number above 0"),
        (lens_with(fl_x=math.nan), "expected fl_x"),
        (lens_with(fl_x=1e300), "expected fl_x"),
        (lens_with(fl_x=HUGE), "expected fl_x to be a number above 0, got a huge integer"),
        (lens_with(fl_x="500"), "expected fl_x to be a number above 0, got '500'"),
        (lens_with(fl_x=True), "expected fl_x"),
        (lens_with(camera_angle_x=0.0), "expected camera_angle_x to be a number above 0"),
        (lens_with(camera_angle_x=3.2), "expected camera_angle_x"),
        (lens_with(fl_x=9.0, w=0, h=8), "expected w to be a whole number from 1"),
        (lens_with(fl_x=9.0, w=8.5, h=8), "expected w to be a whole number from 1"),
        (lens_with(fl_x=9.0, w=HUGE, h=8), "expected w"),
        (lens_with(fl_x=9.0, k1=[0.1]), "expected k1 to be a number"),
        (lens_with(fl_x=9.0, cx=math.inf), "expected cx to be a number"),
        (lens_with(fl_x=9.0, camera_model="VR180_L"), "'VR180_L' is not supported"),
        (lens_with(camera_angle_x=0.7, camera_model="ORTHOPHOTO"), "no focal length. Add fl_x (pixels) to the file"),
        (lens_with(camera_model="EQUIRECTANGULAR", k1=0.1), "expected no distortion"),
        (lens_with(fl_x=9.0, camera_model="ORTHOPHOTO", p2=0.1), "expected no distortion"),
        (lens_with(fl_x=9.0, camera_model="OPENCV_FISHEYE", fisheye_crop_radius=0), "fisheye_crop_radius"),
        (lens_with(fl_x=9.0, camera_model=4), "expected camera_model to be a string"),
        (lens_with(fl_x=9.0, ftheta_p0=0.1), "f-theta"),
    ],
)
def test_lenses_that_make_no_sense(capture, change, words):
    fails_after(capture, change, words)


@pytest.mark.parametrize("path", ["../outside.png", "images/../../outside.png", "/etc/hostname"])
def test_paths_that_leave_the_folder(capture, path):
    fails_after(capture, frame_with(file_path=path), "leads outside the data folder", "allow_outside", path)


def test_masks_that_leave_the_folder(capture):
    fails_after(capture, frame_with(mask_path="../mask.png"), "leads outside the data folder")


@pytest.mark.parametrize("name", ["link.png", "link"])
def test_links_that_leave_the_folder(capture, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(b"x")
    (capture[0] / "link.png").symlink_to(outside)
    fails_after(capture, frame_with(file_path=name), "leads outside the data folder")


def test_links_within_the_folder_are_followed(capture):
    folder, file = capture
    first = json.loads(file.read_text())["frames"][1]["file_path"]
    target = next(path for path in (folder / first, folder / f"{first}.png") if path.is_file())
    (folder / "link.png").symlink_to(target)
    edit(file, frame_with(file_path="link.png"))
    assert "link.png" in read_capture(folder).names


def test_paths_outside_may_be_allowed(capture, tmp_path_factory):
    folder, file = capture
    outside = tmp_path_factory.mktemp("outside")
    write_nerfstudio(outside, posed_images(count=1, resolution=8))
    edit(file, frame_with(file_path=str(outside / "images/0000.png")))
    # An absolute path sorts before the others, so that the every-8th rule holds it out.
    split = "train" if "train" in file.name else "test"
    captured = read_capture(folder, split=split, options=CaptureOptions(allow_outside=True))
    assert str(outside / "images/0000.png") in captured.names
    assert not captured.skipped


def test_paths_the_system_refuses_count_as_missing(capture):
    folder, file = capture
    edit(file, frame_with(file_path="x" * 5000))
    assert [item.path[:3] for item in read_capture(folder).skipped] == ["xxx"]


def test_links_that_go_round_in_circles_end_in_a_message(capture):
    folder, file = capture
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    edit(file, frame_with(file_path="a"))
    # Python before 3.13 refuses to resolve the link; later ones leave a path to no file, which is skipped.
    try:
        came = str(read_capture(folder).skipped)
    except FormatError as error:
        came = str(error)
    assert "cannot be followed" in came or "no such file" in came


def test_a_file_that_is_not_there(tmp_path):
    message = failure(tmp_path / "absent.json", MissingFileError)
    assert str(tmp_path / "absent.json") in message


def test_a_folder_in_the_files_place(tmp_path):
    (tmp_path / "transforms.json").mkdir()
    failure(tmp_path, VoxfieldError)
