"""Volumes compressed within a stated error: making, opening and unpacking them."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from voxfield.api.places import anywhere
from voxfield.api.volume_memory import check_volumes
from voxfield.errors import InputError
from voxfield.storage.compressed import (
    CompressedFile,
    CompressedGridReport,
    CompressionConfig,
    write_compressed,
)
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.volume_files import VolumeFile, open_volume_file
from voxfield.training.progress import Progress

_PACKED: Final = 1.0
"""Bytes of what is packed, or unpacked, for each of a volume. Measured."""


@anywhere("source", "warm_start", output="output")
def compress_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: CompressionConfig,
    *,
    names: Sequence[str] = (),
    warm_start: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[CompressedGridReport]:
    """Compress grids of an OpenVDB file within a stated error.

    Args:
        source: a ``.vdb`` file, or a compressed one, whose grids are compressed as they decode.
        output: the file to write.
        config: codec and error.
        names: grids to keep; all where empty.
        warm_start: of the codec neural, a compressed volume whose networks training starts from, where they have the
            grid's name and box: the frame before of an animation.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: show no progress.

    Returns:
        What became of each grid: sizes and errors.

    Raises:
        MissingFileError, FormatError, MissingExtraError: as `read_volume`.
        InputError: names that are absent, ``warm_start`` of another codec, or an output that is named as an OpenVDB
            file, which it would not be.
    """
    if warm_start is not None and config.codec != "neural":
        raise InputError(
            f"warm_start: the codec {config.codec} has no networks. Set codec=neural (--codec neural), or leave it out."
        )
    if Path(output).suffix.lower() in {".vdb", ".nvdb"}:
        raise InputError(f"{output}: a compressed volume is no OpenVDB file. Name one that ends otherwise, in .vxv.")
    check_volumes([source], memory, quiet=quiet, names=names, made=_PACKED, kernels=True)
    file = open_volumes(source)
    grids = [file.read(one) for one in (names or file.grids)]
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=quiet))
        advance = _Stages(progress, stack)
        previous = None if warm_start is None else CompressedFile(warm_start).networks()
        if previous == {}:
            progress.say(f"{warm_start} has no networks, as its grids are quantised: training starts afresh.")
        return write_compressed(output, grids, config, metadata=file.metadata, previous=previous, advance=advance)


@anywhere("source", output="output")
def decompress_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    lower: Sequence[int] | None = None,
    upper: Sequence[int] | None = None,
    compression: Compression = "blosc",
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[VdbGrid]:
    """Write grids of a compressed volume as an OpenVDB file.

    Args:
        source: what `compress_volume` wrote.
        output: the ``.vdb`` file to write.
        names: grids to keep; all where empty.
        lower: with ``upper``, keep only the blocks that share a voxel with [lower, upper), in index coordinates (x, y,
            z); no others are decoded.
        upper: see ``lower``.
        compression: ``blosc``, ``zip`` or ``none``.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The grids as they were written.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no compressed volume, of another version, cut short or damaged.
        InputError: names that are absent, or an empty box.
    """
    if (lower is None) != (upper is None):
        raise InputError(f"box: expected both lower and upper, got {lower} and {upper}.")
    file = CompressedFile(source)
    chosen = names or file.grids
    if lower is not None and upper is not None:
        grids = [file.read_box(one, lower, upper) for one in chosen]
    else:
        check_volumes(
            [source],
            memory,
            quiet=quiet,
            names=names,
            made=_PACKED,
            kernels=True,
            remedy="Take a box of it (--lower, --upper)",
        )
        grids = [file.read(one) for one in chosen]
    write_vdb(output, grids, compression=compression, metadata=file.metadata)
    return grids


@anywhere("path")
def open_volumes(path: str | os.PathLike[str]) -> VolumeFile:
    """The file of either kind that is there: both have ``grids``, ``metadata`` and ``read``.

    Raises:
        MissingFileError, FormatError: as `VdbFile` and `CompressedFile`.
    """
    return open_volume_file(path)


class _Stages:
    """Turns what the writer tells into stages of a progress display."""

    def __init__(self, progress: Progress, stack: ExitStack) -> None:
        self._progress, self._stack, self._what, self._done = progress, stack, "", 0
        self._inner = stack.enter_context(ExitStack())

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._inner.close()
            self._stage = self._inner.enter_context(self._progress.stage(what, total))
            self._what, self._done = what, 0
        self._stage.advance(done - self._done)
        self._done = done
