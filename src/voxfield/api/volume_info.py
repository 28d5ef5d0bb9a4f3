"""What volumes' files hold: sizes, places, ranges, and slices to look at."""

import os
from typing import Any, Final

import numpy as np
import torch

from voxfield.api.places import anywhere
from voxfield.api.volume_memory import volume_bytes
from voxfield.errors import FormatError, InputError, MissingExtraError
from voxfield.render.image import write_png
from voxfield.storage.compressed import CompressedFile, CompressedHeader
from voxfield.storage.json_values import json_values
from voxfield.storage.remote import shown
from voxfield.storage.vdb import VdbFile, VdbHeader
from voxfield.storage.vdb.layout import compression_text
from voxfield.storage.vdb.transform import turn_of
from voxfield.storage.volume_files import VolumeFile, VolumeHeader, open_volume_file
from voxfield.voxels.sparse_slice import Axis, Slice, shades, slice_of

_SMALL: Final = 1 << 28
"""Grids that take up to 256 MB in memory have their values looked at unasked, which takes about a second."""


@anywhere("path")
def volume_info(path: str | os.PathLike[str], *, values: bool | None = False) -> dict[str, Any]:
    """What an OpenVDB file or a compressed volume holds, in the types JSON has.

    Args:
        path: the file.
        values: also look at every value: ranges, and the memory of each grid once loaded. Without it only topologies
            are read, and of compressed volumes not even these. None: where all grids take at most 256 MB in memory; a
            grid whose values cannot be read then says why in ``unread``.

    Returns:
        ``file``, ``file_size_mb``, ``format``, ``version``, ``num_grids``, ``total_active_voxels`` (of grids that share
        a tree, counted once), ``metadata`` and ``grids``: for each its name, type, class, active voxels, bounding box
        of these (index coordinates, both ends inside; of compressed grids only with ``values``), voxel size, transform
        (``index_to_world``, and what it does: ``translation`` and ``rotation``) and compression. A grid of a kind that
        is not read has its ``type`` and ``"read": False``.

    Raises:
        MissingFileError, FormatError, MissingExtraError: as `voxfield.read_volume`.
    """
    looked = volume_bytes(path) <= _SMALL if values is None else values
    describe = _Describer(open_volume_file(path), values=looked, strict=values is not None)
    grids = [describe(header) for header in describe.file.grids]
    own = [one for one in grids if one["read"] and one["shares_tree_of"] is None]
    size = describe.file.path.stat().st_size
    return {
        "file": shown(describe.file.path),
        "file_size_mb": size / 1e6,
        **_format(describe.file),
        "num_grids": len(grids),
        "total_active_voxels": sum(one["active_voxels"] for one in own),
        "metadata": json_values(describe.file.metadata),
        "grids": grids,
    }


@anywhere("path", output="png")
def slice_volume(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    axis: Axis = "z",
    at: int | None = None,
    longest: int = 512,
    png: str | os.PathLike[str] | None = None,
) -> Slice:
    """A slice through a grid of an OpenVDB file or of a compressed volume, to look at.

    Args:
        path: the file.
        name: which grid; the first that is read where left out.
        axis, at, longest: see `slice_of`.
        png: also write it as a picture, in which brighter is more and black is nothing.

    Raises:
        InputError: no such grid, nothing active in it, or options out of range.
        MissingFileError, FormatError, MissingExtraError: as `voxfield.read_volume`.
    """
    file = open_volume_file(path)
    headers = [header for header in file.grids if header.kind is not None]
    if name is None and not headers:
        raise InputError(f"{path}: has no grid that is read.")
    volume = file.read(headers[0] if name is None else name).volume
    cut = slice_of(volume, axis, at, longest=longest)
    if png is not None:
        write_png(png, torch.from_numpy(shades(cut.values))[..., None].expand(-1, -1, 3))
    return cut


def _format(file: VolumeFile) -> dict[str, Any]:
    """What wrote a file, and how."""
    if isinstance(file, CompressedFile):
        return {"format": "compressed volume", "version": None, "codec": file.codec}
    assert isinstance(file, VdbFile)
    return {
        "format": "OpenVDB",
        "version": file.version,
        "library": ".".join(map(str, file.library)),
        "uuid": file.uuid,
    }


class _Describer:
    """Describes the grids of a file in the types JSON has; ``strict``: values that cannot be read are an error."""

    def __init__(self, file: VolumeFile, *, values: bool, strict: bool) -> None:
        self.file, self._values, self._strict = file, values, strict

    def __call__(self, header: VolumeHeader) -> dict[str, Any]:
        """One grid."""
        if isinstance(header, CompressedHeader):
            described = self._compressed(header)
        else:
            assert isinstance(header, VdbHeader)
            described = self._vdb(header)
        if described["read"] and self._values:
            try:
                described |= self._measured(header)
            except (FormatError, MissingExtraError) as error:
                if self._strict:
                    raise
                described["unread"] = str(error)
        return described

    def _vdb(self, header: VdbHeader) -> dict[str, Any]:
        known = {"name": header.name, "type": header.type_name, "half": header.half, "read": header.kind is not None}
        if header.kind is None:
            return known
        assert isinstance(self.file, VdbFile)
        summary = self.file.summary(header)
        topology = summary.topology
        return {
            **known,
            "class": summary.grid_class,
            "shares_tree_of": header.parent or None,
            "active_voxels": topology.active_count,
            "blocks": len(topology.origins),
            "tiles": len(topology.tiles),
            "bounding_box": _box(topology.active_bounds),
            "background": json_values(topology.background),
            **_placed(summary.index_to_world),
            "compression": compression_text(summary.compression),
            "metadata": json_values(summary.metadata),
        }

    def _compressed(self, header: CompressedHeader) -> dict[str, Any]:
        assert isinstance(self.file, CompressedFile)
        summary = self.file.summary(header)
        return {
            "name": header.name,
            "type": header.type_name,
            "half": header.half,
            "read": True,
            "class": header.grid_class,
            "shares_tree_of": header.parent or None,
            "active_voxels": header.active_voxels,
            "blocks": header.leaves,
            "tiles": summary.tiles,
            "background": json_values(summary.background),
            **_placed(summary.index_to_world),
            "compression": f"{self.file.codec}, error up to {header.max_error:.4g}",
            "max_error": header.max_error,
            "metadata": json_values(summary.metadata),
        }

    def _measured(self, header: VolumeHeader) -> dict[str, Any]:
        volume = self.file.read(header).volume
        found = volume.active_range()
        return {
            "bounding_box": _box(volume.active_bounds),
            "range": None if found is None else json_values({"min": found[0], "max": found[1]}),
            "memory_mb": volume.nbytes / 1e6,
        }


def _box(bounds: tuple[np.ndarray, np.ndarray] | None) -> dict[str, list[int]] | None:
    return None if bounds is None else {"min": bounds[0].tolist(), "max": (bounds[1] - 1).tolist()}


def _placed(matrix: np.ndarray) -> dict[str, Any]:
    """Where a grid is in the world."""
    return {
        "voxel_size": np.linalg.norm(matrix[:3, :3], axis=0).tolist(),
        "translation": matrix[:3, 3].tolist(),
        "rotation": turn_of(matrix),
        "index_to_world": matrix.tolist(),
    }
