"""Sets of volumes to learn from: prerendered folders, arrays in files, shapes made by rule; and batches of them.

A volume is (D, H, W), axes z, y, x, with values from 0 to 1. Arrays with other values are brought there by the least
and the greatest value of the whole file.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch

from voxfield.checks import check_choice, check_range
from voxfield.data.shape_family import FAMILIES, procedural_shape
from voxfield.data.voxel_datasets import PrerenderedVoxelDataset
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.hdf5 import hdf5_faults, item_inside
from voxfield.storage.npz import map_npy, read_npz

PROCEDURAL: Final = "procedural"
"""Named in place of a path: shapes made by rule."""

_HELD_BYTES: Final = 2 << 30
"""Volumes that take less than this as float32 are held in memory."""


@dataclass(frozen=True, kw_only=True)
class VolumeBatch:
    """Volumes of one training step."""

    volumes: torch.Tensor
    """(B, 1, D, H, W) float32, 0 to 1."""
    labels: torch.Tensor
    """(B,) int64; all 0 for data without classes."""
    ranks: Ranks = ALONE
    """Whose share of a larger batch this is."""


@dataclass(frozen=True, kw_only=True)
class VolumeOptions:
    """Which volumes, and how they are read."""

    path: str | None = None
    """The data, where no other are named: a prerendered folder, a ``.npy``, ``.npz`` or HDF5 file, or ``procedural``.
    """
    key: str | None = None
    """Name of the array in a ``.npz`` or HDF5 file; None: ``voxels``, else the only one of four axes."""
    train_ratio: float = 0.9
    """Share of the volumes that is learnt from, above 0 to 1; of the rest half validates while training, half tests."""
    split_seed: int = 0
    """Of the shuffle that divides them. Not the run's seed: runs that differ in that are measured on the same."""
    augment: bool = False
    """Mirror volumes along x and y, and turn them about z by right angles, at random."""
    procedural_count: int = 2000
    """How many shapes ``procedural`` has, at least 8."""
    procedural_resolution: int = 32
    """Voxels along their sides, 4 to 512."""
    autoencoder: str | None = None
    """Of a diffusion: a run of ``voxel-autoencoder`` whose latents are learnt in place of voxels."""

    def __post_init__(self) -> None:
        check_range("train_ratio", self.train_ratio, above=0.0, maximum=1.0)
        check_range("procedural_count", self.procedural_count, minimum=8, maximum=10_000_000)
        check_range("procedural_resolution", self.procedural_resolution, minimum=4, maximum=512)


class VolumeSet(Protocol):
    """Volumes by number."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x of every one."""

    @property
    def fingerprint(self) -> str:
        """Hash of what they are made of, to tell changed data."""

    @property
    def classes(self) -> int:
        """How many there are; 0 without."""

    def __len__(self) -> int:
        """How many volumes there are."""

    def volume(self, index: int) -> torch.Tensor:
        """(D, H, W) float32, 0 to 1."""

    def label(self, index: int) -> int:
        """Class of a volume; 0 without."""


class ProceduralShapes:
    """`voxfield.data.shape_family`, each shape made once."""

    classes = len(FAMILIES)

    def __init__(self, count: int, resolution: int) -> None:
        """Nothing is made yet."""
        self._count, self._resolution = count, resolution
        self._made: dict[int, torch.Tensor] = {}
        self._kept = _HELD_BYTES // (4 * resolution**3)

    @property
    def shape(self) -> tuple[int, int, int]:
        """A cube."""
        return (self._resolution, self._resolution, self._resolution)

    @property
    def fingerprint(self) -> str:
        """What they are made by."""
        return f"procedural-1-{self._count}-{self._resolution}"

    def __len__(self) -> int:
        """As many as were asked for."""
        return self._count

    def volume(self, index: int) -> torch.Tensor:
        """See `VolumeSet.volume`."""
        if index in self._made:
            return self._made[index]
        made = procedural_shape(index, self._resolution)
        if len(self._made) < self._kept:
            self._made[index] = made
        return made

    def label(self, index: int) -> int:
        """The family."""
        return index % len(FAMILIES)


class PrerenderedVolumes:
    """Volumes of a folder that ``voxfield prerender`` wrote."""

    classes = 0

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            MissingFileError, FormatError: see `PrerenderedVoxelDataset`.
        """
        self._items = PrerenderedVoxelDataset(folder)
        self.shape = self._items.shape
        digest = hashlib.sha256(repr(self._items.metadata.get("parameters_hash")).encode())
        digest.update(self._items.indices.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """How many volumes there are."""
        return len(self._items)

    def volume(self, index: int) -> torch.Tensor:
        """See `VolumeSet.volume`."""
        return ((self._items[index]["voxels"][0] + 1.0) / 2.0).clamp(0.0, 1.0)

    def label(self, index: int) -> int:  # noqa: ARG002  (these have no classes)
        """None: 0."""
        return 0


class ArrayVolumes:
    """Volumes of one array (N, D, H, W), in memory or on disk."""

    def __init__(self, array: Any, labels: np.ndarray | None, *, source: str) -> None:
        """Measure the array, reading all of it once.

        Args:
            array: numpy's, or an HDF5 dataset.
            labels: (N,) classes from 0, or None.
            source: for messages.

        Raises:
            FormatError: no array of volumes, or values that are not finite.
        """
        if len(array.shape) == 5 and array.shape[1] == 1:
            array = array[:, 0]
        if len(array.shape) != 4 or min(array.shape) < 1 or array.dtype.kind not in "fiub":
            raise FormatError(f"{source}: expected volumes (N, D, H, W) of numbers, got {array.shape} {array.dtype}.")
        self._source, self._labels = source, _checked_labels(labels, len(array), source)
        self._array = array
        low, high = np.inf, -np.inf
        digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode())
        for index in range(len(array)):
            volume = np.ascontiguousarray(array[index])
            digest.update(volume.tobytes())
            if volume.dtype.kind == "f" and not np.isfinite(volume).all():
                raise FormatError(f"{source}: volume {index} has values that are NaN or infinite. Repair or remove it.")
            low, high = min(low, float(volume.min())), max(high, float(volume.max()))
        if low == high:
            raise FormatError(f"{source}: all values are {low:g}, so there is nothing to learn.")
        within = low >= 0.0 and high <= 1.0
        self.value_range = (0.0, 1.0) if within else (low, high)
        self.fingerprint = digest.hexdigest()
        if len(array) * int(np.prod(array.shape[1:])) * 4 <= _HELD_BYTES:
            self._array = np.asarray(array)
        self.classes = 0 if self._labels is None else int(self._labels.max()) + 1

    @property
    def in_memory(self) -> bool:
        """Whether all volumes are in memory, however many."""
        return isinstance(self._array, np.ndarray) and not isinstance(self._array, np.memmap)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        depth, height, width = self._array.shape[1:]
        return int(depth), int(height), int(width)

    def __len__(self) -> int:
        """How many volumes there are."""
        return len(self._array)

    def volume(self, index: int) -> torch.Tensor:
        """See `VolumeSet.volume`."""
        low, high = self.value_range
        # A copy: torch wants memory that may be written to, and files are mapped read-only.
        values = torch.from_numpy(np.array(self._array[index], dtype=np.float32))
        return (values - low) / (high - low)

    def label(self, index: int) -> int:
        """See `VolumeSet.label`."""
        return 0 if self._labels is None else int(self._labels[index])


def held_bytes(volumes: VolumeSet) -> int:
    """Memory that a set of volumes keeps at most: those that are many are read from their file each time."""
    whole = len(volumes) * math.prod(volumes.shape) * 4
    in_archive = isinstance(volumes, ArrayVolumes) and volumes.in_memory
    return whole if in_archive else min(whole, _HELD_BYTES)


def _checked_labels(labels: np.ndarray | None, count: int, source: str) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 100_000:
        raise FormatError(f"{source}: expected labels ({count},), whole numbers from 0, got {labels.shape}.")
    return labels.astype(np.int64)


def open_volumes(path: Path, options: VolumeOptions) -> VolumeSet:
    """The volumes that ``path`` names.

    Raises:
        MissingFileError: there is nothing.
        FormatError: it holds no volumes, or is damaged.
    """
    if path.name == PROCEDURAL and not path.exists():
        return ProceduralShapes(options.procedural_count, options.procedural_resolution)
    if not path.exists():
        raise MissingFileError(
            f"{path}: no such file or folder. Name a prerendered folder, a .npy, .npz or .h5 file of volumes, or "
            f"{PROCEDURAL} for shapes made by rule."
        )
    if path.is_dir():
        return PrerenderedVolumes(path)
    if path.suffix == ".npy":
        return ArrayVolumes(map_npy(path), None, source=str(path))
    if path.suffix == ".npz":
        arrays: Any = read_npz(path)
    elif path.suffix in (".h5", ".hdf5"):
        arrays = _hdf5_arrays(path)
    else:
        raise FormatError(f"{path}: expected .npy, .npz, .h5 or .hdf5, got {path.suffix or 'no ending'}.")
    key = _key_of(arrays, options.key, path)
    with hdf5_faults(path, "Make it again."):
        labels = np.asarray(arrays["labels"]) if "labels" in arrays else None
        return ArrayVolumes(arrays[key], labels, source=f"{path}: {key}")


def _hdf5_arrays(path: Path) -> dict[str, Any]:
    """The datasets at the root of a file, which stays open for reading."""
    import h5py

    with hdf5_faults(path, "Make it again."):
        file = h5py.File(path, "r", locking=False)
        found = {name: item_inside(path, file, name) for name in file}
        return {name: item for name, item in found.items() if isinstance(item, h5py.Dataset)}


def _key_of(arrays: dict[str, Any], asked: str | None, path: Path) -> str:
    if asked is not None:
        if asked not in arrays:
            raise FormatError(f"{path}: holds no array {asked!r}; it has {', '.join(sorted(arrays)) or 'none'}.")
        return asked
    if "voxels" in arrays:
        return "voxels"
    volumes = [name for name, array in arrays.items() if len(array.shape) in (4, 5)]
    if len(volumes) != 1:
        raise FormatError(
            f"{path}: expected one array of volumes (N, D, H, W), found {len(volumes)}; it has "
            f"{', '.join(sorted(arrays)) or 'none'}. Name one with data.key."
        )
    return volumes[0]


Split = Literal["train", "val", "test"]


def split_indices(count: int, split: Split, options: VolumeOptions) -> list[int]:
    """Which of ``count`` volumes belong to a split, in order; a split may be empty."""
    check_choice("split", split, ("train", "val", "test"))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(options.split_seed)).tolist()
    learnt = max(1, round(count * options.train_ratio))
    middle = learnt + (count - learnt + 1) // 2
    parts = {"train": order[:learnt], "val": order[learnt:middle], "test": order[middle:]}
    return sorted(parts[split])


class VolumeSampler:
    """Batches of some of a set's volumes: every one once an epoch, in an order of the seed's."""

    def __init__(
        self, volumes: VolumeSet, indices: Sequence[int], *, seed: int, augment: bool, device: torch.device
    ) -> None:
        """Draw from the volumes ``indices``, at least one."""
        if not indices:
            raise InputError("data: there is no volume to learn from.")
        self._volumes, self._indices = volumes, list(indices)
        self._seed, self._augment, self._device = seed, augment, device
        self._epoch, self._order = -1, [0]

    def sample(self, count: int, step: int, ranks: Ranks = ALONE) -> VolumeBatch:
        """See `voxfield.data.batches.Batches.sample`; ``count`` has to be the same at every step."""
        share = ranks.share(count)
        chosen = [self._at(step * count + place) for place in range(share.start, share.stop)]
        volumes = torch.stack([self._volumes.volume(index) for index in chosen])[:, None]
        if self._augment:
            generator = torch.Generator().manual_seed((self._seed * 0x9E3779B97F4A7C15 + step) % 2**63)
            turns = [_draw_turn(generator) for _ in range(count)]
            volumes = _turned(volumes, turns[share])
        labels = torch.tensor([self._volumes.label(index) for index in chosen])
        return VolumeBatch(volumes=volumes.to(self._device), labels=labels.to(self._device), ranks=ranks)

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._indices))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self._seed * 0x9E3779B97F4A7C15 + ~epoch) % 2**63)
            self._epoch, self._order = epoch, torch.randperm(len(self._indices), generator=generator).tolist()
        return self._indices[self._order[place]]


def _draw_turn(generator: torch.Generator) -> tuple[list[int], int]:
    """Axes to mirror a volume along, and quarters to turn it by."""
    mirrored = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
    return mirrored, int(torch.randint(4, (), generator=generator))


def _turned(volumes: torch.Tensor, how: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Each volume (B, 1, D, H, W) mirrored along x and y, and turned about z, as `_draw_turn` said."""
    quarter = volumes.shape[3] == volumes.shape[4]
    turned = []
    for volume, (mirrored, turns) in zip(volumes, how, strict=True):
        volume = volume.flip(mirrored)
        turned.append(volume.rot90(turns if quarter else 2 * (turns // 2), (2, 3)))
    return torch.stack(turned)
