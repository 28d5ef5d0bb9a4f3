"""Measuring a network of rays: hits, depth and chord on rays that it was not trained on.

Hits are counted at a probability of one half. F1 is 2 TP / (2 TP + FP + FN). Errors of depth are over rays that truly
hit and are said to; errors of the chord over all rays. Lengths are in voxels, and the chord's error also as a share of
the block's diagonal, R √3.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from voxfield.data.shape_batches import ray_batch
from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayRequest
from voxfield.models.raynet import Raynet

_BLOCKS_AT_ONCE = 32


def evaluate_rays(
    model: Raynet,
    dataset: HierarchicalVoxelRayDataset,
    *,
    blocks: Sequence[int] | None = None,
    rays_per_block: int | None = None,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a model on a dataset's rays.

    Args:
        model: on ``device``.
        dataset: of blocks of the model's size.
        blocks: which samples; all if absent.
        rays_per_block: at most so many of each, at random; all if absent.
        device: where to compute.
        on_progress: told of blocks as they are done.

    Returns:
        ``hit_f1``, ``hit_precision``, ``hit_recall``, ``depth_mae``, ``chord_mae`` (voxels), ``chord_mae_diagonal``
        (share of the diagonal), ``num_blocks``, ``num_rays``; figures that nothing could be measured for are None.
    """
    chosen = range(len(dataset)) if blocks is None else blocks
    counts = {index: dataset.num_rays(index) for index in chosen}
    sums = dict.fromkeys(("true", "false", "missed", "depth", "chord", "rays"), 0.0)
    # Blocks with equally many rays together: a batch is a rectangle.
    ordered = sorted(chosen, key=lambda index: (counts[index], index))
    at = 0
    while at < len(ordered):
        rays = counts[ordered[at]]
        group = [index for index in ordered[at : at + _BLOCKS_AT_ONCE] if counts[index] == rays]
        wanted = rays if rays_per_block is None else min(rays, rays_per_block)
        batch = ray_batch(dataset, [RayRequest(index, wanted, index) for index in group]).to(device)
        with torch.inference_mode():
            said = model(batch.voxels, batch.origins, batch.directions)
        found, hit = said.hit > 0.5, batch.hit
        both = found & hit
        sums["true"] += float(both.sum())
        sums["false"] += float((found & ~hit).sum())
        sums["missed"] += float((~found & hit).sum())
        sums["depth"] += float((said.depth[both] - batch.depth[both]).abs().double().sum())
        sums["chord"] += float((said.chord - batch.chord).abs().double().sum())
        sums["rays"] += hit.numel()
        at += len(group)
        on_progress(len(group))
    return _figures(sums, len(ordered), model.resolution)


def _figures(sums: dict[str, float], blocks: int, resolution: int) -> dict[str, Any]:
    def share(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    true, chord = sums["true"], share(sums["chord"], sums["rays"])
    return {
        "hit_f1": share(2 * true, 2 * true + sums["false"] + sums["missed"]),
        "hit_precision": share(true, true + sums["false"]),
        "hit_recall": share(true, true + sums["missed"]),
        "depth_mae": share(sums["depth"], true),
        "chord_mae": chord,
        "chord_mae_diagonal": None if chord is None else chord / (resolution * math.sqrt(3.0)),
        "num_blocks": blocks,
        "num_rays": int(sums["rays"]),
    }
