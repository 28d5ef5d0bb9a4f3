import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import voxfield
from voxfield.data.byte_cache import ByteBoundedCache
from voxfield.data.gathered_rays import GatheredRays
from voxfield.data.shape_rays import (
    HierarchicalVoxelRayDataset,
    RayBatchSampler,
    RayRequest,
    collate_ray_batch,
    transforms,
)
from voxfield.data.sparse_voxels import neighbour_edges, occupied_voxels
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.voxel_words import pack_voxels
from voxfield.storage.shape_splits import read_splits


@pytest.fixture
def make(shape_dataset, shape_rays):
    def build(layout: str = "packed", **options) -> HierarchicalVoxelRayDataset:
        return HierarchicalVoxelRayDataset(shape_dataset, shape_rays[layout], **options)

    return build


def same(one: dict, other: dict) -> bool:
    return all(
        torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
        for name, value in one.items()
    )


class TestSamples:
    def test_a_sample_holds_what_is_said_of_it(self, make):
        dataset = make()
        sample = dataset[0]
        rays = len(sample["origins"])
        assert sample["voxels"].shape == (1, 32, 32, 32)
        assert set(sample["voxels"].unique().tolist()) == {0.0, 1.0}
        assert (sample["hash"], sample["level"]) == (f"object_{dataset.blocks[0].name}", 0)
        assert torch.equal(sample["hits"], (sample["distances"] > 0).float())
        assert sample["view_positions"].shape == (4, 3)
        assert all(len(sample[name]) == rays for name in transforms.RAY_KEYS)
        sample["origins"].zero_()
        sample["voxels"].zero_()
        assert dataset[0]["origins"].abs().max() == 16, "a sample is nobody else's"
        assert dataset[0]["voxels"].any()

    def test_layouts_give_the_same_rays(self, make):
        one, other = make("files"), make("packed")
        assert one.blocks == other.blocks
        for index in range(0, len(one), 5):
            sums = [sample["distances"].double().sum() for sample in (one[index], other[index])]
            assert sums[0] == pytest.approx(sums[1])
            assert torch.equal(one[index]["voxels"], other[index]["voxels"])

    def test_blocks_belong_to_the_splits_of_their_objects(self, make, shape_dataset):
        splits = read_splits(shape_dataset)
        for split in ("train", "val", "test"):
            blocks = make(split=split).blocks
            objects = [block.name for block in blocks if block.level == 0]
            assert objects == sorted(name for name, of in splits.objects.items() if of == split)
            below = [block.name for block in blocks if block.level]
            assert all(name in splits.trivial or split in splits.usage[name].values() for name in below)
        assert {block.level for block in make(levels=[2]).blocks} == {2}

    def test_chunks_are_all_rays_once(self, make):
        whole, chunks = make(levels=[0]), make(levels=[0], rays_per_chunk=50)
        assert len(chunks) > 2 * len(whole)
        parts = [chunks[index] for index in range(len(chunks)) if chunks[index]["hash"] == whole[0]["hash"]]
        assert [part["chunk_idx"] for part in parts] == list(range(len(parts)))
        assert torch.equal(torch.cat([part["origins"] for part in parts]), whole[0]["origins"])

    @pytest.mark.parametrize("options", [{}, {"levels": [2]}, {"rays_per_chunk": 70}, {"ray_range": (0.2, 0.7)}])
    def test_a_batch_copied_at_once_is_that_of_its_samples(self, make, options):
        dataset = make(**options)
        for requests in RayBatchSampler(dataset, rays_per_batch=300, subvolumes_per_batch=5):
            together = dataset.__getitems__(requests)
            assert isinstance(together, GatheredRays)
            alone = [dataset[request] for request in requests]
            one, other = collate_ray_batch(together), collate_ray_batch(alone)
            assert one.keys() == other.keys()
            assert same(one, other)
            assert same(collate_ray_batch(list(together)), other)
            assert len(together[1:]) == len(alone) - 1

    @pytest.mark.parametrize("layout", ["files", "packed"])
    def test_blocks_up_to_symmetry_are_samples_as_they_lie(self, make, shape_meshes, tmp_path, layout):
        options = {"resolution": 32, "min_resolution": 8, "layout": layout, "workers": 1, "quiet": True}
        voxfield.build_shapes(shape_meshes, tmp_path / "d", symmetry=True, **options)
        voxfield.split_shapes(tmp_path / "d", train=0.5, val=0.25, test=0.25)
        voxfield.trace_shapes(
            tmp_path / "d", tmp_path / "r", sphere_divisions=2, samples_per_view=90, workers=1, quiet=True
        )
        turned, plain = HierarchicalVoxelRayDataset(tmp_path / "d", tmp_path / "r"), make()
        assert len(turned) == len(plain)
        assert any(turned.symmetries)
        contents = [
            sorted(sample["voxels"].numpy().tobytes() for sample in map(dataset.__getitem__, range(len(dataset))))
            for dataset in (turned, plain)
        ]
        assert contents[0] == contents[1]
        for index in range(0, len(turned), 7):
            sample = turned[index]
            side = sample["voxels"].shape[-1]
            origins = sample["origins"].double() + side / 2
            hits = traverse_voxels(origins, sample["directions"].double(), pack_voxels(sample["voxels"][0] > 0), side)
            torch.testing.assert_close(hits.chord, sample["distances"], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(hits.distance, sample["hit_distances"], atol=1e-4, rtol=1e-4)
            assert float((hits.voxel == sample["voxel_ids"]).double().mean()) > 0.99

    @pytest.mark.parametrize("layout", ["files", "packed"])
    def test_rays_are_held_out(self, make, layout):
        kept, held = (make(layout, levels=[1], ray_range=share)[0] for share in ((0.0, 0.75), (0.75, 1.0)))
        together = torch.cat([kept["origins"], held["origins"]])
        assert torch.equal(together, make(layout, levels=[1])[0]["origins"])
        assert len(kept["origins"]) == 3 * len(held["origins"])

    @pytest.mark.parametrize("layout", ["files", "packed"])
    def test_draws_are_without_repetition_and_repeat_by_seed(self, make, layout):
        dataset = make(layout, samples_per_subvolume=40)
        first, second = dataset[0], dataset[0]
        assert len(first["origins"].unique(dim=0)) == 40
        assert not torch.equal(first["origins"], second["origins"])
        again = make(layout, samples_per_subvolume=40)
        assert same(first, again[0])
        assert same(second, again[0])
        assert not same(first, make(layout, samples_per_subvolume=40, seed=7)[0])
        dataset.set_epoch(0)
        assert same(first, dataset[0])

    def test_empty_blocks_are_met_by_rays_that_miss(self, shape_meshes, tmp_path):
        voxfield.build_shapes(
            shape_meshes, tmp_path / "d", resolution=16, min_resolution=8, full_tree=True, workers=1, quiet=True
        )
        voxfield.trace_shapes(
            tmp_path / "d", tmp_path / "r", sphere_divisions=1, samples_per_view=9, workers=1, quiet=True
        )
        without = HierarchicalVoxelRayDataset(tmp_path / "d", tmp_path / "r")
        dataset = HierarchicalVoxelRayDataset(tmp_path / "d", tmp_path / "r", include_empty=True)
        assert len(dataset) == len(without) + 1
        empty = dataset[len(dataset) - 1]
        assert not empty["voxels"].any()
        assert not empty["hits"].any()
        assert torch.isinf(empty["hit_distances"]).all()
        assert (empty["voxel_ids"] == -1).all()

    def test_sparse_samples_and_graphs(self, make):
        dense, sparse = make(levels=[2]), make(levels=[2], sparse_voxels=True, sparse_mode="graph")
        batch = collate_ray_batch([sparse[0], sparse[1]])
        first = torch.zeros(1, *batch["voxel_shapes"][0].tolist())
        x, y, z = batch["voxel_pos"][batch["voxel_batch"] == 0].unbind(1)
        first[0, z, y, x] = 1.0
        assert torch.equal(first, dense[0]["voxels"])
        ends = batch["voxel_batch"][batch["voxel_edge_index"]]
        assert torch.equal(ends[0], ends[1]), "no edge leads from one block to another"
        steps = batch["voxel_pos"][batch["voxel_edge_index"]].diff(dim=0).abs().sum(-1)
        assert (steps == 1).all()


class TestBatches:
    def test_torchs_own_collating_stacks_mixed_levels(self, make):
        dataset = make()
        indices = [0, len(dataset) // 2, len(dataset) - 1]
        levels = [dataset[index]["level"] for index in indices]
        assert len(set(levels)) > 1
        batch = next(iter(DataLoader(dataset, batch_sampler=[indices])))
        assert batch["voxels"].shape == (3, 1, 32, 32, 32)
        assert batch["origins"].shape == (3, min(dataset.num_rays(index) for index in indices), 3)
        assert batch["level"].tolist() == levels
        ragged = make(uniform_batches=False, samples_per_subvolume=None)
        with pytest.raises(RuntimeError):
            default_collate(ragged.__getitems__(indices))

    def test_batches_have_exactly_their_rays(self, make):
        dataset = make()
        sampler = RayBatchSampler(dataset, rays_per_batch=300, subvolumes_per_batch=4)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_ray_batch)
        seen = []
        for batch in loader:
            assert len(batch["origins"]) == len(batch["ray_to_voxel"]) == 300
            assert batch["voxels"].shape[:2] == (len(batch["hashes"]), 1)
            assert batch["voxel_shapes"].tolist() == [[32 >> level] * 3 for level in batch["levels"].tolist()]
            counts = batch["ray_to_voxel"].bincount()
            assert counts.max() - counts.min() <= 1
            seen += batch["hashes"]
        assert len(seen) == len(sampler) * 4 - (-len(dataset) % 4)
        assert sorted(seen) == sorted(dataset[index]["hash"] for index in range(len(dataset)))

    def test_blocks_with_fewer_rays_give_all(self, make):
        dataset = make(ray_range=(0.0, 0.1))
        counts = [dataset.num_rays(index) for index in range(3)]
        batch = next(iter(RayBatchSampler(dataset, 10_000, 3, shuffle=False)))
        assert [request.rays for request in batch] == counts

    def test_epochs_differ_and_repeat(self, make):
        sampler = RayBatchSampler(make(), 64, 4)
        first, second = list(sampler), list(sampler)
        assert first != second
        sampler.set_epoch(0)
        assert list(sampler) == first
        assert list(RayBatchSampler(make(), 64, 4, seed=5)) != first

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_processes_share_the_batches_evenly(self, make, drop_last):
        parts = [
            list(RayBatchSampler(make(), 64, 4, drop_last=drop_last, num_replicas=3, rank=rank)) for rank in range(3)
        ]
        assert len({len(part) for part in parts}) == 1
        whole = list(RayBatchSampler(make(), 64, 4))
        assert all(batch in whole for part in parts for batch in part)
        if not drop_last:
            assert {request.sample for part in parts for batch in part for request in batch} == set(range(len(make())))

    @pytest.mark.timeout(600)
    def test_workers_give_what_one_process_gives(self, make):
        dataset = make(transform=transforms.Compose([transforms.RandomRotation90(), transforms.AddNoise()]))

        def batches(workers: int) -> list[dict]:
            sampler = RayBatchSampler(dataset, 64, 8)
            context = "spawn" if workers else None
            return list(
                DataLoader(
                    dataset,
                    batch_sampler=sampler,
                    collate_fn=collate_ray_batch,
                    num_workers=workers,
                    multiprocessing_context=context,
                )
            )

        assert all(same(one, other) for one, other in zip(batches(0), batches(1), strict=True))

    def test_graphs_of_neighbours(self):
        block = torch.ones(1, 2, 2, 2)
        places = occupied_voxels(block)
        for connectivity, edges in ((6, 24), (18, 48), (26, 56)):
            found = neighbour_edges(places, connectivity)
            assert found.shape == (2, edges)
            assert len({tuple(pair) for pair in found.T.tolist()}) == edges
        assert neighbour_edges(places[:0]).shape == (2, 0)
        with pytest.raises(InputError, match="connectivity"):
            neighbour_edges(places, 7)


def test_the_cache_stays_within_its_bounds():
    cache = ByteBoundedCache(3, 1000)
    made = []

    def get(key: str, size: int):
        return cache.get(key, lambda: made.append(key) or {"a": np.zeros(size, np.uint8)})

    for key in "abc":
        get(key, 300)
    get("a", 300)
    get("d", 100)
    assert (len(cache), cache.bytes) == (3, 700), "b was used least"
    get("a", 300)
    get("b", 300)
    get("huge", 5000)
    assert made == ["a", "b", "c", "d", "b", "huge"]
    assert cache.bytes <= 1000
    assert len(cache.emptied()) == 0


class TestFaults:
    def test_missing_splits_say_how_to_make_them(self, shape_dataset, shape_rays, tmp_path):
        copy = Path(shutil.copytree(shape_dataset, tmp_path / "d"))
        (copy / "splits.json").unlink()
        with pytest.raises(MissingFileError, match=r"Splits file not found: .*voxfield dataset split"):
            HierarchicalVoxelRayDataset(copy, shape_rays["packed"])

    def test_a_split_without_samples(self, shape_dataset, shape_rays, tmp_path, make):
        copy = Path(shutil.copytree(shape_dataset, tmp_path / "d"))
        voxfield.split_shapes(copy, train=1.0, val=0.0)
        content = json.loads((copy / "splits.json").read_text())
        (copy / "splits.json").write_text(json.dumps(content | {"trivial_hashes": []}))
        with pytest.raises(InputError, match=r"No samples found for split 'test'.*voxfield dataset split"):
            HierarchicalVoxelRayDataset(copy, shape_rays["packed"], split="test")
        with pytest.raises(InputError, match=r"No samples found .* at levels \[7\]"):
            make(levels=[7])

    def test_rays_of_another_dataset(self, shape_rays, tmp_path):
        (tmp_path / "one.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 7\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n")
        voxfield.build_shapes(tmp_path / "one.obj", tmp_path / "d", resolution=32, min_resolution=8, quiet=True)
        with pytest.raises(FormatError, match="of another dataset"):
            HierarchicalVoxelRayDataset(tmp_path / "d", shape_rays["packed"])

    @pytest.mark.parametrize(
        "options",
        [
            {"split": "trian"},
            {"cache_size": -1},
            {"cache_bytes": "much"},
            {"rays_per_chunk": 0},
            {"ray_range": (0.5, 0.5)},
            {"sparse_mode": "dense"},
            {"sparse_connectivity": 7},
            {"samples_per_subvolume": 0},
        ],
    )
    def test_bad_settings(self, make, options):
        with pytest.raises(InputError):
            make(**options)

    @pytest.mark.parametrize("options", [{"rays_per_batch": 3}, {"subvolumes_per_batch": 0}, {"rank": 2}])
    def test_bad_settings_of_the_sampler(self, make, options):
        with pytest.raises(InputError):
            RayBatchSampler(make(), **options)

    def test_nothing_to_collate(self):
        with pytest.raises(InputError):
            collate_ray_batch([])

    def test_requests_outside(self, make):
        dataset = make()
        with pytest.raises(IndexError):
            dataset[RayRequest(len(dataset), 3, 0)]
