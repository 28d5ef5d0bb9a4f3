"""``voxfield dataset convert``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield dataset convert dataset dataset-files --layout files"


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    layout: Literal["packed", "files"],
) -> int:
    """Write a voxel dataset in another layout. Nothing is lost: converting back gives the same bytes.

    Args:
        dataset: its folder.
        output: a new or empty folder.
        layout: few memory-mapped files, or a file a block.
    """
    import voxfield

    count = voxfield.convert_shapes(dataset, output, layout=layout)
    print(f"Wrote {count} objects to {output}")
    return 0
