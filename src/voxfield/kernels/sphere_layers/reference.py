"""Concentric spheres in plain torch: the specification of ``api.render_spheres``, in the tensors' own precision."""

import torch

from voxfield.kernels.sphere_layers.layers import LayerGradients, LayerValues, leave, sphere_radii, texel_place

CONSTANT_HARMONIC = 0.28209479177387814
"""Y_0, which colours are in units of."""


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    layers: LayerValues,
    early_stop: float,
    gradients: LayerGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_spheres``. Returns rgb (R, 3), opacity (R,), depth (R,)."""
    density, values = layers.density, layers.rgb
    if gradients is not None and torch.is_grad_enabled():
        density, values = _GradientsInto.apply(density, values, gradients)  # type: ignore[no-untyped-call]
    sound = origins.isfinite().all(1) & directions.isfinite().all(1)
    origins, directions = (torch.where(sound[:, None], tensor, 0) for tensor in (origins, directions))
    middle = -(origins * directions).sum(1)
    squared = origins.square().sum(1) - middle.square()
    # Connected to the values, so that where rays meet nothing their gradient is zero rather than missing.
    nothing = middle * 0 + density[:0].sum() + values[:0].sum()
    rgb, opacity, depth = nothing[:, None].expand(-1, 3), nothing, nothing
    light = torch.ones_like(middle)
    before = leave(1.0, middle, squared)[0].clamp(min=0)
    for k, radius in enumerate(sphere_radii(len(layers.links)).tolist()):
        t, met = leave(radius, middle, squared)
        met = met & (t > 0) & sound & ~(light < early_stop)
        rows, shares = _texels((origins + t[:, None] * directions) / radius, layers.links[k])
        sigma = (shares * _rows(density, rows)).sum(1).clamp(min=0)
        alpha = torch.where(met, -torch.expm1(-(t - before) * sigma), 0)
        colour = (0.5 + CONSTANT_HARMONIC * (shares[..., None] * _rows(values, rows)).sum(1)).clamp(min=0)
        weight = alpha * light
        light = light * (1 - alpha)
        rgb = rgb + weight[:, None] * colour
        opacity, depth = opacity + weight, depth + weight * t
        before = t.clamp(min=0)
    return rgb, opacity, depth


class _GradientsInto(torch.autograd.Function):
    """The values as they are; their gradients go to buffers."""

    @staticmethod
    def forward(ctx, density, rgb, gradients):  # type: ignore[no-untyped-def]
        ctx.gradients = gradients
        return density.view_as(density), rgb.view_as(rgb)

    @staticmethod
    def backward(ctx, density, rgb):  # type: ignore[no-untyped-def]
        buffers: LayerGradients = ctx.gradients
        buffers.density.add_(density)
        buffers.rgb.add_(rgb)
        buffers.touched.logical_or_((density != 0) | (rgb != 0).any(1))
        return None, None, None


def _texels(points: torch.Tensor, links: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (R, 4) of the texels around ``points`` (R, 3) of the unit sphere, and shares: 0 of those not stored."""
    height, width = links.shape
    column, line = texel_place(points, height, width)
    x0, y0 = column.detach().floor(), line.detach().floor().clamp(max=height - 2)
    x, y = column - x0, line - y0
    rows, shares = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            rows.append(links[y0.long() + dy, (x0.long() + dx) % width])
            shares.append((x if dx else 1 - x) * (y if dy else 1 - y))
    stacked = torch.stack(rows, dim=1)
    return stacked.clamp(min=0).long(), torch.where(stacked >= 0, torch.stack(shares, dim=1), 0)


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]``; zeros where nothing is stored at all."""
    if not len(values):
        return values.new_zeros(*rows.shape, *values.shape[1:])
    return values[rows]
