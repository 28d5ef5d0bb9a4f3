"""``voxfield vdb convert``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb convert smoke.vdb small.vdb --precision half --tolerance 1e-4"


def command(
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    grids: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
    compression: Literal["blosc", "zip", "none"] = "blosc",
    level: Annotated[int, arg(metavar="0-9")] = 9,
    precision: Annotated[Literal["half", "full"] | None, optional("half|full")] = None,
    tolerance: Annotated[float, arg(metavar="X")] = 0.0,
    voxel_size: Annotated[float, arg(metavar="X")] = 1.0,
    index: Annotated[int | None, optional("N")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write an OpenVDB file anew: compression, precision, fewer voxels; or to and from other formats.

    Args:
        source: a .vdb file, a compressed volume, or an array (D, H, W) or (C, D, H, W): .npy, .zarr, .nii, .nii.gz,
            .raw with .raw.json; or with --index an object of a voxel dataset, or a sample of voxels_batch_*.h5 or
            samples.h5; or a voxel grid: svox2's ckpt.npz.
        output: a .vdb file, .nvdb for NanoVDB, or an array, of one grid in the box of its active voxels.
        grids: names of the grids to keep; all of them if left out.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        level: effort of the compression.
        precision: bits of floating-point values: half for 16, full; as they are if left out.
        tolerance: voxels within this of the background become background, and constant blocks one value.
        index: which object or sample, from 0.
        voxel_size: of a grid made from an array without a transform, in world units.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    written = voxfield.convert_volume(
        source,
        output,
        names=grids,
        compression=compression,
        level=level,
        half=None if precision is None else precision == "half",
        tolerance=tolerance,
        voxel_size=voxel_size,
        index=index,
        memory=memory,
        quiet=False,
    )
    print(f"Wrote  {output}: {', '.join(f'{grid.name} ({grid.volume.active_count:,} active)' for grid in written)}")
    return 0
