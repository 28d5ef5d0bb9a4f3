"""The document's functions of pyramid levels, over `voxfield.fields.pyramid_levels`, and its metrics."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from voxfield.checks import check_range, check_shape
from voxfield.distributed.devices import check_device
from voxfield.errors import InputError
from voxfield.fields.pyramid_levels import PyramidLevels, blend, group_levels
from voxfield.render.metrics import psnr, ssim

PIXEL_WIDTH = 1 / 1111
"""How wide a pixel is at distance 1 where nothing says so: NeRF-synthetic's 800 x 800."""


def compute_sample_area(
    rays_o: torch.Tensor,
    rays_d: torch.Tensor,
    z_vals: torch.Tensor,
    *,
    pixel_area: torch.Tensor | float | None = None,
    focal: float | None = None,
) -> torch.Tensor:
    """The area that a pixel covers at each sample: its area at distance 1, times the distance squared.

    Args:
        rays_o: (N, 3): where the rays start.
        rays_d: (N, 3), of any length: samples lie at rays_o + z * rays_d.
        z_vals: (N, S).
        pixel_area: (N,) or one number: the area at distance 1, as ``Rays.pixel_area`` or ``PyNeRFDataset`` have it.
        focal: focal length in pixels instead, for which it is 1 / focal^2. With neither, pixels are taken to be as wide
            as ``PyNeRFConfig.pixel_width`` has them, NeRF-synthetic's, with a warning: rays alone do not say.

    Returns:
        (N, S), in units of the rays squared.

    Raises:
        InputError: both ``pixel_area`` and ``focal``, or wrong shapes.
    """
    check_shape("rays_o", rays_o, ("N", 3))
    check_shape("rays_d", rays_d, (len(rays_o), 3))
    check_shape("z_vals", z_vals, (len(rays_o), "S"))
    if pixel_area is not None and focal is not None:
        raise InputError("compute_sample_area: expected pixel_area (see PyNeRFDataset) or focal, got both. Give one.")
    if pixel_area is None and focal is None:
        warnings.warn(
            f"compute_sample_area: rays alone do not say how wide pixels are; 1/{1 / PIXEL_WIDTH:.0f} of the distance "
            "is taken, as of NeRF-synthetic's pictures of 800 x 800. Give pixel_area (see PyNeRFDataset) or focal.",
            stacklevel=2,
        )
        pixel_area = PIXEL_WIDTH**2
    if focal is not None:
        check_range("focal", focal, above=0.0)
        pixel_area = 1.0 / focal**2
    area = torch.as_tensor(pixel_area, dtype=z_vals.dtype, device=z_vals.device).expand(len(rays_o))
    distance = z_vals * rays_d.norm(dim=1, keepdim=True)
    return area[:, None] * distance.square()


def get_pyramid_level(
    sample_areas: torch.Tensor, pyramid_levels: Sequence[float], *, extent: float = 1.0
) -> torch.Tensor:
    """The level that each sample is seen at, as the paper has it.

    Args:
        sample_areas: any shape, above 0 and finite: see `compute_sample_area`.
        pyramid_levels: resolutions of the levels, coarsest first, each a fixed factor above the one before.
        extent: longest side of the scene, in the units whose squares ``sample_areas`` are in; 1 is the unit cube.

    Returns:
        The same shape: L - 1 where a pixel is as wide as the finest level's cells, 1 less for each factor that it is
        wider; fractions lie between levels. Not clamped to [0, L - 1].

    Raises:
        InputError: areas that are not above 0 and finite, or resolutions that are no pyramid.
    """
    return _pyramid(pyramid_levels, extent).of_width(sample_areas.sqrt().reshape(-1)).view_as(sample_areas)


def interpolate_pyramid_outputs(
    rgb_outputs: Sequence[torch.Tensor],
    sigma_outputs: Sequence[torch.Tensor],
    pyramid_levels: torch.Tensor,
    num_points: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend what the levels say of each point, between the two next to the point's own level.

    Args:
        rgb_outputs: (N, 3) a level, coarsest first.
        sigma_outputs: (N,) or (N, 1) a level.
        pyramid_levels: (N,) float, see `get_pyramid_level`; levels beyond the ends are the ends'.
        num_points: N, checked where it is given.
        device: where the results go; None: where they come from.

    Returns:
        rgb (N, 3) and sigma in the shape it came in.

    Raises:
        InputError: shapes that do not fit.
        UnavailableError: torch cannot use ``device`` here.
    """
    device = None if device is None else check_device(device)
    levels, count = len(rgb_outputs), len(pyramid_levels)
    if levels == 0 or len(sigma_outputs) != levels:
        raise InputError(
            f"rgb_outputs, sigma_outputs: expected as many, at least 1, got {levels}, {len(sigma_outputs)}."
        )
    if num_points is not None and num_points != count:
        raise InputError(f"num_points: expected that of pyramid_levels, {count}, got {num_points}.")
    for rgb, sigma in zip(rgb_outputs, sigma_outputs, strict=True):
        check_shape("rgb_outputs", rgb, (count, 3))
        if sigma.shape not in {(count,), (count, 1)}:
            raise InputError(f"sigma_outputs: expected shape ({count},) or ({count}, 1), got {tuple(sigma.shape)}.")
    values = [
        torch.cat([rgb, sigma.reshape(count, 1)], dim=1).T
        for rgb, sigma in zip(rgb_outputs, sigma_outputs, strict=True)
    ]
    grouped = group_levels(pyramid_levels.detach(), levels, "linear")
    parts, start = [values[0][:, :0]], 0
    for group in grouped.groups:
        members = grouped.order[start : start + group.count]
        parts.append(blend([values[level][:, members] for level in group.levels], group.share, "linear"))
        start += group.count
    blended = torch.zeros_like(values[0]).index_copy(1, grouped.order, torch.cat(parts, dim=1))
    blended = blended if device is None else blended.to(device)
    return blended[:3].T, blended[3].reshape(sigma_outputs[0].shape)


def create_pyramid_hierarchy(
    num_levels: int = 8, base_resolution: int = 16, scale_factor: float = 2.0, max_resolution: int = 2048
) -> list[int]:
    """Resolutions of a pyramid's levels, coarsest first: ``base_resolution`` times powers of ``scale_factor``.

    Raises:
        InputError: the finest would be finer than ``max_resolution``, or values are out of range.
    """
    check_range("num_levels", num_levels, minimum=1, maximum=64)
    check_range("base_resolution", base_resolution, minimum=1)
    check_range("scale_factor", scale_factor, above=1.0, maximum=64.0)
    check_range("max_resolution", max_resolution, minimum=1)
    resolutions = [round(base_resolution * scale_factor**level) for level in range(num_levels)]
    if resolutions[-1] > max_resolution:
        fitting = sum(resolution <= max_resolution for resolution in resolutions)
        raise InputError(
            f"num_levels: {num_levels} levels from {base_resolution} by factors of {scale_factor:g} end at "
            f"{resolutions[-1]}, beyond max_resolution={max_resolution}. Take at most {fitting}, or raise that."
        )
    return resolutions


def compute_psnr(pred: Any, gt: Any, mask: Any = None) -> float:
    """PSNR in dB of images (H, W, C) in [0, 1], tensors or arrays; of the pixels where ``mask`` (H, W) is true."""
    chosen = None if mask is None else torch.as_tensor(mask).bool()
    return float(psnr(_image(pred), _image(gt), chosen))


def compute_ssim(pred: Any, gt: Any) -> float:
    """SSIM of images (H, W, C) in [0, 1], tensors or arrays: Gaussian window of 11 pixels and 1.5, windows inside."""
    return float(ssim(_image(pred), _image(gt)))


def _image(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().float().cpu()


def _pyramid(resolutions: Sequence[float], extent: float) -> PyramidLevels:
    """The pyramid of ``resolutions``, which must rise by one factor."""
    values = [float(resolution) for resolution in resolutions]
    factors = [fine / coarse if coarse > 0 else 0.0 for coarse, fine in zip(values, values[1:], strict=False)]
    # Resolutions are rounded to whole cells.
    even = all(abs(factor - factors[0]) <= 0.1 * factors[0] for factor in factors)
    if not values or not even or any(factor <= 1.0 for factor in factors):
        raise InputError(
            "pyramid_levels: expected resolutions that rise by one factor, such as 16, 32, 64, got "
            f"{list(resolutions)}."
        )
    count = len(values)
    factor = (values[-1] / values[0]) ** (1 / (count - 1)) if count > 1 else 2.0
    return PyramidLevels(num_levels=count, scale_factor=factor, max_resolution=values[-1], extent=extent)
