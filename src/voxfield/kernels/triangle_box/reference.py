"""Triangle-box overlap in plain torch: the specification of ``api.triangle_box``, a triangle at a time."""

import torch

from voxfield.kernels.voxel_words import pack_voxels


def triangle_box(triangles: torch.Tensor, resolution: int) -> torch.Tensor:
    """See ``api.triangle_box``. Computed on the CPU."""
    occupied = torch.zeros(resolution, resolution, resolution, dtype=torch.bool)
    for corners in triangles.cpu():
        # Closed cubes: a corner exactly on a face between voxels belongs to both.
        low = (corners.amin(0).ceil() - 1).clamp(0, resolution).long()
        high = (corners.amax(0).floor() + 1).clamp(0, resolution).long()
        if bool((low >= high).any()):
            continue
        z, y, x = torch.meshgrid(
            *(torch.arange(int(low[axis]), int(high[axis]), dtype=torch.float64) for axis in (2, 1, 0)), indexing="ij"
        )
        region = tuple(slice(int(low[axis]), int(high[axis])) for axis in (2, 1, 0))
        occupied[region] |= _overlaps(corners, (x, y, z))
    return pack_voxels(occupied).to(triangles.device)


def _overlaps(corners: torch.Tensor, cube: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Whether unit cubes with these lowest corners, known to meet the triangle's box, meet the triangle."""
    edges = corners.roll(-1, 0) - corners
    a, b = edges[0], edges[1]
    normal = torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
    # The cube's corners that are farthest along the normal and against it lie on different sides of the plane.
    far = (normal > 0).double()
    base = (normal[0] * cube[0] + normal[1] * cube[1]) + normal[2] * cube[2]
    offset = [far[i] - corners[0, i] for i in range(3)], [(1 - far[i]) - corners[0, i] for i in range(3)]
    first, second = ((normal[0] * o[0] + normal[1] * o[1]) + normal[2] * o[2] for o in offset)
    overlaps = (base + first >= 0) & (base + second <= 0)
    # In the three projections no edge has the whole square outside it.
    for u, v, w in ((1, 2, 0), (2, 0, 1), (0, 1, 2)):
        turn = 1.0 if normal[w] >= 0 else -1.0
        for start, edge in zip(corners, edges, strict=True):
            across, along = -edge[v] * turn, edge[u] * turn
            limit = (across.clamp(min=0) + along.clamp(min=0)) - (across * start[u] + along * start[v])
            overlaps &= (across * cube[u] + along * cube[v]) + limit >= 0
    return overlaps
