"""A few seconds that say whether a dataset and its rays can be read, and how fast.

python examples/quick_timing_test.py --dataset-dir dataset --ray-dataset-dir ray_dataset_hierarchical
"""

import time
from collections.abc import Callable
from typing import Any

from shape_folders import parser
from torch.utils.data import DataLoader

from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayBatchSampler, collate_ray_batch, transforms


def timed(call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = call()
    print(f"   Time: {time.perf_counter() - began:.4f}s")
    return result


def main() -> None:
    given = parser(__doc__).parse_args()
    folders = {"dataset_dir": given.dataset_dir, "ray_dataset_dir": given.ray_dataset_dir, "split": given.split}
    print("Quick Dataset Timing Test\n" + "=" * 60)

    print("\n1. Initializing dataset...")
    dataset = timed(lambda: HierarchicalVoxelRayDataset(**folders))
    print(f"   Dataset size: {len(dataset)} samples")

    print("\n2. First sample...")
    sample = timed(lambda: dataset[0])
    print(f"   Voxels {tuple(sample['voxels'].shape)}, {len(sample['origins']):,} rays, level {sample['level']}")

    print("\n3. Ten samples...")
    some = range(min(10, len(dataset)))
    timed(lambda: [dataset[index] for index in some])

    print("\n4. The same again, from the cache...")
    timed(lambda: [dataset[index] for index in some])

    print("\n5. Ten samples, turned and thinned out...")
    dataset.transform = transforms.Compose([transforms.RandomRotation90(), transforms.RandomRaySubsample(256)])
    timed(lambda: [dataset[index] for index in some])
    dataset.transform = None

    print("\n6. Batches of torch's own...")
    plain = DataLoader(dataset, batch_size=4, shuffle=True)
    batch = timed(lambda: next(iter(plain)))
    print(f"   Voxels {tuple(batch['voxels'].shape)}, origins {tuple(batch['origins'].shape)}")

    print("\n7. Batches of exactly 4096 rays...")
    sampler = RayBatchSampler(dataset, rays_per_batch=4096, subvolumes_per_batch=8)
    exact = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_ray_batch)
    batches = timed(lambda: [batch for _, batch in zip(range(10), exact, strict=False)])
    print(f"   {sum(len(batch['origins']) for batch in batches):,} rays in {len(batches)} batches")


if __name__ == "__main__":
    main()
