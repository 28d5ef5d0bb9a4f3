from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from voxfield.data.shape_family import FAMILIES, procedural_shape
from voxfield.data.volume_batches import (
    ArrayVolumes,
    ProceduralShapes,
    VolumeOptions,
    VolumeSampler,
    open_volumes,
    split_indices,
)
from voxfield.errors import FormatError, InputError, MissingFileError

OPTIONS = VolumeOptions()


def volumes(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).random((count, 4, 6, 8), np.float32)


def test_shapes_are_shares_of_voxels_and_differ() -> None:
    made = [procedural_shape(index, 16) for index in range(2 * len(FAMILIES))]
    for one in made:
        assert one.shape == (16, 16, 16)
        assert 0.0 <= float(one.min()) < float(one.max()) <= 1.0
        assert 0.01 < float(one.mean()) < 0.6
        # Nothing touches the border: a shape ends within its volume.
        assert float(one[0].max()) + float(one[:, 0].max()) + float(one[:, :, 0].max()) < 1.0
    assert all(not torch.equal(made[index], made[index + len(FAMILIES)]) for index in range(len(FAMILIES)))
    assert torch.equal(procedural_shape(3, 16), made[3])
    assert not torch.equal(procedural_shape(3, 16, seed=1), made[3])


def test_a_ball_has_its_volume() -> None:
    index, finest = 0, 48
    coarse, fine = (float(procedural_shape(index, size).mean()) for size in (16, finest))
    assert coarse == pytest.approx(fine, rel=0.03)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_arrays_are_read_from_files(ending: str, tmp_path: Path) -> None:
    path, values, labels = tmp_path / f"data{ending}", volumes(), np.array([0, 1, 2, 0, 1, 2])
    if ending == ".npy":
        np.save(path, values)
    elif ending == ".npz":
        np.savez(path, voxels=values, labels=labels)
    else:
        with h5py.File(path, "w") as file:
            file["voxels"], file["labels"] = values, labels
    opened = open_volumes(path, OPTIONS)
    assert len(opened) == 6
    assert opened.shape == (4, 6, 8)
    np.testing.assert_array_equal(opened.volume(2).numpy(), values[2])
    assert opened.classes == (0 if ending == ".npy" else 3)
    assert opened.label(4) == (0 if ending == ".npy" else 1)


def test_other_values_are_brought_to_zero_and_one_by_those_of_all(tmp_path: Path) -> None:
    values = (volumes() * 200).astype(np.uint8)
    np.save(tmp_path / "data.npy", values)
    opened = open_volumes(tmp_path / "data.npy", OPTIONS)
    together = torch.stack([opened.volume(index) for index in range(6)])
    low, high = values.min(), values.max()
    np.testing.assert_allclose(together.numpy(), (values - float(low)) / float(high - low), atol=1e-6)


def test_a_prerendered_folder_is_read(tmp_path: Path) -> None:
    import voxfield

    clouds = np.random.default_rng(0).random((3, 50, 3)).astype(np.float32)
    np.save(tmp_path / "clouds.npy", clouds)
    voxfield.prerender([tmp_path / "clouds.npy"], tmp_path / "out", voxel_size=8, quiet=True)
    opened = open_volumes(tmp_path / "out", OPTIONS)
    assert (len(opened), opened.shape, opened.classes) == (3, (8, 8, 8), 0)
    assert 0.0 <= float(opened.volume(0).min()) <= float(opened.volume(0).max()) <= 1.0


def test_files_that_hold_no_volumes_say_so(tmp_path: Path) -> None:
    bad = volumes()
    bad[3, 0, 0, 0] = np.nan
    files = {
        "flat.npy": np.zeros((4, 4)),
        "nan.npy": bad,
        "same.npy": np.ones((2, 4, 4, 4)),
        "text.npy": np.array(["a", "b"]),
    }
    for name, array in files.items():
        np.save(tmp_path / name, array)
    expected = {"flat.npy": "N, D, H, W", "nan.npy": "volume 3", "same.npy": "nothing to learn", "text.npy": "numbers"}
    for name, match in expected.items():
        with pytest.raises(FormatError, match=match):
            open_volumes(tmp_path / name, OPTIONS)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF")
    (tmp_path / "cut.npz").write_bytes(b"PK")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "some.txt").write_text("no volumes")
    for name in ("objects.npy", "cut.h5", "cut.npz", "cut.npy", "some.txt"):
        with pytest.raises(FormatError, match=name):
            open_volumes(tmp_path / name, OPTIONS)
    with pytest.raises(MissingFileError, match="procedural"):
        open_volumes(tmp_path / "absent.npy", OPTIONS)
    with pytest.raises(FormatError, match="labels"):
        ArrayVolumes(volumes(), np.array([0, -1, 0, 0, 0, 0]), source="data")


def test_arrays_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, one=volumes(), two=volumes(2))
    assert len(open_volumes(path, VolumeOptions(key="two"))) == 2
    with pytest.raises(FormatError, match="holds no array 'three'; it has one, two"):
        open_volumes(path, VolumeOptions(key="three"))
    with pytest.raises(FormatError, match=r"Name one with data\.key"):
        open_volumes(path, OPTIONS)


def test_splits_share_nothing_and_leave_nothing_out() -> None:
    parts = [split_indices(50, name, OPTIONS) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [45, 3, 2]
    assert sorted(index for part in parts for index in part) == list(range(50))
    assert parts[0] != split_indices(50, "train", VolumeOptions(split_seed=1))
    assert split_indices(50, "val", VolumeOptions(train_ratio=1.0)) == []
    with pytest.raises(InputError, match="split"):
        split_indices(50, "all", OPTIONS)  # type: ignore[arg-type]


def test_every_volume_comes_once_an_epoch_and_batches_depend_on_the_step_alone() -> None:
    shapes = ProceduralShapes(8, 8)
    device = torch.device("cpu")
    sampler = VolumeSampler(shapes, [0, 1, 2, 4, 5, 7], seed=3, augment=False, device=device)
    labels = torch.cat([sampler.sample(2, step).labels for step in range(3)])
    assert sorted(labels.tolist()) == [0, 1, 2, 4, 5, 7]
    first = sampler.sample(2, 0)
    assert first.volumes.shape == (2, 1, 8, 8, 8)
    fresh = VolumeSampler(shapes, [0, 1, 2, 4, 5, 7], seed=3, augment=False, device=device)
    sampler.sample(2, 4)
    assert torch.equal(sampler.sample(2, 5).volumes, fresh.sample(2, 5).volumes)
    with pytest.raises(InputError, match="no volume"):
        VolumeSampler(shapes, [], seed=0, augment=False, device=device)


def test_augmented_volumes_are_turned_about_z_only() -> None:
    shapes = ProceduralShapes(8, 8)
    plain, turned = (
        VolumeSampler(shapes, range(8), seed=0, augment=augment, device=torch.device("cpu")).sample(8, 0)
        for augment in (False, True)
    )
    assert not torch.equal(plain.volumes, turned.volumes)
    torch.testing.assert_close(plain.volumes.sum((1, 3, 4)), turned.volumes.sum((1, 3, 4)), atol=1e-3, rtol=1e-4)
