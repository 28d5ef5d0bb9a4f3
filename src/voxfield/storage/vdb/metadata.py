"""Metadata of files and grids: named values, each with its type.

In Python: bool, int and str; float for ``double`` and `numpy.float32` for ``float``; an int beyond 32 bits, or
`numpy.int64`, for ``int64``; arrays of 2 to 4 int32, float32 or float64 for vectors and (4, 4) for matrices;
`OpaqueMetadata` for other types, which are kept as they are. So whatever was read is written as it was.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from voxfield.errors import InputError
from voxfield.storage.vdb.cursor import Cursor, packed_text

DELAYED_LOAD_TYPE: Final = "__delayedload"
"""A table of sizes for OpenVDB's own reader: stale as soon as anything changes, so neither kept nor written."""
_ARRAYS: Final[dict[str, tuple[np.dtype[Any], tuple[int, ...]]]] = {
    f"{shape}{letter}": (np.dtype(dtype), extent)
    for shape, extent in (("vec2", (2,)), ("vec3", (3,)), ("vec4", (4,)), ("mat4", (4, 4)))
    for letter, dtype in (("i", "<i4"), ("s", "<f4"), ("d", "<f8"))
    if (shape, letter) != ("mat4", "i")
}
_SCALARS: Final[dict[str, np.dtype[Any]]] = {
    "float": np.dtype("<f4"),
    "double": np.dtype("<f8"),
    "half": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}


@dataclass(frozen=True)
class OpaqueMetadata:
    """A value of a type that is not known here."""

    type_name: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.type_name}, {len(self.raw):,} bytes"


def read_metadata(cursor: Cursor) -> dict[str, Any]:
    """Name -> value, in the file's order.

    Raises:
        VolumeFormatError: it ends too soon, or a value has another size than its type.
    """
    (count,) = cursor.unpack("I")
    cursor.require(count, 12, "metadata")
    found = {}
    for _ in range(count):
        name, type_name = cursor.text(), cursor.text()
        (size,) = cursor.unpack("I")
        cursor.require(size, 1, "bytes of metadata")
        raw = cursor.take(size)
        if type_name == DELAYED_LOAD_TYPE:
            continue
        try:
            found[name] = _decode(type_name, raw)
        except (ValueError, struct.error):
            raise cursor.fault(f"metadata {name[:40]!r} of type {type_name[:40]!r} in {size} bytes") from None
    return found


def packed_metadata(values: Mapping[str, Any]) -> bytes:
    """The inverse of `read_metadata`.

    Raises:
        InputError: a name is empty, or a value has none of the types there are.
    """
    parts = [struct.pack("<I", len(values))]
    for name, value in values.items():
        if not name:
            raise InputError(f"metadata: expected names of at least one letter, got {name!r}.")
        type_name, raw = _encode(name, value)
        parts += [packed_text(name), packed_text(type_name), struct.pack("<I", len(raw)), raw]
    return b"".join(parts)


def _decode(type_name: str, raw: bytes) -> Any:
    if type_name == "string":
        return raw.decode("utf-8", "surrogateescape")
    if type_name == "bool":
        (value,) = struct.unpack("<?", raw)
        return value
    if type_name in _SCALARS:
        (number,) = np.frombuffer(raw, dtype=_SCALARS[type_name])
        return number.item() if type_name in {"double", "int32"} else number
    if type_name in _ARRAYS:
        dtype, shape = _ARRAYS[type_name]
        # A copy, so that the value does not keep the file's bytes alive.
        return np.frombuffer(raw, dtype=dtype).reshape(shape).copy()
    return OpaqueMetadata(type_name, raw)


def _encode(name: str, value: Any) -> tuple[str, bytes]:
    """The type's name and the bytes of a value."""
    if isinstance(value, OpaqueMetadata):
        return value.type_name, value.raw
    if isinstance(value, str):
        return "string", value.encode("utf-8", "surrogateescape")
    if isinstance(value, bool | np.bool_):
        return "bool", struct.pack("<?", value)
    if type(value) is int:
        if not -(2**63) <= value < 2**63:
            raise InputError(f"metadata {name!r}: expected a whole number of at most 64 bits, got {value}.")
        value = np.int32(value) if -(2**31) <= value < 2**31 else np.int64(value)
    array = np.asarray(value)
    for kind, (dtype, shape) in {**{kind: (dtype, ()) for kind, dtype in _SCALARS.items()}, **_ARRAYS}.items():
        if array.dtype == dtype and array.shape == shape:
            return kind, array.astype(dtype).tobytes()
    raise InputError(
        f"metadata {name!r}: expected text, a bool, a number, 2 to 4 int32, float32 or float64, or a 4x4 matrix, got "
        f"{type(value).__name__} {array.shape} {array.dtype}. Write anything else as JSON text."
    )
