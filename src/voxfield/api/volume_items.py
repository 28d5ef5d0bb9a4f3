"""Single volumes out of files and folders that hold many: objects of voxel datasets, samples in HDF5."""

import math
from pathlib import Path
from typing import Final

import numpy as np

from voxfield.checks import check_range
from voxfield.distributed.memory import MemoryPart, check_short_job, need_of, process_part
from voxfield.errors import FormatError, InputError
from voxfield.kernels.voxel_words import unpack_blocks
from voxfield.storage.hdf5 import hdf5_faults, item_inside
from voxfield.storage.prerendered import load_codecs
from voxfield.storage.remote import shown
from voxfield.storage.shape_dataset import open_shapes
from voxfield.storage.shapes import METADATA
from voxfield.storage.vdb import VdbGrid
from voxfield.storage.vdb.transform import matrix_of_bounds
from voxfield.training.progress import Progress
from voxfield.voxels.sparse import SparseVolume

HDF5_SUFFIXES: Final = (".h5", ".hdf5")
_VOXEL_BYTES: Final = 14
"""Of a voxel of a dense volume while it is read and made sparse."""


def holds_items(path: Path) -> bool:
    """Whether a path is a voxel dataset, or an HDF5 file by its ending."""
    return (path / METADATA).is_file() or path.suffix.lower() in HDF5_SUFFIXES


def read_item(path: Path, index: int | None, *, voxel_size: float, memory: int | str | None, quiet: bool) -> VdbGrid:
    """One of the volumes that a path holds, as the fog volume ``density``.

    Args:
        path: a voxel dataset, whose objects are 1 where a voxel is set and stand where their meshes did; or an HDF5
            file of ``voxels`` (N, D, H, W), as ``voxfield prerender`` and ``sample diffusion`` write them.
        index: which one, from 0; None: the only one.
        voxel_size: of samples, in world units.
        memory, quiet: see `voxfield.convert_volume`.

    Raises:
        InputError: no such index, or none given where there are several; too little memory.
        MissingFileError, FormatError, MissingExtraError: nothing is there, it is damaged, or needs another package.
    """
    check_range("voxel_size", voxel_size, above=0.0, maximum=1e30)
    if (path / METADATA).is_file():
        return _object(path, index, memory, quiet)
    return _sample(path, index, voxel_size, memory, quiet)


def _object(folder: Path, index: int | None, memory: int | str | None, quiet: bool) -> VdbGrid:
    shapes = open_shapes(folder)
    at = _checked(folder, "objects", index, len(shapes))
    side, info = shapes.about.base_resolution, shapes.info(at)
    _check_memory(folder, side**3, memory, quiet)
    dense = unpack_blocks(shapes.root_words(at)[None], side)[0].astype(np.float32)
    matrix = np.eye(4)
    origin, pitch = info.get("grid_origin"), info.get("voxel_pitch")
    if isinstance(origin, list) and len(origin) == 3 and isinstance(pitch, int | float) and pitch > 0:
        low = np.array(origin, np.float64)
        matrix = matrix_of_bounds(low, low + pitch * side, np.full(3, side))
    about: dict[str, str] = {name: str(info[name]) for name in ("object_id", "source_file") if name in info}
    return _fog(dense, matrix, about)


def _sample(path: Path, index: int | None, voxel_size: float, memory: int | str | None, quiet: bool) -> VdbGrid:
    import h5py

    with hdf5_faults(path, "Make it again."), h5py.File(path, "r", locking=False) as file:
        voxels = item_inside(path, file, "voxels")
        if not isinstance(voxels, h5py.Dataset) or voxels.ndim != 4 or voxels.dtype.kind not in "biuf":
            raise FormatError(f"{path}: expected numbers (N, D, H, W) as 'voxels'.")
        at = _checked(path, "samples", index, len(voxels))
        _check_memory(path, math.prod(voxels.shape[1:]), memory, quiet)
        filters = voxels.id.get_create_plist()
        if any(filters.get_filter(one)[0] > h5py.h5z.FILTER_LZF for one in range(filters.get_nfilters())):
            load_codecs(str(path))
        dense = np.asarray(voxels[at], np.float32)
        # Of quantised samples: what gives values back.
        scales = file["scales"][:] if "scales" in file else np.ones(len(voxels))
        if scales.shape != (len(voxels),):
            raise FormatError(f"{path}: has {len(voxels)} samples and {len(scales)} scales: it is damaged.")
        number = int(file["indices"][at]) if "indices" in file else at
    return _fog(dense * np.float32(scales[at]), np.diag([voxel_size] * 3 + [1.0]), {"sample": str(number)})


def _fog(dense: np.ndarray, matrix: np.ndarray, about: dict[str, str]) -> VdbGrid:
    volume = SparseVolume.from_dense(dense)
    return VdbGrid(name="density", volume=volume, index_to_world=matrix, grid_class="fog volume", metadata=about)


def _checked(path: Path, what: str, index: int | None, count: int) -> int:
    """The place that is meant."""
    if index is None and count != 1:
        raise InputError(f"index: {shown(path)} holds {count} {what}. Say which one: --index 0 to {count - 1}.")
    if index is not None and not 0 <= index < count:
        raise InputError(f"index: {shown(path)} holds {count} {what}, 0 to {count - 1}, got {index}.")
    return index or 0


def _check_memory(path: Path, voxels: int, memory: int | str | None, quiet: bool) -> None:
    need = need_of(
        MemoryPart(what=f"a volume of {shown(path)}", size=voxels * _VOXEL_BYTES), process=process_part(kernels=False)
    )
    check_short_job(memory, need, "Give it more (--memory)", Progress(quiet=quiet).say)
