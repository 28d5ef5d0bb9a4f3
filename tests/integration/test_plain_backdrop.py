"""Pictures without alpha before a plain colour, of which a field once learnt nothing but a wall."""

import dataclasses
from pathlib import Path

import pytest
import torch

import voxfield
from voxfield.data.capture_reading import read_capture
from voxfield.data.image_store import ImageStore
from voxfield.data.synthetic import posed_images, write_nerfstudio


def opaque_capture(folder: Path, backdrop: int) -> Path:
    """The example scene from around, without bounds and without alpha, before a grey of value ``backdrop``."""
    scene = posed_images(count=24, resolution=32, split="train")
    images = []
    for index in range(len(scene)):
        rgba = scene.images.read(index).float()
        alpha = rgba[..., 3:] / 255
        images.append((rgba[..., :3] * alpha + backdrop * (1 - alpha)).round().to(torch.uint8))
    opaque = dataclasses.replace(scene, images=ImageStore.from_tensors(images), has_alpha=False)
    write_nerfstudio(folder, opaque)
    return folder


def psnr_of_a_wall(capture: Path, value: int) -> float:
    """PSNR of held-out pictures that show the backdrop and nothing else."""
    images = read_capture(capture, split="test").images
    errors = [(images.read(index).float() - value).div(255).square().mean() for index in range(len(images))]
    return float(-10 * torch.stack(errors).mean().log10())


# From seed 1 white once emptied the occupancy grid for good.
@pytest.mark.parametrize(("colour", "value", "seed"), [("white", 255, 1), ("black", 0, 42), ("#505050", 80, 42)])
def test_a_plain_backdrop_lies_behind_the_field(tmp_path, tiny, capsys, colour, value, seed):
    capture, output = opaque_capture(tmp_path / "capture", value), tmp_path / "run"
    run = voxfield.train("grid-ngp", capture, output=output, steps=600, seed=seed, device="cpu", overrides=tiny)
    assert f"plain edges: {colour} lies behind the field" in capsys.readouterr().err
    assert (run.experiment.model.background, run.experiment.evaluation.background) == (colour, colour)
    measured = run.evaluate(quiet=True)
    assert measured["protocol"]["background"] == colour
    assert measured["psnr"] > psnr_of_a_wall(capture, value) + 8

    resumed = voxfield.train("grid-ngp", capture, output=output, resume=True, steps=601, device="cpu", quiet=True)
    assert resumed.experiment.model.background == colour
    baked = voxfield.bake(output, tmp_path / "baked", resolution=16, steps=2, device="cpu", quiet=True).run
    assert (baked.experiment.model.background, baked.experiment.evaluation.background) == (colour, colour)


def test_a_background_that_is_named_is_kept(tmp_path, tiny):
    capture = opaque_capture(tmp_path / "capture", 255)
    overrides = [*tiny, "model.background=random", "evaluation.background=grey"]
    run = voxfield.train("grid-ngp", capture, output=tmp_path / "run", steps=2, device="cpu", overrides=overrides)
    assert (run.experiment.model.background, run.experiment.evaluation.background) == ("random", "grey")
