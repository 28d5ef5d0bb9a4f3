"""``voxfield voxelise``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield voxelise bunny.ply bunny.vdb --resolution 256"


def command(
    mesh: Annotated[Positional[Path], arg(metavar="MESH")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    resolution: Annotated[int, arg(metavar="N")] = 128,
    coverage: Literal["conservative", "solid", "surface"] = "conservative",
    inside: Literal["parity", "winding"] = "parity",
    normals: bool = False,
    colours: bool = False,
    compression: Literal["blosc", "zip", "none"] = "blosc",
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Fill the voxels of one mesh: an OpenVDB volume that stands where the mesh does.

    Many meshes for training: voxfield dataset build.

    Args:
        mesh: a mesh: PLY, OBJ, STL, OFF, GLB, glTF, 3MF, or a ZIP with one.
        output: the .vdb file to write.
        resolution: voxels along the longest side, at most 1024.
        coverage: surface: voxels that a triangle touches; solid: whose centre lies inside; conservative: both.
        inside: parity does not mind faces turned the wrong way, winding fills overlapping parts.
        normals: also write the grid normal: directions of the surface nearest to each voxel that it touches.
        colours: also write the grid colour: those of the mesh's vertices, faces or textures there.
        compression: blosc as OpenVDB and Blender write, zip for smaller files, or none.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield

    grid = voxfield.voxelise_mesh(
        mesh,
        output,
        resolution=resolution,
        coverage=coverage,
        inside=inside,
        normals=normals,
        colours=colours,
        compression=compression,
        memory=memory,
        quiet=False,
    )
    print(f"Wrote  {output}: {grid.name} ({grid.volume.active_count:,} active)")
    return 0
