"""A capture of any layout, converted and read again, casts the same rays at the same pixels."""

import json
import os
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.capture import FORMATS, CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.formats.transforms_json import CAMERA_MODELS
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.nerfstudio import convert_capture
from voxfield.geometry.camera import CameraModel

NAMES = [name for name in FORMATS if name != "auto"]
SPLITS = ("train", "val", "test")


def read(path, split="train"):
    """The split in the capture's own coordinates."""
    options = CaptureOptions(orientation="none", centre="none", auto_scale=False)
    return read_capture(path, split=split, options=options)


@pytest.fixture
def source(tmp_path, captures):
    """Write a capture of a layout."""

    def write(name, **options):
        folder = tmp_path / "source" / "office1a"
        folder.mkdir(parents=True)
        captures.WRITERS[name](folder, captures.some_cameras(centred=True), **options)
        return folder

    return write


def transforms(folder):
    return json.loads((folder / "transforms.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_rays_see_the_same_pixels(source, tmp_path, name):
    before, output = source(name), tmp_path / "output"
    conversion = convert_capture(before, output, images="link")
    assert conversion.format == name
    assert not conversion.left_out
    for split in SPLITS:
        ours, theirs = read(output, split), read(before, split)
        assert ours.source["format"] == "nerfstudio"
        assert len(ours) == len(theirs) == conversion.pictures[split]
        order = sorted(range(len(theirs)), key=lambda index: output_name(ours, theirs, index))
        for mine, its in enumerate(order):
            a, b = ours.cameras.image_rays(mine), theirs.cameras.image_rays(its)
            torch.testing.assert_close(a.origins, b.origins, atol=1e-6, rtol=0)
            torch.testing.assert_close(a.directions, b.directions, atol=2e-6, rtol=0)
            assert torch.equal(ours.images.read(mine), theirs.images.read(its))
            assert same_mask(ours.images.mask(mine), theirs.images.mask(its))


def output_name(ours, theirs, index):
    """The name a picture has after conversion: its ending is spelt out, its folder comes under images."""
    stem = theirs.names[index].removeprefix("./").removeprefix("images/").rsplit(".", 1)[0]
    return next(name for name in ours.names if name.rsplit(".", 1)[0].endswith(stem))


def same_mask(one, other):
    return (one is None) == (other is None) and (one is None or torch.equal(one, other))


@pytest.mark.parametrize("name", NAMES)
def test_worlds_lead_back_to_the_same_reconstruction(source, tmp_path, name):
    before = source(name)
    convert_capture(before, tmp_path / "output", images="link")
    point = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    ours, theirs = read(tmp_path / "output").transform, read(before).transform
    torch.testing.assert_close(ours.apply_points(point), theirs.apply_points(point), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "half"), [("blender", 1.5), ("pynerf", 1.5)])
def test_bounded_scenes_stay_bounded(source, tmp_path, name, half):
    convert_capture(source(name), tmp_path / "output", images="link")
    capture = read(tmp_path / "output")
    assert not capture.unbounded
    assert capture.bounds.minimum == pytest.approx([-half] * 3)
    assert capture.bounds.maximum == pytest.approx([half] * 3)


def test_fisheye_rims_become_masks(source, tmp_path):
    before, output = source("eyefultower", fisheye=True), tmp_path / "output"
    convert_capture(before, output)
    ours, theirs = read(output), read(before)
    assert ours.cameras.model == "fisheye"
    assert torch.equal(ours.images.mask(0), theirs.images.mask(0))
    assert not bool(ours.images.mask(0).all())
    # One mask serves every picture of its size.
    assert [path.name for path in (output / "masks").iterdir()] == ["crop_48x32.png"]


def test_a_crop_keeps_usable_what_turns_back_beyond_it(source, tmp_path, captures):
    before, output = source("nerfstudio"), tmp_path / "output"
    keys = {"camera_model": "OPENCV_FISHEYE", "fl_x": 20, "fl_y": 20, "k1": -1 / 3, "fisheye_crop_radius": 12.5}
    captures.edit_json(before / "transforms.json", lambda values: values.update(keys))
    convert_capture(before, output)
    assert torch.equal(read(output).images.mask(0), read(before).images.mask(0))
    captures.edit_json(before / "transforms.json", lambda values: values.update(fisheye_crop_radius=15))
    with pytest.raises(FormatError, match="expected a fisheye lens"):
        convert_capture(before, tmp_path / "other")


@pytest.mark.parametrize(("model", "focal"), [("EQUIRECTANGULAR", 36.0), ("ORTHOPHOTO", 30.0)])
def test_panoramas_and_parallel_projection_are_kept(source, tmp_path, captures, model, focal):
    before, output = source("nerfstudio"), tmp_path / "output"
    captures.edit_json(
        before / "transforms.json", lambda values: values.update(camera_model=model, fl_x=focal, fl_y=focal)
    )
    convert_capture(before, output)
    values = transforms(output)
    assert (values["camera_model"], values["fl_x"]) == (model, pytest.approx(focal))
    ours, theirs = read(output).cameras, read(before).cameras
    assert ours.model == theirs.model
    torch.testing.assert_close(ours.image_rays(3).origins, theirs.image_rays(3).origins, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.image_rays(3).directions, theirs.image_rays(3).directions, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["colmap", "llff"])
def test_reduced_pictures_stand_in_with_their_lens(source, tmp_path, captures, name):
    before, output = source(name), tmp_path / "output"
    for path in sorted((before / "images").iterdir()):
        captures.picture(before / "images_2" / path.name, 1, (captures.WIDTH // 2, captures.HEIGHT // 2))
        path.unlink()
    assert convert_capture(before, output).frames == 9
    assert transforms(output)["fl_x"] == pytest.approx(20)
    ours, theirs = read(output).cameras, read(before).cameras
    torch.testing.assert_close(ours.image_rays(3).directions, theirs.image_rays(3).directions, atol=2e-6, rtol=0)


def test_a_lens_is_stated_once_unless_pictures_differ(source, tmp_path):
    convert_capture(source("metashape"), tmp_path / "one", images="link")
    assert transforms(tmp_path / "one")["fl_x"] == 40
    assert "fl_x" not in transforms(tmp_path / "one")["frames"][0]


def test_each_picture_has_its_lens_where_they_differ(source, tmp_path):
    convert_capture(source("pynerf"), tmp_path / "each", images="link")
    values = transforms(tmp_path / "each")
    assert "fl_x" not in values
    assert {frame["fl_x"] for frame in values["frames"]} == {40, 20}


def test_identity_is_applied_to_what_was_never_moved(source, tmp_path):
    convert_capture(source("polycam"), tmp_path / "output")
    assert transforms(tmp_path / "output")["applied_transform"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


class TestPictures:
    def test_they_are_copied(self, source, tmp_path):
        before = source("metashape")
        convert_capture(before, tmp_path / "output")
        copy = tmp_path / "output/images/DSC0001.jpg"
        assert copy.read_bytes() == (before / "images/DSC0001.jpg").read_bytes()
        assert not copy.samefile(before / "images/DSC0001.jpg")

    def test_or_linked(self, source, tmp_path):
        before = source("metashape")
        convert_capture(before, tmp_path / "output", images="link")
        assert (tmp_path / "output/images/DSC0001.jpg").samefile(before / "images/DSC0001.jpg")
        assert len(read(tmp_path / "output")) == 7

    def test_links_that_cannot_be_made_say_what_to_do(self, source, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(InputError, match="on another file system"):
            convert_capture(source("metashape"), tmp_path / "output", images="link")
        assert not (tmp_path / "output/transforms.json").exists()

    @pytest.mark.parametrize("above", [0, 1])
    def test_they_stay_where_they_are_inside_the_output(self, source, above):
        folder = source("metashape")
        output = folder.parents[above - 1] if above else folder
        before = sorted(path for path in output.rglob("*"))
        convert_capture(folder, output)
        assert set(output.rglob("*")) - set(before) == {output / "transforms.json"}
        assert len(read(output)) == 7

    def test_equal_names_do_not_meet(self, source, tmp_path, captures):
        before = source("blender")
        values = json.loads((before / "transforms_train.json").read_text())
        captures.picture(before / "images/train/r_0.png", 5)
        values["frames"].append({**values["frames"][0], "file_path": "./images/train/r_0"})
        (before / "transforms_train.json").write_text(json.dumps(values))
        conversion = convert_capture(before, tmp_path / "output", images="link")
        assert conversion.frames == 28
        assert len({frame["file_path"] for frame in transforms(tmp_path / "output")["frames"]}) == 28
        assert (tmp_path / "output/images/train/r_0_1.png").read_bytes() == (
            before / "images/train/r_0.png"
        ).read_bytes()

    def test_those_that_cannot_be_used_are_left_out(self, source, tmp_path):
        before = source("metashape")
        (before / "images/DSC0001.jpg").write_bytes(b"broken")
        (before / "images/DSC0002.jpg").unlink()
        conversion = convert_capture(before, tmp_path / "output")
        reasons = {item.path: item.reason for item in conversion.left_out}
        assert "not a picture" in reasons["images/DSC0001.jpg"]
        assert "no such file" in reasons["DSC0002"]
        assert conversion.frames == 7

    def test_frames_listed_twice_are_written_once(self, source, tmp_path):
        before = source("nerfstudio")
        values = json.loads((before / "transforms.json").read_text())
        values["frames"].append(values["frames"][1])
        (before / "transforms.json").write_text(json.dumps(values))
        conversion = convert_capture(before, tmp_path / "output")
        assert conversion.frames == len(values["frames"]) - 1
        assert [(item.path, "repeats" in item.reason) for item in conversion.left_out] == [
            (values["frames"][1]["file_path"], True)
        ]

    def test_none_at_all_are_an_error(self, source, tmp_path):
        before = source("metashape")
        for file in (before / "images").iterdir():
            file.write_bytes(b"broken")
        with pytest.raises(FormatError, match="none of its pictures can be read"):
            convert_capture(before, tmp_path / "output")

    def test_a_mask_of_another_size_leaves_its_picture_out(self, source, tmp_path, captures):
        before = source("neus")
        captures.picture(before / "mask/003.png", 3, (5, 5))
        conversion = convert_capture(before, tmp_path / "output")
        assert [item.path for item in conversion.left_out] == ["image/003.png"]
        assert "Make the mask again" in conversion.left_out[0].reason


class TestDepthImages:
    @pytest.fixture
    def with_depths(self, source, captures):
        """A nerfstudio capture with a depth image for every picture but the last, and where it lies."""
        folder = source("nerfstudio")

        def name_them(values):
            values["frames"].sort(key=lambda frame: frame["file_path"])
            for index, frame in enumerate(values["frames"][:-1]):
                write_depth(folder / f"depth/{index:02d}.png", 1000 + index)
                frame["depth_file_path"] = f"depth/{index:02d}.png"

        captures.edit_json(folder / "transforms.json", name_them)
        return folder

    @pytest.mark.parametrize("images", ["copy", "link"])
    def test_they_come_along(self, with_depths, tmp_path, images):
        output = tmp_path / "output"
        conversion = convert_capture(with_depths, output, images=images, subsets=("half",))
        assert not conversion.left_out
        listed = transforms(output)["frames"]
        assert [frame.get("depth_file_path") for frame in listed] == [
            *(f"depths/depth/{index:02d}.png" for index in range(8)),
            None,
        ]
        for split in SPLITS:
            ours, theirs = read(output, split), read(with_depths, split)
            assert ours.depth_images.unit == pytest.approx(theirs.depth_images.unit)
            for mine, its in zip(ours.depth_images.paths, theirs.depth_images.paths, strict=True):
                assert (mine is None) == (its is None)
                assert mine is None or mine.read_bytes() == its.read_bytes()
        assert read(output / "transforms_half.json").depth_images is not None

    def test_they_measure_the_same_in_a_scaled_world(self, with_depths, tmp_path):
        convert_capture(with_depths, tmp_path / "output", images="link")
        ours, theirs = read_capture(tmp_path / "output"), read_capture(with_depths)
        assert ours.transform.scale != pytest.approx(1)
        assert ours.depth_images.unit == pytest.approx(theirs.depth_images.unit)

    def test_arrays_and_what_a_step_is_worth_come_along(self, with_depths, tmp_path, captures):
        np.save(with_depths / "depth/00.npy", np.full((16, 24), 1.5, np.float32))

        def change(values):
            values["frames"][0]["depth_file_path"] = "depth/00.npy"
            values["depth_unit_scale_factor"] = 0.5

        captures.edit_json(with_depths / "transforms.json", change)
        convert_capture(with_depths, tmp_path / "output", images="link")
        assert transforms(tmp_path / "output")["depth_unit_scale_factor"] == 0.5
        assert (tmp_path / "output/depths/depth/00.npy").is_file()
        ours, theirs = read_capture(tmp_path / "output"), read_capture(with_depths)
        assert ours.depth_images.unit == pytest.approx(theirs.depth_images.unit)

    def test_those_of_a_blender_capture_come_too(self, source, tmp_path, captures):
        before = source("blender")
        write_depth(before / "train/d_0.png", 7)
        captures.edit_json(
            before / "transforms_train.json", lambda values: values["frames"][0].update(depth_file_path="train/d_0.png")
        )
        convert_capture(before, tmp_path / "output", images="link")
        named = [frame.get("depth_file_path") for frame in transforms(tmp_path / "output")["frames"]]
        assert set(named) == {None, "depths/train/d_0.png"}

    def test_their_own_folder_is_an_output(self, with_depths):
        convert_capture(with_depths, with_depths, overwrite=True)
        assert transforms(with_depths)["frames"][3]["depth_file_path"] == "depth/03.png"
        assert not (with_depths / "depths").exists()

    def test_one_that_cannot_be_read_is_named_and_its_picture_kept(self, with_depths, tmp_path):
        (with_depths / "depth/02.png").write_bytes(b"broken")
        (with_depths / "depth/05.png").unlink()
        conversion = convert_capture(with_depths, tmp_path / "output")
        assert conversion.frames == 9
        assert [item.path for item in conversion.left_out] == [f"images/frame_{index:05d}.png" for index in (2, 5)]
        assert "depth/02.png: " in conversion.left_out[0].reason
        assert "depth/05.png: " in conversion.left_out[1].reason
        named = [frame.get("depth_file_path") for frame in transforms(tmp_path / "output")["frames"]]
        assert [index for index, name in enumerate(named) if name is None] == [2, 5, 8]


def write_depth(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 48), value, dtype=np.uint16)).save(path)


def test_masks_of_reduced_pictures_are_reduced_too(source, captures):
    before = source("colmap")
    for path in sorted((before / "images").iterdir()):
        captures.picture(before / "images_2" / path.name, 1, (captures.WIDTH // 2, captures.HEIGHT // 2))
        path.unlink()
    mask = Image.new("L", (captures.WIDTH, captures.HEIGHT))
    mask.paste(255, (0, 0, 20, captures.HEIGHT))
    (before / "masks").mkdir()
    mask.save(before / "masks/003.jpg.png")
    options = CaptureOptions(format="colmap")
    for _ in range(2):
        assert not convert_capture(before, before, overwrite=True, options=options).left_out
        assert {path.name for path in (before / "masks").iterdir()} == {"003.jpg.png", "003.jpg_24x16.png"}
    ours = read(before)
    assert ours.source["format"] == "nerfstudio"
    kept = ours.images.mask([name[-7:] for name in ours.names].index("003.jpg"))
    assert kept.shape == (16, 24)
    assert kept[:, :10].all()
    assert not kept[:, 10:].any()


def test_every_camera_model_has_its_name():
    assert set(CAMERA_MODELS) == set(get_args(CameraModel))


def test_nothing_is_overwritten(source, tmp_path):
    before = source("nerfstudio")
    with pytest.raises(InputError, match=r"transforms\.json: exists already"):
        convert_capture(before, before)


def test_splits_a_capture_lacks_are_left_to_the_reader(source, tmp_path):
    before = source("blender")
    for split in ("val", "test"):
        (before / f"transforms_{split}.json").unlink()
    conversion = convert_capture(before, tmp_path / "output")
    assert conversion.pictures == {"train": 9}
    with pytest.raises(MissingFileError):
        convert_capture(tmp_path / "nowhere", tmp_path / "other")


class TestSubsets:
    def test_they_spread_over_every_split(self, source, tmp_path, captures):
        before, output = source("eyefultower"), tmp_path / "output"
        conversion = convert_capture(before, output, images="link", subsets=("6", "half", "300"))
        assert {path.name: count for path, count in conversion.subsets.items()} == {
            "transforms_6.json": 6,
            "transforms_half.json": 4,
            "transforms_300.json": 9,
        }
        for path, count in conversion.subsets.items():
            everything = {split: set(read(output, split).names) for split in SPLITS}
            some = {split: set(read(path, split).names) for split in SPLITS}
            assert len(some["train"] | some["test"]) == count
            assert all(some[split] <= everything[split] for split in SPLITS)
            assert abs(len(some["test"]) - count / 3) < 1
        names = sorted(read(output / "transforms_6.json").names)
        assert [name[-11:-4] for name in names] == ["DSC0000", "DSC0003", "DSC0002", "DSC0005"]

    def test_a_subset_casts_the_same_rays(self, source, tmp_path):
        output = tmp_path / "output"
        convert_capture(source("metashape"), output, images="link", subsets=("5",))
        some, everything = read(output / "transforms_5.json"), read(output)
        for index, name in enumerate(some.names):
            theirs = everything.cameras.image_rays(everything.names.index(name))
            assert torch.equal(some.cameras.image_rays(index).directions, theirs.directions)

    def test_one_picture_is_no_held_out_one(self, source, tmp_path):
        convert_capture(source("metashape"), tmp_path / "output", subsets=("1",))
        values = json.loads((tmp_path / "output/transforms_1.json").read_text())
        assert (len(values["frames"]), len(values["train_filenames"]), values["test_filenames"]) == (1, 1, [])

    @pytest.mark.parametrize("name", ["0", "-3", "third", "1.5", "", "99999999999", "../x"])
    def test_others_are_errors(self, source, tmp_path, name):
        with pytest.raises(InputError, match="expected 'half' or a number of pictures"):
            convert_capture(source("metashape"), tmp_path / "output", subsets=(name,))

    def test_none_is_overwritten_unasked(self, source, tmp_path):
        before, output = source("eyefultower", fisheye=True), tmp_path / "output"
        convert_capture(before, output, subsets=("4",))
        (output / "transforms.json").unlink()
        with pytest.raises(InputError, match=r"transforms_4\.json: exists already"):
            convert_capture(before, output, subsets=("4",))
        convert_capture(before, output, subsets=("4",), overwrite=True)
        assert [path.name for path in (output / "masks").iterdir()] == ["crop_48x32.png"]


def test_the_command_line_converts(source, tmp_path, capsys):
    before = source("record3d")
    output = tmp_path / "output"
    options = ["--images", "link", "--eval-every", "3", "--subsets", "6", "half"]
    assert main(["capture", "convert", str(before), str(output), *options]) == 0
    said = capsys.readouterr().out
    assert f"{output / 'transforms_half.json'}: 4 pictures" in said
    assert "Read   9 pictures (record3d): 6 train, 3 val, 3 test" in said
    assert str(output / "transforms.json") in said
    (before / "rgb/4.jpg").write_bytes(b"broken")
    assert main(["capture", "convert", str(before), str(tmp_path / "again")]) == 1
    assert "Left out rgb/4.jpg: " in capsys.readouterr().out
    assert main(["capture", "convert", str(before), str(output)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["capture", "convert", str(before), str(tmp_path / "new"), "--format", "record2d"]) == 2
    assert "Did you mean record3d" in capsys.readouterr().err


def test_it_is_a_public_call(source, tmp_path):
    assert voxfield.convert_capture(source("polycam"), tmp_path / "output").frames == 9
