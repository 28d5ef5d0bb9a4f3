"""Making captures: converting, downloading and processing photographs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from voxfield.api.places import anywhere
from voxfield.checks import check_choice
from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import open_capture
from voxfield.export import multiscale, nerfstudio
from voxfield.jobs import fetch_eyefultower
from voxfield.jobs import process_photos as photos
from voxfield.jobs.process_report import ProcessedPhotos
from voxfield.storage.remote.sources import FetchOptions
from voxfield.storage.skipped import Skipped
from voxfield.training.progress import Progress


@anywhere("data", folder="output")
def convert_capture(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: nerfstudio.Placement = "copy",
    subsets: Sequence[str] = (),
    format: str = "auto",  # noqa: A002  (the option's name)
    eval_every: int = 8,
    allow_outside: bool = False,
) -> nerfstudio.Conversion:
    """Write a capture of any layout as nerfstudio's ``transforms.json``.

    Args:
        data: a capture's folder, or the file that lists it.
        output: folder of the new capture; may be the capture's own. Pictures inside it are referenced where they are.
        images: ``copy`` pictures outside ``output`` into its ``images``, or ``link`` them (hard links).
        subsets: smaller files to write beside it: ``"half"``, or a number of pictures such as ``"300"``.
        format: the capture's layout; ``auto`` looks at the files.
        eval_every: every so many-th picture (>= 2) is held out where the capture has no lists of its own.
        allow_outside: let the capture name files outside its folder. Only for files you trust.

    Returns:
        What was written; ``left_out`` says which pictures could not be used, and why.

    Raises:
        InputError: unknown options, or ``output`` holds such files already.
        MissingFileError, FormatError: a capture that is absent or cannot be read.
    """
    options = CaptureOptions(format=cast(Any, format), eval_every=eval_every, allow_outside=allow_outside)
    return nerfstudio.convert_capture(data, output, images=images, subsets=subsets, options=options)


@anywhere("data", folder="output")
def make_multiscale(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scales: Sequence[int] = (1, 2, 4, 8),
    near: float = 2.0,
    far: float = 6.0,
    quiet: bool = False,
) -> multiscale.MultiScale:
    """Make the multi-scale Blender benchmark of mip-NeRF and PyNeRF from NeRF-synthetic data.

    Stopped, it continues when it is called again. Any capture can be trained on at several scales without it, with
    ``capture.scales``.

    Args:
        data: folder of NeRF-synthetic data.
        output: folder for ``metadata.json`` and the pictures: new, empty, or from an earlier call.
        scales: whole factors, rising, that divide the pictures.
        near: where rays begin to be sampled, world units: the benchmark's own.
        far: where they end.
        quiet: no progress bar.

    Returns:
        What was written; ``left_out`` says which pictures could not be used, and why.

    Raises:
        InputError: scales or distances that do not fit, or an ``output`` made of something else.
        MissingFileError, FormatError: data that is absent or cannot be read.
    """
    with Progress(quiet=quiet) as progress:
        return multiscale.write_multiscale(data, output, scales=scales, near=near, far=far, stage=progress.stage)


@anywhere(folder="output")
def download_eyefultower(
    capture_names: Sequence[str] = ("riverview",),
    resolution_names: Sequence[str] = ("jpeg_2k",),
    *,
    output: str | os.PathLike[str] = "eyefultower",
    source: str = fetch_eyefultower.SOURCE,
    options: FetchOptions | None = None,
    quiet: bool = False,
) -> fetch_eyefultower.Download:
    """Fetch captures of the Eyeful Tower data set, each resolution with its ``transforms.json`` and smaller ones.

    What is there is not fetched again, what was cut is continued. Such files are made anew when pictures arrive.

    Args:
        capture_names: of ``jobs.fetch_eyefultower.CAPTURES``, or ``all``.
        resolution_names: of ``jobs.fetch_eyefultower.RESOLUTIONS``, or ``all``.
        output: folder for the captures' folders.
        source: where the captures are: an s3://, https:// or file:// address.
        options: transfers at a time, attempts, another S3 server, checking of what is there.
        quiet: no progress bar.

    Returns:
        What was done; ``failures`` says what could not be had or used (also in ``failures.json``).

    Raises:
        InputError: unknown names, or no room on the disk. TransferError: the source cannot be reached.
        MissingExtraError: fsspec or s3fs is missing.
    """
    with Progress(quiet=quiet) as progress:
        return fetch_eyefultower.download(
            capture_names,
            resolution_names,
            Path(output),
            prepare=_prepare_folder,
            display=progress.transfer,
            say=progress.say,
            source=source,
            options=options,
        )


def _prepare_folder(folder: Path, is_new: bool) -> Sequence[Skipped]:
    """Write the transforms files of an Eyeful Tower capture's folder of pictures, unless all is as it was."""
    subsets = ("300", nerfstudio.HALF)
    names = ("transforms.json", *(f"transforms_{name}.json" for name in subsets))
    options = CaptureOptions(format="eyefultower")
    if not is_new and all((folder / name).is_file() for name in names):
        # Pictures that were not to be had are still missing, and must not be forgotten.
        return open_capture(folder, split="train", options=options).missing
    return nerfstudio.convert_capture(folder, folder, subsets=subsets, overwrite=True, options=options).left_out


@anywhere("source", folder="output")
def process_photos(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    kind: Literal["auto", "images", "video"] = "auto",
    frames: int = 150,
    drop_blurred: bool = False,
    camera_model: photos.CameraModelName = "OPENCV",
    cameras: Literal["shared", "own"] = "shared",
    matching: Literal["auto", "exhaustive", "sequential"] = "auto",
    max_size: int = 1600,
    features: int = 4096,
    reduced: int = 0,
    eval_every: int = 8,
    seed: int = 42,
    memory: int | str | None = None,
    quiet: bool = False,
) -> ProcessedPhotos:
    """Make a capture with poses from plain photographs or a video, with COLMAP, on the CPU.

    Called again with the same ``output`` it continues, and does again only what has changed.

    Args:
        source: folder of photographs (subfolders included), or a video file.
        output: folder of the capture: new, empty, or from an earlier call. Holds ``images``, ``sparse/0`` (COLMAP's
            model), ``transforms.json`` and the report ``process.json``.
        kind: what ``source`` must be; ``auto`` looks.
        frames: how many frames to take of a video, spread evenly in time, the sharpest of each window (3 to 10,000).
        drop_blurred: leave out pictures much less sharp than the median; they are named either way.
        camera_model: COLMAP's name of the lens model.
        cameras: ``shared`` by all pictures of one size and EXIF focal length, or each picture its ``own``.
        matching: compare all pairs (``exhaustive``), or neighbours in order of time or name and evenly spread ones with
            one another (``sequential``); ``auto``: sequential for a video and more than 200 photographs.
        max_size: longest side, in pixels, at which features are looked for.
        features: most features of a picture; matching takes time with its square.
        reduced: also write copies reduced by 2, 4, ... 2^``reduced`` into ``images_2``, ``images_4``, ...
        eval_every: hold out every so many-th picture (>= 2).
        seed: of every random choice.
        memory: most memory, in bytes or as ``"8GB"``: features are looked for in fewer pictures at a time; what there
            is to spare if None.
        quiet: no progress bar.

    Returns:
        What became of every picture; ``complete`` says whether all were placed.

    Raises:
        InputError: bad settings; ``output`` holds other files or lies in ``source``; too few pictures, or none that
            overlap enough.
        MissingFileError, FormatError: ``source`` is absent or cannot be read.
        MissingExtraError: pycolmap (extra ``photos``) or, for a video, PyAV (``video``) is missing.
    """
    check_choice("kind", kind, ("auto", "images", "video"))
    settings = photos.PhotoSettings(
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
    )
    if kind == "auto":
        kind = "video" if Path(source).is_file() else "images"

    def write_capture(folder: Path, every: int) -> Sequence[Skipped]:
        options = CaptureOptions(format="colmap", eval_every=every)
        return nerfstudio.convert_capture(folder, folder, options=options).left_out

    with Progress(quiet=quiet) as progress:
        return photos.process_photos(
            Path(source),
            Path(output),
            kind=kind,
            settings=settings,
            write_capture=write_capture,
            progress=progress,
            memory=memory,
        )
