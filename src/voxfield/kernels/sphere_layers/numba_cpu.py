"""Concentric spheres on a CPU.

Forward: rays are split between threads; of every sphere a ray leaves its texel position, opacity and colours are kept.
Backward: one pass along each ray turns these into gradients to the spheres' values there; then *spheres* are split
between threads, so that no two threads write one row and a texel's gradient is summed in the same order whatever their
number. Positions and transmittance are computed in float64, as in ``sh_grid``.
"""

import math

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.sphere_layers.layers import LayerGradients, LayerValues, sphere_radii
from voxfield.kernels.threads import kernel_threads, run_split, run_tasks

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")

_KEPT = 8
"""Values kept of a sphere that a ray leaves: see `_ALPHA` and the following."""
_ALPHA, _T, _DELTA, _COLUMN, _LINE, _RED = 0, 1, 2, 3, 4, 5
"""Opacity (0 where nothing is met), distance, length, texel position, first of three colours before clamping."""
_Y0 = 0.28209479177387814


@_jit
def _texel(links, k, line, column, rows, shares):  # type: ignore[no-untyped-def]
    """Rows and shares of the four texels around a position; True if one is stored."""
    height, width = links.shape[1], links.shape[2]
    x0 = math.floor(column)
    y0 = min(int(line), height - 2)
    x, y = column - x0, line - y0
    left = int(x0) % width
    right = (left + 1) % width
    rows[0], rows[1] = links[k, y0, left], links[k, y0, right]
    rows[2], rows[3] = links[k, y0 + 1, left], links[k, y0 + 1, right]
    shares[0], shares[1], shares[2], shares[3] = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    return rows[0] >= 0 or rows[1] >= 0 or rows[2] >= 0 or rows[3] >= 0


@_jit
def _forward(  # type: ignore[no-untyped-def]
    first, stop, origins, directions, links, density, values, radii, early_stop, kept, rgb, opacity, depth
):
    """Rays [first, stop): their sums, and what is kept of every sphere."""
    count, height, width = links.shape
    rows, shares = np.zeros(4, np.int64), np.zeros(4)
    colour = np.zeros(3)
    for ray in range(first, stop):
        ox, oy, oz = float(origins[ray, 0]), float(origins[ray, 1]), float(origins[ray, 2])
        dx, dy, dz = float(directions[ray, 0]), float(directions[ray, 1]), float(directions[ray, 2])
        size = abs(ox) + abs(oy) + abs(oz) + abs(dx) + abs(dy) + abs(dz)
        sound = size < np.inf
        middle = -(ox * dx + oy * dy + oz * dz)
        squared = ox * ox + oy * oy + oz * oz - middle * middle
        red, green, blue, seen, distance, light = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
        before = max(0.0, middle + math.sqrt(max(0.0, 1.0 - squared)))
        for k in range(count):
            kept[ray, k, _ALPHA] = 0.0
            if not sound or light < early_stop:
                continue
            radius = radii[k]
            inside = radius * radius - squared
            t = middle + math.sqrt(max(0.0, inside))
            delta = t - before
            before = max(0.0, t)
            if not (inside > 0.0 and t > 0.0):
                continue
            px, py, pz = (ox + t * dx) / radius, (oy + t * dy) / radius, (oz + t * dz) / radius
            column = (math.atan2(py, px) / (2 * math.pi) + 0.5) * width - 0.5
            line = math.atan2(math.sqrt(px * px + py * py), pz) / math.pi * height - 0.5
            line = min(max(line, 0.0), height - 1.0)
            if not _texel(links, k, line, column, rows, shares):
                continue
            sigma = 0.0
            for corner in range(4):
                if rows[corner] >= 0:
                    sigma += shares[corner] * density[rows[corner]]
            if not sigma > 0.0:
                continue
            alpha = -math.expm1(-delta * sigma)
            for channel in range(3):
                total = 0.0
                for corner in range(4):
                    if rows[corner] >= 0:
                        total += shares[corner] * values[rows[corner], channel]
                colour[channel] = 0.5 + _Y0 * total
                kept[ray, k, _RED + channel] = colour[channel]
            weight = alpha * light
            light *= 1.0 - alpha
            red += weight * max(0.0, colour[0])
            green += weight * max(0.0, colour[1])
            blue += weight * max(0.0, colour[2])
            seen += weight
            distance += weight * t
            kept[ray, k, _ALPHA], kept[ray, k, _T], kept[ray, k, _DELTA] = alpha, t, delta
            kept[ray, k, _COLUMN], kept[ray, k, _LINE] = column, line
        rgb[ray, 0], rgb[ray, 1], rgb[ray, 2] = red, green, blue
        opacity[ray], depth[ray] = seen, distance


@_jit
def _to_layers(first, stop, kept, grad_rgb, grad_opacity, grad_depth, given):  # type: ignore[no-untyped-def]
    """Gradients of rays [first, stop) to the density and the colour of every sphere where they leave it.

    With v_k = dL/dw_k, the gradient of the optical depth is T_{k+1} v_k - sum over j > k of w_j v_j.
    """
    count = kept.shape[1]
    for ray in range(first, stop):
        light, behind = 1.0, 0.0
        for k in range(count):
            alpha = float(kept[ray, k, _ALPHA])
            if alpha == 0.0:
                continue
            value = grad_opacity[ray] + grad_depth[ray] * kept[ray, k, _T]
            for channel in range(3):
                value += grad_rgb[ray, channel] * max(kept[ray, k, _RED + channel], np.float32(0.0))
            given[ray, k, 0] = value
            behind += light * alpha * value
            light *= 1.0 - alpha
        light = 1.0
        for k in range(count):
            alpha = float(kept[ray, k, _ALPHA])
            if alpha == 0.0:
                continue
            weight = light * alpha
            light *= 1.0 - alpha
            behind -= weight * given[ray, k, 0]
            given[ray, k, 0] = kept[ray, k, _DELTA] * (light * given[ray, k, 0] - behind)
            for channel in range(3):
                positive = kept[ray, k, _RED + channel] > 0.0
                given[ray, k, 1 + channel] = _Y0 * weight * grad_rgb[ray, channel] if positive else 0.0


@_jit
def _scatter(low, high, kept, given, links, density_grad, rgb_grad, touched):  # type: ignore[no-untyped-def]
    """Add all rays' gradients to the texels of spheres [low, high), and mark their rows."""
    rows, shares = np.zeros(4, np.int64), np.zeros(4)
    for ray in range(len(kept)):
        for k in range(low, high):
            if kept[ray, k, _ALPHA] == 0.0:
                continue
            _texel(links, k, float(kept[ray, k, _LINE]), float(kept[ray, k, _COLUMN]), rows, shares)
            for corner in range(4):
                row = rows[corner]
                if row >= 0:
                    touched[row] = 1
                    density_grad[row] += shares[corner] * given[ray, k, 0]
                    for channel in range(3):
                        rgb_grad[row, channel] += shares[corner] * given[ray, k, 1 + channel]


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, rgb, origins, directions, links, early_stop, gradients):  # type: ignore[no-untyped-def]
        rays, layers = len(origins), len(links)
        kept = workspace.empty(rays, layers, _KEPT)
        sums = np.empty((rays, 3), np.float32), np.empty(rays, np.float32), np.empty(rays, np.float32)
        run_split(
            _forward, rays, _array(origins), _array(directions), links.numpy(), _array(density), _array(rgb),
            sphere_radii(layers).numpy(), early_stop, kept, *sums, grain=64,
        )  # fmt: skip
        ctx.kept, ctx.links, ctx.gradients, ctx.shapes = kept, links, gradients, (density.shape, rgb.shape)
        return tuple(torch.from_numpy(values) for values in sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        kept, links = ctx.kept, ctx.links.numpy()
        into = ctx.gradients
        if into is None:
            rows = ctx.shapes[0][0]
            touched = torch.zeros(rows, dtype=torch.uint8)
            into = LayerGradients(density=torch.zeros(rows), rgb=torch.zeros(rows, 3), touched=touched)
        rays, layers = kept.shape[:2]
        given = workspace.empty(rays, layers, 4)
        run_split(_to_layers, rays, kept, *(_array(grad) for grad in grads), given, grain=64)
        buffers = into.density.numpy(), into.rgb.numpy(), into.touched.numpy()
        tasks = min(layers, 4 * kernel_threads())
        bounds = [layers * index // tasks for index in range(tasks + 1)]
        run_tasks(
            [
                lambda low=low, high=high: _scatter(low, high, kept, given, links, *buffers)  # type: ignore[misc]
                for low, high in zip(bounds[:-1], bounds[1:], strict=True)
            ]
        )
        passed = (into.density, into.rgb) if ctx.gradients is None else (None, None)
        return *passed, *(None,) * 5


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    layers: LayerValues,
    early_stop: float,
    gradients: LayerGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_spheres``. Returns rgb (R, 3), opacity (R,), depth (R,)."""
    return _Render.apply(  # type: ignore[no-any-return, no-untyped-call]
        layers.density, layers.rgb, origins, directions, layers.links, early_stop, gradients
    )
