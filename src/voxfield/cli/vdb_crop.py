"""``voxfield vdb crop``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb crop smoke.vdb part.vdb --lower 0 0 0 --upper 64 64 64"


def command(
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    lower: Annotated[tuple[float, float, float], arg(metavar="X Y Z")],
    upper: Annotated[tuple[float, float, float], arg(metavar="X Y Z")],
    world: bool = False,
    compression: Literal["blosc", "zip", "none"] = "blosc",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write the part of an OpenVDB file's grids that lies in a box.

    Args:
        source: a .vdb file, or a compressed volume.
        output: the .vdb file to write; may be the same.
        lower: first voxel of the box.
        upper: one past its last voxel.
        world: the box is in world coordinates instead of voxels.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    written = voxfield.crop_volume(
        source, output, lower, upper, world=world, compression=compression, memory=memory, quiet=False
    )
    print(f"Wrote  {output}: {', '.join(f'{grid.name} ({grid.volume.active_count:,} active)' for grid in written)}")
    return 0
