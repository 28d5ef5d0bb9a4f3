"""Depth from many sides fused to a surface: against a ball whose depth is known."""

import numpy as np
import pytest
import torch
import trimesh

from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.export.depth_fusion import DepthView, block_count, chosen_views, fused
from voxfield.geometry.bounds import Bounds
from voxfield.voxels.isosurface import SurfaceMethod

BOUNDS = Bounds(minimum=(-1.0, -1.0, -1.0), maximum=(1.0, 1.0, 1.0))
CAMERAS = posed_images(count=24, resolution=64).cameras
NODES = (33, 33, 33)


def ball_seen(i: int, radius: float = 0.6) -> DepthView:
    """What camera ``i`` sees of a ball around the origin."""
    rays = CAMERAS.image_rays(i)
    along = -(rays.origins * rays.directions).sum(1)
    apart = (rays.origins + along[:, None] * rays.directions).norm(dim=1)
    distance = torch.where(apart < radius, along - (radius**2 - apart**2).clamp(min=0).sqrt(), torch.inf)
    return DepthView(camera=CAMERAS[i], distance=distance.view(64, 64))


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_a_ball_is_found_where_it_is(method: SurfaceMethod) -> None:
    told: list[int] = []
    found = fused([ball_seen(i) for i in range(len(CAMERAS))], BOUNDS, NODES, told.append, method)
    assert sum(told) == block_count(NODES) == 125
    step = 2 / 32
    places = -1 + found.vertices * step
    radius = np.linalg.norm(places, axis=1)
    # The cameras are above: what none of them sees is no surface.
    seen = places[:, 2] > -0.3
    assert np.abs(radius[seen] - 0.6).max() < 0.75 * step
    assert (found.normals * places).sum(1)[seen].min() > 0
    mesh = trimesh.Trimesh(places, found.faces, process=False)
    assert mesh.is_winding_consistent


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_what_no_camera_saw_is_left_open(method: SurfaceMethod) -> None:
    one = fused([ball_seen(0)], BOUNDS, NODES, lambda _: None, method)
    mesh = trimesh.Trimesh(-1 + one.vertices / 16, one.faces, process=False)
    assert not mesh.is_watertight
    towards = CAMERAS.origins[0].numpy()
    # Only the side of the ball that looks to the camera, apart from what lies at the edge of its shadow.
    assert ((mesh.vertices @ towards) > -0.25 * np.linalg.norm(towards)).mean() > 0.9


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(InputError, match="No training camera sees a surface"):
        fused([ball_seen(0, radius=0.0)], BOUNDS, NODES, lambda _: None)


def test_views_are_chosen_evenly() -> None:
    assert chosen_views(3) == [0, 1, 2]
    assert (chosen_views(200)[0], chosen_views(200)[-1], len(chosen_views(200))) == (0, 199, 64)
