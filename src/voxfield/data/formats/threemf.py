"""3MF: a ZIP archive whose XML parts hold meshes, components that place them, and what is to be built of both.

Source: https://github.com/3MFConsortium/spec_core and its production extension, whose components name objects of other
parts. A transform is twelve numbers, four rows of three: a row vector (x, y, z, 1) times that matrix is the point.
Coordinates are taken as they are, whatever the unit. Supports are left out; materials, slices and beams are not read.

The files are strangers': document types are refused, since entities could expand without limit, and so is what would
take far more memory than the file has bytes.
"""

import io
import zipfile
from array import array
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.parsers import expat

import numpy as np

MOST_XML_BYTES: Final = 4 << 30
"""Of all parts together, unpacked."""
MOST_TRIANGLES: Final = 1 << 26
"""Once components are placed."""
MOST_PLACES: Final = 1 << 16
"""Times that objects are placed."""
_DEEPEST: Final = 64
"""Levels of components."""
_CHUNK: Final = 1 << 20
_SUPPORTS: Final = ("support", "solidsupport")


@dataclass(frozen=True)
class _Place:
    """An object somewhere."""

    part: str | None
    """Name of the archive's part that holds it; None: the same."""
    number: str
    """What its part calls it."""
    matrix: np.ndarray
    """(4, 3)."""


@dataclass
class _Object:
    """A mesh, or components."""

    kind: str
    vertices: "array[float]" = field(default_factory=lambda: array("d"))
    triangles: "array[int]" = field(default_factory=lambda: array("q"))
    components: list[_Place] = field(default_factory=list)


@dataclass
class _Part:
    """What a part of the archive holds."""

    objects: dict[str, _Object] = field(default_factory=dict)
    built: list[_Place] = field(default_factory=list)


def read_3mf(source: Path | io.BytesIO) -> tuple[np.ndarray, np.ndarray]:
    """Everything that a file builds, as one mesh.

    Returns:
        Vertices (V, 3) float64 and triangles (F, 3) int64.

    Raises:
        ValueError, KeyError, OverflowError, zipfile.BadZipFile, expat.ExpatError and what else zipfile raises of
        damaged archives: it is no such file, damaged, or takes far more memory than it has bytes.
    """
    with zipfile.ZipFile(source) as archive:
        return _Assembler(_Reader(archive)).mesh()


class _Reader:
    """Parts of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._left = archive, MOST_XML_BYTES
        self._parts: dict[str, _Part] = {}
        self.root = self._root()

    def part(self, name: str) -> _Part:
        """A part by its name."""
        if name not in self._parts:
            self._parts[name] = part = _Part()
            self._parse(name, _Handler(part).start)
        return self._parts[name]

    def _root(self) -> str:
        """The part that says what is built."""
        found: list[str] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            if _local(name) == "Relationship" and attributes.get("Type", "").endswith("/3dmodel"):
                found.append(attributes["Target"])

        names = self._archive.namelist()
        if "_rels/.rels" in names:
            self._parse("_rels/.rels", start)
        found += [name for name in names if PurePosixPath(name).suffix.lower() == ".model"]
        if not found:
            raise ValueError("the archive holds no 3D model")
        return found[0].removeprefix("/")

    def _parse(self, name: str, start: Any) -> None:
        """Call ``start`` with the name, after that of its namespace and a blank, and attributes of every element."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = start
        parser.StartDoctypeDeclHandler = _refuse_doctype
        try:
            member = self._archive.open(name)
        except KeyError:
            raise ValueError(f"its part {name[:80]!r} is missing") from None
        with member:
            while chunk := member.read(_CHUNK):
                self._left -= len(chunk)
                if self._left < 0:
                    raise ValueError(f"its parts have more than the {MOST_XML_BYTES:,} bytes that are read")
                parser.Parse(chunk)
            parser.Parse(b"", True)


class _Handler:
    """Fills a part as its elements are met."""

    def __init__(self, part: _Part) -> None:
        self._part, self._object = part, _Object("model")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        space = name.rpartition(" ")[0]
        if space and "/3dmanufacturing/core/" not in space:
            return  # of an extension: slices have vertices too
        element = _local(name)
        if element == "vertex":
            self._object.vertices.extend((float(attributes["x"]), float(attributes["y"]), float(attributes["z"])))
        elif element == "triangle":
            self._object.triangles.extend((int(attributes["v1"]), int(attributes["v2"]), int(attributes["v3"])))
        elif element == "object":
            self._object = self._part.objects[attributes["id"]] = _Object(attributes.get("type", "model"))
        elif element == "component":
            self._object.components.append(_placed(attributes))
        elif element == "item":
            self._part.built.append(_placed(attributes))


class _Assembler:
    """Places objects until all that is built is one mesh."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._vertices: list[np.ndarray] = []
        self._triangles: list[np.ndarray] = []
        self._count, self._total, self._places = 0, 0, 0

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """What is built; where nothing is, all meshes."""
        root = self._reader.part(self._reader.root)
        whole = [_Place(None, number, _identity()) for number, one in root.objects.items() if not one.components]
        for place in root.built or whole:
            self._place(place, self._reader.root, _identity(), 0)
        vertices = np.concatenate(self._vertices) if self._vertices else np.empty((0, 3))
        triangles = np.concatenate(self._triangles) if self._triangles else np.empty((0, 3), np.int64)
        return vertices, triangles

    def _place(self, place: _Place, part: str, matrix: np.ndarray, depth: int) -> None:
        """Put an object, or what it is made of, where ``place`` and then ``matrix`` (4, 3) say."""
        self._places += 1
        if depth > _DEEPEST or self._places > MOST_PLACES:
            raise ValueError("its components are nested or repeated without end")
        part = part if place.part is None else place.part
        found = self._reader.part(part).objects.get(place.number)
        if found is None:
            raise ValueError(f"its object {place.number[:40]!r} is missing")
        if found.kind in _SUPPORTS:
            return
        moved = place.matrix @ matrix[:3]
        moved[3] += matrix[3]
        if found.triangles:
            vertices = np.frombuffer(found.vertices, np.float64).reshape(-1, 3)
            triangles = np.frombuffer(found.triangles, np.int64).reshape(-1, 3)
            self._total += len(triangles)
            if self._total > MOST_TRIANGLES:
                raise ValueError(f"it has more than the {MOST_TRIANGLES:,} triangles that are read")
            if int(triangles.min()) < 0 or int(triangles.max()) >= len(vertices):
                raise ValueError("a triangle names a corner that is not there")
            # A matrix that mirrors turns its faces about, so that they go on facing outwards.
            mirrors = np.linalg.det(moved[:3]) < 0
            self._triangles.append((triangles[:, ::-1] if mirrors else triangles) + self._count)
            self._vertices.append(vertices @ moved[:3] + moved[3])
            self._count += len(vertices)
        for one in found.components:
            self._place(one, part, moved, depth + 1)


def _placed(attributes: dict[str, str]) -> _Place:
    """What a component or an item says."""
    numbers = np.array([float(one) for one in attributes.get("transform", "").split()])
    if len(numbers) not in (0, 12) or not np.isfinite(numbers).all():
        raise ValueError(f"a transform of {len(numbers)} numbers, where twelve are needed")
    elsewhere = next((value for name, value in attributes.items() if " " in name and _local(name) == "path"), None)
    return _Place(
        part=None if elsewhere is None else elsewhere.removeprefix("/"),
        number=attributes["objectid"],
        matrix=numbers.reshape(4, 3) if len(numbers) else _identity(),
    )


def _identity() -> np.ndarray:
    return np.eye(4)[:, :3]


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition(" ")[2]


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it declares a document type, which no such file needs")
