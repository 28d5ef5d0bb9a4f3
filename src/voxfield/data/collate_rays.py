"""Samples of blocks with rays, as one batch."""

from collections.abc import Sequence

import torch

from voxfield.data.gathered_rays import GatheredRays
from voxfield.data.ray_transforms import RAY_KEYS, Sample
from voxfield.errors import InputError


def collate_ray_batch(samples: Sequence[Sample]) -> Sample:
    """Samples as one batch, their rays one after another.

    Blocks of different levels may be mixed: dense voxels are padded with empty ones at the far ends to the largest.

    Args:
        samples: of one dataset.

    Returns:
        Every key of rays, (N, ...); ``ray_to_voxel`` (N,) int64: the sample each is of; ``voxels`` (B, 1, D, H, W), or
        sparse ``voxel_pos``, ``voxel_features``, ``voxel_edge_index`` (which counts on from sample to sample) and
        ``voxel_batch`` (M,) int64; ``voxel_shapes`` (B, 3) int64, D, H, W before padding; ``levels``, ``chunk_idx``
        (B,) int64; ``hashes``; ``view_positions`` (B, V, 3), or a list of (V, 3) where numbers of cameras differ.

    Raises:
        InputError: no samples.
    """
    if not samples:
        raise InputError("samples: expected at least one.")
    if isinstance(samples, GatheredRays):
        return samples.batch
    batch: Sample = {name: torch.cat([one[name] for one in samples]) for name in shared_keys(samples, RAY_KEYS)}
    counts = torch.tensor([len(one["origins"]) for one in samples])
    batch["ray_to_voxel"] = torch.repeat_interleave(torch.arange(len(samples)), counts)
    if "voxels" in samples[0]:
        shapes = [one["voxels"].shape[1:] for one in samples]
        batch["voxels"] = torch.stack(padded_voxels([one["voxels"] for one in samples]))
        batch["voxel_shapes"] = torch.tensor([tuple(shape) for shape in shapes])
    else:
        sizes = torch.tensor([len(one["voxel_pos"]) for one in samples])
        batch |= {name: torch.cat([one[name] for one in samples]) for name in ("voxel_pos", "voxel_features")}
        batch["voxel_batch"] = torch.repeat_interleave(torch.arange(len(samples)), sizes)
        batch["voxel_shapes"] = torch.stack([one["voxel_shape"] for one in samples])
        if "voxel_edge_index" in samples[0]:
            first = (sizes.cumsum(0) - sizes).tolist()
            edges = [one["voxel_edge_index"] + at for one, at in zip(samples, first, strict=True)]
            batch["voxel_edge_index"] = torch.cat(edges, dim=1)
    batch["levels"] = torch.tensor([one["level"] for one in samples])
    batch["chunk_idx"] = torch.tensor([one["chunk_idx"] for one in samples])
    batch["hashes"] = [one["hash"] for one in samples]
    views = [one["view_positions"] for one in samples]
    batch["view_positions"] = torch.stack(views) if len({len(one) for one in views}) == 1 else views
    return batch


def shared_keys(samples: Sequence[Sample], names: Sequence[str]) -> list[str]:
    """Those of ``names`` that every sample has."""
    return [name for name in names if all(name in sample for sample in samples)]


def padded_voxels(voxels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Voxels (1, D, H, W) of the largest D, H and W, empty where they were not."""
    largest = [max(one.shape[axis] for one in voxels) for axis in (1, 2, 3)]
    if all(list(one.shape[1:]) == largest for one in voxels):
        return list(voxels)
    return [
        torch.nn.functional.pad(
            one, [0, largest[2] - one.shape[3], 0, largest[1] - one.shape[2], 0, largest[0] - one.shape[1]]
        )
        for one in voxels
    ]
