"""``voxfield export html``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield export html runs/lego-voxels --output lego.html"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    resolution: Annotated[int | None, optional("N")] = None,
    sh_degree: Annotated[int, arg(metavar="0-3")] = 2,
    min_opacity: Annotated[float, arg(metavar="X")] = 0.01,
    max_bytes: Annotated[str, arg(metavar="SIZE")] = "25MB",
    camera: Annotated[int, arg(metavar="N")] = 0,
    background: Annotated[str | None, optional("COLOUR")] = None,
    title: Annotated[str | None, optional("TEXT")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
) -> int:
    """Export a run's field as one HTML file that shows it in a browser, without a server.

    The file holds the field's voxels and draws them on the reader's GPU. A plenoxels run's grid is taken as it is; any
    other field is sampled, which bake does better: it trains the grid on the run's pictures too.

    Args:
        run: run directory.
        output: the .html file.
        resolution: voxels along the longest side; left out, a plenoxels run's own, else 256.
        sh_degree: highest band of the colours' harmonics; fewer where the file would be too large.
        min_opacity: least opacity of a voxel that is stored, of fields that are sampled.
        max_bytes: most that the file may take, such as 25MB.
        camera: the training camera that the page opens with, from 0.
        background: white, black, #rrggbb, r,g,b (0 to 1), or transparent; left out, the run's.
        title: of the page; left out, the run's name.
        memory: most memory, such as 8GB; what there is to spare if not given.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export pages").export_html(
        output,
        resolution=resolution,
        sh_degree=sh_degree,
        min_opacity=min_opacity,
        max_bytes=max_bytes,
        camera=camera,
        background=background,
        title=title,
        memory=memory,
        quiet=False,
    )
    file, size, megabytes = shown(done.file), " x ".join(map(str, done.resolution)), done.bytes / 1e6
    print(f"Wrote  {file}: {done.voxels:,} voxels of {size}, harmonics to {done.sh_degree}, {megabytes:.1f} MB")
    if done.left_out:
        print(f"Left out {done.left_out}, which the page does not show.")
    return 0
