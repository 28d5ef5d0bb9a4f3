"""Coloured surfaces and point clouds as files: PLY (binary, little endian), OBJ and binary glTF 2.0 (GLB).

Colours come as sRGB. PLY and OBJ keep them so, as the programs that read them expect; glTF's colours of vertices are
linear light. glTF's up is +Y: what comes with +Z up is turned there, and Blender turns it back. Its material is unlit
(KHR_materials_unlit): the colours have the light of the scene in them.

A surface with a texture has the colours of that alone. In a GLB its picture is embedded; a PLY names a PNG beside it
in a comment, ``TextureFile``, as MeshLab reads and writes it; an OBJ names a material file, and that the PNG.
"""

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from voxfield.checks import check_choice
from voxfield.colour import linear_from_srgb
from voxfield.errors import InputError
from voxfield.storage.atomic import write_bytes

SURFACE_SUFFIXES: Final = (".glb", ".ply", ".obj")
MOST_GLB_BYTES: Final = (1 << 32) - 1
"""A GLB states its length in 32 bits."""
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_MATERIAL: Final = "field"


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """A picture that lies on triangles."""

    coordinates: np.ndarray
    """(V, 2) float32 in [0, 1]: x from the picture's left, y from its bottom, of every vertex."""
    picture: np.ndarray
    """(H, W, 3) uint8 sRGB, rows from the top."""

    def __post_init__(self) -> None:
        if self.coordinates.shape[1:] != (2,) or not np.isfinite(self.coordinates).all():
            raise InputError(f"coordinates: expected (V, 2) finite numbers, got shape {self.coordinates.shape} or NaN.")
        if self.picture.dtype != np.uint8 or self.picture.shape[2:] != (3,) or not self.picture.size:
            raise InputError(f"picture: expected (H, W, 3) uint8, got {self.picture.dtype} {self.picture.shape}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ColouredSurface:
    """Points, what they look like, and the triangles between them, if any."""

    vertices: np.ndarray
    """(V, 3) float32 x, y, z, +Z up, finite."""
    normals: np.ndarray
    """(V, 3) float32, unit or 0."""
    colours: np.ndarray
    """(V, 3) float32 sRGB in [0, 1]."""
    faces: np.ndarray
    """(F, 3) int64 indices of vertices, counter-clockwise seen from outside; F is 0 of a point cloud."""
    texture: Texture | None = None
    """In place of the colours, where there is one."""

    def __post_init__(self) -> None:
        count = len(self.vertices)
        for name in ("vertices", "normals", "colours"):
            values = getattr(self, name)
            if values.shape != (count, 3) or not np.isfinite(values).all():
                raise InputError(f"{name}: expected ({count}, 3) finite numbers, got shape {values.shape} or NaN.")
        if self.faces.shape[1:] != (3,) or (len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < count):
            raise InputError(f"faces: expected (F, 3) indices below {count}, got shape {self.faces.shape}.")
        if self.texture is not None and len(self.texture.coordinates) != count:
            raise InputError(f"texture: expected {count} coordinates, got {len(self.texture.coordinates)}.")


def check_surface_path(path: str | os.PathLike[str], suffixes: tuple[str, ...] = SURFACE_SUFFIXES) -> str:
    """The ending of ``path``, in lower case, checked to be one of ``suffixes``."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{path}: expected a file that ends in {' or '.join(suffixes)}.")
    return suffix


def write_surface(path: str | os.PathLike[str], surface: ColouredSurface) -> list[Path]:
    """Write ``surface`` in the format that the ending of ``path`` names; each file appears whole or not at all.

    Returns:
        The file, and those beside it that hold its texture: of a PLY a PNG, of an OBJ also its material, named as the
        file up to the ending, with _ for what is no letter, digit, dot or dash.

    Raises:
        InputError: another ending, points without triangles as GLB or OBJ, or more than a GLB can hold.
    """
    suffix = check_surface_path(path)
    if not len(surface.faces):
        check_choice(f"{path}: ending of a file of points", suffix, (".ply",))
    beside = Path(path).with_name(re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).stem) + ".png")
    if suffix == ".glb":
        files = [(Path(path), _glb(surface))]
        if len(files[0][1]) > MOST_GLB_BYTES:
            raise InputError(
                f"{path}: {len(files[0][1]):,} bytes are more than a GLB holds. Write .ply, or fewer triangles."
            )
    elif surface.texture is None:
        files = [(Path(path), _ply(surface, None) if suffix == ".ply" else _obj(surface, None))]
    else:
        picture = (beside, _png(surface.texture.picture))
        if suffix == ".ply":
            files = [(Path(path), _ply(surface, beside.name)), picture]
        else:
            material = beside.with_suffix(".mtl")
            files = [(Path(path), _obj(surface, material.name)), (material, _mtl(beside.name)), picture]
    # The surface last: whoever finds it finds what it names.
    for file, content in reversed(files):
        write_bytes(file, content)
    return [file for file, _ in files]


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _ply(surface: ColouredSurface, picture: str | None) -> bytes:
    names = [f"float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    fields: list[tuple[str, str, int]] = [("place", "<f4", 3), ("normal", "<f4", 3)]
    header = ["ply", "format binary_little_endian 1.0"]
    if picture is None or surface.texture is None:
        names += ["uchar red", "uchar green", "uchar blue"]
        fields.append(("colour", "u1", 3))
    else:
        names += ["float s", "float t"]
        fields.append(("texture", "<f4", 2))
        header.append(f"comment TextureFile {picture}")
    header += [f"element vertex {len(surface.vertices)}", *(f"property {name}" for name in names)]
    if len(surface.faces):
        header += [f"element face {len(surface.faces)}", "property list uchar int vertex_indices"]
    points = np.empty(len(surface.vertices), fields)
    points["place"], points["normal"] = surface.vertices, surface.normals
    if picture is None or surface.texture is None:
        points["colour"] = _bytes(surface.colours)
    else:
        points["texture"] = surface.texture.coordinates
    faces = np.empty(len(surface.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, surface.faces
    return "\n".join([*header, "end_header", ""]).encode("ascii") + points.tobytes() + faces.tobytes()


def _obj(surface: ColouredSurface, material: str | None) -> bytes:
    """Colours follow the coordinates, as MeshLab and Blender read and write them."""
    stream = BytesIO()
    if material is None or surface.texture is None:
        np.savetxt(stream, np.hstack([surface.vertices, surface.colours]), fmt="v %.7g %.7g %.7g %.4f %.4f %.4f")
        corner = "%d//%d"
    else:
        stream.write(f"mtllib {material}\nusemtl {_MATERIAL}\n".encode("ascii"))
        np.savetxt(stream, surface.vertices, fmt="v %.7g %.7g %.7g")
        np.savetxt(stream, surface.texture.coordinates, fmt="vt %.6f %.6f")
        corner = "%d/%d/%d"
    np.savetxt(stream, surface.normals, fmt="vn %.4f %.4f %.4f")
    indices = np.repeat(surface.faces + 1, corner.count("d"), axis=1)
    np.savetxt(stream, indices, fmt=f"f {corner} {corner} {corner}")
    return stream.getvalue()


def _mtl(picture: str) -> bytes:
    """A material without highlights whose colour is the picture's, lit or (illum 0) not."""
    lines = [f"newmtl {_MATERIAL}", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 0", f"map_Kd {picture}", ""]
    return "\n".join(lines).encode("ascii")


def _glb(surface: ColouredSurface) -> bytes:
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)
    vertices, normals = surface.vertices @ turn.T, surface.normals @ turn.T
    # glTF wants unit normals: where there is none, up.
    normals = np.where(normals.any(1, keepdims=True), normals, np.array([0, 1, 0], np.float32))
    extent = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    material: dict[str, Any] = {
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},
    }
    parts: list[tuple[np.ndarray, dict[str, Any], int]] = [
        (vertices.astype("<f4"), {"componentType": _FLOAT, "type": "VEC3", **extent}, _ARRAY_BUFFER),
        (normals.astype("<f4"), {"componentType": _FLOAT, "type": "VEC3"}, _ARRAY_BUFFER),
    ]
    pictures: dict[str, Any] = {}
    if surface.texture is None:
        looks = "COLOR_0"
        linear = linear_from_srgb(torch.from_numpy(np.ascontiguousarray(surface.colours))).numpy()
        colours = np.round(np.pad(linear, ((0, 0), (0, 1)), constant_values=1.0) * 65535).astype("<u2")
        parts.append((colours, {"componentType": _UINT16, "type": "VEC4", "normalized": True}, _ARRAY_BUFFER))
    else:
        looks = "TEXCOORD_0"
        # glTF counts them from the picture's top.
        down = surface.texture.coordinates * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
        parts.append((down.astype("<f4"), {"componentType": _FLOAT, "type": "VEC2"}, _ARRAY_BUFFER))
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        pictures = {
            "textures": [{"source": 0, "sampler": 0}],
            # Linear with mipmaps, clamped at the sides.
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": 4, "mimeType": "image/png"}],
        }
    indices = surface.faces.astype("<u4").ravel()
    parts.append((indices, {"componentType": _UINT32, "type": "SCALAR"}, _ELEMENT_ARRAY_BUFFER))
    blob = b""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    for values, described, target in parts:
        content = values.tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(content), "target": target})
        accessors.append({"bufferView": len(accessors), "count": len(values), **described})
        blob += content
    if surface.texture is not None:
        content = _png(surface.texture.picture)
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(content)})
        blob += content
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, looks: 2}, "indices": 3, "material": 0}
    return _glb_file(
        {
            "asset": {"version": "2.0", "generator": "Voxfield"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "materials": [material],
            **pictures,
            "buffers": [{"byteLength": len(blob)}],
            "bufferViews": views,
            "accessors": accessors,
        },
        blob,
    )


def _glb_file(content: Mapping[str, Any], blob: bytes) -> bytes:
    """The container: a chunk of JSON, padded with spaces, and one of bytes, padded with zeros."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("utf-8")
    text += b" " * (-len(text) % 4)
    blob += bytes(-len(blob) % 4)
    length = 12 + 8 + len(text) + 8 + len(blob)
    # The length of what is too large for its 32 bits is checked by the caller, who knows the file's name.
    head = struct.pack("<4sII", b"glTF", 2, min(length, MOST_GLB_BYTES))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return head + chunks


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)
