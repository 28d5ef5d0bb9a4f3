import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import voxfield
from voxfield.data.voxel_datasets import (
    BlockShuffle,
    PointCloudVoxelDataset,
    PrerenderedVoxelDataset,
    VoxelAugment,
    split_indices,
)
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.prerendered import write_metadata
from voxfield.voxels.point_grid import PointGridSettings

DIMS = (4.0, 4.0, 2.0)
GRID = {"voxel_size": (8, 8, 6), "volume_dims": DIMS, "threshold": 0.01}


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Ten clouds; the third is empty of finite points."""
    path = tmp_path_factory.mktemp("clouds") / "clouds.h5"
    points = np.random.default_rng(0).random((10, 40, 3)) * DIMS
    points[2] = np.nan
    with h5py.File(path, "w") as file:
        file["pointclouds"] = points.astype(np.float32)
    return path


def rendered(clouds, folder, **parameters):
    options = {**GRID, "batch_size": 4, "workers": 1, "quiet": True, **parameters}
    return voxfield.prerender(clouds, folder, **options).output


@pytest.fixture(scope="module")
def folder(clouds, tmp_path_factory):
    return rendered(clouds, tmp_path_factory.mktemp("rendered") / "d")


def test_items(folder):
    dataset = PrerenderedVoxelDataset(folder)
    assert len(dataset) == 9
    assert repr(dataset) == "PrerenderedVoxelDataset(9 samples (all) of 8 x 8 x 6 voxels)"
    assert dataset.indices.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    item = dataset[2]
    assert set(item) == {"voxels", "index"}
    assert (item["voxels"].shape, item["voxels"].dtype, item["index"]) == ((1, 6, 8, 8), torch.float32, 3)
    assert float(item["voxels"].min()) == -1
    assert float(item["voxels"].max()) == 1
    assert dataset[-1]["index"] == 9
    assert [one["index"] for one in dataset][:3] == [0, 1, 3]
    with pytest.raises(IndexError):
        _ = dataset[9]
    raw = PrerenderedVoxelDataset(folder, normalise=False)[2]["voxels"]
    assert torch.allclose(dataset.denormalised(item["voxels"]), raw, atol=1e-6)
    assert float(raw.min()) == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("normalise", ["sample", "global", "none"])
def test_both_datasets_give_the_same(clouds, tmp_path, dtype, normalise):
    parameters = {"normalise": normalise, "threshold": 0.0}
    stored = PrerenderedVoxelDataset(rendered(clouds, tmp_path / "d", dtype=dtype, **parameters))
    fresh = PointCloudVoxelDataset(clouds, PointGridSettings(**{**GRID, **parameters}))
    assert stored.value_range == pytest.approx(fresh.value_range, rel=1e-3, abs=1e-3)
    tolerance = {"float32": 0, "float16": 2e-3, "uint8": 6e-3}[dtype]
    for position, index in enumerate(stored.indices[:4].tolist()):
        assert stored[position]["index"] == fresh[index]["index"] == index
        torch.testing.assert_close(stored[position]["voxels"], fresh[index]["voxels"], atol=tolerance, rtol=tolerance)


def test_clouds_that_fail_are_named(clouds):
    dataset = PointCloudVoxelDataset(clouds, PointGridSettings(**GRID))
    with pytest.raises(InputError, match=r"clouds\.h5\[2\]: none of its 40 points is finite"):
        _ = dataset[2]
    with pytest.raises(InputError, match="none of 10 clouds could be rendered"):
        PointCloudVoxelDataset(clouds, PointGridSettings(**GRID, volume_origin=(99, 0, 0), normalise="global"))


def test_a_volume_that_is_not_given_is_measured(clouds):
    dataset = PointCloudVoxelDataset(clouds, PointGridSettings(voxel_size=8), cache=2)
    assert dataset.grid.volume_dims is not None
    assert all(size <= most for size, most in zip(dataset.grid.volume_dims, DIMS, strict=True))
    # Cached grids are not the caller's to change.
    dataset[0]["voxels"].zero_()
    assert float(dataset[0]["voxels"].max()) == 1


def test_splits_are_seeded_and_share_nothing(folder, clouds):
    train, val = (PrerenderedVoxelDataset(folder, split=split, train_ratio=0.7) for split in ("train", "val"))
    assert len(train) == 6
    assert sorted([*train.indices, *val.indices]) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    again = PrerenderedVoxelDataset(folder, split="train", train_ratio=0.7)
    assert again.indices.tolist() == train.indices.tolist()
    other = PrerenderedVoxelDataset(folder, split="train", train_ratio=0.7, seed=1)
    assert other.indices.tolist() != train.indices.tolist()
    assert train.value_range == val.value_range
    fresh = PointCloudVoxelDataset(clouds, PointGridSettings(**GRID), split="val", train_ratio=0.7)
    # The sample that failed moves at most one other.
    assert len(set(fresh.indices) - {2} - set(val.indices)) <= 1


def test_split_sizes():
    numbers = np.arange(5)
    assert [len(split_indices(numbers, split, train_ratio=0.999)) for split in ("train", "val")] == [4, 1]
    assert [len(split_indices(numbers, split, train_ratio=0.001)) for split in ("train", "val")] == [1, 4]
    assert [len(split_indices(numbers, split, train_ratio=1)) for split in ("train", "val")] == [5, 0]
    assert [len(split_indices(numbers[:1], split)) for split in ("train", "val")] == [1, 0]
    for change in ({"split": "test"}, {"split": "train", "train_ratio": 0}, {"split": "val", "train_ratio": 1.5}):
        with pytest.raises(InputError):
            split_indices(numbers, **change)


def test_augmentation_is_seeded_by_epoch_and_sample(folder):
    dataset = PrerenderedVoxelDataset(folder, augment=True)
    first = [dataset[i]["voxels"] for i in range(9)]
    assert all(torch.equal(dataset[i]["voxels"], first[i]) for i in (8, 0, 4))
    dataset.set_epoch(1)
    assert any(not torch.equal(dataset[i]["voxels"], first[i]) for i in range(9))
    plain = PrerenderedVoxelDataset(folder)
    still = PrerenderedVoxelDataset(folder, augment=VoxelAugment(rotate=1, flip=1, noise=0))
    for i in range(9):
        # Layers keep their contents: turns and mirrorings are about z.
        one, other = still[i]["voxels"].flatten(2), plain[i]["voxels"].flatten(2)
        assert torch.equal(one.sort(-1).values, other.sort(-1).values)
    noisy = PrerenderedVoxelDataset(folder, augment=VoxelAugment(rotate=0, flip=0, noise=1, noise_sigma=0.05))
    difference = torch.cat([noisy[i]["voxels"] - plain[i]["voxels"] for i in range(9)])
    assert float(difference.std()) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(InputError, match="noise"):
        VoxelAugment(noise=2)


def test_turning_a_grid_that_is_not_square():
    voxels = torch.arange(12.0).reshape(1, 1, 3, 4)
    turned = VoxelAugment(rotate=1, flip=0, noise=0).apply(voxels, 1.0, np.random.default_rng(0))
    assert torch.equal(turned, voxels.flip((2, 3)))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same(folder, context):
    if context == "fork" and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    dataset = PrerenderedVoxelDataset(folder, augment=True)
    expected = [dataset[i]["voxels"] for i in range(9)]  # files are open before workers start
    loader = DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert torch.equal(torch.cat([one["voxels"] for one in batches]), torch.stack(expected))
    assert torch.cat([one["index"] for one in batches]).tolist() == dataset.indices.tolist()


def test_running_workers_learn_of_the_epoch(folder):
    dataset = PrerenderedVoxelDataset(folder, augment=True)
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    first = torch.cat([one["voxels"] for one in loader])
    dataset.set_epoch(5)
    second = torch.cat([one["voxels"] for one in loader])
    assert not torch.equal(first, second)
    assert torch.equal(second[4], dataset[4]["voxels"])


def test_survives_pickling(folder):
    dataset = PrerenderedVoxelDataset(folder)
    expected = dataset[3]["voxels"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3]["voxels"], expected)


def test_no_more_files_are_open_than_needed(folder, monkeypatch):
    from voxfield.data import voxel_datasets

    monkeypatch.setattr(voxel_datasets, "_MOST_OPEN", 1)
    dataset = PrerenderedVoxelDataset(folder)
    for position in (0, 8, 4, 0):
        assert dataset[position]["voxels"].shape == (1, 6, 8, 8)
        assert len(dataset._open) == 1


def write_foreign(folder, chunks, count=7):
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = rng.random((count, 8, 8, 8), np.float32)
    for number, rows in enumerate((slice(0, 4), slice(4, count))):
        with h5py.File(folder / f"voxels_batch_{number:04d}.h5", "w") as file:
            file.create_dataset("voxels", data=values[rows], chunks=chunks, compression="gzip")
            file["indices"] = np.arange(count, dtype=np.int32)[rows]
    write_metadata(folder, {"source_h5": "x.h5", "voxel_size": 8, "total_samples": count, "batch_size": 4})
    return values


def test_folders_of_other_programs_are_read(tmp_path):
    values = write_foreign(tmp_path / "d", (2, 8, 8, 4))
    dataset = PrerenderedVoxelDataset(tmp_path / "d")
    assert dataset.value_range == (values.min(), values.max())
    raw = PrerenderedVoxelDataset(tmp_path / "d", normalise=False)
    assert np.array_equal(torch.stack([one["voxels"] for one in raw])[:, 0].numpy(), values)


def test_samples_of_a_chunk_are_read_together(tmp_path, folder):
    write_foreign(tmp_path / "d", (2, 8, 8, 4))
    dataset = PrerenderedVoxelDataset(tmp_path / "d")
    assert dataset.blocks() == [[0, 1], [2, 3], [4, 5], [6]]
    sampler = BlockShuffle(dataset, seed=3)
    order = list(sampler)
    assert len(sampler) == 7
    assert sorted(order) == list(range(7))
    chunk = [dataset._locate(position)[0] * 10 + dataset._locate(position)[1] // 2 for position in order]
    assert sum(a != b for a, b in zip(chunk, chunk[1:], strict=False)) == 3
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order
    ours = PrerenderedVoxelDataset(folder)
    assert len(ours.blocks()) == 9
    assert [one["index"].item() for one in DataLoader(ours, sampler=BlockShuffle(ours))] != ours.indices.tolist()


def copy(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(MissingFileError, match="the metadata file does not exist"):
        PrerenderedVoxelDataset(tmp_path / "none")
    there = copy(folder, tmp_path / "d")
    (there / "voxels_batch_0001.h5").unlink()
    with pytest.raises(MissingFileError, match=r"voxels_batch_0001\.h5: no such file"):
        PrerenderedVoxelDataset(there)
    for path in there.glob("*.h5"):
        path.unlink()
    with pytest.raises(MissingFileError, match=r"no batch files .* were found"):
        PrerenderedVoxelDataset(there)
    there = copy(folder, tmp_path / "e")
    (there / "metadata.yaml").unlink()
    with pytest.raises(MissingFileError, match="was not completed"):
        PrerenderedVoxelDataset(there)


def test_batches_of_two_runs_are_not_mixed(clouds, folder, tmp_path):
    there = copy(folder, tmp_path / "d")
    other = rendered(clouds, tmp_path / "e", sigma=2.0)
    (there / "voxels_batch_0002.h5").write_bytes((other / "voxels_batch_0002.h5").read_bytes())
    with pytest.raises(FormatError, match=r"voxels_batch_0002\.h5: is of another run"):
        PrerenderedVoxelDataset(there)
    there = copy(folder, tmp_path / "f")
    (there / "voxels_batch_0007.h5").write_bytes((there / "voxels_batch_0002.h5").read_bytes())
    with pytest.raises(FormatError, match=r"voxels_batch_0007\.h5: has 2 samples, metadata\.yaml states None"):
        PrerenderedVoxelDataset(there)


def test_half_written_batches_are_named(folder, tmp_path):
    there = copy(folder, tmp_path / "d")
    path = there / "voxels_batch_0001.h5"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(FormatError, match=r"voxels_batch_0001\.h5: cannot be read.*half-written.*made anew"):
        PrerenderedVoxelDataset(there)
    there = copy(folder, tmp_path / "e")
    with h5py.File(there / "voxels_batch_0000.h5", "r+") as file:
        file["voxels"].id.write_direct_chunk((1, 0, 0, 0), b"damaged")
    dataset = PrerenderedVoxelDataset(there)
    assert dataset[0]["voxels"].shape == (1, 6, 8, 8)
    with pytest.raises(FormatError, match=r"voxels_batch_0000\.h5: sample 1 cannot be read"):
        _ = dataset[1]


def test_one_switch_chooses(clouds, folder):
    data = {"h5_file_path": str(clouds), "prerendered_dir": str(folder), **GRID, "train_ratio": 0.7}
    threshold = {"threshold": data.pop("threshold")}
    stored = voxfield.voxel_dataset({"data": {**data, "use_prerendered": True}, "prerender": threshold}, "train")
    fresh = voxfield.voxel_dataset({"data": {**data, "use_prerendered": False}, "prerender": threshold}, "train")
    assert isinstance(stored, voxfield.PrerenderedVoxelDataset)
    assert isinstance(fresh, voxfield.PointCloudVoxelDataset)
    shared = sorted(set(stored.indices) & set(fresh.indices))
    for index in shared[:3]:
        one, other = (dataset[list(dataset.indices).index(index)]["voxels"] for dataset in (stored, fresh))
        assert torch.equal(one, other)
    # The clouds are not needed.
    data["h5_file_path"] = "gone.h5"
    assert len(voxfield.voxel_dataset({"data": {**data, "use_prerendered": True}})) == 9
    options = {"cache_voxels": True, "augment": True, "normalize": False, "h5_file_path": str(clouds)}
    fresh = voxfield.voxel_dataset({"data": {**data, **options}}, augment=False)
    assert fresh.augment is None
    assert float(fresh[0]["voxels"].min()) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": {"use_prerendered": True}}, "use_prerendered needs data.prerendered_dir"),
        ({"data": {}}, "data.h5_file_path must name the point clouds"),
        ({"data": {"use_prerenderd": True}}, "Did you mean use_prerendered"),
        ({"data": {"use_prerendered": True, "prerendered_dir": "D", "voxel_size": 64}}, "voxel_size is 64, but .* was"),
        ({"data": {"use_prerendered": True, "prerendered_dir": "D"}, "prerender": {"threshold": 0.5}}, "threshold is"),
    ],
)
def test_bad_configurations(folder, config, message):
    if config["data"].get("prerendered_dir") == "D":
        config["data"]["prerendered_dir"] = str(folder)
    with pytest.raises(InputError, match=message):
        voxfield.voxel_dataset(config)
