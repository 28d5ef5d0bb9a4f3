import json

import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import posed_images, write_blender
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.bounds import Bounds


@pytest.fixture
def folder(tmp_path):
    write_blender(tmp_path, [posed_images(count=4, resolution=16, split=split) for split in ("train", "val", "test")])
    return tmp_path


def picture(folder, index, split="train"):
    return folder / split / f"r_{index}.png"


def test_the_world_stays_blenders(folder):
    capture = read_capture(folder)
    assert len(capture) == 4
    assert capture.bounds == Bounds.from_cube(1.5)
    assert not capture.unbounded
    assert torch.equal(capture.transform.matrix, torch.eye(4).double())
    assert capture.images.channels == 4
    assert capture.has_alpha
    assert capture.cameras.distortion is None
    assert capture.source["split_rule"] == "transforms_train.json"


def test_a_splits_json_names_the_whole_capture(folder):
    by_file = read_capture(folder / "transforms_train.json", split="test")
    assert by_file.names == read_capture(folder, split="test").names


def test_depth_maps_beside_the_pictures_are_not_read(folder):
    Image.new("L", (16, 16)).save(folder / "test" / "r_0_depth_0001.png")
    assert len(read_capture(folder, split="test")) == 4


@pytest.mark.parametrize(("gone", "split"), [("val", "val"), ("test", "test")])
def test_val_and_test_stand_in_for_each_other(folder, gone, split):
    (folder / f"transforms_{gone}.json").unlink()
    capture = read_capture(folder, split=split)
    assert capture.split == split
    assert capture.source["split_rule"] == ("transforms_test.json" if gone == "val" else "transforms_val.json")


def test_a_missing_train_split_is_named(folder):
    (folder / "transforms_train.json").unlink()
    with pytest.raises(MissingFileError, match=r"transforms_train\.json: no such file"):
        read_capture(folder, split="train")


def test_pictures_without_alpha_are_rgb(folder):
    for index in range(4):
        Image.open(picture(folder, index)).convert("RGB").save(picture(folder, index))
    capture = read_capture(folder)
    assert not capture.has_alpha
    assert capture.images.channels == 3


def test_other_endings_are_found(folder):
    Image.open(picture(folder, 1)).convert("RGB").save(folder / "train" / "r_1.jpg")
    picture(folder, 1).unlink()
    capture = read_capture(folder)
    assert len(capture) == 4
    assert not capture.skipped
    assert capture.images.read(1)[..., 3].unique().tolist() == [255]


def test_skippable_faults_are_skipped_and_listed(folder):
    picture(folder, 0).unlink()
    picture(folder, 1).write_bytes(picture(folder, 1).read_bytes()[:100])
    Image.new("RGBA", (8, 8)).save(picture(folder, 2))
    split = [posed_images(count=7, resolution=16)]
    for index in range(4, 7):
        Image.fromarray(split[0].images.read(index).numpy()).save(picture(folder, index))
    values = json.loads((folder / "transforms_train.json").read_text())
    values["frames"] += [{**values["frames"][3], "file_path": f"./train/r_{index}"} for index in range(4, 7)]
    (folder / "transforms_train.json").write_text(json.dumps(values))
    capture = read_capture(folder)
    assert capture.names == tuple(f"./train/r_{index}" for index in (3, 4, 5, 6))
    reasons = {item.path: item.reason for item in capture.skipped}
    assert "no such file" in reasons["./train/r_0"]
    assert "cut short" in reasons["./train/r_1"]
    assert "is 8x8 pixels, the others are 16x16" in reasons["./train/r_2"]


def test_no_readable_picture_is_an_error(folder):
    for index in range(4):
        picture(folder, index).write_bytes(b"broken")
    with pytest.raises(FormatError, match=r"none of the 4 pictures of the train split .*r_0\.png: not a picture"):
        read_capture(folder)


def test_no_picture_at_all_is_an_error(folder):
    for index in range(4):
        picture(folder, index).unlink()
    with pytest.raises(FormatError, match="none of the 4 pictures"):
        read_capture(folder)


def test_options_override_bounds_and_near(folder):
    options = CaptureOptions(scene_bounds=(-1, -1, 0, 1, 1, 2), near=0.5)
    capture = read_capture(folder, options=options)
    assert capture.bounds == Bounds(minimum=(-1, -1, 0), maximum=(1, 1, 2))
    assert capture.near == 0.5


@pytest.mark.slow
def test_lego(shared_data):
    folder = shared_data / "images/nerf_synthetic/lego"
    counts = [len(read_capture(folder, split=split)) for split in ("train", "val", "test")]
    assert counts == [100, 10, 25]
    capture = read_capture(folder)
    assert capture.images.shape(0) == (800, 800, 4)
    assert float(capture.cameras.focal[0, 0]) == pytest.approx(1111.111, abs=1e-2)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_picture_for_training_cannot_be_held_out_too(folder, held_out):
    values = json.loads((folder / "transforms_train.json").read_text())
    values["frames"][0]["file_path"] = "train/r_0"
    (folder / f"transforms_{held_out}.json").write_text(json.dumps(values))
    expected = rf"transforms_train\.json and .*transforms_{held_out}\.json both list 'train/r_0' and 3 more\. Keep each"
    for split in ("train", held_out):
        with pytest.raises(FormatError, match=expected):
            read_capture(folder, split=split)


def test_val_and_test_may_share_pictures(folder):
    (folder / "transforms_val.json").write_text((folder / "transforms_test.json").read_text())
    assert read_capture(folder, split="val").names == read_capture(folder, split="test").names


@pytest.mark.parametrize("other", ["{", "[]", '{"frames": 3}', '{"frames": [4, {"file_path": 5}]}'])
def test_a_fault_in_another_splits_file_is_left_to_its_reading(folder, other):
    (folder / "transforms_test.json").write_text(other)
    assert len(read_capture(folder)) == 4
    with pytest.raises(FormatError, match=r"transforms_test\.json"):
        read_capture(folder, split="test")


def test_frames_that_repeat_another_are_skipped_and_listed(folder):
    file = folder / "transforms_train.json"
    values = json.loads(file.read_text())
    values["frames"].append(values["frames"][1])
    file.write_text(json.dumps(values))
    capture = read_capture(folder)
    assert len(capture) == 4
    assert [item.path for item in capture.skipped] == ["./train/r_1"]
    values["frames"][-1] = {**values["frames"][1], "transform_matrix": values["frames"][2]["transform_matrix"]}
    file.write_text(json.dumps(values))
    with pytest.raises(FormatError, match=r"frame 4 \(\./train/r_1\): expected one frame for each picture"):
        read_capture(folder)
