"""``voxfield dataset view``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield dataset view dataset --output contact-sheet.png"


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")] = Path("contact-sheet.png"),
    objects: Annotated[tuple[str, ...], arg(metavar="ID ...")] = (),
    count: Annotated[int, arg(metavar="N")] = 64,
    columns: Annotated[int, arg(metavar="N")] = 8,
    size: Annotated[int, arg(metavar="PIXELS")] = 160,
) -> int:
    """Write a contact sheet of a voxel dataset: one PNG with a picture of each object.

    Args:
        dataset: its folder.
        output: the PNG to write.
        objects: ids of the objects to show; --count of all, evenly chosen, when not given.
        count: how many objects to show.
        columns: pictures in a row.
        size: pixels along each side of a picture.
    """
    import voxfield
    from voxfield.storage.remote import shown

    written = voxfield.view_shapes(dataset, output, objects=objects, count=count, columns=columns, size=size)
    print(f"Wrote  {shown(written)}")
    return 0
