"""The scene inside the repository: complete, small, and with poses that agree with its pixels.

Read here with numpy and Pillow alone, so that these tests judge the files and not the package's readers.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCENE = Path(__file__).parents[2] / "examples" / "scenes" / "workbench"
SIZE = 256
COUNTS = {"train": 60, "val": 4, "test": 10}


@pytest.fixture(scope="module")
def frames():
    """file_path -> (pose (4, 4), pixels (H, W, 4) uint8, field of view in radians)."""
    found = {}
    for split in COUNTS:
        document = json.loads((SCENE / f"transforms_{split}.json").read_text())
        for frame in document["frames"]:
            with Image.open(SCENE / f"{frame['file_path']}.png") as image:
                assert image.mode == "RGBA", frame["file_path"]
                pixels = np.asarray(image)
            found[frame["file_path"]] = (np.array(frame["transform_matrix"]), pixels, document["camera_angle_x"])
    return found


def project(point, pose, field_of_view):
    """Pixel position (x, y) of a world point, with pixel centres at +0.5, and its depth along the view axis."""
    right, up, back = pose[:3, :3].T @ (np.asarray(point) - pose[:3, 3])
    focal = SIZE / 2 / math.tan(field_of_view / 2)
    return np.array([SIZE / 2 + focal * right / -back, SIZE / 2 - focal * up / -back]), -back


@pytest.mark.parametrize("split", COUNTS)
def test_layout_is_complete(split):
    document = json.loads((SCENE / f"transforms_{split}.json").read_text())
    names = [frame["file_path"] for frame in document["frames"]]
    assert names == [f"./{split}/r_{i}" for i in range(COUNTS[split])]
    assert sorted(p.name for p in (SCENE / split).iterdir()) == sorted(f"r_{i}.png" for i in range(COUNTS[split]))


def test_fits_in_five_megabytes():
    assert sum(p.stat().st_size for p in SCENE.rglob("*") if p.is_file()) < 5_000_000


def test_poses_are_rigid_and_look_at_the_origin(frames):
    for name, (pose, _, _) in frames.items():
        rotation, position = pose[:3, :3], pose[:3, 3]
        # Poses are written with nine decimals from float32: 1e-6 is eight units in the last place of 1.
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6, err_msg=name)
        assert np.linalg.det(rotation) > 0, name
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1], err_msg=name)
        np.testing.assert_allclose(rotation[:, 2] * np.linalg.norm(position), position, atol=1e-5, err_msg=name)
        assert np.linalg.norm(position) == pytest.approx(4.0, abs=1e-5), name
        assert rotation[2, 1] > 0, f"{name}: the camera's up must point upwards"


def test_pictures_hold_an_object_on_nothing(frames):
    for name, (_, pixels, _) in frames.items():
        assert pixels.shape == (SIZE, SIZE, 4), name
        alpha = pixels[..., 3]
        assert 0.1 < (alpha == 255).mean() < 0.6, name
        assert (alpha == 0).mean() > 0.3, name
        assert not pixels[alpha == 0].any(), f"{name}: colour under alpha 0"
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        # In one training view the hem of the cloth reaches the last row, on 10 pixels; all others keep clear.
        allowed = 10 if name == "./train/r_39" else 0
        assert np.count_nonzero(border) <= allowed, f"{name}: the object touches the picture's edge"


def test_test_views_are_not_training_views(frames):
    directions = {
        split: np.array([pose[:3, 3] / 4.0 for name, (pose, _, _) in frames.items() if name.startswith(f"./{split}/")])
        for split in COUNTS
    }
    for split in ("val", "test"):
        apart = np.degrees(np.arccos(np.clip(directions[split] @ directions["train"].T, -1, 1)))
        assert apart.min() > 4.0
        # ... but each has a training view near enough to be learnt from.
        assert apart.min(axis=1).max() < 25.0


def pin_pixels(pixels, linear_rgb):
    """Mask of opaque pixels that have the pin's hue, however it is lit, and are strongly coloured."""
    colour = pixels[..., :3].astype(float) / 255
    target = np.asarray(linear_rgb) / np.linalg.norm(linear_rgb)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    cosine = linear @ target / np.maximum(np.linalg.norm(linear, axis=-1), 1e-6)
    return (cosine > 0.98) & (pixels[..., 3] > 127) & (colour.max(axis=-1) > 0.15)


def test_known_points_are_where_the_poses_say(frames):
    """Pin heads, whose centres are known in the world, found by colour within a pixel of their projection."""
    document = json.loads((SCENE / "pins.json").read_text())
    offsets = []
    for view in document["visible"]:
        pose, pixels, field_of_view = frames[view["file_path"]]
        for name in view["pins"]:
            pin = document["pins"][name]
            expected, depth = project(pin["centre"], pose, field_of_view)
            left, top = np.maximum(expected.astype(int) - 10, 0)
            rows, columns = np.nonzero(pin_pixels(pixels[top : top + 21, left : left + 21], pin["linear_rgb"]))
            centres = np.stack([columns + left, rows + top], axis=-1) + 0.5
            # The window is the head's outline and one pixel more: other red and green things stand close behind.
            outline = SIZE / 2 / math.tan(field_of_view / 2) * document["pin_radius"] / depth
            near = centres[np.linalg.norm(centres - expected, axis=-1) < outline + 1.0]
            where = f"{view['file_path']} {name}"
            assert len(near) >= 20, f"{where}: no pin at {expected}"
            offset = near.mean(axis=0) - expected
            assert np.linalg.norm(offset) < 1.0, where
            offsets.append(offset)
    assert len(offsets) > 100
    # Half a pixel of systematic shift is what a wrong pixel-centre convention would give.
    np.testing.assert_allclose(np.mean(offsets, axis=0), 0.0, atol=0.15)
