import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from voxfield.errors import FormatError
from voxfield.geometry.bounds import Bounds


@pytest.fixture
def truth(captures):
    return captures.some_cameras()


@pytest.fixture
def folder(tmp_path, captures, truth):
    captures.write_neus(tmp_path, truth)
    return tmp_path


@pytest.fixture
def edit(folder, captures, truth):
    def change(alter):
        matrices = captures.neus_matrices(truth)
        alter(matrices)
        np.savez(folder / "cameras_sphere.npz", **matrices)

    return change


def test_rays_meet_the_subjects_unit_sphere(folder, truth, read, same_rays):
    same_rays(read(folder, "test").cameras, truth, [0, 8])
    same_rays(read(folder).cameras, truth, range(1, 8))


def test_rays_are_those_neus_casts(folder, captures, read):
    # NeuS: direction = R K^-1 (x, y, 1) for whole x, y of the pixel, K and R of world_mat @ scale_mat.
    with np.load(folder / "cameras_sphere.npz") as arrays:
        projection = torch.from_numpy((arrays["world_mat_0"] @ arrays["scale_mat_0"])[:3])
    direction = torch.linalg.solve(projection[:, :3], torch.tensor([7.0, 3.0, 1.0], dtype=torch.float64))
    ray = read(folder, "test").cameras.rays(torch.tensor([0]), torch.tensor([[7.5, 3.5]]))
    torch.testing.assert_close(ray.directions[0].double(), direction / direction.norm(), atol=1e-6, rtol=0)


def test_the_world_is_the_sphere_turned_upright(folder, truth, read):
    capture = read(folder, orientation="up")
    assert capture.bounds == Bounds.from_cube(1.0)
    torch.testing.assert_close(capture.cameras.origins.norm(dim=-1), torch.full((7,), 2.0), atol=1e-5, rtol=0)
    up = read(folder, orientation="up").cameras.camera_to_world[:, :, 1].mean(0)
    assert float(up[2]) > 0.5


def test_the_transform_leads_back_to_the_reconstruction(folder, captures, truth, read):
    capture = read(folder, "test", orientation="up")
    there = capture.transform.inverse().apply_points(capture.cameras.origins.double())
    expected = truth.origins[[0, 8]].double() * 2.5 + torch.from_numpy(captures.SUBJECT[:3, 3])
    torch.testing.assert_close(there, expected, atol=1e-5, rtol=0)


def test_masks_bound_the_subject(folder, read):
    capture = read(folder)
    assert capture.has_masks
    assert not capture.unbounded
    assert int(capture.images.mask(0).sum()) == 32 * 16
    shutil.rmtree(folder / "mask")
    capture = read(folder)
    assert not capture.has_masks
    assert capture.unbounded


def test_masks_of_other_names_are_matched_in_order(folder, read):
    for index in range(9):
        (folder / f"mask/{index:03d}.png").rename(folder / f"mask/m{index}.png")
    Image.new("L", (48, 32), 255).save(folder / "mask/m0.png")
    assert bool(read(folder, "test").images.mask(0).all())


def test_too_few_masks_are_an_error(folder, message):
    (folder / "mask/004.png").unlink()
    assert "has 8 masks for 9 pictures" in message(folder)


def test_pictures_of_other_names_are_matched_in_order(folder, truth, read, same_rays):
    shutil.rmtree(folder / "mask")
    for index in range(9):
        (folder / f"image/{index:03d}.png").rename(folder / f"image/rect_{index + 1:03d}.png")
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def test_a_picture_that_is_gone_does_not_shift_the_poses(folder, truth, read, same_rays):
    (folder / "image/002.png").unlink()
    capture = read(folder)
    assert [item.path for item in capture.skipped] == ["image/002"]
    same_rays(capture.cameras, truth, [1, 3, 4, 5, 6, 7, 8])
    for index in (3, 4, 5):
        (folder / f"image/{index:03d}.png").rename(folder / f"image/x{index}.png")
    with pytest.raises(FormatError, match="do not number the"):
        read(folder)


def test_a_projection_of_the_other_sign_is_the_same_camera(folder, edit, truth, read, same_rays):
    edit(lambda matrices: matrices.update(world_mat_0=matrices["world_mat_0"] * -0.01))
    same_rays(read(folder, "test").cameras, truth, [0, 8])


def alter(name, change):
    return lambda matrices: matrices.update({name: change(matrices[name].copy())})


def with_entry(row, column, value):
    def change(matrix):
        matrix[row, column] = value
        return matrix

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda matrices: matrices.pop("scale_mat_3"), "no scale_mat_3"),
        (lambda matrices: matrices.pop("world_mat_3"), "no world_mat_3, though it holds 8 cameras"),
        (alter("world_mat_3", lambda matrix: np.eye(5)), "world_mat_3 to be a 4x4 matrix"),
        (alter("world_mat_3", lambda matrix: matrix.astype(object)), "holds Python objects"),
        (alter("world_mat_3", lambda matrix: np.zeros((1000, 1000))), "world_mat_3.npy states 8,000,128 bytes"),
        (alter("world_mat_3", with_entry(1, 1, np.nan)), "NaN"),
        (alter("world_mat_3", lambda matrix: matrix * 0), "singular"),
        (alter("world_mat_3", lambda matrix: np.diag([1, -1, 1, 1]) @ matrix), "mirrors"),
        (alter("world_mat_3", lambda matrix: np.array([[1, 0.2, 0, 0], *np.eye(4)[1:]]) @ matrix), "skew"),
        (alter("scale_mat_3", lambda matrix: matrix * 1.5), "differs from scale_mat_0"),
    ],
)
def test_malformed_archives_are_errors(folder, edit, message, change, words):
    edit(change)
    said = message(folder)
    assert words in said
    assert str(folder / "cameras_sphere.npz") in said


def test_a_subject_that_is_sheared_is_an_error(folder, edit, message):
    edit(lambda matrices: [matrices.update({name: np.diag([1.0, 2, 3, 1])}) for name in matrices if "scale" in name])
    assert "scale_mat_0 to be a scale and a shift" in message(folder)


def test_an_entry_that_unpacks_to_gigabytes_is_refused(folder, message):
    with zipfile.ZipFile(folder / "cameras_sphere.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (4, 4)})
        archive.writestr("world_mat_0.npy", header.getvalue() + bytes(1 << 24))
        archive.writestr("scale_mat_0.npy", b"")
    assert "world_mat_0.npy states 16,777,344 bytes" in message(folder)
