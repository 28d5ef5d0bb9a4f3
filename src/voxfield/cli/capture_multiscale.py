"""``voxfield capture multiscale``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

EXAMPLE = "voxfield capture multiscale nerf_synthetic/lego multiscale/lego"


def command(
    data: Annotated[Positional[Path], arg(metavar="DATA")],
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")],
    /,
    *,
    scales: Annotated[tuple[int, ...], arg(metavar="N ...")] = (1, 2, 4, 8),
    near: Annotated[float, arg(metavar="T")] = 2.0,
    far: Annotated[float, arg(metavar="T")] = 6.0,
    quiet: bool = False,
) -> int:
    """Make the multi-scale Blender benchmark of mip-NeRF and PyNeRF from NeRF-synthetic data.

    Stopped, it continues when it is called again. To train on several scales of any capture without writing them:
    voxfield train RECIPE DATA --set capture.scales=1,2,4,8. The exit code is 1 when pictures had to be left out.

    Args:
        data: folder of NeRF-synthetic data.
        output: folder for metadata.json and the pictures.
        scales: factors that pictures are reduced by.
        near: distance from the cameras where the scene begins.
        far: distance where it ends.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.storage.remote import shown

    done = voxfield.make_multiscale(data, output, scales=scales, near=near, far=far, quiet=quiet)
    counts = ", ".join(f"{count} {split}" for split, count in done.images.items())
    print(f"Images {counts}, each at {len(scales)} scales")
    print(f"Wrote  {done.written} pictures; {done.present} were there already")
    print(f"Wrote  {shown(done.file)}")
    for item in done.left_out:
        print(f"Left out {item.path}: {item.reason}")
    return 1 if done.left_out else 0
