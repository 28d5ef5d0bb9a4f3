"""The contracts of rendering, marching and sampling sparse voxel grids."""

from dataclasses import dataclass

import torch

from voxfield.checks import check_choice, check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.sh_grid.grid import MAX_DEGREE, GridGradients, MarchRule, ShGrid
from voxfield.kernels.spherical_harmonics import spherical_harmonics


@dataclass(frozen=True, kw_only=True)
class RenderedGrid:
    """What R rays see, without a background."""

    rgb: torch.Tensor
    """(R, 3), at least 0: sum of weight * colour, premultiplied by opacity."""
    opacity: torch.Tensor
    """(R,) in [0, 1]: sum of weights."""
    depth: torch.Tensor
    """(R,): sum of weight * distance, not divided by opacity; in lengths of the ray's direction."""
    sparsity: torch.Tensor
    """(R,), at least 0: sum of log(1 + 2 density^2), the Cauchy penalty."""
    samples: torch.Tensor
    """(R,) int64: samples with a weight."""


@dataclass(frozen=True, kw_only=True)
class SampledGrid:
    """Values at N points."""

    density: torch.Tensor
    """(N,), as interpolated: it may lie below 0."""
    sh: torch.Tensor
    """(N, 3, B) coefficients."""


def render_sh_grid(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    *,
    rule: MarchRule,
    jitter: torch.Tensor | None = None,
    near: float = 0.0,
    view_directions: torch.Tensor | None = None,
    gradients: GridGradients | None = None,
    implementation: Implementation | None = None,
) -> RenderedGrid:
    """March through a sparse voxel grid and composite density and view-dependent colour.

    A ray is clipped to [t_enter, t_exit), the grid's box cut with t >= ``near``. Its direction d is
    e = d / box size * (W, H, D) in voxels, and with dt = step / length of e, sample k lies at
    t_k = t_enter + (k + u) dt < t_exit, u the ray's jitter or 1/2. With delta = dt * length of d, s_k the density and
    a_k the coefficients interpolated there (``grid.py`` says how), Y the harmonics of the view direction and T_0 = 1 ::

        alpha_k = 1 - exp(-delta * s_k)           if s_k > density_threshold and T_k >= early_stop, else 0
        T_{k+1} = T_k * (1 - alpha_k)
        colour_k = max(0, 1/2 + sum over b of a_k[:, b] * Y_b)
        w_k     = alpha_k * T_k

    Source: Fridovich-Keil and Yu et al. 2022, Plenoxels (https://arxiv.org/abs/2112.05131), equations 1 and 2, in the
    quadrature of svox2 (which has u = 0). Empty space costs a look at ``links.clearance``.

    Args:
        origins: (R, 3), float32 (float64: reference only), world units. Any strides.
        directions: (R, 3) of any length above 0, same dtype.
        grid: the values, same dtype and device, contiguous.
        rule: step and thresholds.
        jitter: (R,) in [0, 1), same dtype; None is 1/2.
        near: least distance of a sample, in lengths of the direction, at least 0.
        view_directions: (R, 3) unit vectors that colours are seen along; None: ``directions``, which are then unit.
        gradients: where the backward adds the gradients to density and coefficients instead of returning them to
            autograd, and marks the rows it touches: a fresh full-size gradient each step would cost more than the
            rendering. Ignored where neither requires a gradient.
        implementation: None chooses by device.

    Returns:
        Sums; 0 for a ray that misses the box, meets nothing or holds a NaN. Nothing is added for the background:
        ``rgb + (1 - opacity) * background`` does that.

    Gradients:
        From all outputs but ``samples`` to ``grid.density`` and ``grid.sh``, exact and, on a CPU, the same whatever the
        number of threads; where density or colour is clamped it is zero. None to the rays: they must not require one
        (see `march_sh_grid`).

    Raises:
        InputError: wrong shape, dtype, device or range, or rays that require a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    device = _check_rays(origins, directions, grid, jitter, near)
    for name, tensor in (("origins", origins), ("directions", directions)):
        if tensor.requires_grad:
            raise InputError(f"{name}: no gradient flows to rays; pass {name}.detach(), or see march_sh_grid.")
    views = directions if view_directions is None else view_directions
    check_shape("view_directions", views, (len(origins), 3))
    check_dtype("view_directions", views, (origins.dtype,))
    if gradients is not None:
        _check_gradients(gradients, grid)
    chosen = resolve(implementation, device, "sh_grid", dtype=origins.dtype)
    basis = spherical_harmonics(views.detach(), grid.degree, implementation=chosen)
    shift = torch.full_like(origins[:, 0], 0.5) if jitter is None else jitter
    rgb, opacity, depth, sparsity, samples = load_backend("sh_grid", chosen).render(
        origins, directions, basis, grid, rule, shift, float(near), gradients
    )
    return RenderedGrid(rgb=rgb, opacity=opacity, depth=depth, sparsity=sparsity, samples=samples)


def march_sh_grid(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    *,
    rule: MarchRule,
    near: float = 0.0,
    implementation: Implementation | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the samples of `render_sh_grid` lie that have a weight, at jitter 1/2.

    For what needs more than sums: gradients to rays, densities along them. Positions then follow as
    ``origins + t * directions``, values from `sample_sh_grid`, sums from ``composite``.

    Args:
        origins, directions, grid, rule, near, implementation: see `render_sh_grid`.

    Returns:
        ``t`` (S,) distances, packed ray after ray, nearest first, and ``ray_offsets`` (R + 1,) int64: the samples of
        ray r are ray_offsets[r] to ray_offsets[r + 1]. No gradients.

    Raises:
        InputError, UnavailableError: as `render_sh_grid`.
    """
    device = _check_rays(origins, directions, grid, None, near)
    chosen = resolve(implementation, device, "sh_grid", dtype=origins.dtype)
    with torch.no_grad():
        shift = torch.full_like(origins[:, 0], 0.5)
        t, ray_offsets = load_backend("sh_grid", chosen).march(origins, directions, grid, rule, shift, float(near))
    return t, ray_offsets


def sample_sh_grid(points: torch.Tensor, grid: ShGrid, *, implementation: Implementation | None = None) -> SampledGrid:
    """Interpolate density and coefficients at points.

    Args:
        points: (N, 3), float32 (float64: reference only), world units. Any strides. Points outside the box get the
            values of the nearest on its surface, NaN those of a corner.
        grid: the values, same dtype and device.
        implementation: None chooses by device. Where a gradient is asked for, the reference runs.

    Gradients:
        To ``points`` (0 on axes along which they lie outside), ``grid.density`` and ``grid.sh``.

    Raises:
        InputError: wrong shape, dtype or device.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("points", points, ("N", 3))
    check_dtype("points", points, (torch.float32, torch.float64))
    device = _check_grid(grid, points)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (points, grid.density, grid.sh))
    if needs_gradient and implementation is None:
        implementation = "reference"
    chosen = resolve(implementation, device, "sh_grid", dtype=points.dtype)
    density, sh = load_backend("sh_grid", chosen).sample(points, grid)
    return SampledGrid(density=density, sh=sh)


def greatest_weights(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    greatest: torch.Tensor,
    *,
    rule: MarchRule,
    near: float = 0.0,
    implementation: Implementation | None = None,
) -> None:
    """Raise ``greatest`` to the largest weight w_k of a sample that each voxel had a share in.

    What decides which voxels are kept: one that no ray ever sees has 0.

    Args:
        origins, directions, grid, rule, near, implementation: see `render_sh_grid`; jitter is 1/2.
        greatest: (N,), contiguous, changed in place; start from zeros, and call once for each batch of rays.

    Raises:
        InputError, UnavailableError: as `render_sh_grid`.
    """
    device = _check_rays(origins, directions, grid, None, near)
    check_shape("greatest", greatest, (grid.links.count,))
    check_dtype("greatest", greatest, (origins.dtype,))
    check_same_device(origins=origins, greatest=greatest)
    if not greatest.is_contiguous():
        raise InputError("greatest: expected a contiguous tensor.")
    chosen = resolve(implementation, device, "sh_grid", dtype=origins.dtype)
    with torch.no_grad():
        shift = torch.full_like(origins[:, 0], 0.5)
        load_backend("sh_grid", chosen).greatest_weights(origins, directions, grid, rule, shift, float(near), greatest)


def _check_rays(
    origins: torch.Tensor, directions: torch.Tensor, grid: ShGrid, jitter: torch.Tensor | None, near: float
) -> torch.device:
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_dtype("directions", directions, (origins.dtype,))
    check_range("near", near, minimum=0.0)
    device = _check_grid(grid, origins)
    check_same_device(origins=origins, directions=directions)
    if jitter is not None:
        check_shape("jitter", jitter, (len(origins),))
        check_dtype("jitter", jitter, (origins.dtype,))
        check_same_device(origins=origins, jitter=jitter)
    return device


def _check_grid(grid: ShGrid, points: torch.Tensor) -> torch.device:
    check_shape("density", grid.density, (grid.links.count,))
    check_shape("sh", grid.sh, (grid.links.count, 3, "B"))
    check_choice("sh's coefficients", grid.sh.shape[2], [(degree + 1) ** 2 for degree in range(MAX_DEGREE + 1)])
    check_shape("box", grid.box, (2, 3))
    tensors = {"density": grid.density, "sh": grid.sh, "box": grid.box}
    for name, tensor in tensors.items():
        check_dtype(name, tensor, (points.dtype,))
        if not tensor.is_contiguous():
            raise InputError(f"{name}: expected a contiguous tensor, got strides {tensor.stride()}.")
    return check_same_device(points=points, links=grid.links.links, clearance=grid.links.clearance, **tensors)


def _check_gradients(gradients: GridGradients, grid: ShGrid) -> None:
    expected = {"density": grid.density, "sh": grid.sh}
    for name, like in expected.items():
        buffer = getattr(gradients, name)
        check_shape(f"gradients.{name}", buffer, tuple(like.shape))
        check_dtype(f"gradients.{name}", buffer, (like.dtype,))
    check_shape("gradients.touched", gradients.touched, (grid.links.count,))
    check_dtype("gradients.touched", gradients.touched, (torch.uint8,))
    buffers = {name: getattr(gradients, name) for name in ("density", "sh", "touched")}
    check_same_device(density=grid.density, **{f"gradients.{name}": buffer for name, buffer in buffers.items()})
    for name, buffer in buffers.items():
        if not buffer.is_contiguous():
            raise InputError(f"gradients.{name}: expected a contiguous tensor, got strides {buffer.stride()}.")
