"""The public calls: train a field, open a run, measure, render, report; make captures, handle volumes and shapes.

The command line calls only these.
"""

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
