"""Voxel grids in files: svox2's ``ckpt.npz``, and a compact form a tenth of its size.

Both are NumPy archives of plain arrays. Nothing in one is run, and what a file claims is checked before memory is taken
for it.

svox2 (https://github.com/sxyu/svox2, ``SparseGrid.save``): ``radius`` and ``center`` (3,), ``links`` (X, Y, Z) int32,
``density_data`` (N, 1) float32, ``sh_data`` (N, 3 B) float16, channel by channel, ``basis_type`` 1 (harmonics). Axes
are x, y, z there, z, y, x here.

Compact (``format`` "voxfield-voxels"): which voxels are stored as bits, densities as float16, coefficients as eight
bits each. A coefficient c of band b and channel j is stored as round(127 c / ``sh_scale[j, b]``), so it is at most half
of ``sh_scale`` / 127 off; coefficients beyond a scale, which covers all but one in 10,000, are clipped.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch

from voxfield.errors import FormatError, InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.storage.atomic import replacing
from voxfield.storage.npz import read_npz
from voxfield.voxels.voxel_grid import VoxelGrid, brick_links

MOST_BYTES: Final = 1 << 32
"""Largest array that is read: 4 GiB. svox2's largest grids, 44 million voxels in 640^3, have arrays of 2.4 GB."""
BASIS_SH: Final = 1
"""svox2's number for spherical harmonics."""
COMPACT_FORMAT: Final = "voxfield-voxels"
COMPACT_VERSION: Final = 1
CLIPPED: Final = 1e-4
"""Share of coefficients beyond the scale of eight bits."""


def write_svox2(path: str | os.PathLike[str], grid: VoxelGrid) -> Path:
    """Write ``grid`` as a ``ckpt.npz`` that svox2 loads. Coefficients are rounded to float16, clipped to its range."""
    bounds = grid.scene_bounds
    limit = float(np.finfo(np.float16).max)
    return _write(
        path,
        {
            "radius": np.array([size / 2 for size in bounds.size], np.float32),
            "center": np.array(bounds.centre, np.float32),
            "links": grid.links.cpu().permute(2, 1, 0).contiguous().numpy(),
            "density_data": grid.density.detach().cpu()[:, None].numpy(),
            "sh_data": grid.sh.detach().cpu().flatten(1).clamp(-limit, limit).half().numpy(),
            "basis_type": np.array(BASIS_SH),
        },
        compress=False,
    )


def read_svox2(path: str | os.PathLike[str]) -> VoxelGrid:
    """Read a ``ckpt.npz`` of svox2. Its background layers, where it has some, are left out, with a warning.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is damaged, no checkpoint of svox2, of another basis than spherical harmonics, or its links lead
            outside its values.
    """
    grid, left_out = _read_svox2(path)
    if left_out:
        warnings.warn(left_out, stacklevel=2)
    return grid


def read_archive(path: str | os.PathLike[str]) -> tuple[VoxelGrid, str]:
    """The voxel grid of an ``.npz`` file of either kind, and in a sentence what of it is left out; "" where nothing is.

    Raises:
        MissingFileError, FormatError: as `read_svox2` and `read_compact`.
    """
    if "format" in _names(path):
        return read_compact(path), ""
    return _read_svox2(path)


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it is an ``.npz`` archive."""
    return Path(path).suffix.lower() == ".npz"


def _names(path: str | os.PathLike[str]) -> set[str]:
    """The arrays of an archive."""
    found: set[str] = set()

    def note(name: str) -> bool:
        found.add(name)
        return False

    read_npz(Path(path), wanted=note)
    return found


def _read_svox2(path: str | os.PathLike[str]) -> tuple[VoxelGrid, str]:
    """The grid of a ``ckpt.npz``, and what of it is left out."""
    arrays = _read(path, ("radius", "center", "links", "density_data", "sh_data", "basis_type"))
    layers = sorted(name for name in _names(path) if name.startswith("background_"))
    left_out = f"{path}: its background ({', '.join(layers)}) is left out: only the grid is read." if layers else ""
    if arrays["basis_type"].size != 1 or int(arrays["basis_type"].reshape(-1)[0]) != BASIS_SH:
        raise FormatError(f"{path}: its basis is not spherical harmonics (basis_type 1); svox2 itself can convert it.")
    for name in _FRAME:
        if arrays[name].size not in (1, 3):
            raise FormatError(f"{path}: expected {name} to be one number or three, got shape {arrays[name].shape}.")
    radius, centre = (np.broadcast_to(arrays[name].astype(np.float64).reshape(-1), (3,)) for name in _FRAME)
    density, sh, links = arrays["density_data"], arrays["sh_data"], arrays["links"]
    if density.ndim != 2 or density.shape[1] != 1 or sh.ndim != 2 or len(sh) != len(density) or sh.shape[1] % 3:
        raise FormatError(
            f"{path}: expected density_data (N, 1) and sh_data (N, 3 B), got {density.shape} and {sh.shape}."
        )
    # svox2 marks empty voxels with numbers below -1 too, which tell how far the next one is.
    if links.ndim != 3 or links.dtype.kind not in "iu":
        raise FormatError(f"{path}: expected links (X, Y, Z) of whole numbers, got {links.shape} of {links.dtype}.")
    rows = torch.from_numpy(np.clip(links, -1, np.iinfo(np.int32).max).astype(np.int32))
    grid = _grid(
        path,
        rows.permute(2, 1, 0).contiguous(),
        torch.from_numpy(density.astype(np.float32)[:, 0]),
        torch.from_numpy(sh.astype(np.float32)).reshape(len(sh), 3, sh.shape[1] // 3),
        centre - radius,
        centre + radius,
    )
    return grid, left_out


def write_compact(path: str | os.PathLike[str], grid: VoxelGrid) -> Path:
    """Write ``grid`` in the compact form, for keeping and sharing a finished one; the file may end in ``.npz``."""
    values = grid.sh.detach().cpu().numpy()
    scale = np.ones(values.shape[1:], np.float32)
    if len(values):
        # Of a million voxels: the order statistics of all would take minutes.
        some = np.abs(values[:: len(values) // 1_000_000 + 1])
        scale = np.maximum(np.quantile(some, 1 - CLIPPED, axis=0).astype(np.float32), 1e-6)
    levels = np.clip(np.rint(values * (127 / scale)), -127, 127).astype(np.int8)
    limit = float(np.finfo(np.float16).max)
    bounds = grid.scene_bounds
    return _write(
        path,
        {
            "format": np.array(COMPACT_FORMAT),
            "version": np.array(COMPACT_VERSION),
            "resolution": np.array(grid.resolution, np.int32),
            "bounds": np.array([bounds.minimum, bounds.maximum]),
            "stored": np.packbits((grid.links >= 0).cpu().numpy().reshape(-1)),
            "density": grid.density.detach().cpu().clamp(-limit, limit).half().numpy(),
            "sh_scale": scale,
            # Coefficient by coefficient: neighbours then resemble each other, which compresses better.
            "sh": np.ascontiguousarray(levels.transpose(1, 2, 0)),
        },
        compress=True,
    )


def read_compact(path: str | os.PathLike[str]) -> VoxelGrid:
    """Read what `write_compact` wrote.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is damaged, something else, or of a newer version.
    """
    names = ("format", "version", "resolution", "bounds", "stored", "density", "sh_scale", "sh")
    arrays = _read(path, names)
    if str(arrays["format"]) != COMPACT_FORMAT or arrays["version"].size != 1:
        raise FormatError(f"{path}: is no compact voxel grid of Voxfield.")
    if int(arrays["version"].reshape(-1)[0]) > COMPACT_VERSION:
        raise FormatError(f"{path}: was written by a newer Voxfield. Update it: pip install --upgrade voxfield.")
    density, levels, scale = (arrays[name] for name in ("density", "sh", "sh_scale"))
    size = arrays["resolution"].astype(np.int64)
    bounds = arrays["bounds"].astype(np.float64)
    if size.shape != (3,) or bounds.shape != (2, 3) or int(size.min()) < 2 or np.prod(size.astype(np.float64)) >= 2**31:
        raise FormatError(f"{path}: expected three sizes of at least 2 and a box, got {size.tolist()}, {bounds.shape}.")
    total = int(np.prod(size.astype(np.int64)))
    if arrays["stored"].shape != (-(-total // 8),) or arrays["stored"].dtype != np.uint8:
        raise FormatError(f"{path}: expected the bits of {total} voxels, got shape {arrays['stored'].shape}.")
    fits = levels.ndim == 3 and levels.shape[0] == 3 and levels.shape[2] == len(density) and density.ndim == 1
    if not fits or scale.shape != levels.shape[:2]:
        raise FormatError(f"{path}: expected sh (3, B, N) for density (N,), got {levels.shape} and {density.shape}.")
    stored = np.unpackbits(arrays["stored"], count=total).astype(bool).reshape(size[::-1])
    if int(stored.sum()) != len(density):
        raise FormatError(f"{path}: stores {int(stored.sum())} voxels but {len(density)} densities.")
    links, _ = brick_links(torch.from_numpy(stored))
    sh = levels.transpose(2, 0, 1).astype(np.float32) * (scale.astype(np.float32) / 127)
    return _grid(path, links, torch.from_numpy(density.astype(np.float32)), torch.from_numpy(sh), bounds[0], bounds[1])


_FRAME = ("radius", "center")


def _grid(
    path: str | os.PathLike[str],
    links: torch.Tensor,
    density: torch.Tensor,
    sh: torch.Tensor,
    low: np.ndarray,
    high: np.ndarray,
) -> VoxelGrid:
    """A grid of values from a file; what does not fit is the file's fault."""
    try:
        bounds = Bounds(minimum=cast(Vector, tuple(low.tolist())), maximum=cast(Vector, tuple(high.tolist())))
        return VoxelGrid.from_values(links, density, sh, bounds)
    except InputError as error:
        raise FormatError(f"{path}: {error}") from None


def _write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, compress: bool) -> Path:
    with replacing(path) as temporary, temporary.open("wb") as stream:
        (np.savez_compressed if compress else np.savez)(stream, allow_pickle=False, **cast(Any, arrays))
    return Path(path)


def _read(path: str | os.PathLike[str], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of ``names``, all of them there, finite and of numbers."""
    found = read_npz(Path(path), wanted=names.__contains__, most_bytes=MOST_BYTES)
    missing = [name for name in names if name not in found]
    if missing:
        raise FormatError(f"{path}: holds no {missing[0]}: it is no voxel grid of the expected kind.")
    for name, array in found.items():
        if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
            raise FormatError(f"{path}: {name} holds NaN or infinite values.")
        if array.dtype.kind not in ("U" if name == "format" else "fiu"):
            raise FormatError(f"{path}: {name} is of type {array.dtype}, expected numbers.")
    return found
