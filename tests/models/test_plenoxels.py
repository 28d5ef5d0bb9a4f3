from typing import Any, cast

import pytest
import torch

from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.kernels.sh_grid import GridLinks, without_empty
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig, VoxelRate
from voxfield.recipes.plenoxels import VOXEL_TRAINER, build_model
from voxfield.training.optimisers import make_optimiser

SMALL: dict[str, Any] = {"resolutions": ((12, 12, 12),), "refine_at": (), "sh_degree": 1, "rays_per_batch": 256}


def make(half: float = 1.0, has_alpha: bool = True, **settings: Any) -> Plenoxels:
    captures = posed_images(count=3, resolution=16)
    config = PlenoxelsConfig(**{**SMALL, **settings})
    return Plenoxels(config, Bounds.from_cube(half), captures.cameras, near=0.05, has_alpha=has_alpha)


def textured(model: Plenoxels) -> Plenoxels:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.grid.density.copy_(8 * torch.rand(model.grid.num_voxels, generator=generator) - 3)
        model.grid.sh.copy_(torch.randn(model.grid.sh.shape, generator=generator))
    return model


def rays(count: int, scale: float = 1.0) -> Rays:
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(count, 3, generator=generator) - 0.5
    origins = torch.tensor([[0.0, -3.0, 0.5]]).expand(count, 3).contiguous()
    return Rays(
        origins=origins * scale,
        directions=torch.nn.functional.normalize(target - origins, dim=1),
        pixel_area=torch.full((count,), 1e-4),
        camera_index=torch.zeros(count, dtype=torch.int64),
    )


def batch(count: int, alpha: float = 1.0, weights: torch.Tensor | None = None) -> RayBatch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(6))
    rgba[:, 3] = alpha
    return RayBatch(rays=rays(count), pixels=torch.full((count, 2), 0.5), rgba=rgba, weights=weights)


def trained(model: Plenoxels, steps: int, progress: list[float] | None = None) -> tuple[list[float], Any]:
    """Losses of some steps, done as the trainer does them, and the optimiser."""
    options = {"beta1": 0.9, "beta2": VOXEL_TRAINER.beta2, "epsilon": VOXEL_TRAINER.epsilon}
    optimiser = make_optimiser("rmsprop", model.parameter_groups(), **options)
    model.accumulate_gradients_in_place()
    losses = []
    with RaySampler(posed_images(count=8, resolution=24), 0) as sampler:
        for step in range(steps):
            at = step / steps if progress is None else progress[step]
            generator = torch.Generator().manual_seed(step)
            moved = model.before_step(step, at, generator)
            if moved is not None:
                optimiser.follow(moved, model.parameter_groups())
                model.accumulate_gradients_in_place()
            result = model.training_step(sampler.sample(model.batch_size(), step), step, generator)
            result.loss.backward()
            optimiser.step(1.0, at)
            losses.append(result.squared_error)
    return losses, optimiser


@pytest.mark.parametrize("count", [0, 1, 333])
def test_rendering(count: int) -> None:
    seen = textured(make()).render_rays(rays(count), background=torch.ones(3))
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "rgb": (count, 3), "opacity": (count,), "depth": (count,),
    }  # fmt: skip
    for value in seen.values():
        assert bool(value.isfinite().all())
    assert bool((seen["opacity"] >= 0).all() & (seen["opacity"] <= 1 + 1e-5).all())


def test_a_scene_of_any_size_looks_alike() -> None:
    small, large = textured(make()).render_rays(rays(100), background=torch.zeros(3)), None
    large = textured(make(half=250.0)).render_rays(rays(100, 250.0), background=torch.zeros(3))
    torch.testing.assert_close(large["rgb"], small["rgb"], rtol=0, atol=2e-4)
    torch.testing.assert_close(large["depth"], 250 * small["depth"], rtol=2e-3, atol=1e-2)


def test_its_world_grid_shows_the_same() -> None:
    model = textured(make(half=2.0))
    seen = model.render_rays(rays(100, 2.0), background=torch.zeros(3))
    torch.testing.assert_close(model.world_grid().render(rays(100, 2.0)).rgb, seen["rgb"], rtol=0, atol=2e-5)


def test_differentiable_colours_are_the_rendered_ones() -> None:
    model, some = textured(make()), rays(60)
    background = torch.tensor([0.2, 0.5, 1.0])
    some.origins.requires_grad_()
    colours = model.colours_with_gradient(some, background=background)
    expected = model.render_rays(rays(60), background=background)["rgb"]
    torch.testing.assert_close(colours.detach(), expected, rtol=0, atol=5e-5)
    colours.sum().backward()
    assert some.origins.grad is not None
    assert bool(some.origins.grad.isfinite().all())
    assert bool(some.origins.grad.any())


def test_training_learns_the_scene() -> None:
    rates = {
        "density_rate": VoxelRate(initial=10.0, final=1.0, reach=1.0),
        "sh_rate": VoxelRate(initial=0.1, final=0.01, reach=1.0),
    }
    losses, _ = trained(make(resolutions=((16, 16, 16),), **rates), 30)
    assert sum(losses[-5:]) < 0.35 * sum(losses[:5])


def test_penalties_join_the_loss() -> None:
    generator = torch.Generator()
    plain = textured(make(tv_density=0.0, tv_sh=0.0))
    base = float(plain.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach())
    for name, value in (("tv_density", 1.0), ("tv_sh", 1.0), ("sparsity", 1.0), ("beta", -1.0)):
        settings = {"tv_density": 0.0, "tv_sh": 0.0, name: abs(value)}
        model = textured(make(**settings))
        found = float(model.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach())
        assert (found - base) * value > 1e-4, name
    late = textured(make(tv_density=1.0, tv_sh=1.0, tv_until=0.3, random_until=1.0))
    late.before_step(0, 0.31, generator)
    assert float(late.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach()) == pytest.approx(base)


def test_the_backdrop_turns_white() -> None:
    def loss(progress: float, **settings: Any) -> float:
        model, generator = textured(make(tv_density=0.0, tv_sh=0.0, **settings)), torch.Generator()
        model.before_step(0, progress, generator)
        step = model.training_step(batch(50, alpha=0.5), 0, generator.manual_seed(0))
        return float(step.loss.detach())

    random, white = loss(0.2, random_until=0.3), loss(0.0, background="white")
    assert random == pytest.approx(loss(0.9, random_until=1.0))
    assert loss(0.3, random_until=0.3) == pytest.approx(white)
    assert random != pytest.approx(white)
    # Without alpha nothing of a picture is known to be the backdrop's.
    assert loss(0.3, random_until=0.3, background="random", has_alpha=False) != pytest.approx(white)
    assert loss(0.3, random_until=0.3, background="black") == pytest.approx(loss(0.0, background="black"))


def test_looking_for_what_is_empty_in_every_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def looked(links: GridLinks, dense: torch.Tensor) -> GridLinks:
        looks.append(without_empty(links, dense))
        return looks[-1]

    monkeypatch.setattr("voxfield.models.empty_space.without_empty", looked)
    passing = textured(make(empty_every=1))
    trained(passing, 12)
    assert len(looks) >= 12
    assert any(int(one.clearance.max()) > int(passing.grid.clearance.max()) for one in looks)
    monkeypatch.setattr("voxfield.models.empty_space.without_empty", lambda links, _: links)
    plain = textured(make(empty_every=1))
    trained(plain, 12)
    torch.testing.assert_close(passing.grid.density, plain.grid.density, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(passing.grid.sh, plain.grid.sh, rtol=1e-6, atol=1e-6)


def test_a_resumed_run_passes_by_the_same_as_the_one_that_went_on() -> None:
    model = textured(make(empty_every=100))
    trained(model, 5)
    with torch.no_grad():
        model.grid.density.sub_(3.0)
    resumed, anew = make(empty_every=100), make(empty_every=100)
    # Rendering in between changes nothing of the training.
    model.render_rays(rays(40), background=torch.ones(3))
    state = model.state_dict()
    resumed.load_state_dict(state)
    anew.load_state_dict({name: value for name, value in state.items() if name != "_extra_state"})
    went_on, goes_on, looks = (one._empty.in_training(one.grid, 7).links.clearance for one in (model, resumed, anew))
    assert torch.equal(went_on, goes_on)
    assert int(looks.sum()) > int(went_on.sum())
    assert torch.equal(model._empty.now(model.grid).links.clearance, looks)
    assert torch.equal(resumed.state_dict()["_extra_state"], state["_extra_state"])


@pytest.mark.parametrize("noted", [None, torch.zeros(3, dtype=torch.uint8), torch.zeros(5), "text", torch.zeros(2, 2)])
def test_notes_of_what_is_empty_that_are_none_are_left_aside(noted: Any) -> None:
    model = textured(make())
    model.load_state_dict({**model.state_dict(), "_extra_state": noted})
    assert torch.equal(
        model._empty.in_training(model.grid, 7).links.clearance, model._empty.now(model.grid).links.clearance
    )


def test_what_is_rendered_is_what_is_there_now() -> None:
    model = make()
    with torch.no_grad():
        model.grid.density.fill_(-1.0)
    white = torch.ones(3)
    assert float(model.render_rays(rays(40), background=white)["opacity"].max()) == 0
    trained(model, 3)
    with torch.no_grad():
        model.grid.density.fill_(50.0)
    assert float(model.render_rays(rays(40), background=white)["opacity"].min()) > 0.5
    model.show(make(initial_density=0.01).world_grid())
    assert float(model.render_rays(rays(40), background=white)["opacity"].max()) < 0.5


def test_weights_of_rays_count() -> None:
    model = textured(make(tv_density=0.0, tv_sh=0.0))
    generator = torch.Generator()
    one, half = (
        float(model.training_step(batch(50, weights=torch.full((50,), w)), 0, generator.manual_seed(0)).loss.detach())
        for w in (1.0, 0.5)
    )
    assert half == pytest.approx(0.5 * one)
    assert one == pytest.approx(float(model.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach()))


def test_stages_drop_and_refine_and_the_optimiser_follows() -> None:
    stages = ((12, 12, 12), (12, 12, 12), (20, 20, 20))
    model = make(
        resolutions=stages,
        refine_at=(0.4, 0.7),
        density_rate=VoxelRate(initial=10.0, final=10.0, reach=1.0),
        sh_rate=VoxelRate(initial=0.1, final=0.1, reach=1.0),
        weight_threshold=0.5,
        dilate=0,
    )
    losses, optimiser = trained(model, 20)
    assert model.grid.resolution == (20, 20, 20)
    assert int(model.stage) == 2
    assert 0 < model.grid.num_voxels < 20**3
    shapes = [[tuple(m.shape) for m in held] for held in optimiser.state_dict()["moments"]]
    assert shapes == [[tuple(model.grid.density.shape)], [tuple(model.grid.sh.shape)]]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_dropping_voxels_keeps_those_that_are_seen() -> None:
    model = make(resolutions=((12, 12, 12), (12, 12, 12)), refine_at=(0.5,), dilate=0, weight_threshold=0.1)
    ball = torch.zeros(12, 12, 12, dtype=torch.bool)
    ball[4:8, 4:8, 4:8] = True
    with torch.no_grad():
        model.grid.density[model.grid.links.reshape(-1).long()] = torch.where(ball.reshape(-1), 50.0, -1.0)
    moved = model.before_step(0, 0.6, torch.Generator())
    assert moved is not None
    assert model.grid.num_voxels < 12**3 / 4
    # The ball's inside is never seen: its outermost voxels stay.
    assert int((model.grid.links >= 0)[4:8, 4:8, 4:8].sum()) >= 56
    assert model.before_step(1, 0.7, torch.Generator()) is None


def test_a_stage_lasts_its_least_steps() -> None:
    stages = ((12, 12, 12),) * 3
    model = make(resolutions=stages, refine_at=(0.2, 0.3), least_steps=5)
    began = [step for step in range(20) if model.before_step(step, 0.9, torch.Generator()) is not None]
    assert began == [5, 10]


def test_a_grid_in_which_nothing_is_seen_keeps_a_part() -> None:
    model = make(resolutions=((12, 12, 12), (12, 12, 12)), refine_at=(0.5,), weight_threshold=1e9)
    model.before_step(0, 0.6, torch.Generator())
    assert model.grid.num_voxels > 0


def test_memory_is_bounded() -> None:
    per_voxel = 4 * 3 * (1 + 3 * 4) + 1
    model = textured(
        make(
            resolutions=((12, 12, 12), (24, 24, 24)),
            refine_at=(0.5,),
            weight_threshold=0.0,
            max_bytes=per_voxel * 3000 + 5 * 24**3,
        )
    )
    seen = int((model._visibility() > 0).sum())
    model.before_step(0, 0.6, torch.Generator())
    # What is seen is kept, at a resolution between the two.
    assert 12 < model.grid.resolution[0] < 24
    assert model.config.bytes_of(model.grid.resolution, model.grid.num_voxels) <= cast(int, model.config.max_bytes)
    assert model.grid.num_voxels > seen / 2


def test_a_bound_on_voxels_bounds_what_a_stage_needs_beside_them() -> None:
    free, bound, ample = (
        make(resolutions=((8, 8, 8), (400, 400, 400)), refine_at=(0.5,), max_bytes=most).config.step_bytes()
        for most in (None, 7 * 10**6, 10**9)
    )
    # Grids have 7 bytes of links a place, so the bounded one never has more than a million places of 64 million.
    assert free == ample == bound * 64


def test_the_least_visible_go_before_the_resolution_does() -> None:
    def refined(max_bytes: int | None) -> Plenoxels:
        model = make(
            resolutions=((12, 12, 12), (24, 24, 24)),
            refine_at=(0.5,),
            dilate=3,
            weight_threshold=0.1,
            max_bytes=max_bytes,
        )
        ball = torch.zeros(12, 12, 12, dtype=torch.bool)
        ball[5:7, 5:7, 5:7] = True
        with torch.no_grad():
            model.grid.density[model.grid.links.reshape(-1).long()] = torch.where(ball.reshape(-1), 50.0, -1.0)
        model.before_step(0, 0.6, torch.Generator())
        return model

    free = refined(None)
    # Half of the free grid's memory, but room for the dense first one.
    limit = max(free.config.bytes_of((24, 24, 24), free.grid.num_voxels // 2), free.config.bytes_of((12,) * 3, 12**3))
    assert limit < free.config.bytes_of((24, 24, 24), free.grid.num_voxels)
    bound = refined(limit)
    assert bound.grid.resolution == (24, 24, 24)
    assert bound.grid.num_voxels < free.grid.num_voxels
    assert bound.config.bytes_of((24, 24, 24), bound.grid.num_voxels) <= limit


def test_a_first_resolution_beyond_the_memory_is_reduced() -> None:
    model = make(resolutions=((40, 40, 20),), sh_degree=0, max_bytes=40 * 40 * 20 * 10)
    width, height, depth = model.grid.resolution
    assert width == height < 40
    assert abs(width - 2 * depth) <= 2
    assert model.config.bytes_of(model.grid.resolution, model.grid.num_voxels) <= 40 * 40 * 20 * 10
    assert model.config.bytes_of((width + 2, height + 2, depth + 1), (width + 2) * (height + 2) * (depth + 1)) > 320_000


def test_a_trained_model_loads_into_a_fresh_one() -> None:
    settings = {"resolutions": ((12, 12, 12), (20, 20, 20)), "refine_at": (0.5,), "weight_threshold": 0.5}
    model = textured(make(**settings))
    model.before_step(0, 0.6, torch.Generator())
    fresh = make(**settings)
    fresh.load_state_dict(model.state_dict())
    assert int(fresh.stage) == 1
    background = torch.ones(3)
    assert torch.equal(
        fresh.render_rays(rays(50), background=background)["rgb"],
        model.render_rays(rays(50), background=background)["rgb"],
    )


def test_rates_follow_the_published_schedule() -> None:
    rate = PlenoxelsConfig().density_rate

    def at(step: int) -> float:
        return rate.at(step / 128_000)

    assert at(0) == pytest.approx(0.3)
    assert at(1000) == pytest.approx(3.3, rel=0.05)
    assert at(15_000) == pytest.approx(20.4, rel=0.01)
    assert at(38_400) == pytest.approx(11.2, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": ()}, "refine_at: expected one rising progress"),
        ({"resolutions": ((8, 8, 8),) * 3, "refine_at": (0.5, 0.2)}, "refine_at: expected one rising progress"),
        ({"resolutions": ((8, 0, 8),)}, "resolutions: expected a value at least 2"),
        ({"sh_degree": 5}, "sh_degree: unknown value 5"),
        ({"max_bytes": 1000}, "max_bytes: 1000 bytes do not hold one layer of 12 x 12 voxels of degree 1"),
        ({"max_bytes": 1000}, r"Give more memory \(--max-memory"),
        ({"tv_share": 0.0}, "tv_share: expected a value above 0"),
        ({"prune": "both"}, "prune: unknown value 'both'"),
        ({"initial_density": 0.0}, "initial_density: expected a value above 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlenoxelsConfig(**{**SMALL, **settings})


def around(**settings: Any) -> Plenoxels:
    """A model of a scene that goes on beyond its region of interest."""
    captures = posed_images(count=3, resolution=16)
    spheres = SpheresConfig(**{"layers": 4, "height": 6, **settings.pop("spheres", {})})
    config = PlenoxelsConfig(**{**SMALL, "spheres": spheres, **settings})
    bounds = Bounds.from_cube(0.5)
    model = Plenoxels(config, bounds, captures.cameras, near=0.05, has_alpha=False, unbounded=True)
    generator = torch.Generator().manual_seed(4)
    assert model.spheres is not None
    with torch.no_grad():
        model.spheres.density.copy_(torch.rand(model.spheres.num_texels, generator=generator) - 0.3)
        model.spheres.rgb.copy_(torch.randn(model.spheres.rgb.shape, generator=generator))
    return textured(model)


def test_a_scene_beyond_its_region_gets_spheres_by_itself() -> None:
    import dataclasses

    captures = dataclasses.replace(posed_images(count=3, resolution=8), unbounded=True)
    spheres = SpheresConfig(height=4)
    model = build_model(PlenoxelsConfig(**SMALL, spheres=spheres), captures, 0)
    assert model.config.spheres.layers == 32
    assert model.spheres is not None
    # The ball holds the cameras, and the grid only what lies in the ball.
    distance = captures.cameras.origins.norm(dim=1).max() * model.scale
    assert float(distance) == pytest.approx(0.95, rel=1e-5)
    assert model.grid.num_voxels < 12**3
    without = build_model(PlenoxelsConfig(**SMALL, spheres=SpheresConfig(layers=0)), captures, 0)
    assert without.spheres is None
    assert without.world_bounds == captures.bounds
    bounded = build_model(PlenoxelsConfig(**SMALL, spheres=spheres), posed_images(count=3, resolution=8), 0)
    assert (bounded.spheres, bounded.config.spheres.layers) == (None, 0)


def test_spheres_lie_behind_the_grid() -> None:
    model, behind = around(), torch.tensor([0.1, 0.4, 0.9])
    assert model.spheres is not None
    seen = model.render_rays(rays(80), background=behind)
    grid = model._render(rays(80), model._empty.now(model.grid))
    origins, directions = model._inside(rays(80))
    spheres = model.spheres.render(origins, directions)
    expected = model.grid.render(Rays(**{**vars(rays(80)), "origins": origins, "directions": directions}),
                                 near=model.near)  # fmt: skip
    rest = (1 - expected.opacity)[:, None]
    colour = expected.rgb + rest * (spheres.rgb + (1 - spheres.opacity)[:, None] * behind)
    torch.testing.assert_close(seen["rgb"], colour.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(grid.passed, 1 - expected.opacity)
    moving = rays(80)
    moving.origins.requires_grad_()
    differentiable = model.colours_with_gradient(moving, background=behind)
    torch.testing.assert_close(differentiable.detach(), seen["rgb"], rtol=0, atol=1e-4)
    differentiable.sum().backward()
    assert moving.origins.grad is not None
    assert bool(moving.origins.grad.isfinite().all())


def test_grid_and_spheres_are_trained_pruned_and_kept() -> None:
    stages = {"resolutions": ((12, 12, 12), (16, 16, 16)), "refine_at": (0.5,)}
    model = around(**stages, spheres={"density_threshold": 0.2, "dilate": 0})
    assert model.spheres is not None
    before = model.spheres.num_texels
    losses, optimiser = trained(model, 16)
    assert sum(losses[-4:]) < sum(losses[:4])
    assert 0 < model.spheres.num_texels < before
    assert int(model.spheres_stage) == int(model.stage) == 1
    shapes = [tuple(held[0].shape) for held in optimiser.state_dict()["moments"]]
    parameters = (model.grid.density, model.grid.sh, model.spheres.density, model.spheres.rgb)
    assert shapes == [tuple(parameter.shape) for parameter in parameters]
    fresh = around(**stages)
    fresh.load_state_dict(model.state_dict())
    background = torch.ones(3)
    assert torch.equal(
        fresh.render_rays(rays(50), background=background)["rgb"],
        model.render_rays(rays(50), background=background)["rgb"],
    )


def test_spheres_may_learn_alone_at_first() -> None:
    model = around(spheres_alone_until=0.2, tv_density=0.0, tv_sh=0.0)
    assert model.spheres is not None
    generator = torch.Generator()
    model.before_step(0, 0.1, generator)
    model.training_step(batch(50), 0, generator.manual_seed(0)).loss.backward()
    assert not bool(model.grid.density.grad.any() if model.grid.density.grad is not None else False)
    assert model.spheres.density.grad is not None
    assert bool(model.spheres.density.grad.any())
    model.before_step(1, 0.3, generator)
    model.training_step(batch(50), 0, generator.manual_seed(0)).loss.backward()
    assert model.grid.density.grad is not None
    assert bool(model.grid.density.grad.any())


def test_the_variation_of_spheres_joins_the_loss() -> None:
    generator, losses = torch.Generator(), []
    for weight in (0.0, 1.0):
        spheres = {"tv_density": weight, "tv_rgb": weight}
        model = around(tv_density=0.0, tv_sh=0.0, tv_share=1.0, spheres=spheres)
        losses.append(float(model.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach()))
    assert losses[1] > losses[0] + 1e-4


def test_spheres_stay_within_half_of_the_memory() -> None:
    model = around(max_bytes=400_000, spheres={"height": 64}, sh_degree=0)
    assert model.spheres is not None
    height = model.spheres.links.shape[1]
    assert height < 64
    assert model.config.spheres.bytes_of(height) <= 200_000
    left = 400_000 - model.config.spheres.bytes_of(height)
    assert model.config.bytes_of(model.grid.resolution, model.grid.num_voxels) <= left
    model.before_step(0, 0.9, torch.Generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": -1}, "layers: expected a value at least 0"),
        ({"layers": 300}, "layers: .* at most 256"),
        ({"height": 1}, "height: expected a value at least 2"),
        ({"camera_scale": 0.0}, "camera_scale: expected a value above 0"),
        ({"initial_density": 0.0}, "initial_density: expected a value above 0"),
        ({"tv_rgb": -1.0}, "tv_rgb: expected a value at least 0"),
    ],
)
def test_bad_spheres_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpheresConfig(**settings)


def test_device_coordinates_have_no_spheres() -> None:
    config = PlenoxelsConfig(**SMALL, spheres=SpheresConfig(layers=4))
    with pytest.raises(InputError, match="there is no middle in normalised device coordinates"):
        config.settled(unbounded=True, has_alpha=False, ndc=True)
    assert PlenoxelsConfig(**SMALL).settled(unbounded=True, has_alpha=False, ndc=True).spheres.layers == 0
