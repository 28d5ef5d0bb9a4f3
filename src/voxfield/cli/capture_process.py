"""``voxfield capture process``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional
from voxfield.cli.tables import format_table

if TYPE_CHECKING:
    from voxfield.jobs.process_report import ProcessedPhotos

EXAMPLE = "voxfield capture process images holiday/statue --output captures/statue"

_NAMED = 10
"""Pictures named in a line; process.json has all."""


def command(
    kind: Annotated[Positional[Literal["images", "video"]], arg(metavar="images|video")],
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    /,
    *,
    output: Annotated[Path, arg(metavar="DIR")],
    frames: Annotated[int, arg(metavar="N")] = 150,
    drop_blurred: bool = False,
    camera_model: Annotated[
        Literal[
            "SIMPLE_PINHOLE",
            "PINHOLE",
            "SIMPLE_RADIAL",
            "RADIAL",
            "OPENCV",
            "OPENCV_FISHEYE",
            "SIMPLE_RADIAL_FISHEYE",
            "RADIAL_FISHEYE",
        ],
        arg(metavar="NAME"),
    ] = "OPENCV",
    cameras: Literal["shared", "own"] = "shared",
    matching: Literal["auto", "exhaustive", "sequential"] = "auto",
    max_size: Annotated[int, arg(metavar="PIXELS")] = 1600,
    features: Annotated[int, arg(metavar="N")] = 4096,
    reduced: Annotated[int, arg(metavar="N")] = 0,
    eval_every: Annotated[int, arg(metavar="N")] = 8,
    seed: int = 42,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Make a capture with poses from plain photographs or a video, with COLMAP, on the CPU.

    Run again with the same output it continues, and does again only what has changed. The exit code is 1 when pictures
    could not be read or placed; they are named.

    Args:
        kind: what SOURCE is.
        source: folder of photographs (subfolders included), or a video file.
        output: folder of the capture: a new or empty one, or one that an earlier call made.
        frames: frames taken of a video, spread evenly in time, the sharpest of each window.
        drop_blurred: leave out pictures much less sharp than the median; they are named either way.
        camera_model: COLMAP's lens model (OPENCV, OPENCV_FISHEYE, SIMPLE_RADIAL, PINHOLE, ...).
        cameras: shared by all pictures of one size and EXIF focal length, or each picture its own.
        matching: compare all pairs, or neighbours in order of time or name and evenly spread ones with one another;
            auto: sequential for a video and for more than 200 photographs.
        max_size: longest side at which features are looked for.
        features: most features of a picture; matching takes time with its square.
        reduced: also write copies reduced by 2, 4, ... 2^N into images_2, images_4, ...
        eval_every: hold out every N-th picture.
        seed: of every random choice.
        memory: most memory, such as 8GB: features are looked for in fewer pictures at a time; what there is to spare
            if not given.
        quiet: no progress bar.
    """
    import voxfield

    processed = voxfield.process_photos(
        source,
        output,
        kind=kind,
        frames=frames,
        drop_blurred=drop_blurred,
        camera_model=camera_model,
        cameras=cameras,
        matching=matching,
        max_size=max_size,
        features=features,
        reduced=reduced,
        eval_every=eval_every,
        seed=seed,
        memory=memory,
        quiet=quiet,
    )
    print(_summary(processed))
    return 0 if processed.complete else 1


def _summary(processed: "ProcessedPhotos") -> str:
    from voxfield.storage.remote import shown

    lens = processed.cameras[0]
    focal = lens["parameters"][0] / lens["size"][0]
    count = len(processed.registered)
    others = ", ".join(map(str, processed.models[1:]))
    rows = [
        ("pictures placed", f"{count} of {count + len(processed.unregistered)}"),
        ("other, smaller reconstructions, not kept", f"of {others} pictures" if others else "none"),
        ("points", f"{processed.points:,}"),
        ("mean reprojection error", f"{processed.reprojection_error:.2f} pixels"),
        ("cameras", f"{len(processed.cameras)}, {lens['model']}"),
        ("focal length", f"{focal:.3f} of the width{', from EXIF at first' if processed.focal_from_exif else ''}"),
        ("matching", processed.matching),
    ]
    lines = [format_table(rows[0], rows[1:])]
    if processed.unregistered:
        lines.append(f"Not placed: {_some(processed.unregistered)}")
    if processed.blurred:
        what = "Blurred and left out" if processed.dropped else "Blurred (--drop-blurred leaves them out)"
        shares = [f"{name} ({share:.0%} of the median)" for name, share in processed.blurred.items()]
        lines.append(f"{what}: {_some(shares)}")
    lines += [f"Left out {item.path}: {item.reason}" for item in processed.skipped]
    transforms, report = (shown(processed.output / name) for name in ("transforms.json", "process.json"))
    lines.append(f"Wrote {transforms}; the rest is in {report}")
    return "\n".join(lines)


def _some(names: "tuple[str, ...] | list[str]") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
