"""``voxfield export pointcloud``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield export pointcloud runs/lego --output lego.ply --points 500000"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    points: Annotated[int, arg(metavar="N")] = 1_000_000,
    min_opacity: Annotated[float, arg(metavar="X")] = 0.5,
    space: Literal["world", "capture"] = "world",
    seed: Annotated[int, arg(metavar="N")] = 0,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Export a run's field as coloured points with normals: PLY.

    Points lie where rays through random pixels of the training cameras end, inside the region of interest.

    Args:
        run: run directory.
        output: the .ply file.
        points: how many.
        min_opacity: rays of which no more than this is stopped end nowhere, 0.5 to 0.999.
        space: coordinates of the run's world, or of the capture.
        seed: of the pixels that are looked through.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export points").export_pointcloud(
        output, points=points, min_opacity=min_opacity, space=space, seed=seed, memory=memory
    )
    print(f"Wrote  {shown(done.file)}: {done.vertices:,} points, {done.bytes / 1e6:.1f} MB")
    return 0
