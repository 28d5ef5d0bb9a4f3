"""Opening, writing and converting voxel datasets of shapes in either layout."""

import shutil
from pathlib import Path

from voxfield.storage.atomic import new_folder
from voxfield.storage.shape_files import FileShapes, remove_files, write_files
from voxfield.storage.shape_packed import PACKED, PackedShapes, write_packed
from voxfield.storage.shapes import SPLITS, Layout, Shapes, read_about

ShapeDataset = FileShapes | PackedShapes
"""An open dataset."""


def open_shapes(folder: Path) -> ShapeDataset:
    """Open a dataset in the layout it has.

    Raises:
        MissingFileError: no dataset, or one whose building was interrupted.
        FormatError: a damaged one.
    """
    _, content = read_about(folder)
    return PackedShapes(folder) if content.get("layout") == "packed" else FileShapes(folder)


def write_shapes(folder: Path, shapes: Shapes, layout: Layout) -> None:
    """Write a dataset in a layout, after removing what another layout left in the same folder."""
    if layout == "packed":
        remove_files(folder)
        write_packed(folder, shapes)
    else:
        shutil.rmtree(folder / PACKED, ignore_errors=True)
        write_files(folder, shapes)


def convert_shapes(source: Path, target: Path, layout: Layout) -> int:
    """Write a dataset in another layout to another folder, its splits too. Nothing is lost; it appears whole or not.

    Returns:
        How many objects.

    Raises:
        InputError: ``target`` is ``source`` or not empty. MissingFileError, FormatError: no dataset, or damaged.
    """
    shapes = open_shapes(source)
    with new_folder(target) as work:
        write_shapes(work, shapes, layout)
        if (source / SPLITS).is_file():
            shutil.copyfile(source / SPLITS, work / SPLITS)
    return len(shapes)
