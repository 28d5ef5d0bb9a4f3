"""Sparse voxel grids on a GPU: a few rays a program, side by side; of a sample all voxels and channels at once.

A forward keeps nothing but a ray's sums. The backward marches again, in the same direction: what lies behind a sample
is the ray's whole sum less what came before. Positions, transmittance and sums are float64, as on a CPU, which costs
little: a ray has one of each, and a sample hundreds of float32 coefficients.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from voxfield.kernels.sh_grid.grid import GridGradients, MarchRule, ShGrid

_RAYS = 8
"""Rays of a program: with 27 channels a sample of each is a tile of 8 x 8 x 32 values, 32 registers a lane."""
_WARPS = 2
_POINTS = 8
"""Points of a program that samples."""


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    basis: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    gradients: GridGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_sh_grid``. Returns rgb (R, 3), opacity (R,), depth (R,), sparsity (R,), samples (R,)."""
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] = _Render.apply(
        grid.density, grid.sh, origins, directions, basis, grid, rule, jitter, near, gradients
    )
    return outputs


def march(
    origins: torch.Tensor, directions: torch.Tensor, grid: ShGrid, rule: MarchRule, jitter: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.march_sh_grid``. One pass counts, the next writes. Waits for the device once, for the total."""
    rays = _rays(origins, directions, jitter)
    counts = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    programs, constants = (triton.cdiv(len(origins), _RAYS),), _constants()
    setting = *_grid(grid), *_rule(rule, near), len(origins)
    if len(origins):
        # What a pass does not write is given any tensor.
        _walk[programs](*rays, *setting, counts, counts, grid.density, grid.density, MODE="count", **constants)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    t = origins.new_empty(int(offsets[-1]))
    if len(t):
        _walk[programs](*rays, *setting, counts, offsets, t, grid.density, MODE="write", **constants)
    return t, offsets


def greatest_weights(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    greatest: torch.Tensor,
) -> None:
    """See ``api.greatest_weights``."""
    if len(origins):
        unused = torch.zeros(1, dtype=torch.int64, device=origins.device)
        _walk[(triton.cdiv(len(origins), _RAYS),)](
            *_rays(origins, directions, jitter), *_grid(grid), *_rule(rule, near), len(origins), unused, unused,
            grid.density, greatest, MODE="greatest", **_constants(),
        )  # fmt: skip


def sample(points: torch.Tensor, grid: ShGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.sample_sh_grid``. Returns density (N,), sh (N, 3, B)."""
    density, sh = points.new_empty(len(points)), points.new_empty(len(points), 3, grid.sh.shape[2])
    if len(points):
        _sample[(triton.cdiv(len(points), _POINTS),)](
            points.detach().contiguous(), *_grid(grid), grid.sh.detach(), len(points), density, sh,
            3 * grid.sh.shape[2], PADDED=_padded(grid), **{**_constants(), "RAYS": _POINTS},
        )  # fmt: skip
    return density, sh


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: torch.Tensor,
        sh: torch.Tensor,
        origins: torch.Tensor,
        directions: torch.Tensor,
        basis: torch.Tensor,
        grid: ShGrid,
        rule: MarchRule,
        jitter: torch.Tensor,
        near: float,
        gradients: GridGradients | None,
    ) -> tuple[torch.Tensor, ...]:
        rays, basis = _rays(origins, directions, jitter), basis.detach().contiguous()
        count = len(origins)
        # Red, green, blue, opacity, depth, sparsity: float64, from which the backward subtracts.
        sums = torch.zeros(count, 6, dtype=torch.float64, device=origins.device)
        samples = torch.zeros(count, dtype=torch.int64, device=origins.device)
        if count:
            _forward[(triton.cdiv(count, _RAYS),)](
                *rays, *_grid(grid), *_rule(rule, near), count, sh, basis, sums, samples, sh.shape[2],
                PADDED=_padded(grid), **_constants(),
            )  # fmt: skip
        ctx.save_for_backward(*rays, basis, sums)
        ctx.grid, ctx.rule, ctx.near, ctx.gradients = grid, rule, near, gradients
        ctx.shapes = density.shape, sh.shape
        ctx.mark_non_differentiable(samples)
        seen = sums.to(origins.dtype)
        return seen[:, :3].contiguous(), *(seen[:, column].contiguous() for column in (3, 4, 5)), samples

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *rays, basis, sums = ctx.saved_tensors
        grid: ShGrid = ctx.grid
        into = ctx.gradients
        if into is None:
            rows, coefficients = ctx.shapes
            into = GridGradients(
                density=torch.zeros(rows, device=sums.device),
                sh=torch.zeros(coefficients, device=sums.device),
                touched=torch.zeros(rows, dtype=torch.uint8, device=sums.device),
            )
        if len(sums):
            _backward[(triton.cdiv(len(sums), _RAYS),)](
                *rays, *_grid(grid), *_rule(ctx.rule, ctx.near), len(sums), grid.sh.detach(), basis, sums,
                *(grad.contiguous() for grad in grads[:4]), into.density, into.sh, into.touched, grid.sh.shape[2],
                PADDED=_padded(grid), **_constants(),
            )  # fmt: skip
        passed = (into.density, into.sh) if ctx.gradients is None else (None, None)
        return *passed, *(None,) * 8


def _rays(origins: torch.Tensor, directions: torch.Tensor, jitter: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.detach().contiguous() for tensor in (origins, directions, jitter))


def _grid(grid: ShGrid) -> tuple[Any, ...]:
    links = grid.links
    return links.links, links.clearance, grid.density.detach(), grid.box, *links.size


def _rule(rule: MarchRule, near: float) -> tuple[float, ...]:
    return rule.step, rule.density_threshold, rule.early_stop, near


def _padded(grid: ShGrid) -> int:
    padded: int = triton.next_power_of_2(3 * grid.sh.shape[2])
    return padded


def _constants() -> dict[str, Any]:
    # No fused multiply-adds: the passes that count and write have to agree on every sample.
    return {"RAYS": _RAYS, "num_warps": _WARPS, "enable_fp_fusion": False}


@triton.jit
def _forward(
    origins,
    directions,
    jitter,
    links,
    clearance,
    density,
    box,
    size_x,
    size_y,
    size_z,
    step,
    threshold,
    early_stop,
    near,
    rays,
    sh,
    basis,
    sums,
    samples,
    harmonics,
    PADDED: tl.constexpr,
    RAYS: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    active, start, dt, delta, end, ox, oy, oz, dx, dy, dz = _set_out(
        ray, ray < rays, origins, directions, jitter, box, size_x, size_y, size_z, step, near
    )
    channel = tl.arange(0, PADDED)
    y_lm = _harmonics(basis, ray, ray < rays, channel, harmonics)
    red, green, blue = tl.zeros((RAYS,), tl.float64), tl.zeros((RAYS,), tl.float64), tl.zeros((RAYS,), tl.float64)
    opacity, depth = tl.zeros((RAYS,), tl.float64), tl.zeros((RAYS,), tl.float64)
    penalty, transparent = tl.zeros((RAYS,), tl.float64), tl.full((RAYS,), 1.0, tl.float64)
    k, count = tl.zeros((RAYS,), tl.int64), tl.zeros((RAYS,), tl.int64)
    while tl.max(active.to(tl.int32), 0) > 0:
        active, t, k, row, share, sigma, seen, alpha = _visit(
            active, k, start, dt, delta, end, ox, oy, oz, dx, dy, dz, links, clearance, density, size_x, size_y, size_z,
            threshold,
        )  # fmt: skip
        weight = transparent * alpha
        transparent *= 1.0 - alpha
        _, r, g, b = _colour(seen, row, share, sh, y_lm, channel, harmonics)
        red += weight * tl.maximum(r, 0.0)
        green += weight * tl.maximum(g, 0.0)
        blue += weight * tl.maximum(b, 0.0)
        opacity += weight
        depth += weight * t
        sigma = tl.where(seen, sigma, 0.0).to(tl.float64)
        penalty += tl.log(1.0 + 2.0 * sigma * sigma)
        count += seen.to(tl.int64)
        active = active & ~(transparent < early_stop)
    valid = ray < rays
    tl.store(sums + ray * 6, red, mask=valid)
    tl.store(sums + ray * 6 + 1, green, mask=valid)
    tl.store(sums + ray * 6 + 2, blue, mask=valid)
    tl.store(sums + ray * 6 + 3, opacity, mask=valid)
    tl.store(sums + ray * 6 + 4, depth, mask=valid)
    tl.store(sums + ray * 6 + 5, penalty, mask=valid)
    tl.store(samples + ray, count, mask=valid)


@triton.jit
def _backward(
    origins,
    directions,
    jitter,
    links,
    clearance,
    density,
    box,
    size_x,
    size_y,
    size_z,
    step,
    threshold,
    early_stop,
    near,
    rays,
    sh,
    basis,
    sums,
    grad_rgb,
    grad_opacity,
    grad_depth,
    grad_sparsity,
    density_grad,
    sh_grad,
    touched,
    harmonics,
    PADDED: tl.constexpr,
    RAYS: tl.constexpr,
):
    # With v_k = dL/dw_k, the gradient of the optical depth is T_{k+1} v_k - sum over j > k of w_j v_j.
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    valid = ray < rays
    active, start, dt, delta, end, ox, oy, oz, dx, dy, dz = _set_out(
        ray, valid, origins, directions, jitter, box, size_x, size_y, size_z, step, near
    )
    channel = tl.arange(0, PADDED)
    y_lm = _harmonics(basis, ray, valid, channel, harmonics)
    g_red = tl.load(grad_rgb + ray * 3, mask=valid, other=0.0)
    g_green = tl.load(grad_rgb + ray * 3 + 1, mask=valid, other=0.0)
    g_blue = tl.load(grad_rgb + ray * 3 + 2, mask=valid, other=0.0)
    g_opacity = tl.load(grad_opacity + ray, mask=valid, other=0.0)
    g_depth = tl.load(grad_depth + ray, mask=valid, other=0.0)
    g_sparsity = tl.load(grad_sparsity + ray, mask=valid, other=0.0)
    behind = g_red * tl.load(sums + ray * 6, mask=valid, other=0.0)
    behind += g_green * tl.load(sums + ray * 6 + 1, mask=valid, other=0.0)
    behind += g_blue * tl.load(sums + ray * 6 + 2, mask=valid, other=0.0)
    behind += g_opacity * tl.load(sums + ray * 6 + 3, mask=valid, other=0.0)
    behind += g_depth * tl.load(sums + ray * 6 + 4, mask=valid, other=0.0)
    band = channel // harmonics
    transparent, k = tl.full((RAYS,), 1.0, tl.float64), tl.zeros((RAYS,), tl.int64)
    while tl.max(active.to(tl.int32), 0) > 0:
        active, t, k, row, share, sigma, seen, alpha = _visit(
            active, k, start, dt, delta, end, ox, oy, oz, dx, dy, dz, links, clearance, density, size_x, size_y, size_z,
            threshold,
        )  # fmt: skip
        weight = transparent * alpha
        transparent *= 1.0 - alpha
        at, r, g, b = _colour(seen, row, share, sh, y_lm, channel, harmonics)
        value = g_red * tl.maximum(r, 0.0) + g_green * tl.maximum(g, 0.0) + g_blue * tl.maximum(b, 0.0)
        value = value + g_opacity + g_depth * t
        behind -= weight * value
        dense = sigma.to(tl.float64)
        to_density = delta * (transparent * value - behind) + g_sparsity * 4.0 * dense / (1.0 + 2.0 * dense * dense)
        stored = seen[:, None] & (row >= 0)
        # Relaxed: sums only have to be complete when the kernel ends. Their order, so the last bits, may vary.
        tl.atomic_add(density_grad + row, share * to_density.to(tl.float32)[:, None], mask=stored, sem="relaxed")
        tl.store(touched + row, tl.full(row.shape, 1, tl.uint8), mask=stored)
        w = weight.to(tl.float32)
        to_red = tl.where(r > 0.0, w * g_red, 0.0)[:, None]
        to_green = tl.where(g > 0.0, w * g_green, 0.0)[:, None]
        to_blue = tl.where(b > 0.0, w * g_blue, 0.0)[:, None]
        to_channel = tl.where(band[None, :] == 0, to_red, tl.where(band[None, :] == 1, to_green, to_blue)) * y_lm
        coloured = stored[:, :, None] & (to_channel != 0.0)[:, None, :]
        tl.atomic_add(sh_grad + at, share[:, :, None] * to_channel[:, None, :], mask=coloured, sem="relaxed")
        active = active & ~(transparent < early_stop)


@triton.jit
def _walk(
    origins,
    directions,
    jitter,
    links,
    clearance,
    density,
    box,
    size_x,
    size_y,
    size_z,
    step,
    threshold,
    early_stop,
    near,
    rays,
    counts,
    ray_offsets,
    distances,
    greatest,
    MODE: tl.constexpr,
    RAYS: tl.constexpr,
):
    """What needs densities only: ``count`` samples, ``write`` their distances, or raise the ``greatest`` weights."""
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    active, start, dt, delta, end, ox, oy, oz, dx, dy, dz = _set_out(
        ray, ray < rays, origins, directions, jitter, box, size_x, size_y, size_z, step, near
    )
    base = tl.zeros((RAYS,), tl.int64)
    if MODE == "write":
        base = tl.load(ray_offsets + ray, mask=ray < rays, other=0)
    transparent = tl.full((RAYS,), 1.0, tl.float64)
    k, count = tl.zeros((RAYS,), tl.int64), tl.zeros((RAYS,), tl.int64)
    while tl.max(active.to(tl.int32), 0) > 0:
        active, t, k, row, share, _, seen, alpha = _visit(
            active, k, start, dt, delta, end, ox, oy, oz, dx, dy, dz, links, clearance, density, size_x, size_y, size_z,
            threshold,
        )  # fmt: skip
        if MODE == "write":
            tl.store(distances + base + count, t.to(tl.float32), mask=seen)
        if MODE == "greatest":
            weight = tl.zeros((RAYS, 8), tl.float32) + (transparent * alpha).to(tl.float32)[:, None]
            shared = seen[:, None] & (row >= 0) & (share > 0.0)
            tl.atomic_max(greatest + row, weight, mask=shared, sem="relaxed")
        transparent *= 1.0 - alpha
        count += seen.to(tl.int64)
        active = active & ~(transparent < early_stop)
    if MODE == "count":
        tl.store(counts + ray, count, mask=ray < rays)


@triton.jit
def _sample(
    points,
    links,
    clearance,
    density,
    box,
    size_x,
    size_y,
    size_z,
    sh,
    count,
    densities,
    coefficients,
    channels,
    PADDED: tl.constexpr,
    RAYS: tl.constexpr,
):
    point = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    valid = point < count
    channel = tl.arange(0, PADDED)
    px = _position(tl.load(points + point * 3, mask=valid, other=0.0), box, size_x)
    py = _position(tl.load(points + point * 3 + 1, mask=valid, other=0.0), box + 1, size_y)
    pz = _position(tl.load(points + point * 3 + 2, mask=valid, other=0.0), box + 2, size_z)
    x, y, z, cell = _cell(px, py, pz, size_x, size_y, size_z)
    row, share = _corners(valid, cell, px - x, py - y, pz - z, links, size_x, size_y)
    tl.store(densities + point, tl.sum(share * tl.load(density + row, mask=row >= 0, other=0.0), 1), mask=valid)
    used = (row >= 0)[:, :, None] & (channel < channels)[None, None, :]
    values = tl.load(sh + row[:, :, None] * channels + channel[None, None, :], mask=used, other=0.0)
    tl.store(
        coefficients + point[:, None] * channels + channel[None, :],
        tl.sum(share[:, :, None] * values, 1),
        mask=valid[:, None] & (channel < channels)[None, :],
    )


@triton.jit
def _set_out(ray, valid, origins, directions, jitter, box, size_x, size_y, size_z, step, near):
    """A ray's first distance, step, length of an interval and exit; its voxel position at 0 and per distance.

    The first says whether there is anything to march through: not for a ray that misses the box, has no length or
    holds a NaN.
    """
    enter, leave = tl.zeros(ray.shape, tl.float64) + near, tl.full(ray.shape, float("inf"), tl.float64)
    active, enter, leave, ox, dx, along_x = _slab(valid, enter, leave, ray, 0, origins, directions, box, size_x)
    active, enter, leave, oy, dy, along_y = _slab(active, enter, leave, ray, 1, origins, directions, box, size_y)
    active, enter, leave, oz, dz, along_z = _slab(active, enter, leave, ray, 2, origins, directions, box, size_z)
    squared = dx * dx + dy * dy + dz * dz
    active = active & (enter < leave) & (squared > 0.0)
    dt = step / tl.sqrt(tl.where(active, squared, 1.0))
    delta = dt * tl.sqrt(along_x * along_x + along_y * along_y + along_z * along_z)
    start = enter + tl.load(jitter + ray, mask=valid, other=0.0) * dt
    return active, start, dt, delta, leave, ox, oy, oz, dx, dy, dz


@triton.jit
def _slab(active, enter, leave, ray, AXIS: tl.constexpr, origins, directions, box, size):
    """Narrow [enter, leave] to one axis of the box; voxel position at 0 and per distance, world units per distance."""
    origin = tl.load(origins + ray * 3 + AXIS, mask=active, other=0.0).to(tl.float64)
    along = tl.load(directions + ray * 3 + AXIS, mask=active, other=0.0).to(tl.float64)
    low, high = tl.load(box + AXIS).to(tl.float64), tl.load(box + 3 + AXIS).to(tl.float64)
    # Comparisons with NaN are false, so such a ray misses.
    active = active & (tl.abs(origin) < float("inf")) & (tl.abs(along) < float("inf"))
    parallel = along == 0.0
    divisor = tl.where(parallel, 1.0, along)
    first, second = (low - origin) / divisor, (high - origin) / divisor
    active = active & (~parallel | ((low <= origin) & (origin <= high)))
    enter = tl.where(parallel, enter, tl.maximum(enter, tl.minimum(first, second)))
    leave = tl.where(parallel, leave, tl.minimum(leave, tl.maximum(first, second)))
    per_unit = size / (high - low)
    return active, enter, leave, (origin - low) * per_unit - 0.5, along * per_unit, along


@triton.jit
def _harmonics(basis, ray, valid, channel, harmonics):
    """The basis in a ray's direction, for each colour once."""
    used = valid[:, None] & (channel < 3 * harmonics)[None, :]
    return tl.load(basis + ray[:, None] * harmonics + (channel % harmonics)[None, :], mask=used, other=0.0)


@triton.jit
def _visit(
    active, k, start, dt, delta, end, ox, oy, oz, dx, dy, dz, links, clearance, density, size_x, size_y, size_z,
    threshold,
):  # fmt: skip
    """Sample ``k`` of each ray: whether it is there, its distance, the number of the next one, rows and shares of the
    voxels around it, its density, whether it counts, and its opacity.
    """
    t = start + k.to(tl.float64) * dt
    active = active & (t < end)
    row, share, looked, k = _look(
        active, t, k, start, dt, end, ox, oy, oz, dx, dy, dz, links, clearance, size_x, size_y, size_z
    )
    sigma = tl.sum(share * tl.load(density + row, mask=row >= 0, other=0.0), 1)
    # Not >: a NaN density has to reach the sums, where training finds it.
    seen = looked & ~(sigma <= threshold)
    alpha = tl.where(seen, 1.0 - tl.exp(-delta * sigma.to(tl.float64)), 0.0)
    return active, t, k, row, share, sigma, seen, alpha


@triton.jit
def _look(active, t, k, start, dt, end, ox, oy, oz, dx, dy, dz, links, clearance, size_x, size_y, size_z):
    """Rows and shares of the voxels around a sample, whether there are any, and the number of the next sample.

    Where the cell is empty the next sample is behind the empty cells around it.
    """
    px, py, pz = _clamp(ox + dx * t, size_x), _clamp(oy + dy * t, size_y), _clamp(oz + dz * t, size_z)
    x, y, z, cell = _cell(px, py, pz, size_x, size_y, size_z)
    clear = tl.load(clearance + cell, mask=active, other=0).to(tl.int32)
    looked = active & (clear == 0)
    row, share = _corners(looked, cell, px - x, py - y, pz - z, links, size_x, size_y)
    leave = tl.minimum(end, _leave(ox, dx, x, clear, size_x))
    leave = tl.minimum(leave, _leave(oy, dy, y, clear, size_y))
    leave = tl.minimum(leave, _leave(oz, dz, z, clear, size_z))
    # The sample jumped to may still lie in the empty cells: it is tested like any other.
    jumped = tl.where(active & ~looked, (leave - start) / dt, 0.0).to(tl.int64)
    return row, share, looked, tl.maximum(k + 1, jumped)


@triton.jit
def _leave(origin, along, cell, clear, size):
    """Distance at which a ray leaves the empty cells of an axis; those at the border reach to infinity."""
    low, high = cell - clear + 1, cell + clear
    ahead, back = (along > 0.0) & (high < size - 1), (along < 0.0) & (low > 0)
    plane = tl.where(ahead, high, low).to(tl.float64)
    return tl.where(ahead | back, (plane - origin) / tl.where(along == 0.0, 1.0, along), float("inf"))


@triton.jit
def _clamp(position, size):
    """A voxel position on the grid; the bounds come first: NaN then becomes 0 and never an address."""
    return tl.where(position > 0.0, tl.where(position < size - 1, position, size - 1.0), 0.0)


@triton.jit
def _position(point, box, size):
    """Voxel position of a point along one axis."""
    low, high = tl.load(box).to(tl.float64), tl.load(box + 3).to(tl.float64)
    return _clamp((point.to(tl.float64) - low) * (size / (high - low)) - 0.5, size)


@triton.jit
def _cell(px, py, pz, size_x, size_y, size_z):
    """Lowest voxel of the cell around a position, and its number."""
    x = tl.minimum(px.to(tl.int32), size_x - 2)
    y = tl.minimum(py.to(tl.int32), size_y - 2)
    z = tl.minimum(pz.to(tl.int32), size_z - 2)
    return x, y, z, (z.to(tl.int64) * size_y + y) * size_x + x


@triton.jit
def _corners(active, cell, x, y, z, links, size_x, size_y):
    """Rows (N, 8) of a cell's voxels, x fastest, -1 where nothing is stored, and what share each has of a point."""
    corner = tl.arange(0, 8)[None, :]
    right, above, behind = corner & 1, corner >> 1 & 1, corner >> 2
    place = cell[:, None] + (right + size_x * (above + size_y * behind))
    row = tl.load(links + place, mask=active[:, None], other=-1).to(tl.int64)
    x, y, z = x.to(tl.float32)[:, None], y.to(tl.float32)[:, None], z.to(tl.float32)[:, None]
    share = tl.where(right == 1, x, 1.0 - x) * tl.where(above == 1, y, 1.0 - y) * tl.where(behind == 1, z, 1.0 - z)
    return row, share


@triton.jit
def _colour(seen, row, share, sh, y_lm, channel, harmonics):
    """Places (N, 8, C) of the coefficients around samples; the samples' red, green, blue before they are clamped."""
    at = row[:, :, None] * (3 * harmonics) + channel[None, None, :]
    used = (seen[:, None] & (row >= 0))[:, :, None] & (channel < 3 * harmonics)[None, None, :]
    terms = tl.sum(share[:, :, None] * tl.load(sh + at, mask=used, other=0.0), 1) * y_lm
    band = (channel // harmonics)[None, :]
    red = 0.5 + tl.sum(tl.where(band == 0, terms, 0.0), 1)
    green = 0.5 + tl.sum(tl.where(band == 1, terms, 0.0), 1)
    blue = 0.5 + tl.sum(tl.where(band == 2, terms, 0.0), 1)
    return at, red, green, blue
