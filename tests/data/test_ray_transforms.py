"""Samples that are turned or mirrored are traced again: what the rays say must be true of the turned voxels."""

import itertools

import pytest
import torch

from voxfield.data import ray_transforms as transforms
from voxfield.data.shape_rays import HierarchicalVoxelRayDataset
from voxfield.distributed import devices
from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.voxel_words import pack_voxels


@pytest.fixture(scope="module")
def samples(shape_dataset, shape_rays):
    dataset = HierarchicalVoxelRayDataset(shape_dataset, shape_rays["packed"])
    return [dataset[index] for index in range(0, len(dataset), 7)]


def symmetries():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield torch.eye(3)[list(order)] * torch.tensor(signs)[:, None]


def check_by_tracing(sample):
    side = sample["voxels"].shape[-1]
    words = pack_voxels(sample["voxels"][0] > 0.5)
    traced = traverse_voxels(sample["origins"].double() + side / 2, sample["directions"].double(), words, side)
    assert torch.allclose(traced.chord, sample["distances"], atol=1e-4)
    assert torch.equal((traced.chord > 0).float(), sample["hits"])
    assert torch.allclose(traced.distance, sample["hit_distances"], atol=1e-4)
    # Where a ray crosses an edge between voxels, either is met first.
    assert (traced.voxel == sample["voxel_ids"]).float().mean() > 0.97
    assert (traced.normal == sample["normals"]).all(1).float().mean() > 0.97
    face = sample["face_ids"].long()
    places = sample["origins"].gather(1, face[:, None] // 2)[:, 0]
    assert torch.allclose(places, (face % 2 * 2.0 - 1.0) * side / 2)


def test_every_symmetry_of_the_cube(samples):
    for matrix in symmetries():
        for sample in samples[::3]:
            turned = transforms.turn(sample, matrix)
            check_by_tracing(turned)
            back = transforms.turn(turned, matrix.T)
            assert all(torch.equal(back[name], sample[name]) for name in ("voxels", "origins", "voxel_ids", "face_ids"))
            assert torch.allclose(turned["view_positions"], sample["view_positions"] @ matrix.T)


@pytest.mark.parametrize("transform", [transforms.RandomRotation90(p=1.0), transforms.RandomFlip(p=0.7)])
def test_random_turns_stay_true_and_leave_their_input_alone(samples, transform):
    generator = torch.Generator().manual_seed(3)
    for sample in samples:
        before = {name: value.clone() for name, value in sample.items() if torch.is_tensor(value)}
        changed = False
        for _ in range(4):
            turned = transform(sample, generator)
            check_by_tracing(turned)
            changed |= not torch.equal(turned["origins"], sample["origins"])
        assert changed
        assert all(torch.equal(sample[name], value) for name, value in before.items())


def test_the_order_of_turns_and_normalising_does_not_matter(samples):
    normalise = transforms.NormalizeRayOrigins(voxel_size=1.0)
    quarter = transforms.rotation90(2, 1)
    for sample in samples[:3]:
        one, other = normalise(transforms.turn(sample, quarter)), transforms.turn(normalise(sample), quarter)
        assert all(torch.allclose(one[name], other[name]) for name in ("origins", "distances", "hit_distances"))
        assert one["origins"].abs().max() == 1.0
        scale = 2 / sample["voxels"].shape[-1]
        assert torch.allclose(one["distances"], sample["distances"] * scale)


def test_rotations_are_right_handed():
    x, y, z = torch.eye(3)
    assert torch.equal(transforms.rotation90(2, 1) @ x, y)
    assert torch.equal(transforms.rotation90(0, 1) @ y, z)
    assert torch.equal(transforms.rotation90(1, 3) @ x, z)


def test_the_others(samples):
    sample, generator = samples[0], torch.Generator().manual_seed(0)
    rays = len(sample["origins"])
    few = transforms.RandomRaySubsample(7)(sample, generator)
    assert all(len(few[name]) == 7 for name in transforms.RAY_KEYS)
    assert len(transforms.RandomRaySubsample(rays + 1)(sample)["origins"]) == rays
    noisy = transforms.AddNoise(0.1, 0.1)(sample, generator)
    assert torch.allclose(noisy["directions"].norm(dim=1), torch.ones(rays))
    assert 0.01 < (noisy["origins"] - sample["origins"]).std() < 0.2
    jittered = transforms.VoxelOccupancyJitter(0.25)(sample, generator)["voxels"]
    assert 0.1 < (jittered != sample["voxels"]).float().mean() < 0.4
    both = transforms.Compose([transforms.RandomRaySubsample(9), lambda given: given | {"seen": True}])(sample)
    assert (len(both["origins"]), both["seen"]) == (9, True)


def test_moving_to_a_device(samples, monkeypatch):
    with pytest.raises(InputError, match="expected auto, cpu"):
        transforms.ToDevice("meta")
    missing = "cuda:63" if torch.accelerator.is_available() else "cuda"
    with pytest.raises(UnavailableError, match="cannot be used here"):
        transforms.ToDevice(missing)
    monkeypatch.setattr(devices, "DEVICE_TYPES", ("meta",))
    assert transforms.ToDevice("meta")(samples[0])["origins"].device.type == "meta"


@pytest.mark.parametrize(
    "make",
    [
        lambda: transforms.RandomRotation90(p=2.0),
        lambda: transforms.RandomFlip(axes=[3]),
        lambda: transforms.RandomRaySubsample(0),
        lambda: transforms.NormalizeRayOrigins(0.0),
        lambda: transforms.AddNoise(origin_std=-1.0),
        lambda: transforms.turn({"voxels": torch.zeros(1, 4, 4, 4)}, torch.ones(3, 3)),
        lambda: transforms.turn({"voxels": torch.zeros(1, 4, 4, 8)}, torch.eye(3)),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(InputError):
        make()
