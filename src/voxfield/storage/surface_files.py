"""Coloured surfaces and point clouds as files: PLY (binary, little endian), OBJ and binary glTF 2.0 (GLB).

Colours come as sRGB. PLY and OBJ keep them so, as the programs that read them expect; glTF's colours of vertices are
linear light. glTF's up is +Y: what comes with +Z up is turned there, and Blender turns it back. Its material is unlit
(KHR_materials_unlit): the colours have the light of the scene in them.
"""

import json
import os
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

    def __post_init__(self) -> None:
        count = len(self.vertices)
        for name in ("vertices", "normals", "colours"):
            values = getattr(self, name)
            if values.shape != (count, 3) or not np.isfinite(values).all():
                raise InputError(f"{name}: expected ({count}, 3) finite numbers, got shape {values.shape} or NaN.")
        if self.faces.shape[1:] != (3,) or (len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < count):
            raise InputError(f"faces: expected (F, 3) indices below {count}, got shape {self.faces.shape}.")


def check_surface_path(path: str | os.PathLike[str], suffixes: tuple[str, ...] = SURFACE_SUFFIXES) -> str:
    """The ending of ``path``, in lower case, checked to be one of ``suffixes``."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{path}: expected a file that ends in {' or '.join(suffixes)}.")
    return suffix


def write_surface(path: str | os.PathLike[str], surface: ColouredSurface) -> Path:
    """Write ``surface`` in the format that the ending of ``path`` names; the file appears whole or not at all.

    Raises:
        InputError: another ending, points without triangles as GLB or OBJ, or more than a GLB can hold.
    """
    suffix = check_surface_path(path)
    if not len(surface.faces):
        check_choice(f"{path}: ending of a file of points", suffix, (".ply",))
    content = {".ply": _ply, ".obj": _obj, ".glb": _glb}[suffix](surface)
    if suffix == ".glb" and len(content) > MOST_GLB_BYTES:
        raise InputError(f"{path}: {len(content):,} bytes are more than a GLB holds. Write .ply, or fewer triangles.")
    write_bytes(path, content)
    return Path(path)


def _ply(surface: ColouredSurface) -> bytes:
    names = [*(f"float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")), "uchar red", "uchar green", "uchar blue"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(surface.vertices)}"]
    header += [f"property {name}" for name in names]
    if len(surface.faces):
        header += [f"element face {len(surface.faces)}", "property list uchar int vertex_indices"]
    points = np.empty(len(surface.vertices), [("place", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
    points["place"], points["normal"], points["colour"] = surface.vertices, surface.normals, _bytes(surface.colours)
    faces = np.empty(len(surface.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, surface.faces
    return "\n".join([*header, "end_header", ""]).encode("ascii") + points.tobytes() + faces.tobytes()


def _obj(surface: ColouredSurface) -> bytes:
    """Colours follow the coordinates, as MeshLab and Blender read and write them."""
    stream = BytesIO()
    np.savetxt(stream, np.hstack([surface.vertices, surface.colours]), fmt="v %.7g %.7g %.7g %.4f %.4f %.4f")
    np.savetxt(stream, surface.normals, fmt="vn %.4f %.4f %.4f")
    np.savetxt(stream, np.repeat(surface.faces + 1, 2, axis=1), fmt="f %d//%d %d//%d %d//%d")
    return stream.getvalue()


def _glb(surface: ColouredSurface) -> bytes:
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)
    vertices, normals = surface.vertices @ turn.T, surface.normals @ turn.T
    # glTF wants unit normals: where there is none, up.
    normals = np.where(normals.any(1, keepdims=True), normals, np.array([0, 1, 0], np.float32))
    linear = linear_from_srgb(torch.from_numpy(np.ascontiguousarray(surface.colours))).numpy()
    colours = np.pad(linear, ((0, 0), (0, 1)), constant_values=1.0)
    parts: list[tuple[np.ndarray, dict[str, Any], int]] = [
        (
            vertices.astype("<f4"),
            {
                "componentType": _FLOAT,
                "type": "VEC3",
                "min": vertices.min(0).tolist(),
                "max": vertices.max(0).tolist(),
            },
            _ARRAY_BUFFER,
        ),
        (normals.astype("<f4"), {"componentType": _FLOAT, "type": "VEC3"}, _ARRAY_BUFFER),
        (
            np.round(colours * 65535).astype("<u2"),
            {"componentType": _UINT16, "type": "VEC4", "normalized": True},
            _ARRAY_BUFFER,
        ),
        (surface.faces.astype("<u4").ravel(), {"componentType": _UINT32, "type": "SCALAR"}, _ELEMENT_ARRAY_BUFFER),
    ]
    blob = b""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    for values, described, target in parts:
        content = values.tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(content), "target": target})
        accessors.append({"bufferView": len(accessors), "count": len(values), **described})
        blob += content
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
    return _glb_file(
        {
            "asset": {"version": "2.0", "generator": "Voxfield"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "materials": [
                {
                    "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                    "extensions": {"KHR_materials_unlit": {}},
                }
            ],
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
