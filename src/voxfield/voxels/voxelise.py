"""Triangle meshes to binary voxel grids that fit them exactly.

The grid is a cube of R x R x R voxels about the centre of the mesh's bounding box, as long as the box's longest side:
along that axis the mesh reaches from the first face of the grid to the last, along the others it lies in the middle.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.kernels.scan_fill import Inside, scan_fill
from voxfield.kernels.triangle_box import triangle_box
from voxfield.kernels.voxel_words import MAX_RESOLUTION, check_words, unpack_voxels

Coverage = Literal["surface", "solid", "conservative"]
"""``surface``: voxels that a triangle touches. ``solid``: voxels whose centre lies inside. ``conservative``: both, so
all that the shape touches."""


@dataclass(frozen=True, kw_only=True)
class Voxelised:
    """A binary voxel grid and where it stands."""

    words: torch.Tensor
    """(W,) int64, see `voxfield.kernels.voxel_words`."""
    resolution: int
    """Voxels along each axis."""
    pitch: float
    """Length of a voxel's side, in the mesh's units."""
    origin: tuple[float, float, float]
    """Corner of voxel (0, 0, 0) with the least x, y and z, in the mesh's units."""
    faces_left_out: int
    """Faces that name a vertex which is not finite."""

    def __post_init__(self) -> None:
        check_words(self.words, self.resolution)

    def dense(self) -> torch.Tensor:
        """The grid (R, R, R) bool, axes z, y, x."""
        return unpack_voxels(self.words, self.resolution)

    @property
    def occupied(self) -> int:
        """How many voxels are set."""
        return int(np.bitwise_count(self.words.numpy().view(np.uint64)).sum())


def voxelise(
    vertices: np.ndarray,
    faces: np.ndarray,
    resolution: int,
    *,
    coverage: Coverage = "conservative",
    inside: Inside = "parity",
) -> Voxelised:
    """Voxelise a triangle mesh.

    Args:
        vertices: (V, 3) x, y, z, any floating type.
        faces: (F, 3) integer indices of vertices. Duplicate and degenerate faces are allowed (a pair of equal faces
            cancels for ``inside="parity"``).
        resolution: voxels along each axis, 1 to 1024.
        coverage: which voxels are set.
        inside: what inside means, and what becomes of holes: see `voxfield.kernels.scan_fill.scan_fill`.

    Raises:
        InputError: wrong shapes, no usable face, indices out of range, a mesh that is a single point, or coordinates so
            large that they cannot tell voxels apart.
    """
    check_choice("coverage", coverage, get_args(Coverage))
    check_range("resolution", resolution, minimum=1, maximum=MAX_RESOLUTION)
    places, used, left_out = _finite_triangles(np.asarray(vertices), np.asarray(faces))
    low, high = _bounds(places, used)
    # Halves: the extent of coordinates near the largest float must not overflow.
    half = float((high / 2 - low / 2).max())
    pitch = 2 * half / resolution
    if not half > 0:
        raise InputError("mesh: all faces lie in one point, so there is no size to fit a grid to.")
    largest = float(np.abs([low, high]).max())
    if not np.isfinite(pitch) or largest > 1e12 * pitch:
        raise InputError(
            f"mesh: coordinates up to {largest:g} are too large to tell voxels of {pitch:g} apart. Move it to the "
            "origin."
        )
    centre = low / 2 + high / 2
    # Clamped: the longest side ends exactly on the grid's faces, and rounding must not push it out.
    fitted = np.clip((places - centre) / pitch + resolution / 2, 0, resolution)
    placed = torch.from_numpy(np.take(fitted, used, axis=0))
    if coverage == "surface":
        words = triangle_box(placed, resolution)
    else:
        words = scan_fill(placed, resolution, inside=inside)
        if coverage == "conservative":
            words |= triangle_box(placed, resolution)
    x, y, z = (centre - half).tolist()
    return Voxelised(words=words, resolution=resolution, pitch=pitch, origin=(x, y, z), faces_left_out=left_out)


def _finite_triangles(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Vertices (V, 3) float64, finite; the faces (T, 3) whose vertices were; and how many are not among those."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise InputError(f"vertices: expected numbers of shape (V, 3), got {vertices.dtype} {vertices.shape}.")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise InputError(f"faces: expected indices of shape (F, 3), got {faces.dtype} {faces.shape}.")
    if not len(faces):
        raise InputError("mesh: has no faces. Point clouds cannot be voxelised as meshes.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(
            f"faces: expected indices of {len(vertices)} vertices, got {faces.min()} to {faces.max()}: the file is "
            "damaged."
        )
    places = vertices.astype(np.float64)
    finite = np.isfinite(places)
    if finite.all():
        return places, faces, 0
    usable = np.asarray(finite.all(1))[faces].all(1)
    if not usable.any():
        raise InputError("mesh: no face has three finite vertices.")
    # No usable face has the others: any place will do.
    places[~finite] = 0.0
    return places, faces[usable], int((~usable).sum())


def _bounds(places: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest x, y and z of the vertices that faces have."""
    used = np.zeros(len(places), bool)
    used[faces] = True
    # Turned first: along the first axis of (V, 3) numpy takes ten times as long.
    turned = np.ascontiguousarray((places if used.all() else places[used]).T)
    return turned.min(1), turned.max(1)
