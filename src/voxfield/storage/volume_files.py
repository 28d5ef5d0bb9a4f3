"""Volumes in files of either kind, OpenVDB's and compressed ones, behind one face."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from voxfield.storage.compressed import CompressedFile, is_compressed
from voxfield.storage.vdb import VdbFile, VdbGrid
from voxfield.storage.vdb.layout import ValueType


class VolumeHeader(Protocol):
    """A grid as its file lists it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type_name(self) -> str:
        """Such as ``float`` or ``vec3s``."""

    @property
    def kind(self) -> ValueType | None:
        """How its values are stored; None of kinds that are not read."""


class VolumeFile(Protocol):
    """What `VdbFile` and `CompressedFile` share."""

    path: Path
    metadata: dict[str, Any]

    @property
    def grids(self) -> Sequence[VolumeHeader]:
        """Every grid."""

    def read(self, grid: Any, /) -> VdbGrid:
        """Load one of ``grids``, or the grid of a name; errors as of `VdbFile.read` and `CompressedFile.read`."""


def open_volume_file(path: str | os.PathLike[str]) -> VolumeFile:
    """The file of either kind that is there; nothing but what it lists is read.

    Raises:
        MissingFileError, FormatError: as `VdbFile` and `CompressedFile`.
    """
    return CompressedFile(path) if is_compressed(Path(path)) else VdbFile(path)


def read_volume_file(path: str | os.PathLike[str], names: Sequence[str] = ()) -> list[VdbGrid]:
    """The grids of ``names``, in this order, or all of a file of either kind; errors as of `VolumeFile.read`."""
    file = open_volume_file(path)
    return [file.read(one) for one in (names or file.grids)]
