"""``voxfield view``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield view runs/lego"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    host: Annotated[str | None, optional("HOST")] = None,
    port: Annotated[int, arg(metavar="N")] = 7007,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    quiet: bool = False,
) -> int:
    """Show a run in a browser: move around it, see colour, depth, normals, crop it, take screenshots.

    Only this machine can look, unless --host is given. From another one, without --host:
    ssh -L 7007:127.0.0.1:7007 THIS_MACHINE, then open http://127.0.0.1:7007 there.

    Args:
        run: run directory.
        host: name or address of this machine's on which to listen, 0.0.0.0 for all: whoever has the URL that is printed
            can look.
        port: port of the page.
        device: auto, cpu, cuda, cuda:1, xpu or mps.
        quiet: no progress bar.
    """
    import voxfield

    with voxfield.view(run, host=host, port=port, device=device, quiet=quiet) as viewer:
        print(f"Viewing {run} at {viewer.url}  (Ctrl-C ends)", flush=True)
        viewer.wait()
    return 0
