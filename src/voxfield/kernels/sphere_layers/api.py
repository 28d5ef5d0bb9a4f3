"""The contract of ``render_spheres``."""

from dataclasses import dataclass

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.sphere_layers.layers import LayerGradients, LayerValues


@dataclass(frozen=True, kw_only=True)
class RenderedSpheres:
    """What R rays see of the spheres."""

    rgb: torch.Tensor
    """(R, 3), at least 0: sum of weight * colour, premultiplied by opacity."""
    opacity: torch.Tensor
    """(R,) in [0, 1]: sum of weights."""
    depth: torch.Tensor
    """(R,): sum of weight * distance, not divided by opacity."""


def render_spheres(
    origins: torch.Tensor,
    directions: torch.Tensor,
    layers: LayerValues,
    *,
    early_stop: float = 1e-7,
    gradients: LayerGradients | None = None,
    implementation: Implementation | None = None,
) -> RenderedSpheres:
    """Composite concentric spheres, from the inside out, as rays leave them.

    Ray o + t d leaves sphere k at t_k = -o.d + sqrt(r_k^2 - |o|^2 + (o.d)^2), if it meets it at all and t_k > 0; with
    the density s_k and the values v_k interpolated there (``layers.py`` says how) and T = 1 before the first ::

        delta_k = t_k - max(0, t_{k-1}),  t_{-1} where the ray leaves the unit ball
        alpha_k = 1 - exp(-delta_k * max(0, s_k))            0 once T is below early_stop
        colour_k = max(0, 1/2 + 0.2820948 v_k)
        w_k = alpha_k * T,   T <- T * (1 - alpha_k)

    Where a ray passes a sphere by, the point nearest to the origin takes its place in the differences. Source: the
    background of Plenoxels (Fridovich-Keil and Yu et al. 2022, https://arxiv.org/abs/2112.05131, section 3.6); svox2
    interpolates between spheres as well.

    Args:
        origins: (R, 3), float32 (float64: reference only), in units of the unit ball. Any strides.
        directions: (R, 3) unit vectors, same dtype.
        layers: the values, same dtype and device, contiguous.
        early_stop: light below which a ray ends, 0 to 1.
        gradients: where the backward adds the gradients to density and colour instead of returning them to autograd,
            and marks the rows it touches.
        implementation: None chooses by device. The reference also where rays require a gradient.

    Returns:
        Sums; 0 for a ray that meets no sphere or holds a NaN.

    Gradients:
        To ``layers.density`` and ``layers.rgb``, on the CPU the same whatever the number of threads; where they are
        clamped it is zero. The reference's also flow to the rays.

    Raises:
        InputError: wrong shape, dtype, device or range, or links that do not fit.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_dtype("directions", directions, (origins.dtype,))
    check_range("early_stop", early_stop, minimum=0.0, maximum=1.0)
    device = _check_layers(origins, directions, layers)
    if gradients is not None:
        _check_gradients(gradients, layers)
    moving = torch.is_grad_enabled() and (origins.requires_grad or directions.requires_grad)
    if moving and implementation is None:
        implementation = "reference"
    chosen = resolve(implementation, device, "sphere_layers", dtype=origins.dtype)
    if moving and chosen != "reference":
        raise InputError("origins: only implementation='reference' has gradients to rays; pass origins.detach().")
    rgb, opacity, depth = load_backend("sphere_layers", chosen).render(
        origins, directions, layers, float(early_stop), gradients
    )
    return RenderedSpheres(rgb=rgb, opacity=opacity, depth=depth)


def _check_layers(origins: torch.Tensor, directions: torch.Tensor, layers: LayerValues) -> torch.device:
    check_shape("links", layers.links, ("L", "H", "W"))
    check_dtype("links", layers.links, (torch.int32,))
    if layers.links.shape[0] < 1 or min(layers.links.shape[1:]) < 2:
        raise InputError(f"links: expected a sphere of at least 2 x 2 texels, got {tuple(layers.links.shape)}.")
    check_shape("density", layers.density, ("N",))
    check_shape("rgb", layers.rgb, (len(layers.density), 3))
    for name, tensor in (("density", layers.density), ("rgb", layers.rgb)):
        check_dtype(name, tensor, (origins.dtype,))
    for name, tensor in (("links", layers.links), ("density", layers.density), ("rgb", layers.rgb)):
        if not tensor.is_contiguous():
            raise InputError(f"{name}: expected a contiguous tensor, got strides {tensor.stride()}.")
    return check_same_device(
        origins=origins, directions=directions, links=layers.links, density=layers.density, rgb=layers.rgb
    )


def _check_gradients(gradients: LayerGradients, layers: LayerValues) -> None:
    for name, like in (("density", layers.density), ("rgb", layers.rgb)):
        check_shape(f"gradients.{name}", getattr(gradients, name), tuple(like.shape))
        check_dtype(f"gradients.{name}", getattr(gradients, name), (like.dtype,))
    check_shape("gradients.touched", gradients.touched, (len(layers.density),))
    check_dtype("gradients.touched", gradients.touched, (torch.uint8,))
    buffers = {name: getattr(gradients, name) for name in ("density", "rgb", "touched")}
    check_same_device(density=layers.density, **{f"gradients.{name}": buffer for name, buffer in buffers.items()})
    for name, buffer in buffers.items():
        if not buffer.is_contiguous():
            raise InputError(f"gradients.{name}: expected a contiguous tensor, got strides {buffer.stride()}.")
