"""``voxfield export vdb``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield export vdb runs/lego-plenoxels --output lego.vdb --half"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    resolution: Annotated[int | None, optional("N")] = None,
    layout: Literal["grids", "compact"] = "grids",
    half: bool = False,
    sh_degree: Annotated[int, arg(metavar="0-3")] = 2,
    min_opacity: Annotated[float, arg(metavar="X")] = 0.01,
    compression: Literal["blosc", "zip", "none"] = "blosc",
    level: Annotated[int, arg(metavar="0-9")] = 9,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Export a run's field as an OpenVDB file of density and colour.

    A plenoxels run's grid is written as it is; train plenoxels --from FILE goes on from it. Any other field is sampled
    at --resolution. Blender and Houdini read density and sh_coeff_0 to 8; --layout compact is smaller, for Voxfield.

    Args:
        run: run directory.
        output: the .vdb file.
        resolution: voxels along the longest side; of a plenoxels run its own if left out.
        layout: grids for other programs, or compact.
        half: values in 16 bits: half the size, 11 bits of precision.
        sh_degree: highest band of the colours' harmonics, of fields that are sampled.
        min_opacity: least opacity of a voxel that is stored, of fields that are sampled.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        level: effort of the compression.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export volumes").export_vdb(
        output,
        resolution=resolution,
        layout=layout,
        half=half,
        sh_degree=sh_degree,
        min_opacity=min_opacity,
        compression=compression,
        level=level,
        memory=memory,
        quiet=False,
    )
    size = " x ".join(map(str, done.resolution))
    print(f"Wrote  {shown(done.file)}: {done.voxels:,} voxels of {size}, {done.bytes / 1e6:.1f} MB")
    if done.left_out:
        print(f"Left out {done.left_out}, which no volume holds.")
    return 0
