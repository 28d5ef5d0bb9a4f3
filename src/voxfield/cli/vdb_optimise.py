"""``voxfield vdb optimise``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb optimise lego.vdb --output small.vdb --tolerance 1e-3 --precision half"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    output: Annotated[Path | None, optional("FILE")] = None,
    tolerance: Annotated[float, arg(metavar="X")] = 1e-4,
    precision: Annotated[Literal["half", "full"] | None, optional("half|full")] = None,
    compression: Literal["blosc", "zip", "none"] = "blosc",
    level: Annotated[int, arg(metavar="0-9")] = 9,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write an OpenVDB file anew without what does not matter.

    Args:
        file: a .vdb file.
        output: the file to write; the same one if left out.
        tolerance: voxels go whose density, or any other value, is within this of nothing; constant blocks become one
            value.
        precision: bits of floating-point values: half for 16, full; as they are if left out.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        level: effort of the compression.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.storage.remote import shown

    done = voxfield.optimise_volume(
        file,
        output,
        tolerance=tolerance,
        half=None if precision is None else precision == "half",
        compression=compression,
        level=level,
        memory=memory,
        quiet=False,
    )
    print(
        f"Wrote  {shown(done.file)}: {done.bytes_before / 1e6:.3f} MB before, {done.bytes_after / 1e6:.3f} now; "
        f"{done.voxels_before:,} active voxels before, {done.voxels_after:,} now"
    )
    return 0
