"""The public calls: train a field, open a run, measure, render, report; make captures, handle volumes and shapes.

The command line calls only these. Each loads with its module on first use: rendering points needs nothing of the
viewer, and a command that is done in seconds should not spend one on loading the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from voxfield.api.baking import Baked, bake
    from voxfield.api.blender import export_blender
    from voxfield.api.captures import convert_capture, download_eyefultower, make_multiscale, process_photos
    from voxfield.api.compression import compress_volume, decompress_volume
    from voxfield.api.levels import make_levels, optimise_volume
    from voxfield.api.opening import open  # noqa: A004  (the public name reads voxfield.open)
    from voxfield.api.points import prerender, voxel_dataset
    from voxfield.api.runs import Run
    from voxfield.api.scenes import Scene
    from voxfield.api.shape_runs import ShapeRun
    from voxfield.api.shapes import build_shapes, convert_shapes, split_shapes, trace_shapes, verify_shapes, view_shapes
    from voxfield.api.trained_run import machine
    from voxfield.api.training import train
    from voxfield.api.viewing import view
    from voxfield.api.volume_shapes import compare_volumes, mesh_volume, voxelise_mesh
    from voxfield.api.volumes import (
        convert_volume,
        crop_volume,
        merge_volumes,
        read_volume,
        slice_volume,
        volume_info,
        write_volume,
    )
    from voxfield.data.voxel_datasets import PointCloudVoxelDataset, PrerenderedVoxelDataset
    from voxfield.storage.compressed import CompressionConfig
    from voxfield.voxels.voxel_grid import VoxelGrid

__all__ = [
    "Baked",
    "CompressionConfig",
    "PointCloudVoxelDataset",
    "PrerenderedVoxelDataset",
    "Run",
    "Scene",
    "ShapeRun",
    "VoxelGrid",
    "bake",
    "build_shapes",
    "compare_volumes",
    "compress_volume",
    "convert_capture",
    "convert_shapes",
    "convert_volume",
    "crop_volume",
    "decompress_volume",
    "download_eyefultower",
    "export_blender",
    "machine",
    "make_levels",
    "make_multiscale",
    "merge_volumes",
    "mesh_volume",
    "open",
    "optimise_volume",
    "prerender",
    "process_photos",
    "read_volume",
    "slice_volume",
    "split_shapes",
    "trace_shapes",
    "train",
    "verify_shapes",
    "view",
    "view_shapes",
    "volume_info",
    "voxel_dataset",
    "voxelise_mesh",
    "write_volume",
]

_HOMES: Final = {
    "Baked": "voxfield.api.baking",
    "CompressionConfig": "voxfield.storage.compressed",
    "PointCloudVoxelDataset": "voxfield.data.voxel_datasets",
    "PrerenderedVoxelDataset": "voxfield.data.voxel_datasets",
    "Run": "voxfield.api.runs",
    "Scene": "voxfield.api.scenes",
    "ShapeRun": "voxfield.api.shape_runs",
    "VoxelGrid": "voxfield.voxels.voxel_grid",
    "bake": "voxfield.api.baking",
    "build_shapes": "voxfield.api.shapes",
    "compare_volumes": "voxfield.api.volume_shapes",
    "compress_volume": "voxfield.api.compression",
    "convert_capture": "voxfield.api.captures",
    "convert_shapes": "voxfield.api.shapes",
    "convert_volume": "voxfield.api.volumes",
    "crop_volume": "voxfield.api.volumes",
    "decompress_volume": "voxfield.api.compression",
    "download_eyefultower": "voxfield.api.captures",
    "export_blender": "voxfield.api.blender",
    "machine": "voxfield.api.trained_run",
    "make_levels": "voxfield.api.levels",
    "make_multiscale": "voxfield.api.captures",
    "merge_volumes": "voxfield.api.volumes",
    "mesh_volume": "voxfield.api.volume_shapes",
    "open": "voxfield.api.opening",
    "optimise_volume": "voxfield.api.levels",
    "prerender": "voxfield.api.points",
    "process_photos": "voxfield.api.captures",
    "read_volume": "voxfield.api.volumes",
    "slice_volume": "voxfield.api.volumes",
    "split_shapes": "voxfield.api.shapes",
    "trace_shapes": "voxfield.api.shapes",
    "train": "voxfield.api.training",
    "verify_shapes": "voxfield.api.shapes",
    "view": "voxfield.api.viewing",
    "view_shapes": "voxfield.api.shapes",
    "volume_info": "voxfield.api.volumes",
    "voxel_dataset": "voxfield.api.points",
    "voxelise_mesh": "voxfield.api.volume_shapes",
    "write_volume": "voxfield.api.volumes",
}
"""The module that each name is of."""


def __getattr__(name: str) -> Any:
    """Load a call on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
