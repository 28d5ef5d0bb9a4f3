"""``voxfield vdb merge``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb merge density.vdb velocity.vdb --output smoke.vdb"


def command(
    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ...")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    same_names: Literal["error", "keep", "over", "sum", "max", "min"] = "error",
    compression: Literal["blosc", "zip", "none"] = "blosc",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Bring the grids of several OpenVDB files into one.

    Args:
        sources: .vdb files, or compressed volumes.
        output: the file to write; may be one of them.
        same_names: grids of one name: refuse them, keep them side by side, or make them one, the later's active voxels
            over the earlier's, or both brought together.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    written = voxfield.merge_volumes(
        sources, output, same_names=same_names, compression=compression, memory=memory, quiet=False
    )
    print(f"Wrote  {output}: {', '.join(f'{grid.name} ({grid.volume.active_count:,} active)' for grid in written)}")
    return 0
