from dataclasses import replace

import pytest
import torch

from voxfield.data.capture import CaptureOptions, digest, every_nth
from voxfield.data.capture_reading import _ndc, read_capture
from voxfield.data.formats import llff
from voxfield.data.sparse_points import ObservedPoints
from voxfield.data.synthetic import posed_images, write_blender, write_nerfstudio
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.pose import SceneTransform


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere: no such file or folder"):
        read_capture(tmp_path / "nowhere")


def test_folders_without_a_capture_say_what_was_looked_for(tmp_path):
    with pytest.raises(FormatError, match=r"no capture found.*transforms_train\.json.*transforms\.json"):
        read_capture(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FormatError, match="no capture found"):
        read_capture(tmp_path / "notes.txt")


def test_the_format_may_be_forced(tmp_path):
    write_blender(tmp_path, [posed_images(count=2, resolution=8)])
    write_nerfstudio(tmp_path, posed_images(count=9, resolution=8))
    assert read_capture(tmp_path).source["format"] == "blender"
    forced = CaptureOptions(format="nerfstudio")
    assert read_capture(tmp_path, options=forced).source["format"] == "nerfstudio"


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="split: unknown value 'validation'"):
        read_capture(tmp_path, split="validation")


def test_the_hash_follows_the_json_and_the_files(tmp_path):
    write_nerfstudio(tmp_path, posed_images(count=9, resolution=8))
    before = read_capture(tmp_path).source["hash"]
    assert read_capture(tmp_path).source["hash"] == before
    (tmp_path / "images/0001.png").write_bytes((tmp_path / "images/0001.png").read_bytes() + b"x")
    assert read_capture(tmp_path).source["hash"] != before


@pytest.mark.parametrize(
    "options",
    [
        {"downscale": 0},
        {"downscale": 1.5},
        {"downscale": True},
        {"downscale": "half"},
        {"eval_every": 1},
        {"near": -1.0},
        {"near": float("nan")},
        {"max_images": 0},
        {"cache_bytes": 0},
        {"rotate_every": 0},
        {"scene_bounds": (0, 0, 0, 1, 1)},
        {"format": "colmapp"},
        {"orientation": "pca"},
        {"region": "cube"},
        {"centre": "middle"},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        CaptureOptions(**options)


def test_bounds_without_volume_are_refused(tmp_path):
    write_blender(tmp_path, [posed_images(count=2, resolution=8)])
    with pytest.raises(InputError, match="Bounds"):
        read_capture(tmp_path, options=CaptureOptions(scene_bounds=(0, 0, 0, 1, 1, 0)))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 17])
def test_the_splits_cover_everything_once(count):
    train, test = every_nth(count, "train", 8), every_nth(count, "test", 8)
    assert sorted(train + test) == list(range(count))


def test_digests_tell_the_parts_apart():
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_normalised_device_coordinates_begin_before_the_nearest_points(tmp_path, captures):
    cameras = captures.some_cameras(4)
    poses = torch.eye(3, 4).repeat(4, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(4)
    captures.write_llff(tmp_path, replace(cameras, camera_to_world=poses))
    stated = llff.read(tmp_path, "train", CaptureOptions())
    # The file's nearest bound, 0.5, as points say it: one in a hundred may be a mistake.
    depth = torch.cat([torch.full((1,), 0.01), torch.linspace(0.5, 3.0, 120)])
    seen = ObservedPoints(pixels=torch.zeros(121, 2), depth=depth, errors=torch.zeros(121))
    nothing = ObservedPoints(pixels=torch.zeros(0, 2), depth=torch.zeros(0), errors=torch.zeros(0))
    by_points = replace(stated, near_in_capture=False, observed=(seen, nothing, nothing, nothing))
    world = SceneTransform.identity()
    one, other = (_ndc(capture, CaptureOptions(), world) for capture in (stated, by_points))
    assert one.near == pytest.approx(0.45)
    assert other.near == pytest.approx(0.45)
    assert _ndc(stated, CaptureOptions(near=0.3), world).near == pytest.approx(0.3)
    with pytest.raises(FormatError, match=r"Leave capture\.space at world"):
        _ndc(replace(stated, forward_facing=False), CaptureOptions(), world)
