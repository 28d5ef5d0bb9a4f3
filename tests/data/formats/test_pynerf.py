import pytest
import torch

from voxfield.errors import MissingFileError
from voxfield.geometry.bounds import Bounds


@pytest.fixture
def truth(captures):
    return captures.some_cameras(centred=True)


@pytest.fixture
def folder(tmp_path, captures, truth):
    captures.write_pynerf(tmp_path, truth)
    return tmp_path


def edit(captures, folder, change, split="train"):
    captures.edit_json(folder / "metadata.json", lambda values: change(values[split]))


def test_every_scale_is_a_picture_with_its_own_lens(folder, truth, read, same_rays):
    capture = read(folder)
    assert capture.names[:2] == ("images_train/r_0_d0.png", "images_train/r_0_d1.png")
    assert capture.cameras.width.tolist() == [48, 24] * len(truth)
    same_rays(capture.cameras[torch.arange(0, len(capture), 2)], truth, range(len(truth)))
    # The corner pixel of the coarse picture looks where the middle of four fine pixels does.
    fine, coarse = capture.cameras.rays(torch.tensor([0, 1]), torch.tensor([[1.0, 1.0], [0.5, 0.5]])).directions
    torch.testing.assert_close(fine, coarse, atol=1e-6, rtol=0)


def test_a_coarse_pixel_is_wider(folder, read):
    area = read(folder).cameras.rays(torch.tensor([0, 1]), torch.tensor([[24.0, 16.0], [12.0, 8.0]])).pixel_area
    assert float(area[1] / area[0]) == pytest.approx(4.0, rel=1e-5)


def test_what_the_file_says_of_the_scene_is_kept(folder, captures, read):
    capture = read(folder)
    assert capture.near == 0.5
    assert capture.source["far"] == 6.0
    assert not capture.unbounded
    assert capture.bounds == Bounds.from_cube(1.5)
    assert capture.source["scales"] == [
        {"width": 48, "height": 32, "weight": 1.0, "pictures": 9},
        {"width": 24, "height": 16, "weight": 4.0, "pictures": 9},
    ]
    captures.edit_json(folder / "metadata.json", lambda values: values.update(scene_bounds=[[-1, -2, 0], [1, 2, 3]]))
    assert read(folder).bounds == Bounds(minimum=(-1, -2, 0), maximum=(1, 2, 3))


def test_val_and_test_stand_in_for_each_other(folder, captures, read, message):
    captures.edit_json(folder / "metadata.json", lambda values: values.pop("val"))
    assert read(folder, "val").names == read(folder, "test").names
    captures.edit_json(folder / "metadata.json", lambda values: values.pop("train"))
    assert "no 'train' in it" in message(folder, MissingFileError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda split: split["focal"].pop(), "18 entries in 'focal'"),
        (lambda split: split.pop("near"), "'near', as in file_path, got no list"),
        (lambda split: split.update(file_path=[]), "lists no pictures"),
        (lambda split: split["focal"].__setitem__(3, 0), "expected focal to be a number above 0"),
        (lambda split: split["focal"].__setitem__(3, None), "focal or lossmult is null"),
        (lambda split: split["focal"].__setitem__(3, float("nan")), "expected focal to be a number"),
        (lambda split: split["near"].__setitem__(3, -1), "near to be at least 0"),
        (lambda split: split["far"].__setitem__(3, None), "far to be at least 0"),
        (lambda split: split["lossmult"].__setitem__(3, None), "lossmult is null"),
        (lambda split: split["lossmult"].__setitem__(3, 0), "expected lossmult to be a number above 0"),
        (lambda split: split["width"].__setitem__(3, 1e9), "expected width"),
        (lambda split: split["cam2world"][3][0].__setitem__(0, float("nan")), "NaN"),
        (lambda split: split["cam2world"][3].__setitem__(0, [2, 0, 0, 0]), "not rigid"),
        (lambda split: split["cam2world"].__setitem__(3, "no"), "4 rows of 4 numbers"),
        (lambda split: split["file_path"].__setitem__(3, "../../etc/hosts"), "leads outside the data folder"),
        (lambda split: split["file_path"].__setitem__(3, 5), "expected file_path to be a string"),
    ],
)
def test_malformed_files_are_errors(folder, captures, message, change, words):
    edit(captures, folder, change)
    said = message(folder)
    assert words in said
    assert str(folder / "metadata.json") in said


@pytest.mark.parametrize("bounds", [5, [[0, 0, 0]], [[1, 1, 1], [0, 2, 2]], [[0, 0, "a"], [1, 1, 1]]])
def test_bounds_that_make_no_sense_are_errors(folder, captures, message, bounds):
    captures.edit_json(folder / "metadata.json", lambda values: values.update(scene_bounds=bounds))
    assert "scene_bounds" in message(folder)


def test_a_picture_for_training_cannot_be_held_out_too(folder, captures, message):
    def change(values):
        values["test"]["file_path"][1] = "./" + values["train"]["file_path"][3]

    captures.edit_json(folder / "metadata.json", change)
    assert "train and " in (said := message(folder))
    assert "test both list 'images_train/r_1_d1.png'. Keep each picture in one." in said


def test_files_listed_twice_are_skipped_and_listed(folder, captures, read, message):
    def repeat(values):
        for column in values["train"].values():
            column.append(column[2])

    before = read(folder)
    captures.edit_json(folder / "metadata.json", repeat)
    capture = read(folder)
    assert capture.names == before.names
    assert [(item.path, "repeats" in item.reason) for item in capture.skipped] == [("images_train/r_1_d0.png", True)]
    edit(captures, folder, lambda split: split["cam2world"].__setitem__(-1, split["cam2world"][0]))
    assert "picture 18: expected one frame for each picture" in message(folder)


def test_lengths_of_the_reconstruction_are_known(folder, captures, read, message):
    before = read(folder)
    captures.edit_json(folder / "metadata.json", lambda values: values.update(pose_scale_factor=2.5))
    capture = read(folder)
    assert torch.equal(capture.cameras.camera_to_world, before.cameras.camera_to_world)
    assert (capture.near, capture.bounds) == (before.near, before.bounds)
    assert capture.transform.scale == pytest.approx(1 / 2.5)
    point = torch.tensor([[2.5, -5.0, 0.0]]).double()
    torch.testing.assert_close(capture.transform.apply_points(point), torch.tensor([[1.0, -2.0, 0.0]]).double())
    captures.edit_json(folder / "metadata.json", lambda values: values.update(pose_scale_factor=0))
    assert "expected pose_scale_factor to be a number above 0" in message(folder)


def test_a_far_beyond_the_region_is_remarked_on(folder, captures, read):
    # Cameras are 2 from the origin, corners of the region 2.6.
    assert read(folder).remarks == ()
    edit(captures, folder, lambda split: split.update(far=[1000.0] * len(split["far"])))
    (remark,) = read(folder).remarks
    assert "states far 1000, but the region of interest ends 4." in remark
    assert "what lies outside is cut off" in remark
    assert read(folder, scene_bounds=(-500, -500, -500, 500, 500, 500)).remarks == ()
    captures.edit_json(folder / "metadata.json", lambda values: values.update(scene_bounds=[[-600] * 3, [600] * 3]))
    assert read(folder).remarks == ()
