"""Every lens model of COLMAP's, against COLMAP's own arithmetic."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.formats.test_colmap import Model

from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.formats.colmap_model import KINDS
from voxfield.errors import FormatError

WIDTH, HEIGHT = 80, 60
F = [60.0]
FF = [60.0, 62.0]
C = [41.0, 29.5]
PARAMETERS = {
    "SIMPLE_PINHOLE": F + C,
    "PINHOLE": FF + C,
    "SIMPLE_RADIAL": [*F, *C, 0.05],
    "RADIAL": [*F, *C, 0.05, -0.02],
    "OPENCV": [*FF, *C, 0.05, -0.02, 0.001, -0.002],
    "OPENCV_FISHEYE": [*FF, *C, 0.05, -0.02, 0.001, -0.002],
    "FULL_OPENCV": [*FF, *C, 0.5, -0.6, 0.001, -0.002, 0.5, 0.38, -0.45, 0.4],
    "FOV": [*FF, *C, 0.9],
    "SIMPLE_RADIAL_FISHEYE": [*F, *C, 0.05],
    "RADIAL_FISHEYE": [*F, *C, 0.05, -0.02],
    "THIN_PRISM_FISHEYE": [*FF, *C, 0.05, -0.02, 0.001, -0.003, 0.01, -0.005, 0.002, -0.003],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        *FF,
        *C,
        0.4,
        -0.5,
        0.2,
        0.1,
        -0.1,
        0.02,
        0.002,
        -0.001,
        0.003,
        0.001,
        -0.002,
        0.004,
    ],
    "SIMPLE_DIVISION": [*F, *C, -0.4],
    "DIVISION": [*FF, *C, -0.4],
    "SIMPLE_FISHEYE": F + C,
    "FISHEYE": FF + C,
    "EUCM": [*FF, *C, 0.7, 1.2],
    "EQUIRECTANGULAR": [WIDTH, HEIGHT],
}
FLIP = np.array([1.0, -1.0, -1.0])
"""COLMAP's camera axes to ours."""


def read(folder, kind: str, values: list[float], pictures: int = 2):
    """A capture of cameras at the origin whose axes are ours, read from a COLMAP model."""
    image = {"q": [0.0, 1.0, 0.0, 0.0], "t": [0.0, 0.0, 0.0], "camera": 1, "seen": []}
    names = [f"{number}.png" for number in range(pictures)]
    images = [{**image, "id": number + 1, "name": name} for number, name in enumerate(names)]
    Model(cameras={1: (kind, WIDTH, HEIGHT, values)}, images=images).write(folder / "sparse/0")
    (folder / "images").mkdir()
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / name)
    options = CaptureOptions(orientation="none", centre="none", auto_scale=False)
    return read_capture(folder, split="train", options=options)


def test_every_model_is_tried():
    assert set(PARAMETERS) == {kind.name for kind in KINDS.values()}


def test_colmap_has_no_other_model():
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap has no wheel for this platform")
    known = {name: int(number) for name, number in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}
    ours = {kind.name: number for number, kind in KINDS.items()}
    assert known.items() <= ours.items()


@pytest.mark.parametrize("kind", PARAMETERS)
def test_points_and_rays_are_where_colmap_has_them(tmp_path, kind):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap has no wheel for this platform")
    if kind not in pycolmap.CameraModelId.__members__:
        pytest.skip(f"this pycolmap has no {kind}")
    theirs = pycolmap.Camera(model=kind, width=WIDTH, height=HEIGHT, params=PARAMETERS[kind])
    ours = read(tmp_path, kind, PARAMETERS[kind]).cameras
    line = np.arange(1.25, HEIGHT, 3.5)
    pixels = np.stack(np.meshgrid(line * WIDTH / HEIGHT, line), -1).reshape(-1, 2)
    rays = theirs.cam_ray_from_img(pixels)
    again = theirs.img_from_cam(rays)
    # COLMAP's own inverse is iterative, and without an answer at the rim of some lenses.
    sure = np.isfinite(again).all(1) & (np.abs(again - pixels).max(1) < 1e-6)
    assert sure.mean() > 0.95
    which = torch.zeros(len(pixels), dtype=torch.int64)
    directions = ours.rays(which, torch.from_numpy(pixels).float()).directions.numpy()
    # Rays are undistorted to a hundredth of a pixel.
    np.testing.assert_allclose(directions[sure], (rays * FLIP)[sure], atol=0.01 / 60, rtol=0)
    projected, _ = ours.project(which, torch.from_numpy(rays * FLIP * 3.0))
    # Lenses are kept in float32.
    np.testing.assert_allclose(projected.numpy()[sure], pixels[sure], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("FOV", [*FF, *C, 4.0], "expected omega between -pi and pi, got 4"),
        ("EUCM", [*FF, *C, 1.5, 1.0], "expected alpha from 0 to 1"),
        ("DIVISION", [*FF, *C, 40.0], "expected a division lens that shows every angle up to pi once within 30 pixels"),
        ("THIN_PRISM_FISHEYE", [*FF, *C, -3.0, *[0.0] * 7], "ends at"),
    ],
)
def test_lenses_that_show_nothing_are_refused(tmp_path, kind, values, words):
    with pytest.raises(FormatError, match=words):
        read(tmp_path, kind, values)


def test_what_a_fov_lens_cannot_show_is_masked(tmp_path):
    # 90 degrees from the axis are 60 pi / 2 / 2.2 = 42.8 pixels from the principal point.
    mask = read(tmp_path, "FOV", [60.0, 60.0, 40.0, 30.0, 2.2]).images.mask(0)
    reach = 60 * math.pi / 2 / 2.2
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    away = torch.hypot(x - 40, y - 30)
    assert mask[away < reach - 1].all()
    assert not mask[away > reach + 1].any()
