"""``voxfield export nerfstudio``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield export nerfstudio runs/lego exports/lego"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    images: Literal["copy", "link"] = "copy",
) -> int:
    """Export a run's cameras and pictures for nerfstudio, and its weights as safetensors.

    nerfstudio loads the cameras and pictures: ns-train nerfacto --data OUTPUT. It does not load the weights: its
    fields are laid out in another way. weights.json says what each tensor is. The exit code is 1 when pictures had to
    be left out; they are named.

    Args:
        run: run directory.
        output: folder for transforms.json, the pictures, weights.safetensors, weights.json and world.json.
        images: copy the pictures, or link them (hard links: no space, same file system).
    """
    import voxfield
    from voxfield.cli.run_kinds import require_photographs
    from voxfield.storage.remote import shown

    done = require_photographs(voxfield.open(run), "export cameras").export_nerfstudio(output, images=images)
    counts = ", ".join(f"{count} {split}" for split, count in done.capture.pictures.items())
    print(f"Wrote  {shown(done.capture.file)}: {counts}")
    print(f"Wrote  {shown(done.weights.file)}: {done.weights.tensors} tensors, {done.weights.bytes / 1e6:.1f} MB")
    print(f"Wrote  {done.weights.listing}")
    print(f"Wrote  {done.world}")
    for item in done.capture.left_out:
        print(f"Left out {item.path}: {item.reason}")
    return 1 if done.capture.left_out else 0
