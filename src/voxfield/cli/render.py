"""``voxfield render``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield render runs/lego --path orbit --seconds 6 --fps 30 --width 800 --height 800"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    path: Literal["orbit", "spiral", "interpolate", "dataset"] = "orbit",
    frames: Annotated[int | None, optional("N")] = None,
    height: Annotated[int | None, optional("PIXELS")] = None,
    width: Annotated[int | None, optional("PIXELS")] = None,
    fps: Annotated[float, arg(metavar="N")] = 24.0,
    seconds: Annotated[float | None, optional("S")] = None,
    output: Annotated[Path | None, optional("PATH")] = None,
    format: Literal["video", "images", "both", "exr"] = "both",  # noqa: A002  (the option's name)
    exposure: Annotated[float, arg(metavar="EV")] = 0.0,
    tone_map: Literal["none", "filmic"] = "none",
    quiet: bool = False,
) -> int:
    """Render a camera path through a run as a video or images.

    Args:
        run: run directory.
        path: orbit circles the subject, spiral also rises and approaches, interpolate flies through the photographs'
            positions, dataset renders the photographs' own views.
        frames: number of frames; --seconds times --fps when not given.
        height: picture height; the photographs' when not given, or in proportion to --width.
        width: picture width; the photographs' when not given, or in proportion to --height.
        fps: frames a second of the video.
        seconds: length of the video; 5 when neither this nor --frames is given.
        output: where to write; renders/PATH inside the run when not given.
        format: an MP4 video, PNG images, or both; or EXR images: linear light and depth.
        exposure: stops by which PNG images and videos are brightened (negative: darkened).
        tone_map: how they show what is brighter than white: none clips it, filmic rolls off.
        quiet: no progress bar.
    """
    import voxfield

    written = voxfield.open(run).render_path(
        path,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        seconds=seconds,
        output=output,
        format=format,
        exposure=exposure,
        tone_map=tone_map,
        quiet=quiet,
    )
    for file in written:
        print(f"Wrote  {file}")
    return 0
