"""``voxfield vdb info``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield vdb info smoke.vdb"


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    *,
    json: bool = False,
    values: bool = False,
    slice: Annotated[Literal["x", "y", "z"] | None, optional("x|y|z")] = None,  # noqa: A002  (the option's name)
    at: Annotated[int | None, optional("N")] = None,
    grid: Annotated[str | None, optional("NAME")] = None,
    png: Annotated[Path | None, optional("FILE.png")] = None,
) -> int:
    """Say what an OpenVDB file holds: grids, types, bounds, transforms, values, compression.

    Ranges of values are read where the grids take at most 256 MB in memory; of larger ones with --values.

    Args:
        file: a .vdb file, or a compressed volume.
        json: print JSON for other programs.
        values: read every value, however large the file is.
        slice: also show a slice across this axis, as characters.
        at: voxel coordinate of the slice; the middle if left out.
        grid: the one to show; the first if left out.
        png: write the slice as a picture too.
    """
    import voxfield
    from voxfield.cli.tables import format_slice, format_volume

    information = voxfield.volume_info(file, values=True if values else None)
    if json:
        from json import dumps

        print(dumps(information, indent=2, ensure_ascii=False))
    else:
        print(format_volume(information))
    if slice is not None or png is not None:
        shown = voxfield.slice_volume(file, grid, axis=slice or "z", at=at, longest=512 if png else 40, png=png)
        if not json:
            print(f"\nWrote  {png}" if png is not None else "\n" + format_slice(shown))
    return 0
