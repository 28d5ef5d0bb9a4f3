import json
import shutil

import pytest
import torch

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import posed_images, write_blender
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.multiscale import write_multiscale

DISTANCES = {"near": 1.0, "far": 6.0}


@pytest.fixture
def data(tmp_path, tiny_capture):
    folder = tmp_path / "spheres"
    shutil.copytree(tiny_capture, folder)
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "multiscale"


def test_what_is_written_is_what_scales_would_have_been(data, output):
    done = write_multiscale(data, output, **DISTANCES)
    assert done.images == {"train": 10, "val": 2, "test": 2}
    assert (done.written, done.present, done.left_out) == (56, 0, ())
    for split in ("train", "test"):
        read = read_capture(output, split=split)
        direct = read_capture(data, split=split, options=CaptureOptions(scales=(1, 2, 4, 8)))
        assert read.source["format"] == "pynerf"
        assert torch.equal(read.scales.image, direct.scales.image)
        assert torch.equal(read.scales.factor, direct.scales.factor)
        assert torch.equal(read.scales.weight, direct.scales.weight)
        assert torch.equal(read.cameras.width, direct.cameras.width)
        torch.testing.assert_close(read.cameras.focal, direct.cameras.focal)
        torch.testing.assert_close(read.cameras.principal, direct.cameras.principal)
        torch.testing.assert_close(read.cameras.camera_to_world, direct.cameras.camera_to_world)
        assert all(torch.equal(read.images.read(i), direct.images.read(i)) for i in range(len(read)))
    assert read.near == 1.0
    assert read.source["far"] == 6.0
    assert set(read.scales.weight.tolist()) == {1.0, 4.0, 16.0, 64.0}


def test_the_table_is_mip_nerfs(data, output):
    write_multiscale(data, output, scales=(1, 4), **DISTANCES)
    table = json.loads((output / "metadata.json").read_text())["train"]
    assert set(table) == {
        "file_path", "cam2world", "width", "height", "focal", "pix2cam", "label", "near", "far", "lossmult",
    }  # fmt: skip
    assert {len(column) for column in table.values()} == {20}
    assert table["file_path"][:2] == ["images_train/r_0_d0.png", "images_train/r_0_d1.png"]
    assert (table["label"][:2], table["lossmult"][:2], table["width"][:2]) == ([0, 1], [1.0, 16.0], [32, 8])
    # The middle of a picture is one unit before the camera; its top left corner is left and up.
    pix2cam = torch.tensor(table["pix2cam"][1])
    assert torch.equal(pix2cam @ torch.tensor([4.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, -1.0]))
    left, up, before = (pix2cam @ torch.tensor([0.0, 0.0, 1.0])).tolist()
    assert (left < 0, up > 0, before) == (True, True, -1.0)


def test_stopped_work_is_continued(data, output):
    write_multiscale(data, output, **DISTANCES)
    for name in ("metadata.json", "images_test/r_0_d1.png", "images_train/r_3_d0.png"):
        (output / name).unlink()
    done = write_multiscale(data, output, **DISTANCES)
    assert (done.written, done.present) == (2, 54)
    assert len(read_capture(output)) == 40
    assert write_multiscale(data, output, **DISTANCES).written == 0


def test_a_folder_made_of_something_else_is_refused(data, output, tmp_path):
    write_multiscale(data, output, **DISTANCES)
    for changes in ({"scales": (1, 2)}, {"near": 1.25}):
        with pytest.raises(InputError, match="was made of other pictures or with other options"):
            write_multiscale(data, output, **{**DISTANCES, **changes})
    (output / "multiscale.json").write_text("{")
    with pytest.raises(FormatError, match=r"multiscale\.json: cannot be read"):
        write_multiscale(data, output, **DISTANCES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        write_multiscale(data, tmp_path / "other", **DISTANCES)


def test_broken_pictures_are_left_out_at_all_scales(data, output):
    (data / "train" / "r_4.png").write_bytes((data / "train" / "r_4.png").read_bytes()[:60])
    (data / "test" / "r_1.png").unlink()
    done = write_multiscale(data, output, **DISTANCES)
    assert done.images == {"train": 9, "val": 2, "test": 1}
    assert sorted(item.path for item in done.left_out) == ["./test/r_1", "./train/r_4"]
    assert read_capture(output).num_images == 9


def test_names_that_clash_get_numbers(data, output):
    values = json.loads((data / "transforms_train.json").read_text())
    (data / "other").mkdir()
    shutil.copy(data / "train" / "r_0.png", data / "other" / "R_1.png")
    values["frames"][0]["file_path"] = "./other/R_1"
    (data / "transforms_train.json").write_text(json.dumps(values))
    write_multiscale(data, output, scales=(1, 2), **DISTANCES)
    names = read_capture(output).names
    assert names[:3] == (
        "images_train/00000_R_1_d0.png", "images_train/00000_R_1_d1.png", "images_train/00001_r_1_d0.png",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"near": 3.0}, r"its camera stands .* from the origin, so near 3 and far 6 cut off"),
        ({"far": 3.0}, "cut off what lies within 1.5"),
        ({"near": -1.0}, "near: expected"),
        ({"far": 0.5}, "far: expected"),
        ({"scales": (1, 3)}, "scale 3 does not divide"),
        ({"scales": (1, 64)}, "too small for scale 64"),
        ({"scales": (2, 1)}, "rising order"),
    ],
)
def test_arguments_that_do_not_fit(data, output, changes, message):
    with pytest.raises(InputError, match=message):
        write_multiscale(data, output, **{**DISTANCES, **changes})
    assert not output.exists()


def test_other_captures_are_refused(tmp_path, output, captures):
    captures.write_llff(tmp_path / "llff", captures.some_cameras(centred=True))
    with pytest.raises(MissingFileError, match="expected NeRF-synthetic data"):
        write_multiscale(tmp_path / "llff", output)


def test_splits_that_are_there(tmp_path, output):
    write_blender(tmp_path / "one", [posed_images(count=2, resolution=16)])
    assert write_multiscale(tmp_path / "one", output, scales=(1, 2), **DISTANCES).images == {"train": 2}
