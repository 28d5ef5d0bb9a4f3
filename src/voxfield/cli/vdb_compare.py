"""``voxfield vdb compare``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb compare smoke.vdb smoke.vxv"


def command(
    first: Annotated[Positional[Path], arg(metavar="FIRST")],
    second: Annotated[Positional[Path], arg(metavar="SECOND")],
    /,
    *,
    grid: Annotated[str | None, optional("NAME")] = None,
    level: Annotated[float | None, optional("X")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Say how far a volume is from another: its values, and the shape that they show.

    Volumes of other voxels are compared at those of the finer one, between which the coarser is interpolated.

    Args:
        first: a .vdb file, or a compressed volume: the truth.
        second: the other.
        grid: which grid of both; density, else the only one of numbers.
        level: values of at least this are inside; of each its own when not given, as voxfield vdb mesh has it.
        memory: most memory, such as 8GB; what there is to spare if not given.
        json: print JSON for other programs.
        quiet: do not say that much memory is needed.
    """
    import dataclasses

    import voxfield
    from voxfield.cli.tables import format_nested

    compared = voxfield.compare_volumes(first, second, name=grid, level=level, memory=memory, quiet=quiet)
    found = dataclasses.asdict(compared)
    if json:
        from json import dumps

        print(dumps(found, indent=2))
        return 0
    first_voxels, second_voxels = found.pop("voxels")
    found["compared"] = f"{found['compared']:,}"
    print(format_nested({"active_voxels": f"{first_voxels:,} and {second_voxels:,}", **found}))
    return 0
