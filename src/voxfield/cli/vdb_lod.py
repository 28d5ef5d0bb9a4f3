"""``voxfield vdb lod``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb lod lego.vdb --output lego-levels --levels 4"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    output: Annotated[Path, arg(metavar="OUTPUT")],
    levels: Annotated[int, arg(metavar="1-12")] = 4,
    precision: Annotated[Literal["half", "full"] | None, optional("half|full")] = None,
    brick: Literal["8", "16", "32", "64", "128"] = "32",
    compression: Literal["blosc", "zip", "none"] = "blosc",
    level: Annotated[int, arg(metavar="0-9")] = 9,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write an OpenVDB file's volumes at several resolutions, each half of the one before.

    Mass stays: a coarse voxel's density is the mean of eight, its colour their mean weighed by density.

    Args:
        file: a .vdb file.
        output: a folder for lod_0.vdb (the finest), lod_1.vdb, ...; or a .vdb file for all of them, from which voxel
            grids are loaded brick by brick.
        levels: how many, the finest included.
        precision: bits of floating-point values: half for 16, full; as they are if left out.
        brick: of a voxel grid in one file, voxels along the side of a brick.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        level: effort of the compression.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.storage.remote import shown

    for path in voxfield.make_levels(
        file,
        output,
        levels=levels,
        half=None if precision is None else precision == "half",
        brick=int(brick),
        compression=compression,
        level=level,
        memory=memory,
        quiet=False,
    ):
        print(f"Wrote  {shown(path)}: {path.stat().st_size / 1e6:.3f} MB")
    return 0
