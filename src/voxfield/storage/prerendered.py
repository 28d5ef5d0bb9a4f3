"""Pre-rendered voxels on disk: a folder of HDF5 files, each with the grids of some samples.

    metadata.yaml            what all samples share; written last, so it says that the folder is complete
    voxels_batch_0000.h5     samples 0 to batch_size - 1, without those that failed
    voxels_batch_0001.h5     ...
    failures.json            samples that could not be rendered, with reasons, if there are any

A batch holds ``voxels`` (n, D, H, W), axes z, y, x, one chunk a sample; ``indices`` (n,) int32, the samples' numbers in
the source; ``scales`` (n,) float32 for quantised voxels, whose values are ``voxels * scale``; and for each sample
``source_ranges`` (n, 2), the least and greatest value before normalisation, ``stored_ranges`` (n, 2), those of what is
stored, ``points`` and ``outside`` (n,) int64. Every batch carries the hash of the parameters that made it, so that
batches of different runs are told apart.

Chunks are compressed where they are made and written as they are: a process can compress while another writes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, get_args

import numpy as np
import yaml

from voxfield.checks import check_choice
from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError
from voxfield.storage.atomic import write_text
from voxfield.storage.hdf5 import check_heaps, hdf5_faults, item_inside

Compression = Literal["gzip", "lzf", "blosc", "zstd", "none"]
"""``gzip``, ``lzf`` and ``none`` are read by every HDF5 program, ``blosc`` and ``zstd`` with the plugin only."""
StoredType = Literal["float32", "float16", "uint8"]
"""``uint8``: 256 steps from 0 to the sample's greatest value."""

METADATA: Final = "metadata.yaml"
FAILURES: Final = "failures.json"
PATTERN: Final = "voxels_batch_*.h5"
_MOST_METADATA: Final = 256 << 20
_PLUGIN_CODECS: Final = ("blosc", "zstd")


class Chunk(NamedTuple):
    """A sample as it lies in its file."""

    content: bytes
    filter_mask: int
    """Which filters were left out, as HDF5 has it (a sample that does not shrink is stored as it is)."""


@dataclass(frozen=True, kw_only=True)
class BatchKind:
    """What the samples of a batch share."""

    shape: tuple[int, int, int]
    """Voxels along z, y, x."""
    dtype: StoredType
    compression: Compression
    level: int = 1
    """Of gzip, 1 to 9."""

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, get_args(StoredType))
        check_choice("compression", self.compression, get_args(Compression))
        if self.compression in _PLUGIN_CODECS:
            load_codecs(f"compression {self.compression}")

    def filters(self) -> dict[str, Any]:
        """h5py's arguments. No byte shuffling: it makes sparse grids larger and slower."""
        if self.compression == "gzip":
            return {"compression": "gzip", "compression_opts": self.level}
        if self.compression == "lzf":
            return {"compression": "lzf"}
        if self.compression == "none":
            return {}
        import hdf5plugin

        if self.compression == "zstd":
            return dict(hdf5plugin.Zstd(clevel=1))
        return dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE))


def load_codecs(wanted_for: str) -> None:
    """Make blosc and zstd known to HDF5.

    Raises:
        MissingExtraError: their package is not installed.
    """
    try:
        import hdf5plugin  # noqa: F401  (importing it registers the codecs)
    except ImportError as error:
        raise MissingExtraError(
            f"{wanted_for}: needs hdf5plugin, which is not installed. Install it with: "
            'pip install "voxfield[hdf5-fast]". gzip, lzf and none need nothing.'
        ) from error


def batch_name(number: int) -> str:
    """The file of a batch."""
    return f"voxels_batch_{number:04d}.h5"


def find_batches(folder: Path) -> list[Path]:
    """The batch files in a folder, in order of their numbers."""
    return sorted(folder.glob(PATTERN), key=lambda path: (len(path.name), path.name))


# ------------------------------------------------------------------------------------------------------------ samples


def quantise(values: np.ndarray, dtype: StoredType) -> tuple[np.ndarray, float, float]:
    """Values as they are stored.

    Args:
        values: float32, at least 0.
        dtype: stored type.

    Returns:
        The stored array; the scale that gives values back, 1 unless quantised; the largest error.

    Raises:
        InputError: values beyond what float16 holds.
    """
    if dtype == "float32":
        return values, 1.0, 0.0
    most = float(values.max(initial=0.0))
    if dtype == "float16":
        if most > float(np.finfo(np.float16).max):
            raise InputError(f"its greatest value, {most:g}, is more than float16 holds. Use dtype=float32.")
        stored = values.astype(np.float16)
        return stored, 1.0, float(np.abs(stored.astype(np.float32) - values).max(initial=0.0))
    # As float32, which is how it is stored: the error is that of reading it back.
    scale = np.float32(most / 255 if most > 0 else 1.0)
    stored = np.rint(values / scale).clip(0, 255).astype(np.uint8)
    return stored, float(scale), float(np.abs(stored * scale - values).max(initial=0.0))


def pack_sample(stored: np.ndarray, kind: BatchKind) -> Chunk:
    """Compress a sample, by HDF5 itself in a file in memory."""
    import h5py

    if kind.compression == "none":
        return Chunk(stored.tobytes(), 0)
    with h5py.File("sample", "w", driver="core", backing_store=False) as file:
        shape = (1, *kind.shape)
        data = file.create_dataset("voxels", data=stored[None], chunks=shape, **kind.filters())
        # Compressed when it leaves the chunk cache, not before.
        file.flush()
        mask, content = data.id.read_direct_chunk((0, 0, 0, 0))
    return Chunk(content, mask)


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """What is recorded of a sample."""

    index: int
    """Its number in the source."""
    scale: float
    source_range: tuple[float, float]
    """Least and greatest value before normalisation."""
    stored_range: tuple[float, float]
    """Least and greatest value as stored, scale applied."""
    points: int
    outside: int


class BatchWriter:
    """Writes a batch file, sample by sample; what there is so far is in a temporary file.

    Args:
        path: the file to write to.
        kind: what its samples share.
        attributes: of the file.
        most: most samples.
    """

    def __init__(self, path: Path, kind: BatchKind, attributes: Mapping[str, Any], most: int) -> None:
        import h5py

        self._facts: list[SampleFacts] = []
        self._kind = kind
        self._file = h5py.File(path, "w")
        self._file.attrs.update(attributes)
        self._voxels = self._file.create_dataset(
            "voxels", (most, *kind.shape), kind.dtype, chunks=(1, *kind.shape), maxshape=(most, *kind.shape),
            **kind.filters(),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, chunk: Chunk, facts: SampleFacts) -> None:
        """Write a sample after those that are there."""
        self._voxels.id.write_direct_chunk((len(self._facts), 0, 0, 0), chunk.content, chunk.filter_mask)
        self._facts.append(facts)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write what is recorded of the samples, and a report on all of the batch, of the types JSON has."""
        facts, file = self._facts, self._file
        self._voxels.resize(len(facts), axis=0)
        file["indices"] = np.array([one.index for one in facts], np.int32)
        if self._kind.dtype == "uint8":
            file["scales"] = np.array([one.scale for one in facts], np.float32)
        for name in ("source_range", "stored_range"):
            file[f"{name}s"] = np.array([getattr(one, name) for one in facts], np.float32).reshape(-1, 2)
        for name in ("points", "outside"):
            file[name] = np.array([getattr(one, name) for one in facts], np.int64)
        # A dataset: an attribute holds at most 64 KiB.
        file["report"] = json.dumps(dict(report))


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True, kw_only=True)
class BatchAbout:
    """What a batch file says of itself."""

    path: Path
    indices: np.ndarray
    """(n,) int64 numbers of the samples in the source."""
    shape: tuple[int, int, int]
    scales: np.ndarray | None
    stored_ranges: np.ndarray | None
    """(n, 2) least and greatest value; None in files of other programs."""
    attributes: Mapping[str, Any]
    report: Mapping[str, Any]
    """What the job that made it has to say; empty in files of other programs."""

    @property
    def parameters_hash(self) -> str | None:
        """Of the parameters that made it; None in files of other programs."""
        return self.attributes.get("parameters_hash")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    import h5py

    with (
        hdf5_faults(path, "Run the same `voxfield prerender` again: it is made anew."),
        h5py.File(path, "r", locking=False) as file,
    ):
        yield file


def read_batch_about(path: Path) -> BatchAbout:
    """What a batch file says of itself; its voxels are not read.

    Raises:
        MissingFileError, FormatError: there is none, or it is damaged.
        MissingExtraError: its codec is not installed.
    """
    import h5py

    with _reading(path) as file:
        voxels = item_inside(path, file, "voxels")
        if voxels.ndim != 4 or voxels.dtype.kind not in "fu":
            raise FormatError(f"{path}: expected voxels (N, D, H, W), got {voxels.shape} of {voxels.dtype}.")
        made_by = voxels.id.get_create_plist()
        # Numbers from 32,000 on are registered by plugins, but for h5py's own LZF.
        if any(made_by.get_filter(at)[0] > h5py.h5z.FILTER_LZF for at in range(made_by.get_nfilters())):
            load_codecs(str(path))
        check_heaps(path)
        count = len(voxels)
        if count * int(np.prod(voxels.shape[1:], dtype=object)) >= 1 << 44:
            raise FormatError(f"{path}: states voxels of shape {voxels.shape}: is it damaged?")
        indices = file["indices"][:].astype(np.int64) if "indices" in file else np.arange(count)
        scales = file["scales"][:] if "scales" in file else None
        ranges = file["stored_ranges"][:] if "stored_ranges" in file else None
        if any(one is not None and len(one) != count for one in (indices, scales, ranges)):
            raise FormatError(f"{path}: has {count} samples and records of another number: it is damaged.")
        depth, height, width = voxels.shape[1:]
        return BatchAbout(
            path=path,
            indices=indices,
            shape=(int(depth), int(height), int(width)),
            scales=scales,
            stored_ranges=ranges,
            attributes=dict(file.attrs),
            report=json.loads(file["report"][()]) if "report" in file else {},
        )


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of ``metadata.yaml``.

    Raises:
        MissingFileError: there is none: the folder is another one, or not complete.
        FormatError: it is no mapping.
    """
    path = folder / METADATA
    if not path.is_file():
        unfinished = folder.is_dir() and any(folder.glob(PATTERN))
        said = (
            "its pre-rendering was not completed: run the same `voxfield prerender` again, which continues"
            if unfinished
            else "no pre-rendered voxels are there: make them with `voxfield prerender`, or correct prerendered_dir"
        )
        raise MissingFileError(f"{path}: the metadata file does not exist; {said}.")
    try:
        if path.stat().st_size > _MOST_METADATA:
            raise FormatError(f"{path}: is larger than the {_MOST_METADATA:,} bytes that are read.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, FormatError):
            raise
        said = " ".join(str(error).split())[:150]
        raise FormatError(f"{path}: is damaged ({said}). Run the same `voxfield prerender` again.") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected a mapping, got {type(content).__name__}.")
    return content


def write_metadata(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``metadata.yaml``, in one step."""
    write_text(folder / METADATA, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
