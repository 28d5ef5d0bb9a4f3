"""``voxfield capture download``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

EXAMPLE = "voxfield capture download eyefultower --capture-name riverview table"

MOST_SHOWN = 20
"""Failures that are printed; the file has them all."""


def command(
    dataset: Annotated[Positional[Literal["eyefultower"]], arg(metavar="eyefultower")],  # noqa: ARG001  (the parser checks it)
    /,
    *,
    capture_name: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("riverview",),
    resolution_name: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("jpeg_2k",),
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("eyefultower"),
    source: Annotated[str | None, arg(metavar="URL")] = None,
    endpoint_url: Annotated[str | None, arg(metavar="URL")] = None,
    transfers: Annotated[int, arg(metavar="N")] = 8,
    verify: bool = False,
    quiet: bool = False,
) -> int:
    """Download captures of a public data set, ready to train on.

    What is there is not downloaded again; what was cut is continued. Each folder of pictures gets a transforms.json,
    and transforms_300.json and transforms_half.json with some of them. The exit code is 1 when something could not be
    had; it is named, and listed in failures.json.

    Args:
        dataset: eyefultower.
        capture_name: captures, or all: apartment, kitchen, office1a, office1b, office2, office_view1, office_view2,
            riverview, seating_area, table, workshop, raf_emptyroom, raf_furnishedroom.
        resolution_name: resolutions, or all: jpeg_1k, jpeg_2k, jpeg_4k, jpeg_8k, exr_1k, exr_2k.
        output: folder for the captures' folders.
        source: where the captures are, in place of the public bucket: an s3://, https:// or file:// address.
        endpoint_url: server that speaks S3, in place of Amazon's.
        transfers: files downloaded at the same time.
        verify: compare the checksums of files that are there already, not only their sizes.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.jobs.fetch_eyefultower import FAILURES_FILE, SOURCE
    from voxfield.storage.remote import shown
    from voxfield.storage.remote.fetch import format_bytes
    from voxfield.storage.remote.sources import FetchOptions

    done = voxfield.download_eyefultower(
        capture_name,
        resolution_name,
        output=output,
        source=source or SOURCE,
        options=FetchOptions(endpoint_url=endpoint_url, transfers=transfers, verify=verify),
        quiet=quiet,
    )
    if done.fetched:
        print(f"Downloaded {done.fetched} files ({format_bytes(done.transferred)}); {done.present} were there already.")
    elif not done.failures:
        print(f"Nothing to download: all {done.present} files are there.")
    for folder in done.folders:
        print(f"Ready      {shown(folder)}")
    for item in done.failures[:MOST_SHOWN]:
        print(f"Failed     {item.path}: {item.reason}")
    if len(done.failures) > MOST_SHOWN:
        print(f"Failed     {len(done.failures) - MOST_SHOWN} more: see {output / FAILURES_FILE}")
    return 1 if done.failures else 0
