"""Volumes as shapes: meshes to volumes, volumes to meshes, and how far two volumes are from each other."""

import functools
import os
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch

from voxfield.api.compression import open_volumes
from voxfield.api.levels import read_voxels
from voxfield.api.volume_memory import check_volumes, volume_bytes
from voxfield.checks import check_choice, check_range
from voxfield.data.formats.meshes import VOXELISED_BYTES, TriangleMesh, read_mesh
from voxfield.distributed.memory import MemoryPart, check_short_job, need_of, process_part
from voxfield.errors import InputError
from voxfield.export.surfaces import SurfaceExport, write_surface_of
from voxfield.export.volume_surfaces import inside_level, surface_of_volume
from voxfield.geometry.pose import SceneTransform
from voxfield.kernels.scan_fill import Inside
from voxfield.kernels.triangle_box import triangle_box
from voxfield.kernels.voxel_words import MAX_RESOLUTION, unpack_voxels
from voxfield.storage.remote import shown
from voxfield.storage.surface_files import check_surface_path
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.storage.vdb.layout import VALUE_TYPES, Compression
from voxfield.storage.vdb.transform import matrix_of_bounds
from voxfield.storage.voxel_vdb import METADATA_NAME
from voxfield.training.progress import Progress
from voxfield.viewer.volume_subject import COLOURS
from voxfield.voxels.isosurface import SurfaceMethod
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.surface_points import nearest_points
from voxfield.voxels.volume_difference import PlacedVolume, VolumeDifference, volume_difference
from voxfield.voxels.voxel_blocks import blocks_of_links
from voxfield.voxels.voxel_grid import VoxelGrid
from voxfield.voxels.voxelise import Coverage, Voxelised, voxelise

_VOXEL_BYTES: Final = 8
"""Of a voxel of the box about the mesh while it is filled and made a volume. Measured."""
_SURFACE_BYTES: Final = 16
"""Of a voxel of the box around a volume while its surface is found. Measured."""
_PLACES_SHARE: Final = 6
"""Times two grids' own memory, of the list of their active voxels. Measured."""
_TOGETHER_BYTES: Final = 300_000_000
"""Of the voxels that are compared together. Measured."""


def voxelise_mesh(
    mesh: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resolution: int = 128,
    coverage: Coverage = "conservative",
    inside: Inside = "parity",
    normals: bool = False,
    colours: bool = False,
    compression: Compression = "blosc",
    memory: int | str | None = None,
    quiet: bool = True,
) -> VdbGrid:
    """Fill the voxels of one mesh, and write them as an OpenVDB volume that stands where the mesh does.

    Args:
        mesh: a mesh file: PLY, OBJ, STL, OFF, GLB, glTF, 3MF, or a ZIP with one. Its coordinates are taken as they are.
        output: the ``.vdb`` file.
        resolution: voxels along the longest side, 1 to 1024.
        coverage, inside: see `voxfield.build_shapes`.
        normals: also write ``normal``, vec3s: of the surface's nearest point, for voxels that are set and touched by a
            triangle; unit vectors, to the side from which a face's corners run counter-clockwise.
        colours: also write ``colour``, vec3s, likewise: red, green and blue of vertices, faces or textures, 0 to 1.
        compression: ``blosc``, ``zip`` or ``none``.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The fog volume ``density`` as it was written: 1 in voxels that are set, which are the active ones.

    Raises:
        InputError: options out of range, a mesh without a size, or one without the colours that are asked for.
        MissingFileError, FormatError, MissingExtraError: the mesh is not there, damaged, or needs another package.
    """
    if Path(output).suffix.lower() != ".vdb":
        raise InputError(f"{output}: expected a file that ends in .vdb.")
    _check_voxelising(Path(mesh), resolution, memory, quiet)
    found = read_mesh(Path(mesh), colours=colours)
    if colours and found.colours is None:
        raise InputError(f"{mesh}: has no colours that are read. Leave colours out.")
    try:
        filled = voxelise(found.vertices, found.faces, resolution, coverage=coverage, inside=inside)
    except InputError as error:
        raise InputError(f"{mesh}: {error}") from None
    marked = SparseVolume.from_dense(filled.dense().numpy())
    if not marked.active_count:
        raise InputError(f"{mesh}: no voxel is set with coverage {coverage!r}. Choose conservative, or a finer grid.")
    nothing = np.zeros((), np.float32)
    volume = SparseVolume(
        origins=marked.origins,
        values=marked.values.astype(np.float32),
        active=marked.active,
        background=nothing,
        tiles=Tiles.none(nothing),
    )
    low = np.array(filled.origin)
    matrix = matrix_of_bounds(low, low + filled.pitch * resolution, np.full(3, resolution))
    grid = VdbGrid(name="density", volume=volume, index_to_world=matrix, grid_class="fog volume", half=True)
    with_surface = _surface_grids(found, filled, matrix, normals=normals, colours=colours)
    write_vdb(output, [grid, *with_surface], compression=compression)
    return grid


def _surface_grids(
    mesh: TriangleMesh, filled: Voxelised, matrix: np.ndarray, *, normals: bool, colours: bool
) -> list[VdbGrid]:
    """What the surface is like near voxels that are set and that it touches."""
    if not (normals or colours):
        return []
    kept = np.isfinite(mesh.vertices).all(axis=1)[mesh.faces].all(axis=1)
    rows = np.flatnonzero(kept)
    size = filled.resolution
    placed = ((mesh.vertices[mesh.faces[rows]] - np.array(filled.origin)) / filled.pitch).clip(0, size)
    touched = unpack_voxels(triangle_box(torch.from_numpy(placed), size) & filled.words, size).numpy()
    z, y, x = np.nonzero(touched)
    voxels = np.stack([x, y, z], axis=1)
    near = nearest_points(voxels, placed)
    assert (near.triangles >= 0).all(), "a voxel that a triangle touches has one near its centre"
    values = {}
    if normals:
        across = np.cross(placed[:, 1] - placed[:, 0], placed[:, 2] - placed[:, 0])
        length = np.linalg.norm(across, axis=1, keepdims=True)
        values["normal"] = (across / np.where(length > 0, length, 1.0))[near.triangles]
    if mesh.colours is not None:
        values["colour"] = mesh.colours.at(rows[near.triangles], near.weights)
    return [
        VdbGrid(
            name=name,
            volume=SparseVolume.from_voxels(voxels, one.astype(np.float32), background=(0.0, 0.0, 0.0)),
            index_to_world=matrix,
            half=True,
        )
        for name, one in values.items()
    ]


def _check_voxelising(mesh: Path, resolution: int, memory: int | str | None, quiet: bool) -> None:
    """Say what voxelising needs; InputError where there is not as much."""
    check_range("resolution", resolution, minimum=1, maximum=MAX_RESOLUTION)
    size = mesh.stat().st_size if mesh.is_file() else 0
    need = need_of(
        MemoryPart(what="voxels", size=resolution**3 * _VOXEL_BYTES),
        MemoryPart(what="the mesh", size=size * VOXELISED_BYTES),
    )
    check_short_job(memory, need, "Take a lower --resolution", Progress(quiet=quiet).say)


def mesh_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    level: float | None = None,
    method: SurfaceMethod = "marching_cubes",
    memory: int | str | None = None,
    quiet: bool = True,
) -> SurfaceExport:
    """Write the surface of a volume as a triangle mesh with normals and coloured vertices.

    Surfaces are closed: they end where the volume does. Colours are those of the grid ``color`` (``Cd``, ``rgb``,
    ``albedo``), or of volumes that Voxfield wrote the mean over all directions; grey without one.

    Args:
        source: a ``.vdb`` file, or a compressed volume.
        output: the file, ``.glb``, ``.ply`` or ``.obj``; of a GLB +Y is up, of others +Z.
        name: which grid; None: ``density``, else the only one of numbers.
        level: the value on the surface; None: 0 of level sets, of fields that Voxfield exported the density at which a
            voxel stops half of the light, else half the greatest value.
        method: ``marching_cubes``, or ``dual_contouring``, which keeps sharp edges and corners.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Raises:
        InputError: options that do not fit, a grid of vectors or one that cannot be told, no surface, or more than
            2^28 voxels in the box around it.
        MissingFileError, FormatError, MissingExtraError: as `voxfield.read_volume`.
    """
    check_surface_path(output)
    check_choice("method", method, get_args(SurfaceMethod))
    if level is not None:
        check_range("level", level, minimum=-1e30, maximum=1e30)
    check_volumes([source], memory, quiet=quiet, box_bytes=_SURFACE_BYTES, remedy="Crop it first (voxfield vdb crop)")
    grids = _Grids(source)
    grid, at = _shape_of(grids, name, level)
    painted = [one for one in grids.names if one in (*COLOURS, "sh_coeff_0") and one != grid.name]
    colours = grids.read(painted[0]) if painted else None
    try:
        surface = surface_of_volume(grid, at, colours, method=method)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return write_surface_of(output, surface, SceneTransform.identity())


def compare_volumes(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    name: str | None = None,
    level: float | None = None,
    memory: int | str | None = None,
    quiet: bool = True,
) -> VolumeDifference:
    """Say how far a volume is from another: what a copy that was thinned, compressed or made again has lost.

    Args:
        first: a ``.vdb`` file, or a compressed volume: the truth.
        second: the other.
        name: which grid of both; None: ``density``, else the only one of numbers.
        level: values of at least this are inside; None: of each its own, as `voxfield.mesh_volume` chooses it.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        Differences of values, and the intersection over union of what is inside.

    Raises:
        InputError: too little memory, or grids that cannot be told or compared: see
            `voxfield.voxels.volume_difference.volume_difference`.
        MissingFileError, FormatError, MissingExtraError: as `voxfield.read_volume`.
    """
    if level is not None:
        check_range("level", level, minimum=-1e30, maximum=1e30)
    files = [(source, _Grids(source)) for source in (first, second)]
    _check_comparing([(source, grids.stored(grids.chosen(name))) for source, grids in files], memory, quiet)
    placed = []
    for _, grids in files:
        grid, at = _shape_of(grids, name, level)
        inverted = grid.grid_class == "level set"
        placed.append(PlacedVolume(volume=grid.volume, index_to_world=grid.index_to_world, level=at, inverted=inverted))
    try:
        return volume_difference(*placed)
    except InputError as error:
        raise InputError(f"{second}: {error}") from None


def _check_comparing(
    files: list[tuple[str | os.PathLike[str], tuple[str, ...]]], memory: int | str | None, quiet: bool
) -> None:
    """Say what comparing grids of two files needs; InputError where there is not as much."""
    held = sum(volume_bytes(source, names) for source, names in files)
    need = need_of(
        MemoryPart(what=f"grids of {', '.join(shown(Path(source)) for source, _ in files)}", size=held),
        MemoryPart(what="where their voxels are", size=_PLACES_SHARE * held),
        MemoryPart(what="voxels compared together", size=_TOGETHER_BYTES),
        process=process_part(kernels=False),
    )
    check_short_job(memory, need, "Crop them first (voxfield vdb crop)", Progress(quiet=quiet).say)


def _shape_of(grids: "_Grids", name: str | None, level: float | None) -> tuple[VdbGrid, float]:
    """A file's grid, and the value on its surface."""
    name = grids.chosen(name)
    grid = grids.read(name)
    if level is None and not grid.volume.channels:
        level = inside_level(grid, is_density=grids.is_field and name == "density")
    return grid, 0.0 if level is None else level


class _Grids:
    """The grids of a file of any kind: of a compact one that Voxfield wrote those that other programs would see."""

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._file = open_volumes(source)
        self.is_field = METADATA_NAME in self._file.metadata
        """Whether the file is of a `voxfield.VoxelGrid`."""
        self._source = source
        kinds = {header.name: VALUE_TYPES.get(header.type_name) for header in self._file.grids}
        self._compact = self.is_field and "density" not in kinds and isinstance(self._file, VdbFile)
        self._numbers = [name for name, kind in kinds.items() if kind is not None and kind.channels == ()]
        self.names = list(kinds)
        if self._compact:
            self._numbers, self.names = ["density"], ["density", "sh_coeff_0"]

    def chosen(self, name: str | None) -> str:
        """``name``; None: ``density``, else the only one of numbers.

        Raises:
            InputError: it cannot be told.
        """
        if name is None and "density" not in self._numbers and len(self._numbers) != 1:
            listed = ", ".join(self._numbers) or "none"
            raise InputError(f"{self._source}: which grid? Name one of its grids of numbers: {listed}.")
        return name or ("density" if "density" in self._numbers else self._numbers[0])

    def stored(self, name: str) -> tuple[str, ...]:
        """The grids of the file that are read for one of these; none named: all."""
        return () if self._compact else (name,)

    def read(self, name: str) -> VdbGrid:
        """One of them; errors as `voxfield.read_volume`."""
        return self._own[name] if self._compact and name in self._own else self._file.read(name)

    @functools.cached_property
    def _own(self) -> dict[str, VdbGrid]:
        """Of a compact file."""
        return _grids_of(read_voxels(self._source)[0].grid)


def _grids_of(grid: VoxelGrid) -> dict[str, VdbGrid]:
    """Density and mean colour of a voxel grid."""
    origins, rows = blocks_of_links(grid.links.numpy())
    active, at = rows >= 0, rows.clip(min=0)
    low, high = (np.array(end, np.float64) for end in (grid.scene_bounds.minimum, grid.scene_bounds.maximum))
    matrix = matrix_of_bounds(low, high, np.array(grid.resolution))
    found = {}
    for name, values in (("density", grid.density), ("sh_coeff_0", grid.sh[:, :, 0])):
        # Links are (D, H, W), blocks [x, y, z]: so are the rows that they hold.
        blocks = values.detach().float().numpy()[at]
        blocks[~active] = 0.0
        volume = SparseVolume.from_blocks(origins, blocks, active, background=np.zeros(blocks.shape[4:]).tolist())
        found[name] = VdbGrid(name=name, volume=volume, index_to_world=matrix, grid_class="fog volume")
    return found
