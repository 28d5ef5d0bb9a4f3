"""Voxfield: radiance fields, voxel datasets and sparse volumes, on any device.

The public calls are attributes of this package and load on first use, so that ``import voxfield`` stays quick:

    run = voxfield.train("grid-ngp", "path/to/capture")
    run.evaluate()
    run.render_path("orbit")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxfield.api import Baked as Baked
    from voxfield.api import CompressionConfig as CompressionConfig
    from voxfield.api import PointCloudVoxelDataset as PointCloudVoxelDataset
    from voxfield.api import PrerenderedVoxelDataset as PrerenderedVoxelDataset
    from voxfield.api import Run as Run
    from voxfield.api import Scene as Scene
    from voxfield.api import ShapeRun as ShapeRun
    from voxfield.api import VoxelGrid as VoxelGrid
    from voxfield.api import bake as bake
    from voxfield.api import build_shapes as build_shapes
    from voxfield.api import compare_volumes as compare_volumes
    from voxfield.api import compress_volume as compress_volume
    from voxfield.api import convert_capture as convert_capture
    from voxfield.api import convert_shapes as convert_shapes
    from voxfield.api import convert_volume as convert_volume
    from voxfield.api import crop_volume as crop_volume
    from voxfield.api import decompress_volume as decompress_volume
    from voxfield.api import download_eyefultower as download_eyefultower
    from voxfield.api import export_blender as export_blender
    from voxfield.api import make_levels as make_levels
    from voxfield.api import make_multiscale as make_multiscale
    from voxfield.api import merge_volumes as merge_volumes
    from voxfield.api import mesh_volume as mesh_volume
    from voxfield.api import open as open  # noqa: A004  (the public name reads voxfield.open)
    from voxfield.api import optimise_volume as optimise_volume
    from voxfield.api import prerender as prerender
    from voxfield.api import process_photos as process_photos
    from voxfield.api import read_volume as read_volume
    from voxfield.api import slice_volume as slice_volume
    from voxfield.api import split_shapes as split_shapes
    from voxfield.api import trace_shapes as trace_shapes
    from voxfield.api import train as train
    from voxfield.api import verify_shapes as verify_shapes
    from voxfield.api import view as view
    from voxfield.api import view_shapes as view_shapes
    from voxfield.api import volume_info as volume_info
    from voxfield.api import voxel_dataset as voxel_dataset
    from voxfield.api import voxelise_mesh as voxelise_mesh
    from voxfield.api import write_volume as write_volume

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


def __getattr__(name: str) -> Any:
    """Load a public call from ``voxfield.api`` on first use (PEP 562)."""
    if name in __all__:
        # import_module: a plain "from voxfield import api" would come back here while api is still loading.
        import importlib

        return getattr(importlib.import_module("voxfield.api"), name)
    raise AttributeError(f"module 'voxfield' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
