import importlib

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.distributed.devices import place
from voxfield.errors import InputError
from voxfield.models.grid_ngp import GridNgp
from voxfield.recipes import PHOTOGRAPHS, RECIPES, build_model, data_kind, load_recipe
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.training.experiment import from_dict, to_dict
from voxfield.training.progress import Progress


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_an_experiment_of_its_name(name: str) -> None:
    experiment = load_recipe(name)
    assert experiment.recipe == name
    assert from_dict(load_recipe(name), to_dict(experiment)) == experiment


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is(name: str) -> None:
    module = importlib.import_module(f"voxfield.recipes.{RECIPES[name]}")
    assert f"``{name}``" in (module.__doc__ or "")


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean grid-ngp"):
        load_recipe("grid-npg")
    with pytest.raises(InputError, match="There is no recipe"):
        build_model("nothing", None, posed_images(count=1, resolution=8), 0)


def test_a_model_is_made_for_its_capture_and_seed(tiny: tuple[str, ...]) -> None:
    from voxfield.training.experiment import apply_overrides

    captures = posed_images(count=2, resolution=8)
    config = apply_overrides(load_recipe("grid-ngp"), tiny).model
    one, same, other = (build_model("grid-ngp", config, captures, seed) for seed in (0, 0, 1))
    assert isinstance(one, GridNgp)
    assert isinstance(same, GridNgp)
    assert isinstance(other, GridNgp)
    assert one.bounds == captures.bounds
    assert torch.equal(one.field.table, same.field.table)
    assert not torch.equal(one.field.table, other.field.table)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if data_kind(name) == PHOTOGRAPHS])
def test_rehearsal_leaves_no_trace(recipe: str, training: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with Progress(quiet=True) as progress:
        assert compile_kernels(recipe, place("cpu"), progress, training=training) > 0
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_presets_share_what_they_do_not_change() -> None:
    base, big, huge, depth = (
        load_recipe(name).model for name in ("nerfacto", "nerfacto-big", "nerfacto-huge", "depth-nerfacto")
    )
    assert big.fine_proposal.max_resolution == base.fine_proposal.max_resolution
    assert (huge.fine_proposal.num_levels, huge.fine_proposal.max_resolution) == (7, 2048)
    assert big.schedule == huge.schedule == base.schedule
    assert depth.depth.loss == "ds_nerf"
    assert base.depth.loss == "off"


def test_pynerf_is_the_others_with_a_pyramid() -> None:
    full, synthetic, fast = (load_recipe(name) for name in ("pynerf", "pynerf-synthetic", "pynerf-occupancy-grid"))
    assert full.model.pyramid == synthetic.model.pyramid == fast.model.pyramid
    # The published grid: 16 levels of 4 numbers in tables of 2**20.
    sizes = full.model.field
    assert (sizes.num_levels, sizes.features, sizes.log2_table_size, sizes.appearance) == (16, 4, 20, 32)
    assert (synthetic.model.field.appearance, synthetic.model.num_samples) == (0, 96)
    rate = synthetic.trainer.learning_rate
    assert (rate.initial, rate.at(10**6, 1.0)) == (5e-3, pytest.approx(1e-4))
    for minutes in (1.0, 20.0):
        assert load_recipe("pynerf", minutes).model.field == load_recipe("nerfacto", minutes).model.field
        plain = load_recipe("grid-ngp", minutes)
        assert load_recipe("pynerf-occupancy-grid", minutes).model.field == plain.model.field


def test_short_trainings_change_presets_only_where_they_may() -> None:
    assert load_recipe("nerfacto-big", 1.0) == load_recipe("nerfacto-big")
    assert load_recipe("depth-nerfacto", 1.0).model.field == load_recipe("nerfacto", 1.0).model.field
    assert load_recipe("depth-nerfacto", 1.0).capture.depth.source == "auto"


def test_grid_ngp_refuses_normalised_device_coordinates() -> None:
    from dataclasses import replace

    from voxfield.geometry.ndc import NdcFrame

    pose, tangents = torch.eye(3, 4, dtype=torch.float64)[None], torch.ones(1, 2)
    captures = replace(posed_images(count=1, resolution=8), ndc=NdcFrame.around(pose, tangents, 1.0))
    with pytest.raises(InputError, match=r"capture\.space"):
        build_model("grid-ngp", load_recipe("grid-ngp").model, captures, 0)
