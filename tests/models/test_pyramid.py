"""Both samplers with a pyramid of resolutions: packed samples of an occupancy grid, and intervals of proposals."""

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
from voxfield.fields.proposal import ProposalConfig
from voxfield.fields.pyramid_field import PyramidConfig, PyramidField
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.models.footprints import REMEMBERED, Footprints
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.grid_ngp_config import GridNgpConfig
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.nerfacto_config import NerfactoConfig

SIZES = HashFieldConfig(num_levels=4, log2_table_size=10, base_resolution=8, max_resolution=64, hidden=16)
PROPOSAL = ProposalConfig(num_samples=16, num_levels=2, log2_table_size=8, max_resolution=16)


def pyramid(**settings: Any) -> PyramidConfig:
    return PyramidConfig(**{"num_levels": 4, "trained_resolution": 8, **settings})


def make(kind: str, *, unbounded: bool = False, settings: dict[str, Any] | None = None, **levels: Any) -> Any:
    """A model that samples as ``kind``: ``occupancy``, ``proposal`` or ``uniform``."""
    options: dict[str, Any] = {"field": SIZES, "pyramid": pyramid(**levels), **(settings or {})}
    scene: dict[str, Any] = {"unbounded": unbounded, "near": 0.05, "has_alpha": not unbounded, "seed": 0}
    if kind == "occupancy":
        occupancy = OccupancyConfig(resolution=16, warm_up_updates=2, cells_per_update=0.5, update_every=4)
        base = {"occupancy": occupancy, "steps_across": 64, "samples_per_batch": 2048, "final_samples_per_batch": 2048}
        return textured(GridNgp(GridNgpConfig(**base, **options), Bounds.from_cube(1.0), **scene))
    base = {"coarse_proposal": PROPOSAL, "fine_proposal": PROPOSAL, "num_samples": 12, "sampling": kind}
    return textured(Nerfacto(NerfactoConfig(**base, **options), Bounds.from_cube(1.0), num_cameras=3, **scene))


def textured(model: Any) -> Any:
    """Give the field structure: a fresh one is the same fog everywhere, at every level."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table in model.field.parameters_of_tables():
            table.uniform_(-2, 2, generator=generator)
    return model


def rays(count: int, area: float = 1e-4) -> Rays:
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(count, 3, generator=generator) - 0.5
    origins = torch.tensor([[0.0, -3.0, 0.5]]).expand(count, 3).contiguous()
    return Rays(
        origins=origins,
        directions=torch.nn.functional.normalize(target - origins, dim=1),
        pixel_area=torch.full((count,), area),
        camera_index=torch.arange(count) % 3,
    )


def batch(count: int, area: float = 1e-4, weights: torch.Tensor | None = None) -> RayBatch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(6))
    rgba[:, 3] = 1.0
    return RayBatch(rays=rays(count, area), pixels=torch.full((count, 2), 0.5), rgba=rgba, weights=weights)


def step(model: Any, given: RayBatch) -> Any:
    return model.training_step(given, 0, torch.Generator().manual_seed(0))


KINDS = ("occupancy", "proposal", "uniform")


@pytest.mark.parametrize("interpolate", ["embedding", "color"])
@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rendering(kind: str, unbounded: bool, interpolate: str) -> None:
    model = make(kind, unbounded=unbounded, interpolate=interpolate)
    for count in (0, 1, 100) if kind == "occupancy" else (1, 100):
        seen = model.render_rays(rays(count), background=torch.ones(3))
        assert seen["rgb"].shape == (count, 3)
        assert seen["level"].shape == (count,)
        assert all(bool(value.isfinite().all()) for value in seen.values())
        assert bool((seen["level"] >= 0).all() & (seen["level"] <= 3).all())


@pytest.mark.parametrize("kind", KINDS)
def test_wider_pixels_see_coarser_levels(kind: str) -> None:
    model = make(kind)
    fine, coarse = (model.render_rays(rays(50, area), background=torch.ones(3)) for area in (1e-5, 1e-3))
    met = (fine["opacity"] > 0.5) & (coarse["opacity"] > 0.5)
    assert bool(met.any())
    # A width of sqrt(100) times another's is log2(10) levels coarser, where the pyramid does not end.
    assert bool((fine["level"] > coarse["level"])[met].all())
    assert not torch.allclose(fine["rgb"], coarse["rgb"], atol=1e-3)
    level = model.field.levels.of_width(fine["depth"] * math.sqrt(1e-5)).clamp(0, 3)
    torch.testing.assert_close(fine["level"][met], level[met])


def test_rendering_in_waves_is_the_sum_over_all_samples() -> None:
    model = make("occupancy", settings={"render_early_stop": 0.0})
    given = rays(100, 4e-4)
    seen = model.render_rays(given, background=torch.zeros(3))
    with torch.no_grad():
        samples = model._march(given, None)
        widths = 0.02 * 0.5 * (samples.t_start + samples.t_end)
        asked = model.field.query(samples.positions, model.field.levels.of_width(widths))
        colour = model.field.colour(asked.geometry, given.directions, samples.ray_index)
        density = asked.density * model.density_scale
        whole = composite(density, colour, samples.t_start, samples.t_end, samples.ray_offsets, early_stop=0.0)
    # Up to 64 samples below LEAST_LIGHT (1e-4) are not coloured.
    torch.testing.assert_close(seen["rgb"], whole.rgb, rtol=0, atol=7e-3)
    torch.testing.assert_close(seen["opacity"], whole.opacity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("interpolate", ["embedding", "color"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_that_is_asked_for_learns(kind: str, interpolate: str) -> None:
    model = make(kind, interpolate=interpolate)
    result = step(model, batch(200, 4e-4))
    result.loss.backward()
    assert math.isfinite(float(result.loss.detach()))
    learnt = [any(weight.grad is not None for weight in net.parameters()) for net in model.field.density_nets]
    # Pixels 0.05 to 0.08 wide where cells are 0.25, 0.125, 0.0625 and 0.03125: levels 1.6 to 2.4.
    assert learnt[1:3] == [True, True]
    assert not learnt[0]
    for table in model.field.parameters_of_tables():
        assert bool(table.grad.any())


@pytest.mark.parametrize("kind", KINDS)
def test_rays_count_by_their_weights(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.where(torch.rand(40, generator=generator) < 0.5, 1.0, 64.0)

    def loss(weights: torch.Tensor | None) -> float:
        settings = {"huber_delta": 0.0} if kind == "occupancy" else {"interlevel_weight": 0.0}
        model = make(kind, settings=settings)
        return float(step(model, batch(40, weights=weights)).loss.detach())

    plain = loss(None)
    assert loss(torch.ones(40)) == pytest.approx(plain, rel=1e-5)
    assert loss(torch.full((40,), 3.0)) == pytest.approx(plain, rel=1e-5), "what counts is how weights differ"
    light, heavy = (weights == 1).float() + 1e-20, (weights > 1).float() + 1e-20
    few, many = float((weights == 1).sum()), 64 * float((weights > 1).sum())
    expected = (few * loss(light) + many * loss(heavy)) / (few + many)
    assert loss(weights) == pytest.approx(expected, rel=1e-4)


def test_weights_count_without_a_pyramid_too() -> None:
    results = []
    for weights in (None, torch.arange(1.0, 41.0)):
        config = GridNgpConfig(field=SIZES, occupancy=OccupancyConfig(resolution=16), samples_per_batch=2048)
        model = GridNgp(config, Bounds.from_cube(1.0), unbounded=False, near=0.05, has_alpha=True)
        results.append(step(model, batch(40, weights=weights)))
    plain, weighted = (float(result.loss.detach()) for result in results)
    assert plain != pytest.approx(weighted, rel=1e-3)
    assert results[1].squared_error == pytest.approx(results[0].squared_error, rel=1e-5), "what is logged is plain"


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_asks_for_no_level_that_was_not_learnt(kind: str) -> None:
    model = make(kind)
    near, far = rays(100, 1e-6), rays(100, 9e-4)
    before = model.render_rays(near, background=torch.ones(3))["rgb"]
    for _ in range(4):
        step(model, batch(100, 9e-4))
    learnt = model.field.trained
    assert bool((learnt.least < 255).any())
    assert int(learnt.greatest.max()) < 2.5 * learnt.codes_per_level, "only coarse levels were asked for"
    after = model.render_rays(near, background=torch.ones(3))["rgb"]
    assert not torch.allclose(before, after, atol=1e-3), "zooming in asks for the levels that were learnt"
    model.field.trained = None
    torch.testing.assert_close(model.render_rays(near, background=torch.ones(3))["rgb"], before)
    # Looking at what was learnt from afar is as it was.
    assert bool(model.render_rays(far, background=torch.ones(3))["rgb"].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_learns_nothing(kind: str) -> None:
    model = make(kind)
    state = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    model.render_rays(rays(20), background=torch.ones(3))
    model.colours_with_gradient(rays(20), background=torch.ones(3))
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_colours_with_gradient_are_those_rendered(kind: str, unbounded: bool) -> None:
    model = make(kind, unbounded=unbounded)
    given = rays(60)
    origins = given.origins.clone().requires_grad_()
    colours = model.colours_with_gradient(replace(given, origins=origins), background=torch.ones(3))
    rendered = model.render_rays(given, background=torch.ones(3))["rgb"]
    torch.testing.assert_close(colours.detach(), rendered, rtol=0, atol=2e-2)
    colours.sum().backward()
    assert origins.grad is not None
    assert bool(origins.grad.any())


@pytest.mark.parametrize("kind", ["occupancy", "proposal"])
def test_penalties_are_part_of_the_loss(kind: str) -> None:
    plain = float(step(make(kind), batch(30)).loss.detach())
    assert float(step(make(kind, consistency_weight=0.1), batch(30)).loss.detach()) > plain
    assert float(step(make(kind, l2_weight=1e-3), batch(30)).loss.detach()) > plain


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_optimised_once(kind: str) -> None:
    model = make(kind, unbounded=True, interpolate="color")
    grouped = [id(parameter) for group in model.parameter_groups() for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert {group.name for group in model.parameter_groups() if group.skip_zero} >= {"levels"}


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_pixels_are_refused(kind: str) -> None:
    for area in (0.0, math.nan):
        with pytest.raises(InputError, match="width: expected pixel widths above 0"):
            make(kind).render_rays(rays(5, area), background=torch.ones(3))


def test_uniform_sampling_has_no_proposals() -> None:
    model = make("uniform")
    assert len(model.proposals) == 0
    look = model._look(rays(7), None, None)
    assert look.levels == []
    torch.testing.assert_close(look.edges[0], torch.linspace(0, 1, 13))
    with pytest.raises(InputError, match="sampling"):
        NerfactoConfig(sampling="random")  # type: ignore[arg-type]


def test_the_finest_cells_are_those_of_the_region_of_interest() -> None:
    # Contraction leaves half of the side to it, a cascade a half of the one beyond.
    for kind in ("occupancy", "proposal"):
        sizes = [make(kind, unbounded=flag).field.levels for flag in (False, True)]
        cells = [levels.extent / levels.max_resolution for levels in sizes]
        assert cells[0] == pytest.approx(2 / 64)
        assert cells[1] == pytest.approx({"occupancy": 2 / 64, "proposal": 4 / 64}[kind])


def test_normals_follow_the_level() -> None:
    model = make("proposal", unbounded=True)
    fine, coarse = (
        model.render_rays(rays(20, area), background=torch.ones(3), normals=True)["normals"] for area in (1e-5, 1e-2)
    )
    assert fine.shape == (20, 3)
    assert not torch.allclose(fine, coarse, atol=1e-2)
    learnt = make("proposal", unbounded=True, settings={"predict_normals": True})
    assert learnt.render_rays(rays(4), background=torch.ones(3))["normals"].shape == (4, 3)
    with pytest.raises(InputError, match="predict_normals"):
        NerfactoConfig(pyramid=pyramid(interpolate="color"), predict_normals=True)


def test_the_occupancy_grid_looks_through_training_pixels() -> None:
    model = make("occupancy")
    given = batch(200, 1e-6)
    step(model, given)
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = model._density_at(points)
    distance = (points - given.rays.origins[0]).norm(dim=1)
    level = model.field.levels.of_width(1e-3 * distance)
    expected = model.field.density((points + 1) / 2, level) * model.density_scale
    torch.testing.assert_close(found, expected)
    step(model, batch(200, 4e-2))
    assert not torch.allclose(model._density_at(points), found, rtol=1e-2)


def test_footprints_before_and_after_a_batch() -> None:
    fresh = Footprints((1.0, 2.0, 3.0), 0.5)
    assert fresh.at(torch.tensor([[1.0, 2.0, 7.0], [1.0, 2.0, 3.0]]), 0.1).tolist() == pytest.approx([2.0, 0.05])
    fresh.remember(rays(0))
    fresh.remember(rays(3, 4e-4))
    assert fresh.at(torch.tensor([[0.0, -3.0, 2.5]]).expand(REMEMBERED + 5, 3), 0.1).tolist() == pytest.approx(
        [0.04] * (REMEMBERED + 5)
    )


def test_normalised_device_coordinates_have_no_widths() -> None:
    pose = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0.5]], dtype=torch.float64)
    frame = NdcFrame.around(pose[None], torch.tensor([[0.4, 0.5]]), 1.5)
    with pytest.raises(InputError, match=r"capture\.space"):
        Nerfacto(
            NerfactoConfig(field=SIZES, pyramid=pyramid()), Bounds.from_cube(1.0), unbounded=False, near=0.05,
            has_alpha=False, num_cameras=1, ndc=frame,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["occupancy", "proposal"])
def test_orthographic_pixels_do_not_widen(kind: str) -> None:
    scene = posed_images(count=1, resolution=8)
    cameras = replace(scene.cameras, model="orthographic")
    with pytest.raises(InputError, match="orthographic"):
        make(kind).render_image(cameras, 0, background=torch.ones(3))


def test_training_learns_and_empties_space() -> None:
    scene = posed_images(count=4, resolution=16)
    occupancy = OccupancyConfig(resolution=16, warm_up_updates=2, cells_per_update=0.5, update_every=4)
    config = GridNgpConfig(
        field=SIZES, pyramid=pyramid(), occupancy=occupancy, steps_across=64, samples_per_batch=2048,
        final_samples_per_batch=2048,
    )  # fmt: skip
    model = GridNgp(config, scene.bounds, unbounded=False, near=0.05, has_alpha=True)
    with RaySampler(scene, 0) as sampler:
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
        losses = []
        for at in range(150):
            generator = torch.Generator().manual_seed(at)
            model.before_step(at, at / 150, generator)
            result = model.training_step(sampler.sample(model.batch_size(), at), at, generator)
            optimiser.zero_grad()
            result.loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(result.loss.detach()))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert model.occupancy.fraction() < 0.9
    assert isinstance(model.field, PyramidField)
