"""``voxfield dataset convert``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield dataset convert dataset dataset-files --layout files"


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    layout: Literal["packed", "files"],
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write a voxel dataset, or traced rays, in another layout. Nothing is lost: converting back gives the same bytes.

    Args:
        dataset: its folder, or that of the rays.
        output: a new or empty folder.
        layout: few memory-mapped files, or a file a block.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.storage.shape_rays import holds_rays

    count = voxfield.convert_shapes(dataset, output, layout=layout, memory=memory, quiet=False)
    print(
        f"Wrote {'the rays of ' if holds_rays(dataset) else ''}{count:,} "
        f"{'blocks' if holds_rays(dataset) else 'objects'} to {output}"
    )
    return 0
