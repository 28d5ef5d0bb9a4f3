"""Filling by crossings in plain torch: the specification of ``api.scan_fill``, a triangle at a time."""

import torch

from voxfield.kernels.voxel_words import pack_voxels


def scan_fill(triangles: torch.Tensor, resolution: int, inside: str) -> torch.Tensor:
    """See ``api.scan_fill``. Computed on the CPU."""
    corners = triangles.cpu()
    ahead, back, closed = _scan(corners, resolution, 0, inside)
    if closed:
        return pack_voxels(ahead).to(triangles.device)
    votes = ahead.byte() + back.byte()
    for axis in (1, 2):
        ahead, back, _ = _scan(corners, resolution, axis, inside)
        votes += ahead.byte() + back.byte()
    return pack_voxels(votes >= 4).to(triangles.device)


def _scan(triangles: torch.Tensor, resolution: int, axis: int, inside: str) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Inside as seen against and along an axis, (R, R, R) in z, y, x, and whether every row ends as it began."""
    row, slab = [other for other in range(3) if other != axis]
    crossings = torch.zeros(resolution, resolution, resolution + 1, dtype=torch.int64)
    centres = torch.arange(resolution, dtype=torch.float64) + 0.5
    s, r = torch.meshgrid(centres, centres, indexing="ij")
    for corners in triangles:
        signs, areas = zip(*(_side(corners[i], corners[(i + 1) % 3], row, slab, r, s) for i in range(3)), strict=True)
        hit = (signs[0] == signs[1]) & (signs[1] == signs[2]) & (signs[0] != 0)
        weighted = areas[1] * corners[0, axis] + areas[2] * corners[1, axis] + areas[0] * corners[2, axis]
        at = weighted / (areas[0] + areas[1] + areas[2])
        first = (at[hit] - 0.5).ceil().clamp(0, resolution).long()
        flat = hit.nonzero()[:, 0] * resolution + hit.nonzero()[:, 1]
        crossings.view(-1).index_add_(0, flat * (resolution + 1) + first, signs[0][hit])
    counts = crossings.cumsum(2)
    total = counts[:, :, -1:]
    ahead, back = counts[:, :, :-1], counts[:, :, :-1] - total
    decide = (lambda count: count % 2 == 1) if inside == "parity" else (lambda count: count != 0)
    closed = not bool(decide(total).any())
    # From (slab, row, axis) to z, y, x.
    order = [(slab, row, axis).index(one) for one in (2, 1, 0)]
    return decide(ahead).permute(order), decide(back).permute(order), closed


def _side(
    start: torch.Tensor, end: torch.Tensor, row: int, slab: int, r: torch.Tensor, s: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """On which side of an edge centres lie (int64, 0 if it has no length) and twice the signed area with it."""
    # One order for both triangles that share the edge: their results are then exactly opposite.
    swapped = bool((end[row] < start[row]) | ((end[row] == start[row]) & (end[slab] < start[slab])))
    a, b = (end, start) if swapped else (start, end)
    area = (b[row] - a[row]) * (s - a[slab]) - (b[slab] - a[slab]) * (r - a[row])
    # On the edge: moved by an infinitesimal amount along the row, and by a much smaller one across.
    tie = -torch.sign(b[slab] - a[slab]) if b[slab] != a[slab] else torch.sign(b[row] - a[row])
    sign = torch.where(area == 0, tie, torch.sign(area)).long()
    return (-sign, -area) if swapped else (sign, area)
