import math

import pytest
import torch

from voxfield.errors import MissingFileError

TEST = [1, 4, 7]
"""Pictures of camera 11, which ``splits.json`` holds out."""


@pytest.fixture
def truth(captures):
    return captures.some_cameras()


@pytest.fixture
def scene(tmp_path, captures, truth):
    folder = tmp_path / "riverview"
    folder.mkdir()
    captures.write_eyefultower(folder, truth)
    return folder


@pytest.fixture
def edit(scene, captures):
    return lambda change: captures.edit_json(scene / "cameras.json", lambda values: change(values["KRT"][4]))


def undistorted(scene, captures, size=5):
    def straighten(values):
        for camera in values["KRT"]:
            camera["distortion"] = [0] * size

    captures.edit_json(scene / "cameras.json", straighten)


def test_the_lists_of_the_scene_decide(scene, read, captures):
    assert read(scene, "test").names == tuple(f"images-jpeg-2k/{captures.eyeful_name(index)}.jpg" for index in TEST)
    assert read(scene, "val").names == read(scene, "test").names
    assert len(read(scene)) == 6
    assert read(scene).source["split_rule"] == "train list"


def test_without_lists_every_eighth_is_held_out(scene, read, captures):
    (scene / "splits.json").unlink()
    assert [name.rsplit("/", 1)[-1] for name in read(scene, "test").names] == ["10_DSC0000.jpg", "12_DSC0008.jpg"]


def test_rays_are_those_of_the_full_size(scene, truth, read, same_rays, captures):
    undistorted(scene, captures)
    same_rays(read(scene, "test").cameras, truth, TEST)


def test_distortion_is_in_opencvs_order(scene, read):
    expected = torch.tensor([0.01, -0.02, 0.003, 0.0, 1e-4, 2e-4])
    torch.testing.assert_close(read(scene).cameras.distortion[0], expected)


def test_the_xml_says_the_same(scene, truth, read, same_rays):
    by_json = read(scene, "test")
    by_xml = read(scene / "cameras.xml", "test")
    assert by_xml.source["file"] == "cameras.xml"
    assert by_xml.names == by_json.names
    same_rays(by_xml.cameras, truth, TEST)
    torch.testing.assert_close(by_xml.cameras.camera_to_world, by_json.cameras.camera_to_world, atol=1e-5, rtol=0)
    (scene / "cameras.json").unlink()
    assert read(scene, "test").names == by_xml.names


def test_a_folder_of_pictures_names_the_size(scene, truth, read, same_rays, captures):
    undistorted(scene, captures)
    for index in range(len(truth)):
        captures.picture(scene / f"images-jpeg-1k/{captures.eyeful_name(index)}.jpg", index, (24, 16))
    assert read(scene).names[0].startswith("images-jpeg-2k/")
    capture = read(scene / "images-jpeg-1k", "test")
    assert capture.names[0].startswith("images-jpeg-1k/")
    assert capture.source["pictures"] == "images-jpeg-1k"
    assert capture.cameras.width.tolist() == [24] * 3
    same_rays(capture.cameras.resized(48, 32), truth, TEST)


@pytest.mark.parametrize("folder", ["images-1k", "images-2k", "images-exr-1k", "images-exr-2k"])
def test_exr_pictures_are_read_as_linear_light(scene, truth, read, same_rays, captures, folder):
    undistorted(scene, captures)
    for index in range(len(truth)):
        captures.exr_picture(scene / f"{folder}/{captures.eyeful_name(index)}.exr", index, (24, 16))
    assert read(scene).tone is None
    capture = read(scene / folder, "test")
    assert capture.names == tuple(f"{folder}/{captures.eyeful_name(index)}.exr" for index in TEST)
    assert capture.cameras.width.tolist() == [24] * 3
    same_rays(capture.cameras.resized(48, 32), truth, TEST)
    assert capture.images.dtype == torch.float16
    assert capture.images.read(0)[8, 12].tolist() == [captures.RADIANCE * (TEST[0] + 1), 0.5, 0.25]
    assert capture.tone is not None
    # Without JPEGs the scene's folder means the EXRs.
    (scene / "images-jpeg-2k").rename(scene / "elsewhere")
    assert read(scene, "test").names == capture.names


def test_no_pictures_at_all_are_an_error(scene, message):
    (scene / "images-jpeg-2k").rename(scene / "elsewhere")
    assert "images-jpeg-2k: no such folder" in message(scene, MissingFileError)


def test_pictures_of_another_shape_are_an_error(scene, captures, message):
    for index in range(9):
        captures.picture(scene / f"images-jpeg-2k/{captures.eyeful_name(index)}.jpg", index, (32, 48))
    assert "not the same shape" in message(scene)


def test_one_picture_of_another_size_does_not_mislead(scene, captures, read):
    captures.picture(scene / "images-jpeg-2k/10/10_DSC0000.jpg", 0, (24, 16))
    capture = read(scene)
    assert [item.path for item in capture.skipped] == ["images-jpeg-2k/10/10_DSC0000.jpg"]
    assert len(capture) == 5


def test_fisheye_rims_are_ignored(tmp_path, captures, truth, read):
    folder = tmp_path / "office1a"
    folder.mkdir()
    captures.write_eyefultower(folder, truth, fisheye=True)
    capture = read(folder)
    assert capture.cameras.model == "fisheye"
    torch.testing.assert_close(capture.cameras.distortion[0, :3], torch.tensor([0.01, -0.02, 0.003]))
    mask = capture.images.mask(0)
    radius = 0.43 * 48
    assert not bool(mask[0, 0])
    assert bool(mask[16, 24])
    rows, columns = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(48) - 23.5, indexing="ij")
    assert torch.equal(mask, torch.hypot(rows, columns) <= radius)
    # Scenes with pinhole lenses, and scenes of one's own, keep every pixel.
    folder.rename(tmp_path / "mine")
    assert not read(tmp_path / "mine").has_masks


def test_train_and_test_share_no_picture(scene, captures, message):
    captures.edit_json(scene / "splits.json", lambda values: values["train"].append(values["test"][0]))
    assert "for both train and test" in message(scene)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values["train"].append("10/10_DSC9999"), "lists '10/10_DSC9999', which is not among"),
        (lambda values: values.update(test="all"), "test to be a list of paths"),
        (lambda values: values.clear(), "expected lists 'train' and 'test'"),
    ],
)
def test_lists_that_do_not_fit_are_errors(scene, captures, message, change, words):
    captures.edit_json(scene / "splits.json", change)
    said = message(scene)
    assert words in said
    assert str(scene / "splits.json") in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda camera: camera.pop("cameraId"), "no cameraId"),
        (lambda camera: camera.pop("T"), "no T"),
        (lambda camera: camera.pop("K"), "expected K to be"),
        (lambda camera: camera.pop("width"), "no width"),
        (lambda camera: camera["T"][0].__setitem__(0, math.nan), "NaN"),
        (lambda camera: camera["T"][0].__setitem__(0, 5), "not rigid"),
        (lambda camera: camera.update(T=list(map(list, zip(*camera["T"], strict=True)))), "transposed"),
        (lambda camera: camera.update(K=list(map(list, zip(*camera["K"], strict=True)))), "column by column"),
        (lambda camera: camera["K"][0].__setitem__(0, 0), "focal lengths above 0"),
        (lambda camera: camera["K"][0].__setitem__(0, math.nan), "focal lengths above 0"),
        (lambda camera: camera.update(distortionModel="Fisheye"), "Fisheye with 8"),
        (lambda camera: camera.update(distortionModel="Orthographic"), "got 'Orthographic'"),
        (lambda camera: camera["distortion"].__setitem__(0, math.inf), "infinite"),
        (lambda camera: camera.update(width=48.5), "whole number"),
        (lambda camera: camera.update(cameraId="../../../../etc/hosts"), "leads outside the data folder"),
    ],
)
def test_malformed_cameras_are_errors(scene, edit, message, change, words):
    (scene / "splits.json").unlink()
    edit(change)
    said = message(scene)
    assert words in said
    assert str(scene / "cameras.json") in said


def test_two_cameras_of_one_picture_are_an_error(scene, edit, message):
    (scene / "splits.json").unlink()
    edit(lambda camera: camera.update(cameraId="10/10_DSC0000"))
    assert "two cameras '10/10_DSC0000'" in message(scene)


def test_cameras_that_are_no_list_are_an_error(scene, captures, message):
    captures.edit_json(scene / "cameras.json", lambda values: values.update(KRT=[]))
    assert "expected 'KRT' to be a list" in message(scene)
