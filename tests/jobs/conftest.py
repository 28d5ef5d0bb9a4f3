"""What jobs work on: photographs of a room for structure from motion."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from voxfield.storage.remote import transfers

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
TEXELS = 600


class Room(NamedTuple):
    """Photographs of the room and where they were taken."""

    poses: np.ndarray
    """(N, 4, 4) camera to world, OpenGL axes."""
    pictures: list[np.ndarray]
    """(HEIGHT, WIDTH, 3) uint8 each."""

    def write(self, folder: Path, suffix: str = ".jpg") -> Path:
        """Save them as 1.jpg, 2.jpg, ..."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(self.pictures, start=1):
            Image.fromarray(picture).save(folder / f"{index}{suffix}", quality=95)
        return folder


@pytest.fixture(scope="session")
def needs_colmap() -> None:
    # Not imported here: loaded before Pillow it makes Pillow crash, see voxfield.jobs.colmap_worker.
    if importlib.util.find_spec("pycolmap") is None:
        pytest.skip("pycolmap has no wheel for this platform")


@pytest.fixture(scope="session")
def room() -> Room:
    """Eight photographs along an arc of 80 degrees around a box in a larger box."""
    poses = np.stack([_looking_at_the_middle(angle) for angle in np.linspace(-0.7, 0.7, 8)])
    textures = [_texture(np.random.default_rng(seed)) for seed in range(12)]
    return Room(poses, [_photograph(pose, textures) for pose in poses])


def _looking_at_the_middle(angle: float) -> np.ndarray:
    position = np.array([1.7 * np.sin(angle), -1.7 * np.cos(angle), 0.5 + 0.3 * np.cos(3 * angle)])
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return pose


def _texture(random: np.random.Generator) -> np.ndarray:
    """(TEXELS, TEXELS, 3) uint8: noise of several scales, so smooth that the nearest texel is as good as any."""
    noises = [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for size in (12, 48, 112)]
    layers = [np.asarray(noise.resize((TEXELS, TEXELS)), dtype=np.uint16) for noise in noises]
    return (sum(layers) // len(layers)).astype(np.uint8)


def _photograph(pose: np.ndarray, textures: list[np.ndarray]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    local = np.stack([(x - WIDTH / 2) / FOCAL, -(y - HEIGHT / 2) / FOCAL, -np.ones_like(x)], axis=-1)
    rays, origin = local @ pose[:3, :3].T, pose[:3, 3]
    distance, colour = _cast(origin, rays, 2.2, far=True, textures=np.stack(textures[:6]))
    nearer, front = _cast(origin, rays, 0.5, far=False, textures=np.stack(textures[6:]))
    return np.where((nearer < distance)[..., None], front, colour)


def _cast(
    origin: np.ndarray, rays: np.ndarray, half: float, *, far: bool, textures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(distance, colour) where rays meet the far or near sides of the cube [-half, half]^3; infinity for a miss."""
    both = np.stack([(-half - origin) / rays, (half - origin) / rays])
    enter, leave = both.min(axis=0).max(axis=-1), both.max(axis=0).min(axis=-1)
    distance = leave if far else np.where((enter < leave) & (enter > 0), enter, np.inf)
    points = origin + rays * np.where(np.isfinite(distance), distance, 0.0)[..., None]
    axis = np.abs(points).argmax(axis=-1)
    positive = np.take_along_axis(points, axis[..., None], axis=-1)[..., 0] > 0
    u, v = (np.take_along_axis(points, ((axis + step) % 3)[..., None], axis=-1)[..., 0] for step in (1, 2))
    i, j = (((value / half + 1) / 2 * TEXELS).astype(int).clip(0, TEXELS - 1) for value in (u, v))
    return distance, textures[2 * axis + positive, i, j]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.01)
