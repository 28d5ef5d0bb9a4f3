"""Sparse voxel grids on a CPU.

Forward: rays are split between threads, each is marched once, and of every sample that counts its number, opacity,
density and colour are kept (24 bytes; interpolating the coefficients again would cost twenty times as much). Backward:
one pass along each ray turns the kept values into gradients to the samples' densities and colours; then *layers* of
voxels are split between threads, and each thread walks over all samples and adds to the voxels of its own layers. So no
two threads write one row, and a voxel's gradient is summed in the same order whatever their number.

Positions, transmittance and opacities are computed in float64, which costs next to nothing beside the memory traffic:
a thin sample's opacity, 1 - exp(-x), would lose half its digits in float32.
"""

import math

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.sh_grid.grid import GridGradients, MarchRule, ShGrid
from voxfield.kernels.sh_grid.simd import add_row, blend, prefetch_row
from voxfield.kernels.threads import kernel_threads, run_split, run_tasks

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")

_KEPT = 5
"""Values kept of a sample: opacity, density, three colours before they are clamped."""
_AHEAD = 1.0
"""Voxels ahead of a sample whose neighbours are asked for: dense grids come from main memory, 1.5 times faster so."""
_GIVEN = 4
"""Gradients to a sample: density, three colours."""
_START, _DT, _DELTA, _END, _ORIGIN, _ALONG = 0, 1, 2, 3, 4, 7
"""Columns of a ray's `_trace`: first distance, step, length of an interval, exit; voxel position at 0, per distance."""


@_jit
def _prefetch_cell(values, flat_links, cell, size_x, size_y, entry):  # type: ignore[no-untyped-def]
    """Ask for the rows of the eight voxels around a cell: they are far apart in memory, and needed soon."""
    for corner in range(8):
        row = flat_links[cell + (corner & 1) + size_x * ((corner >> 1 & 1) + size_y * (corner >> 2))]
        if row >= 0:
            prefetch_row(values, row * len(entry), entry)


@_jit
def _cell_at(trace, t, size_x, size_y, size_z):  # type: ignore[no-untyped-def]
    """The cell of a ray at distance ``t``."""
    x = min(int(_clamp(trace[_ORIGIN] + trace[_ALONG] * t, size_x)), size_x - 2)
    y = min(int(_clamp(trace[_ORIGIN + 1] + trace[_ALONG + 1] * t, size_y)), size_y - 2)
    z = min(int(_clamp(trace[_ORIGIN + 2] + trace[_ALONG + 2] * t, size_z)), size_z - 2)
    return (z * size_y + y) * size_x + x


@_jit
def _set_out(origin, direction, box, size, step, jitter, near, trace):  # type: ignore[no-untyped-def]
    """Fill a ray's ``trace``; False for one that misses the box, has no length or holds a NaN."""
    enter, leave, squared, squared_voxels = near, np.inf, 0.0, 0.0
    for axis in range(3):
        start, along = float(origin[axis]), float(direction[axis])
        if not (abs(start) < np.inf and abs(along) < np.inf):
            return False
        low, high = float(box[0, axis]), float(box[1, axis])
        if along == 0.0:
            if not low <= start <= high:
                return False
        else:
            first, second = (low - start) / along, (high - start) / along
            enter = max(enter, min(first, second))
            leave = min(leave, max(first, second))
        per_unit = size[axis] / (high - low)
        trace[_ORIGIN + axis] = (start - low) * per_unit - 0.5
        trace[_ALONG + axis] = along * per_unit
        squared += along * along
        squared_voxels += along * per_unit * along * per_unit
    if not (enter < leave and squared_voxels > 0.0):
        return False
    dt = step / math.sqrt(squared_voxels)
    trace[_START], trace[_DT] = enter + jitter * dt, dt
    trace[_DELTA], trace[_END] = dt * math.sqrt(squared), leave
    return True


@_jit
def _clamp(position, size):  # type: ignore[no-untyped-def]
    """A voxel position on the grid."""
    return min(max(position, 0.0), size - 1.0)


@_jit
def _leave(origin, along, low, high, size):  # type: ignore[no-untyped-def]
    """Distance at which a ray leaves the cells [low, high) of an axis; those at the border reach to infinity."""
    if along > 0.0 and high < size - 1:
        return (high - origin) / along
    if along < 0.0 and low > 0:
        return (low - origin) / along
    return np.inf


@_jit
def _corner_weights(x, y, z, weights):  # type: ignore[no-untyped-def]
    """Shares of the eight voxels around a point ``x, y, z`` (0 to 1) within its cell; x changes fastest."""
    one = np.float32(1.0)
    for corner in range(8):
        wx = x if corner & 1 else one - x
        wy = y if corner & 2 else one - y
        wz = z if corner & 4 else one - z
        weights[corner] = wx * wy * wz


@_jit
def _march(  # type: ignore[no-untyped-def]
    first,
    stop,
    origins,
    directions,
    basis,
    links,
    clearance,
    density,
    sh,
    box,
    rule,
    near,
    jitter,
    most,
    traces,
    numbers,
    kept,
    begins,
    counts,
    rgb,
    opacity,
    depth,
    sparsity,
    entry,
):
    """Rays [first, stop): their sums, and what is kept of their samples, from element ``begins[ray]`` on.

    There is room for ``most`` samples a ray; rays [first, stop) fill theirs without gaps. Without an ``entry`` colours
    are left out.
    """
    size_z, size_y, size_x = links.shape
    size = (size_x, size_y, size_z)
    flat_links, flat_clearance = links.ravel(), clearance.ravel()
    step, threshold, early_stop = rule
    channels = len(entry)
    harmonics = channels // 3
    offsets, weights = np.zeros(8, np.int64), np.zeros(8, np.float32)
    values, stored = np.zeros(8, np.float32), np.zeros(8, np.float32)
    blended = np.zeros(max(1, channels), np.float32)
    one, ahead = np.float32(1.0), _AHEAD / step
    at = first * most
    for ray in range(first, stop):
        begins[ray], counts[ray] = at, 0
        red, green, blue, seen, distance, penalty = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        trace = traces[ray]
        if _set_out(origins[ray], directions[ray], box, size, step, jitter[ray], near, trace):
            start, dt, delta, end = trace[_START], trace[_DT], trace[_DELTA], trace[_END]
            ox, oy, oz = trace[_ORIGIN], trace[_ORIGIN + 1], trace[_ORIGIN + 2]
            dx, dy, dz = trace[_ALONG], trace[_ALONG + 1], trace[_ALONG + 2]
            transparent, held, k, count = 1.0, -1, 0, 0
            while True:
                t = start + k * dt
                if not (t < end and count < most):
                    break
                px, py, pz = _clamp(ox + dx * t, size_x), _clamp(oy + dy * t, size_y), _clamp(oz + dz * t, size_z)
                x, y, z = min(int(px), size_x - 2), min(int(py), size_y - 2), min(int(pz), size_z - 2)
                cell = (z * size_y + y) * size_x + x
                if cell != held:
                    clear = int(flat_clearance[cell])
                    if clear > 0:
                        leave = min(end, _leave(ox, dx, x - clear + 1, x + clear, size_x))
                        leave = min(leave, _leave(oy, dy, y - clear + 1, y + clear, size_y))
                        leave = min(leave, _leave(oz, dz, z - clear + 1, z + clear, size_z))
                        # The sample jumped to may still lie in the empty cells: it is tested like any other.
                        k = max(k + 1, int((leave - start) / dt))
                        continue
                    held, some = cell, 0
                    for corner in range(8):
                        place = cell + (corner & 1) + size_x * ((corner >> 1 & 1) + size_y * (corner >> 2))
                        row = flat_links[place]
                        offsets[corner] = row
                        values[corner] = density[row] if row >= 0 else np.float32(0.0)
                        some = max(some, row)
                    for corner in range(8):
                        # Where nothing is stored any row will do: its share is 0.
                        row = offsets[corner]
                        stored[corner] = one if row >= 0 else np.float32(0.0)
                        offsets[corner] = (row if row >= 0 else some) * channels
                    if channels > 0:
                        following = _cell_at(trace, t + ahead * dt, size_x, size_y, size_z)
                        if following != cell:
                            _prefetch_cell(sh, flat_links, following, size_x, size_y, entry)
                sx, sy, sz = np.float32(px - x), np.float32(py - y), np.float32(pz - z)
                a = values[0] + sx * (values[1] - values[0])
                b = values[2] + sx * (values[3] - values[2])
                c = values[4] + sx * (values[5] - values[4])
                d = values[6] + sx * (values[7] - values[6])
                a += sy * (b - a)
                c += sy * (d - c)
                sigma = a + sz * (c - a)
                if not sigma <= threshold:  # a NaN goes on to the sums, where training finds it
                    alpha = 1.0 - math.exp(-delta * sigma)
                    weight = transparent * alpha
                    transparent *= 1.0 - alpha
                    numbers[at + count] = k
                    kept[at + count, 0], kept[at + count, 1] = alpha, sigma
                    if channels > 0:
                        _corner_weights(sx, sy, sz, weights)
                        for corner in range(8):
                            weights[corner] *= stored[corner]
                        blend(sh, offsets, weights, blended, 0, entry)
                        for channel in range(3):
                            colour = np.float32(0.5)
                            for band in range(harmonics):
                                colour += blended[channel * harmonics + band] * basis[ray, band]
                            kept[at + count, 2 + channel] = colour
                        red += weight * max(kept[at + count, 2], np.float32(0.0))
                        green += weight * max(kept[at + count, 3], np.float32(0.0))
                        blue += weight * max(kept[at + count, 4], np.float32(0.0))
                    seen += weight
                    distance += weight * t
                    penalty += math.log1p(2.0 * float(sigma) * float(sigma))
                    count += 1
                    if transparent < early_stop:
                        break
                k += 1
            counts[ray] = count
            at += count
        rgb[ray, 0], rgb[ray, 1], rgb[ray, 2] = red, green, blue
        opacity[ray], depth[ray], sparsity[ray] = seen, distance, penalty


@_jit
def _to_samples(  # type: ignore[no-untyped-def]
    first, stop, traces, numbers, kept, begins, counts, grad_rgb, grad_opacity, grad_depth, grad_sparsity, given, layers
):
    """Gradients to the samples of rays [first, stop), and how many samples lie in each layer of cells.

    With v_k = dL/dw_k, the gradient of the optical depth is T_{k+1} v_k - sum over j > k of w_j v_j.
    """
    deepest = len(layers) - 2
    for ray in range(first, stop):
        begin, end = begins[ray], begins[ray] + counts[ray]
        trace = traces[ray]
        g_opacity, g_depth, g_sparsity = grad_opacity[ray], grad_depth[ray], grad_sparsity[ray]
        transparent, behind = 1.0, 0.0
        for i in range(begin, end):
            value = g_opacity + g_depth * (trace[_START] + numbers[i] * trace[_DT])
            for channel in range(3):
                value += grad_rgb[ray, channel] * max(kept[i, 2 + channel], np.float32(0.0))
            given[i, 0] = value
            behind += transparent * kept[i, 0] * value
            transparent *= 1.0 - kept[i, 0]
        transparent = 1.0
        for i in range(begin, end):
            weight = transparent * kept[i, 0]
            transparent *= 1.0 - kept[i, 0]
            behind -= weight * given[i, 0]
            sigma = float(kept[i, 1])
            penalty = g_sparsity * 4.0 * sigma / (1.0 + 2.0 * sigma * sigma)
            given[i, 0] = trace[_DELTA] * (transparent * given[i, 0] - behind) + penalty
            for channel in range(3):
                given[i, 1 + channel] = weight * grad_rgb[ray, channel] if kept[i, 2 + channel] > 0.0 else 0.0
            z = trace[_ORIGIN + 2] + trace[_ALONG + 2] * (trace[_START] + numbers[i] * trace[_DT])
            layers[min(int(max(z, 0.0)), deepest)] += 1


@_jit
def _scatter(  # type: ignore[no-untyped-def]
    low, high, traces, numbers, given, begins, counts, basis, links, density_grad, sh_grad, touched, entry
):
    """Add all samples' gradients to the voxels of layers [low, high), and mark their rows."""
    size_z, size_y, size_x = links.shape
    flat_links = links.ravel()
    channels = len(entry)
    harmonics = channels // 3
    weights, vector = np.zeros(8, np.float32), np.zeros(channels, np.float32)
    for ray in range(len(counts)):
        trace = traces[ray]
        start, dt = trace[_START], trace[_DT]
        ox, oy, oz = trace[_ORIGIN], trace[_ORIGIN + 1], trace[_ORIGIN + 2]
        dx, dy, dz = trace[_ALONG], trace[_ALONG + 1], trace[_ALONG + 2]
        for i in range(begins[ray], begins[ray] + counts[ray]):
            t = start + numbers[i] * dt
            pz = _clamp(oz + dz * t, size_z)
            z = min(int(pz), size_z - 2)
            if z + 1 < low or z >= high:
                continue
            g_density = given[i, 0]
            coloured = False
            for channel in range(3):
                g_colour = given[i, 1 + channel]
                coloured = coloured or g_colour != 0.0
                for band in range(harmonics):
                    vector[channel * harmonics + band] = g_colour * basis[ray, band]
            px, py = _clamp(ox + dx * t, size_x), _clamp(oy + dy * t, size_y)
            x, y = min(int(px), size_x - 2), min(int(py), size_y - 2)
            cell = (z * size_y + y) * size_x + x
            if coloured and i + 2 < begins[ray] + counts[ray]:
                following = _cell_at(trace, start + numbers[i + 2] * dt, size_x, size_y, size_z)
                _prefetch_cell(sh_grad, flat_links, following, size_x, size_y, entry)
            _corner_weights(np.float32(px - x), np.float32(py - y), np.float32(pz - z), weights)
            for corner in range(8):
                layer = z + (corner >> 2)
                if layer < low or layer >= high:
                    continue
                row = flat_links[cell + (corner & 1) + size_x * ((corner >> 1 & 1) + size_y * (corner >> 2))]
                if row >= 0:
                    touched[row] = 1
                    density_grad[row] += weights[corner] * g_density
                    if coloured:
                        add_row(sh_grad, row * channels, vector, weights[corner], entry)


@_jit
def _raise_greatest(low, high, traces, numbers, kept, begins, counts, links, greatest):  # type: ignore[no-untyped-def]
    """Raise the voxels of layers [low, high) to the largest weight of a sample they have a share in."""
    size_z, size_y, size_x = links.shape
    flat_links = links.ravel()
    weights = np.zeros(8, np.float32)
    for ray in range(len(counts)):
        trace, transparent = traces[ray], 1.0
        for i in range(begins[ray], begins[ray] + counts[ray]):
            weight = np.float32(transparent * kept[i, 0])
            transparent *= 1.0 - kept[i, 0]
            t = trace[_START] + numbers[i] * trace[_DT]
            px = _clamp(trace[_ORIGIN] + trace[_ALONG] * t, size_x)
            py = _clamp(trace[_ORIGIN + 1] + trace[_ALONG + 1] * t, size_y)
            pz = _clamp(trace[_ORIGIN + 2] + trace[_ALONG + 2] * t, size_z)
            x, y, z = min(int(px), size_x - 2), min(int(py), size_y - 2), min(int(pz), size_z - 2)
            if z + 1 < low or z >= high:
                continue
            _corner_weights(np.float32(px - x), np.float32(py - y), np.float32(pz - z), weights)
            for corner in range(8):
                layer = z + (corner >> 2)
                if low <= layer < high and weights[corner] > 0.0:
                    place = (layer * size_y + y + (corner >> 1 & 1)) * size_x + x + (corner & 1)
                    row = flat_links[place]
                    if row >= 0:
                        greatest[row] = max(greatest[row], weight)


@_jit
def _sample(start, stop, points, links, density, sh, box, densities, coefficients, entry):  # type: ignore[no-untyped-def]
    """Interpolate at points [start, stop)."""
    size_z, size_y, size_x = links.shape
    size, flat_links, channels = (size_x, size_y, size_z), links.ravel(), len(entry)
    offsets, weights = np.zeros(8, np.int64), np.zeros(8, np.float32)
    position, cell = np.zeros(3), np.zeros(3, np.int64)
    for point in range(start, stop):
        for axis in range(3):
            low, high = float(box[0, axis]), float(box[1, axis])
            at = (float(points[point, axis]) - low) * (size[axis] / (high - low)) - 0.5
            at = _clamp(0.0 if math.isnan(at) else at, size[axis])
            cell[axis] = min(int(at), size[axis] - 2)
            position[axis] = at - cell[axis]
        _corner_weights(np.float32(position[0]), np.float32(position[1]), np.float32(position[2]), weights)
        first = (cell[2] * size_y + cell[1]) * size_x + cell[0]
        total, some = np.float32(0.0), -1
        for corner in range(8):
            row = flat_links[first + (corner & 1) + size_x * ((corner >> 1 & 1) + size_y * (corner >> 2))]
            offsets[corner], some = row, max(some, row)
            if row < 0:
                weights[corner] = 0.0
            else:
                total += weights[corner] * density[row]
        densities[point] = total
        if some < 0:
            coefficients[point * channels : (point + 1) * channels] = 0.0
            continue
        for corner in range(8):
            # Where nothing is stored any row will do: its share is 0.
            offsets[corner] = (offsets[corner] if offsets[corner] >= 0 else some) * channels
        blend(sh, offsets, weights, coefficients, point * channels, entry)


class _Marched:
    """What marching R rays leaves behind for a backward."""

    def __init__(self, rays: int, most: int) -> None:
        """Room for ``most`` samples a ray. Only pages that are written become real memory, so room costs nothing."""
        self.traces = np.zeros((rays, 10))
        self.numbers = workspace.empty(rays * most).view(np.int32)
        self.kept = workspace.empty(rays * most, _KEPT)
        self.begins, self.counts = np.zeros(rays, np.int64), np.zeros(rays, np.int64)
        self.sums = np.empty((rays, 3), np.float32), *(np.empty(rays, np.float32) for _ in range(3))


def _march_rays(  # type: ignore[no-untyped-def]
    origins, directions, basis, grid: ShGrid, rule: MarchRule, jitter, near: float, *, colours: bool = True
) -> _Marched:
    """March all rays, over all threads."""
    most = rule.most_samples(grid.links.size)
    marched = _Marched(len(origins), most)
    channels = 3 * grid.sh.shape[2]
    run_split(
        _march,
        len(origins),
        _array(origins),
        _array(directions),
        _array(basis),
        grid.links.links.numpy(),
        grid.links.clearance.numpy(),
        _array(grid.density),
        _array(grid.sh).reshape(-1),
        _array(grid.box),
        (rule.step, rule.density_threshold, rule.early_stop),
        near,
        _array(jitter),
        most,
        marched.traces,
        marched.numbers,
        marched.kept,
        marched.begins,
        marched.counts,
        *marched.sums,
        (0,) * channels if colours else (),
        grain=64,
    )
    return marched


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, sh, origins, directions, basis, grid, rule, jitter, near, gradients):  # type: ignore[no-untyped-def]
        marched = _march_rays(origins, directions, basis, grid, rule, jitter, near)
        ctx.marched, ctx.basis, ctx.links, ctx.gradients = marched, _array(basis), grid.links, gradients
        ctx.shapes = density.shape, sh.shape
        samples = torch.from_numpy(marched.counts)
        ctx.mark_non_differentiable(samples)
        return *(torch.from_numpy(values) for values in marched.sums), samples

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        marched, grads = ctx.marched, grads[:4]
        into = ctx.gradients
        if into is None:
            into = GridGradients(
                density=torch.zeros(ctx.shapes[0]),
                sh=torch.zeros(ctx.shapes[1]),
                touched=torch.zeros(ctx.shapes[0], dtype=torch.uint8),
            )
        given = workspace.empty(len(marched.kept), _GIVEN)
        layers = _samples_of_layers(marched, [_array(grad) for grad in grads], given, ctx.links.links.shape[0])
        arguments = (
            marched.traces, marched.numbers, given, marched.begins, marched.counts, ctx.basis, ctx.links.links.numpy(),
            into.density.numpy(), into.sh.numpy().reshape(-1), into.touched.numpy(), (0,) * (3 * ctx.shapes[1][2]),
        )  # fmt: skip
        _over_layers(_scatter, layers, arguments)
        passed = (into.density, into.sh) if ctx.gradients is None else (None, None)
        return *passed, *(None,) * 8


def _samples_of_layers(marched: _Marched, grads: list[np.ndarray], given: np.ndarray, depth: int) -> np.ndarray:
    """Fill ``given`` with the gradients to samples; returns how many samples lie in each layer of cells."""
    rays, tasks = len(marched.counts), kernel_threads() * 4
    layers = np.zeros((tasks, depth), np.int64)
    held = marched.traces, marched.numbers, marched.kept, marched.begins, marched.counts
    bounds = [rays * index // tasks for index in range(tasks + 1)]
    run_tasks(
        [
            lambda i=i: _to_samples(bounds[i], bounds[i + 1], *held, *grads, given, layers[i])  # type: ignore[misc]
            for i in range(tasks)
        ]
    )
    return layers.sum(0)


def _over_layers(kernel, layers: np.ndarray, arguments) -> None:  # type: ignore[no-untyped-def]
    """Call ``kernel(low, high, ...)`` for ranges of voxel layers with about as many samples each, over all threads."""
    threads = kernel_threads()
    tasks = 1 if threads == 1 else 2 * threads
    running = np.cumsum(layers)
    borders = np.searchsorted(running, running[-1] * np.arange(1, tasks) / tasks) + 1
    bounds = [0, *(int(border) for border in np.unique(borders) if border < len(layers)), len(layers)]
    run_tasks(
        [
            lambda low=low, high=high: kernel(low, high, *arguments)  # type: ignore[misc]
            for low, high in zip(bounds[:-1], bounds[1:], strict=True)
        ]
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


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
    return _Render.apply(  # type: ignore[no-any-return, no-untyped-call]
        grid.density, grid.sh, origins, directions, basis, grid, rule, jitter, near, gradients
    )


def march(
    origins: torch.Tensor, directions: torch.Tensor, grid: ShGrid, rule: MarchRule, jitter: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.march_sh_grid``. Returns t (S,), ray_offsets (R + 1,)."""
    none = torch.zeros(len(origins), 1)
    marched = _march_rays(origins, directions, none, grid, rule, jitter, near, colours=False)
    offsets = np.concatenate([[0], marched.counts.cumsum()])
    ray = np.repeat(np.arange(len(origins)), marched.counts)
    place = np.arange(offsets[-1]) - offsets[ray] + marched.begins[ray]
    t = marched.traces[ray, _START] + marched.numbers[place] * marched.traces[ray, _DT]
    return torch.from_numpy(t.astype(np.float32)), torch.from_numpy(offsets)


def sample(points: torch.Tensor, grid: ShGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.sample_sh_grid``. Returns density (N,), sh (N, 3, B)."""
    harmonics = grid.sh.shape[2]
    density, sh = torch.empty(len(points)), torch.empty(len(points), 3, harmonics)
    run_split(
        _sample,
        len(points),
        _array(points),
        grid.links.links.numpy(),
        _array(grid.density),
        _array(grid.sh).reshape(-1),
        _array(grid.box),
        density.numpy(),
        sh.numpy().reshape(-1),
        (0,) * (3 * harmonics),
    )
    return density, sh


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
    none = torch.zeros(len(origins), 1)
    marched = _march_rays(origins, directions, none, grid, rule, jitter, near, colours=False)
    links = grid.links.links.numpy()
    arguments = (
        marched.traces, marched.numbers, marched.kept, marched.begins, marched.counts, links, greatest.numpy(),
    )  # fmt: skip
    _over_layers(_raise_greatest, np.ones(links.shape[0], np.int64), arguments)
