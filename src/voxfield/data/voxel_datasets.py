"""PyTorch datasets of voxel grids of point clouds: pre-rendered ones, and clouds rendered as they are asked for.

Both give the same items, with the same values for the same parameters:

    {"voxels": (1, D, H, W) float32, "index": int}

``index`` is the sample's number in the source, whatever samples failed and however they were split. Items depend on
seed, epoch and index only, not on workers or order. Datasets may be pickled, and used in forked and spawned workers.
"""

import math
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from voxfield.checks import check_choice, check_range
from voxfield.data.point_clouds import PointClouds
from voxfield.errors import FormatError, InputError, MissingFileError, VoxfieldError
from voxfield.storage.prerendered import METADATA, PATTERN, BatchAbout, find_batches, read_batch_about, read_metadata
from voxfield.storage.remote import local
from voxfield.voxels.point_grid import (
    PointGridSettings,
    ValueRange,
    cut_values,
    finite_points,
    fitted,
    normalise_values,
    point_grid,
)

Split = Literal["all", "train", "val"]

_MOST_OPEN: Final = 32
"""Files kept open in a process."""
_MOST_CHUNK_CACHE: Final = 512 << 20


class VoxelItem(TypedDict):
    """An item of a dataset."""

    voxels: Tensor
    """(1, D, H, W) float32."""
    index: int
    """The sample's number in the source."""


@dataclass(frozen=True, kw_only=True)
class VoxelAugment:
    """Random changes that keep a sample one of its kind, where up is up."""

    rotate: float = 0.5
    """Probability of a turn about z, by 90, 180 or 270 degrees (180 where H and W differ)."""
    flip: float = 0.5
    """Probability of a mirroring, of x and of y each."""
    noise: float = 0.3
    """Probability of Gaussian noise."""
    noise_sigma: float = 0.01
    """Its standard deviation, as a share of the range of values."""

    def __post_init__(self) -> None:
        for name in ("rotate", "flip", "noise", "noise_sigma"):
            check_range(name, getattr(self, name), minimum=0, maximum=1)

    def apply(self, voxels: Tensor, span: float, rng: np.random.Generator) -> Tensor:
        """Change (1, D, H, W) voxels whose values span ``span``."""
        turns, flip_x, flip_y, noisy = rng.random(4)
        if turns < self.rotate:
            quarters = int(rng.integers(1, 4)) if voxels.shape[2] == voxels.shape[3] else 2
            voxels = torch.rot90(voxels, quarters, (2, 3))
        axes = [axis for axis, drawn in ((3, flip_x), (2, flip_y)) if drawn < self.flip]
        if axes:
            voxels = voxels.flip(axes)
        if noisy < self.noise:
            drawn = rng.standard_normal(tuple(voxels.shape), np.float32)
            voxels = voxels + torch.from_numpy(drawn) * (self.noise_sigma * span)
        return voxels.contiguous()


def split_indices(indices: np.ndarray, split: Split, *, train_ratio: float = 0.8, seed: int = 42) -> np.ndarray:
    """Positions in ``indices`` of the samples of a split, in order.

    The same seed gives the same division, and a sample that is missing moves no more than one other to the other side.

    Args:
        indices: (n,) the samples' numbers, 0 or more.
        split: ``all``, or one of two that share no sample. Neither is empty where there are two samples.
        train_ratio: share of the samples in ``train``, above 0 and at most 1; with 1 ``val`` is empty.
        seed: of the division.
    """
    check_choice("split", split, get_args(Split))
    check_range("train_ratio", train_ratio, above=0, maximum=1)
    if split == "all" or not len(indices):
        return np.arange(len(indices))
    rank = np.random.default_rng(seed).permutation(int(indices.max()) + 1)[indices]
    count = round(train_ratio * len(indices))
    if train_ratio < 1:
        count = min(max(count, 1), max(len(indices) - 1, 1))
    chosen = np.argsort(rank)[:count] if split == "train" else np.argsort(rank)[count:]
    return np.sort(chosen)


class VoxelDataset(Dataset[VoxelItem], ABC):
    """What both datasets share. Subclasses set ``value_range`` and ``_numbers``, and load grids."""

    value_range: ValueRange
    """Least and greatest value of all samples, before they are brought to [-1, 1]."""
    shape: tuple[int, int, int]
    """Voxels along z, y, x."""

    def __init__(
        self, numbers: np.ndarray, split: Split, train_ratio: float, seed: int, augment: VoxelAugment | bool
    ) -> None:
        self._positions = split_indices(numbers, split, train_ratio=train_ratio, seed=seed)
        self._numbers = numbers[self._positions]
        self._seed = seed
        self.split: Split = split
        self.augment = VoxelAugment() if augment is True else augment or None
        self._normalise = True
        # Shared memory: workers that live through epochs see what is set in the process that trains.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        depth, height, width = self.shape
        return f"{type(self).__name__}({len(self)} samples ({self.split}) of {width} x {height} x {depth} voxels)"

    @abstractmethod
    def _load(self, position: int) -> np.ndarray:
        """The (D, H, W) float32 grid at a position among all samples, in an array of its own."""

    @property
    def indices(self) -> np.ndarray:
        """(n,) the samples' numbers in the source."""
        return self._numbers

    def set_epoch(self, epoch: int) -> None:
        """Augment otherwise than in other epochs. Reaches workers that are running."""
        self._epoch[0] = epoch

    def normalised(self, voxels: Tensor) -> Tensor:
        """Values of ``value_range`` to [-1, 1]. All samples alike: train and val too."""
        low, high = self.value_range
        return (voxels - low) * (2 / (high - low)) - 1 if high > low else torch.zeros_like(voxels)

    def denormalised(self, voxels: Tensor) -> Tensor:
        """Back from [-1, 1] to the values as rendered."""
        low, high = self.value_range
        return (voxels + 1) * ((high - low) / 2) + low

    def __getitem__(self, position: int) -> VoxelItem:
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        voxels = torch.from_numpy(self._load(int(self._positions[position])))[None]
        low, high = self.value_range
        span = high - low
        if self._normalise:
            voxels, span = self.normalised(voxels), 2.0
        index = int(self._numbers[position])
        if self.augment is not None:
            rng = np.random.default_rng([self._seed, int(self._epoch), index])
            voxels = self.augment.apply(voxels, span, rng)
        return {"voxels": voxels, "index": index}


class PrerenderedVoxelDataset(VoxelDataset):
    """Samples of a folder that `voxfield.prerender` wrote. The clouds they were made of are not needed.

    Args:
        folder: with ``metadata.yaml`` and batches. Those of other programs with the same layout are read too; their
            range of values is then found by reading all of them once.
        normalise: bring values to [-1, 1], by the range of all samples that the metadata states.
        augment: change items at random; True for `VoxelAugment` as it is.
        split: all samples, or a part.
        train_ratio: share of the samples in ``train``.
        seed: of split and augmentation.

    Raises:
        MissingFileError: no metadata, no batches, or fewer than the metadata states.
        FormatError: a batch is damaged, or of another run.
        MissingExtraError: the codec needs a package that is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        normalise: bool = True,
        augment: VoxelAugment | bool = False,
        split: Split = "all",
        train_ratio: float = 0.8,
        seed: int = 42,
    ) -> None:
        self.folder = local(folder)
        self.metadata = read_metadata(self.folder)
        self._batches = _checked_batches(self.folder, self.metadata)
        self.shape = self._batches[0].shape
        self._ends = np.cumsum([len(one.indices) for one in self._batches])
        numbers = np.concatenate([one.indices for one in self._batches])
        super().__init__(numbers, split, train_ratio, seed, augment)
        self._normalise = normalise
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._owner = os.getpid()
        self.value_range = self._find_value_range()

    def _find_value_range(self) -> ValueRange:
        stated = self.metadata.get("value_range")
        if isinstance(stated, list) and len(stated) == 2:
            if not all(isinstance(one, int | float) and math.isfinite(one) for one in stated):
                raise FormatError(f"{self.folder / METADATA}: value_range: expected two finite numbers, got {stated}.")
            return float(stated[0]), float(stated[1])
        grids = (self._load(at) for at in range(int(self._ends[-1]) if self._normalise else 0))
        ranges = [(float(grid.min()), float(grid.max())) for grid in grids]
        return min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=1.0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_owner": 0}

    def _locate(self, position: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._ends, position, side="right"))
        return batch, position - (int(self._ends[batch - 1]) if batch else 0)

    def _voxels(self, batch: int) -> Any:
        """A batch's open dataset: not one opened before a fork, whose file position processes would share."""
        import h5py

        if self._owner != os.getpid():
            self._open, self._owner = OrderedDict(), os.getpid()
        found = self._open.get(batch)
        if found is None:
            path = self._batches[batch].path
            file = h5py.File(path, "r", locking=False, **self._cache_sizes(path))
            found = self._open[batch] = file["voxels"]
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)[1].file.close()
        self._open.move_to_end(batch)
        return found

    def _cache_sizes(self, path: Path) -> dict[str, int]:
        """A chunk cache for files whose chunks hold parts of several samples, as other programs write them."""
        import h5py

        with h5py.File(path, "r", locking=False) as file:
            chunks = file["voxels"].chunks
            if chunks is None or chunks[0] == 1:
                return {}
            needed = chunks[0] * int(np.prod(self.shape)) * file["voxels"].dtype.itemsize
        return {"rdcc_nbytes": min(2 * needed, _MOST_CHUNK_CACHE), "rdcc_nslots": 100_003}

    def _load(self, position: int) -> np.ndarray:
        batch, row = self._locate(position)
        about = self._batches[batch]
        try:
            stored = self._voxels(batch)[row]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:150]
            raise FormatError(
                f"{about.path}: sample {row} cannot be read ({said}). Remove the file and run the same `voxfield "
                "prerender` again: only it is made."
            ) from error
        values = stored if stored.dtype == np.float32 else stored.astype(np.float32)
        if about.scales is not None:
            values *= about.scales[row]
        return values

    def blocks(self) -> list[list[int]]:
        """Positions of this split whose samples lie in the same chunks, in order: what is best read together."""
        found: dict[tuple[int, int], list[int]] = {}
        for position, at in enumerate(self._positions.tolist()):
            batch, row = self._locate(at)
            chunks = self._voxels(batch).chunks
            found.setdefault((batch, row // (chunks[0] if chunks else 1)), []).append(position)
        return list(found.values())


def _checked_batches(folder: Path, metadata: dict[str, Any]) -> list[BatchAbout]:
    """All batches of one run, as its metadata states them."""
    paths = find_batches(folder)
    if not paths:
        raise MissingFileError(
            f"{folder}: no batch files ({PATTERN}) were found beside {METADATA}: they were removed or moved. Run the "
            "same `voxfield prerender` again."
        )
    stated = metadata.get("batches")
    missing = [name for name in stated if not (folder / str(name)).is_file()] if isinstance(stated, dict) else []
    if missing:
        raise MissingFileError(
            f"{folder / missing[0]}: no such file, nor {len(missing) - 1} more that {METADATA} states. Run the same "
            "`voxfield prerender` again: only these are made."
        )
    abouts = [read_batch_about(path) for path in paths]
    for about in abouts:
        if about.parameters_hash != metadata.get("parameters_hash"):
            raise FormatError(
                f"{about.path}: is of another run than {METADATA}: its parameters differ. Remove it, or render anew "
                "with --overwrite."
            )
        if about.shape != abouts[0].shape:
            raise FormatError(f"{about.path}: has voxels of {about.shape}, {paths[0].name} of {abouts[0].shape}.")
        if isinstance(stated, dict) and stated.get(about.path.name) != len(about.indices):
            raise FormatError(
                f"{about.path}: has {len(about.indices)} samples, {METADATA} states {stated.get(about.path.name)}. Run "
                "the same `voxfield prerender` again."
            )
    abouts = [about for about in abouts if len(about.indices)]
    if not abouts:
        raise FormatError(f"{folder}: its batches hold no samples.")
    return abouts


class PointCloudVoxelDataset(VoxelDataset):
    """Clouds that become voxels each time they are asked for: for small sets and trials.

    Args:
        clouds: the clouds, or files, folders and patterns of them.
        grid: how a cloud becomes a grid. Where ``volume_dims`` is None, ``normalise`` is ``global``, or values are to
            be brought to [-1, 1] and ``normalise`` is ``none``, all clouds are read once to measure what is needed.
        data_key: name of the dataset in HDF5 and NPZ files.
        normalise, augment, split, train_ratio, seed: as in `PrerenderedVoxelDataset`.
        cache: grids kept in memory in each process, 0 or more.

    Raises:
        InputError, MissingFileError, FormatError: as `voxfield.data.point_clouds.PointClouds`; when an item is asked
            for, InputError also for clouds that are empty, not finite or outside the volume.
    """

    def __init__(
        self,
        clouds: PointClouds | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        grid: PointGridSettings,
        *,
        data_key: str | None = None,
        normalise: bool = True,
        augment: VoxelAugment | bool = False,
        split: Split = "all",
        train_ratio: float = 0.8,
        seed: int = 42,
        cache: int = 0,
    ) -> None:
        check_range("cache", cache, minimum=0)
        if not isinstance(clouds, PointClouds):
            named = [clouds] if isinstance(clouds, str | os.PathLike) else clouds
            clouds = PointClouds([Path(one) for one in named], data_key=data_key)
        self.clouds, self._most_cached = clouds, cache
        self._cached: OrderedDict[int, np.ndarray] = OrderedDict()
        self._source_range: ValueRange | None = None
        self.grid = grid if grid.volume_dims is not None else fitted(grid, list(self._corners()))
        self.shape = self.grid.shape
        super().__init__(np.arange(len(clouds)), split, train_ratio, seed, augment)
        self._normalise = normalise
        self.value_range = (0.0, 1.0)
        if grid.normalise == "global" or (grid.normalise == "none" and normalise):
            measured = self._measured()
            self._source_range = measured if grid.normalise == "global" else None
            self.value_range = (0.0, 1.0) if grid.normalise == "global" else measured

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": OrderedDict()}

    def _corners(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(len(self.clouds)):
            try:
                points = finite_points(self.clouds.read(index))
            except VoxfieldError:
                continue  # said when the item is asked for
            yield points.min(0), points.max(0)

    def _measured(self) -> ValueRange:
        ranges = []
        for index in range(len(self.clouds)):
            try:
                counted = point_grid(self.clouds.read(index), self.grid)
                if self.grid.normalise == "none":
                    cut_values(counted.values, self.grid)
                ranges.append(counted.value_range)
            except VoxfieldError:
                continue  # said when the item is asked for
        if not ranges:
            raise InputError(f"{self.clouds.name(0)}: none of {len(self.clouds)} clouds could be rendered.")
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def _load(self, position: int) -> np.ndarray:
        held = self._cached.get(position)
        if held is None:
            try:
                held = point_grid(self.clouds.read(position), self.grid).values
            except InputError as error:
                raise InputError(
                    f"{self.clouds.name(position)}: {error} Leave it out, or pre-render, which lists such clouds."
                ) from error
            normalise_values(held, self.grid, self._source_range)
            cut_values(held, self.grid)
            if self._most_cached:
                self._cached[position] = held
                if len(self._cached) > self._most_cached:
                    self._cached.popitem(last=False)
        return held.copy() if self._most_cached else held


class BlockShuffle(Sampler[int]):
    """All positions of a pre-rendered dataset in random order, those whose samples share chunks together.

    With one chunk a sample, as `voxfield.prerender` writes them, that is an ordinary shuffle; with chunks of several
    samples each is decompressed once an epoch, not once a sample.

    Args:
        dataset: to draw from.
        seed: of the order.
    """

    def __init__(self, dataset: PrerenderedVoxelDataset, *, seed: int = 42) -> None:
        self._blocks = dataset.blocks()
        self._seed, self._epoch = seed, 0

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def set_epoch(self, epoch: int) -> None:
        """Order otherwise than in other epochs."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, self._epoch])
        for block in rng.permutation(len(self._blocks)):
            yield from rng.permutation(self._blocks[block]).tolist()
