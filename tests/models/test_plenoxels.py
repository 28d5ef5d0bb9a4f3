from typing import Any

import pytest
import torch

from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.models.plenoxels import Plenoxels, PlenoxelsConfig, VoxelRate
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
    late = textured(make(tv_density=1.0, tv_sh=1.0, tv_until=0.3))
    late.before_step(0, 0.31, generator)
    assert float(late.training_step(batch(50), 0, generator.manual_seed(0)).loss.detach()) == pytest.approx(base)


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
            max_bytes=per_voxel * 3000,
        )
    )
    model.before_step(0, 0.6, torch.Generator())
    assert model.grid.resolution == (24, 24, 24)
    assert 0 < model.grid.num_voxels <= 3000


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
        ({"max_bytes": 1000}, "max_bytes: 1000 bytes hold 6 voxels, but the first resolution has 1728"),
        ({"tv_share": 0.0}, "tv_share: expected a value above 0"),
        ({"prune": "both"}, "prune: unknown value 'both'"),
        ({"initial_density": 0.0}, "initial_density: expected a value above 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlenoxelsConfig(**{**SMALL, **settings})


def test_captures_beyond_a_box_are_refused() -> None:
    import dataclasses

    captures = dataclasses.replace(posed_images(count=2, resolution=8), unbounded=True)
    with pytest.raises(InputError, match="this capture sees beyond it"):
        build_model(PlenoxelsConfig(**SMALL), captures, 0)
