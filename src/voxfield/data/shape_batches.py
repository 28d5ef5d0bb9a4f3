"""Training batches of traced rays: some blocks of one size, equally many rays of each.

A batch is a pure function of (seed, step, number of rays), so that a training resumes exactly.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from voxfield.checks import check_bytes, check_range
from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayRequest
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.remote import local, shown, url_of
from voxfield.storage.shape_dataset import open_shapes
from voxfield.storage.shape_rays import USUAL_FOLDER, open_rays

_LARGEST_BLOCK = 16
"""Voxels along an axis of the blocks that a training takes when nobody chooses a level."""


@dataclass(frozen=True, kw_only=True)
class ShapeRayOptions:
    """Which traced rays a training learns from."""

    rays: str | None = None
    """Folder of traced rays; None: ``ray_dataset_hierarchical`` beside the dataset, where ``voxfield dataset trace``
    writes by default."""
    level: int | None = None
    """Level of the blocks; None: the first traced one whose blocks have at most 16 voxels along an axis."""
    held_out: float = 0.1
    """Share of every block's rays that training never sees, 0 to below 1, to measure it on."""
    cache_bytes: int = 1 << 29
    """Most bytes of blocks and rays kept in memory, at least 0."""

    def __post_init__(self) -> None:
        if self.level is not None:
            check_range("data.level", self.level, minimum=0, maximum=8)
        check_range("data.held_out", self.held_out, minimum=0.0, maximum=0.99)
        check_bytes("data.cache_bytes", self.cache_bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeRayBatch:
    """B blocks of R voxels along each axis with N rays each, in voxels about the block's centre."""

    voxels: Tensor
    """(B, 1, R, R, R) float32, 0 or 1, axes z, y, x."""
    origins: Tensor
    """(B, N, 3) float32, x, y, z."""
    directions: Tensor
    """(B, N, 3) float32, unit length."""
    chord: Tensor
    """(B, N) float32: length within occupied voxels."""
    depth: Tensor
    """(B, N) float32: to the first occupied voxel; inf without one."""
    ranks: Ranks = ALONE
    """Whose share of a larger batch this is."""

    @property
    def hit(self) -> Tensor:
        """(B, N) bool: whether there is one."""
        return torch.isfinite(self.depth)

    def to(self, device: torch.device) -> "ShapeRayBatch":
        """The same on another device."""
        return ShapeRayBatch(
            voxels=self.voxels.to(device),
            origins=self.origins.to(device),
            directions=self.directions.to(device),
            chord=self.chord.to(device),
            depth=self.depth.to(device),
            ranks=self.ranks,
        )


def resolve_options(dataset: Path, options: ShapeRayOptions) -> ShapeRayOptions:
    """The options with the folder of rays and the level that are meant where they say None.

    Raises:
        MissingFileError: no dataset, or no rays: it says how to make them.
        InputError: a level that the dataset does not have.
    """
    about = open_shapes(dataset).about
    named, home = options.rays, shown(dataset)
    if named is None and url_of(home) is not None:
        named = f"{home.rsplit('/', 1)[0]}/{USUAL_FOLDER}"
    rays = dataset.resolve().parent / USUAL_FOLDER if named is None else local(named)
    if not rays.is_dir():
        raise MissingFileError(
            f"{rays}: no rays there. Name their folder with --set data.rays=DIR, or trace them:\n"
            f"voxfield dataset trace {dataset} --output-dir {rays} --layout packed"
        )
    level = options.level
    if level is None:
        traced = {block.level for block in open_rays(rays).blocks() if block.level < about.num_levels}
        fine = [level for level in sorted(traced) if about.base_resolution >> level <= _LARGEST_BLOCK]
        level = fine[0] if fine else max(traced, default=about.num_levels - 1)
    if level >= about.num_levels:
        raise InputError(f"data.level: {dataset} has levels 0 to {about.num_levels - 1}, got {level}.")
    if named is None or url_of(named) is None:
        named = str(rays.resolve())
    return ShapeRayOptions(rays=named, level=level, held_out=options.held_out, cache_bytes=options.cache_bytes)


def open_ray_split(
    dataset: Path, options: ShapeRayOptions, split: str, *, held_out: bool | None = None
) -> HierarchicalVoxelRayDataset:
    """A split's blocks of the level in question.

    Args:
        dataset: the voxel dataset.
        options: as `resolve_options` gives them.
        split: ``train``, ``val`` or ``test``.
        held_out: only the rays that training never sees (True), only the others (False), or all (None).

    Raises:
        FormatError: other programs' rays, which lack distances to the first hit. Others as the dataset.
    """
    assert options.rays is not None
    assert options.level is not None
    border = 1.0 - options.held_out
    share = {None: (0.0, 1.0), False: (0.0, border), True: (border, 1.0)}[held_out]
    if share[0] == share[1]:
        raise InputError("data.held_out: is 0, so no rays are held out to measure on.")
    opened = HierarchicalVoxelRayDataset(
        dataset,
        options.rays,
        split=split,
        levels=[options.level],
        cache_size=1 << 20,
        cache_bytes=options.cache_bytes,
        ray_range=share,
    )
    if "hit_distances" not in opened[0]:
        raise FormatError(
            f"{options.rays}: has no hit_distances, as another program traced it. Trace again into another folder: "
            f"voxfield dataset trace {dataset} --output-dir DIR"
        )
    return opened


class ShapeRayBatches:
    """Draws batches from a dataset of blocks of one level."""

    def __init__(
        self, dataset: HierarchicalVoxelRayDataset, blocks_per_batch: int, seed: int, device: torch.device
    ) -> None:
        """``blocks_per_batch`` blocks a batch, at least 1, on ``device``."""
        self.dataset, self.blocks_per_batch, self.seed, self.device = dataset, blocks_per_batch, seed, device

    def sample(self, count: int, step: int, ranks: Ranks = ALONE, /) -> ShapeRayBatch:
        """About ``count`` rays for step ``step``: blocks drawn uniformly, equally many rays of each.

        Of ``ranks`` each gets ``blocks_per_batch`` blocks.
        """
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + step) % 2**62)
        wanted = self.blocks_per_batch * ranks.size
        blocks = torch.randint(len(self.dataset), (wanted,), generator=generator).tolist()
        seeds = torch.randint(2**62, (len(blocks),), generator=generator).tolist()
        rays = max(1, count // len(blocks))
        rays = min([rays, *(self.dataset.num_rays(block) for block in blocks)])
        requests = [RayRequest(block, rays, seed) for block, seed in zip(blocks, seeds, strict=True)]
        return replace(ray_batch(self.dataset, requests[ranks.share(wanted)]).to(self.device), ranks=ranks)


def ray_batch(dataset: HierarchicalVoxelRayDataset, requests: list[RayRequest]) -> ShapeRayBatch:
    """The batch of these requests, which are for equally many rays of blocks of one size."""
    samples = [dataset[request] for request in requests]

    def stacked(name: str) -> Tensor:
        return torch.stack([sample[name] for sample in samples])

    return ShapeRayBatch(
        voxels=stacked("voxels"),
        origins=stacked("origins"),
        directions=stacked("directions"),
        chord=stacked("distances"),
        depth=stacked("hit_distances"),
    )
