"""Generated volumes as files for other programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from PIL import Image

from voxfield.checks import check_choice
from voxfield.render.image import write_png
from voxfield.render.video import write_gif
from voxfield.render.volume_views import contact_sheet, view_volume
from voxfield.storage.atomic import replacing, write_bytes
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.voxels.isosurface import SurfaceMethod, isosurface
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.volume_points import points_of

_TURNTABLE_FRAMES: Final = 24
_TURNTABLE_VOLUMES: Final = 4
_FRAME_MILLISECONDS: Final = 100


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What shapes are made of volumes."""

    threshold: float
    points: int
    method: SurfaceMethod

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(SurfaceMethod))


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError unless all are keys of `FORMATS`."""
    for name in formats:
        check_choice("formats", name, FORMATS)


def write_samples(
    folder: Path,
    volumes: torch.Tensor,
    *,
    formats: Sequence[str],
    threshold: float = 0.5,
    points: int = 4096,
    method: SurfaceMethod = "marching_cubes",
    about: Mapping[str, Any],
) -> list[Path]:
    """Write volumes in every one of ``formats``.

    Args:
        folder: made when absent.
        volumes: (N, D, H, W) float32, 0 to 1.
        formats: keys of `FORMATS`.
        threshold: least value that is inside, for surfaces, points and pictures.
        points: of each point cloud.
        method: of surfaces, see `voxfield.voxels.isosurface.isosurface`.
        about: plain values that say how the volumes were made; kept in the HDF5 file.

    Returns:
        The files.

    Raises:
        InputError: an unknown format or method.
    """
    check_formats(formats)
    look = _Look(threshold=threshold, points=points, method=method)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in formats:
        if name == "hdf5":
            written.append(_write_hdf5(folder / "samples.h5", volumes, about))
        elif name == "sheet":
            written.append(_write_sheet(folder / "contact_sheet.png", volumes, threshold))
        elif name == "turntable":
            written.append(_write_turntable(folder / "turntable.gif", volumes, threshold))
        else:
            write, ending = _ONE_EACH[name]
            for number, volume in enumerate(volumes.numpy()):
                path = folder / name / f"sample_{number:04d}{ending}"
                if write(path, volume, look):
                    written.append(path)
    return written


def _write_hdf5(path: Path, volumes: torch.Tensor, about: Mapping[str, Any]) -> Path:
    """All volumes as ``voxels``, a chunk each; the file can be trained on again."""
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        chunks = (1, *volumes.shape[1:])
        file.create_dataset("voxels", data=volumes.numpy(), chunks=chunks, compression="gzip", compression_opts=1)
        for name, value in about.items():
            file.attrs[name] = value
    return path


def _write_tiff(path: Path, volume: np.ndarray, look: _Look) -> bool:  # noqa: ARG001
    """One float32 page for each layer, from z = 0."""
    pages = [Image.fromarray(layer) for layer in np.ascontiguousarray(volume, np.float32)]
    with replacing(path) as temporary:
        pages[0].save(temporary, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return True


def _write_vdb(path: Path, volume: np.ndarray, look: _Look) -> bool:  # noqa: ARG001
    """A fog volume ``density`` whose longest side is 1."""
    pitch = 1.0 / max(volume.shape)
    matrix = np.diag([pitch, pitch, pitch, 1.0])
    # OpenVDB's values lie at voxel centres.
    matrix[:3, 3] = pitch / 2
    write_vdb(path, [VdbGrid(name="density", volume=SparseVolume.from_dense(volume), index_to_world=matrix)])
    return True


def _write_mesh(path: Path, volume: np.ndarray, look: _Look) -> bool:
    """The surface, the longest side of the volume being 1; none where nothing is inside."""
    import trimesh

    surface = isosurface(volume, look.threshold, method=look.method)
    if not len(surface.faces):
        return False
    # Values stand for voxels' middles.
    vertices = (surface.vertices + 0.5) / max(volume.shape)
    mesh = trimesh.Trimesh(vertices, surface.faces, process=False)
    content: Any = mesh.export(file_type="ply")
    write_bytes(path, content)
    return True


def _write_points(path: Path, volume: np.ndarray, look: _Look) -> bool:
    """A point cloud, the longest side of the volume being 1; none where nothing is inside."""
    import trimesh

    cloud = points_of(volume, look.points, threshold=look.threshold)
    if not len(cloud):
        return False
    content: Any = trimesh.PointCloud(cloud / max(volume.shape)).export(file_type="ply")
    write_bytes(path, content)
    return True


def _write_sheet(path: Path, volumes: torch.Tensor, threshold: float) -> Path:
    return write_png(path, contact_sheet([view_volume(volume, threshold=threshold) for volume in volumes]))


def _write_turntable(path: Path, volumes: torch.Tensor, threshold: float) -> Path:
    """An animated GIF of the first volumes, turning about z."""
    frames, turning = [], volumes[:_TURNTABLE_VOLUMES]
    for frame in range(_TURNTABLE_FRAMES):
        azimuth = 360.0 * frame / _TURNTABLE_FRAMES
        views = [view_volume(volume, azimuth=azimuth, size=64, threshold=threshold) for volume in turning]
        frames.append(contact_sheet(views))
    return write_gif(path, frames, seconds=_TURNTABLE_FRAMES * _FRAME_MILLISECONDS / 1000)


_Writer = Callable[[Path, np.ndarray, _Look], bool]
_ONE_EACH: Final[Mapping[str, tuple[_Writer, str]]] = {
    "tiff": (_write_tiff, ".tif"),
    "vdb": (_write_vdb, ".vdb"),
    "mesh": (_write_mesh, ".ply"),
    "points": (_write_points, ".ply"),
}
FORMATS: Final = ("hdf5", *_ONE_EACH, "sheet", "turntable")
"""``hdf5``, ``sheet`` and ``turntable`` are one file of all volumes, the others a folder with a file of each."""
