"""Sparse volumes on disk: reading, writing, converting, merging and cropping OpenVDB files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from voxfield.api.places import anywhere
from voxfield.api.volume_items import holds_items, read_item
from voxfield.api.volume_memory import check_volumes
from voxfield.checks import check_choice, check_range
from voxfield.distributed.memory import MemoryPart, check_short_job, need_of, process_part
from voxfield.errors import InputError
from voxfield.storage.compressed import is_compressed
from voxfield.storage.dense_files import DenseVolume, dense_ending, read_dense, write_dense
from voxfield.storage.nanovdb import write_nanovdb
from voxfield.storage.remote import shown
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.storage.vdb.layout import GRID_CLASSES, Compression, GridClass
from voxfield.storage.volume_files import open_volume_file, read_volume_file
from voxfield.storage.voxel_files import is_archive, read_archive
from voxfield.storage.voxel_vdb import write_voxel_vdb
from voxfield.training.progress import Progress
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.sparse_edit import combine, crop, prune, sparsify
from voxfield.voxels.vdb_tree import COORDINATE_MAX, COORDINATE_MIN

_REWRITTEN: Final = 0.3
"""Bytes besides each of a volume that is written as it is. This and the next: measured."""
_THINNED: Final = 1.9
"""Of one of which a part is kept."""
_COMBINED: Final = 2.3
"""Of volumes that become one."""
_DENSE_BYTES: Final = 9
"""Of a voxel of a dense array, for a grid of float32."""
_OF_ARRAY: Final = {".npy": 2, ".raw": 2}
"""Of a byte of an array's file, where it lies as it is; of one that is compressed `_OF_PACKED_ARRAY`."""
_OF_PACKED_ARRAY: Final = 8
SameNames = Literal["error", "keep", "over", "sum", "max", "min"]


@anywhere("path")
def read_volume(path: str | os.PathLike[str], name: str | None = None) -> VdbGrid:
    """Load one grid of an OpenVDB file, or of a compressed volume, whatever the size of the others.

    Args:
        path: the file.
        name: which grid; may be left out where there is one.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is neither, cut short or damaged, or the grid is of a kind that is not read.
        InputError: no grid of that name, or several and none named.
        MissingExtraError: the grid is compressed by Blosc, which is not installed.
    """
    file = open_volume_file(path)
    if name is None:
        if len(file.grids) != 1:
            names = ", ".join(repr(header.name) for header in file.grids) or "none"
            raise InputError(f"{path}: expected one grid, or the name of one of them. Grids: {names}.")
        return file.read(file.grids[0])
    return file.read(name)


@anywhere(output="path")
def write_volume(
    path: str | os.PathLike[str],
    grids: VdbGrid | Sequence[VdbGrid],
    *,
    compression: Compression = "blosc",
    level: int = 9,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write grids to an OpenVDB file, which appears whole or not at all. Arguments and errors as `write_vdb`; or, where
    ``path`` ends in ``.nvdb``, to a NanoVDB file, as `convert_volume` does.
    """
    listed = [grids] if isinstance(grids, VdbGrid) else grids
    return _write_sparse(path, listed, compression=compression, level=level, metadata=metadata)


@anywhere("source", output="output")
def convert_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    compression: Compression = "blosc",
    level: int = 9,
    half: bool | None = None,
    tolerance: float = 0.0,
    voxel_size: float = 1.0,
    index: int | None = None,
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[VdbGrid]:
    """Write a volume anew: other compression or precision, fewer voxels, chosen grids; or to and from other formats.

    Args:
        source: a ``.vdb`` file or a compressed volume, or a dense array of a type that grids have, see
            `storage.dense_files`: ``.npy``, ``.zarr``, ``.nii``, ``.nii.gz`` or ``.raw`` with its ``.raw.json``;
            or one volume of a voxel dataset or of an HDF5 file of ``voxels`` (N, D, H, W); or a voxel grid, a
            ``ckpt.npz`` of svox2 or what `write_compact` wrote, which becomes a ``.vdb`` file as `Run.export_vdb` makes
            it.
        output: a ``.vdb`` file; ``.nvdb`` for NanoVDB's viewers (compression ``zip`` or, for any other, none); or a
            dense array of one grid in the box of its active voxels.
        names: grids to keep; all where empty.
        compression: ``blosc``, ``zip`` or ``none``.
        level: effort, 0 to 9.
        half: store floating-point values in 16 bits; as the source has them where left out.
        tolerance: active voxels within this of the background become background, and blocks constant within it tiles.
        voxel_size: of a grid made from an array whose file has no transform, in world units.
        index: which volume, of a source that holds several.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The grids as they were written.

    Raises:
        InputError: other endings, names that are absent, or options that do not fit.
        MissingFileError, FormatError, MissingExtraError: as `read_volume`.
    """
    if is_archive(source):
        options = {"names": names, "tolerance": tolerance, "index": index}
        return _convert_archive(source, output, options, compression, level, half=bool(half), quiet=quiet)
    item = holds_items(Path(source))
    if index is not None and not item:
        raise InputError("index: only voxel datasets and HDF5 files hold several volumes. Leave it out.")
    from_dense = not item and not is_compressed(Path(source)) and _is_dense(source, ".vdb")
    to_dense = _is_dense(output, ".vdb", ".nvdb")
    if item:
        grids = [read_item(Path(source), index, voxel_size=voxel_size, memory=memory, quiet=quiet)]
    elif from_dense:
        _check_array(Path(source), memory, quiet=quiet)
        grids = [_grid_of_array(Path(source), voxel_size)]
    else:
        made = _THINNED if tolerance else _REWRITTEN
        check_volumes([source], memory, quiet=quiet, names=names, made=made, box_bytes=_DENSE_BYTES if to_dense else 0)
        grids = read_volume_file(source, names)
    if half is not None:
        grids = [replace(grid, half=half) for grid in grids]
    if tolerance:
        # Grids that shared a volume share the thinner one.
        thinner = {id(grid.volume): prune(sparsify(grid.volume, tolerance), tolerance) for grid in grids}
        grids = [replace(grid, volume=thinner[id(grid.volume)]) for grid in grids]
    if to_dense:
        if len(grids) != 1:
            raise InputError(f"{output}: holds one dense array, got {len(grids)} grids. Name one.")
        _write_array(Path(output), grids[0])
    else:
        metadata = {} if from_dense or item else open_volume_file(source).metadata
        _write_sparse(output, grids, compression=compression, level=level, metadata=metadata)
    return grids


def _write_sparse(
    path: str | os.PathLike[str],
    grids: Sequence[VdbGrid],
    *,
    compression: Compression,
    level: int,
    metadata: Mapping[str, Any] | None,
) -> Path:
    """What the ending of ``path`` asks for; NanoVDB has no place for metadata."""
    if Path(path).suffix.lower() == ".nvdb":
        return write_nanovdb(path, grids, compression="zip" if compression == "zip" else "none")
    return write_vdb(path, grids, compression=compression, level=level, metadata=metadata)


def _convert_archive(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any],
    compression: Compression,
    level: int,
    *,
    half: bool,
    quiet: bool,
) -> list[VdbGrid]:
    """Write the voxel grid of an ``.npz`` file as a ``.vdb`` file that training can begin with."""
    given = [name for name, value in options.items() if value]
    if given:
        raise InputError(f"{given[0]}: {source} is converted as it is. Then: voxfield vdb optimise, or convert.")
    if Path(output).suffix.lower() != ".vdb":
        raise InputError(f"{output}: expected a file that ends in .vdb, as {source} is a voxel grid.")
    grid, left_out = read_archive(source)
    if left_out:
        Progress(quiet=quiet).say(left_out)
    return read_volume_file(write_voxel_vdb(output, grid, half=half, compression=compression, level=level))


@anywhere("sources", output="output")
def merge_volumes(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    same_names: SameNames = "error",
    compression: Compression = "blosc",
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[VdbGrid]:
    """Bring the grids of several files into one.

    Args:
        sources: two or more ``.vdb`` files or compressed volumes; the metadata of later files win.
        output: the file to write; may be one of them.
        same_names: what to do with grids of one name: refuse them (``error``), ``keep`` them side by side, or make them
            one, where the later's active voxels lie ``over`` the earlier's, or both are brought together by ``sum``,
            ``max`` or ``min``. Such grids must have one type and transform.
        compression: ``blosc``, ``zip`` or ``none``.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The grids as they were written.

    Raises:
        InputError: no files, unknown options, or grids of one name that cannot become one.
        MissingFileError, FormatError, MissingExtraError: as `read_volume`.
    """
    if not sources:
        raise InputError("sources: name the files to merge.")
    check_volumes(sources, memory, quiet=quiet, made=_REWRITTEN if same_names in ("error", "keep") else _COMBINED)
    check_choice("same_names", same_names, ("error", "keep", "over", "sum", "max", "min"))
    merged: list[VdbGrid] = []
    metadata: dict[str, Any] = {}
    for source in sources:
        metadata |= open_volume_file(source).metadata
        for grid in read_volume_file(source):
            place = next((i for i, one in enumerate(merged) if one.name == grid.name), None)
            if place is None or same_names == "keep":
                merged.append(grid)
            elif same_names == "error":
                raise InputError(
                    f"{source}: grid {grid.name!r} is in an earlier file too. Say what to do with such grids: keep, "
                    "over, sum, max or min."
                )
            else:
                if not np.allclose(grid.index_to_world, merged[place].index_to_world, rtol=1e-9, atol=0.0):
                    raise InputError(
                        f"{source}: grid {grid.name!r} has another transform than that of an earlier file."
                    )
                merged[place] = replace(merged[place], volume=combine(merged[place].volume, grid.volume, same_names))
    write_vdb(output, merged, compression=compression, metadata=metadata)
    return merged


@anywhere("source", output="output")
def crop_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    world: bool = False,
    compression: Compression = "blosc",
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[VdbGrid]:
    """Write the part of every grid that lies in a box; outside it everything becomes inactive background.

    Args:
        source: a ``.vdb`` file, or a compressed volume.
        output: the ``.vdb`` file to write; may be the same.
        lower: three coordinates (x, y, z) of the box: the first voxel kept.
        upper: one past the last voxel kept.
        world: the box is in world coordinates: voxels whose values lie in it, ends included, are kept. Of grids that
            are turned, the box around it along their axes.
        compression: ``blosc``, ``zip`` or ``none``.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The grids as they were written.

    Raises:
        InputError: a box that is empty or lies beside all that is active, or coordinates that are not finite or, of
            voxels, not whole.
        MissingFileError, FormatError, MissingExtraError: as `read_volume`.
    """
    check_volumes([source], memory, quiet=quiet, made=_THINNED)
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if low.shape != (3,) or high.shape != (3,) or not np.isfinite([low, high]).all():
        raise InputError(f"box: expected three finite coordinates each, got {lower} and {upper}.")
    if not world and ((low != np.floor(low)).any() or (high != np.floor(high)).any()):
        raise InputError(f"box: expected whole voxels, got {lower} and {upper}. For world coordinates say world.")
    kept: list[VdbGrid] = []
    cropped: dict[tuple[int, bytes], Any] = {}
    grids = read_volume_file(source)
    if (low < high).all():
        _check_met(Path(source), grids, low, high, world)
    for grid in grids:
        box = _index_box(low, high, grid.index_to_world) if world else (low.astype(np.int64), high.astype(np.int64))
        # Grids that shared a volume go on sharing it where their boxes are alike.
        key = id(grid.volume), np.stack(box).tobytes()
        if key not in cropped:
            cropped[key] = crop(grid.volume, *box)
        kept.append(replace(grid, volume=cropped[key]))
    write_vdb(output, kept, compression=compression, metadata=open_volume_file(source).metadata)
    return kept


def _check_met(source: Path, grids: Sequence[VdbGrid], low: np.ndarray, high: np.ndarray, world: bool) -> None:
    """Raise if a box lies beside the active voxels of every grid that has some: who asks for it mistook the units."""
    beside = []
    for grid in grids:
        bounds = grid.volume.active_bounds
        if bounds is None:
            continue
        lower, upper = _index_box(low, high, grid.index_to_world) if world else (low, high)
        if (lower < bounds[1]).all() and (upper > bounds[0]).all():
            return
        first, last = bounds[0].astype(np.float64), bounds[1] - 1.0
        if world:
            first, last = _box_around(first, last, grid.index_to_world)
        beside.append(f"{grid.name!r} from {_point(first)} to {_point(last)}")
    if beside:
        units = "in world coordinates" if world else "in voxels. For world coordinates say world"
        raise InputError(
            f"box: {_point(low)} to {_point(high)} holds no active voxel of {shown(source)}, which has "
            f"{', '.join(beside)}, {units}."
        )


def _point(values: np.ndarray) -> str:
    return f"({', '.join(f'{one:.6g}' for one in values.tolist())})"


def _check_array(path: Path, memory: int | str | None, *, quiet: bool) -> None:
    """Say what a dense array and the volume made of it need; InputError where there is not as much."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    size = sum(one.stat().st_size for one in files) * _OF_ARRAY.get(path.suffix.lower(), _OF_PACKED_ARRAY)
    need = need_of(
        MemoryPart(what=f"{shown(path)} and a volume of it", size=size),
        process=process_part(kernels=False),
    )
    check_short_job(memory, need, "Convert a part of the array", Progress(quiet=quiet).say)


def _is_dense(path: str | os.PathLike[str], *sparse: str) -> bool:
    """Whether a file holds a dense array, and not one of the ``sparse`` formats."""
    if Path(path).suffix.lower() in sparse:
        return False
    if dense_ending(path) is None:
        raise InputError(
            f"{path}: expected a file that ends in {', '.join(sparse)}, .npy, .zarr, .nii, .nii.gz or .raw."
        )
    return True


def _grid_of_array(path: Path, voxel_size: float) -> VdbGrid:
    """A dense array as a grid named after its file."""
    check_range("voxel_size", voxel_size, above=0.0, maximum=1e30)
    dense = read_dense(path)
    matrix = dense.index_to_world
    if matrix is None:
        matrix = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    volume = SparseVolume.from_dense(dense.values, origin=dense.origin)
    meant = cast(GridClass, dense.grid_class) if dense.grid_class in GRID_CLASSES else "unknown"
    return VdbGrid(name=path.name.split(".")[0], volume=volume, index_to_world=matrix, grid_class=meant)


def _write_array(path: Path, grid: VdbGrid) -> None:
    """The box of a grid's active voxels as a dense array."""
    bounds = grid.volume.active_bounds
    x, y, z = (0, 0, 0) if bounds is None else bounds[0].tolist()
    volume = DenseVolume(
        values=grid.volume.to_dense(),
        index_to_world=grid.index_to_world,
        origin=(x, y, z),
        grid_class=grid.grid_class,
    )
    write_dense(path, volume)


def _box_around(low: np.ndarray, high: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box around another one once that is moved, turned and scaled by a matrix (4, 4)."""
    corners = np.array(
        [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    placed = (matrix @ corners.T)[:3]
    return placed.min(axis=1), placed.max(axis=1)


def _index_box(low: np.ndarray, high: np.ndarray, index_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The voxels whose values lie in a box of the world, as [lower, upper) in index coordinates."""
    first, last = _box_around(low, high, np.linalg.inv(index_to_world))
    # Rounding must not lose voxels that lie on the box itself.
    slack = 1e-9 * np.maximum(1.0, np.maximum(np.abs(first), np.abs(last)))
    limits = COORDINATE_MIN, COORDINATE_MAX + 1
    lower = np.clip(np.ceil(first - slack), *limits).astype(np.int64)
    upper = np.clip(np.floor(last + slack) + 1, *limits).astype(np.int64)
    return lower, upper
