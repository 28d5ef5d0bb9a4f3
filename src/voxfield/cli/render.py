"""``voxfield render``."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

RigKind = Literal["perspective", "fisheye", "equirectangular", "vr180", "ods"]

EXAMPLE = "voxfield render runs/lego --path orbit --seconds 6 --fps 30 --width 800 --height 800"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN|SCENE.json")],
    /,
    *,
    path: Annotated[str, arg(metavar="PATH")] = "orbit",
    camera: Annotated[RigKind | None, optional("KIND")] = None,
    eye_distance: Annotated[float | None, optional("UNITS")] = None,
    frames: Annotated[int | None, optional("N")] = None,
    height: Annotated[int | None, optional("PIXELS")] = None,
    width: Annotated[int | None, optional("PIXELS")] = None,
    fps: Annotated[float | None, optional("N")] = None,
    seconds: Annotated[float | None, optional("S")] = None,
    output: Annotated[Path | None, optional("PATH")] = None,
    format: Literal["video", "images", "both", "exr"] = "both",  # noqa: A002  (the option's name)
    exposure: Annotated[float, arg(metavar="EV")] = 0.0,
    tone_map: Literal["none", "filmic"] = "none",
    split: Literal["test", "val", "train"] = "test",
    beside: Annotated[Path | None, optional("RUN")] = None,
    volume: Annotated[Path | None, optional("FILE.vdb")] = None,
    save_depth: bool = False,
    compute_metrics: bool = False,
    chunk_size: Annotated[int | None, optional("RAYS")] = None,
    executor: Literal["local", "dask"] = "local",
    scheduler: Annotated[str | None, optional("ADDRESS")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Render a camera path through a run as a video or images.

    Of a scene (a JSON file that names several runs and volumes): all of them together.

    Of raynet: pictures of shapes by the network beside the traced truth; of these options --frames (views of each),
    --width, --output, --split and --quiet.

    Args:
        run: run directory, or a scene's .json file.
        path: orbit circles the subject, spiral also rises and approaches, interpolate flies through the photographs'
            positions, zoom goes away until pixels are eight times as wide and comes back (out of doors and in rooms it
            narrows the view instead), dataset renders the photographs' own views. Or the JSON file of a camera path, as
            the viewer, nerfstudio and its Blender add-on write them.
        camera: perspective; fisheye (180 degrees); equirectangular (360 degrees); or in stereo for headsets vr180 or
            ods (360 degrees). MP4 files of panoramas tell headsets what they are. As the path's file says when not
            given.
        eye_distance: distance of the two eyes, world units; a thirtieth of the way to the scene's middle when not
            given.
        frames: number of frames; --seconds times --fps when not given.
        height: picture height; the photographs' when not given, or in proportion to --width.
        width: picture width; the photographs' when not given, or in proportion to --height.
        fps: frames a second of the video; 24, or as the path's file says, when not given.
        seconds: length of the video; 5 when neither this nor --frames is given.
        output: where to write; renders/PATH inside the run when not given.
        format: an MP4 video, PNG images, or both; or EXR images: linear light and depth.
        exposure: stops by which PNG images and videos are brightened (negative: darkened).
        tone_map: how they show what is brighter than white: none clips it, filmic rolls off.
        split: whose photographs' views --path dataset renders.
        beside: another run of the same capture, shown to the right of this one in the same pictures.
        volume: show this voxel grid in place of the run's own, of plenoxels: one that was made coarser, thinned, or
            compressed and unpacked.
        save_depth: also write each frame's depth, as numbers (.npy, world units) and as a picture.
        compute_metrics: with --path dataset, also measure the split, as voxfield eval does.
        chunk_size: rays looked at together; fewer take less memory.
        executor: this process, or the workers of a Dask cluster.
        scheduler: of Dask: tcp://HOST:8786, or the file that it wrote.
        memory: most memory, such as 8GB: fewer rays are looked at together where they do not fit; what there is to
            spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.cli.eval import print_metrics
    from voxfield.cli.run_kinds import refuse_photographic, require_photographs
    from voxfield.errors import InputError
    from voxfield.storage.remote import shown

    if compute_metrics and path != "dataset":
        raise InputError("--compute-metrics: only --path dataset has photographs to compare with.")
    opened = voxfield.open(run)
    if isinstance(opened, voxfield.ShapeRun):
        photographic = {
            "--path": path != "orbit",
            "--camera": camera,
            "--eye-distance": eye_distance,
            "--height": height,
            "--fps": fps,
            "--seconds": seconds,
            "--format": format != "both",
            "--exposure": exposure,
            "--tone-map": tone_map != "none",
            "--beside": beside,
            "--volume": volume,
            "--save-depth": save_depth,
            "--chunk-size": chunk_size,
            "--executor": executor != "local",
            "--scheduler": scheduler,
            "--memory": memory,
        }
        refuse_photographic(opened, photographic)
        pictures = opened.render_shapes(split=split, views=frames or 1, size=width or 256, output=output, quiet=quiet)
        for file in pictures:
            print(f"Wrote  {shown(file)}")
        return 0
    options: dict[str, Any] = {}
    if isinstance(opened, voxfield.Scene):
        if beside is not None or compute_metrics or volume is not None:
            raise InputError("--beside, --compute-metrics, --volume: for runs, and this is a scene. Leave them out.")
    else:
        opened, options["beside"] = require_photographs(opened, "render camera paths"), beside
        opened = opened if volume is None else opened.with_volume(volume)
    written = opened.render_path(
        path,
        camera=camera,
        eye_distance=eye_distance,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        seconds=seconds,
        output=output,
        format=format,
        exposure=exposure,
        tone_map=tone_map,
        split=split,
        save_depth=save_depth,
        chunk_size=chunk_size,
        executor=executor,
        scheduler=scheduler,
        memory=memory,
        quiet=quiet,
        **options,
    )
    for file in written:
        print(f"Wrote  {shown(file)}")
    if compute_metrics and isinstance(opened, voxfield.Run):
        measured = split if volume is None else f"{split}-{volume.stem}"
        metrics = opened.evaluate(split=split, executor=executor, scheduler=scheduler, quiet=quiet)
        return print_metrics(opened.path, measured, metrics)
    return 0
