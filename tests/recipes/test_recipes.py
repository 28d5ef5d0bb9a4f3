import importlib

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.distributed.devices import place
from voxfield.errors import InputError
from voxfield.models.grid_ngp import GridNgp
from voxfield.recipes import RECIPES, build_model, load_recipe
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
@pytest.mark.parametrize("recipe", RECIPES)
def test_rehearsal_leaves_no_trace(recipe: str, training: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with Progress(quiet=True) as progress:
        assert compile_kernels(recipe, place("cpu"), progress, training=training) > 0
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
