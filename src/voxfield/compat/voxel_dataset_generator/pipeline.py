"""``voxel_dataset_generator.pipeline``: building from Thingi10K, and dividing anew."""

import os
from typing import Any

from voxfield.api.shapes import build_shapes, split_shapes
from voxfield.jobs.build_shapes import BuiltShapes
from voxfield.jobs.split_shapes import SplitRatios
from voxfield.jobs.thingi10k import thingi10k_meshes


def generate_dataset_from_thingi10k(
    start_object: int = 0,
    num_objects: int = 100,
    output_dir: str | os.PathLike[str] = "dataset",
    base_resolution: int = 128,
    min_resolution: int = 4,
    download_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,  # noqa: ARG001  (building always continues where it was)
    solid: bool = False,
) -> BuiltShapes:
    """Build a dataset from meshes of Thingi10K.

    Args:
        start_object: meshes passed over.
        num_objects: how many are taken.
        output_dir: folder of the dataset.
        base_resolution, min_resolution: voxels along each axis of an object, and of the smallest blocks.
        download_dir: where the ``thingi10k`` package keeps its files; its own place if absent.
        resume: building always continues.
        solid: fill the shapes; otherwise only what triangles touch is set.

    Raises:
        MissingExtraError: the ``thingi10k`` package is not installed.
    """
    meshes = thingi10k_meshes(num_objects, start_object=start_object, cache=download_dir)
    return build_shapes(
        meshes,
        output_dir,
        resolution=base_resolution,
        min_resolution=min_resolution,
        coverage="conservative" if solid else "surface",
        splits=SplitRatios(),
    )


def reassign_splits(
    output_dir: str | os.PathLike[str],
    train_ratio: float = 0.8,
    val_ratio: float = 0.2,
    test_ratio: float = 0.0,
    seed: int = 42,
) -> dict[str, Any]:
    """Divide a dataset's objects anew; `voxfield.split_shapes` under its older name."""
    return split_shapes(output_dir, train=train_ratio, val=val_ratio, test=test_ratio, seed=seed)
