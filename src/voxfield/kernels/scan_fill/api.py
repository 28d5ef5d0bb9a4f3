"""The contract of ``scan_fill``."""

from typing import Literal, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.triangle_box.api import check_triangles
from voxfield.kernels.voxel_words import MAX_RESOLUTION

Inside = Literal["parity", "winding"]
"""What inside means: see ``scan_fill``."""


def scan_fill(
    triangles: torch.Tensor,
    resolution: int,
    *,
    inside: Inside = "parity",
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """The voxels of a grid whose centres lie inside a surface, as words of bits.

    From a centre the surface is counted along a direction: ``parity``, the number of triangles crossed, is odd, or
    ``winding``, their number with the sign of their orientation, is not 0. ``parity`` does not mind faces that are
    turned the wrong way; ``winding`` counts what several overlapping parts share as inside.

    All directions agree on a closed surface (for ``winding`` one whose faces are turned alike), so one scan along x
    is enough when every row of centres is left as it was entered. If one is not, the surface has holes: the six
    directions along the axes vote, and at least four must say inside.

    A crossing at the centre itself counts as before it. A ray through an edge or a corner is moved by an infinitesimal
    amount, the same for all triangles that share it, so that such rays cross a closed surface properly
    (Edelsbrunner and Mücke, Simulation of Simplicity, 1990). Computed in float64.

    Args:
        triangles: (T, 3, 3) float64 corners x, y, z in voxels, finite, on a CPU or GPU with float64. Any strides.
        resolution: voxels along each axis, 1 to 1024.
        inside: see above.
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
    check_choice("inside", inside, get_args(Inside))
    chosen = resolve(implementation, triangles.device, "scan_fill")
    with torch.no_grad():
        words: torch.Tensor = load_backend("scan_fill", chosen).scan_fill(triangles, int(resolution), inside)
    return words
