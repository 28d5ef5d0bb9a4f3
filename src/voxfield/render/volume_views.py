"""Pictures of volumes for people to look at: shaded surfaces seen from any side, sheets of many, turntables."""

import math
from collections.abc import Sequence
from typing import Final

import torch

from voxfield.checks import check_range
from voxfield.errors import InputError

_LIGHT: Final = (0.35, -0.55, 0.76)
_COLOUR: Final = (0.98, 0.72, 0.36)
_BACKGROUND: Final = 1.0


def view_volume(
    volume: torch.Tensor, *, azimuth: float = -50.0, elevation: float = 25.0, size: int = 128, threshold: float = 0.5
) -> torch.Tensor:
    """The surface where values pass ``threshold``, without perspective, lit from above.

    Args:
        volume: (D, H, W), axes z, y, x, z up.
        azimuth: degrees about z; 0 looks from +x, 90 from +y.
        elevation: degrees above the horizon, -90 to 90.
        size: pixels along each side, 8 to 4096.
        threshold: value of the surface.

    Returns:
        (size, size, 3) uint8.
    """
    if volume.ndim != 3 or min(volume.shape) < 1:
        raise InputError(f"volume: expected (D, H, W), got {tuple(volume.shape)}.")
    check_range("elevation", elevation, minimum=-90.0, maximum=90.0)
    check_range("size", size, minimum=8, maximum=4096)
    around, above = math.radians(azimuth), math.radians(elevation)
    towards = torch.tensor([math.cos(above) * math.cos(around), math.cos(above) * math.sin(around), math.sin(above)])
    right = torch.tensor([-math.sin(around), math.cos(around), 0.0])
    up = torch.linalg.cross(towards, right)
    steps = max(size, 2 * max(volume.shape))
    reach = math.sqrt(3.0)
    # The longest side of the volume spans -1 to 1; pixel rows run from the top.
    longest = max(volume.shape)
    across = ((torch.arange(size) + 0.5) / size * 2.0 - 1.0) * 1.6
    depths = torch.linspace(reach, -reach, steps)
    plane = across[None, :, None] * right - across[:, None, None] * up
    scale = longest / torch.tensor([float(side) for side in reversed(volume.shape)])
    hit = torch.full((size, size), torch.nan)
    before = torch.zeros((size, size))
    values = volume.float()[None, None]
    # Layer by layer from the front: the memory is that of one picture.
    for step, depth in enumerate(depths.tolist()):
        now = _sampled(values, (plane + depth * towards) * scale)[0]
        entered = torch.isnan(hit) & (now >= threshold)
        if step:
            back = (now - threshold) / (now - before).clamp(min=1e-6)
            hit[entered] = (depth + back.clamp(0.0, 1.0) * (2.0 * reach / (steps - 1)))[entered]
        before = now
    seen = ~torch.isnan(hit)
    points = plane + hit.nan_to_num()[..., None] * towards
    shade = _shading(values, points, scale, towards, 2.0 / longest)
    picture = torch.full((size, size, 3), _BACKGROUND)
    picture[seen] = shade[seen][:, None] * torch.tensor(_COLOUR)
    return (picture * 255.0).round().clamp(0, 255).to(torch.uint8)


def _sampled(values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values (C, ...) at points (..., 3), x, y, z from -1 to 1; nothing outside."""
    grid = points.reshape(1, 1, 1, -1, 3)
    sampled = torch.nn.functional.grid_sample(values, grid, padding_mode="zeros", align_corners=False)
    return sampled.reshape(values.shape[1], *points.shape[:-1])


def _shading(
    values: torch.Tensor, points: torch.Tensor, scale: torch.Tensor, towards: torch.Tensor, voxel: float
) -> torch.Tensor:
    """Brightness, 0 to 1, of the surface at ``points`` by its normal."""
    slopes = []
    for axis in range(3):
        offset = torch.zeros(3)
        offset[axis] = voxel
        ahead, behind = ((points + sign * offset) * scale for sign in (1.0, -1.0))
        slopes.append(_sampled(values, behind)[0] - _sampled(values, ahead)[0])
    normals = torch.nn.functional.normalize(torch.stack(slopes, -1), dim=-1)
    light = torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)
    lit = (normals @ light).clamp(min=0.0)
    facing = (normals @ towards).clamp(min=0.0)
    return (0.25 + 0.5 * lit + 0.25 * facing).clamp(0.0, 1.0)


def contact_sheet(pictures: Sequence[torch.Tensor], columns: int | None = None, gap: int = 4) -> torch.Tensor:
    """Pictures (S, S, 3) uint8 side by side in rows, (rows, ...) from the top left, on white.

    Args:
        pictures: at least one, all of one size.
        columns: pictures a row; None: about as many as rows.
        gap: pixels between.
    """
    if not pictures:
        raise InputError("pictures: expected at least one.")
    columns = math.ceil(math.sqrt(len(pictures))) if columns is None else columns
    check_range("columns", columns, minimum=1)
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    sheet = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=torch.uint8)
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
