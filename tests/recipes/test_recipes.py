import importlib
from typing import cast

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.distributed.devices import place
from voxfield.errors import InputError
from voxfield.kernels.march_grid import numba_cpu as marching
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.plenoxels_config import PlenoxelsConfig
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


@pytest.mark.parametrize(("training", "unbounded"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if data_kind(name) == PHOTOGRAPHS])
def test_rehearsal_leaves_no_trace(
    recipe: str, training: bool, unbounded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with Progress(quiet=True) as progress:
        assert compile_kernels(recipe, place("cpu"), progress, unbounded=unbounded, training=training) > 0
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("unbounded", [True, False])
def test_rehearsal_marches_as_the_scene_will(unbounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    for name in ("_mark", "_mark_side_by_side"):
        kernel = getattr(marching, name)
        monkeypatch.setattr(marching, name, lambda *args, name=name, kernel=kernel: (used.add(name), kernel(*args)))
    with Progress(quiet=True) as progress:
        compile_kernels("grid-ngp", place("cpu"), progress, unbounded=unbounded)
    assert used == {"_mark" if unbounded else "_mark_side_by_side"}


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


def test_plenoxels_presets_are_svox2s() -> None:
    """``opt.py`` and the configurations beside it (https://github.com/sxyu/svox2/tree/master/opt/configs)."""
    presets = {name: load_recipe(name) for name in ("plenoxels", "plenoxels-llff", "plenoxels-360", "plenoxels-custom")}
    models = {name: cast(PlenoxelsConfig, one.model) for name, one in presets.items()}
    synthetic, llff, around, custom = models.values()
    assert [one.trainer.steps for one in presets.values()] == [128_000, 128_000, 102_400, 102_400]
    for one in presets.values():
        trainer = one.trainer
        assert (trainer.optimiser, trainer.beta2, trainer.epsilon) == ("rmsprop", 0.95, 1e-8)
    for model in models.values():
        assert (model.rays_per_batch, model.sh_degree, model.initial_density, model.dilate) == (5000, 2, 0.1, 2)
        assert (model.march.step, model.march.density_threshold, model.march.early_stop) == (0.5, 1e-8, 1e-7)
        assert (model.tv_share, model.density_threshold) == (0.01, 5.0)
    # Every how many steps the grid is refined, and to what.
    stages = {
        "plenoxels": (38_400, [256, 512]),
        "plenoxels-llff": (38_400, [256, 512, 1408]),
        "plenoxels-360": (25_600, [128, 256, 512, 640]),
        "plenoxels-custom": (25_600, [128, 256, 512]),
    }
    for name, (every, widths) in stages.items():
        model, steps = models[name], presets[name].trainer.steps
        assert [size[0] for size in model.resolutions] == widths
        assert [at * steps for at in model.refine_at] == pytest.approx(
            [every * (stage + 1) for stage in range(len(widths) - 1)]
        )
    assert llff.resolutions == ((256, 256, 128), (512, 512, 128), (1408, 1156, 128))
    # lambda_tv, lambda_tv_sh, sparsity, beta, how weights of variation go on, and when voxels go.
    table = {
        "plenoxels": (1e-5, 1e-3, 0.0, 0.0, 1.0, "weight", 0.256),
        "plenoxels-llff": (5e-4, 5e-3, 1e-12, 0.0, 1.0, "density", 0.256),
        "plenoxels-360": (5e-5, 5e-3, 1e-11, 1e-5, 1.0, "weight", 1.28),
        "plenoxels-custom": (5e-3, 5e-3, 1e-11, 1e-5, 0.5, "weight", 1.28),
    }
    for name, expected in table.items():
        one = models[name]
        found = (one.tv_density, one.tv_sh, one.sparsity, one.beta, one.tv_decay, one.prune, one.weight_threshold)
        assert found == expected, name
    assert synthetic.tv_until == synthetic.refine_at[0], "off after the first refinement"
    assert [one.tv_until for one in (llff, around, custom)] == [1.0] * 3
    # Rates: 30 to 0.05 and 1e-2 to 5e-6 over 250,000 steps; the delay of densities ends at step 15,000.
    for name, model in models.items():
        steps = presets[name].trainer.steps
        density, colour = model.density_rate, model.sh_rate
        assert (density.initial, density.final, colour.initial, colour.final) == (30.0, 0.05, 1e-2, 5e-6)
        assert [rate.reach * steps for rate in (density, colour)] == pytest.approx([250_000] * 2)
        assert density.delay * steps == pytest.approx(0 if name == "plenoxels-custom" else 15_000)
    known = {0: 0.3, 1000: 3.3, 15_000: 20.4, 38_400: 11.2}
    for step, rate in known.items():
        assert synthetic.density_rate.at(step / 128_000) == pytest.approx(rate, rel=0.02)
    # Spheres: 64 of 1024 texels from pole to pole.
    for model, variation, scale in ((around, 1e-3, 0.95), (custom, 5e-3, 0.9)):
        spheres = model.spheres
        assert (spheres.layers, spheres.height, spheres.density_threshold) == (64, 1024, 1.0)
        assert (spheres.tv_density, spheres.tv_rgb, spheres.camera_scale) == (variation, variation, scale)
        assert (spheres.density_rate.initial, spheres.density_rate.final) == (3.0, 3e-3)
        assert (spheres.rgb_rate.initial, spheres.rgb_rate.final) == (0.1, 5e-6)
    assert custom.spheres_alone_until * 102_400 == pytest.approx(1000)
    assert (custom.near_clip, around.near_clip) == (0.35, 0.0)
