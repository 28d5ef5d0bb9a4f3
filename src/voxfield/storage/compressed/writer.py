"""Compressing grids into a file."""

import base64
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from voxfield.errors import InputError
from voxfield.storage.atomic import replacing
from voxfield.storage.compressed.chunk import GridCode, decode_chunk, encode_chunk
from voxfield.storage.compressed.layout import MOST_CHUNK_LEAVES, leaves_of_chunks, write_head
from voxfield.storage.compressed.network import VALUE_MARGIN, GridNetwork, NetworkShape, train_network
from voxfield.storage.compressed.quantiser import Quantiser, within
from voxfield.storage.compressed.settings import Codec, CompressionConfig
from voxfield.storage.compressed.topology import CUBE_SIDE, packed_topology
from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.layout import GRID_CLASSES
from voxfield.storage.vdb.metadata import packed_metadata
from voxfield.storage.vdb.transform import packed_transform
from voxfield.storage.vdb.writer import value_type
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import unique_origins

Advance = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class CompressedGridReport:
    """What became of one grid."""

    name: str
    active_voxels: int
    max_error: float
    """What was allowed."""
    largest_error: float
    """What the farthest active value is off, of finite ones."""
    rmse: float
    """Root of the mean square of all active values' errors (those of blocks), of finite ones."""
    value_range: float
    """From the least to the greatest finite active value, of the widest channel."""
    nbytes: int
    """In the file, without the directory."""
    codec: Codec
    """``quantised`` also where a network would be of no use: whole numbers, one value everywhere."""
    network_bytes: int = 0
    """Of them, the network's."""


def write_compressed(
    path: str | os.PathLike[str],
    grids: Sequence[VdbGrid],
    config: CompressionConfig,
    *,
    metadata: Mapping[str, Any] | None = None,
    previous: Mapping[str, GridNetwork] | None = None,
    advance: Advance | None = None,
) -> list[CompressedGridReport]:
    """Compress grids into one file, which appears whole or not at all.

    States of voxels, tiles, inactive values, transforms and metadata are kept exactly, active values within the error.
    Every chunk is decoded again before it is written, and refused unless it is so.

    Args:
        path: the file to make or replace.
        grids: in this order. Grids that share one volume object and precision are stored once.
        config: codec and error.
        metadata: of the file.
        previous: networks by the name of grids, such as `CompressedFile.networks` of the frame before: training starts
            from one whose box holds the grid.
        advance: is told of the progress.

    Returns:
        What became of each grid.

    Raises:
        InputError: values that no grid type holds, a transform that is none, metadata of unknown type.
        OSError: the file cannot be written; what was there before stays.
    """
    entries: list[dict[str, Any]] = []
    reports: list[CompressedGridReport] = []
    written: dict[tuple[int, bool], int] = {}
    # The directory stands before the sections, whose places it names, so they are kept aside until all are known.
    with tempfile.TemporaryFile() as sections:
        for grid in grids:
            entry, half = _header(grid)
            first = written.setdefault((id(grid.volume), half), len(entries))
            if first < len(entries):
                entries.append(entry | {"data_of": first})
                reports.append(_renamed(reports[first], grid.name))
                continue
            data, report = _GridWriter(
                grid, half, config, sections, advance or _silent, (previous or {}).get(grid.name)
            ).write()
            entries.append(entry | data)
            reports.append(report)
        directory = {"codec": config.codec, "metadata": _text(packed_metadata(metadata or {})), "grids": entries}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            write_head(stream, directory)
            sections.seek(0)
            while piece := sections.read(1 << 20):
                stream.write(piece)
    return reports


@dataclass
class _Errors:
    """Errors of active values as they come up."""

    largest: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, decoded: np.ndarray, values: np.ndarray) -> None:
        known = values.astype(np.float64)
        finite = np.isfinite(known)
        off = np.abs(decoded.astype(np.float64)[finite] - known[finite])
        if off.size:
            self.largest = max(self.largest, float(off.max()))
            self.squares += float((off**2).sum())
            self.count += off.size

    @property
    def rmse(self) -> float:
        return float((self.squares / max(1, self.count)) ** 0.5)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Finite active values of every channel, tiles included."""

    low: np.ndarray
    high: np.ndarray

    @property
    def span(self) -> float:
        """Of the widest channel."""
        with np.errstate(over="ignore"):
            return float((self.high - self.low).max())


class _GridWriter:
    """Writes the sections of one grid behind those that are there."""

    def __init__(
        self,
        grid: VdbGrid,
        half: bool,
        config: CompressionConfig,
        sections: BinaryIO,
        advance: Advance,
        previous: GridNetwork | None,
    ) -> None:
        self._name, self._volume, self._config, self._sections = grid.name, grid.volume, config, sections
        self._advance = advance
        self._chunk_leaves = leaves_of_chunks(len(grid.volume.origins))
        self._range = _value_range(grid.volume)
        if config.max_error is not None:
            self._max_error = config.max_error
        else:
            assert config.relative_error is not None
            self._max_error = min(config.relative_error * self._range.span, 1e300)
        real = grid.volume.values.dtype.kind == "f"
        varied = len(grid.volume.origins) > 0 and 0 < self._range.span < 1e30
        self._network = self._trained(half, previous) if config.codec == "neural" and real and varied else None
        self._code = GridCode(
            background=grid.volume.background,
            quantisers=self._quantisers(half, real),
            max_error=self._max_error,
            half=half,
            margin=0.0 if self._network is None else self._margin(half),
        )

    def write(self) -> tuple[dict[str, Any], CompressedGridReport]:
        """Write them; what the directory says of them, and what became of the grid."""
        volume, begin, network = self._volume, self._sections.tell(), self._network
        lower = network is not None and self._config.nodes == "lower"
        data: dict[str, Any] = {
            "max_error": self._max_error,
            "quantisers": [one.as_json() for one in self._code.quantisers],
            "margin": self._code.margin,
            "active": volume.active_count,
            "cubes": len(unique_origins(volume.origins & -CUBE_SIDE)[0]),
            "leaves": len(volume.origins),
            "network": None,
            "topology": self._section(
                packed_topology(volume.origins, network.guess_leaves if network and lower else None)
            ),
            "tiles": [*self._section(_packed_tiles(volume)), len(volume.tiles)],
        }
        if network is not None:
            section = self._section(network.packed())
            data["network"] = {**asdict(network.shape), "section": section, "lower_nodes": lower}
        errors = _Errors()
        data["chunks_at"], data["chunk_leaves"] = self._sections.tell(), self._chunk_leaves
        data["chunks"] = [self._chunk(start, errors) for start in range(0, len(volume.origins), self._chunk_leaves)]
        report = CompressedGridReport(
            name=self._name,
            active_voxels=volume.active_count,
            max_error=self._max_error,
            largest_error=errors.largest,
            rmse=errors.rmse,
            value_range=self._range.span,
            nbytes=self._sections.tell() - begin,
            codec="quantised" if network is None else "neural",
            network_bytes=0 if network is None else data["network"]["section"][1],
        )
        return data, report

    def _trained(self, half: bool, previous: GridNetwork | None) -> GridNetwork:
        """A network for the grid, from scratch or from another that has learnt something like it."""
        if self._max_error < 4 * self._margin(half):
            raise InputError(
                f"grid {self._name!r}: expected an error of at least {4 * self._margin(half):.3g} for the codec "
                f"neural, got {self._max_error:.3g}. Machines may differ by a part of that: use the codec quantised."
            )
        shape, steps, start = (
            NetworkShape.fitted(self._volume, self._range.low, self._range.high),
            self._config.steps,
            None,
        )
        if previous is not None and previous.shape.channels == shape.channels and previous.shape.holds(self._volume):
            shape, steps, start = previous.shape, -(-steps // 4), previous
        return train_network(
            self._volume,
            shape,
            self._max_error,
            steps=steps,
            seed=self._config.seed,
            start=start,
            advance=lambda done: self._advance(f"training for {self._name}", done, steps),
        )

    def _margin(self, half: bool) -> float:
        """By how much machines may differ in a decoded value: by their sums, and by where they round to 16 bits."""
        largest = float(np.abs([self._range.low, self._range.high]).max())
        return VALUE_MARGIN * self._range.span / 2 + (largest / 2048 if half else 0.0)

    def _quantisers(self, half: bool, real: bool) -> tuple[Quantiser, ...]:
        """One a channel: over the values, or over what a network misses of them."""
        backgrounds = np.atleast_1d(self._volume.background).tolist()
        ranges = zip(self._range.low.tolist(), self._range.high.tolist(), backgrounds, strict=True)
        if self._network is None:
            return tuple(
                Quantiser.fitted(low, high, self._max_error, whole=not real, background=background)
                for low, high, background in ranges
            )
        step = 2 * (self._max_error - self._margin(half)) * (1 - 1e-4)
        return tuple(Quantiser(offset=0.0, step=step) for _ in ranges)

    def _section(self, raw: bytes) -> list[int]:
        """Write bytes; where they are and how many."""
        at = self._sections.tell()
        self._sections.write(raw)
        return [at, len(raw)]

    def _chunk(self, start: int, errors: _Errors) -> int:
        """Write the chunk of leaves from ``start`` and return its length."""
        rows = slice(start, start + self._chunk_leaves)
        volume = self._volume
        origins, values, active = volume.origins[rows], volume.values[rows], volume.active[rows]
        guess = None if self._network is None else self._network.guess(origins)
        raw = encode_chunk(self._code, origins, values, active, guess)
        decoded, on = decode_chunk(raw, self._code, origins, f"grid {self._name!r}", guess=guess)
        fits = np.array_equal(on, active) and within(decoded[on], values[on], self._max_error).all()
        inactive = decoded[~on].tobytes() == values[~on].tobytes()
        if not (fits and inactive):
            raise AssertionError(f"grid {self._name!r}: a chunk does not decode to what it was made of.")
        errors.add(decoded[on], values[on])
        self._sections.write(raw)
        done = min(start + self._chunk_leaves, len(volume.origins))
        self._advance(f"compressing {self._name}", done, len(volume.origins))
        return len(raw)


def _header(grid: VdbGrid) -> tuple[dict[str, Any], bool]:
    """What a grid's entry says beside its data, and whether its values are halves."""
    if grid.grid_class not in GRID_CLASSES:
        raise InputError(f"grid {grid.name!r}: expected a class of {', '.join(GRID_CLASSES)}, got {grid.grid_class!r}.")
    kind, half = value_type(grid)
    return {
        "name": grid.name,
        "class": grid.grid_class,
        "type": kind.name,
        "half": half,
        "float16": grid.volume.background.dtype == np.float16,
        "background": _text(grid.volume.background.tobytes()),
        "transform": _text(packed_transform(grid.index_to_world)),
        "metadata": _text(packed_metadata(grid.metadata)),
    }, half


def _value_range(volume: SparseVolume) -> _Range:
    """Least and greatest finite active value per channel, 0 where there is none."""
    channels = volume.channels[0] if volume.channels else 1
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for part in _active_parts(volume):
        found = part.reshape(-1, channels).astype(np.float64)
        finite = np.isfinite(found)
        low = np.minimum(low, np.where(finite, found, np.inf).min(axis=0, initial=np.inf))
        high = np.maximum(high, np.where(finite, found, -np.inf).max(axis=0, initial=-np.inf))
    nothing = low > high
    return _Range(low=np.where(nothing, 0.0, low), high=np.where(nothing, 0.0, high))


def _active_parts(volume: SparseVolume) -> Iterator[np.ndarray]:
    """All active values, some at a time."""
    yield volume.tiles.values[volume.tiles.active]
    for start in range(0, len(volume.values), MOST_CHUNK_LEAVES):
        rows = slice(start, start + MOST_CHUNK_LEAVES)
        yield volume.values[rows][volume.active[rows]]


def _packed_tiles(volume: SparseVolume) -> bytes:
    """Tiles as they are."""
    tiles = volume.tiles
    raw = tiles.origins.astype("<i4").tobytes() + tiles.sides.astype("<i4").tobytes()
    return zlib.compress(raw + np.packbits(tiles.active).tobytes() + tiles.values.tobytes(), 9)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _renamed(report: CompressedGridReport, name: str) -> CompressedGridReport:
    """The report of a grid that shares another's data."""
    return replace(report, name=name, nbytes=0, network_bytes=0)


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
