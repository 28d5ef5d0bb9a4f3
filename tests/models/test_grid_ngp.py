import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.occupancy import OccupancyConfig
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.grid_ngp_config import GridNgpConfig

CONFIG: dict[str, Any] = {
    "field": HashFieldConfig(num_levels=4, log2_table_size=10, base_resolution=8, max_resolution=32, hidden=16),
    "occupancy": OccupancyConfig(resolution=16, warm_up_updates=2, cells_per_update=0.5, update_every=4),
    "steps_across": 64,
    "samples_per_batch": 2048,
    "final_samples_per_batch": 8192,
}


def make(*, unbounded: bool = False, has_alpha: bool = True, half: float = 1.0, **settings: Any) -> GridNgp:
    config = GridNgpConfig(**{**CONFIG, **settings})
    return GridNgp(config, Bounds.from_cube(half), unbounded=unbounded, near=0.05, has_alpha=has_alpha, seed=0)


def rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(count, 3, generator=generator) - 0.5
    origins = torch.tensor([[0.0, -3.0, 0.5]]).expand(count, 3).contiguous()
    return Rays(
        origins=origins,
        directions=torch.nn.functional.normalize(target - origins, dim=1),
        pixel_area=torch.full((count,), 1e-4),
        camera_index=torch.zeros(count, dtype=torch.int64),
    )


def batch(count: int, alpha: float = 1.0) -> RayBatch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(6))
    rgba[:, 3] = alpha
    return RayBatch(rays=rays(count), pixels=torch.full((count, 2), 0.5), rgba=rgba)


def textured(model: GridNgp, thickness: float = 1.0) -> GridNgp:
    """Give the field structure: a fresh one is the same fog everywhere."""
    with torch.no_grad():
        model.field.table.uniform_(-thickness, thickness, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("count", [0, 1, 333])
def test_rendering(count: int) -> None:
    seen = textured(make()).render_rays(rays(count), background=torch.ones(3))
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "rgb": (count, 3), "opacity": (count,), "depth": (count,),
    }  # fmt: skip
    for value in seen.values():
        assert bool(value.isfinite().all())
    assert bool((seen["opacity"] >= 0).all() & (seen["opacity"] <= 1 + 1e-5).all())
    assert bool((seen["rgb"] >= 0).all() & (seen["rgb"] <= 1 + 1e-4).all())


def test_rendering_is_the_sum_over_all_samples() -> None:
    # Waves, early stops and dark samples left uncoloured are ways to skip work, not another image.
    from voxfield.kernels.composite import composite

    model = textured(make(render_early_stop=0.0), 3.0)
    model.step_scale.fill_(1.0)
    seen = model.render_rays(rays(200), background=torch.zeros(3))
    with torch.no_grad():
        samples = model._march(rays(200), None)
        density, geometry = model.field.geometry(model.field.encode(samples.positions))
        colour = model.field.colour(geometry, rays(200).directions, samples.ray_index)
        whole = composite(
            density * model.density_scale,
            colour,
            samples.t_start,
            samples.t_end,
            samples.ray_offsets,
            early_stop=0.0,
        )
    # Up to 64 samples below LEAST_LIGHT (1e-4) are not coloured.
    torch.testing.assert_close(seen["rgb"], whole.rgb, rtol=0, atol=7e-3)
    torch.testing.assert_close(seen["opacity"], whole.opacity, rtol=0, atol=1e-5)
    solid = whole.opacity > 0.5
    torch.testing.assert_close(seen["depth"][solid], (whole.depth / whole.opacity)[solid], rtol=1e-4, atol=1e-4)


def test_chunks_do_not_change_an_image() -> None:
    model = textured(make())
    cameras = posed_images(count=1, resolution=16).cameras
    whole = model.render_image(cameras, 0, background=torch.ones(3))
    parts = model.render_image(cameras, 0, background=torch.ones(3), rays_per_chunk=37)
    assert whole["rgb"].shape == (16, 16, 3)
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-5, atol=1e-5)


def test_rays_that_miss_see_the_background() -> None:
    away = Rays(
        origins=torch.full((3, 3), 5.0),
        directions=torch.tensor([[1.0, 0, 0]]).expand(3, 3).contiguous(),
        pixel_area=torch.ones(3),
        camera_index=torch.zeros(3, dtype=torch.int64),
    )
    seen = textured(make()).render_rays(away, background=torch.tensor([0.2, 0.4, 0.6]))
    assert torch.equal(seen["rgb"], torch.tensor([0.2, 0.4, 0.6]).expand(3, 3))
    assert not bool(seen["opacity"].any())
    assert not bool(seen["depth"].any())


def test_a_batch_of_rays_that_all_miss_still_trains() -> None:
    model = make()
    held = batch(8)
    away = Rays(
        origins=held.rays.origins + 50.0,
        directions=held.rays.directions,
        pixel_area=held.rays.pixel_area,
        camera_index=held.rays.camera_index,
    )
    for background in ("white", "last_sample"):
        model.background = background  # type: ignore[assignment]
        result = model.training_step(
            RayBatch(rays=away, pixels=held.pixels, rgba=held.rgba), 0, torch.Generator().manual_seed(0)
        )
        assert math.isfinite(float(result.loss.detach()))
        assert result.num_samples == 0


def test_every_parameter_gets_a_gradient() -> None:
    model = textured(make(), 0.1)
    result = model.training_step(batch(200), 0, torch.Generator().manual_seed(0))
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert result.num_rays == 200
    assert result.num_samples > 200
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


def test_hidden_samples_change_neither_loss_nor_gradients() -> None:
    def gradients(early_stop: float) -> list[torch.Tensor]:
        model = textured(make(early_stop=early_stop, background="black"), 4.0)
        result = model.training_step(batch(100), 0, torch.Generator().manual_seed(0))
        result.loss.backward()  # type: ignore[no-untyped-call]
        counted.append(result.num_samples)
        return [result.loss.detach(), *[p.grad for p in model.parameters() if p.grad is not None]]

    counted: list[int] = []
    for kept, skipped in zip(gradients(0.0), gradients(1e-4), strict=True):
        # What is skipped holds less than 1e-4 of a ray's light.
        torch.testing.assert_close(kept, skipped, rtol=0, atol=1e-3 * max(1e-3, float(kept.abs().max())))
    assert counted[1] < counted[0]


def test_random_backgrounds_make_only_opacity_explain_alpha() -> None:
    model = textured(make(background="random"), 0.1)
    losses = [
        float(model.training_step(batch(100, alpha=0.0), 1, torch.Generator().manual_seed(seed)).loss.detach())
        for seed in (0, 0, 1)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != losses[2]
    with torch.no_grad():
        # Nothing there: transparent truth and prediction show the same backdrop, whatever it is.
        model.field.density_net[-1][0] = 0
        model.density_scale = 0.0
    empty = model.training_step(batch(100, alpha=0.0), 1, torch.Generator().manual_seed(0))
    assert float(empty.loss.detach()) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(
    ("chosen", "has_alpha", "unbounded", "expected"),
    [
        ("auto", True, False, "random"),
        ("auto", False, True, "random"),
        ("auto", False, False, "black"),
        ("white", True, True, "white"),
        ("last_sample", False, True, "last_sample"),
    ],
)
def test_what_background_auto_means(chosen: str, has_alpha: bool, unbounded: bool, expected: str) -> None:
    assert make(background=chosen, has_alpha=has_alpha, unbounded=unbounded).background == expected


def test_the_last_samples_colour_needs_pictures_without_alpha() -> None:
    with pytest.raises(InputError, match="last_sample"):
        make(background="last_sample", has_alpha=True)


def test_bounded_and_unbounded_scenes() -> None:
    bounded, unbounded = make(), make(unbounded=True)
    assert (bounded.occupancy.cascades, bounded.step_rule.cone_angle) == (1, 0.0)
    assert unbounded.occupancy.cascades > 1
    assert unbounded.step_rule.cone_angle > 0
    assert unbounded.step_rule.max_step > unbounded.step_rule.min_step
    by_hand = make(unbounded=True, cascades=2, cone_angle=0.0)
    assert (by_hand.occupancy.cascades, by_hand.step_rule.cone_angle) == (2, 0.0)


def test_what_lies_far_outside_the_region_is_seen_by_unbounded_models_only() -> None:
    origins = torch.tensor([[0.0, 0.0, 0.0]])
    out = Rays(
        origins=origins,
        directions=torch.tensor([[0.0, 1.0, 0.0]]),
        pixel_area=torch.ones(1),
        camera_index=torch.zeros(1, dtype=torch.int64),
    )
    far = [float(make(unbounded=flag)._march(out, None).t_end.max()) for flag in (False, True)]
    assert far[0] == pytest.approx(1.0, abs=0.1)
    assert far[1] > 4.0


def test_scenes_of_any_size_start_alike() -> None:
    small, large = make(half=0.01), make(half=100.0)
    opacities = []
    for model, scale in ((small, 0.01), (large, 100.0)):
        held = rays(50)
        scaled = Rays(
            origins=held.origins * scale,
            directions=held.directions,
            pixel_area=held.pixel_area,
            camera_index=held.camera_index,
        )
        model.near = 0.0
        opacities.append(model.render_rays(scaled, background=torch.zeros(3))["opacity"])
    torch.testing.assert_close(*opacities, rtol=0.02, atol=0.02)


def test_batches_aim_at_a_number_of_samples_and_grow() -> None:
    model = make()
    model.samples_per_ray.fill_(16.0)
    assert model.batch_size() == 2048 // 16
    model.before_step(1, 1.0, torch.Generator().manual_seed(0))
    assert model.samples_per_batch == 8192
    assert model.batch_size() == 8192 // 16
    model.samples_per_ray.fill_(0.0)
    assert model.batch_size() <= model.samples_per_batch


def test_training_finds_the_empty_space() -> None:
    scene = posed_images(count=4, resolution=16)
    model = GridNgp(GridNgpConfig(**CONFIG), scene.bounds, unbounded=False, near=0.05, has_alpha=True)
    with RaySampler(scene, 0) as sampler:
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
        losses = []
        for step in range(150):
            generator = torch.Generator().manual_seed(step)
            model.before_step(step, step / 150, generator)
            result = model.training_step(sampler.sample(model.batch_size(), step), step, generator)
            optimiser.zero_grad()
            result.loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(result.loss.detach()))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert model.occupancy.fraction() < 0.9


@pytest.mark.parametrize(
    ("has_alpha", "alpha", "brightness", "opens"),
    [
        (True, 1.0, 1.0, True),
        (True, 0.0, 1.0, False),
        # Black lies behind: what is black may be nothing.
        (False, 1.0, 1.0, True),
        (False, 1.0, 0.05, False),
    ],
)
def test_rays_that_should_have_met_matter_open_the_cells_along_them(
    has_alpha: bool, alpha: float, brightness: float, opens: bool
) -> None:
    model = make(has_alpha=has_alpha)
    occupancy = model.occupancy
    occupancy.updates.fill_(occupancy.config.warm_up_updates)
    occupancy.density.fill_(0.0)[:, 4, 4, 4] = 1.0  # some matter somewhere, so that there is a threshold
    occupancy.occupied = occupancy.density > 0.5
    occupancy._bits = None
    given = batch(8, alpha=alpha)
    given.rgba[:, :3] *= brightness
    model.training_step(given, 0, torch.Generator().manual_seed(0))
    model.occupancy.update(lambda x: torch.zeros(len(x)), torch.Generator().manual_seed(0))
    opened = int(occupancy.occupied.sum()) - 1
    assert (opened > 8) if opens else (opened <= 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"background": "pink"},
        {"steps_across": 1},
        {"samples_per_batch": 1},
        {"max_samples_per_ray": 0},
        {"early_stop": 0.9},
        {"huber_delta": -1.0},
    ],
)
def test_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        GridNgpConfig(**bad)


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("background", ["white", "last_sample"])
def test_colours_with_gradient_are_those_rendered(unbounded: bool, background: str) -> None:
    model = textured(make(unbounded=unbounded, background=background, has_alpha=False), 2.0)
    bits = model.occupancy.bits.bits.clone()
    backdrop = torch.ones(3)
    rendered = model.render_rays(rays(100), background=backdrop)["rgb"]
    with torch.no_grad():
        colours = model.colours_with_gradient(rays(100), background=backdrop)
    # Rendering leaves samples below LEAST_LIGHT uncoloured, and ends rays at its early stop.
    torch.testing.assert_close(colours, rendered, rtol=0, atol=2e-2)
    assert torch.equal(model.occupancy.bits.bits, bits), "looking teaches the occupancy grid nothing"


def test_the_gradient_of_rays_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    model = textured(make(unbounded=True), 0.5).requires_grad_(False)
    held = rays(64)
    samples = model._visible(model._march(held, None), observe=False)
    positions = samples.positions.clone()
    extent = (model.box[1] - model.box[0]) * 2 ** (model.occupancy.cascades - 1)
    middles = 0.5 * (samples.t_start + samples.t_end)[:, None]

    def colours(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        # Which samples there are has no gradient: they stay, and move with their rays.
        moved = (origins - held.origins + 0)[samples.ray_index.long()]
        moved = moved + middles * (directions - held.directions)[samples.ray_index.long()]
        shifted = replace(samples, positions=positions + moved.detach() / extent)
        monkeypatch.setattr(model, "_visible", lambda _samples, observe: shifted)
        asked = replace(held, origins=origins, directions=directions)
        return model.colours_with_gradient(asked, background=torch.zeros(3))

    origins, directions = held.origins.clone().requires_grad_(), held.directions.clone().requires_grad_()
    found = torch.autograd.grad(colours(origins, directions).sum(), (origins, directions))
    generator, step = torch.Generator().manual_seed(1), 1e-4
    for which, gradient in enumerate(found):
        way = torch.randn(64, 3, generator=generator)
        ends = []
        for sign in (1.0, -1.0):
            pair = [held.origins, held.directions]
            pair[which] = pair[which] + sign * step * way
            ends.append(float(colours(*pair).double().sum()))
        expected = (ends[0] - ends[1]) / (2 * step)
        # The grid is piecewise linear and float32: some percent of the terms' size.
        size = float((gradient * way).sum(1).abs().sum())
        assert float((gradient * way).sum()) == pytest.approx(expected, abs=0.05 * size)


def test_poses_are_not_refined() -> None:
    poses = torch.eye(3, 4)[None]
    assert make().refined_poses(poses) is poses


@pytest.mark.parametrize(
    ("unbounded", "has_alpha", "background"),
    [(True, False, "random"), (False, True, "random"), (False, False, "black")],
)
def test_every_auto_gets_a_value_for_the_capture(unbounded: bool, has_alpha: bool, background: str) -> None:
    settled = GridNgpConfig().settled(unbounded=unbounded, has_alpha=has_alpha)
    assert "auto" not in str(settled)
    assert settled.background == background
    assert (settled.cascades, settled.cone_angle) == ((4, 1 / 64) if unbounded else (1, 0.0))
    assert settled.settled(unbounded=not unbounded, has_alpha=not has_alpha) == settled
