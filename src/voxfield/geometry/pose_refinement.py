"""Camera poses corrected during training: six numbers a camera, learnt with the scene, that move and turn its rays.

Structure from motion leaves poses off by a pixel or more, which a sharp field cannot explain. Conventions: a correction
is a vector (v, r) of a translation part and an axis-angle part (axis times angle in radians), both in world axes. With
R the rotation by r, a ray (o, d) becomes (o + t, R d): the camera turns about its own centre. ``"SO3xR3"`` takes t = v;
``"SE3"`` takes t = V(r) v, the translation of the exponential map of a rigid motion. Source: nerfstudio's camera
optimiser; the exponential map as in Eade, Lie Groups for 2D and 3D Transformations.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_dtype, check_range, check_shape
from voxfield.geometry.rays import Rays

PoseManifold = Literal["SO3xR3", "SE3"]

_SERIES_BELOW = 1e-2
"""Squared angle below which the series is used: its first term left out is below 3e-18 there."""


@dataclass(frozen=True, kw_only=True)
class PoseRefinementConfig:
    """How poses may change."""

    manifold: PoseManifold = "SO3xR3"
    """Whether the translation is learnt as it is or as part of a rigid motion."""
    translation_penalty: float = 1e-2
    """Weight of the mean length of the translation parts (world units), at least 0."""
    rotation_penalty: float = 1e-3
    """Weight of the mean length of the rotation parts (radians), at least 0."""

    def __post_init__(self) -> None:
        check_choice("manifold", self.manifold, ("SO3xR3", "SE3"))
        check_range("translation_penalty", self.translation_penalty, minimum=0.0)
        check_range("rotation_penalty", self.rotation_penalty, minimum=0.0)


class PoseRefinement(torch.nn.Module):
    """A correction for each of ``num_cameras`` poses, none at first.

    Only cameras that the training sees learn theirs: pictures of other cameras are rendered, and scored, with their
    poses as they came.
    """

    def __init__(self, num_cameras: int, config: PoseRefinementConfig | None = None) -> None:
        super().__init__()
        check_range("num_cameras", num_cameras, minimum=1)
        self.config = config or PoseRefinementConfig()
        self.corrections = torch.nn.Parameter(torch.zeros(num_cameras, 6))
        """(N, 6): translation parts, then rotation parts."""

    def forward(self, rays: Rays) -> Rays:
        """``rays`` with the correction of each one's camera; pixel areas and indices are kept.

        Gradients flow to ``corrections``, and to origins and directions if those ask for one.

        Raises:
            IndexError: a camera index is not in [0, num_cameras). On a GPU, torch's own assertion.
        """
        translation, rotation = self.corrections.index_select(0, rays.camera_index).split(3, dim=1)
        if self.config.manifold == "SE3":
            translation = rigid_translation(translation, rotation)
        return replace(rays, origins=rays.origins + translation, directions=rotate(rays.directions, rotation))

    def apply_to_poses(self, camera_to_world: Tensor) -> Tensor:
        """(num_cameras, 3, 4) camera-to-world poses, corrected: rays cast with them are those of ``forward``."""
        check_shape("camera_to_world", camera_to_world, (len(self.corrections), 3, 4))
        translation, rotation = self.corrections.to(camera_to_world).split(3, dim=1)
        if self.config.manifold == "SE3":
            translation = rigid_translation(translation, rotation)
        axes = rotate(camera_to_world[:, :, :3].transpose(1, 2).reshape(-1, 3), rotation.repeat_interleave(3, dim=0))
        turned = axes.reshape(-1, 3, 3).transpose(1, 2)
        return torch.cat([turned, (camera_to_world[:, :, 3] + translation)[:, :, None]], dim=2)

    def penalty(self) -> Tensor:
        """Scalar to add to the loss: mean lengths of both parts, weighted. Its gradient at no correction is 0."""
        translation, rotation = self.corrections.split(3, dim=1)
        lengths = translation.norm(dim=1).mean(), rotation.norm(dim=1).mean()
        return self.config.translation_penalty * lengths[0] + self.config.rotation_penalty * lengths[1]


def rotate(vectors: Tensor, axis_angles: Tensor) -> Tensor:
    """Turn (N, 3) ``vectors`` by the rotations (N, 3) ``axis_angles``, axis times angle in radians.

    Rodrigues' formula, v + a (r x v) + b (r x (r x v)) with a = sin(angle)/angle, b = (1 - cos(angle))/angle^2.
    Differentiable in both, the zero rotation included. Lengths are kept to rounding.
    """
    a, b, _ = _rotation_coefficients(_checked_pair(vectors, axis_angles))
    once = torch.linalg.cross(axis_angles, vectors)
    return vectors + a * once + b * torch.linalg.cross(axis_angles, once)


def rigid_translation(translations: Tensor, axis_angles: Tensor) -> Tensor:
    """The translation of the exponential map of SE(3): V(r) v for (N, 3) ``translations`` v and ``axis_angles`` r.

    v + b (r x v) + c (r x (r x v)) with b as in ``rotate`` and c = (angle - sin(angle))/angle^3: where a motion at
    constant velocity v and spin r ends. Differentiable in both, the zero rotation included.
    """
    _, b, c = _rotation_coefficients(_checked_pair(translations, axis_angles))
    once = torch.linalg.cross(axis_angles, translations)
    return translations + b * once + c * torch.linalg.cross(axis_angles, once)


def _checked_pair(vectors: Tensor, axis_angles: Tensor) -> Tensor:
    check_shape("vectors", vectors, ("N", 3))
    check_shape("axis_angles", axis_angles, (len(vectors), 3))
    check_dtype("axis_angles", axis_angles, (vectors.dtype,))
    return axis_angles


def _rotation_coefficients(axis_angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of the formulae above, each (N, 1), as functions of the squared angle, which is smooth at 0."""
    squared = axis_angles.square().sum(1, keepdim=True)
    small = squared < _SERIES_BELOW
    # Each branch of where() gets arguments at which its gradient is finite, used or not.
    x = torch.where(small, squared, 0.0)
    near = (
        1 + x * (-1 / 6 + x * (1 / 120 + x * (-1 / 5040 + x / 362880))),
        1 / 2 + x * (-1 / 24 + x * (1 / 720 + x * (-1 / 40320 + x / 3628800))),
        1 / 6 + x * (-1 / 120 + x * (1 / 5040 + x * (-1 / 362880 + x / 39916800))),
    )
    y = torch.where(small, 1.0, squared)
    angle = y.sqrt()
    away = angle.sin() / angle, (1 - angle.cos()) / y, (angle - angle.sin()) / (y * angle)
    a, b, c = (torch.where(small, first, second) for first, second in zip(near, away, strict=True))
    return a, b, c
