"""The intervals' midpoints on a CPU: one pass, where torch takes fifteen over arrays that no cache holds."""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split
from voxfield.kernels.workspace import empty_feature_major


def interval_points(
    origins: torch.Tensor, directions: torch.Tensor, edges: torch.Tensor, box: torch.Tensor, contracted: bool
) -> torch.Tensor:
    """See ``api.interval_points``. Without gradients."""
    rays, samples = len(origins), max(0, edges.shape[1] - 1)
    points = empty_feature_major(rays * samples, 3)
    corners = box.double().numpy()
    centre, half = corners.mean(0), 0.5 * (corners[1] - corners[0])
    if contracted:
        half[:] = half.max()
    arrays = [tensor.detach().contiguous().numpy() for tensor in (origins, directions, edges)]
    run_split(_midpoints, rays, *arrays, centre, 1.0 / half, contracted, points.T.numpy(), grain=64)
    return points


@njit(nogil=True, fastmath=True, boundscheck=False, error_model="numpy")
def _midpoints(start, stop, origins, directions, edges, centre, per_unit, contracted, points):
    one, half, samples = np.float32(1.0), np.float32(0.5), edges.shape[1] - 1
    for ray in range(start, stop):
        ox = np.float32((origins[ray, 0] - centre[0]) * per_unit[0])
        oy = np.float32((origins[ray, 1] - centre[1]) * per_unit[1])
        oz = np.float32((origins[ray, 2] - centre[2]) * per_unit[2])
        dx = np.float32(directions[ray, 0] * per_unit[0])
        dy = np.float32(directions[ray, 1] * per_unit[1])
        dz = np.float32(directions[ray, 2] * per_unit[2])
        edge, at = edges[ray], ray * samples
        xs, ys, zs = points[0, at : at + samples], points[1, at : at + samples], points[2, at : at + samples]
        for i in range(samples):
            t = half * (edge[i] + edge[i + 1])
            x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
            factor = half
            if contracted:
                inverse = one / max(one, abs(x), abs(y), abs(z))
                factor = (one + one - inverse) * inverse * half * half
            xs[i], ys[i], zs[i] = x * factor + half, y * factor + half, z * factor + half
