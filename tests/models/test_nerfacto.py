import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from voxfield.data.ray_batches import DepthTargets, RayBatch
from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.proposal import ProposalConfig, ProposalNetwork
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.rays import Rays
from voxfield.kernels.dense_composite import dense_composite, dense_weights
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.nerfacto_config import NerfactoConfig
from voxfield.render.depth_losses import DepthSupervisionConfig, depth_loss
from voxfield.render.normals import composite_normals

CONFIG: dict[str, Any] = {
    "field": HashFieldConfig(
        num_levels=4, log2_table_size=10, base_resolution=8, max_resolution=32, hidden=16, appearance=4
    ),
    "coarse_proposal": ProposalConfig(num_samples=24, num_levels=2, log2_table_size=8, max_resolution=16),
    "fine_proposal": ProposalConfig(num_samples=12, num_levels=2, log2_table_size=8, max_resolution=32),
    "num_samples": 10,
    "rays_per_batch": 64,
    "negligible_weight": 0.0,
}


def make(*, unbounded: bool = True, has_alpha: bool = False, ndc: NdcFrame | None = None, **settings: Any) -> Nerfacto:
    return Nerfacto(
        NerfactoConfig(**{**CONFIG, **settings}),
        Bounds.from_cube(1.0),
        unbounded=unbounded,
        near=0.05,
        has_alpha=has_alpha,
        num_cameras=3,
        seed=0,
        ndc=ndc,
    )


def frame() -> NdcFrame:
    """That of a camera where `rays` start, which looks along +Y."""
    pose = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -3], [0, 1, 0, 0.5]], dtype=torch.float64)
    return NdcFrame.around(pose[None], torch.tensor([[0.4, 0.5]]), 1.5)


SPACES: dict[str, dict[str, Any]] = {
    "contracted": {"unbounded": True},
    "bounded": {"unbounded": False, "has_alpha": True},
    "ndc": {"ndc": frame()},
}


def textured(model: Nerfacto, thickness: float = 3.0) -> Nerfacto:
    """Give the fields structure: fresh ones are the same fog everywhere."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for owner in (model.field, *model._networks()):
            owner.table.uniform_(-thickness, thickness, generator=generator)
    model.density_scale = 0.5
    return model


def rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(count, 3, generator=generator) - 0.5
    origins = torch.tensor([[0.0, -3.0, 0.5]]).expand(count, 3).contiguous()
    return Rays(
        origins=origins,
        directions=torch.nn.functional.normalize(target - origins, dim=1),
        pixel_area=torch.full((count,), 1e-4),
        camera_index=torch.arange(count) % 3,
    )


def batch(count: int, alpha: float = 1.0) -> RayBatch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(6))
    rgba[:, 3] = alpha
    return RayBatch(rays=rays(count), pixels=torch.full((count, 2), 0.5), rgba=rgba)


def step(model: Nerfacto, number: int = 0, count: int = 64) -> torch.Tensor:
    result = model.training_step(batch(count), number, torch.Generator().manual_seed(0))
    assert result.num_rays == count
    assert result.num_samples == count * 10
    assert math.isfinite(result.squared_error)
    return result.loss


@pytest.mark.parametrize("unbounded", [True, False])
@pytest.mark.parametrize("count", [0, 1, 77])
def test_rendering(unbounded: bool, count: int) -> None:
    seen = textured(make(unbounded=unbounded)).render_rays(rays(count), background=torch.ones(3))
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "rgb": (count, 3), "opacity": (count,), "depth": (count,), "expected_depth": (count,),
    }  # fmt: skip
    for value in seen.values():
        assert bool(value.isfinite().all())
    assert bool((seen["opacity"] >= 0).all() & (seen["opacity"] <= 1 + 1e-5).all())
    assert bool((seen["rgb"] >= 0).all() & (seen["rgb"] <= 1 + 1e-4).all())
    assert bool((seen["depth"] >= 0.05).all())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("background", ["random", "last_sample"])
def test_what_weighs_little_has_no_colour(space: str, background: str) -> None:
    settings = {**SPACES[space], "has_alpha": False, "background": background, "predict_normals": True}
    whole = textured(make(**settings))
    part = textured(make(negligible_weight=0.05, **settings))
    part.load_state_dict(whole.state_dict())
    asked: list[int] = []
    coloured = part.field.colour

    def counted(geometry: torch.Tensor, *others: Any) -> torch.Tensor:
        asked.append(len(geometry))
        return coloured(geometry, *others)

    part.field.colour = counted  # type: ignore[method-assign]
    with torch.no_grad():
        look = whole._look(rays(40), None, None)
        density, colour, normals, _ = whole._ask_field(look, whole.unseen_appearance().expand(40, -1))
        matter = dense_weights(density, look.distances) >= 0.05
    if background == "last_sample":
        matter[:, -1] = True
    assert 0 < int(matter.sum()) < 400
    seen, like = (model.render_rays(rays(40), background=torch.ones(3)) for model in (part, whole))
    assert asked == [int(matter.sum())]
    shown = dense_composite(density, colour * matter[..., None], look.distances)
    behind = colour[:, -1] if background == "last_sample" else torch.ones(3)
    if background == "last_sample" and look.hit is not None:
        behind = torch.where(look.hit, behind, torch.ones(3))
    torch.testing.assert_close(seen["rgb"], shown.rgb + (1 - shown.opacity)[:, None] * behind)
    assert normals is not None
    torch.testing.assert_close(seen["normals"], composite_normals(shown.weights, normals * matter[..., None]))
    for name in ("opacity", "depth", "expected_depth"):
        torch.testing.assert_close(seen[name], like[name])


@pytest.mark.parametrize("space", SPACES)
def test_next_to_nothing_is_learnt_from_what_weighs_next_to_nothing(space: str) -> None:
    gradients = []
    for negligible in (0.0, 1e-5):
        model = textured(make(negligible_weight=negligible, **SPACES[space]))
        step(model).backward()  # type: ignore[no-untyped-call]
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    exact, found = gradients
    assert exact.keys() == found.keys()
    for name, gradient in exact.items():
        assert float((found[name] - gradient).norm()) <= 1e-3 * float(gradient.norm()), name


def test_rendering_equals_the_formulae_written_out() -> None:
    model = textured(make(unbounded=False, has_alpha=True))
    seen = model.render_rays(rays(9), background=torch.tensor([0.2, 0.4, 0.6]))
    with torch.no_grad():
        _, _, distances = model._place(rays(9), *model._spacing(rays(9)), exponent=1.0, learn=False, generator=None)
        middles = 0.5 * (distances[:, 1:] + distances[:, :-1])
        points = rays(9).origins[:, None] + rays(9).directions[:, None] * middles[..., None]
        density, geometry = model.field.geometry(model.field.encode((points.reshape(-1, 3) + 1) / 2))
        index = torch.arange(9).repeat_interleave(10)
        colour = model.field.colour(geometry, rays(9).directions, index, model.appearance.mean(0).expand(9, -1))
        for ray in range(9):
            light, rgb, opacity, depth = 1.0, torch.zeros(3), 0.0, None
            for i in range(10):
                sigma = float(density[ray * 10 + i]) * 0.5
                alpha = 1 - math.exp(-sigma * float(distances[ray, i + 1] - distances[ray, i]))
                rgb, opacity = rgb + light * alpha * colour[ray * 10 + i], opacity + light * alpha
                light *= 1 - alpha
                depth = float(middles[ray, i]) if depth is None and opacity >= 0.5 else depth
            expected = rgb + light * torch.tensor([0.2, 0.4, 0.6])
            torch.testing.assert_close(seen["rgb"][ray], expected, rtol=1e-4, atol=1e-5)
            assert float(seen["opacity"][ray]) == pytest.approx(opacity, abs=1e-5)
            if abs(opacity - 0.5) > 1e-3:
                assert float(seen["depth"][ray]) == pytest.approx(depth or float(middles[ray, -1]), rel=1e-5)


@pytest.mark.parametrize("space", ["contracted", "ndc"])
def test_every_parameter_gets_a_gradient(space: str) -> None:
    model = textured(make(poses="SO3xR3", predict_normals=True, **SPACES[space]))
    step(model).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


def test_proposals_rest_between_their_updates() -> None:
    model = textured(make())
    resting = next(number for number in range(10, 20) if not model.config.schedule.updates_at(number))
    step(model, resting).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for network in model._networks() for weight in network.parameters())
    assert model.field.table.grad is not None
    assert model.parameter_groups()[2].skip_zero


@pytest.mark.parametrize("manifold", ["SO3xR3", "SE3"])
def test_the_gradient_to_poses_is_that_of_the_loss(manifold: str) -> None:
    model = textured(make(poses=manifold, unbounded=False, has_alpha=True, distortion_weight=0.0), 0.3)
    # The sampled distances depend on the pose through the proposals, but no gradient flows there: hold them still.
    _, edges, distances = model._place(rays(32), *model._spacing(rays(32)), exponent=1.0, learn=False, generator=None)
    model._place = lambda *_, **__: ([], edges.double(), distances.double())  # type: ignore[method-assign]
    model.double()
    seen, like = rays(32), batch(32)
    exact = RayBatch(
        rays=replace(seen, origins=seen.origins.double(), directions=seen.directions.double()),
        pixels=like.pixels,
        rgba=like.rgba.double(),
    )
    assert model.poses is not None
    corrections = model.poses.corrections

    def loss() -> torch.Tensor:
        return model.training_step(exact, 0, torch.Generator().manual_seed(0)).loss - model.poses.penalty()

    loss().backward()  # type: ignore[no-untyped-call]
    assert corrections.grad is not None
    # Camera 0 has a point next to a cell's face, where a difference quotient averages two slopes.
    for camera, part in ((1, 0), (2, 1), (1, 2), (1, 4), (2, 5)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                corrections.zero_()
                corrections[camera, part] = sign * 1e-7
                values.append(float(loss()))
        slope = (values[0] - values[1]) / 2e-7
        assert float(corrections.grad[camera, part]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_appearance_tells_pictures_apart_in_training_only() -> None:
    model = textured(make())
    one = model.render_rays(rays(6), background=torch.ones(3))["rgb"]
    with torch.no_grad():
        model.appearance[0] += 1.0
        model.appearance[1] -= 1.0
    torch.testing.assert_close(model.render_rays(rays(6), background=torch.ones(3))["rgb"], one)


def test_rays_that_miss_a_bounded_scene_see_the_background() -> None:
    away = Rays(
        origins=torch.full((3, 3), 5.0),
        directions=torch.tensor([[1.0, 0, 0]]).expand(3, 3).contiguous(),
        pixel_area=torch.ones(3),
        camera_index=torch.zeros(3, dtype=torch.int64),
    )
    model = textured(make(unbounded=False, has_alpha=True))
    seen = model.render_rays(away, background=torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(seen["rgb"], torch.tensor([0.2, 0.4, 0.6]).expand(3, 3))
    assert not bool(seen["opacity"].any())


@pytest.mark.parametrize(
    ("unbounded", "has_alpha", "background", "distortion", "density"),
    [(True, False, "random", 0.002, 1.0), (False, True, "random", 0.0, 0.5), (True, True, "random", 0.002, 1.0)],
)
def test_what_follows_from_the_capture(
    unbounded: bool, has_alpha: bool, background: str, distortion: float, density: float
) -> None:
    model = make(unbounded=unbounded, has_alpha=has_alpha)
    assert (model.background, model.distortion_weight, model.density_scale) == (background, distortion, density)


def test_chunks_do_not_change_an_image() -> None:
    model = textured(make())
    cameras = posed_images(count=1, resolution=12).cameras
    whole = model.render_image(cameras, 0, background=torch.ones(3))
    parts = model.render_image(cameras, 0, background=torch.ones(3), rays_per_chunk=37)
    assert whole["rgb"].shape == (12, 12, 3)
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-4, atol=1e-4)


def test_near_the_camera_gradients_fall_with_the_squared_distance() -> None:
    """Rays start on the contraction's cube: all of the near half of their samples is within 1."""
    plain, scaled = (textured(make(gradient_scaling=on)) for on in (False, True))
    gradients, factors = [], []
    for model in (plain, scaled):
        told: list[torch.Tensor] = []
        own = model._trained_near

        def watched(look: Any, values: torch.Tensor, own: Any = own, told: list[torch.Tensor] = told) -> torch.Tensor:
            if values.ndim == 2:
                values.register_hook(told.append)
                middles = 0.5 * (look.distances[:, 1:] + look.distances[:, :-1])
                factors.append(middles.square().clamp(max=1.0))
            return own(look, values)

        model._trained_near = watched  # type: ignore[method-assign]
        step(model).backward()
        gradients.append(told[0])
    assert float(factors[0].min()) < 0.1
    assert float(factors[0].max()) == 1.0
    torch.testing.assert_close(gradients[1], gradients[0] * factors[0], rtol=1e-5, atol=1e-12)
    assert torch.equal(step(plain), step(scaled))


@pytest.mark.parametrize(
    "bad",
    [
        {"background": "blue"},
        {"poses": "SO3"},
        {"num_samples": 0},
        {"rays_per_batch": 0},
        {"far": 0.0},
        {"interlevel_weight": -1.0},
        {"distortion_weight": -1.0},
        {"annealing_steps": -1},
        {"pose_learning_rate": 0.0},
        {"unseen_appearance": "nearest"},
        {"orientation_weight": -1.0},
        {"predicted_normal_weight": -1.0},
    ],
)
def test_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        NerfactoConfig(**bad)


def test_the_last_samples_colour_needs_pictures_without_alpha() -> None:
    with pytest.raises(InputError, match="last_sample"):
        make(background="last_sample", has_alpha=True)


def test_a_proposal_network_learns_where_matter_is() -> None:
    from voxfield.kernels.adam import AdamRule
    from voxfield.models.base import ParameterGroup
    from voxfield.training.optimisers import Adam

    config = ProposalConfig(num_levels=3, log2_table_size=12, max_resolution=32)
    network = ProposalNetwork(config, torch.Generator().manual_seed(0))
    group = ParameterGroup(name="all", parameters=list(network.parameters()))
    optimiser = Adam([group], AdamRule())
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        points = torch.rand(2048, 3, generator=generator)
        inside = ((points - 0.5).norm(dim=1) < 0.3).float() * 5
        error = (network.density(points) - inside).square().mean()
        error.backward()  # type: ignore[no-untyped-call]
        optimiser.step(1e-2)
    assert float(error.detach()) < 0.8


def look_at(model: Nerfacto, count: int = 9, number: int | None = None) -> Any:
    return model._look(rays(count), number, None if number is None else torch.Generator().manual_seed(0))


def exact(values: RayBatch, depth: DepthTargets | None = None) -> RayBatch:
    """The batch in float64."""
    seen = replace(values.rays, origins=values.rays.origins.double(), directions=values.rays.directions.double())
    return RayBatch(rays=seen, pixels=values.pixels, rgba=values.rgba.double(), depth=depth)


def held(model: Nerfacto, count: int) -> Nerfacto:
    """The model in float64, which goes on looking along `rays` where it did: no gradient flows to where."""
    look = look_at(model, count)
    model._place = lambda *_, **__: ([], look.edges.double(), look.distances.double())  # type: ignore[method-assign]
    return model.double()


def targets(count: int, *, own_rays: bool) -> DepthTargets:
    """Distances about the scene's middle, of every third ray unknown."""
    distances = 2.0 + 1.5 * torch.rand(count, generator=torch.Generator().manual_seed(7))
    distances[::3] = 0.0
    return DepthTargets(distances=distances, rays=rays(count) if own_rays else None)


@pytest.mark.parametrize("space", SPACES)
def test_world_points_and_positions_along_rays_agree(space: str) -> None:
    model = held(textured(make(**SPACES[space])), 9)
    look = model._look(exact(batch(9)).rays, None, None)
    middles = model._in_world(look, 0.5 * (look.distances[:, 1:] + look.distances[:, :-1]))
    points = look.world.origins[:, None] + middles[..., None] * look.world.directions[:, None]
    positions = model._positions(look.rays, look.distances)
    # Towards infinity world points are cut off at `far`.
    torch.testing.assert_close(
        model.in_cube(points.reshape(-1, 3)), positions, rtol=0, atol=2e-3 if space == "ndc" else 1e-9
    )


@pytest.mark.parametrize("space", SPACES)
def test_normals_of_the_density_are_those_of_differences(space: str) -> None:
    model = held(textured(make(**SPACES[space])), 9)
    look = model._look(exact(batch(9)).rays, None, None)
    normals = model._density_normals(look).reshape(-1, 3)
    middles = model._in_world(look, 0.5 * (look.distances[:, 1:] + look.distances[:, :-1]))
    points = (look.world.origins[:, None] + middles[..., None] * look.world.directions[:, None]).reshape(-1, 3)
    with torch.no_grad():
        slope = torch.stack(
            [
                model.field.log_density(model.in_cube(points + offset))
                - model.field.log_density(model.in_cube(points - offset))
                for offset in 1e-6 * torch.eye(3, dtype=torch.float64)
            ],
            dim=1,
        )
    expected = -torch.nn.functional.normalize(slope, dim=1)
    # Where the density hardly changes over a millionth of a unit, or a face of a cell lies between, differences fail.
    clear = slope.norm(dim=1) > 1e-9
    close = ((normals - expected).norm(dim=1) < 1e-3)[clear]
    assert int(clear.sum()) > 40
    assert float(close.double().mean()) > 0.97


@pytest.mark.parametrize("space", SPACES)
def test_normals_are_rendered_where_they_are_asked_for(space: str) -> None:
    model = textured(make(**SPACES[space]))
    assert "normals" not in model.render_rays(rays(20), background=torch.ones(3))
    with torch.inference_mode():
        seen = model.render_rays(rays(20), background=torch.ones(3), normals=True)
    look = look_at(model, 20)
    density, colour, *_ = model._ask_field(look, model.appearance.mean(0).expand(20, -1))
    weights = dense_composite(density, colour, look.distances).weights.detach()
    total = (weights[..., None] * model._density_normals(look)).sum(1)
    torch.testing.assert_close(seen["normals"], total / total.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)
    cameras = posed_images(count=1, resolution=12).cameras
    assert model.render_image(cameras, 0, background=torch.ones(3), normals=True)["normals"].shape == (12, 12, 3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learnt_normals_are_rendered_in_place_of_the_densitys() -> None:
    model = textured(make(predict_normals=True))
    normals = model.render_rays(rays(20), background=torch.ones(3))["normals"]
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(20))
    assert torch.equal(model.render_rays(rays(20), background=torch.ones(3), normals=True)["normals"], normals)


def test_losses_on_normals_are_the_formulae() -> None:
    settings = {"unbounded": False, "has_alpha": True, "predict_normals": True}
    model = held(textured(make(**settings, orientation_weight=0.7, predicted_normal_weight=0.3)), 9)
    plain = held(textured(make(**settings, orientation_weight=0.0, predicted_normal_weight=0.0)), 9)
    loss, without = (
        one.training_step(exact(batch(9)), 2000, torch.Generator().manual_seed(0)).loss for one in (model, plain)
    )
    look = model._look(exact(batch(9)).rays, 2000, torch.Generator().manual_seed(0))
    density, colour, predicted, _ = model._ask_field(look, model.appearance[rays(9).camera_index])
    weights = dense_composite(density, colour, look.distances).weights
    assert predicted is not None
    facing = (predicted * look.world.directions[:, None]).sum(-1).clamp(min=0)
    apart = (predicted - model._density_normals(look)).square().sum(-1)
    expected = (weights * (0.7 * facing.square() + 0.3 * apart)).sum(1).mean()
    torch.testing.assert_close(loss - without, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("own_rays", [False, True])
@pytest.mark.parametrize("kind", ["ds_nerf", "urf"])
@pytest.mark.parametrize("space", SPACES)
def test_the_loss_on_distances_is_the_mean_over_proposals_and_field(space: str, kind: Any, own_rays: bool) -> None:
    config = DepthSupervisionConfig(loss=kind, weight=0.5, initial_sigma=0.4)
    model = textured(make(**SPACES[space], depth=config))
    depth = targets(9, own_rays=own_rays)
    loss, without = (
        textured(make(**SPACES[space], depth=chosen))
        .training_step(replace(batch(9), depth=depth), 2000, torch.Generator().manual_seed(0))
        .loss
        for chosen in (config, DepthSupervisionConfig())
    )
    generator = torch.Generator().manual_seed(0)
    look = model._look(rays(9), 2000, generator)
    if own_rays:
        if model.background == "random":
            torch.rand(9, 3, generator=generator)
        look = model._look(rays(9), 2000, generator)
    density, colour, *_ = model._ask_field(look, model.appearance[rays(9).camera_index])
    weights = dense_composite(density, colour, look.distances).weights
    expected = 0.0
    for edges, level in (*look.levels, (look.edges, weights)):
        along = model._in_world(look, look.spacing.to_distance(edges)).double()
        terms = depth_loss(kind, level.double(), along, depth.distances.double(), 0.4 * 0.99985**2000)
        expected += 0.5 * float(terms.mean().detach()) / 3
    # Differences of float32 losses.
    assert float((loss - without).detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5 * float(loss.detach()))


@pytest.mark.parametrize("own_rays", [False, True])
@pytest.mark.parametrize("kind", ["ds_nerf", "urf"])
def test_the_gradient_of_the_loss_on_distances_is_that_of_differences(kind: Any, own_rays: bool) -> None:
    model = textured(
        make(
            unbounded=False,
            has_alpha=True,
            predict_normals=True,
            depth=DepthSupervisionConfig(loss=kind, weight=1.0, initial_sigma=0.5),
        ),
        0.3,
    )
    held(model, 32)
    depth = targets(32, own_rays=own_rays)
    seen = None if depth.rays is None else exact(batch(32)).rays
    like = exact(batch(32), DepthTargets(distances=depth.distances.double(), rays=seen))

    def loss() -> torch.Tensor:
        return model.training_step(like, 0, torch.Generator().manual_seed(0)).loss

    # The normals of the density are constants to the loss, so that only what leaves it alone may be compared.
    model.config = replace(model.config, predicted_normal_weight=0.0)
    loss().backward()  # type: ignore[no-untyped-call]
    assert model.normals is not None
    for parameter, place in (
        (model.field.density_net[0], (3, 2)),
        (model.field.density_net[1], (0, 5)),
        (model.normals.net[0], (1, 1)),
    ):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                before = float(parameter[place])
                parameter[place] = before + sign * 1e-6
                values.append(float(loss()))
                parameter[place] = before
        assert parameter.grad is not None
        assert float(parameter.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-9)


def test_learning_from_distances_needs_some() -> None:
    model = make(depth=DepthSupervisionConfig(loss="urf"))
    with pytest.raises(InputError, match=r"capture\.depth\.source=auto"):
        step(model)


def test_pictures_not_trained_on_may_have_no_appearance() -> None:
    mean, zero = textured(make()), textured(make(unseen_appearance="zero"))
    one, other = (model.render_rays(rays(6), background=torch.ones(3))["rgb"] for model in (mean, zero))
    assert not torch.allclose(one, other, atol=1e-4)
    with torch.no_grad():
        mean.appearance.zero_()
    torch.testing.assert_close(mean.render_rays(rays(6), background=torch.ones(3))["rgb"], other)


def test_depth_in_normalised_device_coordinates_is_the_worlds() -> None:
    model = textured(make(ndc=frame()))
    seen = model.render_rays(rays(12), background=torch.ones(3))
    look = look_at(model, 12)
    density, colour, *_ = model._ask_field(look, model.appearance.mean(0).expand(12, -1))
    weights = dense_composite(density, colour, look.distances).weights.detach()
    middles = frame().to_world(
        0.5 * (look.distances[:, 1:] + look.distances[:, :-1]), look.rays, rays(12), farthest=1e3
    )
    expected = (weights * middles).sum(1) / weights.sum(1)
    torch.testing.assert_close(seen["expected_depth"], expected, rtol=1e-4, atol=1e-4)
    # Nothing is looked at before the near plane.
    assert bool((seen["depth"] * rays(12).directions[:, 1] > 1.5).all())
    assert (model.unbounded, model.distortion_weight, model.background) == (False, 0.002, "random")


def test_rays_that_leave_normalised_device_coordinates_see_the_background() -> None:
    away = rays(5)
    away = replace(away, directions=-away.directions)
    seen = textured(make(ndc=frame())).render_rays(away, background=torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(seen["rgb"], torch.tensor([0.2, 0.4, 0.6]).expand(5, 3))
    assert not bool(seen["opacity"].any())
    assert all(bool(value.isfinite().all()) for value in seen.values())


@pytest.mark.parametrize("unbounded", [True, False])
def test_colours_with_gradient_are_those_rendered(unbounded: bool) -> None:
    model = textured(make(unbounded=unbounded))
    rendered = model.render_rays(rays(40), background=torch.ones(3))["rgb"]
    torch.testing.assert_close(model.colours_with_gradient(rays(40), background=torch.ones(3)).detach(), rendered)


@pytest.mark.parametrize("unbounded", [True, False])
def test_the_gradient_of_rays_is_that_of_finite_differences(unbounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = textured(make(unbounded=unbounded), 0.5).requires_grad_(False)
    held = rays(64)
    spacing, hit = model._spacing(held)
    placed = model._place(held, spacing, hit, exponent=1.0, learn=False, generator=None)
    # Where samples lie along their rays has no gradient.
    monkeypatch.setattr(model, "_place", lambda *_args, **_options: placed)
    monkeypatch.setattr(model, "_spacing", lambda _rays: (spacing, hit))

    def colours(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return model.colours_with_gradient(
            replace(held, origins=origins, directions=directions), background=torch.zeros(3)
        )

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
        # The grid is piecewise linear and float32: some percent of the terms' size.
        size = float((gradient * way).sum(1).abs().sum())
        assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=0.05 * size)


def test_refined_poses_are_the_corrected_ones() -> None:
    given = torch.eye(3, 4).expand(3, 3, 4).clone()
    assert make().refined_poses(given) is given
    model = make(poses="SE3")
    assert model.poses is not None
    with torch.no_grad():
        model.poses.corrections[1] = 0.1
    refined = model.refined_poses(given)
    assert torch.equal(refined[0], given[0])
    assert not torch.equal(refined[1], given[1])


@pytest.mark.parametrize(
    ("unbounded", "samples"), [(True, (256, 96, 48)), (False, (128, 64, 32))], ids=["unbounded", "bounded"]
)
def test_every_auto_gets_a_value_for_the_capture(unbounded: bool, samples: tuple[int, int, int]) -> None:
    settled = NerfactoConfig().settled(side=4.0, unbounded=unbounded, ndc=False, has_alpha=False)
    assert "auto" not in str(settled)
    assert (settled.coarse_proposal.num_samples, settled.fine_proposal.num_samples, settled.num_samples) == samples
    assert settled.settled(side=1.0, unbounded=not unbounded, ndc=True, has_alpha=True) == settled


def test_normalised_device_coordinates_keep_the_samples_of_unbounded_captures() -> None:
    settled = NerfactoConfig().settled(side=2.0, unbounded=False, ndc=True, has_alpha=True)
    assert (settled.num_samples, settled.distortion_weight, settled.initial_density) == (48, 0.002, 0.5)


@pytest.mark.parametrize(
    ("has_alpha", "unbounded", "chosen", "numbers"),
    [(True, False, "auto", 0), (True, True, "auto", 32), (False, False, "auto", 32), (True, False, "on", 32),
     (False, True, "off", 0)],
)  # fmt: skip
def test_renderings_have_no_appearances_of_their_own(
    has_alpha: bool, unbounded: bool, chosen: Any, numbers: int
) -> None:
    config = NerfactoConfig(appearances=chosen)
    settled = config.settled(side=2.0, unbounded=unbounded, ndc=False, has_alpha=has_alpha)
    assert settled.field.appearance == numbers
    assert settled.appearances == ("on" if numbers else "off")
