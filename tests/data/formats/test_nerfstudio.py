import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import FormatError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.lenses import COEFFICIENTS
from voxfield.geometry.pose import focus

COUNT = 18


@pytest.fixture(scope="module")
def written():
    return posed_images(count=COUNT, resolution=16)


@pytest.fixture
def folder(tmp_path, written):
    write_nerfstudio(tmp_path, written)
    return tmp_path


def edit(folder, change=None, **keys):
    file = folder / "transforms.json"
    values = json.loads(file.read_text())
    values.update(keys)
    if change is not None:
        change(values)
    file.write_text(json.dumps(values))


def name(index):
    return f"images/{index:04d}.png"


def read(folder, split="train", **options):
    return read_capture(folder, split=split, options=CaptureOptions(**options))


class TestSplits:
    def test_every_eighth_picture_is_held_out(self, folder):
        assert read(folder, "test").names == (name(0), name(8), name(16))
        assert read(folder, "val").names == read(folder, "test").names
        assert len(read(folder)) == COUNT - 3
        assert read(folder, "test", eval_every=6).names == (name(0), name(6), name(12))

    def test_only_pictures_that_exist_count(self, folder):
        for index in (0, 3, 5):
            (folder / name(index)).unlink()
        capture = read(folder, "test")
        assert capture.names == (name(1), name(11))
        assert [item.path for item in capture.skipped] == [name(0), name(3), name(5)]
        assert [item.path for item in read(folder).skipped] == [name(0), name(3), name(5)]

    def test_the_order_of_frames_does_not_matter(self, folder):
        expected = read(folder, "test").names
        edit(folder, lambda values: values["frames"].reverse())
        assert read(folder, "test").names == expected

    def test_a_broken_picture_does_not_move_the_others_between_splits(self, folder):
        (folder / name(2)).write_bytes(b"broken")
        assert read(folder, "test").names == (name(0), name(8), name(16))
        assert len(read(folder)) == COUNT - 4

    def test_lists_in_the_file_decide(self, folder):
        edit(folder, train_filenames=[name(1), "./" + name(2)], val_filenames=[name(3)], test_filenames=[name(4)])
        assert read(folder).names == (name(1), name(2))
        assert read(folder, "val").names == (name(3),)
        assert read(folder, "test").names == (name(4),)

    def test_an_empty_test_list_falls_back_to_val(self, folder):
        edit(folder, train_filenames=[name(1)], val_filenames=[name(3)], test_filenames=[])
        assert read(folder, "test").names == (name(3),)

    def test_splits_the_lists_leave_out_get_what_no_list_claims(self, folder):
        edit(folder, train_filenames=[name(index) for index in range(2, COUNT)])
        assert read(folder, "test").names == (name(0), name(1))

    def test_unknown_names_in_lists_are_an_error(self, folder):
        edit(folder, train_filenames=["images/other.png"])
        with pytest.raises(FormatError, match=r"train_filenames lists 'images/other\.png'"):
            read(folder)
        edit(folder, train_filenames="images/0001.png")
        with pytest.raises(FormatError, match="train_filenames to be a list of paths"):
            read(folder)

    @pytest.mark.parametrize("held_out", ["val", "test"])
    def test_a_picture_for_training_cannot_be_held_out_too(self, folder, held_out):
        lists = {f"{held_out}_filenames": ["./" + name(2), name(3), name(4)]}
        edit(folder, train_filenames=[name(1), name(2), name(3)], **lists)
        expected = rf"train_filenames and .*{held_out}_filenames both list '{name(2)}' and 1 more\. Keep each picture"
        for split in ("train", "val", "test"):
            with pytest.raises(FormatError, match=expected):
                read(folder, split)

    def test_val_and_test_may_share_pictures(self, folder):
        edit(folder, train_filenames=[name(1)], val_filenames=[name(3)], test_filenames=[name(3), name(4)])
        assert read(folder, "val").names == (name(3),)
        assert read(folder, "test").names == (name(3), name(4))

    @pytest.mark.parametrize("spelling", [name(3), "./" + name(3), "images/../" + name(3), "images/0003"])
    def test_frames_that_repeat_another_are_skipped_and_listed(self, folder, spelling):
        before = read(folder)
        edit(folder, lambda values: values["frames"].append({**values["frames"][3], "file_path": spelling}))
        capture = read(folder)
        assert [item.path for item in capture.skipped] == [spelling]
        assert "repeats an earlier frame. Remove one" in capture.skipped[0].reason
        assert capture.names == before.names
        assert torch.equal(capture.transform.matrix, before.transform.matrix)

    @pytest.mark.parametrize("keys", [{"fl_x": 99.0}, {"transform_matrix": 5}])
    def test_one_picture_with_two_poses_or_lenses_is_an_error(self, folder, keys):
        def change(values):
            other = {**values["frames"][3], **keys}
            if "transform_matrix" in keys:
                other["transform_matrix"] = values["frames"][5]["transform_matrix"]
            values["frames"].append(other)

        edit(folder, change)
        expected = (
            rf"frame {COUNT} \({name(3)}\): expected one frame for each picture, got a second one with another pose"
        )
        with pytest.raises(FormatError, match=expected):
            read(folder)

    def test_an_empty_split_is_an_error(self, folder):
        edit(folder, train_filenames=[name(index) for index in range(COUNT)])
        with pytest.raises(FormatError, match="the test split is empty"):
            read(folder, "test")

    def test_one_picture_leaves_no_train_split(self, folder):
        edit(folder, lambda values: values.update(frames=values["frames"][:1]))
        with pytest.raises(FormatError, match="the train split is empty"):
            read(folder)

    def test_most_images_keeps_an_even_choice(self, folder):
        assert read(folder, max_images=3).names == (name(1), name(6), name(12))


class TestWorld:
    def test_cameras_fit_the_unit_cube_and_look_at_the_origin(self, folder):
        capture = read(folder)
        assert capture.bounds == Bounds.from_cube(1.0)
        assert capture.unbounded
        assert float(capture.cameras.origins.abs().max()) <= 1.0
        torch.testing.assert_close(
            focus(capture.cameras.camera_to_world).point, torch.zeros(3).double(), atol=1e-5, rtol=0
        )

    def test_every_split_has_the_same_world_whatever_is_missing(self, folder):
        train = read(folder).transform.matrix
        assert torch.equal(read(folder, "test").transform.matrix, train)
        (folder / name(4)).unlink()
        assert torch.equal(read(folder).transform.matrix, train)

    def test_the_transform_leads_back(self, folder, written):
        capture = read(folder, "test")
        back = capture.transform.inverse().apply_poses(capture.cameras.camera_to_world)
        torch.testing.assert_close(back, written.cameras.camera_to_world[[0, 8, 16]], atol=1e-5, rtol=0)

    def test_nothing_moves_when_asked(self, folder, written):
        capture = read(folder, "test", orientation="none", centre="none", auto_scale=False)
        torch.testing.assert_close(
            capture.cameras.camera_to_world, written.cameras.camera_to_world[[0, 8, 16]], atol=1e-6, rtol=0
        )

    def test_what_the_exporter_applied_is_part_of_the_transform(self, folder, written):
        applied = [[0, 0, 1, 0.5], [1, 0, 0, 0], [0, 1, 0, -1]]
        edit(folder, applied_transform=applied, applied_scale=2.0)
        capture = read(folder, "test")
        # A point of the original reconstruction, through the file's coordinates, must meet the camera it was at.
        forward = 2.0 * torch.tensor(applied, dtype=torch.float64)
        in_file = written.cameras.origins[8].double()
        original = forward[:, :3].inverse() @ (in_file - forward[:, 3])
        there = capture.transform.apply_points(original)
        torch.testing.assert_close(there.float(), capture.cameras.origins[1], atol=1e-5, rtol=0)

    def test_an_applied_transform_that_shears_is_an_error(self, folder):
        edit(folder, applied_transform=[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
        with pytest.raises(FormatError, match="applied_transform to be a rotation"):
            read(folder)

    def test_aabb_scale_one_states_the_bounds(self, folder):
        edit(folder, aabb_scale=1)
        capture = read(folder, orientation="none", centre="none", auto_scale=False)
        half = 0.5 / 0.33
        assert not capture.unbounded
        assert capture.bounds.maximum == pytest.approx((half, half, half))
        edit(folder, scale=0.5, offset=[0.5, 0.5, 0.0])
        capture = read(folder, orientation="none", centre="none", auto_scale=False)
        assert capture.bounds.minimum == pytest.approx((-1.0, -1.0, 0.0))
        assert capture.bounds.maximum == pytest.approx((1.0, 1.0, 2.0))

    def test_stated_bounds_follow_the_world(self, folder):
        edit(folder, aabb_scale=1)
        capture = read(folder)
        corners = capture.transform.apply_points(Bounds.from_cube(0.5 / 0.33).corners())
        assert capture.bounds == Bounds.from_points(corners)

    @pytest.mark.parametrize("keys", [{"aabb_scale": 0}, {"aabb_scale": "big"}, {"aabb_scale": 1, "offset": [1, 2]}])
    def test_regions_that_make_no_sense_are_errors(self, folder, keys):
        edit(folder, **keys)
        with pytest.raises(FormatError, match=r"expected (aabb_scale|offset)"):
            read(folder)


class TestLens:
    def test_distortion_is_read(self, tmp_path, written):
        lens = torch.tensor([0.05, -0.08, 0.0, 0.0, -0.001, 0.0002]).repeat(COUNT, 1)
        cameras = replace(written.cameras, distortion=lens, principal=written.cameras.principal + 0.7)
        write_nerfstudio(tmp_path, replace(written, cameras=cameras))
        came = read(tmp_path, "test").cameras
        assert came.model == "perspective"
        torch.testing.assert_close(came.distortion, lens[:3])
        torch.testing.assert_close(came.principal, cameras.principal[:3])

    def test_rational_lenses_are_read_as_they_are_written(self, tmp_path, written):
        lens = torch.tensor([0.5, -2.6, 1.5, 0.0, 0.0006, -0.0002, 0.38, -2.45, 1.44]).repeat(COUNT, 1)
        write_nerfstudio(tmp_path, replace(written, cameras=replace(written.cameras, distortion=lens)))
        values = json.loads((tmp_path / "transforms.json").read_text())
        assert values["camera_model"] == "FULL_OPENCV"
        assert [round(values[f"k{number}"], 6) for number in range(1, 7)] == [0.5, -2.6, 1.5, 0.38, -2.45, 1.44]
        torch.testing.assert_close(read(tmp_path, "test").cameras.distortion, lens[:3])

    @pytest.mark.parametrize(
        ("model", "focal"),
        [("fisheye", (20.0, 21.0)), ("equirectangular", (2.6, 5.2)), ("orthographic", (9.0, 8.0))],
    )
    def test_other_models_are_read_as_they_are_written(self, tmp_path, written, model, focal):
        cameras = replace(written.cameras, model=model, focal=torch.tensor([focal]).repeat(COUNT, 1))
        write_nerfstudio(tmp_path, replace(written, cameras=cameras))
        came = read(tmp_path, "test", orientation="none", centre="none", auto_scale=False).cameras
        assert came.model == model
        torch.testing.assert_close(came.focal, cameras.focal[:3])

    @pytest.mark.parametrize(("model", "keys"), COEFFICIENTS.items())
    def test_lenses_of_colmap_are_read_as_they_are_written(self, tmp_path, written, model, keys):
        row = torch.linspace(0.01, 0.02, len(keys))
        row = row + torch.tensor([0.5, 1.0]) if model == "eucm" else row
        cameras = replace(written.cameras, model=model, distortion=row.repeat(COUNT, 1))
        write_nerfstudio(tmp_path, replace(written, cameras=cameras))
        values = json.loads((tmp_path / "transforms.json").read_text())
        assert values["camera_model"] == model.upper()
        came = read(tmp_path, "test").cameras
        assert came.model == model
        torch.testing.assert_close(came.distortion, cameras.distortion[:3], rtol=0, atol=0)
        edit(tmp_path, lambda values: values.pop(keys[-1]))
        with pytest.raises(FormatError, match=f"got no {keys[-1]}"):
            read(tmp_path)

    def test_panoramas_state_half_their_width_as_focal_length(self, folder):
        edit(folder, camera_model="EQUIRECTANGULAR", fl_x=8.0, fl_y=16.0)
        cameras = read(folder).cameras
        assert cameras.model == "equirectangular"
        # 16 pixels are a full turn across and half a turn down.
        torch.testing.assert_close(cameras.focal[0], torch.tensor([16 / (2 * math.pi), 16 / math.pi]))

    def test_panoramas_without_focal_length_go_once_around(self, folder):
        edit(folder, lambda values: [values.pop(key) for key in ("fl_x", "fl_y")], camera_model="EQUIRECTANGULAR")
        cameras = read(folder).cameras
        torch.testing.assert_close(cameras.focal[0], torch.tensor([16 / (2 * math.pi), 16 / math.pi]))

    def test_panoramas_of_more_than_a_turn_are_refused(self, folder):
        edit(folder, camera_model="EQUIRECTANGULAR", fl_x=4.0, fl_y=16.0)
        with pytest.raises(FormatError, match=r"at most 360x180 degrees, got 720x180"):
            read(folder)

    @pytest.mark.parametrize("name", ["ORTHOPHOTO", "ORTHOGRAPHIC"])
    def test_orthographic_pixels_follow_the_worlds_scale(self, folder, name):
        edit(folder, camera_model=name, fl_x=10.0, fl_y=12.0)
        capture = read(folder, downscale=2)
        assert capture.cameras.model == "orthographic"
        expected = torch.tensor([5.0, 6.0]) / capture.transform.scale
        torch.testing.assert_close(capture.cameras.focal[0], expected.float())

    def test_pixels_beyond_a_fisheyes_crop_do_not_count(self, folder):
        edit(folder, camera_model="OPENCV_FISHEYE", fisheye_crop_radius=6.0)
        capture = read(folder, downscale=2)
        assert capture.has_masks
        mask = capture.images.mask(0)
        centre = torch.arange(8) + 0.5 - 4
        assert torch.equal(mask, torch.hypot(centre[:, None], centre[None, :]) <= 3.0)

    def test_a_crop_and_a_mask_are_both_heeded(self, folder):
        mask = np.full((16, 16), 255, dtype=np.uint8)
        mask[:, 8:] = 0
        Image.fromarray(mask).save(folder / "mask.png")
        edit(
            folder,
            lambda values: [frame.update(mask_path="mask.png") for frame in values["frames"]],
            camera_model="OPENCV_FISHEYE",
            fisheye_crop_radius=6.0,
        )
        kept = read(folder).images.mask(0)
        assert bool(kept[8, 4])
        assert not bool(kept[0, 0])
        assert not bool(kept[8, 9])

    def test_a_perspective_lens_ignores_the_fisheyes_crop(self, folder):
        edit(folder, fisheye_crop_radius=6.0)
        assert not read(folder).has_masks

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            # r = t - t^3 / 3 ends at 2/3: 6.7 pixels at 10 pixels a radian.
            ({"fl_x": 10.0, "fl_y": 10.0, "k1": -1 / 3}, "within 8 pixels of its axis, but its model turns back"),
            ({"fl_x": 10.0, "fl_y": 10.0, "k1": -1 / 3, "fisheye_crop_radius": 7.5}, "within 8 pixels"),
            ({"fl_x": 1.0, "fl_y": 1.0}, "or ends at 3"),
        ],
    )
    def test_fisheyes_out_of_range_are_refused(self, folder, keys, words):
        edit(folder, camera_model="OPENCV_FISHEYE", **keys)
        with pytest.raises(FormatError, match=words):
            read(folder)

    def test_a_crop_inside_the_turn_makes_a_fisheye_usable(self, folder):
        edit(folder, camera_model="OPENCV_FISHEYE", fl_x=10.0, fl_y=10.0, k1=-1 / 3, fisheye_crop_radius=6.5)
        assert read(folder).has_masks

    def test_a_frames_own_lens_wins(self, folder):
        edit(folder, lambda values: values["frames"][8].update(fl_x=99.0, fl_y=98.0, k1=0.01))
        cameras = read(folder, "test").cameras
        assert cameras.focal[1].tolist() == [99.0, 98.0]
        assert cameras.distortion[:, 0].tolist() == pytest.approx([0.0, 0.01, 0.0])

    def test_mixed_models_are_an_error(self, folder):
        edit(folder, lambda values: values["frames"][9].update(camera_model="OPENCV_FISHEYE"))
        with pytest.raises(FormatError, match="perspective and fisheye"):
            read(folder)

    def test_angles_stand_in_for_focal_lengths(self, folder, written):
        def change(values):
            values.pop("fl_x")
            values.pop("fl_y")
            values.update(camera_angle_x=0.7)

        edit(folder, change)
        torch.testing.assert_close(read(folder).cameras.focal, written.cameras.focal[:15])
        edit(folder, camera_angle_y=0.9)
        assert float(read(folder).cameras.focal[0, 1]) == pytest.approx(8 / math.tan(0.45))

    def test_sizes_may_be_left_to_the_pictures(self, folder):
        edit(folder, lambda values: [values.pop(key) for key in ("w", "h", "cx", "cy")])
        cameras = read(folder).cameras
        assert cameras.width.unique().tolist() == [16]
        assert cameras.principal.unique().tolist() == [8.0]


class TestPictures:
    def test_another_size_than_stated_is_skipped(self, folder):
        Image.new("RGBA", (16, 12)).save(folder / name(3))
        capture = read(folder)
        assert [item.path for item in capture.skipped] == [name(3)]
        assert "is 16x12 pixels, but its frame says 16x16" in capture.skipped[0].reason

    def test_all_of_another_size_is_an_error(self, folder):
        edit(folder, w=32, h=32)
        with pytest.raises(FormatError, match="none of the 15 pictures"):
            read(folder)

    def test_missing_endings_are_found(self, folder):
        edit(folder, lambda values: values["frames"][1].update(file_path="images/0001"))
        assert read(folder).names[0] == "images/0001"

    def test_the_json_itself_may_be_named(self, folder):
        (folder / "transforms.json").rename(folder / "transforms_300.json")
        capture = read(folder / "transforms_300.json")
        assert len(capture) == 15
        assert capture.source["file"] == "transforms_300.json"

    def test_masks_are_read(self, folder):
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[:, 8:] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        edit(folder, lambda values: values["frames"][1].update(mask_path="mask.png"))
        capture = read(folder)
        assert capture.has_masks
        assert torch.equal(capture.images.mask(0), torch.from_numpy(mask > 0))
        assert capture.images.mask(1) is None

    def test_missing_and_odd_masks_skip_their_pictures(self, folder):
        Image.new("L", (9, 9)).save(folder / "odd.png")
        edit(
            folder,
            lambda values: (
                values["frames"][1].update(mask_path="absent.png"),
                values["frames"][2].update(mask_path="odd.png"),
            ),
        )
        reasons = {item.path: item.reason for item in read(folder).skipped}
        assert "absent.png: no such file" in reasons[name(1)]
        assert "odd.png: is 9x9 pixels" in reasons[name(2)]


class TestDownscale:
    def test_pictures_are_reduced_as_they_are_read(self, folder, written):
        capture = read(folder, downscale=2)
        assert capture.images.shape(0) == (8, 8, 4)
        assert capture.images.read(0).shape == (8, 8, 4)
        torch.testing.assert_close(capture.cameras.focal, written.cameras.focal[:15] / 2)
        assert capture.source["downscale"] == 2

    def test_reduced_copies_are_preferred(self, folder):
        (folder / "images_4").mkdir()
        for index in range(COUNT):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / "images_4" / f"{index:04d}.jpg", quality=100)
        capture = read(folder, downscale=4)
        assert capture.images.read(2).shape == (4, 4, 3)
        assert int(capture.images.read(2)[0, 0, 0]) == pytest.approx(3, abs=2)
        assert capture.cameras.width.unique().tolist() == [4]

    def test_reduced_copies_of_an_odd_size_are_skipped(self, folder):
        (folder / "images_2").mkdir()
        Image.new("RGB", (3, 3)).save(folder / "images_2" / "0001.png")
        capture = read(folder, downscale=2)
        assert [item.path for item in capture.skipped] == [name(1)]

    def test_masks_are_reduced_too(self, folder):
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[:, 7:] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        edit(folder, lambda values: values["frames"][1].update(mask_path="mask.png"))
        kept = read(folder, downscale=2).images.mask(0)
        assert kept.shape == (8, 8)
        assert kept[0].tolist() == [False] * 4 + [True] * 4

    def test_large_pictures_are_reduced_automatically(self, folder):
        for index in range(COUNT):
            Image.new("RGB", (3300, 40), (10, 20, 30)).save(folder / name(index))
        edit(folder, w=3300, h=40)
        capture = read(folder, "test")
        assert capture.source["downscale"] == 4
        assert capture.images.read(0).shape == (10, 825, 3)

    def test_rounded_sizes_keep_the_field_of_view(self, folder, written):
        capture = read(folder, downscale=3)
        assert capture.images.read(0).shape == (5, 5, 4)
        torch.testing.assert_close(capture.cameras.focal, written.cameras.focal[:15] * 5 / 16)


@pytest.mark.slow
def test_fox(shared_data):
    folder = shared_data / "images/fox"
    train, test = read(folder), read(folder, "test")
    assert (len(train), len(test)) == (43, 7)
    assert len(train.skipped) == 17
    assert all("no such file" in item.reason for item in train.skipped)
    assert train.cameras.distortion is not None
    assert train.images.shape(0) == (960, 540, 3)
    assert train.unbounded
    assert float(train.cameras.origins.abs().max()) <= 1.0
