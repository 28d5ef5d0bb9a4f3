"""The options that the examples of voxel datasets share."""

import argparse
from pathlib import Path


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser that knows where a dataset and its rays are."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--dataset-dir", type=Path, default=Path("dataset"))
    options.add_argument("--ray-dataset-dir", type=Path, default=Path("ray_dataset_hierarchical"))
    options.add_argument("--split", default="train", choices=("train", "val", "test"))
    return options
