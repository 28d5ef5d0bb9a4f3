"""``nerfacto`` from end to end on tiny captures, bounded and unbounded, through the public calls."""

from pathlib import Path

import pytest
import torch

import voxfield
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint

TINY = (
    "model.field.num_levels=6",
    "model.field.log2_table_size=12",
    "model.field.base_resolution=8",
    "model.field.max_resolution=64",
    "model.field.hidden=32",
    "model.field.colour_layers=1",
    "model.field.appearance=4",
    "model.coarse_proposal.num_samples=32",
    "model.coarse_proposal.log2_table_size=10",
    "model.coarse_proposal.max_resolution=32",
    "model.fine_proposal.num_samples=24",
    "model.fine_proposal.log2_table_size=10",
    "model.fine_proposal.max_resolution=32",
    "model.num_samples=16",
    "model.rays_per_batch=512",
    "model.annealing_steps=50",
    "trainer.tensorboard=false",
)


def train(data: Path, output: Path, *overrides: str, steps: int, resume: bool = False) -> voxfield.Run:
    settings = () if resume else (*TINY, *overrides)
    return voxfield.train(
        "nerfacto", data, output=output, steps=steps, device="cpu", quiet=True, overrides=settings, resume=resume
    )


def test_a_bounded_capture_is_learned_and_measured(tiny_capture: Path, tmp_path: Path) -> None:
    run = train(tiny_capture, tmp_path / "run", steps=250)
    measured = run.evaluate(quiet=True)
    assert measured["psnr"] > 19.0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("poses", ["off", "SO3xR3"])
def test_photographs_without_alpha_are_learned(tmp_path: Path, poses: str) -> None:
    write_nerfstudio(tmp_path / "capture", posed_images(count=10, resolution=32), aabb_scale=4)
    run = train(tmp_path / "capture", tmp_path / "run", f"model.poses={poses}", steps=120)
    # Nine tiny views do not pin down an unbounded scene: what they show themselves is learned.
    assert run.evaluate(split="train", quiet=True)["psnr"] > 18.0
    assert run.experiment.model.poses == poses
    aligned = run.evaluate(split="train", max_images=1, align_poses=True, quiet=True)
    drift = torch.tensor(aligned["protocol"]["alignment"]["drift"])
    assert torch.equal(drift, torch.eye(4)) == (poses == "off"), "refined poses drift together"
    assert aligned["psnr_aligned"] > aligned["psnr"] - 1.0


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_capture: Path, tmp_path: Path) -> None:
    train(tiny_capture, tmp_path / "whole", "trainer.learning_rate.decay_from=1.0", steps=24)
    train(tiny_capture, tmp_path / "parts", "trainer.learning_rate.decay_from=1.0", steps=13)
    train(tiny_capture, tmp_path / "parts", steps=24, resume=True)
    one, other = (load_checkpoint(list_checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert one["step"] == other["step"] == 24
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
