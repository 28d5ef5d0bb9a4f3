"""``voxfield export blender``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield export blender runs/lego --output lego.py --path orbit --blender blender"


def command(
    source: Annotated[Positional[Path], arg(metavar="RUN|SCENE.json")],
    /,
    *,
    output: Annotated[Path, arg(metavar="FILE.py")],
    form: Literal["volume", "mesh"] = "volume",
    resolution: Annotated[int | None, optional("N")] = None,
    cameras: Literal["train", "val", "test", "none"] = "train",
    path: Annotated[str, arg(metavar="PATH")] = "orbit",
    frames: Annotated[int | None, optional("N")] = None,
    height: Annotated[int | None, optional("PIXELS")] = None,
    width: Annotated[int | None, optional("PIXELS")] = None,
    fps: Annotated[float | None, optional("N")] = None,
    seconds: Annotated[float | None, optional("S")] = None,
    blender: Annotated[Path | None, optional("PROGRAM")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Export a run or a scene for Blender: a script that builds volumes or meshes, and cameras.

    Any Blender from 4.2 on runs the script: blender --background --python FILE.py -- --save FILE.blend, or its text
    editor. It also writes a camera that was animated in Blender as a camera path: -- --camera-path FILE.json.

    Args:
        source: run directory, or a scene's .json file.
        output: the script; what it names lies in a folder beside it.
        form: fields as OpenVDB volumes with a material, or as meshes with coloured vertices.
        resolution: voxels along a field's longest side; 256, or those of a plenoxels run's grid, when not given.
        cameras: whose cameras are drawn.
        path: what the camera that renders does, as in voxfield render: orbit, spiral, interpolate, zoom, dataset, or
            the JSON file of a camera path; none for no such camera.
        frames: number of frames; --seconds times --fps when not given.
        height: picture height; the photographs' when not given, or in proportion to --width.
        width: picture width; the photographs' when not given, or in proportion to --height.
        fps: frames a second; 24, or as the path's file says, when not given.
        seconds: length of the path; 5 when neither this nor --frames is given.
        blender: Blender's program, or a Python that has the module bpy: also makes FILE.blend.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.storage.remote import shown

    done = voxfield.export_blender(
        source,
        output,
        form=form,
        resolution=resolution,
        cameras=cameras,
        path=None if path == "none" else path,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        seconds=seconds,
        blender=blender,
        memory=memory,
        quiet=quiet,
    )
    for file in done.files:
        print(f"Wrote  {shown(file)}: {file.stat().st_size / 1e6:.1f} MB")
    print(f"Wrote  {shown(done.script)}: {done.cameras} cameras, {done.frames} frames")
    if done.blend is not None:
        print(f"Wrote  {shown(done.blend)}")
    for sentence in done.left_out:
        print(f"Left out: {sentence[0].lower()}{sentence[1:]}")
    return 0
