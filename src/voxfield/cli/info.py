"""``voxfield info``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield info runs/lego"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    json: bool = False,
) -> int:
    """Say what a run is: recipe, data, progress, results.

    Of a scene: its members and where they stand.

    Args:
        run: run directory, or a scene's .json file.
        json: print JSON for other programs.
    """
    import voxfield
    from voxfield.cli.tables import format_nested

    information = voxfield.open(run).info()
    if json:
        from json import dumps

        print(dumps(information, indent=2, ensure_ascii=False, default=str))
    else:
        print(format_nested(information))
    return 0
