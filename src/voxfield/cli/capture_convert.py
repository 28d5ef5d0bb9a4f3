"""``voxfield capture convert``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield capture convert scans/kitchen captures/kitchen --images link"


def command(
    data: Annotated[Positional[Path], arg(metavar="DATA")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    images: Literal["copy", "link"] = "copy",
    subsets: Annotated[tuple[str, ...], arg(metavar="N|half ...")] = (),
    format: Annotated[str, arg(metavar="NAME")] = "auto",  # noqa: A002  (the option's name)
    eval_every: Annotated[int, arg(metavar="N")] = 8,
    allow_outside: bool = False,
) -> int:
    """Convert a capture of any layout to nerfstudio's transforms.json.

    The exit code is 1 when pictures had to be left out; they are named.

    For plain photographs or a video, without poses, see: voxfield capture process --help

    Args:
        data: folder of a capture, or the file that lists it.
        output: folder for transforms.json; pictures that lie outside it are put into its images.
        images: copy such pictures, or link them (hard links: no space, same file system).
        subsets: smaller files to write too: 300 gives transforms_300.json with as many pictures, half one with half.
        format: the capture's layout; auto looks at the files.
        eval_every: hold out every N-th picture where the capture has no lists of its own.
        allow_outside: let the capture name files outside its folder. Only for files you trust.
    """
    import voxfield
    from voxfield.storage.remote import shown

    conversion = voxfield.convert_capture(
        data,
        output,
        images=images,
        subsets=subsets,
        format=format,
        eval_every=eval_every,
        allow_outside=allow_outside,
    )
    counts = ", ".join(f"{count} {split}" for split, count in conversion.pictures.items())
    print(f"Read   {conversion.frames} pictures ({conversion.format}): {counts}")
    print(f"Wrote  {shown(conversion.file)}")
    for file, pictures in conversion.subsets.items():
        print(f"Wrote  {shown(file)}: {pictures} pictures")
    for item in conversion.left_out:
        print(f"Left out {item.path}: {item.reason}")
    return 1 if conversion.left_out else 0
