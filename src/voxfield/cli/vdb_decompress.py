"""``voxfield vdb decompress``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb decompress smoke.vxv --output smoke.vdb"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    grids: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
    lower: Annotated[tuple[int, int, int] | None, optional("X Y Z")] = None,
    upper: Annotated[tuple[int, int, int] | None, optional("X Y Z")] = None,
    compression: Literal["blosc", "zip", "none"] = "blosc",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write a compressed volume, or a box of it, as an OpenVDB file.

    Args:
        file: what voxfield vdb compress wrote.
        output: the .vdb file to write.
        grids: names of the grids to keep; all of them if left out.
        lower: with --upper, only the blocks that share a voxel with this box are decoded: its first voxel.
        upper: one past its last voxel.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    written = voxfield.decompress_volume(
        file, output, names=grids, lower=lower, upper=upper, compression=compression, memory=memory, quiet=False
    )
    print(f"Wrote  {output}: {', '.join(f'{grid.name} ({grid.volume.active_count:,} active)' for grid in written)}")
    return 0
