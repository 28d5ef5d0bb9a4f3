"""Concentric spheres on a GPU: one ray a lane, from the inside out.

Where rays leave the spheres is found beforehand, by torch's operators, all spheres at once. Gradients are summed with
atomic additions, so in no fixed order.
"""

import torch
import triton
import triton.language as tl

from voxfield.kernels.sphere_layers.layers import LayerGradients, LayerValues, leave, sphere_radii, texel_place

_RAYS = 64
"""Rays of a program."""
_Y0 = tl.constexpr(0.28209479177387814)


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    layers: LayerValues,
    early_stop: float,
    gradients: LayerGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_spheres``. Returns rgb (R, 3), opacity (R,), depth (R,)."""
    with torch.no_grad():
        places = _places(origins, directions, layers.links)
    return _Render.apply(layers.density, layers.rgb, places, layers.links, early_stop, gradients)  # type: ignore[no-any-return, no-untyped-call]


def _places(origins: torch.Tensor, directions: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
    """(4, L, R): where rays leave the spheres: distance, length (0 where nothing is met), texel column and line."""
    sound = origins.isfinite().all(1) & directions.isfinite().all(1)
    origins, directions = (torch.where(sound[:, None], tensor, 0) for tensor in (origins, directions))
    middle = -(origins * directions).sum(1)
    squared = origins.square().sum(1) - middle.square()
    radii = sphere_radii(len(links)).to(origins)[:, None]
    t, met = leave(radii, middle, squared)
    first = leave(torch.ones_like(radii[:1]), middle, squared)[0]
    delta = t - torch.cat([first, t[:-1]]).clamp(min=0)
    points = (origins + t[..., None] * directions) / radii[..., None]
    column, line = texel_place(points, *links.shape[1:])
    return torch.stack([t, torch.where(met & (t > 0) & sound, delta, 0), column, line])


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, rgb, places, links, early_stop, gradients):  # type: ignore[no-untyped-def]
        rays, count = places.shape[2], len(links)
        # Opacity, 0 where nothing is seen, and colours before they are clamped.
        kept = density.new_empty(4, count, rays)
        sums = density.new_empty(rays, 3), density.new_empty(rays), density.new_empty(rays)
        if rays:
            _forward[(triton.cdiv(rays, _RAYS),)](
                links, density, rgb, places, kept, *sums, rays, early_stop, *links.shape, RAYS=_RAYS,
                enable_fp_fusion=True,
            )  # fmt: skip
        ctx.save_for_backward(density, rgb, places, links, kept)
        ctx.gradients = gradients
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        density, rgb, places, links, kept = ctx.saved_tensors
        into = ctx.gradients
        if into is None:
            touched = torch.zeros(len(density), dtype=torch.uint8, device=density.device)
            into = LayerGradients(density=torch.zeros_like(density), rgb=torch.zeros_like(rgb), touched=touched)
        rays = places.shape[2]
        if rays:
            _backward[(triton.cdiv(rays, _RAYS),)](
                links, places, kept, *(grad.contiguous() for grad in grads), into.density, into.rgb, into.touched,
                rays, *links.shape, RAYS=_RAYS, enable_fp_fusion=True,
            )  # fmt: skip
        return *((into.density, into.rgb) if ctx.gradients is None else (None, None)), *(None,) * 4


@triton.jit
def _corner(links, k, column, line, height, width, CORNER: tl.constexpr, mask):
    """Row (-1 where nothing is stored) and share of one of the four texels around a place."""
    x0 = tl.floor(column)
    y0 = tl.minimum(line.to(tl.int32), height - 2)
    x, y = column - x0, line - y0.to(tl.float32)
    # The column is at least -1/2.
    across = (x0.to(tl.int32) + width + CORNER % 2) % width
    row = tl.load(links + (k * height + y0 + CORNER // 2) * width + across, mask=mask, other=-1)
    return row, (x if CORNER % 2 else 1.0 - x) * (y if CORNER // 2 else 1.0 - y)


@triton.jit
def _forward(
    links,
    density,
    values,
    places,
    kept,
    rgb,
    opacity,
    depth,
    rays,
    early_stop,
    count,
    height,
    width,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    inside = ray < rays
    stride = count * rays
    red = tl.zeros((RAYS,), tl.float32)
    green = tl.zeros((RAYS,), tl.float32)
    blue = tl.zeros((RAYS,), tl.float32)
    seen = tl.zeros((RAYS,), tl.float32)
    distance = tl.zeros((RAYS,), tl.float32)
    light = tl.full((RAYS,), 1.0, tl.float32)
    for k in range(count):
        at = k * rays + ray
        t = tl.load(places + at, mask=inside, other=0.0)
        delta = tl.load(places + stride + at, mask=inside, other=0.0)
        column = tl.load(places + 2 * stride + at, mask=inside, other=0.0)
        line = tl.load(places + 3 * stride + at, mask=inside, other=0.0)
        met = inside & (delta > 0.0) & (light >= early_stop)
        sigma = tl.zeros((RAYS,), tl.float32)
        r = tl.zeros((RAYS,), tl.float32)
        g = tl.zeros((RAYS,), tl.float32)
        b = tl.zeros((RAYS,), tl.float32)
        for corner in tl.static_range(4):
            row, share = _corner(links, k, column, line, height, width, corner, met)
            stored = row >= 0
            sigma += share * tl.load(density + row, mask=stored, other=0.0)
            r += share * tl.load(values + 3 * row, mask=stored, other=0.0)
            g += share * tl.load(values + 3 * row + 1, mask=stored, other=0.0)
            b += share * tl.load(values + 3 * row + 2, mask=stored, other=0.0)
        alpha = tl.where(met & (sigma > 0.0), 1.0 - tl.exp(-delta * sigma), 0.0)
        r, g, b = r * _Y0 + 0.5, g * _Y0 + 0.5, b * _Y0 + 0.5
        tl.store(kept + at, alpha, mask=inside)
        tl.store(kept + stride + at, r, mask=inside)
        tl.store(kept + 2 * stride + at, g, mask=inside)
        tl.store(kept + 3 * stride + at, b, mask=inside)
        weight = alpha * light
        light = light * (1.0 - alpha)
        red += weight * tl.maximum(r, 0.0)
        green += weight * tl.maximum(g, 0.0)
        blue += weight * tl.maximum(b, 0.0)
        seen += weight
        distance += weight * t
    tl.store(rgb + 3 * ray, red, mask=inside)
    tl.store(rgb + 3 * ray + 1, green, mask=inside)
    tl.store(rgb + 3 * ray + 2, blue, mask=inside)
    tl.store(opacity + ray, seen, mask=inside)
    tl.store(depth + ray, distance, mask=inside)


@triton.jit
def _backward(
    links,
    places,
    kept,
    grad_rgb,
    grad_opacity,
    grad_depth,
    density_grad,
    values_grad,
    touched,
    rays,
    count,
    height,
    width,
    RAYS: tl.constexpr,
):
    """With v_k = dL/dw_k, the gradient of the optical depth is T_{k+1} v_k - sum over j > k of w_j v_j."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    inside = ray < rays
    stride = count * rays
    g_red = tl.load(grad_rgb + 3 * ray, mask=inside, other=0.0)
    g_green = tl.load(grad_rgb + 3 * ray + 1, mask=inside, other=0.0)
    g_blue = tl.load(grad_rgb + 3 * ray + 2, mask=inside, other=0.0)
    g_opacity = tl.load(grad_opacity + ray, mask=inside, other=0.0)
    g_depth = tl.load(grad_depth + ray, mask=inside, other=0.0)
    behind = tl.zeros((RAYS,), tl.float32)
    # Twice along the rays: for the sum over all that is seen, then for what of it lies behind each sphere.
    for turn in tl.static_range(2):
        light = tl.full((RAYS,), 1.0, tl.float32)
        for k in range(count):
            at = k * rays + ray
            alpha = tl.load(kept + at, mask=inside, other=0.0)
            lit = alpha > 0.0
            r = tl.load(kept + stride + at, mask=lit, other=0.0)
            g = tl.load(kept + 2 * stride + at, mask=lit, other=0.0)
            b = tl.load(kept + 3 * stride + at, mask=lit, other=0.0)
            value = g_opacity + g_depth * tl.load(places + at, mask=lit, other=0.0)
            value += g_red * tl.maximum(r, 0.0) + g_green * tl.maximum(g, 0.0) + g_blue * tl.maximum(b, 0.0)
            weight = light * alpha
            light = light * (1.0 - alpha)
            if turn == 0:
                behind += weight * value
            else:
                behind -= weight * value
                delta = tl.load(places + stride + at, mask=lit, other=0.0)
                column = tl.load(places + 2 * stride + at, mask=lit, other=0.0)
                line = tl.load(places + 3 * stride + at, mask=lit, other=0.0)
                of_density = delta * (light * value - behind)
                of_red = tl.where(r > 0.0, weight * g_red * _Y0, 0.0)
                of_green = tl.where(g > 0.0, weight * g_green * _Y0, 0.0)
                of_blue = tl.where(b > 0.0, weight * g_blue * _Y0, 0.0)
                for corner in tl.static_range(4):
                    row, share = _corner(links, k, column, line, height, width, corner, lit)
                    stored = row >= 0
                    tl.store(touched + row, tl.full((RAYS,), 1, tl.uint8), mask=stored)
                    tl.atomic_add(density_grad + row, share * of_density, mask=stored, sem="relaxed")
                    tl.atomic_add(values_grad + 3 * row, share * of_red, mask=stored, sem="relaxed")
                    tl.atomic_add(values_grad + 3 * row + 1, share * of_green, mask=stored, sem="relaxed")
                    tl.atomic_add(values_grad + 3 * row + 2, share * of_blue, mask=stored, sem="relaxed")
