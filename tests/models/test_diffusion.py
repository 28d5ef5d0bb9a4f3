import dataclasses
import sys

import pytest
import torch

from voxfield.data.volume_batches import VolumeBatch
from voxfield.errors import InputError, MissingExtraError
from voxfield.models.diffusion import (
    Condition,
    DiffusionConfig,
    VoxelDiffusion,
    _from_patches,
    _to_patches,
    project,
)
from voxfield.models.diffusion_samplers import SamplingConfig
from voxfield.models.noise_schedule import NoiseScheduleConfig
from voxfield.recipes.diffusion import smallest_model

SHAPE = (8, 8, 16)
FAST = SamplingConfig(steps=2)


def model(**changes: object) -> VoxelDiffusion:
    config = dataclasses.replace(smallest_model(), schedule=NoiseScheduleConfig(timesteps=20), **changes)  # type: ignore[arg-type]
    return VoxelDiffusion(config.of_volumes(SHAPE), seed=0)


def batch(count: int = 2) -> VolumeBatch:
    volumes = torch.zeros((count, 1, *SHAPE))
    volumes[:, :, 2:6, 2:6, 4:12] = 1.0
    return VolumeBatch(volumes=volumes, labels=torch.arange(count) % 2)


def stirred(one: VoxelDiffusion) -> VoxelDiffusion:
    """MONAI's last convolution starts at zero, so that fresh models say nothing at all."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return one


def test_patches_are_put_back_where_they_were() -> None:
    volumes = torch.arange(2 * 3 * 4 * 8 * 12.0).reshape(2, 3, 4, 8, 12)
    for side in (1, 2, 4):
        patches = _to_patches(volumes, side)
        assert patches.shape == (2, 3 * side**3, 4 // side, 8 // side, 12 // side)
        assert torch.equal(_from_patches(patches, side), volumes)
    first = _to_patches(volumes, 2)[0, :8, 0, 0, 0]
    assert torch.equal(first, volumes[0, 0, :2, :2, :2].flatten())


def test_a_volume_is_learnt() -> None:
    one = model(prediction="x0")
    optimiser = torch.optim.Adam(one.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss = one.training_step(batch(), step, torch.Generator().manual_seed(step)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.25 * sum(losses[:5])
    made = one.generate(1, SamplingConfig(steps=5), seed=0)[0]
    assert float((made - batch().volumes[0, 0]).abs().mean()) < 0.2


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
def test_every_prediction_and_sampler_gives_volumes(prediction: str, sampler: str) -> None:
    one = stirred(model(prediction=prediction))
    sampling = SamplingConfig(sampler=sampler, steps=3)  # type: ignore[arg-type]
    made = one.generate(2, sampling, seed=1)
    assert made.shape == (2, *SHAPE)
    assert 0.0 <= float(made.min()) <= float(made.max()) <= 1.0
    assert torch.equal(made, one.generate(2, sampling, seed=1))
    assert not torch.equal(made, one.generate(2, sampling, seed=2))


def test_recomputing_blocks_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        one = stirred(model(recompute=recompute))
        one.training_step(batch(), 0, torch.Generator().manual_seed(0)).loss.backward()
        gradients.append([parameter.grad for parameter in one.parameters()])
        assert set(one.state_dict()) == set(model().state_dict())
    for kept, recomputed in zip(*gradients, strict=True):
        assert (kept is None) == (recomputed is None)
        if kept is not None:
            torch.testing.assert_close(kept, recomputed)


def test_conditions_matter_and_are_checked() -> None:
    one = stirred(model(classes=2, projection="z"))
    shown = project(batch().volumes, "z")
    known = Condition(labels=torch.tensor([0, 1]), projection=shown)
    made = one.generate(2, FAST, seed=0, condition=known)
    other = one.generate(2, FAST, seed=0, condition=dataclasses.replace(known, projection=torch.zeros_like(shown)))
    assert not torch.equal(made, other)
    assert not torch.equal(made, one.generate(2, FAST, seed=0))
    unguided = dataclasses.replace(FAST, guidance=0.0)
    torch.testing.assert_close(one.generate(2, unguided, seed=0, condition=known), one.generate(2, FAST, seed=0))
    wrong = [
        Condition(labels=torch.tensor([0, 1])),
        Condition(labels=torch.tensor([0, 2]), projection=shown),
        Condition(labels=torch.tensor([0]), projection=shown),
        Condition(labels=torch.tensor([0, 1]), projection=shown[:, :3]),
    ]
    for condition in wrong:
        with pytest.raises(InputError):
            one.generate(2, FAST, seed=0, condition=condition)
    with pytest.raises(InputError, match="needs a condition"):
        one.generate(2, dataclasses.replace(FAST, guidance=2.0), seed=0)
    with pytest.raises(InputError, match="takes none"):
        model().generate(2, FAST, seed=0, condition=known)


def test_a_condition_is_withheld_from_some_volumes_only() -> None:
    one = stirred(model(classes=2, drop_condition=1.0))
    noisy, times = torch.zeros((2, 1, *SHAPE)), torch.tensor([5, 5])
    first, second = (Condition(labels=torch.tensor(labels)) for labels in ([0, 0], [1, 1]))
    known = torch.tensor([True, False])
    said, changed = (one.predict(noisy, times, condition, known) for condition in (first, second))
    assert not torch.equal(said[0], changed[0])
    assert torch.equal(said[1], changed[1])


def test_weights_decay_and_biases_do_not() -> None:
    groups = {group.name: group for group in model(weight_decay=0.1).parameter_groups()}
    assert groups["weights"].weight_decay == 0.1
    assert groups["biases"].weight_decay == 0.0
    assert all(parameter.ndim > 1 for parameter in groups["weights"].parameters)
    assert sum(len(group.parameters) for group in groups.values()) == len(list(model().parameters()))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((32, 32, 32), (32, 64, 128)), ((32, 24, 40), (32, 64)), ((4, 8, 12), (32,)), ((128, 64, 64), (32, 64, 128))],
)
def test_levels_are_as_many_as_volumes_can_be_halved_for(
    shape: tuple[int, int, int], channels: tuple[int, ...]
) -> None:
    config = DiffusionConfig().of_volumes(shape)
    assert config.channels == channels
    assert config.attending == (False, True, True)[: len(channels)]
    assert config.of_volumes(shape) == config


def test_volumes_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        DiffusionConfig(channels=(32, 64)).of_volumes((32, 32, 36))
    with pytest.raises(InputError, match="multiples of 4"):
        DiffusionConfig().of_volumes((32, 32, 30))
    with pytest.raises(InputError, match=r"expected volumes of \(8, 8, 8\)"):
        DiffusionConfig(volume_shape=(8, 8, 8)).of_volumes((16, 16, 16))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": (True,)},
        {"channels": (64,), "attention": (False, True)},
        {"channels": (60, 128)},
        {"channels": (32, 64), "head_channels": 48},
        {"patch": 0},
        {"prediction": "noise"},
        {"projection": "w"},
        {"batch_size": 0},
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        DiffusionConfig(**settings)  # type: ignore[arg-type]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets.diffusion_model_unet", None)
    with pytest.raises(MissingExtraError, match=r'pip install "voxfield\[diffusion\]"'):
        model()
