"""``voxfield view``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield view runs/lego"


def command(
    path: Annotated[Positional[Path], arg(metavar="PATH")],
    /,
    *,
    host: Annotated[str | None, optional("HOST")] = None,
    port: Annotated[int, arg(metavar="N")] = 7007,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    quiet: bool = False,
) -> int:
    """Show a run, a scene, a volume, a mesh or points in a browser: move around, crop, film, take screenshots.

    Only this machine can look, unless --host is given. From another one, without --host:
    ssh -L 7007:127.0.0.1:7007 THIS_MACHINE, then open http://127.0.0.1:7007 there.

    Args:
        path: run directory, scene's .json file, .vdb file, compressed volume, voxel dataset, .npy volume or points,
            mesh, points (.ply, .pcd, .xyz, .csv, .las, .laz, .npz), or a folder of such files.
        host: name or address of this machine's on which to listen, 0.0.0.0 for all: whoever has the URL that is printed
            can look.
        port: port of the page.
        device: auto, cpu, cuda, cuda:1, xpu or mps.
        quiet: no progress bar.
    """
    import voxfield

    with voxfield.view(path, host=host, port=port, device=device, quiet=quiet) as viewer:
        print(f"Viewing {path} at {viewer.url}  (Ctrl-C ends)", flush=True)
        viewer.wait()
    return 0
