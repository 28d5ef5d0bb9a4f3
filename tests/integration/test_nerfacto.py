"""``nerfacto`` from end to end on tiny captures, bounded and unbounded, through the public calls."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.data.capture import CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.data.depth_targets import DepthSampler
from voxfield.data.posed_images import PosedImages
from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import SyntheticScene, posed_images, write_nerfstudio
from voxfield.errors import FormatError
from voxfield.geometry.camera import Cameras
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


def train(
    data: Path, output: Path, *overrides: str, steps: int, resume: bool = False, recipe: str = "nerfacto"
) -> voxfield.Run:
    settings = () if resume else (*TINY, *overrides)
    return voxfield.train(
        recipe, data, output=output, steps=steps, device="cpu", quiet=True, overrides=settings, resume=resume
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


def forward_facing(count: int, captures: ModuleType) -> Cameras:
    """Cameras side by side that all look along -Z, with the lens and the size of the pictures that are written."""
    base = captures.some_cameras(count)
    poses = torch.eye(3, 4).repeat(count, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(count)
    return replace(base, camera_to_world=poses)


def write_depth_images(folder: Path, scene: PosedImages) -> None:
    """Depths along the axis in millimetres beside the pictures of a nerfstudio capture, 0 where nothing is solid."""
    table = json.loads((folder / "transforms.json").read_text())
    cameras = scene.cameras
    for index, entry in enumerate(table["frames"]):
        rays = cameras.image_rays(index)
        exact = SyntheticScene.example().render(rays)
        distance = exact.depth / exact.opacity.clamp(min=1e-6)
        depth = distance * (rays.directions * cameras.forward[index]).sum(-1)
        steps = torch.where(exact.opacity > 0.99, depth * 1000, 0.0).round().int().view(32, 32)
        entry["depth_file_path"] = f"depth/{index:04d}.png"
        (folder / "depth").mkdir(exist_ok=True)
        Image.fromarray(steps.numpy().astype(np.uint16)).save(folder / entry["depth_file_path"])
    (folder / "transforms.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("loss", "aabb_scale", "steps", "most"),
    # Without depths the errors were 8.8 (unbounded: fog) and 0.07, with them 0.04 and 0.01.
    [("ds_nerf", 4, 150, 0.15), ("urf", 1, 80, 0.03)],
)
def test_observed_depths_are_learned(tmp_path: Path, loss: str, aabb_scale: int, steps: int, most: float) -> None:
    scene = posed_images(count=10, resolution=32)
    write_nerfstudio(tmp_path / "capture", scene, aabb_scale=aabb_scale)
    write_depth_images(tmp_path / "capture", scene)
    (tmp_path / "capture/depth/0003.png").write_bytes(b"broken")
    settings = (f"model.depth.loss={loss}", f"model.depth.weight={0.5 if loss == 'ds_nerf' else 0.1}")
    run = train(tmp_path / "capture", tmp_path / "run", *settings, steps=steps, recipe="depth-nerfacto")
    assert [Path(item.path).name for item in run.left_out] == ["0003.png"]
    captures = run.captures
    with RaySampler(captures, 0) as batches:
        batch = DepthSampler(batches, captures, run.experiment.capture.depth, seed=0).sample(2000, 0)
    assert batch.depth is not None
    known = batch.depth.distances > 0
    seen = run.model.render_rays(batch.rays, background=torch.ones(3))["depth"]
    missed = (seen - batch.depth.distances).abs()[known] / batch.depth.distances[known]
    assert float(missed.median()) < most


def test_depth_nerfacto_refuses_a_capture_without_depths(tiny_capture: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no depth images and no sparse points.*train nerfacto"):
        train(tiny_capture, tmp_path / "run", steps=2, recipe="depth-nerfacto")


def test_a_forward_facing_capture_is_learned_in_normalised_device_coordinates(
    tmp_path: Path, captures: ModuleType
) -> None:
    views = forward_facing(9, captures)
    captures.write_llff(tmp_path / "capture", views)
    run = train(tmp_path / "capture", tmp_path / "run", "capture.space=ndc", steps=20)
    held_out = run.split("test")
    frame = held_out.ndc
    assert frame is not None
    assert run.captures.ndc is not None
    assert torch.equal(frame.world_to_camera, run.captures.ndc.world_to_camera)
    measured = run.evaluate(quiet=True)
    assert measured["num_images"] == 2
    seen = run.render(held_out.cameras, 0)
    # The file's bounds, in a world scaled to the cameras.
    assert float(seen["depth"].min()) > 0.8 * 0.5 * held_out.transform.scale
    assert bool(seen["rgb"].isfinite().all())


def test_normalised_device_coordinates_need_a_forward_facing_capture(tiny_capture: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"need perspective cameras that look the same way.*capture\.space"):
        train(tiny_capture, tmp_path / "run", "capture.space=ndc", steps=2)


@pytest.mark.slow
def test_fern_in_normalised_device_coordinates(shared_data: Path) -> None:
    options = CaptureOptions(space="ndc", downscale=8)
    fern = read_capture(shared_data / "images/nerf_llff_data/fern", options=options)
    assert fern.ndc is not None
    rays = fern.cameras.image_rays(3)
    inside, ahead = fern.ndc.rays(rays)
    assert bool(ahead.all())
    # From the near plane almost to infinity all that is seen lies within the bounds.
    for z in (-0.99, 0.0, 0.99):
        points = inside.origins + ((z - inside.origins[:, 2]) / inside.directions[:, 2])[:, None] * inside.directions
        assert bool(fern.ndc.bounds.contains(points).all())
