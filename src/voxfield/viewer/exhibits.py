"""Files that a browser draws by itself: volumes and voxel datasets as voxels, point clouds, meshes.

They are shown about the origin, two units long; `Exhibited.note` says what was left out.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch

from voxfield.data.formats.meshes import MESH_SUFFIXES, is_mesh, read_mesh
from voxfield.data.formats.points import CLOUD_SUFFIXES
from voxfield.data.point_clouds import PointClouds
from voxfield.data.voxel_datasets import PrerenderedVoxelDataset
from voxfield.errors import FormatError, MissingFileError, VoxfieldError
from voxfield.kernels.voxel_words import unpack_voxels
from voxfield.render.image import level_colours, to_uint8
from voxfield.storage.compressed import is_compressed
from voxfield.storage.hdf5 import hdf5_faults, item_inside
from voxfield.storage.npz import map_npy
from voxfield.storage.prerendered import METADATA as PRERENDERED
from voxfield.storage.shape_dataset import open_shapes
from voxfield.storage.shapes import METADATA
from voxfield.storage.volume_files import open_volume_file
from voxfield.voxels.hierarchy import reassemble

MOST_POINTS: Final = 1_500_000
"""Points drawn of one thing, evenly taken: about what browsers without a GPU of their own still turn."""
MOST_ITEMS: Final = 500
"""Items offered of a folder, a file or a dataset."""
MOST_ARRAY_BYTES: Final = 8 << 30
HDF5_SUFFIXES: Final = (".h5", ".hdf5")
POINT_SUFFIXES: Final = (".npz", *(suffix for suffix in CLOUD_SUFFIXES if suffix not in MESH_SUFFIXES))
"""Endings of files that hold points and nothing else."""
_SIDE: Final = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibited:
    """Something to draw, in its own coordinates."""

    points: np.ndarray
    """(N, 3) float: centres of voxels, points of a cloud, or corners of a mesh; finite."""
    colours: np.ndarray
    """(N, 3) uint8."""
    values: np.ndarray | None = None
    """(N,) float in [0, 1]: what voxels hold, from the least to the most; None where all are alike."""
    faces: np.ndarray | None = None
    """(F, 3) indices of corners: a mesh; None: points."""
    spacing: float = 0.0
    """Side of a voxel, in the units of ``points``; 0 for points without one."""
    note: str = ""
    """What there is to say of it."""

    def placed(self) -> tuple[np.ndarray, float]:
        """The points about the origin, two units long, float32; and what their units were multiplied by."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        scale = _SIDE / max(float((high - low).max()) + self.spacing, 1e-30)
        return ((self.points - (low + high) / 2) * scale).astype(np.float32), scale


class Exhibit(Protocol):
    """A file or folder to look at."""

    items: tuple[str, ...]
    """What there is in it, at least one."""

    def load(self, item: str) -> Exhibited:
        """One of ``items``.

        Raises:
            VoxfieldError: it cannot be read, or holds nothing.
        """


def open_exhibit(path: Path) -> Exhibit:
    """What a path holds: an OpenVDB file or a compressed volume, a mesh, points or point clouds, a ``.npy`` array,
    volumes in HDF5, a voxel dataset, pre-rendered voxels, or a folder of such files.

    Raises:
        MissingFileError: there is no such path. FormatError: it holds none of them.
    """
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        if (path / METADATA).is_file():
            return ShapesExhibit(path)
        return PrerenderedExhibit(path) if (path / PRERENDERED).is_file() else FolderExhibit(path)
    if path.suffix.lower() == ".vdb" or is_compressed(path):
        return VdbExhibit(path)
    if path.suffix.lower() == ".npy":
        return ArrayExhibit(path)
    if path.suffix.lower() in HDF5_SUFFIXES:
        return SamplesExhibit(path)
    if is_mesh(path):
        return MeshExhibit(path)
    if path.suffix.lower() in POINT_SUFFIXES:
        return CloudsExhibit(path)
    meshes, points = " ".join(MESH_SUFFIXES), " ".join(POINT_SUFFIXES)
    kinds = f"a run, .vdb, a compressed volume, .npy, .h5, a mesh ({meshes}), points ({points}), pre-rendered voxels"
    raise FormatError(f"{path}: expected {kinds} or a voxel dataset.")


class VdbExhibit:
    """The grids of an OpenVDB file or a compressed volume, as their active voxels."""

    def __init__(self, path: Path) -> None:
        """Open the file; grids are read when asked for."""
        self._file = open_volume_file(path)
        self.items = tuple(dict.fromkeys(header.name for header in self._file.grids))[:MOST_ITEMS]
        if not self.items:
            raise FormatError(f"{path}: holds no grids.")

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`."""
        grid = self._file.read(item)
        places, found = grid.volume.active_voxels()
        values = found.astype(np.float64) if found.ndim == 1 else np.linalg.norm(found.astype(np.float64), axis=1)
        if grid.grid_class == "level set":
            # Of the band on both sides of the surface, the half that is inside.
            kept = values <= 0
            places, values = places[kept], values[kept]
        tiles = int(np.count_nonzero(grid.volume.tiles.active))
        note = f"{grid.volume.active_count:,} active voxels."
        note += f" {tiles:,} constant tiles are left out." if tiles else ""
        matrix = grid.index_to_world
        points = places.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        side = float(np.abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))
        return _voxels(points, values, side, note, f"{self._file.path}: grid {item!r}")


class ShapesExhibit:
    """The objects of a voxel dataset."""

    def __init__(self, folder: Path) -> None:
        """Open the dataset; objects are read when asked for."""
        self._shapes, self._folder = open_shapes(folder), folder
        self.items = tuple(f"object {index}" for index in range(min(len(self._shapes), MOST_ITEMS)))
        if not self.items:
            raise FormatError(f"{folder}: the dataset holds no objects.")

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`."""
        shape = self._shapes.read(self.items.index(item))
        resolution = self._shapes.about.base_resolution
        occupied = unpack_voxels(torch.from_numpy(reassemble(shape.tree, 0)), resolution).numpy()
        z, y, x = np.nonzero(occupied)
        points = np.stack([x, y, z], axis=1).astype(np.float64)
        note = f"Object {shape.object_id}: {len(points):,} voxels of {resolution}³."
        return _voxels(points, None, 1.0, note, f"{self._folder}: {item}")


class PrerenderedExhibit:
    """The samples of a folder of pre-rendered voxels."""

    def __init__(self, folder: Path) -> None:
        """Open the folder; samples are read when asked for."""
        self._samples, self._folder = PrerenderedVoxelDataset(folder, normalise=False), folder
        self.items = tuple(f"sample {number}" for number in range(min(len(self._samples), MOST_ITEMS)))
        if not self.items:
            raise FormatError(f"{folder}: holds no samples.")

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`."""
        sample = self._samples[self.items.index(item)]
        about = f"Number {sample['index']} of the source: "
        return _volume(sample["voxels"][0].numpy(), about, f"{self._folder}: {item}")


class SamplesExhibit:
    """The volumes (N, D, H, W) of an HDF5 file's ``voxels``, as diffusions write what they drew."""

    def __init__(self, path: Path) -> None:
        """Look into the file; volumes are read when asked for."""
        self._path = path
        self.items = tuple(f"sample {number}" for number in range(min(self._read(None)[0], MOST_ITEMS)))
        if not self.items:
            raise FormatError(f"{path}: holds no samples.")

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`."""
        _, volume = self._read(self.items.index(item))
        return _volume(volume, "", f"{self._path}: {item}")

    def _read(self, number: int | None) -> tuple[int, np.ndarray]:
        """How many volumes there are, and one of them."""
        import h5py

        with hdf5_faults(self._path, "Make it again."), h5py.File(self._path, "r", locking=False) as file:
            voxels = item_inside(self._path, file, "voxels")
            if not isinstance(voxels, h5py.Dataset) or voxels.ndim != 4 or voxels.dtype.kind not in "biuf":
                raise FormatError(f"{self._path}: expected numbers (N, D, H, W) as 'voxels'.")
            if math.prod(voxels.shape[1:]) * 8 > MOST_ARRAY_BYTES:
                raise FormatError(f"{self._path}: volumes of {voxels.shape[1:]} voxels are too large.")
            found = np.zeros(0) if number is None else np.asarray(voxels[number], dtype=np.float64)
            return len(voxels), found


class ArrayExhibit:
    """A ``.npy`` file: a volume (D, H, W) or (C, D, H, W), or points (N, 3) with or without colours (N, 6)."""

    def __init__(self, path: Path) -> None:
        """The array is read when asked for."""
        self._path = path
        self.items: tuple[str, ...] = (path.stem,)

    def load(self, item: str) -> Exhibited:  # noqa: ARG002  (there is one)
        """See `Exhibit.load`."""
        array = self._read()
        if array.ndim == 2 and array.shape[1] in (3, 6):
            colours = array[:, 3:] if array.shape[1] == 6 else None
            return _cloud(array[:, :3].astype(np.float64), colours, str(self._path))
        if array.ndim == 4:
            array = np.abs(array).max(axis=0)
        if array.ndim != 3:
            shapes = "a volume (D, H, W) or (C, D, H, W), or points (N, 3) or (N, 6)"
            raise FormatError(f"{self._path}: expected {shapes}, got {array.shape}.")
        return _volume(array, "", str(self._path))

    def _read(self) -> np.ndarray:
        try:
            if self._path.stat().st_size > MOST_ARRAY_BYTES:
                raise FormatError(f"{self._path}: larger than {MOST_ARRAY_BYTES >> 30} GiB.")
            array = map_npy(self._path)
        except OSError as error:
            reason = " ".join(str(error).split())[:200]
            raise FormatError(f"{self._path}: expected a .npy array of numbers ({reason}).") from None
        if array.dtype.kind not in "biuf" or array.size == 0:
            raise FormatError(f"{self._path}: expected numbers, got {array.dtype} of shape {array.shape}.")
        return array


class MeshExhibit:
    """A mesh, or the points of a file that holds no triangles."""

    def __init__(self, path: Path) -> None:
        """The file is read when asked for."""
        self._path = path
        self.items: tuple[str, ...] = (path.stem,)

    def load(self, item: str) -> Exhibited:  # noqa: ARG002  (there is one)
        """See `Exhibit.load`."""
        try:
            mesh = read_mesh(self._path)
        except FormatError:
            cloud = _ply_cloud(self._path)
            if cloud is None:
                raise
            return _cloud(cloud[0], cloud[1], str(self._path))
        finite = np.isfinite(mesh.vertices).all(axis=1)
        faces = mesh.faces[finite[mesh.faces].all(axis=1)]
        if not len(faces):
            raise FormatError(f"{self._path}: no triangle has three finite corners.")
        points = np.where(finite[:, None], mesh.vertices, mesh.vertices[finite][0])
        note = f"{len(faces):,} triangles, {len(points):,} corners."
        return Exhibited(points=points, colours=np.full((len(points), 3), 190, np.uint8), faces=faces, note=note)


class CloudsExhibit:
    """The point clouds of a file: one, or those of an archive of arrays."""

    def __init__(self, path: Path) -> None:
        """Look into the file; points are read when asked for."""
        self._clouds, self._path = PointClouds([path]), path
        names = tuple(f"cloud {number}" for number in range(min(len(self._clouds), MOST_ITEMS)))
        self.items: tuple[str, ...] = names if len(names) > 1 else (path.stem,)

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`."""
        number = self.items.index(item)
        return _cloud(self._clouds.read(number).astype(np.float64), None, self._clouds.name(number))


class FolderExhibit:
    """The files of a folder that can be shown, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Look for files; subfolders and links that lead elsewhere are left alone."""
        self._folder = folder
        # Texts in a folder are seldom points.
        known = {".vdb", ".npy", *HDF5_SUFFIXES, *MESH_SUFFIXES, *POINT_SUFFIXES} - {".txt"}
        root = folder.resolve()
        files = (file for file in folder.iterdir() if file.suffix.lower() in known and file.resolve().parent == root)
        self.items = tuple(sorted(file.name for file in files if file.is_file()))[:MOST_ITEMS]
        if not self.items:
            raise FormatError(f"{folder}: holds no run, voxel dataset, .vdb, .npy, .h5, mesh or point file.")

    def load(self, item: str) -> Exhibited:
        """See `Exhibit.load`; of a file of several items the first."""
        exhibit = open_exhibit(self._folder / item)
        return exhibit.load(exhibit.items[0])


def load_or_say(exhibit: Exhibit, item: str) -> Exhibited | str:
    """An item; or why it cannot be shown, where it cannot: files change and go while they are looked at."""
    if item not in exhibit.items:
        return f"There is no {item!r}."
    try:
        return exhibit.load(item)
    except VoxfieldError as error:
        return str(error)
    except (OSError, MemoryError) as error:
        return f"{item}: cannot be read ({type(error).__name__}: {error})."


def _volume(array: np.ndarray, about: str, source: str) -> Exhibited:
    """The voxels of (D, H, W) that are not 0."""
    z, y, x = np.nonzero(array)
    points = np.stack([x, y, z], axis=1).astype(np.float64)
    shape = "×".join(map(str, array.shape))
    note = f"{about}{len(points):,} voxels of {shape} that are not 0."
    return _voxels(points, array[z, y, x].astype(np.float64), 1.0, note, source)


def _voxels(points: np.ndarray, values: np.ndarray | None, side: float, note: str, source: str) -> Exhibited:
    if values is not None:
        known = np.isfinite(values)
        points, values = points[known], values[known]
    points, values, note = _thinned(points, values, note, source)
    if values is None or float(np.ptp(values)) == 0.0:
        return Exhibited(points=points, colours=_shaded(points), spacing=side, note=note)
    least, most = float(values.min()), float(values.max())
    share = (values - least) / (most - least)
    colours = to_uint8(level_colours(torch.from_numpy(share).float()[None])[0]).numpy()
    note += f" Values {least:.4g} to {most:.4g}."
    return Exhibited(points=points, colours=colours, values=share, spacing=side, note=note)


def _cloud(points: np.ndarray, colours: np.ndarray | None, source: str) -> Exhibited:
    known = np.isfinite(points).all(axis=1)
    points, note = points[known], f"{int(known.sum()):,} points."
    if colours is None:
        points, _, note = _thinned(points, None, note, source)
        return Exhibited(points=points, colours=_shaded(points), note=note)
    shares = not np.issubdtype(colours.dtype, np.integer)
    colours = np.nan_to_num(colours[known].astype(np.float64))
    if shares and colours.size and colours.max() <= 1.0:
        colours = colours * 255.0
    joined, _, note = _thinned(np.concatenate([points, colours], axis=1), None, note, source)
    return Exhibited(points=joined[:, :3], colours=joined[:, 3:].clip(0, 255).astype(np.uint8), note=note)


def _thinned(
    points: np.ndarray, values: np.ndarray | None, note: str, source: str
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """At most so many of the points, evenly taken."""
    if not len(points):
        raise FormatError(f"{source}: holds nothing to show.")
    if len(points) <= MOST_POINTS:
        return points, values, note
    rows = np.linspace(0, len(points) - 1, MOST_POINTS).astype(np.int64)
    shown = f"{note} {MOST_POINTS:,} of them are drawn."
    return points[rows], None if values is None else values[rows], shown


def _shaded(points: np.ndarray) -> np.ndarray:
    """Colours by height, so that shape shows where all are alike."""
    height = points[:, 2]
    share = (height - height.min()) / max(float(np.ptp(height)), 1e-30)
    return to_uint8(level_colours(torch.from_numpy(0.25 + 0.75 * share).float()[None])[0]).numpy()


def _ply_cloud(path: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Points and colours of a PLY file without triangles; None if it is none."""
    if path.suffix.lower() != ".ply":
        return None
    import trimesh

    try:
        cloud = trimesh.load(path, process=False)
    except Exception:  # noqa: BLE001  (whatever trimesh raises of a file that read_mesh has refused already)
        return None
    if not isinstance(cloud, trimesh.PointCloud):
        return None
    colours = getattr(cloud, "colors", None)
    has_colours = colours is not None and len(colours) == len(cloud.vertices)
    return np.asarray(cloud.vertices, dtype=np.float64), np.asarray(colours)[:, :3] if has_colours else None
