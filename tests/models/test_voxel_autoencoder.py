"""The voxel autoencoder, and diffusions over its latents."""

import pytest
import torch

from voxfield.data.volume_batches import VolumeBatch
from voxfield.errors import InputError
from voxfield.models.diffusion import DiffusionConfig, VoxelDiffusion
from voxfield.models.diffusion_samplers import SamplingConfig
from voxfield.models.noise_schedule import NoiseScheduleConfig
from voxfield.models.voxel_autoencoder import AutoencoderConfig, VoxelAutoencoder

pytest.importorskip("monai", reason="needs MONAI")
pytest.importorskip("einops", reason="needs einops")

SMALL = AutoencoderConfig(channels=(8, 8), norm_groups=4, latent_channels=3)


def volumes(count=2, side=8):
    return torch.rand(count, 1, side, side, side, generator=torch.Generator().manual_seed(0))


def batch(count=2):
    return VolumeBatch(volumes=volumes(count), labels=torch.zeros(count, dtype=torch.int64))


def test_latents_are_smaller_and_come_back_as_volumes():
    model = VoxelAutoencoder(SMALL, seed=0)
    mean, deviation = model.encode(volumes())
    assert mean.shape == deviation.shape == (2, 3, 4, 4, 4)
    assert (deviation > 0).all()
    back = model.decode(mean)
    assert back.shape == (2, 1, 8, 8, 8)
    assert back.min() > 0.0
    assert back.max() < 1.0
    assert torch.equal(model.reconstruct(volumes()), back.detach())


def test_the_loss_is_the_formula():
    model, seen = VoxelAutoencoder(SMALL, seed=0), batch()
    outcome = model.training_step(seen, 0, torch.Generator().manual_seed(1))
    mean, deviation = model.encode(seen.volumes)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    share = torch.sigmoid(model.network.decode(mean + deviation * noise))
    crossed = -(seen.volumes * share.log() + (1 - seen.volumes) * (1 - share).log()).mean()
    normal = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, deviation), normal).mean()
    torch.testing.assert_close(outcome.loss, crossed + 1e-4 * divergence, rtol=1e-5, atol=1e-6)
    assert (outcome.num_examples, outcome.counted_in) == (2, "volumes")
    outcome.loss.backward()
    assert all(one.grad is not None for one in model.parameters())


def test_the_seed_decides_the_weights():
    one, same, other = (VoxelAutoencoder(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": ()}, "at least one level"),
        ({"channels": (6,), "norm_groups": 4}, "multiples of norm_groups=4"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_off_range_are_errors(change, said):
    with pytest.raises(InputError, match=said):
        AutoencoderConfig(**change)


def test_volumes_have_to_halve():
    assert SMALL.of_volumes((8, 4, 6)).volume_shape == (8, 4, 6)
    with pytest.raises(InputError, match="multiples of 2"):
        SMALL.of_volumes((8, 8, 7))
    with pytest.raises(InputError, match="as the settings say"):
        SMALL.of_volumes((8, 8, 8)).of_volumes((4, 4, 4))


# ------------------------------------------------------------------------------------------------- diffusion of latents


def latent_diffusion(**changes):
    config = DiffusionConfig(
        channels=(8,),
        attention=(False,),
        norm_groups=4,
        head_channels=8,
        patch=1,
        schedule=NoiseScheduleConfig(timesteps=10),
        latent=SMALL,
        **changes,
    )
    return VoxelDiffusion(config.of_volumes((8, 8, 8)), seed=0)


def test_a_diffusion_learns_latents_and_leaves_the_autoencoder_alone():
    codec = VoxelAutoencoder(SMALL, seed=5)
    model = latent_diffusion()
    model.take_codec(codec, volumes(6)[:, 0])
    held = {name: value.clone() for name, value in model.codec.state_dict().items()}
    assert all(torch.equal(value, held[name]) for name, value in codec.state_dict().items())

    learnt = model.learnt_of(volumes(6))
    assert learnt.shape == (6, 3, 4, 4, 4)
    torch.testing.assert_close(learnt.transpose(0, 1).flatten(1).mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(learnt.transpose(0, 1).flatten(1).std(1), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.volumes_of(learnt), codec.reconstruct(volumes(6)), atol=1e-5, rtol=0)

    outcome = model.training_step(batch(), 0, torch.Generator().manual_seed(0))
    outcome.loss.backward()
    learning = {id(one) for group in model.parameter_groups() for one in group.parameters}
    assert learning == {id(one) for one in model.network.parameters()}
    assert all(one.grad is None for one in model.codec.parameters())


def test_volumes_are_made_from_noise_of_latents():
    model = latent_diffusion()
    model.take_codec(VoxelAutoencoder(SMALL, seed=5), volumes(3)[:, 0])
    made = model.generate(2, SamplingConfig(steps=3), seed=1)
    assert made.shape == (2, 8, 8, 8)
    assert torch.equal(made, model.generate(2, SamplingConfig(steps=3), seed=1))
    assert made.min() >= 0.0
    assert made.max() <= 1.0


def test_what_does_not_go_with_latents():
    with pytest.raises(InputError, match="not by latents"):
        DiffusionConfig(latent=SMALL, projection="z")
    config = DiffusionConfig(channels=(8, 8), attention=(False, False), norm_groups=4, patch=1, latent=SMALL)
    assert config.stride == 4
    with pytest.raises(InputError, match="over latents need multiples of 4"):
        config.of_volumes((8, 8, 6))
