"""``pynerf`` from end to end on a tiny capture, through the public calls."""

import json
from pathlib import Path

import pytest
import torch

import voxfield
from voxfield.errors import FormatError, InputError
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.nerfacto import Nerfacto
from voxfield.recipes import for_device
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint
from voxfield.storage.run_log import read_log

PROPOSALS = (
    "model.sampling=proposal",
    "model.pyramid.num_levels=5",
    "model.pyramid.trained_resolution=32",
    "model.field.num_levels=6",
    "model.field.log2_table_size=12",
    "model.field.base_resolution=8",
    "model.field.max_resolution=64",
    "model.field.hidden=32",
    "model.field.colour_layers=1",
    "model.coarse_proposal.num_samples=32",
    "model.coarse_proposal.log2_table_size=10",
    "model.coarse_proposal.max_resolution=32",
    "model.fine_proposal.num_samples=24",
    "model.fine_proposal.log2_table_size=10",
    "model.fine_proposal.max_resolution=32",
    "model.num_samples=16",
    "model.rays_per_batch=512",
    "model.annealing_steps=50",
    "trainer.learning_rate.initial=2e-2",
    "trainer.learning_rate.decay_from=0.5",
    "trainer.learning_rate.warm_up_steps=20",
    "trainer.tensorboard=false",
)


def train(recipe: str, data: Path, output: Path, *overrides: str, steps: int, resume: bool = False) -> voxfield.Run:
    return voxfield.train(
        recipe, data, output=output, steps=steps, device="cpu", quiet=True, overrides=overrides, resume=resume
    )


@pytest.fixture(scope="module")
def settings(tiny: tuple[str, ...]) -> tuple[str, ...]:
    return (*tiny, "model.pyramid.num_levels=5", "model.pyramid.trained_resolution=32")


@pytest.fixture(scope="module")
def trained(settings: tuple[str, ...], tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> voxfield.Run:
    return train("pynerf", tiny_capture, tmp_path_factory.mktemp("runs") / "spheres", *settings, steps=150)


def test_on_a_cpu_pynerf_is_the_fast_one_and_learns(trained: voxfield.Run) -> None:
    assert trained.experiment.recipe == "pynerf-occupancy-grid"
    assert isinstance(trained.model, GridNgp)
    events = [line["message"] for line in read_log(trained.path) if line["kind"] == "event"]
    assert any("On a CPU pynerf is trained as pynerf-occupancy-grid" in event for event in events), events
    assert trained.evaluate(quiet=True)["psnr"] > 17.0


def test_a_run_renders_levels_from_near_and_far(trained: voxfield.Run) -> None:
    cameras = trained.captures.cameras
    near = trained.render(cameras, 0)
    assert near["level"].shape == near["depth"].shape
    met = near["opacity"] > 0.5
    assert 0.0 < float(near["level"][met].mean()) < 4.0
    files = trained.render_path("orbit", frames=2, height=16, format="images", quiet=True)
    assert len(files) == 2


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    settings: tuple[str, ...], tiny_capture: Path, tmp_path: Path
) -> None:
    fixed = (*settings, "trainer.learning_rate.decay_from=1.0")
    train("pynerf", tiny_capture, tmp_path / "whole", *fixed, steps=24)
    train("pynerf", tiny_capture, tmp_path / "parts", *fixed, steps=13)
    train("pynerf", tiny_capture, tmp_path / "parts", steps=24, resume=True)
    one, other = (load_checkpoint(list_checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert one["step"] == other["step"] == 24
    assert set(one["model"]) == set(other["model"])
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]) if torch.is_tensor(value) else value == other["model"][name]


def test_a_run_of_another_pyramid_is_refused(trained: voxfield.Run, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(trained.path, tmp_path / "copy"))
    with pytest.raises(FormatError, match=r"scale_factor is 2\.0 there, 1\.5 here"):
        train("pynerf", Path(trained.record.data_path), copy, "model.pyramid.scale_factor=1.5", steps=300, resume=True)
    path = copy / "experiment.json"
    content = json.loads(path.read_text())
    content["values"]["model"]["pyramid"]["blending"] = "none"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="blending is linear there, none here"):
        voxfield.open(copy).model  # noqa: B018  (loading it is the point)
    with pytest.raises(InputError, match="is a run of recipe 'pynerf-occupancy-grid', not 'nerfacto'"):
        train("nerfacto", Path(trained.record.data_path), copy, steps=300, resume=True)


@pytest.mark.parametrize(("recipe", "sampling"), [("pynerf", "proposal"), ("pynerf-synthetic", "uniform")])
def test_the_published_sampling_learns_on_a_cpu_too(
    recipe: str, sampling: str, tiny_capture: Path, tmp_path: Path
) -> None:
    chosen = (*PROPOSALS, f"model.sampling={sampling}", "model.num_samples=24")
    run = train(recipe, tiny_capture, tmp_path / "run", *chosen, steps=120)
    assert run.experiment.recipe == recipe
    assert isinstance(run.model, Nerfacto)
    assert len(run.model.proposals) == (2 if sampling == "proposal" else 0)
    assert run.evaluate(quiet=True)["psnr"] > 15.0


def test_which_recipe_stands_in() -> None:
    assert for_device("pynerf", "cpu", {}) == "pynerf-occupancy-grid"
    assert for_device("pynerf", "cuda", {}) == "pynerf"
    assert for_device("pynerf", "cpu", {"model": {"sampling": "uniform"}}) == "pynerf"
    assert for_device("pynerf-synthetic", "cpu", {}) == "pynerf-synthetic"
    assert for_device("nerfacto", "cpu", {}) == "nerfacto"


def test_a_pyramid_the_resolution_does_not_allow_is_refused(
    settings: tuple[str, ...], tiny_capture: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="at most 7 levels"):
        train("pynerf", tiny_capture, tmp_path / "run", *settings, "model.pyramid.num_levels=9", steps=2)
