"""Triangle meshes from files: PLY, OBJ, STL, OFF, GLB, glTF and 3MF, and archives that hold one of them.

Faces with more corners are split into triangles, the parts of a scene are joined where their transforms place them.
Of materials only colours are read, and only where they are asked for.
"""

import importlib.util
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote

import numpy as np

from voxfield.data.formats.named_files import named_files
from voxfield.data.formats.off import read_off
from voxfield.data.formats.threemf import read_3mf
from voxfield.errors import FormatError, MissingExtraError, MissingFileError

MESH_SUFFIXES: Final = (".ply", ".obj", ".stl", ".off", ".glb", ".gltf", ".3mf")
"""Endings of mesh files, in any case."""
VOXELISED_BYTES: Final = 40
"""Memory for a byte of a mesh's file while the mesh is read and voxelised. Measured."""
MAX_MESH_BYTES: Final = 4 << 30
"""Largest file that is read, and largest one inside an archive."""
_JSON_CHUNK: Final = 0x4E4F534A
"""What binary glTF calls its description."""
_OWN: Final = {"3mf": read_3mf, "off": read_off}
"""What is not read by trimesh, which needs another package for the one, and takes no polygons of the other."""
_FIRST_GLTF: Final = "it is glTF 1.0, expected 2.0: export it again"
_FAN: Final = 6
"""What glTF calls triangles around a first corner; trimesh leaves them out without a word."""
_DRACO: Final = "KHR_draco_mesh_compression"
_MESHOPT: Final = {"EXT_meshopt_compression", "KHR_meshopt_compression"}
"""Extensions of glTF by which numbers are not where its accessors say; trimesh takes them for zeros."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshColours:
    """Colours of a surface: of each triangle's corners, times those of a texture."""

    corners: np.ndarray
    """(F, 3, 3) float32 red, green, blue of each corner, 0 to 1, as the file has them (mostly sRGB)."""
    texture: np.ndarray | None = None
    """(H, W, 3) uint8; None: there is none."""
    places: np.ndarray | None = None
    """(F, 3, 2) of each corner on the texture: to the right and up from its lower left corner; beyond 0 to 1 it repeats
    itself."""

    def at(self, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Colours (M, 3) float32 on triangles ``faces`` (M,), interpolated by ``weights`` (M, 3) of their corners."""
        colours = np.einsum("mc,mci->mi", weights, self.corners[faces])
        if self.texture is not None and self.places is not None:
            height, width = self.texture.shape[:2]
            right, up = np.einsum("mc,mci->im", weights, self.places[faces])
            column = np.floor(right % 1.0 * width).astype(np.int64).clip(0, width - 1)
            row = np.floor((1.0 - up) % 1.0 * height).astype(np.int64).clip(0, height - 1)
            colours = colours * self.texture[row, column] / 255
        return np.asarray(colours.clip(0, 1), np.float32)


@dataclass(frozen=True, kw_only=True)
class TriangleMesh:
    """Corners and triangles."""

    vertices: np.ndarray
    """(V, 3) float64 x, y, z. May hold NaN where the file does."""
    faces: np.ndarray
    """(F, 3) int64 indices of vertices."""
    colours: MeshColours | None = None
    """None: the file has none, or they were not asked for."""


def find_meshes(sources: Sequence[str | Path]) -> list[Path]:
    """The mesh files that are named: files, folders (looked through, subfolders too) and patterns such as ``a/*.stl``.

    Returns:
        Each file once, those of a folder or pattern sorted by path.

    Raises:
        MissingFileError: a path that does not exist, or a pattern or folder without meshes.
        InputError: nothing named, or a file whose ending is none of a mesh.
    """
    endings = f"nown endings: {' '.join(MESH_SUFFIXES)} .zip"
    return named_files(
        sources,
        is_mesh,
        unnamed="meshes: name at least one mesh file, folder or pattern.",
        unknown=f"is no mesh. K{endings}",
        absent=f"holds no meshes (k{endings}).",
    )


def is_mesh(path: Path) -> bool:
    """Whether the ending is one of a mesh file or an archive, and the file not hidden."""
    return path.suffix.lower() in (*MESH_SUFFIXES, ".zip") and not path.name.startswith(".")


def read_mesh(path: Path, *, colours: bool = False) -> TriangleMesh:
    """Read a mesh file, or the one mesh of a ``.zip``; with ``colours`` those of its vertices, faces or textures.

    Raises:
        MissingFileError: it does not exist.
        FormatError: it is damaged, holds no triangles, or not what its ending says.
        MissingExtraError: trimesh needs another package for this format.
    """
    try:
        size = path.stat().st_size
        if size > MAX_MESH_BYTES:
            raise FormatError(f"{path}: has {size:,} bytes, more than the {MAX_MESH_BYTES:,} that are read.")
        if path.suffix.lower() == ".zip":
            kind, content = _unzip(path)
            return _load(path, io.BytesIO(content), kind, colours)
        return _load(path, path, path.suffix.lower().removeprefix("."), colours)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _unzip(path: Path) -> tuple[str, bytes]:
    """Kind and content of the one mesh in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            meshes = [one for one in archive.infolist() if _is_mesh_member(one.filename)]
            if len(meshes) != 1:
                raise FormatError(f"{path}: expected one mesh in the archive, found {len(meshes)}. Unpack it.")
            if meshes[0].file_size > MAX_MESH_BYTES:
                raise FormatError(f"{path}: its mesh has more than the {MAX_MESH_BYTES:,} bytes that are read.")
            with archive.open(meshes[0]) as member:
                # The stated size may be a lie: no more than it is taken.
                content = member.read(meshes[0].file_size + 1)
            if len(content) != meshes[0].file_size:
                raise FormatError(f"{path}: the archive is damaged (its mesh is longer than it states).")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: the archive cannot be read ({error}).") from error
    return PurePosixPath(meshes[0].filename).suffix.lower().removeprefix("."), content


def _is_mesh_member(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in MESH_SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _load(path: Path, source: Path | io.BytesIO, kind: str, coloured: bool) -> TriangleMesh:
    import trimesh

    nothing, colours = np.empty((0, 3)), None
    try:
        if kind in ("glb", "gltf"):
            content = source.getvalue() if isinstance(source, io.BytesIO) else source.read_bytes()
            _check_glb(content) if kind == "glb" else _check_gltf(content, path.parent)
        if kind in _OWN:
            vertices, faces = _OWN[kind](source)
        else:
            names_files = coloured and kind in ("obj", "ply", "gltf") and source is path
            beside = {"resolver": _Beside(path.parent)} if names_files else {}
            with np.errstate(invalid="ignore"):  # Who voxelises counts corners that are not finite.
                mesh = trimesh.load_mesh(source, file_type=kind, process=False, skip_materials=not coloured, **beside)
            colours = _colours(mesh) if coloured else None
            vertices, faces = getattr(mesh, "vertices", nothing), getattr(mesh, "faces", nothing)
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading .{kind} needs {error.name or error}, which is not installed. "
            f"Install it with: pip install {error.name or 'trimesh[easy]'}"
        ) from error
    except MemoryError as error:
        raise FormatError(f"{path}: asks for more memory than there is; is it damaged?") from error
    except Exception as error:  # trimesh raises whatever its parsers stumble over
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(f"{path}: is no readable .{kind} file ({said}).") from error
    if not len(faces):
        raise FormatError(f"{path}: holds no triangles.")
    return TriangleMesh(vertices=_array(vertices, np.float64), faces=_array(faces, np.int64), colours=colours)


class _Beside:
    """Materials and textures that a file names, of its own folder only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes:
        """The content of a file."""
        file = (self._folder / name.strip()).resolve()
        if not file.is_relative_to(self._folder.resolve()) or file.stat().st_size > MAX_MESH_BYTES:
            raise ValueError(f"{name[:80]!r} is not in its folder")
        return file.read_bytes()

    __getitem__ = get


def _colours(mesh: Any) -> MeshColours | None:
    """What trimesh found of colours."""
    faces, visual = _array(mesh.faces, np.int64), mesh.visual
    if visual.kind == "vertex":
        return MeshColours(corners=(np.asarray(visual.vertex_colors)[:, :3].astype(np.float32) / 255)[faces])
    if visual.kind == "face":
        each = np.asarray(visual.face_colors)[:, :3].astype(np.float32) / 255
        return MeshColours(corners=np.repeat(each[:, None], 3, axis=1))
    if visual.kind != "texture":
        return None
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    tint = getattr(material, "baseColorFactor", None)
    if tint is None:
        tint = (255, 255, 255) if image is not None else material.main_color
    plain = np.asarray(tint[:3], np.float32) / (255 if np.asarray(tint).dtype.kind in "ui" else 1)
    corners = np.broadcast_to(plain, (len(faces), 3, 3)).copy()
    if image is None or visual.uv is None:
        return MeshColours(corners=corners)
    places = np.nan_to_num(np.asarray(visual.uv, np.float64), posinf=0.0, neginf=0.0)
    return MeshColours(corners=corners, texture=np.asarray(image.convert("RGB")), places=places[faces])


def _check_glb(content: bytes) -> None:
    """Raise ValueError unless a binary glTF file has the bytes that it counts: memory is taken for what it says."""
    if content[4:8] == struct.pack("<I", 1):
        raise ValueError(_FIRST_GLTF)
    at = 12
    document: dict[str, Any] = {}
    while at + 8 <= len(content):
        length, kind = struct.unpack_from("<II", content, at)
        if length > len(content) - at - 8:
            raise ValueError(f"it states a chunk of {length:,} bytes and is cut short")
        if kind == _JSON_CHUNK:
            document = _described(content[at + 8 : at + 8 + length])
        at += 8 + length
    _check_counts(document, len(content))


def _check_gltf(content: bytes, folder: Path) -> None:
    """The same of a glTF file, whose numbers are in itself or in files beside it; ValueError of files elsewhere."""
    document = _described(content)
    size = len(content)
    for buffer in document.get("buffers", []):
        name = str(buffer.get("uri", "data:"))
        if not name.startswith("data:"):
            file = (folder / unquote(name)).resolve()
            if not file.is_relative_to(folder.resolve()) or not file.is_file():
                raise ValueError(f"its buffer {name[:80]!r} is not in its folder")
            size += file.stat().st_size
    _check_counts(document, size)


def _described(content: bytes) -> dict[str, Any]:
    """A file's description; ValueError if it is of another version, or its meshes are packed."""
    document: Any = json.loads(content)
    if not isinstance(document, dict):
        raise TypeError("its description is no JSON object")
    # The first version has no number in some files, and names what later ones count.
    asset = document.get("asset")
    version = asset.get("version") if isinstance(asset, dict) else None
    if str(version).startswith("1") or isinstance(document.get("meshes"), dict):
        raise ValueError(_FIRST_GLTF)
    needed = set(map(str, document.get("extensionsRequired", [])))
    if _DRACO in needed and importlib.util.find_spec("DracoPy") is None:
        raise ImportError("its meshes are compressed", name="DracoPy")
    if needed & _MESHOPT:
        raise ValueError(f"its meshes are compressed by {', '.join(sorted(needed & _MESHOPT))}: export it without")
    for mesh in document.get("meshes", []):
        if any(primitive.get("mode") == _FAN for primitive in mesh.get("primitives", [])):
            raise ValueError("it has triangle fans, expected triangles or strips: export it as triangles")
    return document


def _check_counts(document: dict[str, Any], size: int) -> None:
    """Raise ValueError if a description states more values than there are bytes."""
    for accessor in document.get("accessors", []):
        # Numbers have one byte at least. Those of an accessor without a buffer are all 0, as in no mesh.
        if int(accessor["count"]) > size:
            raise ValueError(f"it states {accessor['count']:,} values and is cut short")


def _array(values: Iterable[object], dtype: type) -> np.ndarray:
    """A plain array: trimesh's own keep track of changes."""
    return np.array(values, dtype=dtype)
