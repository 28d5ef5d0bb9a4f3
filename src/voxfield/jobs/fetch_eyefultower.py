"""The Eyeful Tower data set, fetched and made ready to train on.

Its captures lie in a public bucket (https://github.com/facebookresearch/EyefulTower): per capture the cameras and a
folder of pictures for every resolution. What is chosen goes to ``<output>/<capture>``, laid out as it is there; each
folder of pictures then gets a ``transforms.json`` with its own calibration and lists, and smaller ones beside it.
Reconstructed meshes and the videos of each camera are left at the source.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voxfield.checks import nearest_names
from voxfield.data.formats.eyefultower import KRT_FILE, SPLITS_FILE, XML_FILE
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.atomic import write_json
from voxfield.storage.remote.fetch import Fetched, fetch
from voxfield.storage.remote.sources import FetchOptions, RemoteFile, Source
from voxfield.storage.remote.transfers import Display
from voxfield.storage.skipped import Skipped

SOURCE: Final = "s3://fb-baas-f32eacb9-8abb-11eb-b2b8-4857dd089e15/EyefulTower"
CAPTURES: Final = (
    "apartment",
    "kitchen",
    "office1a",
    "office1b",
    "office2",
    "office_view1",
    "office_view2",
    "riverview",
    "seating_area",
    "table",
    "workshop",
    "raf_emptyroom",
    "raf_furnishedroom",
)
"""The eleven captures of VR-NeRF and the two rooms of Real Acoustic Fields."""
RESOLUTIONS: Final[Mapping[str, str]] = {
    "jpeg_1k": "images-jpeg-1k",
    "jpeg_2k": "images-jpeg-2k",
    "jpeg_4k": "images-jpeg-4k",
    "jpeg_8k": "images-jpeg",
    "exr_1k": "images-1k",
    "exr_2k": "images-2k",
}
"""Folder of each resolution."""
ALL: Final = "all"
FAILURES_FILE: Final = "failures.json"

Prepare = Callable[[Path, bool], Sequence[Skipped]]
"""Makes a folder of pictures ready to train on, anew or only if it is not; returns pictures that could not be used."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """What a download did."""

    output: Path
    folders: tuple[Path, ...]
    """Folders of pictures that can be trained on, one for every capture and resolution."""
    fetched: int
    """Files that were fetched."""
    transferred: int
    """Bytes that came over the line."""
    present: int
    """Files that were there already."""
    failures: tuple[Skipped, ...]
    """What could not be had or used, with reasons; also in ``failures.json``."""


def download(
    captures: Sequence[str],
    resolutions: Sequence[str],
    output: Path,
    *,
    prepare: Prepare,
    display: Display,
    say: Callable[[str], None],
    source: str = SOURCE,
    options: FetchOptions | None = None,
) -> Download:
    """Fetch captures, and make them ready to train on.

    Args:
        captures: names of ``CAPTURES``, or ``all``.
        resolutions: names of ``RESOLUTIONS``, or ``all``.
        output: folder the captures' folders go to.
        prepare: called with each folder of pictures that is there, and whether something of it is new.
        display: shows the transfer.
        say: takes a line for the person who waits.
        source: where the captures are, see ``storage.remote.sources``.
        options: see ``FetchOptions``.

    Returns:
        What was done. A capture, resolution or file that cannot be had is a failure and does not keep the others.

    Raises:
        InputError: unknown names, nothing chosen, or no room on the disk.
        TransferError: the source cannot be reached. MissingExtraError: fsspec or s3fs is missing.
    """
    chosen_captures = _choose("capture_name", captures, CAPTURES)
    folders = [RESOLUTIONS[name] for name in _choose("resolution_name", resolutions, RESOLUTIONS)]
    # What is public is asked for as such: credentials for something else may be refused.
    remote = Source(source, dataclasses.replace(options or FetchOptions(), anonymous=True))
    files: list[RemoteFile] = []
    failures: list[Skipped] = []
    to_prepare: list[str] = []
    for capture in chosen_captures:
        say(f"Listing {capture}")
        calibration, absent = _calibration(remote, capture)
        failures += absent
        if not calibration:
            continue
        files += calibration
        for folder in folders:
            pictures, refused = _pictures(remote, capture, folder)
            failures += refused
            files += pictures
            if pictures:
                to_prepare.append(f"{capture}/{folder}")
    fetched = fetch(remote, files, output, display=display)
    failures += fetched.failures
    ready = []
    for name in to_prepare:
        try:
            failures += prepare(output / name, _is_new(name, fetched))
            ready.append(output / name)
        except (FormatError, MissingFileError) as error:
            failures.append(Skipped(path=str(output / name), reason=str(error)))
    _record(output, failures)
    return Download(
        output=output,
        folders=tuple(ready),
        fetched=len(fetched.files),
        transferred=fetched.transferred,
        present=fetched.present,
        failures=tuple(failures),
    )


def _choose(option: str, names: Sequence[str], known: Iterable[str]) -> list[str]:
    """The names, each once and in their own order; all known ones for ``all``."""
    known = list(known)
    if not names:
        raise InputError(f"{option}: name at least one. {nearest_names('', [*known, ALL])}")
    for name in names:
        if name not in (*known, ALL):
            raise InputError(f"{option}: unknown name {name!r}. {nearest_names(name, [*known, ALL])}")
    return [name for name in known if ALL in names or name in names]


def _calibration(remote: Source, capture: str) -> tuple[list[RemoteFile], list[Skipped]]:
    """The capture's cameras and lists; without cameras none at all, and why."""
    wanted = {f"{capture}/{name}" for name in (KRT_FILE, XML_FILE, SPLITS_FILE)}
    files, refused = remote.files(capture, wanted.__contains__, deep=False)
    if {f"{capture}/{KRT_FILE}", f"{capture}/{XML_FILE}"} & {file.name for file in files}:
        return files, refused
    there = ", ".join(remote.folders()[:20]) or "nothing"
    reason = f"no such capture there (expected {KRT_FILE} or {XML_FILE} in it). The source has: {there}."
    return [], [Skipped(path=f"{remote.url}/{capture}", reason=reason)]


def _pictures(remote: Source, capture: str, folder: str) -> tuple[list[RemoteFile], list[Skipped]]:
    """The pictures of a resolution: those in a camera's folder, which videos and pages beside them are not."""
    ending = ".jpg" if "jpeg" in folder else ".exr"
    files, refused = remote.files(
        f"{capture}/{folder}", lambda name: name.count("/") == 3 and name.lower().endswith(ending)
    )
    if not files:
        reason = f"no {ending} pictures there. The capture may not have this resolution."
        refused = [*refused, Skipped(path=f"{remote.url}/{capture}/{folder}", reason=reason)]
    return files, refused


def _is_new(name: str, fetched: Fetched) -> bool:
    """Whether pictures of a folder were fetched, or the cameras and lists of its capture."""
    capture = name.split("/", 1)[0]
    return any(
        file.startswith(f"{name}/") or (file.startswith(f"{capture}/") and file.count("/") == 1)
        for file in fetched.files
    )


def _record(output: Path, failures: Sequence[Skipped]) -> None:
    """``failures.json`` lists what could not be had or used; there is none when all is well."""
    file = output / FAILURES_FILE
    if failures:
        write_json(file, [dataclasses.asdict(item) for item in failures])
    else:
        file.unlink(missing_ok=True)
