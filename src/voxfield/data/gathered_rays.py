"""Rays of many blocks in one piece of memory: a batch that is copied once, from the mapped files to where it is read.

A loader's worker that collates samples copies every ray three times, and hands on every tensor in a piece of shared
memory of its own. Here all columns of a batch lie in one, shared from the start where a worker makes them, and used
again (`voxfield.data.recycled_batches`).
"""

from collections.abc import Iterator, Sequence
from typing import Final, overload

import numpy as np
import torch
from torch.utils.data import get_worker_info

from voxfield.data.ray_transforms import RAY_KEYS, Sample
from voxfield.data.recycled_batches import Shapes, allocate
from voxfield.storage.shape_rays import COLUMNS, PackedRays, RayBlock

_TYPES: Final = {"<f4": torch.float32, "<i4": torch.int32, "i1": torch.int8, "u1": torch.uint8}


class GatheredRays(Sequence[Sample]):
    """The samples of a batch whose rays lie one after another."""

    def __init__(self, batch: Sample, counts: Sequence[int]) -> None:
        """``batch`` as collating gives it, and how many rays each sample has."""
        self.batch = batch
        ends = np.cumsum(counts).tolist()
        self._stretches = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

    def __len__(self) -> int:
        return len(self._stretches)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """A sample, its rays part of the batch's memory."""
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        batch = self.batch
        sample: Sample = {name: batch[name][self._stretches[index]] for name in RAY_KEYS if name in batch}
        side = int(batch["voxel_shapes"][index, 0])
        sample["voxels"] = batch["voxels"][index, :, :side, :side, :side]
        sample["view_positions"], sample["hash"] = batch["view_positions"][index], batch["hashes"][index]
        sample["level"], sample["chunk_idx"] = int(batch["levels"][index]), int(batch["chunk_idx"][index])
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def gather_rays(
    store: PackedRays,
    stretches: Sequence[Sequence[tuple[RayBlock, int, int]]],
    voxels: Sequence[np.ndarray],
    chunks: Sequence[int],
) -> tuple[Sample, list[int]]:
    """Rays and voxels of several samples, as one batch.

    Args:
        store: where the rays are.
        stretches: for each sample its parts: a block, and rays from and to before.
        voxels: for each sample (R, R, R) bool.
        chunks: for each sample its ``chunk_idx``.

    Returns:
        What `voxfield.data.collate_rays.collate_ray_batch` makes of such samples, but for ``hashes``; and how many
        rays each has.
    """
    counts = [sum(stop - start for _, start, stop in parts) for parts in stretches]
    rays, side = sum(counts), max(len(cube) for cube in voxels)
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        name: ((rays, *COLUMNS[name][1]), torch.float32 if name == "hits" else _TYPES[COLUMNS[name][0]])
        for name in RAY_KEYS
        if name in store.columns
    }
    views = [store.view_positions(parts[0][0]) for parts in stretches]
    alike = len({len(one) for one in views}) == 1
    shapes["ray_to_voxel"] = (rays,), torch.int64
    shapes["voxels"] = (len(voxels), 1, side, side, side), torch.float32
    shapes["voxel_shapes"] = (len(voxels), 3), torch.int64
    shapes["levels"] = shapes["chunk_idx"] = (len(voxels),), torch.int64
    if alike:
        shapes["view_positions"] = (len(views), *views[0].shape), torch.float32
    batch: Sample = _allocate(shapes)
    pieces = [piece for parts in stretches for piece in parts]
    store.gather(pieces, {name: batch[name].numpy() for name in store.columns})
    batch["ray_to_voxel"].numpy()[:] = np.repeat(np.arange(len(counts)), counts)
    cubes = batch["voxels"].numpy()[:, 0]
    for place, cube in enumerate(voxels):
        own = len(cube)
        if own < side:
            cubes[place] = 0.0
        cubes[place, :own, :own, :own] = cube
    batch["voxel_shapes"].numpy()[:] = [cube.shape for cube in voxels]
    batch["levels"].numpy()[:] = [parts[0][0].level for parts in stretches]
    batch["chunk_idx"].numpy()[:] = chunks
    if alike:
        np.stack(views, out=batch["view_positions"].numpy())
    else:
        batch["view_positions"] = [torch.from_numpy(one.copy()) for one in views]
    return batch, counts


def _allocate(shapes: Shapes) -> Sample:
    """Tensors of these shapes and types, not initialised: in a loader's worker all in one piece of shared memory."""
    if get_worker_info() is None:
        return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    return allocate(shapes)
