"""A subject that needs no model."""

import pytest
import torch

from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.rays import Rays
from voxfield.viewer.subjects import MODES, Mode, Shot, Subject


class Sphere(Subject):
    """An opaque sphere of radius 1, coloured by where it is met, over white."""

    bounds = Bounds.from_cube(1.0)
    modes: tuple[Mode, ...] = MODES

    def __init__(self) -> None:
        self.rays_seen = 0
        self.fault: Exception | None = None

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        if self.fault is not None:
            raise self.fault
        self.rays_seen += len(rays)
        middle = -(rays.origins * rays.directions).sum(1)
        nearest = rays.origins + middle[:, None] * rays.directions
        inside = 1 - nearest.square().sum(1)
        distance = middle - inside.clamp(min=0).sqrt()
        hit = (inside > 0) & (distance > 0)
        points = rays.origins + distance[:, None] * rays.directions
        rgb = torch.where(hit[:, None], 0.5 + 0.4 * points, torch.ones(3))
        values = {"rgb": rgb, "opacity": hit.float(), "depth": torch.where(hit, distance, 0.0)}
        return values | {"level": torch.ones(len(rays))} if mode == "level" else values


@pytest.fixture
def sphere() -> Sphere:
    return Sphere()


@pytest.fixture
def shot() -> Shot:
    """The sphere from four units away, of a canvas twice as wide as high."""
    pose = look_at(torch.tensor([[0.0, -4.0, 0.0]]), torch.zeros(1, 3))[0]
    return Shot(camera_to_world=pose, fov=0.9, aspect=2.0)


@pytest.fixture
def around() -> Cameras:
    """One camera that looks at the sphere from the side."""
    pose = look_at(torch.tensor([[2.5, -2.5, 1.0]]), torch.zeros(1, 3))
    return Cameras(
        camera_to_world=pose,
        focal=torch.tensor([[60.0, 60.0]]),
        principal=torch.tensor([[40.0, 30.0]]),
        width=torch.tensor([80]),
        height=torch.tensor([60]),
    )
