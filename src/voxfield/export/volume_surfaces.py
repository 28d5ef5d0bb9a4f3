"""Sparse volumes as surfaces: where a level set is zero, or where a fog reaches a level."""

from typing import Final

import numpy as np

from voxfield.errors import InputError
from voxfield.storage.surface_files import ColouredSurface
from voxfield.storage.vdb import VdbGrid
from voxfield.voxels.isosurface import SurfaceMethod, isosurface

MOST_VOXELS: Final = 1 << 28
"""Of the box around a volume's active voxels: its dense layout takes 1 GiB, and as much again while it is looked
through."""
HALF_OPAQUE: Final = float(np.log(2.0))
"""Optical depth of a voxel that stops half of the light."""
_GREY: Final = 0.8
_DC: Final = 0.28209479177387814
"""The harmonic of degree 0."""


def inside_level(grid: VdbGrid, *, is_density: bool) -> float:
    """The value on the surface of a grid of numbers, unless one is named.

    Args:
        grid: a level set: 0. A fog: half its greatest active value.
        is_density: the fog is a trained field's density per world unit: the value at which a voxel stops half of the
            light.
    """
    if grid.grid_class == "level set":
        return 0.0
    if is_density:
        return HALF_OPAQUE / float(np.abs(np.linalg.det(grid.index_to_world[:3, :3])) ** (1 / 3))
    found = grid.volume.active_range()
    return 0.5 * float(found[1]) if found is not None and np.isfinite(found[1]) else 0.5


def surface_of_volume(
    grid: VdbGrid, level: float, colours: VdbGrid | None = None, *, method: SurfaceMethod = "marching_cubes"
) -> ColouredSurface:
    """The surface of a volume, in world units.

    Args:
        grid: of numbers: distances if it is a level set, of which what is at most ``level`` is inside; of others what
            is at least ``level``.
        level: the value on the surface.
        colours: of three values, in the same world: red, green, blue, 0 to 1, or of a grid named ``sh_coeff_0`` the
            coefficients of Voxfield's own volumes; None: grey.
        method: see `voxfield.voxels.isosurface.isosurface`.

    Raises:
        InputError: vectors, nothing active, a box of more than `MOST_VOXELS` voxels, or no surface at this level.
    """
    if grid.volume.channels:
        raise InputError(f"grid {grid.name!r}: holds vectors, and surfaces are of numbers. Name another grid.")
    bounds = grid.volume.active_bounds
    if bounds is None:
        raise InputError(f"grid {grid.name!r}: holds nothing that is active.")
    # A voxel around it closes surfaces that reach the border, with the background's value.
    low, high = bounds[0].astype(np.int64) - 1, bounds[1].astype(np.int64) + 1
    size = [int(one) for one in high - low]
    if size[0] * size[1] * size[2] > MOST_VOXELS:
        raise InputError(
            f"grid {grid.name!r}: its box has {size[0]} x {size[1]} x {size[2]} voxels, a surface is made of at most "
            f"{MOST_VOXELS:,}. Make coarser levels with voxfield vdb lod, or crop it."
        )
    dense = np.nan_to_num(grid.volume.to_dense(low, high).astype(np.float32))
    sign = -1.0 if grid.grid_class == "level set" else 1.0
    found = isosurface(sign * dense, sign * level, method=method)
    if not len(found.faces):
        raise InputError(f"grid {grid.name!r}: nothing in it is inside the level {level:g}. Name another --level.")
    matrix = grid.index_to_world
    vertices = (found.vertices.astype(np.float64) + low) @ matrix[:3, :3].T + matrix[:3, 3]
    # Normals are directions across surfaces: they turn as gradients do.
    normals = found.normals.astype(np.float64) @ np.linalg.inv(matrix[:3, :3])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    faces = found.faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else found.faces
    return ColouredSurface(
        vertices=vertices.astype(np.float32),
        normals=np.divide(normals, length, out=np.zeros_like(normals), where=length > 0).astype(np.float32),
        colours=_colours(vertices, grid, level, colours),
        faces=faces,
    )


def _colours(vertices: np.ndarray, shape: VdbGrid, level: float, grid: VdbGrid | None) -> np.ndarray:
    """(V, 3) float32 sRGB at world ``vertices``: what the voxels around them have that hold matter, the more of it the
    more it counts.
    """
    if grid is None or grid.volume.channels != (3,):
        return np.full(vertices.shape, _GREY, np.float32)
    together = np.allclose(grid.index_to_world, shape.index_to_world, rtol=1e-9, atol=1e-12)
    back = np.linalg.inv(grid.index_to_world)
    positions = vertices @ back[:3, :3].T + back[:3, 3]
    base = np.floor(positions).astype(np.int64)
    upper = positions - base
    total, weights = np.zeros(vertices.shape), np.zeros((len(vertices), 1))
    for corner in np.ndindex(2, 2, 2):
        values, active = grid.volume.values_at(base + corner)
        share = np.where(corner, upper, 1.0 - upper).prod(axis=1) * active
        if together:
            # Voxels without matter have colours that no one ever saw.
            share *= _matter(shape, level, shape.volume.values_at(base + corner)[0])
        total += share[:, None] * np.nan_to_num(values.astype(np.float64))
        weights += share[:, None]
    mean = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    shown = 0.5 + _DC * mean if grid.name == "sh_coeff_0" else mean
    return np.where(weights > 0, shown, _GREY).clip(0.0, 1.0).astype(np.float32)


def _matter(shape: VdbGrid, level: float, values: np.ndarray) -> np.ndarray:
    """How much voxels of these ``values`` count: of a level set those inside alone, of a fog each by its density."""
    if shape.grid_class == "level set":
        return np.where(values <= level, 1.0, 1e-6)
    return np.nan_to_num(values.astype(np.float64)).clip(min=0.0) + 1e-6 * abs(level)
