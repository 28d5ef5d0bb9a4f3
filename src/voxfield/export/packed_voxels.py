"""A voxel grid in few bytes, as the page of `voxfield.export.web_page` carries it.

Its parts are deflated each (RFC 1950), numbers have the least byte first. Voxels stand in order of their bricks,
4 x 4 x 4 voxels, x fastest, and within a brick x fastest too: the order of a `VoxelGrid`'s rows.

- ``topology``: for each of K bricks that store something its place (z, y, x in row-major order) as uint32, less the
  place of the brick before; then for each 8 bytes with a bit per voxel, x + 4 y + 16 z.
- ``density``: of N voxels the optical thickness of a voxel's longest side, float16: all low bytes, then all high bytes.
- ``band-0`` ... ``band-L``: of the harmonics of band l codes (3, 2 l + 1, N) in a byte each:
  coefficient = step * (code - zero), with a step and a zero for each plane.
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from voxfield.checks import check_choice
from voxfield.errors import InputError
from voxfield.kernels.sh_grid.grid import MAX_DEGREE
from voxfield.voxels.voxel_grid import BRICK, Resolution, VoxelGrid

MOST_THICKNESS: Final = 1024.0
"""Densities are cut to what gives a voxel this optical thickness, in both signs: nothing looks different."""
EFFORT: Final = 9
"""Of deflating, 0 to 9."""
LEAST_SEEN: Final = 0.1
"""What the colour of a voxel without matter counts: those beside it are interpolated with it."""
CLIPPED: Final = (0.0, 1e-4, 1e-3, 5e-3, 2e-2)
"""Shares of a plane's values at either end that its codes may cut; which one is found by the error it makes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedVoxels:
    """A grid's parts, and what is needed to read them."""

    resolution: Resolution
    """Voxels along x, y, z."""
    voxels: int
    """Of these, how many are stored."""
    bricks: int
    """Bricks that hold them."""
    voxel: float
    """A voxel's longest side, world units."""
    topology: bytes
    density: bytes
    bands: tuple[bytes, ...]
    """One a band of the harmonics."""
    steps: np.ndarray
    """(3, B): see the module."""
    zeros: np.ndarray
    """(3, B) whole numbers, 0 to 255."""

    @property
    def degree(self) -> int:
        """Highest band of the harmonics."""
        return len(self.bands) - 1

    @property
    def parts(self) -> dict[str, bytes]:
        """All parts by name."""
        bands = {f"band-{band}": content for band, content in enumerate(self.bands)}
        return {"topology": self.topology, "density": self.density, **bands}

    def up_to(self, degree: int) -> "PackedVoxels":
        """The same without the bands above ``degree``, 0 to its own."""
        check_choice("degree", degree, range(len(self.bands)))
        count = (degree + 1) ** 2
        return replace(self, bands=self.bands[: degree + 1], steps=self.steps[:, :count], zeros=self.zeros[:, :count])


def pack_voxels(grid: VoxelGrid, *, degree: int = MAX_DEGREE) -> PackedVoxels:
    """Pack what rays can see of ``grid``: voxels of some density, and their neighbours, between which is interpolated.

    Args:
        grid: on the CPU, densities per world unit.
        degree: highest band of the harmonics that is kept, 0 to 3; at most the grid's own is.

    Raises:
        InputError: the grid holds no matter, or values that are not finite.
    """
    check_choice("sh_degree", degree, range(MAX_DEGREE + 1))
    for name, values in (("density", grid.density), ("sh", grid.sh)):
        if not bool(values.isfinite().all()):
            raise InputError(f"The field's {name} holds values that are not finite. Train it anew, at a lower rate.")
    if not bool((grid.density > 0).any()):
        raise InputError("The field holds no matter: there is nothing to show. Train it longer.")
    grid = grid.prune(keep=grid.density > 0, dilate=1)
    sides = [length / count for length, count in zip(grid.scene_bounds.size, grid.resolution, strict=True)]
    bricks, topology = _topology(grid)
    thickness = (grid.density.detach().double() * max(sides)).clamp(-MOST_THICKNESS, MOST_THICKNESS).numpy()
    halves = thickness.astype("<f2").view(np.uint8).reshape(-1, 2).T
    coefficients = grid.sh.detach()[:, :, : (min(degree, grid.sh_degree) + 1) ** 2].float().numpy()
    # Errors in the colour of a voxel count as much as the voxel is seen, and it is where its neighbours are too.
    codes, steps, zeros = _codes(coefficients, np.maximum(1 - np.exp(-thickness.clip(min=0)), LEAST_SEEN))
    return PackedVoxels(
        resolution=grid.resolution,
        voxels=grid.num_voxels,
        bricks=bricks,
        voxel=max(sides),
        topology=topology,
        density=zlib.compress(halves.tobytes(), EFFORT),
        bands=tuple(
            zlib.compress(codes[:, band * band : (band + 1) ** 2].tobytes(), EFFORT)
            for band in range(math.isqrt(codes.shape[1]))
        ),
        steps=steps,
        zeros=zeros,
    )


def _topology(grid: VoxelGrid) -> tuple[int, bytes]:
    """How many bricks store something, and the part that says which."""
    stored = (grid.links >= 0).numpy()
    stored = np.pad(stored, [(0, -size % BRICK) for size in stored.shape])
    deep, high, wide = (size // BRICK for size in stored.shape)
    voxels = stored.reshape(deep, BRICK, high, BRICK, wide, BRICK).transpose(0, 2, 4, 1, 3, 5).reshape(-1, BRICK**3)
    places = np.flatnonzero(voxels.any(1))
    differences = np.diff(places, prepend=0).astype("<u4")
    masks = np.packbits(voxels[places], axis=1, bitorder="little")
    return len(places), zlib.compress(differences.tobytes() + masks.tobytes(), EFFORT)


def _codes(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (3, B, N) of ``values`` (N, 3, B), each voxel of some weight (N,); steps and zeros (3, B)."""
    count, channels, bands = values.shape
    codes = np.empty((channels, bands, count), dtype=np.uint8)
    steps, zeros = np.empty((channels, bands)), np.empty((channels, bands), dtype=np.int64)
    for channel in range(channels):
        for band in range(bands):
            plane = np.ascontiguousarray(values[:, channel, band])
            found = [_coded(plane, low, high) for low, high in _ranges(plane, weights)]
            errors = [float(np.sum(weights * (step * (code - zero) - plane) ** 2)) for code, step, zero in found]
            best, steps[channel, band], zeros[channel, band] = found[int(np.argmin(errors))]
            codes[channel, band] = best
    return codes, steps, zeros


def _ranges(plane: np.ndarray, weights: np.ndarray) -> list[tuple[float, float]]:
    """Ranges of ``plane`` (N,) that leave out the shares ``CLIPPED`` of the weights at either end."""
    order = np.argsort(plane)
    share = np.cumsum(weights[order], dtype=np.float64)
    ends = share[-1] * np.array([(clip, 1 - clip) for clip in CLIPPED])
    at = np.searchsorted(share, ends).clip(max=len(plane) - 1)
    at[0] = 0, len(plane) - 1
    low, high = plane[order[at[:, 0]]], plane[order[at[:, 1]]]
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _coded(plane: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, int]:
    """Codes (N,) as floats, step and zero. The value 0, which voxels that are not stored have, is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 or 1.0
    zero = round(-low / step)
    return (np.round(plane / step) + zero).clip(0, 255), step, zero
