"""The contract of ``triangle_box``."""

import torch

from voxfield.checks import check_dtype, check_range, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.voxel_words import MAX_RESOLUTION


def triangle_box(
    triangles: torch.Tensor, resolution: int, *, implementation: Implementation | None = None
) -> torch.Tensor:
    """The voxels of a grid that triangles touch, as words of bits.

    Voxel (x, y, z) is the closed cube from (x, y, z) to (x+1, y+1, z+1); it is set if a triangle shares at least a
    point with it. So a triangle that lies in the plane between two layers sets both. Triangles without area count as
    the segment or point they are. Parts outside [0, resolution] are ignored.
    Source: separating axes in the form of Schwarz and Seidel, Fast Parallel Surface and Solid Voxelization on GPUs,
    2010, section 3.1. Decided in float64, in the same operations by every implementation: they agree bit by bit.

    Args:
        triangles: (T, 3, 3) float64 corners x, y, z in voxels, finite, on a CPU or GPU with float64. Any strides.
        resolution: voxels along each axis, 1 to 1024.
        implementation: None chooses by device.

    Returns:
        Words (W,) int64 on the triangles' device, see ``voxel_words``.

    Gradients:
        None.

    Raises:
        InputError: wrong shape, dtype, device or range, or corners that are not finite.
        UnavailableError: the implementation asked for cannot run.
    """
    check_triangles(triangles)
    check_range("resolution", resolution, minimum=1, maximum=MAX_RESOLUTION)
    # float32 here: the fast kernel computes in float64 too, which dispatch keeps from kernels that do not.
    chosen = resolve(implementation, triangles.device, "triangle_box")
    with torch.no_grad():
        words: torch.Tensor = load_backend("triangle_box", chosen).triangle_box(triangles, int(resolution))
    return words


def check_triangles(triangles: torch.Tensor) -> None:
    """Raise InputError unless ``triangles`` are (T, 3, 3) finite float64."""
    check_shape("triangles", triangles, ("T", 3, 3))
    check_dtype("triangles", triangles, (torch.float64,))
    # A sum is not finite where a term is not: seldom is anything left to look at one by one.
    if not bool(torch.isfinite(triangles.sum())) and not bool(torch.isfinite(triangles).all()):
        raise InputError("triangles: expected finite corners, got NaN or infinity. Leave such faces out.")
