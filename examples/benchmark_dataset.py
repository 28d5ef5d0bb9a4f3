"""How fast a dataset of traced rays is read, section by section.

python examples/benchmark_dataset.py --benchmarks single loader
python examples/benchmark_dataset.py
"""

import statistics
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import torch
from shape_folders import parser
from torch.utils.data import DataLoader

from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayBatchSampler, collate_ray_batch, transforms


def opened(given: Namespace, **options: Any) -> HierarchicalVoxelRayDataset:
    return HierarchicalVoxelRayDataset(given.dataset_dir, given.ray_dataset_dir, given.split, **options)


def drained(loader: Iterable[Any], most: int) -> tuple[int, int, float]:
    """Batches, rays and seconds of a loader after its first batch, for which workers are started."""
    batches = iter(loader)
    next(batches)
    began, count, rays = time.perf_counter(), 0, 0
    for batch in batches:
        count += 1
        rays += batch["origins"].shape[:-1].numel()
        if count == most:
            break
    return count, rays, time.perf_counter() - began


def exact(dataset: HierarchicalVoxelRayDataset, rays: int, workers: int) -> DataLoader[Any]:
    sampler = RayBatchSampler(dataset, rays_per_batch=rays, subvolumes_per_batch=8)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_ray_batch, num_workers=workers)


def visits(given: Namespace, dataset: HierarchicalVoxelRayDataset) -> list[float]:
    """Milliseconds of random samples."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in torch.randint(len(dataset), (given.samples,), generator=generator).tolist():
        began = time.perf_counter()
        dataset[index]
        found.append(1e3 * (time.perf_counter() - began))
    return found


def single(given: Namespace) -> None:
    times = visits(given, opened(given))
    print(f"  a random sample: median {statistics.median(times):.3f} ms, slowest {max(times):.3f} ms")


def loader(given: Namespace) -> None:
    plain = DataLoader(opened(given), batch_size=8, shuffle=True)
    count, rays, seconds = drained(plain, given.batches)
    print(f"  torch's own batches of 8: {count / seconds:,.1f} batches/s, {rays / seconds:,.0f} rays/s")


def batch(given: Namespace) -> None:
    for size in (1, 4, 16, 32):
        _, rays, seconds = drained(DataLoader(opened(given), batch_size=size, shuffle=True), given.batches)
        print(f"  batches of {size:2}: {rays / seconds:,.0f} rays/s")


def rays(given: Namespace) -> None:
    for size in (4096, 65_536):
        count, total, seconds = drained(exact(opened(given), size, 1), given.batches)
        print(f"  {size:6} rays a batch, 1 worker: {total / seconds:,.0f} rays/s in {count} batches")


def cache(given: Namespace) -> None:
    for size in (0, 10, 100, 1000):
        dataset = opened(given, cache_size=size)
        visits(given, dataset)
        print(
            f"  cache_size {size:4}: {statistics.median(visits(given, dataset)):.3f} ms, {dataset.cache.bytes:,} bytes"
        )


def transform(given: Namespace) -> None:
    for one in (
        None,
        transforms.RandomRotation90(p=1.0),
        transforms.RandomFlip(p=1.0),
        transforms.NormalizeRayOrigins(),
        transforms.RandomRaySubsample(256),
        transforms.AddNoise(),
        transforms.VoxelOccupancyJitter(),
    ):
        times = visits(given, opened(given, transform=one))
        print(f"  {type(one).__name__ if one else 'none':22} {statistics.median(times):.3f} ms")


def memory(given: Namespace) -> None:
    import psutil

    process = psutil.Process()
    for budget in ("16MB", "64MB", "256MB"):
        before = process.memory_info().rss
        dataset = opened(given, cache_size=1_000_000, cache_bytes=budget)
        visits(given, dataset)
        grown = process.memory_info().rss - before
        print(f"  cache_bytes {budget:>5}: {dataset.cache.bytes:,} bytes held, process grew by {grown / 1e6:.0f} MB")


def workers(given: Namespace) -> None:
    for count in (0, 1, 2, 4):
        _, total, seconds = drained(exact(opened(given), 16_384, count), given.batches)
        print(f"  num_workers {count}: {total / seconds:,.0f} rays/s")


SECTIONS = {one.__name__: one for one in (single, loader, batch, rays, cache, transform, memory, workers)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--benchmarks", nargs="+", default=["all"], choices=("all", *SECTIONS))
    options.add_argument("--samples", type=int, default=200, help="random samples of a measurement")
    options.add_argument("--batches", type=int, default=50, help="most batches of a measurement")
    given = options.parse_args()
    for name, section in SECTIONS.items():
        if name in given.benchmarks or "all" in given.benchmarks:
            print(f"\n{name}")
            section(given)


if __name__ == "__main__":
    main()
