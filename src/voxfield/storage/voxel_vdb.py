"""`VoxelGrid`s as OpenVDB files, in two layouts that come back exactly.

Voxel (x, y, z) of the grid is index (x, y, z) of the file; the transform puts it at the voxel's centre. A voxel is
active where the grid stores one.

``grids``, for other programs: ``density``, a float grid of class fog volume per world unit, and for every harmonic k
``sh_coeff_k``, a vec3s grid of its red, green and blue coefficient (vec3d and double for float64 values).

``compact``, for Voxfield: one int32 grid ``index`` of rows, whose metadata ``payload`` holds the rows' values, channel
by channel: densities, then the coefficients of red, green and blue. A channel is a run of values for every `RUN` rows,
stored as OpenVDB stores those of a leaf. A file that was cropped stays readable.

The file's metadata ``plenoxels`` is JSON: format, version, layout, resolution, bounds, degree, type of the values, and
the settings that made the grid (``model_config``), as the caller gives them.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError, VolumeFormatError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.storage.vdb import VdbFile, VdbGrid, writing_vdb
from voxfield.storage.vdb.cursor import Cursor
from voxfield.storage.vdb.layout import BLOSC, VALUE_TYPES, ZIP, Compression
from voxfield.storage.vdb.metadata import OpaqueMetadata
from voxfield.storage.vdb.transform import matrix_of_bounds
from voxfield.storage.vdb.values import ValueCodec
from voxfield.storage.vdb.writer import VdbWriter
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import LEAF_SIDE
from voxfield.voxels.voxel_blocks import blocks_of_links, topology_of
from voxfield.voxels.voxel_grid import MOST_VOXELS, GridChunk, Resolution, VoxelGrid

METADATA_NAME: Final = "plenoxels"
FORMAT: Final = "voxfield-plenoxels"
VERSION: Final = 1
PAYLOAD_TYPE: Final = "voxfield_payload"
RUN: Final = 1 << 22
"""Values of a channel that are compressed together."""
SMALL: Final = 1 << 27
"""Grids of up to so many places, 512³, are read however few of them are filled: their links take 0.5 GB."""
EMPTIEST: Final = 4096
"""Larger grids are read if at least one place in so many is filled: a few bytes cannot ask for gigabytes of links."""
_FLAGS: Final[dict[str, int]] = {"none": 0, "zip": ZIP, "blosc": BLOSC}
_TYPES: Final = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}

Layout = Literal["grids", "compact"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredVoxels:
    """What a file holds."""

    grid: VoxelGrid
    layout: str
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """What the writer gave as such."""
    background: float = 0.0
    """Density that other programs see where no voxel is stored."""


@dataclass(frozen=True, kw_only=True)
class VoxelFrame:
    """What a file's metadata say of its grid: all but the voxels."""

    resolution: Resolution
    bounds: Bounds
    sh_degree: int
    dtype: str
    """Of the grid in memory: float16, float32 or float64."""

    @property
    def channels(self) -> int:
        """Values of a voxel."""
        return 1 + 3 * (self.sh_degree + 1) ** 2

    @property
    def index_to_world(self) -> np.ndarray:
        """(4, 4): see `VdbGrid`."""
        return matrix_of_bounds(np.array(self.bounds.minimum), np.array(self.bounds.maximum), self.size)

    @property
    def size(self) -> np.ndarray:
        """(3,) the resolution."""
        return np.array(self.resolution)

    @classmethod
    def of(cls, grid: VoxelGrid | GridChunk) -> "VoxelFrame":
        """The frame of ``grid``, or of the one that a chunk belongs to."""
        dtype = str(grid.density.dtype).removeprefix("torch.")
        degree = math.isqrt(grid.sh.shape[-1]) - 1
        return cls(resolution=grid.resolution, bounds=grid.scene_bounds, sh_degree=degree, dtype=dtype)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "resolution": list(self.resolution),
            "scene_bounds": [*self.bounds.minimum, *self.bounds.maximum],
            "sh_degree": self.sh_degree,
            "num_sh_coeffs": (self.sh_degree + 1) ** 2,
            "dtype": self.dtype,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VoxelFrame":
        """The inverse of `to_dict`.

        Raises:
            ValueError, TypeError, KeyError: something is missing, of another type or out of range.
        """
        width, height, depth = values["resolution"]
        degree, dtype = values["sh_degree"], values["dtype"]
        low, high = ([float(one) for one in values["scene_bounds"][at : at + 3]] for at in (0, 3))
        sizes = (width, height, depth)
        if not all(type(one) is int and 2 <= one < MOST_VOXELS for one in sizes) or math.prod(sizes) >= MOST_VOXELS:
            raise ValueError(f"resolution {sizes}")
        if type(degree) is not int or not 0 <= degree <= 3 or dtype not in _TYPES or len(values["scene_bounds"]) != 6:
            raise ValueError(f"degree {degree!r}, type {dtype!r}, bounds {values['scene_bounds']!r}")
        bounds = Bounds(minimum=cast(Vector, tuple(low)), maximum=cast(Vector, tuple(high)))
        return cls(resolution=sizes, bounds=bounds, sh_degree=degree, dtype=dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelRows:
    """Voxels as a writer takes them: rows of values, and where in blocks of 8³ each stands."""

    frame: VoxelFrame
    origins: np.ndarray
    """(N, 3) int32 of the blocks, in the order of the tree."""
    rows: np.ndarray
    """(N, 8, 8, 8) int32, -1 where none is stored."""
    density: np.ndarray
    """(R,)."""
    sh: np.ndarray
    """(R, 3 B)."""

    @classmethod
    def of(cls, grid: VoxelGrid | GridChunk) -> "VoxelRows":
        """Those of a grid, or of a chunk, which lie where that does."""
        density, sh = grid.density.detach().cpu().numpy(), grid.sh.detach().cpu().numpy()
        if isinstance(grid, VoxelGrid):
            links, corner = grid.links.cpu().numpy(), (0, 0, 0)
        else:
            stored, corner = grid.stored.cpu().numpy(), grid.corner
            links = np.where(stored, np.arange(stored.size, dtype=np.int32).reshape(stored.shape), -1)
            # From the block that its first voxel lies in.
            inside = [one % LEAF_SIDE for one in corner[::-1]]
            links = np.pad(links, [(before, 0) for before in inside], constant_values=-1)
            corner = cast(Resolution, tuple(one - one % LEAF_SIDE for one in corner))
        origins, rows = blocks_of_links(links, corner)
        return cls(
            frame=VoxelFrame.of(grid),
            origins=origins,
            rows=rows,
            density=density.reshape(-1),
            sh=sh.reshape(density.size, 3 * sh.shape[-1]),
        )


def write_voxel_vdb(
    path: str | os.PathLike[str],
    grid: VoxelGrid | GridChunk,
    *,
    layout: Layout = "grids",
    half: bool = False,
    compression: Compression = "blosc",
    level: int = 9,
    configuration: Mapping[str, Any] | None = None,
    background: float = 0.0,
    blocks_at_once: int = 4096,
) -> Path:
    """Write ``grid`` to an OpenVDB file, which appears whole or not at all.

    Args:
        path: the file to make or replace.
        grid: what to write; its values are kept as they are, those that render nothing too. A chunk of a grid (see
            `VoxelGrid.chunks`) is written where it lies in that, so that files of all chunks together are the grid.
        layout: ``grids`` for other programs, ``compact`` for smaller and quicker files.
        half: store values in 16 bits: 11 bits of precision, up to 65504.
        compression, level: see `write_vdb`.
        configuration: plain values to keep, such as the model's settings.
        background: density that other programs see where no voxel is stored. Of the layout ``grids``.
        blocks_at_once: blocks of 8³ voxels brought into the file's order together, at least 1: what bounds the memory
            beside the grid's own and 9 bytes a voxel of its blocks. Of the layout ``grids``.

    Returns:
        The path.

    Raises:
        InputError: unknown options, a configuration that JSON does not have, or values too large for 16 bits.
        MissingExtraError: Blosc is asked for and not installed.
        OSError: the file cannot be written; what was there before stays.
    """
    check_choice("layout", layout, ("grids", "compact"))
    check_range("blocks_at_once", blocks_at_once, minimum=1)
    voxels = VoxelRows.of(grid)
    about = {"half": half, "model_config": dict(configuration or {}), "num_voxels": int((voxels.rows >= 0).sum())}
    harmonics = range((voxels.frame.sh_degree + 1) ** 2)
    names = ["index"] if layout == "compact" else ["density", *(f"sh_coeff_{k}" for k in harmonics)]
    metadata = {METADATA_NAME: described(voxels.frame, layout, about)}
    with writing_vdb(path, names, compression=compression, level=level, metadata=metadata) as writer:
        if layout == "compact":
            writer.write(compact_grid("index", voxels, half=half, compression=compression, level=level))
        else:
            _write_grids(writer, names, voxels, background, half=half, blocks_at_once=blocks_at_once)
    return Path(path)


def described(frame: VoxelFrame, layout: str, about: Mapping[str, Any]) -> str:
    """The JSON text of a file's metadata.

    Raises:
        InputError: what is said ``about`` the grid is not what JSON has.
    """
    try:
        values = {"format": FORMAT, "version": VERSION, "layout": layout, **frame.to_dict(), **about}
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"configuration: expected plain values that JSON has ({error}).") from None


def is_voxel_vdb(path: str | os.PathLike[str]) -> bool:
    """Whether an OpenVDB file says that it holds a `VoxelGrid`. Raises as `VdbFile`."""
    return METADATA_NAME in VdbFile(path).metadata


def read_description(file: VdbFile) -> tuple[VoxelFrame, dict[str, Any]]:
    """The frame of a file's grid, and all that its metadata say.

    Raises:
        VolumeFormatError: it says nothing, nonsense, or is of a newer version.
    """
    text = file.metadata.get(METADATA_NAME)
    if not isinstance(text, str):
        raise VolumeFormatError(
            f"{file.path}: holds no voxel grid of Voxfield, only other volumes. To look at it: voxfield vdb info."
        )
    try:
        values = json.loads(text)
        if values["format"] != FORMAT or type(values["version"]) is not int:
            raise ValueError(f"format {values['format']!r}")
        if values["version"] > VERSION:
            raise VolumeFormatError(
                f"{file.path}: was written by a newer Voxfield. Update it: pip install --upgrade voxfield."
            )
        return VoxelFrame.from_dict(values), {**values, "model_config": dict(values.get("model_config", {}))}
    except VolumeFormatError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise VolumeFormatError(f"{file.path}: its description cannot be read ({reason}). Export it again.") from None


def read_voxel_vdb(path: str | os.PathLike[str]) -> StoredVoxels:
    """Read what `write_voxel_vdb` wrote, in either layout.

    Which voxels there are is what ``density`` (or ``index``) says; coefficients that other programs dropped count as 0.
    The bounds of a file whose transform was changed are what that says.

    Raises:
        MissingFileError: there is no such file.
        VolumeFormatError: it is no such file, of a newer version, cut short or damaged.
        MissingExtraError: it is compressed by Blosc, which is not installed.
    """
    file = VdbFile(path)
    frame, about = read_description(file)
    layout, background = str(about.get("layout")), 0.0
    try:
        if layout == "compact":
            index = file.read("index")
            frame = _placed(file.path, frame, index.index_to_world)
            coordinates, values = read_compact(file.path, index, frame)
        elif layout == "grids":
            density = file.read("density")
            frame = _placed(file.path, frame, density.index_to_world)
            coordinates, values = _read_grids(file, density, frame)
            background = float(density.volume.background)
        else:
            raise VolumeFormatError(f"{path}: expected the layout grids or compact, got {layout[:40]!r}.")
        grid = grid_of(frame, coordinates, values)
    except InputError as error:
        raise VolumeFormatError(f"{path}: {error}") from None
    return StoredVoxels(grid=grid, layout=layout, configuration=about["model_config"], background=background)


def grid_of(frame: VoxelFrame, coordinates: np.ndarray, values: np.ndarray) -> VoxelGrid:
    """A grid of ``values`` (N, channels) at the voxels ``coordinates`` (N, 3).

    Raises:
        InputError: voxels beyond the resolution, values that are not finite, or far more places than voxels.
    """
    if len(coordinates) and ((coordinates < 0) | (coordinates >= frame.size)).any():
        raise InputError(f"expected voxels within the resolution {frame.resolution}, got others.")
    places = math.prod(frame.resolution)
    if places > max(SMALL, EMPTIEST * len(coordinates)):
        raise InputError(f"{len(coordinates):,} voxels in a grid of {places:,} places are too few to be one.")
    if not np.isfinite(values).all():
        raise InputError("expected finite values, got NaN or infinity.")
    tensor = torch.from_numpy(values).to(_TYPES[frame.dtype])
    sh = tensor[:, 1:].reshape(len(tensor), 3, frame.channels // 3)
    voxels = torch.from_numpy(coordinates)
    return VoxelGrid.from_voxels(voxels, tensor[:, 0].contiguous(), sh, frame.resolution, frame.bounds)


def compact_grid(name: str, voxels: VoxelRows, *, half: bool, compression: Compression, level: int) -> VdbGrid:
    """``voxels`` as an int32 grid with a payload.

    Raises:
        InputError: a payload of 4 GiB, or values too large for 16 bits.
    """
    stored = voxels.rows >= 0
    order = voxels.rows[stored]
    index = np.full(stored.shape, -1, np.int32)
    index[stored] = np.arange(len(order), dtype=np.int32)
    codec = _codec(voxels.frame.dtype, half=half, flags=_FLAGS[compression], level=level)
    runs = []
    for channel in range(voxels.frame.channels):
        source = voxels.density if channel == 0 else voxels.sh[:, channel - 1]
        for at in range(0, len(order), RUN):
            runs.append(codec.write(codec.encode(source[order[at : at + RUN]]).tobytes()))
    payload = b"".join(runs)
    if len(payload) >= 1 << 32:
        raise InputError(f"grid {name!r}: its values take 4 GiB or more. Use the layout grids, or half precision.")
    return VdbGrid(
        name=name,
        volume=SparseVolume.from_blocks(voxels.origins, index, stored, background=-1),
        index_to_world=voxels.frame.index_to_world,
        metadata={
            "rows": np.int64(len(order)),
            "channels": voxels.frame.channels,
            "precision": codec.stored.name,
            "payload_compression": compression,
            "payload": OpaqueMetadata(PAYLOAD_TYPE, payload),
        },
    )


def read_compact(path: Path, index: VdbGrid, frame: VoxelFrame) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 3) and values (N, channels) of what `compact_grid` made.

    Raises:
        VolumeFormatError: its metadata do not fit, or rows lead outside the payload.
    """
    said, volume = index.metadata, index.volume
    payload, count = said.get("payload"), said.get("rows")
    fault = VolumeFormatError(
        f"{path}: grid {index.name!r} does not hold rows and a payload that fit. Export it again."
    )
    if not isinstance(payload, OpaqueMetadata) or not isinstance(count, np.int64) or not 0 <= count < MOST_VOXELS:
        raise fault
    if volume.values.dtype != np.int32 or volume.channels or volume.tiles.active.any():
        raise fault
    known = said.get("payload_compression") in _FLAGS and said.get("precision") in _TYPES
    if not known or said.get("channels") != frame.channels:
        raise fault
    coordinates, rows = volume.active_voxels()
    total = int(count)
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < total):
        raise fault
    flags, half = _FLAGS[said["payload_compression"]], said["precision"] == "float16"
    codec = _codec("float32" if half else said["precision"], half=half, flags=flags)
    cursor = Cursor(payload.raw, path)
    values = np.empty((len(rows), frame.channels), codec.kind.dtype)
    for channel in range(frame.channels):
        runs = [codec.decode(codec.read(cursor, min(RUN, total - at))) for at in range(0, total, RUN)]
        values[:, channel] = np.concatenate([*runs, np.empty(0, codec.kind.dtype)])[rows]
    return coordinates, values


def _write_grids(
    writer: VdbWriter,
    names: list[str],
    voxels: VoxelRows,
    background: float,
    *,
    half: bool,
    blocks_at_once: int,
) -> None:
    """Write densities and the vectors of each harmonic; one grid's values are never in memory together."""
    rows, active, dtype = voxels.rows, voxels.rows >= 0, voxels.density.dtype
    harmonics = np.moveaxis(voxels.sh.reshape(len(voxels.sh), 3, voxels.sh.shape[1] // 3), 2, 0)
    for name, source in zip(names, [voxels.density, *harmonics], strict=True):
        base = np.zeros(3, dtype) if source.ndim > 1 else np.array(background, dtype)

        def gathered(part: slice, source: np.ndarray = source, base: np.ndarray = base) -> np.ndarray:
            found = source[rows[part]]
            found[~active[part]] = base
            return cast(np.ndarray, found)

        writer.write(
            VdbGrid(
                name=name,
                volume=topology_of(voxels.origins, active, base),
                index_to_world=voxels.frame.index_to_world,
                grid_class="fog volume" if name == "density" else "unknown",
                half=half,
            ),
            gathered,
            blocks_at_once=blocks_at_once,
        )


def _read_grids(file: VdbFile, density: VdbGrid, frame: VoxelFrame) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 3) and values (N, channels) of the layout ``grids``."""
    volume = density.volume
    if volume.channels or volume.values.dtype.kind != "f":
        raise VolumeFormatError(f"{file.path}: density is of type {volume.values.dtype}, expected numbers.")
    coordinates, first = _stored(volume, frame)
    values = np.empty((len(coordinates), frame.channels), volume.values.dtype)
    values[:, 0] = first
    harmonics = frame.channels // 3
    for k in range(harmonics):
        other = file.read(f"sh_coeff_{k}").volume
        if other.channels != (3,) or other.values.dtype.kind != "f":
            raise VolumeFormatError(f"{file.path}: sh_coeff_{k} is not of vectors of three numbers.")
        values[:, 1 + k :: harmonics] = _values_like(other, volume, coordinates)
    return coordinates, values


def _stored(volume: SparseVolume, frame: VoxelFrame) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and values of every active voxel, those of tiles too."""
    if not volume.tiles.active.any():
        return volume.active_voxels()
    bounds = volume.active_bounds
    if bounds is not None and ((bounds[0] < 0).any() or (bounds[1] > frame.size).any()):
        raise InputError(f"expected voxels within the resolution {frame.resolution}, got tiles beyond it.")
    if math.prod(frame.resolution) > SMALL:
        raise InputError(f"tiles in a grid of {math.prod(frame.resolution):,} places are not read.")
    z, y, x = np.nonzero(volume.to_dense_mask((0, 0, 0), frame.resolution, most_voxels=SMALL))
    coordinates = np.stack([x, y, z], axis=1)
    return coordinates, volume.values_at(coordinates)[0]


def _values_like(other: SparseVolume, volume: SparseVolume, coordinates: np.ndarray) -> np.ndarray:
    """The values of ``other`` (N, 3) at the ``coordinates`` of the active voxels of ``volume``."""
    alike = not len(other.tiles) and not volume.tiles.active.any() and np.array_equal(other.origins, volume.origins)
    if alike and np.array_equal(other.active, volume.active):
        return cast(np.ndarray, other.values[volume.active])
    return other.values_at(coordinates)[0]


def _placed(path: Path, frame: VoxelFrame, index_to_world: np.ndarray) -> VoxelFrame:
    """The frame in the world that a file's transform says, which other programs may have moved."""
    own = frame.index_to_world
    if np.allclose(own, index_to_world, rtol=1e-6, atol=1e-6 * float(np.abs(own).max())):
        return frame
    size = np.diag(index_to_world)[:3]
    if (index_to_world[:3, :3] != np.diag(size)).any() or (size <= 0).any():
        raise VolumeFormatError(f"{path}: its voxels were turned, which a voxel grid's are not. Turn them back.")
    low = index_to_world[:3, 3] - size / 2
    ends = [cast(Vector, tuple(end.tolist())) for end in (low, low + size * frame.size)]
    bounds = Bounds(minimum=ends[0], maximum=ends[1])
    return VoxelFrame(resolution=frame.resolution, bounds=bounds, sh_degree=frame.sh_degree, dtype=frame.dtype)


def _codec(dtype: str, *, half: bool, flags: int, level: int = 9) -> ValueCodec:
    """How values of a type are stored in runs."""
    kind = VALUE_TYPES["double" if dtype == "float64" else "float"]
    return ValueCodec(kind=kind, flags=flags, half=half or dtype == "float16", level=level)
