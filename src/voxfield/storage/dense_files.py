"""Dense arrays of voxels in the files of other programs: NumPy, Zarr, NIfTI, and raw bytes beside a JSON file.

| ending | array | place in the world |
|---|---|---|
| ``.npy`` | (D, H, W) or (C, D, H, W) | none |
| ``.zarr`` | the same | attributes ``index_to_world``, ``origin`` and ``grid_class`` |
| ``.nii``, ``.nii.gz`` | indexed [x, y, z], vectors on the fifth axis | the affine; NIfTI's world is right-handed too |
| ``.raw`` | the same bytes as ``.npy``, little-endian, without a header | ``NAME.raw.json`` |

Zarr and NIfTI need the packages zarr and nibabel, which are imported when such a file is met.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError
from voxfield.storage.atomic import replacing, temporary_beside, write_json
from voxfield.storage.npz import map_npy

MOST_BYTES: Final = 16 << 30
"""Largest array that is read."""
_RAW_FORMAT: Final = "voxfield-raw"
_RAW_VERSION: Final = 1
_CHUNK: Final = 64
_KINDS: Final = "fiub"


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseVolume:
    """An array, and where it stands."""

    values: np.ndarray
    """(D, H, W), or (C, D, H, W) for vectors."""
    index_to_world: np.ndarray | None = None
    """(4, 4): takes index coordinates (x, y, z) to the world; None where the file does not say."""
    origin: tuple[int, int, int] = (0, 0, 0)
    """Index coordinates of the first voxel."""
    grid_class: str = "unknown"
    """What the values mean, as OpenVDB names it; ``.zarr`` and ``.raw`` keep it."""


def dense_ending(path: str | os.PathLike[str]) -> str | None:
    """Which of the endings a file has, or None."""
    name = Path(path).name.lower()
    return next((ending for ending in _FORMATS if name.endswith(ending)), None)


def read_dense(path: str | os.PathLike[str]) -> DenseVolume:
    """Read an array of voxels.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is not of the format that it is named after, damaged, or larger than `MOST_BYTES`.
        MissingExtraError: the package for it is not installed.
        InputError: another ending.
    """
    file = Path(path)
    read, _ = _FORMATS[_ending(file)]
    if not file.exists():
        raise MissingFileError(f"{file}: there is no such file.")
    try:
        found = read(file)
    except (OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        if isinstance(error, FormatError | MissingFileError):
            raise
        raise FormatError(f"{file}: cannot be read ({' '.join(str(error).split())[:80]}). Write it again.") from None
    if found.values.ndim not in {3, 4} or found.values.dtype.kind not in _KINDS:
        raise FormatError(
            f"{file}: expected numbers of shape (D, H, W) or (C, D, H, W), got {found.values.shape} of "
            f"{found.values.dtype}."
        )
    return found


def write_dense(path: str | os.PathLike[str], volume: DenseVolume) -> Path:
    """Write an array of voxels; the file appears whole or not at all.

    Raises:
        MissingExtraError: the package for it is not installed.
        InputError: another ending, or a type that the format does not have.
        OSError: it cannot be written.
    """
    file = Path(path)
    _, write = _FORMATS[_ending(file)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, volume)
    return file


def _ending(file: Path) -> str:
    ending = dense_ending(file)
    if ending is None:
        raise InputError(f"{file}: expected a file that ends in {', '.join(_FORMATS)}.")
    return ending


def _check_size(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise before memory is taken for an array that a file states."""
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize > MOST_BYTES:
        raise FormatError(f"{file}: states an array of {shape} {dtype}, more than {MOST_BYTES / 1e9:.0f} GB.")


def _read_npy(file: Path) -> DenseVolume:
    mapped = map_npy(file)
    _check_size(file, mapped.shape, mapped.dtype)
    return DenseVolume(values=np.array(mapped))


def _write_npy(file: Path, volume: DenseVolume) -> None:
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, volume.values, allow_pickle=False)


def _read_zarr(file: Path) -> DenseVolume:
    zarr = _package("zarr", "zarr")
    try:
        array = zarr.open_array(file, mode="r")
    except Exception as error:  # noqa: BLE001  (zarr raises what its codecs and JSON do)
        raise FormatError(f"{file}: is no Zarr array ({' '.join(str(error).split())[:80]}).") from None
    _check_size(file, tuple(array.shape), np.dtype(array.dtype))
    attributes = dict(array.attrs)
    return DenseVolume(values=np.asarray(array[...]), **_place(attributes, file))


def _write_zarr(file: Path, volume: DenseVolume) -> None:
    zarr = _package("zarr", "zarr")
    values = volume.values
    temporary = temporary_beside(file)
    try:
        chunks = tuple(max(1, min(_CHUNK, side)) for side in values.shape)
        array = zarr.create_array(store=temporary, shape=values.shape, dtype=values.dtype, chunks=chunks)
        array[...] = values
        array.attrs.update(_place_json(volume))
        if file.is_dir() and (file / "zarr.json").exists():
            # Removed only when the new one has its name.
            before = file.replace(temporary_beside(file))
            temporary.replace(file)
            shutil.rmtree(before)
        else:
            temporary.replace(file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_nifti(file: Path) -> DenseVolume:
    nibabel = _package("nibabel", "nifti")
    try:
        image = nibabel.load(file)
        shape = tuple(int(side) for side in image.shape)
        _check_size(file, shape, np.dtype(np.float64))
        # The stored type unless the header scales it.
        scaled = image.dataobj.slope != 1 or image.dataobj.inter != 0
        values = np.asarray(image.dataobj) if scaled else np.asarray(image.dataobj.get_unscaled())
    except FormatError:
        raise
    except Exception as error:  # noqa: BLE001  (nibabel raises errors of its own for every field of a header)
        raise FormatError(f"{file}: is no NIfTI image ({' '.join(str(error).split())[:80]}).") from None
    values = values.reshape(shape[:3] + shape[4:]) if len(shape) == 5 and shape[3] == 1 else values
    affine = np.asarray(image.affine, dtype=np.float64)
    return DenseVolume(values=np.ascontiguousarray(values.T), index_to_world=affine)


def _write_nifti(file: Path, volume: DenseVolume) -> None:
    nibabel = _package("nibabel", "nifti")
    values = volume.values.T
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.ndim == 4:  # x, y, z, time, component
        values = values[:, :, :, None]
    shift = np.eye(4)
    shift[:3, 3] = volume.origin
    matrix = (np.eye(4) if volume.index_to_world is None else volume.index_to_world) @ shift
    image = nibabel.Nifti1Image(values, matrix, dtype=values.dtype)
    if values.ndim == 5:
        image.header.set_intent("vector")
    # The library chooses the format by the name, so its file needs the right ending.
    ending = dense_ending(file)
    with replacing(file) as temporary:
        named = temporary.with_name(f"{temporary.name}{ending}")
        try:
            nibabel.save(image, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)


def _read_raw(file: Path) -> DenseVolume:
    sidecar = file.with_name(f"{file.name}.json")
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{sidecar}: there is no such file, and only it says what {file.name} holds.") from None
    if not isinstance(said, dict) or said.get("format") != _RAW_FORMAT or said.get("version") != _RAW_VERSION:
        raise FormatError(f'{sidecar}: expected "format": "{_RAW_FORMAT}" and "version": {_RAW_VERSION}.')
    dtype, shape = np.dtype(str(said["dtype"])), tuple(int(side) for side in said["shape"])
    _check_size(file, shape, dtype)
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != file.stat().st_size:
        raise FormatError(
            f"{file}: has {file.stat().st_size:,} bytes, not those of {shape} {dtype} that its JSON states."
        )
    return DenseVolume(values=np.fromfile(file, dtype=dtype).reshape(shape), **_place(said, sidecar))


def _write_raw(file: Path, volume: DenseVolume) -> None:
    values = np.ascontiguousarray(volume.values, dtype=volume.values.dtype.newbyteorder("<"))
    with replacing(file) as temporary:
        values.tofile(temporary)
    said = {"shape": list(values.shape), "dtype": values.dtype.str, **_place_json(volume)}
    write_json(file.with_name(f"{file.name}.json"), {"format": _RAW_FORMAT, "version": _RAW_VERSION, **said})


def _place(said: dict[str, Any], file: Path) -> dict[str, Any]:
    """Fields of a `DenseVolume` from JSON."""
    place: dict[str, Any] = {}
    if said.get("index_to_world") is not None:
        matrix = np.array(said["index_to_world"], dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise FormatError(f"{file}: expected index_to_world to be 4 x 4 finite numbers.")
        place["index_to_world"] = matrix
    if said.get("origin") is not None:
        x, y, z = (int(one) for one in said["origin"])
        place["origin"] = x, y, z
    if isinstance(said.get("grid_class"), str):
        place["grid_class"] = said["grid_class"]
    return place


def _place_json(volume: DenseVolume) -> dict[str, Any]:
    matrix = None if volume.index_to_world is None else np.asarray(volume.index_to_world, np.float64).tolist()
    return {"index_to_world": matrix, "origin": list(volume.origin), "grid_class": volume.grid_class}


def _package(name: str, extra: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            f'This file needs {name}, which is not installed. Run: pip install "voxfield[{extra}]"'
        ) from None


_Read = Callable[[Path], DenseVolume]
_Write = Callable[[Path, DenseVolume], None]
_FORMATS: Final[dict[str, tuple[_Read, _Write]]] = {
    ".npy": (_read_npy, _write_npy),
    ".zarr": (_read_zarr, _write_zarr),
    ".nii.gz": (_read_nifti, _write_nifti),
    ".nii": (_read_nifti, _write_nifti),
    ".raw": (_read_raw, _write_raw),
}
