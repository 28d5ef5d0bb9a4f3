"""The contract of ``traverse_voxels``."""

from dataclasses import dataclass

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.voxel_words import MAX_RESOLUTION, check_words


@dataclass(frozen=True, kw_only=True)
class VoxelHits:
    """What rays met. Distances are in voxels for directions of unit length."""

    chord: torch.Tensor
    """(R,) float32: length of the ray, ahead of its origin, that lies in occupied voxels; 0 if it meets none,
    NaN for all rays where first hits only were asked for."""
    distance: torch.Tensor
    """(R,) float32: from the origin to the first occupied voxel; 0 if the origin lies in one, +inf if there is none."""
    normal: torch.Tensor
    """(R, 3) int8: outward normal x, y, z of the face through which it is entered; 0 where there is none, and where
    the origin lies in it. A ray that starts on a face of the grid enters through that."""
    voxel: torch.Tensor
    """(R,) int64: its number x + y R + z R**2; -1 if there is none."""

    @property
    def hit(self) -> torch.Tensor:
        """(R,) bool: whether there is one."""
        return self.voxel >= 0


def traverse_voxels(
    origins: torch.Tensor,
    directions: torch.Tensor,
    words: torch.Tensor,
    resolution: int,
    *,
    first_hit_only: bool = False,
    implementation: Implementation | None = None,
) -> VoxelHits:
    """Follow rays through a binary voxel grid: how much matter each crosses, and what it meets first.

    Voxel (x, y, z) is the cube from (x, y, z) to (x+1, y+1, z+1). A ray is cut at the planes between voxels into
    pieces, each in one voxel; pieces shorter than 1e-6 are ignored, so a ray that only touches an edge meets nothing
    there. A ray that runs within a plane between voxels lies in those on its greater side. Where a ray crosses planes
    of two axes at the same distance, the normal is one of the two.
    Source: Amanatides and Woo, A Fast Voxel Traversal Algorithm, 1987. Computed in float64.

    Args:
        origins: (R, 3) x, y, z in voxels, float32 or float64. Any strides.
        directions: (R, 3), same dtype. Unit length is not checked: distances are multiples of the length.
        words: (W,) int64, see ``voxel_words``.
        resolution: voxels along each axis, 1 to 1024.
        first_hit_only: do not follow rays behind their first hit: half of the work or less, and no chords.
        implementation: None chooses by device; it has to know float64.

    Returns:
        What the rays met. A ray with NaN, infinite values or no direction meets nothing.

    Gradients:
        None.

    Raises:
        InputError: wrong shape, dtype, device or range.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_dtype("directions", directions, (origins.dtype,))
    check_range("resolution", resolution, minimum=1, maximum=MAX_RESOLUTION)
    check_words(words, resolution)
    device = check_same_device(origins=origins, directions=directions, words=words)
    # float32 here: the fast kernel computes in float64 too, which dispatch keeps from kernels that do not.
    chosen = resolve(implementation, device, "traverse_voxels")
    with torch.no_grad():
        chord, distance, normal, voxel = load_backend("traverse_voxels", chosen).traverse_voxels(
            origins, directions, words, int(resolution), first_hit_only
        )
    return VoxelHits(chord=chord.float(), distance=distance.float(), normal=normal, voxel=voxel)
