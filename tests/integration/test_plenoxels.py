"""``plenoxels`` from end to end on tiny captures, through the public calls."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import FormatError, InputError
from voxfield.recipes import build_model
from voxfield.render.metrics import psnr
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint
from voxfield.storage.voxel_files import read_compact, write_compact, write_svox2
from voxfield.storage.voxel_vdb import read_voxel_vdb, write_voxel_vdb
from voxfield.voxels.voxel_grid import VoxelGrid

TINY = (
    "model.resolutions=[[12,12,12],[24,24,24]]",
    "model.refine_at=[0.5]",
    "model.sh_degree=1",
    "model.rays_per_batch=400",
    "model.density_rate.initial=10",
    "model.density_rate.final=2",
    "model.density_rate.reach=1",
    "model.density_rate.delay=0",
    "model.sh_rate.initial=0.1",
    "model.sh_rate.final=0.02",
    "model.sh_rate.reach=1",
    "model.weight_threshold=1",
    "model.dilate=0",
    "model.max_bytes=50000000",
    "model.pruning_rays=5000",
    "trainer.tensorboard=false",
    "trainer.log_every=5",
)


def train(
    data: Path, output: Path, *overrides: str, steps: int, resume: bool = False, recipe: str = "plenoxels"
) -> voxfield.Run:
    settings = () if resume else (*TINY, *overrides)
    return voxfield.train(
        recipe, data, output=output, steps=steps, device="cpu", quiet=True, overrides=settings, resume=resume
    )


def test_a_capture_is_learned_measured_rendered_and_kept(tiny_capture: Path, tmp_path: Path) -> None:
    run = train(tiny_capture, tmp_path / "run", steps=80)
    assert run.outcome == "finished"
    measured = run.evaluate(quiet=True)
    assert measured["psnr"] > 18.0
    assert (tmp_path / "run" / "report.html").is_file()
    again = voxfield.open(tmp_path / "run")
    assert again.model.grid.resolution == (24, 24, 24)
    assert again.model.grid.num_voxels < 24**3
    assert len(again.render_path("orbit", frames=2, width=16, format="images", quiet=True)) == 2
    # The compact form loses less than a tenth of a decibel.
    grid = again.model.world_grid()
    kept = read_compact(write_compact(tmp_path / "grid.npz", grid))
    rays = again.captures.cameras.image_rays(0)
    with torch.no_grad():
        change = float((kept.render(rays).rgb - grid.render(rays).rgb).square().mean())
    error = 10 ** (-measured["psnr"] / 10)
    assert 10 * torch.log10(torch.tensor((error + change) / error)) < 0.1


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_capture: Path, tmp_path: Path) -> None:
    # Nothing that follows progress: the grid is refined before the first step, and rates stay.
    constant = (
        "model.refine_at=[0.0]",
        "model.weight_threshold=0",
        "model.tv_until=1",
        "model.random_until=1",
        "model.density_rate.final=10",
        "model.sh_rate.final=0.1",
    )
    train(tiny_capture, tmp_path / "whole", *constant, steps=12)
    train(tiny_capture, tmp_path / "parts", *constant, steps=7)
    train(tiny_capture, tmp_path / "parts", steps=12, resume=True)
    whole, parts = (load_checkpoint(list_checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 12
    assert whole["model"].keys() == parts["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, parts["model"][name]), name
    for one, other in zip(whole["optimiser"]["moments"], parts["optimiser"]["moments"], strict=True):
        assert torch.equal(one[0], other[0])


def test_forward_facing_photographs_are_learned_in_device_coordinates(tmp_path: Path, captures: ModuleType) -> None:
    cameras = captures.some_cameras(9)
    poses = torch.eye(3, 4).repeat(9, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(9)
    captures.write_llff(tmp_path / "capture", replace(cameras, camera_to_world=poses))
    run = train(tmp_path / "capture", tmp_path / "run", "model.prune=weight", steps=20, recipe="plenoxels-llff")
    assert run.captures.ndc is not None
    assert run.evaluate(quiet=True)["num_images"] == 2
    seen = run.render(run.split("test").cameras, 0)
    assert bool(seen["rgb"].isfinite().all())
    # The file's bounds, in a world scaled to the cameras.
    assert float(seen["depth"][seen["opacity"] > 0.5].min()) > 0.8 * 0.5 * run.captures.transform.scale


@pytest.mark.parametrize("recipe", ["plenoxels", "plenoxels-360", "plenoxels-custom"])
def test_captures_without_bounds_are_learned_with_spheres(recipe: str, tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "capture", posed_images(count=6, resolution=16), aabb_scale=4)
    around = ("model.spheres.layers=8", "model.spheres.height=8")
    run = train(tmp_path / "capture", tmp_path / "run", *around, steps=20, recipe=recipe)
    again = voxfield.open(run.path)
    assert again.model.spheres.links.shape == (8, 8, 16)
    assert int(again.model.spheres_stage) == 1
    seen = again.render(again.captures.cameras, 0)
    assert bool(seen["rgb"].isfinite().all())
    assert again.evaluate(quiet=True)["psnr"] > 5


def test_memory_may_be_limited(tiny_capture: Path, tmp_path: Path) -> None:
    def limited(output: str, recipe: str, limit: str) -> voxfield.Run:
        return voxfield.train(
            recipe,
            tiny_capture,
            output=tmp_path / output,
            steps=20,
            device="cpu",
            quiet=True,
            max_memory=limit,
            overrides=TINY if recipe == "plenoxels" else (),
        )

    run = limited("run", "plenoxels", "500KB")
    config, grid = run.experiment.model, run.model.grid
    assert config.max_bytes == 500_000
    assert config.bytes_of(grid.resolution, grid.num_voxels) <= 500_000
    with pytest.raises(InputError, match="do not hold one layer of 12 x 12 voxels"):
        limited("none", "plenoxels", "2KB")
    with pytest.raises(InputError, match="max_memory: bounds the voxels of plenoxels recipes; grid-ngp has none"):
        limited("none", "grid-ngp", "2GB")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_grid_of_lego_is_small_in_its_compact_form(shared_data: Path, tmp_path: Path) -> None:
    lego = shared_data / "images" / "nerf_synthetic" / "lego"
    run = voxfield.train(
        "plenoxels-fast", lego, output=tmp_path / "run", minutes=4, quiet=True, overrides=("capture.max_images=40",)
    )
    model = run.model
    assert model.grid.resolution == (256, 256, 256)
    before = run.evaluate(max_images=3, quiet=True)["psnr"]
    path = write_compact(tmp_path / "grid.npz", model.world_grid())
    assert path.stat().st_size <= 60e6
    kept = read_compact(path)
    inside = voxfield.VoxelGrid.from_values(
        kept.links, kept.density.detach() / model.scale, kept.sh.detach(), model.grid.scene_bounds
    )
    model.grid.adopt(inside)
    assert before - run.evaluate(max_images=3, quiet=True)["psnr"] <= 0.1


@pytest.fixture(scope="module")
def trained(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> voxfield.Run:
    return train(tiny_capture, tmp_path_factory.mktemp("runs") / "run", steps=40)


@pytest.mark.parametrize("layout", ["grids", "compact"])
def test_runs_are_exported_and_begun_from_vdb_files(trained: voxfield.Run, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "grid.vdb"
    assert main(["export", "vdb", str(trained.path), "--output", str(path), "--layout", layout]) == 0
    found = read_voxel_vdb(path)
    grid = trained.model.world_grid()
    assert torch.equal(found.grid.links, grid.links)
    assert torch.equal(found.grid.density, grid.density)
    assert torch.equal(found.grid.sh, grid.sh)
    assert found.configuration["recipe"] == "plenoxels"
    assert found.configuration["model"]["sh_degree"] == 1
    options = [f"--set={value}" for value in TINY]
    data = trained.record.data_path
    command = ["train", "plenoxels", data, "--output", str(tmp_path / "run"), "--steps", "1", "--quiet", *options]
    assert main([*command, "--from", str(path)]) == 0
    begun = voxfield.open(tmp_path / "run")
    # The stage of its resolution, and its values but for one step.
    assert begun.model.grid.resolution == (24, 24, 24)
    assert int(begun.model.stage) == 1
    assert torch.equal(begun.model.grid.links, trained.model.grid.links)
    touched = (begun.model.grid.sh - trained.model.grid.sh).abs().amax(dim=(1, 2)) > 0
    assert 0 < int(touched.sum()) < len(touched)
    torch.testing.assert_close(begun.model.grid.density[~touched], trained.model.grid.density[~touched])
    assert begun.record.extra["start"] == str(path.resolve())


def test_training_begins_with_a_grid_of_svox2(
    trained: voxfield.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_svox2(tmp_path / "ckpt.npz", trained.model.world_grid())
    np.savez(path, **dict(np.load(path)), background_data=np.zeros(3))
    options = [f"--set={value}" for value in TINY]
    command = ["train", "plenoxels", trained.record.data_path, "--output", str(tmp_path / "run"), "--steps", "1"]
    assert main([*command, *options, "--from", str(path)]) == 0
    assert "its background (background_data) is left out" in capsys.readouterr().err
    begun = voxfield.open(tmp_path / "run")
    assert torch.equal(begun.model.grid.links, trained.model.grid.links)
    same = trained.with_volume(path).evaluate(quiet=True)["psnr"]
    assert same == pytest.approx(trained.evaluate(quiet=True)["psnr"], abs=0.05)


def test_coarser_grids_are_refined_to_the_first_stage(trained: voxfield.Run, tiny_capture: Path) -> None:
    model = build_model("plenoxels", replace(trained.experiment.model), trained.captures, 0)
    model.start_from(trained.model.world_grid().resample(6))
    assert (model.grid.resolution, int(model.stage)) == ((12, 12, 12), 0)
    model.start_from(trained.model.world_grid().resample(30))
    assert (model.grid.resolution, int(model.stage)) == ((30, 30, 30), 1)


def test_volumes_are_seen_in_place_of_the_grid(
    trained: voxfield.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained.export_vdb(tmp_path / "grid.vdb").file
    own, again = trained.evaluate(quiet=True), trained.with_volume(path).evaluate(quiet=True)
    assert again["psnr"] == pytest.approx(own["psnr"], abs=1e-3)
    assert again["protocol"]["volume"] == str(path)
    assert (trained.path / "eval/test-grid/metrics.json").is_file()
    assert "volume" not in own["protocol"]
    # An odd resolution: coarser levels reach beyond the region.
    write_voxel_vdb(tmp_path / "odd.vdb", trained.model.world_grid().resample(21))
    odd, half = voxfield.make_levels(tmp_path / "odd.vdb", tmp_path / "levels", levels=2)
    finer, coarser = (trained.with_volume(level).evaluate(quiet=True)["psnr"] for level in (odd, half))
    assert own["psnr"] > coarser > own["psnr"] - 8
    assert finer > coarser
    assert main(["eval", str(trained.path), "--volume", str(path), "--quiet"]) == 0
    assert "test-grid" in capsys.readouterr().out
    film = ["render", str(trained.path), "--volume", str(path), "--frames", "1", "--width", "16", "--format", "images"]
    assert main([*film, "--quiet"]) == 0
    assert list((trained.path / "renders/orbit-grid").glob("*.png"))


def test_volumes_that_are_no_such_grid_are_not_shown(
    trained: voxfield.Run, tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    write_voxel_vdb(tmp_path / "other.vdb", VoxelGrid(8, (-1, -1, -1, 1, 1, 1), 2))
    with pytest.raises(InputError, match=r"other\.vdb: .*band 2, the model's at 1"):
        trained.with_volume(tmp_path / "other.vdb")
    voxfield.voxelise_mesh(_wedge(tmp_path), tmp_path / "mesh.vdb", resolution=8)
    with pytest.raises(FormatError, match="holds no voxel grid"):
        trained.with_volume(tmp_path / "mesh.vdb")
    field = voxfield.train(
        "grid-ngp", tiny_capture, output=tmp_path / "field", steps=2, device="cpu", quiet=True, overrides=tiny
    )
    with pytest.raises(InputError, match="voxfield bake"):
        field.with_volume(tmp_path / "other.vdb")


def _wedge(folder: Path) -> Path:
    file = folder / "wedge.obj"
    file.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n", encoding="utf-8")
    return file


def test_grids_that_do_not_fit_are_not_begun_from(
    trained: voxfield.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "grid.vdb", trained.record.data_path
    write_voxel_vdb(path, VoxelGrid(8, (-1, -1, -1, 1, 1, 1), 1))
    command = ["train", "plenoxels", data, "--quiet", "--steps", "1", "--output", str(tmp_path / "run")]
    command += ["--from", str(path), *(f"--set={value}" for value in TINY)]
    assert main(command) == 2
    assert "with the same capture settings" in capsys.readouterr().err
    assert not (tmp_path / "run" / "experiment.json").exists()
    write_voxel_vdb(path, VoxelGrid(8, trained.captures.bounds, 2))
    assert main(command) == 2
    assert "Set model.sh_degree=2" in capsys.readouterr().err
    assert main([*command[:1], "grid-ngp", *command[2:10]]) == 2
    assert "has no voxels to begin with" in capsys.readouterr().err
    assert main(["train", "plenoxels", data, "--output", str(trained.path), "--resume", "--from", str(path)]) == 2
    assert "Leave out one of the two" in capsys.readouterr().err
    assert main([*command[:8], "--from", str(trained.path)]) == 2
    assert f"voxfield export vdb {trained.path} --output voxels.vdb" in capsys.readouterr().err
    assert main([*command[:8], "--from", str(tmp_path / "gird.vdb")]) == 2
    assert "gird.vdb: there is no such file" in capsys.readouterr().err


def test_other_fields_are_sampled(tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    run = voxfield.train(
        "grid-ngp", tiny_capture, output=tmp_path / "run", steps=60, device="cpu", quiet=True, overrides=tiny
    )
    with pytest.raises(InputError, match="Say how many along its longest side"):
        run.export_vdb(tmp_path / "field.vdb")
    done = run.export_vdb(tmp_path / "field.vdb", resolution=64, half=True)
    grid = read_voxel_vdb(done.file).grid
    assert (max(done.resolution), done.voxels, done.bytes) == (64, grid.num_voxels, done.file.stat().st_size)
    cameras = run.split("test").cameras
    seen = grid.render(cameras.image_rays(0))
    rgb = seen.rgb + (1 - seen.opacity)[:, None]
    truth = run.render(cameras, 0, background="white")["rgb"]
    assert float(psnr(rgb.detach().view_as(truth), truth)) > 24
