"""Numbers and names of the OpenVDB file format, little-endian throughout.

Source: OpenVDB's documentation and the files it writes; versions 222 (mask compression) to 225 (grids of halves).
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

MAGIC: Final = 0x56444220
COMPRESSED_MAGIC: Final = b"VXFVOL\r\n"
"""First bytes of compressed volumes (`voxfield.storage.compressed`), which are taken for OpenVDB files at times."""
OLDEST_VERSION: Final = 222
NEWEST_VERSION: Final = 225
WRITTEN_VERSION: Final = 224
WRITTEN_LIBRARY: Final = (10, 0)
"""Release of OpenVDB whose files ours are alike."""
UUID_BYTES: Final = 36
TREE_PREFIX, TREE_SUFFIX, HALF_SUFFIX = "Tree_", "_5_4_3", "_HalfFloat"
NAME_SEPARATOR: Final = "\x1e"
"""Stands between a grid's name and the number that makes it unique in its file."""

ZIP, ACTIVE_MASK, BLOSC = 1, 2, 4  # bits of a grid's compression
Compression = Literal["none", "zip", "blosc"]

# What stands before a node's values: how its inactive values are to be had.
ALL_BACKGROUND, ALL_MINUS, ONE_VALUE, MASK_MINUS, MASK_ONE, MASK_TWO, ALL_STORED = range(7)

GRID_CLASSES: Final = ("unknown", "level set", "fog volume", "staggered")
GridClass = Literal["unknown", "level set", "fog volume", "staggered"]


@dataclass(frozen=True, kw_only=True)
class ValueType:
    """How one kind of voxel is stored."""

    name: str
    """As in the type of a grid: ``Tree_float_5_4_3``."""
    dtype: np.dtype
    """Of one channel, in a file."""
    channels: tuple[int, ...] = ()
    """() or (C,)."""

    @property
    def real(self) -> bool:
        """Whether such grids may be stored in half precision."""
        return self.dtype.kind == "f"

    @property
    def nbytes(self) -> int:
        """Bytes of one voxel in full precision."""
        return self.dtype.itemsize * (self.channels[0] if self.channels else 1)


VALUE_TYPES: Final = {
    one.name: one
    for one in (
        ValueType(name="float", dtype=np.dtype("<f4")),
        ValueType(name="double", dtype=np.dtype("<f8")),
        ValueType(name="half", dtype=np.dtype("<f2")),
        ValueType(name="int32", dtype=np.dtype("<i4")),
        ValueType(name="int64", dtype=np.dtype("<i8")),
        ValueType(name="bool", dtype=np.dtype("?")),
        ValueType(name="mask", dtype=np.dtype("?")),
        ValueType(name="vec3s", dtype=np.dtype("<f4"), channels=(3,)),
        ValueType(name="vec3d", dtype=np.dtype("<f8"), channels=(3,)),
        ValueType(name="vec3i", dtype=np.dtype("<i4"), channels=(3,)),
    )
}
"""What is read. All but ``half`` and ``mask`` are also written; those are float in half precision, and bool."""


def compression_text(flags: int) -> str:
    """Compression flags in the words of OpenVDB, such as ``blosc + active values``."""
    words = [word for bit, word in ((ZIP, "zip"), (BLOSC, "blosc"), (ACTIVE_MASK, "active values")) if flags & bit]
    return " + ".join(words) or "none"


def unpack_mask(raw: bytes | np.ndarray, entries: int) -> np.ndarray:
    """(N, entries) bool from masks of ``entries`` bits each, least significant bit first."""
    packed = np.frombuffer(raw, dtype=np.uint8) if not isinstance(raw, np.ndarray) else raw
    return np.unpackbits(packed.reshape(-1, entries // 8), axis=1, bitorder="little").view(np.bool_)


def pack_mask(mask: np.ndarray) -> np.ndarray:
    """(N, entries / 8) uint8 from (N, entries) bool: the inverse of `unpack_mask`."""
    return np.packbits(mask, axis=1, bitorder="little")
