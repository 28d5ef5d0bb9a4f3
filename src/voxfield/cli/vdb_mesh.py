"""``voxfield vdb mesh``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb mesh smoke.vdb smoke.ply --level 0.1"


def command(
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    grid: Annotated[str | None, optional("NAME")] = None,
    level: Annotated[float | None, optional("X")] = None,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Write the surface of a volume as a triangle mesh: GLB, PLY or OBJ.

    Surfaces are closed, and have the colours of the volume where it has some. In GLB files +Y is up, as the format
    wants, in others +Z.

    Args:
        source: a .vdb file, or a compressed volume.
        output: the file; its ending .glb, .ply or .obj says which format.
        grid: which grid; density, else the only one of numbers.
        level: the value on the surface: 0 of level sets, of exported fields where a voxel stops half of the light, else
            half the greatest value.
        method: dual_contouring keeps the sharp edges and corners that marching_cubes bevels.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    done = voxfield.mesh_volume(
        source,
        output,
        name=grid,
        level=level,
        method=method,
        memory=memory,
        quiet=False,
    )
    print(f"Wrote  {done.file}: {done.vertices:,} vertices, {done.faces:,} triangles, {done.bytes / 1e6:.1f} MB")
    return 0
