"""How fast traced rays are delivered: rays a second by one worker, milliseconds a random sample, bytes held.

    python benchmarks/shape_loading.py --dataset dataset --rays ray_dataset_hierarchical

Rays are to be packed (voxfield dataset trace --layout packed). Every figure is the median of several passes.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from voxfield.api import machine
from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayBatchSampler, collate_ray_batch

PASSES = 5


def delivered(dataset: HierarchicalVoxelRayDataset, rays_per_batch: int) -> float:
    """Rays a second by one worker, which stays from pass to pass; its start does not count."""
    sampler = RayBatchSampler(dataset, rays_per_batch=rays_per_batch, subvolumes_per_batch=64)
    loader = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate_ray_batch, num_workers=1, persistent_workers=True
    )
    rates = []
    for turn in range(PASSES + 1):
        batches = iter(loader)
        next(batches)
        began = time.perf_counter()
        rays = sum(len(batch["origins"]) for batch in batches)
        if turn:
            rates.append(rays / (time.perf_counter() - began))
    return statistics.median(rates)


def random_sample(dataset: HierarchicalVoxelRayDataset) -> float:
    """Milliseconds of a random sample with all its rays."""
    order = torch.randint(len(dataset), (500,), generator=torch.Generator().manual_seed(0)).tolist()
    times = []
    for index in order:
        began = time.perf_counter()
        dataset[index]
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset", type=Path, required=True)
    options.add_argument("--rays", type=Path, required=True)
    options.add_argument("--output", type=Path, help="a JSON file to write the figures to")
    given = options.parse_args()
    dataset = HierarchicalVoxelRayDataset(given.dataset, given.rays, cache_size=1_000_000)
    figures = {
        "machine": machine(),
        "samples": len(dataset),
        "random_sample_ms": random_sample(dataset),
        "cache_bytes_held": dataset.cache.bytes,
        "rays_per_second": {str(size): delivered(dataset, size) for size in (4096, 65_536)},
    }
    print(json.dumps(figures, indent=2))
    if given.output is not None:
        given.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
