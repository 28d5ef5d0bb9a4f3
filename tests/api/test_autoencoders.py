"""A voxel autoencoder from training to measures, and a diffusion that learns its latents, in next to no time."""

import json

import pytest
import torch

import voxfield
from voxfield.api.autoencoders import AutoencoderRun
from voxfield.errors import InputError

pytest.importorskip("monai", reason="needs MONAI")
pytest.importorskip("einops", reason="needs einops")

DATA = (
    "data.procedural_count=24",
    "data.procedural_resolution=8",
    "data.train_ratio=0.75",
    "trainer.tensorboard=false",
)
SMALL = (*DATA, "model.channels=8,8", "model.norm_groups=4", "model.latent_channels=2", "model.batch_size=2")
DIFFUSION = (
    *DATA,
    "model.channels=8,8",
    "model.attention=false,true",
    "model.norm_groups=4",
    "model.head_channels=8",
    "model.batch_size=2",
    "model.patch=1",
    "model.schedule.timesteps=10",
    "sampling.steps=2",
)


def trained(recipe, output, settings, **options):
    options = {"steps": 4, "device": "cpu", "quiet": True, **options}
    return voxfield.train(recipe, "procedural", output=output, overrides=settings, **options)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> AutoencoderRun:
    run = trained("voxel-autoencoder", tmp_path_factory.mktemp("runs") / "autoencoder", SMALL, steps=300)
    assert isinstance(run, AutoencoderRun)
    return run


def test_it_learns_and_is_measured(autoencoder):
    metrics = autoencoder.evaluate()
    assert metrics["psnr"] > 11.0
    assert metrics["compression"] == 4.0
    assert json.loads((autoencoder.path / "eval/test/metrics.json").read_text()) == metrics
    assert list((autoencoder.path / "eval/test").glob("*.png"))
    assert (autoencoder.path / "report.html").is_file()
    again = voxfield.open(autoencoder.path)
    assert isinstance(again, AutoencoderRun)
    some = torch.rand(2, 8, 8, 8)
    assert torch.equal(again.reconstruct(some), autoencoder.reconstruct(some))


def test_an_interrupted_training_resumes_as_if_it_had_not_been(tmp_path):
    steady = (
        *SMALL,
        "trainer.learning_rate.warm_up_steps=0",
        "trainer.learning_rate.final_factor=1",
        "trainer.log_every=2",
    )
    whole = trained("voxel-autoencoder", tmp_path / "whole", steady, steps=6)
    trained("voxel-autoencoder", tmp_path / "halves", steady, steps=3)
    resumed = trained("voxel-autoencoder", tmp_path / "halves", (), steps=6, resume=True)
    assert resumed.info()["step"] == 6
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_diffusion_of_latents_needs_no_other_run_afterwards(autoencoder, tmp_path):
    moved = tmp_path / "autoencoder"
    autoencoder.path.rename(moved)
    try:
        run = trained("diffusion", tmp_path / "run", (*DIFFUSION, f"data.autoencoder={moved}"))
    finally:
        moved.rename(autoencoder.path)
    assert run.experiment.model.latent.latent_channels == 2
    made = run.generate(3, quiet=True)
    assert made.shape == (3, 8, 8, 8)
    again = trained("diffusion", tmp_path / "run", (), steps=6, resume=True)
    codec = autoencoder.model.state_dict()
    assert all(torch.equal(value, codec[name]) for name, value in again.model.codec.state_dict().items())


def test_what_is_no_autoencoder_is_an_error(autoencoder, tmp_path):
    other = trained("diffusion", tmp_path / "other", DIFFUSION, steps=1)
    with pytest.raises(InputError, match=r"a run of diffusion\. Name one of voxel-autoencoder"):
        trained("diffusion", tmp_path / "run", (*DIFFUSION, f"data.autoencoder={other.path}"))
    larger = (*DIFFUSION, "data.procedural_resolution=16", f"data.autoencoder={autoencoder.path}")
    with pytest.raises(InputError, match="as the settings say"):
        trained("diffusion", tmp_path / "larger", larger)
    with pytest.raises(InputError, match="photographs"):
        trained("voxel-autoencoder", tmp_path / "viewed", SMALL, view=True)
