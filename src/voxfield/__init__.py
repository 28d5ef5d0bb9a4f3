"""Voxfield: radiance fields, voxel datasets and sparse volumes, on any device.

The public calls are attributes of this package. Each loads its module on first use, so that ``import voxfield`` stays
quick, and a command that is done in seconds loads nothing of the others:

    run = voxfield.train("grid-ngp", "path/to/capture")
    run.evaluate()
    run.render_path("orbit")
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from voxfield.api.baking import Baked as Baked
    from voxfield.api.baking import bake as bake
    from voxfield.api.blender import export_blender as export_blender
    from voxfield.api.captures import convert_capture as convert_capture
    from voxfield.api.captures import download_eyefultower as download_eyefultower
    from voxfield.api.captures import make_multiscale as make_multiscale
    from voxfield.api.captures import process_photos as process_photos
    from voxfield.api.compression import compress_volume as compress_volume
    from voxfield.api.compression import decompress_volume as decompress_volume
    from voxfield.api.levels import make_levels as make_levels
    from voxfield.api.levels import optimise_volume as optimise_volume
    from voxfield.api.opening import open as open  # noqa: A004  (the public name reads voxfield.open)
    from voxfield.api.points import prerender as prerender
    from voxfield.api.points import voxel_dataset as voxel_dataset
    from voxfield.api.runs import Run as Run
    from voxfield.api.scenes import Scene as Scene
    from voxfield.api.shape_runs import ShapeRun as ShapeRun
    from voxfield.api.shapes import build_shapes as build_shapes
    from voxfield.api.shapes import convert_shapes as convert_shapes
    from voxfield.api.shapes import split_shapes as split_shapes
    from voxfield.api.shapes import trace_shapes as trace_shapes
    from voxfield.api.shapes import verify_shapes as verify_shapes
    from voxfield.api.shapes import view_shapes as view_shapes
    from voxfield.api.training import train as train
    from voxfield.api.viewing import view as view
    from voxfield.api.volume_info import slice_volume as slice_volume
    from voxfield.api.volume_info import volume_info as volume_info
    from voxfield.api.volume_shapes import compare_volumes as compare_volumes
    from voxfield.api.volume_shapes import mesh_volume as mesh_volume
    from voxfield.api.volume_shapes import voxelise_mesh as voxelise_mesh
    from voxfield.api.volumes import convert_volume as convert_volume
    from voxfield.api.volumes import crop_volume as crop_volume
    from voxfield.api.volumes import merge_volumes as merge_volumes
    from voxfield.api.volumes import read_volume as read_volume
    from voxfield.api.volumes import write_volume as write_volume
    from voxfield.data.voxel_datasets import PointCloudVoxelDataset as PointCloudVoxelDataset
    from voxfield.data.voxel_datasets import PrerenderedVoxelDataset as PrerenderedVoxelDataset
    from voxfield.storage.compressed import CompressionConfig as CompressionConfig
    from voxfield.voxels.voxel_grid import VoxelGrid as VoxelGrid

__version__ = "0.1.0"

__all__ = [
    "Baked",
    "CompressionConfig",
    "PointCloudVoxelDataset",
    "PrerenderedVoxelDataset",
    "Run",
    "Scene",
    "ShapeRun",
    "VoxelGrid",
    "__version__",
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
    "make_levels": "voxfield.api.levels",
    "make_multiscale": "voxfield.api.captures",
    "merge_volumes": "voxfield.api.volumes",
    "mesh_volume": "voxfield.api.volume_shapes",
    "open": "voxfield.api.opening",
    "optimise_volume": "voxfield.api.levels",
    "prerender": "voxfield.api.points",
    "process_photos": "voxfield.api.captures",
    "read_volume": "voxfield.api.volumes",
    "slice_volume": "voxfield.api.volume_info",
    "split_shapes": "voxfield.api.shapes",
    "trace_shapes": "voxfield.api.shapes",
    "train": "voxfield.api.training",
    "verify_shapes": "voxfield.api.shapes",
    "view": "voxfield.api.viewing",
    "view_shapes": "voxfield.api.shapes",
    "volume_info": "voxfield.api.volume_info",
    "voxel_dataset": "voxfield.api.points",
    "voxelise_mesh": "voxfield.api.volume_shapes",
    "write_volume": "voxfield.api.volumes",
}
"""The module of each."""


def __getattr__(name: str) -> Any:
    """Load a public call on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'voxfield' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
