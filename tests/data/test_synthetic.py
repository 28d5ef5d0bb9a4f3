import math

import pytest
import torch

from voxfield.data.capture_reading import read_capture
from voxfield.data.synthetic import (
    Solid,
    SyntheticScene,
    cameras_around,
    posed_images,
    write_blender,
    write_nerfstudio,
)
from voxfield.geometry.pose import is_rigid


def test_the_closed_form_agrees_with_quadrature():
    scene, cameras = SyntheticScene.example(), cameras_around(2, resolution=12)
    rays = cameras.image_rays(1)
    exact = scene.render(rays)
    edges = torch.linspace(2.0, 6.0, 8001, dtype=torch.float64)
    middle, step = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    points = rays.origins.double()[:, None] + middle[None, :, None] * rays.directions.double()[:, None]
    thickness = scene.density(points) * step
    weight = torch.exp(-(thickness.cumsum(1) - thickness)) * -torch.expm1(-thickness)
    # The quadrature misplaces each surface by up to half a step: error density * step / 2 = 1 %.
    torch.testing.assert_close(exact.opacity, weight.sum(1).float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(exact.rgb, (weight[..., None] * scene.colour(points)).sum(1).float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(exact.depth, (weight * middle).sum(1).float(), atol=4e-2, rtol=0)


def test_a_ray_through_the_middle_of_a_box_is_beers_law():
    box = Solid(shape="box", centre=(0.0, 0.0, 0.0), size=(0.5, 0.5, 0.5), density=1.7, colour=(0.2, 0.4, 0.6))
    cameras = cameras_around(1, resolution=1)
    distance = float(cameras.origins.norm())
    exact = SyntheticScene(solids=(box,)).render(cameras.image_rays(0))
    low, high = box.crossings(cameras.origins, cameras.forward)
    assert float(exact.opacity) == pytest.approx(1 - math.exp(-1.7 * float(high - low)), rel=1e-5)
    assert exact.rgb[0].tolist() == pytest.approx([float(exact.opacity) * value for value in (0.2, 0.4, 0.6)], rel=1e-5)
    # Absorption is likelier early: the mean distance lies before the middle.
    assert float(low) < float(exact.depth / exact.opacity) < distance


def test_an_opaque_solid_is_met_at_its_surface():
    ball = Solid(shape="sphere", centre=(0.0, 0.0, 0.0), size=(1.0, 1.0, 1.0), density=1e4, colour=(1.0, 1.0, 1.0))
    exact = SyntheticScene(solids=(ball,)).render(cameras_around(3, resolution=1, radius=4.0).image_rays(2))
    assert float(exact.opacity) == pytest.approx(1.0)
    assert float(exact.depth) == pytest.approx(3.0, abs=1e-3)


def test_inside_a_solid_only_what_lies_ahead_counts():
    ball = Solid(shape="sphere", centre=(0.0, 0.0, 0.0), size=(1.0, 1.0, 1.0), density=1.0, colour=(1.0, 0.0, 0.0))
    low, high = ball.crossings(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    assert (float(low), float(high)) == (0.0, 1.0)


def test_views_are_rigid_and_differ_between_splits():
    train, test = posed_images(count=4, resolution=16), posed_images(count=4, resolution=16, split="test")
    assert bool(is_rigid(train.cameras.camera_to_world, 1e-5).all())
    assert not torch.allclose(train.cameras.origins, test.cameras.origins)
    assert train.images.shape(0) == (16, 16, 4)
    alpha = torch.stack([train.images.read(index) for index in range(4)])[..., 3].float()
    assert 0.05 < float((alpha > 128).float().mean()) < 0.8
    assert train.source["hash"] == posed_images(count=4, resolution=16).source["hash"] != test.source["hash"]


def test_what_is_written_as_blender_is_read_back(tmp_path):
    splits = [posed_images(count=3, resolution=16, split=split) for split in ("train", "val", "test")]
    write_blender(tmp_path, splits)
    for written in splits:
        back = read_capture(tmp_path, split=written.split)
        assert back.source["format"] == "blender"
        assert back.has_alpha
        torch.testing.assert_close(back.cameras.camera_to_world, written.cameras.camera_to_world, atol=1e-6, rtol=0)
        torch.testing.assert_close(back.cameras.focal, written.cameras.focal)
        for index in range(3):
            assert torch.equal(back.images.read(index), written.images.read(index))


def test_what_is_written_as_nerfstudio_is_read_back(tmp_path):
    written = posed_images(count=9, resolution=16)
    write_nerfstudio(tmp_path, written, aabb_scale=4)
    back = read_capture(tmp_path)
    assert len(back) == 7
    assert back.source["aabb_scale"] == 4
    restored = back.transform.inverse().apply_poses(back.cameras.camera_to_world)
    kept = [index for index in range(9) if index % 8]
    torch.testing.assert_close(restored, written.cameras.camera_to_world[kept], atol=1e-5, rtol=0)
    assert torch.equal(back.images.read(0), written.images.read(1))
