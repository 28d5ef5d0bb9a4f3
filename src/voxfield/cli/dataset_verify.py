"""``voxfield dataset verify``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield dataset verify dataset"

_SHOWN = 20


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    /,
    *,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Verify a voxel dataset: checksums, names of blocks, lossless reassembly at every level, counts.

    The exit code is 1 when something is damaged; it is named.

    Args:
        dataset: its folder.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield

    checked = voxfield.verify_shapes(dataset, memory=memory, quiet=quiet)
    for item in checked.faults[:_SHOWN]:
        print(f"Damaged  {item.path}: {item.reason}")
    if len(checked.faults) > _SHOWN:
        print(f"Damaged  {len(checked.faults) - _SHOWN} more")
    if not checked.faults:
        print(f"{checked.objects} objects and {checked.blocks:,} different blocks are as they should be")
    return 1 if checked.faults else 0
