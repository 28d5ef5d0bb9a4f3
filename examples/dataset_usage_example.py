"""What a dataset of traced rays holds, and ways to read it.

python examples/dataset_usage_example.py --dataset-dir dataset --ray-dataset-dir ray_dataset_hierarchical
"""

from collections import Counter

from shape_folders import parser
from torch.utils.data import DataLoader

from voxfield.data.shape_rays import HierarchicalVoxelRayDataset, RayBatchSampler, collate_ray_batch, transforms


def main() -> None:
    given = parser(__doc__).parse_args()
    folders = {"dataset_dir": given.dataset_dir, "ray_dataset_dir": given.ray_dataset_dir, "split": given.split}

    dataset = HierarchicalVoxelRayDataset(**folders)
    print(f"{len(dataset)} samples by level: {dict(sorted(Counter(block.level for block in dataset.blocks).items()))}")

    print("\nA sample:")
    for name, value in dataset[0].items():
        print(f"  {name:16} {tuple(value.shape) if hasattr(value, 'shape') else value}")

    sample = dataset[len(dataset) - 1]
    hit = sample["hits"] > 0
    print(f"\nOf {len(hit):,} rays through {sample['hash'][:12]} {hit.float().mean():.0%} hit;")
    print(f"these cross {sample['distances'][hit].mean():.2f} voxels of matter on average.")

    print("\nTurned, in a cube from -1 to 1, 256 rays of each block:")
    augmented = HierarchicalVoxelRayDataset(
        **folders,
        transform=transforms.Compose(
            [
                transforms.RandomRotation90(p=0.5),
                transforms.RandomFlip(axes=[0, 1, 2], p=0.5),
                transforms.NormalizeRayOrigins(),
                transforms.RandomRaySubsample(num_rays=256),
            ]
        ),
    )
    batch = next(iter(DataLoader(augmented, batch_size=4, shuffle=True)))
    print(f"  voxels {tuple(batch['voxels'].shape)}, origins {tuple(batch['origins'].shape)}")

    print("\nExactly 4096 rays of 8 blocks, of whatever levels:")
    sampler = RayBatchSampler(dataset, rays_per_batch=4096, subvolumes_per_batch=8)
    batch = next(iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_ray_batch)))
    print(f"  {len(batch['origins']):,} rays, voxels {tuple(batch['voxels'].shape)}, levels {batch['levels'].tolist()}")

    print("\nAs graphs of occupied voxels:")
    deepest = max(block.level for block in dataset.blocks)
    graphs = HierarchicalVoxelRayDataset(**folders, levels=[deepest], sparse_voxels=True, sparse_mode="graph")
    batch = collate_ray_batch([graphs[index] for index in range(min(4, len(graphs)))])
    print(f"  {len(batch['voxel_pos']):,} voxels, {batch['voxel_edge_index'].shape[1]:,} edges")


if __name__ == "__main__":
    main()
