"""``voxfield vdb info``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield vdb info smoke.vdb"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    json: bool = False,
) -> int:
    """Say what an OpenVDB file holds: grids, types, bounds, transforms, compression.

    Values are not read, however large the file is; see: voxfield vdb stats --help

    Args:
        file: a .vdb file.
        json: print JSON for other programs.
    """
    import voxfield
    from voxfield.cli.tables import format_volume

    information = voxfield.volume_info(file)
    if json:
        from json import dumps

        print(dumps(information, indent=2, ensure_ascii=False))
    else:
        print(format_volume(information))
    return 0
