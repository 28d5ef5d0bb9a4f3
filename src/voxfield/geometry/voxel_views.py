"""Rays that look at a cube of voxels from all sides, spread over its faces.

The cube is centred at the origin, its voxels have side 1, axes x, y, z. Faces are numbered 0 to 5: -x, +x, -y, +y, -z,
+z.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from voxfield.checks import check_range

RayStart = Literal["near", "far", "faces"]
"""``near``: rays enter the cube from each camera's side, away from it. ``far``: they leave the faces turned away from
it, towards it, as the first generators of such datasets did (chords are the same, first hits are seen from behind).
``faces``: no cameras; rays enter every face along its axis."""


@dataclass(frozen=True, kw_only=True)
class VoxelViews:
    """Rays around a cube."""

    origins: np.ndarray
    """(N, 3) float32, on the cube's faces."""
    directions: np.ndarray
    """(N, 3) float32, unit length."""
    face_ids: np.ndarray
    """(N,) int32: the face that the origin lies on."""
    view_ids: np.ndarray
    """(N,) int32: the camera; the face where there are none."""
    view_positions: np.ndarray
    """(V, 3) float32: the cameras; (0, 3) where there are none."""


def sphere_positions(divisions: int, radius: float) -> np.ndarray:
    """Cameras (divisions**2, 3) float64 on a sphere: polar angles 0.1 pi to 0.9 pi, azimuths evenly around."""
    check_range("sphere_divisions", divisions, minimum=1, maximum=1024)
    polar = np.linspace(0.1 * np.pi, 0.9 * np.pi, divisions)[:, None]
    azimuth = np.linspace(0, 2 * np.pi, divisions, endpoint=False)[None]
    unit = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar) * np.ones_like(azimuth)]
    return radius * np.stack(unit, -1).reshape(-1, 3)


def sample_views(
    resolution: int, *, divisions: int, samples: int, start: RayStart = "near", seed: np.random.SeedSequence
) -> VoxelViews:
    """Rays around a cube of ``resolution`` voxels along each axis.

    Cameras stand at twice half the cube's side from its centre. Each looks at ``samples // 3`` points, uniform and
    independent, on every face that is turned away from it. ``far`` rays start there; ``near`` rays are such lines the
    other way, from where they enter the cube. ``far`` counts a face that is seen exactly edge-on as rounding has it, so
    that four divisions and 3,000 samples give 44,000 rays; ``near`` leaves such faces out: 32,000.

    Args:
        resolution: voxels along each axis.
        divisions: polar angles and azimuths of the cameras, at least 1.
        samples: rays of a camera, at least 3; for ``faces``, of a face times 3.
        start: where rays begin.
        seed: of the points.
    """
    check_range("samples_per_view", samples, minimum=3, maximum=1 << 24)
    half, generator = resolution / 2, np.random.default_rng(seed)
    normals = np.repeat(np.eye(3), 2, 0) * np.tile([-1.0, 1.0], 3)[:, None]
    if start == "faces":
        positions = np.zeros((0, 3))
        pairs = [(face, face) for face in range(6)]
    else:
        positions = sphere_positions(divisions, 2 * half)
        looks = -positions / np.linalg.norm(positions, axis=1, keepdims=True)
        # Summed element by element: a matrix product may round edge-on faces otherwise from one machine to the next.
        away = (looks[:, None] * normals[None]).sum(2) > (0 if start == "far" else 1e-9)
        pairs = list(zip(*(at.tolist() for at in np.nonzero(away)), strict=True))
    count = samples // 3
    views = np.repeat(np.array([view for view, _ in pairs], np.int32), count)
    faces = np.repeat(np.array([face for _, face in pairs], np.int32), count)
    points = generator.uniform(-half, half, (len(faces), 3))
    axis = faces // 2
    points[np.arange(len(faces)), axis] = half * normals[faces, axis]
    if start == "faces":
        directions = -normals[faces]
    else:
        directions = positions[views] - points
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if start == "near":
        directions = -directions
        points, faces = _enter(positions[views], directions, half)
    return VoxelViews(
        origins=points.astype(np.float32),
        directions=directions.astype(np.float32),
        face_ids=faces,
        view_ids=views,
        view_positions=positions.astype(np.float32),
    )


def _enter(cameras: np.ndarray, directions: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from outside enter the cube of half side ``half``, and through which face."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-np.sign(directions) * half - cameras) / directions
    axis = np.where(directions == 0, -np.inf, t).argmax(1)
    ray = np.arange(len(axis))
    points = np.clip(cameras + t[ray, axis, None] * directions, -half, half)
    # Exactly on the face, whatever the rounding.
    points[ray, axis] = -np.sign(directions[ray, axis]) * half
    return points, (2 * axis + (directions[ray, axis] < 0)).astype(np.int32)
