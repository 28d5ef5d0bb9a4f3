"""COLMAP's sparse models as files: ``cameras``, ``images`` and ``points3D``, as ``.bin`` or ``.txt``.

Nothing is interpreted here but numbers: ``formats.colmap`` makes a capture of it. Counts in binary files are checked
against the bytes that are there before anything is read or allocated for them. Source:
https://colmap.github.io/format.html.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxfield.errors import FormatError, MissingFileError


class CameraKind(NamedTuple):
    """A camera model of COLMAP's."""

    name: str
    parameters: int
    """How many numbers a camera of this model has."""


KINDS: Final = {
    0: CameraKind("SIMPLE_PINHOLE", 3),
    1: CameraKind("PINHOLE", 4),
    2: CameraKind("SIMPLE_RADIAL", 4),
    3: CameraKind("RADIAL", 5),
    4: CameraKind("OPENCV", 8),
    5: CameraKind("OPENCV_FISHEYE", 8),
    6: CameraKind("FULL_OPENCV", 12),
    7: CameraKind("FOV", 5),
    8: CameraKind("SIMPLE_RADIAL_FISHEYE", 4),
    9: CameraKind("RADIAL_FISHEYE", 5),
    10: CameraKind("THIN_PRISM_FISHEYE", 12),
    11: CameraKind("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: CameraKind("SIMPLE_DIVISION", 4),
    13: CameraKind("DIVISION", 5),
    14: CameraKind("SIMPLE_FISHEYE", 3),
    15: CameraKind("FISHEYE", 4),
    16: CameraKind("EUCM", 6),
    17: CameraKind("EQUIRECTANGULAR", 2),
}
"""By the numbers of binary files."""
_NUMBER_OF: Final = {kind.name: number for number, kind in KINDS.items()}

_COUNT: Final = struct.Struct("<Q")
_CAMERA: Final = struct.Struct("<IiQQ")
_IMAGE: Final = struct.Struct("<I4d3dI")
_POINT: Final = struct.Struct("<Q3d3BdQ")
_KEYPOINT: Final = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
_LONGEST_NAME: Final = 4096
"""Bytes: no file system takes longer paths."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One lens."""

    kind: CameraKind
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One registered picture."""

    quaternion: tuple[float, ...]
    """World-to-camera rotation as w, x, y, z; need not be unit."""
    translation: tuple[float, ...]
    """World-to-camera shift."""
    camera: int
    """Its camera's id."""
    name: str
    """Its path below the folder of pictures."""
    pixels: NDArray[np.float64]
    """(K, 2): keypoints (x, y) in pixels; the centre of the first pixel is (0.5, 0.5)."""
    points: NDArray[np.int64]
    """(K,): ids of the points the keypoints show; -1 for none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """All triangulated points."""

    ids: NDArray[np.int64]
    """(P,)."""
    positions: NDArray[np.float64]
    """(P, 3)."""
    errors: NDArray[np.float64]
    """(P,): mean reprojection errors in pixels; below 0 where unknown."""
    track_lengths: NDArray[np.int64]
    """(P,): how many keypoints show each."""


def find_table(folder: Path, name: str) -> Path | None:
    """``folder/name.bin``, else ``folder/name.txt``, else None."""
    return next((path for suffix in (".bin", ".txt") if (path := folder / f"{name}{suffix}").is_file()), None)


def read_cameras(file: Path) -> dict[int, Camera]:
    """Cameras by id.

    Raises:
        FormatError: cut short, malformed, a model without a known name. MissingFileError: no such file.
    """
    return dict(_text_cameras(file) if file.suffix == ".txt" else _binary_cameras(_Bytes(file)))


def read_images(file: Path) -> list[Image]:
    """Registered pictures in the file's order. Raises as ``read_cameras``."""
    return list(_text_images(file) if file.suffix == ".txt" else _binary_images(_Bytes(file)))


def read_points(file: Path) -> Points:
    """Triangulated points in the file's order. Raises as ``read_cameras``."""
    rows = _text_points(file) if file.suffix == ".txt" else _binary_points(_Bytes(file))
    columns: list[Any] = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return Points(
        ids=np.array(columns[0], dtype=np.int64),
        positions=np.array(columns[1], dtype=np.float64).reshape(-1, 3),
        errors=np.array(columns[2], dtype=np.float64),
        track_lengths=np.array(columns[3], dtype=np.int64),
    )


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of the model.

    Raises:
        MissingFileError: no such file. FormatError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file. Export the COLMAP model again.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}). Check the file and its permissions.") from error


class _Bytes:
    """A binary file read from front to back, every size checked against what is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = read_bytes(path)
        self._at = 0

    def take(self, record: struct.Struct) -> tuple[Any, ...]:
        """The next record's values."""
        start = self._skip(record.size)
        return record.unpack_from(self._data, start)

    def count(self, smallest: int, what: str) -> int:
        """The next count, of things that take ``smallest`` bytes each at least."""
        (number,) = self.take(_COUNT)
        self.expect(number, smallest, what)
        return int(number)

    def expect(self, number: int, smallest: int, what: str) -> None:
        """Raise unless ``number`` things of ``smallest`` bytes each can follow."""
        left = len(self._data) - self._at
        if number * smallest > left:
            raise FormatError(
                f"{self.path}: says that {number} {what} follow at byte {self._at}, but holds {left} bytes more. "
                "Copy or export the file again."
            )

    def array(self, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The next ``number`` items; ``expect`` first."""
        start = self._skip(number * dtype.itemsize)
        return np.frombuffer(self._data, dtype=dtype, count=number, offset=start)

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes; ``expect`` first."""
        self._skip(size)

    def name(self) -> str:
        """The next text, which ends with a NUL."""
        end = self._data.find(b"\0", self._at, self._at + _LONGEST_NAME)
        if end < 0:
            raise FormatError(f"{self.path}: a name at byte {self._at} does not end. Copy or export the file again.")
        raw, self._at = self._data[self._at : end], end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{self.path}: the name at byte {end - len(raw)} is not UTF-8. Rename the picture and export again."
            ) from error

    def _skip(self, size: int) -> int:
        start = self._at
        if start + size > len(self._data):
            raise FormatError(
                f"{self.path}: cut short: expected {size} bytes at byte {start}, the file has {len(self._data)}. "
                "Copy or export the file again."
            )
        self._at = start + size
        return start


def _binary_cameras(data: _Bytes) -> Iterator[tuple[int, Camera]]:
    for _ in range(data.count(_CAMERA.size, "cameras")):
        number, model, width, height = data.take(_CAMERA)
        kind = KINDS.get(model)
        if kind is None:
            raise FormatError(
                f"{data.path}: camera {number} has model {model}, which is unknown (known: 0 to {max(KINDS)}). "
                "Undistort the pictures in COLMAP and use that model."
            )
        parameters = data.take(struct.Struct(f"<{kind.parameters}d"))
        yield number, Camera(kind=kind, width=width, height=height, parameters=parameters)


def _binary_images(data: _Bytes) -> Iterator[Image]:
    for _ in range(data.count(_IMAGE.size + 1 + _COUNT.size, "images")):
        _, *pose, camera = data.take(_IMAGE)
        name = data.name()
        keypoints = data.array(data.count(_KEYPOINT.itemsize, "keypoints"), _KEYPOINT)
        yield Image(
            quaternion=tuple(pose[:4]),
            translation=tuple(pose[4:]),
            camera=camera,
            name=name,
            pixels=keypoints["pixel"],
            points=keypoints["point"],
        )


def _binary_points(data: _Bytes) -> Iterator[tuple[int, tuple[float, ...], float, int]]:
    for _ in range(data.count(_POINT.size, "points")):
        number, x, y, z, _, _, _, error, length = data.take(_POINT)
        data.expect(length, 8, "observations")
        data.skip(8 * length)
        # Ids are unsigned in this file and signed in images.bin: the largest is "none" there.
        yield number - (number >> 63 << 64), (x, y, z), error, length


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of a text file, comments left out, blank lines kept."""
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: not a text file. Copy or export it again.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.lstrip().startswith("#"):
            yield f"{file}: line {number}", line.strip()


def _numbers(where: str, words: list[str], layout: str) -> list[float]:
    """Words as numbers; ``layout`` says what was expected."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise FormatError(f"{where}: expected {layout}, got {' '.join(words)[:60]!r}. Export it again.") from error


def _whole(where: str, words: list[str], layout: str) -> list[int]:
    try:
        numbers = [int(word) for word in words]
    except ValueError as error:
        raise FormatError(f"{where}: expected {layout}, got {' '.join(words)[:60]!r}. Export it again.") from error
    if any(abs(number) >= 2**63 for number in numbers):
        raise FormatError(f"{where}: expected {layout}, got a number beyond 64 bits. Export it again.")
    return numbers


def _text_cameras(file: Path) -> Iterator[tuple[int, Camera]]:
    layout = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
    for where, line in _lines(file):
        if not line:
            continue
        words = line.split()
        if len(words) > 1 and words[1] not in _NUMBER_OF:
            raise FormatError(
                f"{where}: camera model {words[1]!r} is unknown (known: {', '.join(_NUMBER_OF)}). Undistort the "
                "pictures in COLMAP and use that model."
            )
        kind = KINDS[_NUMBER_OF[words[1]]] if len(words) > 1 else KINDS[0]
        if len(words) != 4 + kind.parameters:
            raise FormatError(
                f"{where}: expected {layout} with {kind.parameters} parameters for {kind.name}, got {line[:60]!r}. "
                "Export it again."
            )
        number, width, height = _whole(where, [words[0], *words[2:4]], layout)
        parameters = tuple(_numbers(where, words[4:], layout))
        yield number, Camera(kind=kind, width=width, height=height, parameters=parameters)


def _text_images(file: Path) -> Iterator[Image]:
    layout = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
    lines = _lines(file)
    for where, line in lines:
        if not line:
            continue
        # The name is the rest of the line: it may hold spaces.
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise FormatError(f"{where}: expected {layout}, got {line[:60]!r}. Export it again.")
        pose = _numbers(where, words[1:8], layout)
        _, camera = _whole(where, [words[0], words[8]], layout)
        # The line after it lists keypoints, and is blank for a picture without any.
        where, line = next(lines, (where, ""))
        triples = line.split()
        if len(triples) % 3:
            raise FormatError(f"{where}: expected triples X Y POINT3D_ID, got {len(triples)} words. Export it again.")
        pixels = np.array(_numbers(where, triples[0::3] + triples[1::3], "X Y POINT3D_ID")).reshape(2, -1).T
        yield Image(
            quaternion=tuple(pose[:4]),
            translation=tuple(pose[4:]),
            camera=camera,
            name=words[9],
            pixels=pixels,
            points=np.array(_whole(where, triples[2::3], "X Y POINT3D_ID"), dtype=np.int64),
        )


def _text_points(file: Path) -> Iterator[tuple[int, tuple[float, ...], float, int]]:
    layout = "POINT3D_ID X Y Z R G B ERROR TRACK"
    for where, line in _lines(file):
        if not line:
            continue
        words = line.split()
        if len(words) < 8 or len(words) % 2:
            raise FormatError(f"{where}: expected {layout}, got {line[:60]!r}. Export it again.")
        x, y, z, error = _numbers(where, [*words[1:4], words[7]], layout)
        yield _whole(where, words[:1], layout)[0], (x, y, z), error, (len(words) - 8) // 2
