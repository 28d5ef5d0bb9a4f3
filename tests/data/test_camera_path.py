"""Camera paths in nerfstudio's JSON."""

import json
import math
from pathlib import Path

import pytest
import torch

from voxfield.data.camera_path import CameraPath, View, parse_camera_path, read_camera_path
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.paths import look_at

TURNED = [0.6, 0.0, 0.8, 1.25, 0.0, 1.0, 0.0, -0.1, -0.8, 0.0, 0.6, 3.0000000000000004, 0.0, 0.0, 0.0, 1.0]

# As nerfstudio's viewer writes since 1.0.
NERFSTUDIO = {
    "default_fov": 75.0,
    "default_transition_sec": 2.0,
    "keyframes": [
        {
            "matrix": TURNED,
            "fov": 75.0,
            "aspect": 1.7777777777777777,
            "override_transition_enabled": False,
            "override_transition_sec": None,
        },
        {
            "matrix": TURNED,
            "fov": 40.123456789012345,
            "aspect": 1.7777777777777777,
            "override_transition_enabled": True,
            "override_transition_sec": 0.5,
        },
    ],
    "camera_type": "perspective",
    "render_height": 1080,
    "render_width": 1920,
    "fps": 30,
    "seconds": 8.0,
    "is_cycle": False,
    "smoothness_value": 0.5,
    "crop": None,
    "camera_path": [
        {"camera_to_world": TURNED, "fov": 75.0, "aspect": 1.7777777777777777},
        {"camera_to_world": TURNED, "fov": 60.0, "aspect": 1.7777777777777777, "render_time": 0.25},
    ],
}

# As its Blender add-on and its viewer before 1.0 write.
OLDER = {
    "keyframes": [
        {
            "matrix": "[1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]",
            "fov": 50,
            "aspect": 1.5,
            "properties": '[["FOV",50],["NAME","Camera 0"],["TIME",0]]',
        }
    ],
    "camera_type": "equirectangular",
    "render_height": 512,
    "render_width": 1024,
    "camera_path": [{"camera_to_world": TURNED, "fov": 50, "aspect": 2}],
    "fps": 24,
    "seconds": 4,
    "smoothness_value": 0.5,
    "is_cycle": True,
    "crop": None,
}


@pytest.mark.parametrize("content", [NERFSTUDIO, OLDER])
def test_reading_and_writing_loses_nothing(tmp_path: Path, content: dict) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps(content))
    path = read_camera_path(source)
    path.write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == content
    assert read_camera_path(tmp_path / "out.json") == path


def test_what_a_file_says_is_understood() -> None:
    path = parse_camera_path(NERFSTUDIO, source="x")
    assert (path.width, path.height, path.fps, path.seconds, path.loop) == (1920, 1080, 30.0, 8.0, False)
    assert [len(path.frames), len(path.keyframes)] == [2, 2]
    cameras = path.cameras(height=540)
    assert (int(cameras.width[0]), int(cameras.height[0])) == (960, 540)
    # nerfstudio's focal length of a vertical field of view in degrees.
    assert float(cameras.focal[0, 0]) == pytest.approx(270 / math.tan(math.radians(37.5)))
    torch.testing.assert_close(cameras.camera_to_world[0], torch.tensor(TURNED).reshape(4, 4)[:3])
    older = parse_camera_path(OLDER, source="x")
    assert (older.camera, older.loop, older.keyframes) == ("equirectangular", True, ())
    rows = {**OLDER, "camera_path": [{"camera_to_world": torch.tensor(TURNED).reshape(4, 4).tolist(), "fov": 50}]}
    assert len(parse_camera_path(rows, source="x").frames[0].matrix) == 16


def keyed(count: int, **values) -> CameraPath:
    angles = torch.arange(count) * 0.5
    poses = look_at(torch.stack([angles.cos() * 3, angles.sin() * 3, angles], dim=1), torch.zeros(count, 3))
    keys = tuple(View.from_pose(pose, fov=40.0 + 5 * index, aspect=1.5) for index, pose in enumerate(poses))
    return CameraPath(frames=(), keyframes=keys, width=150, height=100, **values)


def test_frames_pass_through_the_keyframes() -> None:
    path = keyed(4).through_keyframes(31)
    poses = torch.stack([view.pose for view in path.frames])
    for index, key in enumerate(path.keyframes):
        torch.testing.assert_close(poses[10 * index], key.pose, atol=1e-9, rtol=0)
        assert path.frames[10 * index].fov == pytest.approx(key.fov)
    steps = poses[:, :, 3].diff(dim=0).norm(dim=1)
    assert float(steps.max() / steps.min()) < 1.5
    assert path.through_keyframes().frames[0] == path.frames[0]
    assert len(keyed(2, seconds=2.0, fps=12.0).through_keyframes().frames) == 24


def test_a_loop_comes_back_to_its_first_keyframe() -> None:
    path = keyed(4, loop=True).through_keyframes(40)
    poses = torch.stack([view.pose for view in path.frames])
    for index, key in enumerate(path.keyframes):
        torch.testing.assert_close(poses[10 * index], key.pose, atol=1e-9, rtol=0)
    closing = (poses[0, :, 3] - poses[-1, :, 3]).norm()
    assert float(closing) < 2 * float(poses[:, :, 3].diff(dim=0).norm(dim=1).max())


@pytest.mark.parametrize("loop", [True, False])
def test_one_keyframe_is_a_camera_that_stands_still(loop: bool) -> None:
    path = keyed(1, loop=loop).through_keyframes(5)
    assert len({view.matrix for view in path.frames}) == 1


def test_nothing_can_be_made_of_no_keyframes() -> None:
    with pytest.raises(InputError, match="no keyframes"):
        CameraPath(frames=()).through_keyframes()
    with pytest.raises(InputError, match="no frames"):
        keyed(2).cameras()


def changed(**values) -> dict:
    return {**OLDER, **values}


def frame(**values) -> dict:
    return changed(camera_path=[{"camera_to_world": TURNED, "fov": 50, **values}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "'camera_path'"),
        ({}, "'camera_path'"),
        (changed(camera_path={}), "'camera_path'"),
        (changed(camera_path=[]), "holds no frames"),
        (changed(camera_path=[3]), r"camera_path\[0\]: expected an object"),
        (frame(camera_to_world=[1.0] * 15), "16 finite numbers"),
        (frame(camera_to_world=["a"] * 16), "16 finite numbers"),
        (frame(camera_to_world=[math.nan] * 16), "16 finite numbers"),
        (frame(camera_to_world=[2.0 * value for value in TURNED]), "scales or shears"),
        (frame(camera_to_world=[*TURNED[:12], 0.0, 0.0, 1.0, 1.0]), "scales or shears"),
        (frame(fov=0), r"fov: expected a number from 0.001 to 179.9, got 0"),
        (frame(fov=True), "fov: expected a number"),
        (frame(fov="50"), "fov: expected a number"),
        (frame(aspect=-1), "aspect"),
        (changed(camera_type="holographic"), "camera_type: expected one of perspective"),
        (changed(render_width=0), "render_width: expected a whole number"),
        (changed(render_height=10.5), "render_height: expected a whole number"),
        (changed(render_height=1e9), "render_height"),
        (changed(fps=0), "fps: expected a number"),
        (changed(fps=math.inf), "fps: expected a number"),
        (changed(seconds=-1), "seconds: expected a number"),
    ],
)
def test_malformed_paths_say_where_they_are_wrong(content, message) -> None:
    with pytest.raises(FormatError, match=message):
        parse_camera_path(content, source="path.json")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such camera path"):
        read_camera_path(tmp_path / "absent.json")
    for text in ("", "{", "[" * 100_000, "\x00"):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(FormatError, match=r"broken\.json"):
            read_camera_path(tmp_path / "broken.json")
    with pytest.raises(FormatError, match="cannot be read"):
        read_camera_path(tmp_path)
