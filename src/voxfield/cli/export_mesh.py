"""``voxfield export mesh``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield export mesh runs/lego --output lego.glb --min-part 0.01 --texture 2048"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    resolution: Annotated[int, arg(metavar="N")] = 256,
    source: Annotated[Literal["density", "depth"], arg(name="from")] = "density",
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    opacity: Annotated[float, arg(metavar="X")] = 0.5,
    min_part: Annotated[float, arg(metavar="X")] = 0.0,
    triangles: Annotated[int | None, optional("N")] = None,
    texture: Annotated[int | None, optional("SIZE")] = None,
    space: Literal["world", "capture"] = "world",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Export a run's field as a triangle mesh with coloured vertices or a texture: GLB, PLY or OBJ.

    A surface of the density is closed, unless it has a texture, which leaves out what no camera sees; matter that
    reaches the sides of the region of interest is cut there. In GLB files +Y is up, as the format wants, in others +Z.

    Args:
        run: run directory.
        output: the file; its ending .glb, .ply or .obj says which format.
        resolution: voxels along the longest side of the region of interest.
        source: find the surface in the density, or fuse the depth that the training cameras see.
        method: dual_contouring keeps the sharp edges and corners that marching_cubes bevels.
        opacity: of a density: the surface is where a voxel stops this much of the light.
        min_part: least share of all triangles that a connected part must have: 0.01 drops specks in the air.
        triangles: at most so many; none named: as many as are found, with a texture 200,000, or fewer if
            not so many fit. Up to 50,000 are laid out in charts that one can paint on.
        texture: texels along a side of a texture, such as 2048, in place of coloured vertices; needs xatlas.
        space: coordinates of the run's world, or of the capture.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export meshes").export_mesh(
        output,
        resolution=resolution,
        source=source,
        method=method,
        opacity=opacity,
        min_part=min_part,
        triangles=triangles,
        texture=texture,
        space=space,
        memory=memory,
    )
    files = ", ".join(shown(file) for file in (done.file, *done.beside))
    print(f"Wrote  {files}: {done.vertices:,} vertices, {done.faces:,} triangles, {done.bytes / 1e6:.1f} MB")
    return 0
