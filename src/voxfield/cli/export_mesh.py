"""``voxfield export mesh``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield export mesh runs/lego --output lego.glb --min-part 0.01"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    resolution: Annotated[int, arg(metavar="N")] = 256,
    opacity: Annotated[float, arg(metavar="X")] = 0.5,
    min_part: Annotated[float, arg(metavar="X")] = 0.0,
    space: Literal["world", "capture"] = "world",
) -> int:
    """Export a run's field as a triangle mesh with coloured vertices: GLB, PLY or OBJ.

    The surface is closed; matter that reaches the sides of the region of interest is cut there. In GLB files +Y is up,
    as the format wants, in others +Z.

    Args:
        run: run directory.
        output: the file; its ending .glb, .ply or .obj says which format.
        resolution: voxels along the longest side of the region of interest.
        opacity: the surface is where a voxel stops this much of the light.
        min_part: least share of all triangles that a connected part must have: 0.01 drops specks in the air.
        space: coordinates of the run's world, or of the capture.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs

    done = require_photographs(voxfield.open(run), "export meshes").export_mesh(
        output, resolution=resolution, opacity=opacity, min_part=min_part, space=space
    )
    print(f"Wrote  {done.file}: {done.vertices:,} vertices, {done.faces:,} triangles, {done.bytes / 1e6:.1f} MB")
    return 0
