"""``voxfield export cameras``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield export cameras runs/lego --output lego_cameras.json"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE")],
    split: Literal["train", "val", "test", "all"] = "all",
    space: Literal["world", "capture"] = "world",
) -> int:
    """Export a run's cameras, without pictures, as nerfstudio's transforms.json.

    Training cameras have the poses that training corrected them to. export nerfstudio writes the pictures too.

    Args:
        run: run directory.
        output: the .json file.
        split: whose cameras.
        space: poses in the run's world, where its meshes, points and volumes are, or in the capture's coordinates.
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export cameras").export_cameras(output, split=split, space=space)
    print(f"Wrote  {shown(done.file)}: {', '.join(f'{count} {name}' for name, count in done.cameras.items())}")
    return 0
