"""``voxfield vdb stats``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield vdb stats smoke.vdb --json"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    json: bool = False,
) -> int:
    """Measure an OpenVDB file: sizes, active voxels, value ranges, memory of each grid.

    Args:
        file: a .vdb file, or a compressed volume.
        json: print JSON for other programs.
    """
    import voxfield
    from voxfield.cli.tables import format_nested

    information = voxfield.volume_info(file, values=True)
    if json:
        from json import dumps

        print(dumps(information, indent=2, ensure_ascii=False))
        return 0
    grids = information.pop("grids")
    print(format_nested({key: information[key] for key in ("file_size_mb", "num_grids", "total_active_voxels")}))
    shown = ("type", "active_voxels", "blocks", "tiles", "range", "memory_mb", "compression")
    for grid in grids:
        print(format_nested({grid["name"] or "(no name)": {key: grid[key] for key in shown if key in grid}}))
    return 0
