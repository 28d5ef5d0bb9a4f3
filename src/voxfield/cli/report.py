"""``voxfield report``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield report runs/lego"


def command(run: Annotated[Positional[Path], arg(metavar="RUN")], /) -> int:
    """Write a run's report: one HTML file with curves, metrics and pictures.

    Works on a run that is still training, too.

    Args:
        run: run directory.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_run
    from voxfield.storage.remote import shown

    print(f"Wrote  {shown(require_run(voxfield.open(run), 'have reports').report())}")
    return 0
