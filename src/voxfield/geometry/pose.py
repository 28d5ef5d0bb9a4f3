"""Rigid poses, and the transform that puts a capture into a well-shaped world.

Structure-from-motion leaves a capture in arbitrary axes, place and size. ``normalise`` finds the one similarity
(rotation, uniform scale, shift) that turns the cameras' mean up to +Z, puts the subject or the cameras' middle at the
origin, and scales so that every camera centre lies in [-1, 1]^3. It is kept with the data, and inverts.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from voxfield.axes import WORLD_UP
from voxfield.checks import check_choice, check_shape
from voxfield.errors import InputError

Orientation = Literal["up", "none"]
Centre = Literal["auto", "poses", "focus", "none"]

RIGID_TOLERANCE: Final = 1e-2
"""Largest entry of R R^T - I still taken as rounding: files keep as few as three digits. Repaired by
``orthonormalise``."""

_INWARD_SHARE: Final = 0.9
_INWARD_SPREAD: Final = 0.05
"""Smallest eigenvalue of mean(I - d d^T) for cameras that surround a subject: 0.05 is a cone of about 18 degrees'
radius. A forward-facing capture has less, and its axes meet nowhere definite."""


def is_rigid(matrix: Tensor, tolerance: float = RIGID_TOLERANCE) -> Tensor:
    """Whether (..., 3, 4) or (..., 4, 4) matrices are finite, have an orthonormal right-handed 3x3 part: (...) bool."""
    rotation = matrix[..., :3, :3]
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    error = (rotation @ rotation.transpose(-1, -2) - identity).abs().amax(dim=(-1, -2))
    finite = matrix.isfinite().all(dim=-1).all(dim=-1)
    return finite & (error <= tolerance) & (torch.linalg.det(rotation.nan_to_num(0.0, 0.0, 0.0)) > 0)


def orthonormalise(rotation: Tensor) -> Tensor:
    """The nearest rotations (least squares) to (..., 3, 3) nearly orthonormal matrices."""
    left, _, right = torch.linalg.svd(rotation)
    return left @ right


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneTransform:
    """A similarity x -> scale * R x + t that takes capture coordinates to world coordinates."""

    matrix: Tensor
    """(4, 4) float64: a rotation times one positive scale, a shift, and the row 0 0 0 1."""

    def __post_init__(self) -> None:
        check_shape("matrix", self.matrix, (4, 4))
        object.__setattr__(self, "matrix", self.matrix.detach().to("cpu", torch.float64))
        scale = self.scale
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        if not (scale > 0 and torch.equal(self.matrix[3], bottom) and bool(is_rigid(self._unscaled()))):
            raise InputError(
                "SceneTransform: expected a rotation with one positive scale and a shift, got\n"
                + str([[round(value, 6) for value in row] for row in self.matrix.tolist()])
            )

    @classmethod
    def identity(cls) -> "SceneTransform":
        """The transform that changes nothing."""
        return cls(matrix=torch.eye(4, dtype=torch.float64))

    @classmethod
    def from_parts(cls, rotation: Tensor, scale: float, shift: Tensor) -> "SceneTransform":
        """The transform x -> scale * (rotation @ x) + shift, from (3, 3), a number above 0 and (3,)."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = rotation.double() * scale
        matrix[:3, 3] = shift.double()
        return cls(matrix=matrix)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SceneTransform":
        """Inverse of ``to_dict``."""
        return cls(matrix=torch.tensor(values["matrix"], dtype=torch.float64))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON; floats are kept exactly."""
        return {"matrix": self.matrix.tolist()}

    @property
    def scale(self) -> float:
        """World units per capture unit."""
        determinant = float(torch.linalg.det(self.matrix[:3, :3]))
        return max(determinant, 0.0) ** (1 / 3)

    def _unscaled(self) -> Tensor:
        rigid = self.matrix.clone()
        rigid[:3, :3] /= self.scale
        return rigid

    def apply_points(self, points: Tensor) -> Tensor:
        """(..., 3) capture points to world points, in their dtype."""
        moved = points.double() @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return moved.to(points.dtype)

    def apply_poses(self, poses: Tensor) -> Tensor:
        """(N, 3, 4) camera poses in capture coordinates to poses in the world: rotations stay rigid, centres move."""
        check_shape("poses", poses, ("N", 3, 4))
        rotation = (self.matrix[:3, :3] / self.scale) @ poses[:, :, :3].double()
        centres = poses[:, :, 3].double() @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return torch.cat([rotation, centres[:, :, None]], dim=2).to(poses.dtype)

    def inverse(self) -> "SceneTransform":
        """World to capture."""
        scale = self.scale
        back = (self.matrix[:3, :3] / scale).T
        return SceneTransform.from_parts(back, 1 / scale, -(back @ self.matrix[:3, 3]) / scale)

    def after(self, first: "SceneTransform") -> "SceneTransform":
        """The transform that does ``first``, then this one."""
        return SceneTransform(matrix=self.matrix @ first.matrix)


class Focus(NamedTuple):
    """Where the cameras look."""

    point: Tensor
    """(3,) float64: the point nearest to all optical axes (least squares)."""
    inward: bool
    """Whether the cameras do look at it: nine in ten have it in front, from directions that differ enough."""


def focus(poses: Tensor) -> Focus:
    """Find the point nearest to all optical axes, and tell whether the cameras surround it.

    Minimises sum |(I - d d^T)(p - o)|^2 over p for axes o + t d: a 3x3 linear system.

    Args:
        poses: (N, 3, 4), N >= 1.
    """
    check_shape("poses", poses, ("N", 3, 4))
    centres, axes = poses[:, :, 3].double(), -poses[:, :, 2].double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    spread = float(torch.linalg.eigvalsh(across.mean(0))[0])
    # The pseudo-inverse gives the point nearest the cameras' middle when the axes are parallel.
    middle = centres.mean(0)
    offset = torch.linalg.lstsq(
        across.mean(0), (across @ (centres - middle)[:, :, None]).mean(0), driver="gelsd"
    ).solution[:, 0]
    point = middle + offset
    ahead = ((point - centres) * axes).sum(-1) > 0
    return Focus(point, spread > _INWARD_SPREAD and float(ahead.double().mean()) >= _INWARD_SHARE)


def rotation_between(source: Tensor, target: Tensor) -> Tensor:
    """The smallest rotation (3, 3) that turns unit vector ``source`` (3,) into unit vector ``target`` (3,)."""
    source, target = source.double(), target.double()
    cosine = float(source @ target)
    if cosine < -1 + 1e-9:
        # Opposite vectors: half a turn about any axis across them.
        axis = torch.linalg.cross(source, torch.eye(3, dtype=torch.float64)[int(source.abs().argmin())])
        axis = axis / axis.norm()
        return 2 * axis[:, None] * axis[None, :] - torch.eye(3, dtype=torch.float64)
    x, y, z = torch.linalg.cross(source, target).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + skew + skew @ skew / (1 + cosine)


def similarity_between(source: Tensor, target: Tensor) -> SceneTransform:
    """The similarity that best takes one set of camera poses to another: how far poses drifted as a group.

    The rotation is the one nearest to the mean of the cameras' own turns, which is definite also where their centres
    lie on a line; scale and shift then fit the centres by least squares. Centres in one place keep their scale.

    Args:
        source, target: (N, 3, 4) camera-to-world of the same N >= 1 cameras, turned by less than a right angle.

    Returns:
        The transform; ``apply_poses(source)`` is near ``target``.
    """
    check_shape("source", source, ("N", 3, 4))
    check_shape("target", target, (len(source), 3, 4))
    source, target = source.double().cpu(), target.double().cpu()
    rotation = orthonormalise((target[:, :, :3] @ source[:, :, :3].transpose(1, 2)).mean(0))
    begin, end = source[:, :, 3].mean(0), target[:, :, 3].mean(0)
    before, after = (source[:, :, 3] - begin) @ rotation.T, target[:, :, 3] - end
    spread, agreement = float(before.square().sum()), float((before * after).sum())
    scale = agreement / spread if spread > 1e-12 and agreement > 0 else 1.0
    return SceneTransform.from_parts(rotation, scale, end - scale * (rotation @ begin))


def normalise(
    poses: Tensor, *, orientation: Orientation = "up", centre: Centre = "auto", auto_scale: bool = True
) -> SceneTransform:
    """The similarity that puts a capture into a well-shaped world.

    Args:
        poses: (N, 3, 4) camera-to-world in capture coordinates, N >= 1.
        orientation: ``"up"`` turns the mean of the cameras' up vectors to +Z; ``"none"`` keeps the axes.
        centre: ``"focus"`` puts the point the cameras look at at the origin, ``"poses"`` the mean of their centres,
            ``"none"`` keeps the origin; ``"auto"`` is focus when the cameras look inward and poses otherwise.
        auto_scale: scale so that the largest coordinate of any camera centre is 1.

    Returns:
        Capture to world.
    """
    check_shape("poses", poses, ("N", 3, 4))
    check_choice("orientation", orientation, ("up", "none"))
    check_choice("centre", centre, ("auto", "poses", "focus", "none"))
    poses = poses.double()
    rotation = torch.eye(3, dtype=torch.float64)
    if orientation == "up":
        up = poses[:, :, 1].mean(0)
        # Cameras that look every way cancel out: then no up can be told and the axes stay.
        if float(up.norm()) > 1e-3:
            rotation = rotation_between(up / up.norm(), torch.tensor(WORLD_UP, dtype=torch.float64))
    origin = torch.zeros(3, dtype=torch.float64)
    if centre == "poses":
        origin = poses[:, :, 3].mean(0)
    elif centre in ("focus", "auto"):
        looked_at = focus(poses)
        origin = looked_at.point if centre == "focus" or looked_at.inward else poses[:, :, 3].mean(0)
    scale = 1.0
    if auto_scale:
        reach = float(((poses[:, :, 3] - origin) @ rotation.T).abs().max())
        # A single camera at its own centre has no extent: it keeps its units.
        scale = 1.0 / reach if reach > 1e-9 else 1.0
    return SceneTransform.from_parts(rotation, scale, -scale * (rotation @ origin))
