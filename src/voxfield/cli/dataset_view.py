"""``voxfield dataset view``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield dataset view dataset --output contact-sheet.png"


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")] = Path("contact-sheet.png"),
    turntable: Annotated[Path | None, optional("DIR|FILE.mp4")] = None,
    browser: bool = False,
    objects: Annotated[tuple[str, ...], arg(metavar="ID ...")] = (),
    count: Annotated[int, arg(metavar="N")] = 64,
    columns: Annotated[int, arg(metavar="N")] = 8,
    size: Annotated[int, arg(metavar="PIXELS")] = 160,
    frames: Annotated[int, arg(metavar="N")] = 48,
    quiet: bool = False,
) -> int:
    """Write a contact sheet of a voxel dataset: one PNG with a picture of each object.

    With --turntable the objects turn, and with --browser they are shown in the browser, as voxfield view DATASET does.

    Args:
        dataset: its folder.
        output: the PNG to write.
        turntable: instead, write objects that turn once in two seconds: a video of all side by side, or a folder with a
            GIF of each.
        browser: instead, show the objects in the browser until Ctrl-C.
        objects: ids of the objects to show; --count of all, evenly chosen, when not given.
        count: how many objects to show.
        columns: pictures in a row.
        size: pixels along each side of a picture.
        frames: pictures of a turn.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.storage.remote import shown

    if browser:
        from voxfield.cli.view import command as view

        return view(dataset, quiet=quiet)
    written = voxfield.view_shapes(
        dataset,
        output if turntable is None else turntable,
        objects=objects,
        count=count,
        columns=columns,
        size=size,
        turntable=turntable is not None,
        frames=frames,
        quiet=quiet,
    )
    print(f"Wrote  {shown(written)}")
    return 0
