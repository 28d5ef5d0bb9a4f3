"""Blocks of a voxel dataset with their traced rays, for PyTorch.

    dataset = HierarchicalVoxelRayDataset("dataset", "rays", split="train", levels=[2])
    sampler = RayBatchSampler(dataset, rays_per_batch=4096, subvolumes_per_batch=8)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_ray_batch, num_workers=4)

A sample is a dictionary. Rays start on or outside the block, in voxels about its centre, axes x, y, z:

- ``voxels`` (1, R, R, R) float32, 0 or 1, axes z, y, x; or, sparse, ``voxel_pos`` (M, 3) int64 x, y, z,
  ``voxel_features`` (M, 1), ``voxel_shape`` (3,) and for graphs ``voxel_edge_index`` (2, E)
- ``origins``, ``directions`` (N, 3) float32; directions have unit length
- ``distances`` (N,) float32: **length within occupied voxels**, 0 if none is met; ``hits`` (N,) float32, 1 or 0
- ``hit_distances`` (N,) float32: to the first occupied voxel, inf without one; ``normals`` (N, 3) int8 and
  ``voxel_ids`` (N,) int32 (x + y R + z R**2, -1 without one) of it; not in datasets of other programs
- ``face_ids``, ``view_ids`` (N,) int32, ``view_positions`` (V, 3) float32
- ``level``, ``hash`` (hexadecimal; at level 0 ``object_<id>``) and ``chunk_idx``

In a dataset built with symmetries a block is a sample once for every way in which it lies in the split's objects:
voxels and rays of its stored form, mapped by the same matrix. So samples are those of a dataset without.

Blocks belong to a split if any of its objects has them. The random part of a sample follows from the seed, the epoch
and the sample's index, not from which worker loads it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from voxfield.checks import check_bytes, check_choice, check_range
from voxfield.data import ray_transforms as transforms
from voxfield.data.byte_cache import ByteBoundedCache
from voxfield.data.collate_rays import collate_ray_batch, padded_voxels, shared_keys
from voxfield.data.gathered_rays import GatheredRays, gather_rays
from voxfield.data.ray_transforms import RAY_KEYS, Sample, apply, take_rays, turn
from voxfield.data.sparse_voxels import Connectivity, neighbour_edges, occupied_voxels
from voxfield.errors import FormatError, InputError
from voxfield.kernels.cube_symmetry import symmetry_matrix
from voxfield.kernels.voxel_words import unpack_blocks
from voxfield.storage.remote import local
from voxfield.storage.shape_dataset import ShapeDataset, open_shapes
from voxfield.storage.shape_rays import PackedRays, RayBlock, ShapeRays, open_rays
from voxfield.storage.shape_splits import read_splits

__all__ = [
    "HierarchicalVoxelRayDataset",
    "RayBatchSampler",
    "RayRequest",
    "collate_ray_batch",
    "transforms",
]

SparseMode = Literal["coo", "graph"]
_SPLITS: Final = ("train", "val", "test")


class RayRequest(NamedTuple):
    """Some rays of one of a dataset's samples: an index that `RayBatchSampler` gives in place of a number."""

    sample: int
    """Its number."""
    rays: int
    """How many of its rays, drawn without repetition."""
    seed: int
    """Of the draw and of the transform."""


class _Unit(NamedTuple):
    """What a sample is made of: rays from ``start`` to before ``stop`` of a block."""

    block: int
    start: int
    stop: int
    chunk: int


class HierarchicalVoxelRayDataset(Dataset[Sample]):
    """A split's blocks, each with its rays.

    Args:
        dataset_dir: the voxel dataset, or its URL.
        ray_dataset_dir: its traced rays, or their URL, in either layout; ``packed`` is many times quicker.
        split: ``train``, ``val`` or ``test``.
        levels: only blocks of these levels; None: all that were traced.
        samples_per_subvolume: draw as many rays of a block each time; None: all.
        cache_size: most blocks that are kept in memory, at least 0.
        include_empty: also blocks without any voxel, with the rays of another block of their level, which meet nothing.
        transform: applied to each sample, see `voxfield.data.ray_transforms`.
        seed: of every random choice.
        cache_bytes: most bytes that are kept in memory, as a number or ``"256MB"``, in each worker.
        rays_per_chunk: make a sample of every so many rays of a block, rather than one of all.
        ray_range: the share of each block's rays that is used, from and to, in [0, 1]: to hold some out. In the
            ``packed`` layout any share is a fair sample.
        uniform_batches: make the samples of a batch alike, so that torch's own collating can stack them: voxels padded
            at the far ends to the largest block, rays reduced at random to the fewest. False, or a `RayBatchSampler`:
            leave them as they are, for `collate_ray_batch`.
        sparse_voxels: give occupied voxels as a list; such samples need `collate_ray_batch`.
        sparse_mode: ``coo``: a list of places; ``graph``: and which are neighbours.
        sparse_connectivity: neighbours share a face (6), an edge (18) or a corner (26).

    Raises:
        MissingFileError: no dataset, rays or splits; it says how to make them.
        FormatError: damaged files, or rays that are of another dataset.
        InputError: bad settings, or no sample of this split.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        ray_dataset_dir: str | Path,
        split: str = "train",
        levels: Sequence[int] | None = None,
        samples_per_subvolume: int | None = None,
        cache_size: int = 100,
        include_empty: bool = False,
        transform: Callable[..., Sample] | None = None,
        seed: int = 42,
        *,
        cache_bytes: int | str = "256MB",
        rays_per_chunk: int | None = None,
        ray_range: tuple[float, float] = (0.0, 1.0),
        uniform_batches: bool = True,
        sparse_voxels: bool = False,
        sparse_mode: SparseMode = "coo",
        sparse_connectivity: Connectivity = 6,
    ) -> None:
        check_choice("split", split, _SPLITS)
        check_range("cache_size", cache_size, minimum=0)
        check_range("seed", seed, minimum=0, maximum=2**31 - 1)
        for name, value in (("samples_per_subvolume", samples_per_subvolume), ("rays_per_chunk", rays_per_chunk)):
            if value is not None:
                check_range(name, value, minimum=1)
        if not 0.0 <= ray_range[0] < ray_range[1] <= 1.0:
            raise InputError(f"ray_range: expected from < to in [0, 1], got {ray_range}.")
        check_choice("sparse_mode", sparse_mode, get_args(SparseMode))
        check_choice("sparse_connectivity", sparse_connectivity, get_args(Connectivity))
        self.dataset_dir, self.ray_dataset_dir = local(dataset_dir), local(ray_dataset_dir)
        self.split, self.transform, self.seed, self.epoch = split, transform, int(seed), 0
        self.samples_per_subvolume, self.ray_range = samples_per_subvolume, ray_range
        self.uniform_batches, self.sparse_voxels = uniform_batches, sparse_voxels
        self.sparse_mode, self.sparse_connectivity = sparse_mode, sparse_connectivity
        self.rays_per_chunk = rays_per_chunk
        self.cache = ByteBoundedCache(cache_size, check_bytes("cache_bytes", cache_bytes))
        self._open_files: tuple[ShapeDataset, ShapeRays, dict[str, int]] | None = None
        self._visits: defaultdict[int, int] = defaultdict(int)
        shapes, rays, _ = self._files()
        self.base_resolution = shapes.about.base_resolution
        self.blocks = self._blocks_of_split(shapes, rays, levels)
        self.symmetries = [0] * len(self.blocks)
        if shapes.about.symmetry:
            self._lay_out(shapes)
        self._is_turned = any(self.symmetries)
        self._twins: dict[int, RayBlock] = {}
        if include_empty:
            self._add_empty(shapes, levels)
        if not self.blocks:
            raise InputError(
                f"No samples found for split {split!r}: {self.ray_dataset_dir} has no rays of its blocks"
                f"{'' if levels is None else f' at levels {list(levels)}'}. Trace them (voxfield dataset trace "
                f"{self.dataset_dir}), or give the split objects (voxfield dataset split {self.dataset_dir})."
            )
        # Of chunks the numbers of rays must be known beforehand; of files, that means a look at each.
        self._units = list(self._chunks()) if rays_per_chunk is not None else None

    def _blocks_of_split(self, shapes: ShapeDataset, rays: ShapeRays, levels: Sequence[int] | None) -> list[RayBlock]:
        splits = read_splits(self.dataset_dir)
        traced, deepest = rays.blocks(), shapes.about.num_levels
        for level in {block.level for block in traced}:
            if level >= deepest:
                raise FormatError(f"{rays.folder}: has rays of level {level}, {shapes.folder} ends at {deepest - 1}.")
            known = {name.hex() for name in shapes.block_names(level)} if level else set(self._objects(shapes))
            strange = next((one.name for one in traced if one.level == level and one.name not in known), None)
            if strange is not None:
                raise FormatError(
                    f"{rays.folder}: has rays of {strange} at level {level}, which {shapes.folder} does not have: they "
                    "are of another dataset. Trace this one into another folder."
                )
        wanted = None if levels is None else set(levels)
        return [
            block
            for block in traced
            if (wanted is None or block.level in wanted) and splits.has(self.split, block.level, block.name)
        ]

    def _objects(self, shapes: ShapeDataset) -> dict[str, int]:
        return {str(shapes.info(index)["object_id"]): index for index in range(len(shapes))}

    def _add_empty(self, shapes: ShapeDataset, levels: Sequence[int] | None) -> None:
        """Add the empty block of every level that has one, with the rays of another block, which it does not stop."""
        for level in sorted({block.level for block in self.blocks} - {0}):
            if levels is None or level in levels:
                twin = next(block for block in self.blocks if block.level == level)
                for name in shapes.block_names(level):
                    if not shapes.block_words(level, name).any():
                        self._twins[len(self.blocks)] = twin
                        self.blocks.append(RayBlock(level, name.hex()))
                        self.symmetries.append(0)

    def _lay_out(self, shapes: ShapeDataset) -> None:
        """Repeat every block for each way in which it lies in the split's objects."""
        objects = read_splits(self.dataset_dir).objects
        lying: defaultdict[RayBlock, set[int]] = defaultdict(set)
        for name, index in self._objects(shapes).items():
            if objects.get(name) == self.split:
                for level, content, symmetry in shapes.oriented(index):
                    lying[RayBlock(level, content.hex())].add(symmetry)
        # Objects themselves, and blocks that are all full, lie in one way.
        every = [(block, symmetry) for block in self.blocks for symmetry in sorted(lying.get(block, {0}))]
        self.blocks = [block for block, _ in every]
        self.symmetries = [symmetry for _, symmetry in every]

    def _files(self) -> tuple[ShapeDataset, ShapeRays, dict[str, int]]:
        """The open files: of this process alone, as maps of files do not travel."""
        if self._open_files is None:
            shapes, rays = open_shapes(self.dataset_dir), open_rays(self.ray_dataset_dir)
            self._open_files = shapes, rays, self._objects(shapes)
        return self._open_files

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": None, "cache": self.cache.emptied()}

    def __len__(self) -> int:
        return len(self.blocks) if self._units is None else len(self._units)

    def set_epoch(self, epoch: int) -> None:
        """Let the random parts of samples be those of another epoch; `RayBatchSampler` needs no telling."""
        self.epoch, self._visits = epoch, defaultdict(int)

    def num_rays(self, index: int) -> int:
        """How many rays a sample has before it is transformed."""
        unit = self._unit(index)
        return unit.stop - unit.start

    def _unit(self, index: int) -> _Unit:
        if self._units is not None:
            return self._units[index]
        block = range(len(self.blocks))[index]
        start, stop = self._range(self._files()[1].count(self._twins.get(block, self.blocks[block])))
        return _Unit(block, start, stop, 0)

    def _range(self, rays: int) -> tuple[int, int]:
        return int(self.ray_range[0] * rays), int(self.ray_range[1] * rays)

    def _chunks(self) -> Iterator[_Unit]:
        assert self.rays_per_chunk is not None
        rays = self._files()[1]
        for number, block in enumerate(self.blocks):
            first, stop = self._range(rays.count(self._twins.get(number, block)))
            for chunk, start in enumerate(range(first, stop, self.rays_per_chunk)):
                yield _Unit(number, start, min(start + self.rays_per_chunk, stop), chunk)

    def __getitem__(self, index: int | RayRequest) -> Sample:
        """A sample: of a number one with all its rays, of a `RayRequest` with some."""
        rays, seed, generator = self.samples_per_subvolume, None, None
        if isinstance(index, RayRequest):
            number, rays, seed = index
            generator = torch.Generator().manual_seed(index.seed)
        else:
            number = int(index)
            if self.transform is not None or rays is not None:
                generator = self._generator(number)
        unit = self._unit(number)
        sample = self._sample(unit, rays, seed, generator)
        if self.transform is not None:
            sample = apply(self.transform, sample, generator)
        return self._sparse(sample) if self.sparse_voxels else sample

    def __getitems__(self, indices: Sequence[int | RayRequest]) -> Sequence[Sample]:
        """The samples of a batch; torch's loaders ask so."""
        requests = [index for index in indices if isinstance(index, RayRequest)]
        store = self._files()[1]
        if len(requests) == len(indices) and isinstance(store, PackedRays) and self._is_plain:
            return self._gathered(requests, store)
        samples = [self[index] for index in indices]
        numbers = [index for index in indices if not isinstance(index, RayRequest)]
        if not self.uniform_batches or self.sparse_voxels or len(numbers) < len(samples):
            return samples
        return self._alike(numbers, samples)

    @property
    def _is_plain(self) -> bool:
        """Whether samples are as they are stored, so that those of a batch can be copied together."""
        return self.transform is None and not (self.sparse_voxels or self._twins or self._is_turned)

    def _gathered(self, requests: Sequence[RayRequest], store: PackedRays) -> GatheredRays:
        """The samples of these requests, their rays in one piece of memory."""
        units = [self._unit(request.sample) for request in requests]
        blocks = [self.blocks[unit.block] for unit in units]
        stretches = [
            [(block, *part) for part in _drawn(unit, request.rays, request.seed)]
            for block, unit, request in zip(blocks, units, requests, strict=True)
        ]
        cubes = [self._voxels(block, self.base_resolution >> block.level) for block in blocks]
        batch, counts = gather_rays(store, stretches, cubes, [unit.chunk for unit in units])
        batch["hashes"] = [_hash(block) for block in blocks]
        return GatheredRays(batch, counts)

    def _alike(self, numbers: Sequence[int], samples: Sequence[Sample]) -> list[Sample]:
        """The samples with equally many rays and equally large blocks."""
        fewest = min(len(sample["origins"]) for sample in samples)
        names = shared_keys(samples, list(samples[0]))
        if len({sample["view_positions"].shape for sample in samples}) > 1:
            names.remove("view_positions")
        alike = []
        voxels = padded_voxels([sample["voxels"] for sample in samples])
        for number, sample, block in zip(numbers, samples, voxels, strict=True):
            rays = len(sample["origins"])
            if rays > fewest:
                sample = take_rays(sample, torch.randperm(rays, generator=self._generator(int(number)))[:fewest])
            alike.append({name: sample[name] for name in names} | {"voxels": block})
        return alike

    def _generator(self, index: int) -> torch.Generator:
        """Random numbers for the next visit of a sample in this epoch."""
        worker = get_worker_info()
        # What torch draws anew for the workers of every epoch, the same for all of them.
        base = 0 if worker is None else (worker.seed - worker.id) % 2**32
        visit = self._visits[index]
        self._visits[index] += 1
        words = np.random.SeedSequence([self.seed, self.epoch, base, index, visit]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def _sample(self, unit: _Unit, rays: int | None, seed: int | None, generator: torch.Generator | None) -> Sample:
        block = self.blocks[unit.block]
        source = self._twins.get(unit.block, block)
        resolution = self.base_resolution >> block.level
        columns = self._rays(source, unit, rays, seed, generator)
        sample: Sample = {name: torch.from_numpy(column) for name, column in columns.items()}
        if unit.block in self._twins:
            sample = _missed(sample)
        sample["hits"] = sample["hits"].float()
        voxels = self._voxels(block, resolution)
        sample["voxels"] = torch.from_numpy(voxels)[None].float()
        if self.symmetries[unit.block]:
            sample = turn(sample, torch.from_numpy(symmetry_matrix(self.symmetries[unit.block])).float())
        sample["level"], sample["chunk_idx"] = block.level, unit.chunk
        sample["hash"] = _hash(block)
        return sample

    def _rays(
        self,
        block: RayBlock,
        unit: _Unit,
        wanted: int | None,
        seed: int | None,
        generator: torch.Generator | None,
    ) -> dict[str, np.ndarray]:
        """Columns of a block's rays, copied: a map of a file must not be written to."""
        store = self._files()[1]
        start, stop = unit.start, unit.stop
        some = wanted is not None and wanted < stop - start
        if store.shuffled:
            draw = int(torch.randint(2**62, (), generator=generator)) if some and seed is None else seed
            pieces = [store.read(block, *part) for part in _drawn(unit, wanted, draw)] or [store.read(block, 0, 0)]
            there = [name for name in RAY_KEYS if name in pieces[0]]
            if len(pieces) == 1:
                columns = {name: pieces[0][name].copy() for name in there}
            else:
                columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in there}
            return columns | {"view_positions": np.array(pieces[0]["view_positions"])}
        arrays = self.cache.get(("rays", block), lambda: store.read(block))
        chosen: Any = slice(start, stop)
        if some:
            chosen = start + torch.randperm(stop - start, generator=generator)[:wanted].numpy()
        columns = {name: np.array(arrays[name][chosen]) for name in RAY_KEYS if name in arrays}
        return columns | {"view_positions": np.array(arrays["view_positions"])}

    def _voxels(self, block: RayBlock, resolution: int) -> np.ndarray:
        """Voxels (R, R, R) bool of a block."""

        def read() -> dict[str, np.ndarray]:
            shapes, _, objects = self._files()
            if block.level:
                words = shapes.block_words(block.level, bytes.fromhex(block.name))
            else:
                words = shapes.root_words(objects[block.name])
            return {"voxels": np.ascontiguousarray(unpack_blocks(words[None], resolution)[0])}

        return self.cache.get(("voxels", block), read)["voxels"]

    def _sparse(self, sample: Sample) -> Sample:
        voxels = sample.pop("voxels")
        places = occupied_voxels(voxels)
        sample["voxel_pos"], sample["voxel_features"] = places, torch.ones(len(places), 1)
        sample["voxel_shape"] = torch.tensor(voxels.shape[1:])
        if self.sparse_mode == "graph":
            sample["voxel_edge_index"] = neighbour_edges(places, self.sparse_connectivity)
        return sample


def _hash(block: RayBlock) -> str:
    """What a sample calls its block."""
    return block.name if block.level else f"object_{block.name}"


def _drawn(unit: _Unit, wanted: int | None, seed: int | None) -> list[tuple[int, int]]:
    """From and to before which of a block's rays, in random order, as many as wanted are: a stretch, or its two ends.

    A stretch that begins anywhere is a fair sample, so the seed, which is random, need only say where.
    """
    start, stop = unit.start, unit.stop
    if wanted is None or wanted >= stop - start:
        return [(start, stop)]
    assert seed is not None
    first = start + seed % (stop - start)
    parts = [(first, min(first + wanted, stop)), (start, first + wanted - (stop - start))]
    return [(one, end) for one, end in parts if end > one]


class RayBatchSampler(Sampler[list[RayRequest]]):
    """Batches of exactly ``rays_per_batch`` rays from ``subvolumes_per_batch`` blocks, every block once an epoch.

    Each block gives its share of the rays, drawn without repetition; blocks that have fewer give all, and the others
    more. Only where all together have fewer, a batch is smaller. Every epoch draws anew, from the seed and the epoch's
    number; to repeat one, `set_epoch`. Of several processes each has its part of the batches, all equally many.

    Args:
        dataset: whose rays.
        rays_per_batch: at least ``subvolumes_per_batch``.
        subvolumes_per_batch: blocks of a batch, at least 1; the last one of an epoch may have fewer.
        shuffle: visit the blocks in a random order.
        drop_last: leave out a last batch of fewer blocks; of several processes also what does not divide evenly.
        seed: of the order and the draws.
        num_replicas, rank: processes that share the batches, and which this is; None: as torch.distributed says.

    Raises:
        InputError: bad settings.
    """

    def __init__(
        self,
        dataset: HierarchicalVoxelRayDataset,
        rays_per_batch: int = 4096,
        subvolumes_per_batch: int = 8,
        shuffle: bool = True,
        drop_last: bool = False,
        *,
        seed: int = 42,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        check_range("subvolumes_per_batch", subvolumes_per_batch, minimum=1)
        check_range("rays_per_batch", rays_per_batch, minimum=subvolumes_per_batch)
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.num_replicas = num_replicas or (torch.distributed.get_world_size() if running else 1)
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if running else 0)
        check_range("num_replicas", self.num_replicas, minimum=1)
        check_range("rank", self.rank, minimum=0, maximum=self.num_replicas - 1)
        self.dataset, self.rays_per_batch, self.subvolumes_per_batch = dataset, rays_per_batch, subvolumes_per_batch
        self.shuffle, self.drop_last, self.seed, self.epoch = shuffle, drop_last, seed, 0
        self._counts: dict[int, int] = {}

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of this epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.drop_last:
            return len(self.dataset) // self.subvolumes_per_batch // self.num_replicas
        return math.ceil(math.ceil(len(self.dataset) / self.subvolumes_per_batch) / self.num_replicas)

    def __iter__(self) -> Iterator[list[RayRequest]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1
        count = len(self.dataset)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        groups = [group.tolist() for group in order.split(self.subvolumes_per_batch)]
        for place in range(len(self)):
            # Where batches do not divide evenly, the first ones fill up.
            group = groups[(place * self.num_replicas + self.rank) % len(groups)]
            shares = _shares([self._count(index) for index in group], self.rays_per_batch)
            yield [RayRequest(index, share, seeds[index]) for index, share in zip(group, shares, strict=True)]

    def _count(self, index: int) -> int:
        if index not in self._counts:
            self._counts[index] = self.dataset.num_rays(index)
        return self._counts[index]


def _shares(available: Sequence[int], wanted: int) -> list[int]:
    """How many of ``wanted`` each gives: evenly, but none more than it has."""
    shares, left = [0] * len(available), wanted
    for place, index in enumerate(sorted(range(len(available)), key=lambda index: available[index])):
        shares[index] = min(available[index], left // (len(available) - place))
        left -= shares[index]
    return shares


def _missed(sample: Sample) -> Sample:
    """The rays of another block in an empty one: they meet nothing."""
    nothing = {"distances": 0.0, "hits": 0, "hit_distances": torch.inf, "normals": 0, "voxel_ids": -1}
    return sample | {name: torch.full_like(sample[name], value) for name, value in nothing.items() if name in sample}
