"""Several fields in one scene: against the closed form, and against each model alone."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from voxfield.data.synthetic import Solid, SyntheticScene, cameras_around, posed_images
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rays import Rays
from voxfield.geometry.rotations import rotations_from_quaternions
from voxfield.models.base import Model
from voxfield.models.composite import CompositeField, PlacedField
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig
from voxfield.models.ray_fields import Intervals, RayField, merged, ray_field, unlimited, voxel_ray_field
from voxfield.recipes import build_model, smallest_model
from voxfield.voxels.voxel_grid import VoxelGrid

WHITE = torch.ones(3)
CAPTURES = posed_images(count=3, resolution=16)


@dataclasses.dataclass(frozen=True)
class Analytic:
    """Solids whose intervals end where theirs do, so that the quadrature is exact."""

    scene: SyntheticScene

    def density(self, points: torch.Tensor, widths: torch.Tensor | None = None) -> torch.Tensor:
        return self.scene.density(points)

    def colours(
        self, points: torch.Tensor, directions: torch.Tensor, widths: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.scene.colour(points)

    def intervals(self, rays: Rays, near: torch.Tensor, far: torch.Tensor) -> Intervals:
        ends = [end for solid in self.scene.solids for end in solid.crossings(rays.origins, rays.directions)]
        return Intervals.of_edges(torch.stack(ends, dim=1).sort(1).values).within(near, far)

    @classmethod
    def field(cls, *solids: Solid) -> RayField:
        points = cls(SyntheticScene(solids=solids))
        return RayField(points=points, intervals=points.intervals, bounds=Bounds.from_cube(1.0))


def placed(field: RayField, **options: object) -> PlacedField:
    return PlacedField(**{"field": field, "transform": SceneTransform.identity(), **options})


def rays_around(count: int = 2, resolution: int = 24) -> Rays:
    cameras = cameras_around(count, resolution=resolution)
    parts = [cameras.image_rays(index) for index in range(count)]
    return Rays(**{name: torch.cat([getattr(one, name) for one in parts]) for name in vars(parts[0])})


def check_exact(members: Sequence[PlacedField], scene: SyntheticScene, rays: Rays) -> None:
    seen = CompositeField(members).render_rays(rays, background=WHITE)
    exact = scene.render(rays)
    # Rays end where less than 1e-4 of their light is left.
    torch.testing.assert_close(seen["opacity"], exact.opacity, rtol=0, atol=3e-4)
    expected = exact.rgb + (1 - exact.opacity)[:, None]
    torch.testing.assert_close(seen["rgb"], expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("groups", [[(0, 1, 2, 3)], [(0, 2), (1, 3)], [(3,), (1,), (0,), (2,)]])
def test_members_together_are_the_union_of_what_they_hold(groups) -> None:
    scene = SyntheticScene.example()
    members = [placed(Analytic.field(*(scene.solids[i] for i in group))) for group in groups]
    check_exact(members, scene, rays_around())


def test_a_member_is_turned_moved_and_scaled_with_the_density_that_keeps_its_look() -> None:
    scene = SyntheticScene.example()
    spheres = tuple(solid for solid in scene.solids if solid.shape == "sphere")
    turn = rotations_from_quaternions(torch.tensor([[0.3, -0.5, 0.7, 0.2]], dtype=torch.float64))[0]
    to_scene = SceneTransform.from_parts(turn, 2.5, torch.tensor([0.4, -3.0, 1.0]))
    own = to_scene.inverse()
    inside = [
        dataclasses.replace(
            solid,
            centre=tuple(own.apply_points(torch.tensor(solid.centre, dtype=torch.float64)).tolist()),
            size=tuple(side * own.scale for side in solid.size),
            density=solid.density / own.scale,
        )
        for solid in spheres
    ]
    still, moved = placed(Analytic.field(spheres[0])), placed(Analytic.field(*inside[1:]), transform=to_scene)
    check_exact([still, moved], SyntheticScene(solids=spheres), rays_around())


def test_what_is_nearer_hides_what_is_behind_it_whoever_is_named_first() -> None:
    near = Solid(shape="sphere", centre=(0.5, 0, 0), size=(0.3,) * 3, density=500.0, colour=(1, 0, 0))
    far = Solid(shape="sphere", centre=(-0.5, 0, 0), size=(0.3,) * 3, density=500.0, colour=(0, 0, 1))
    ahead = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]])
    rays = Rays(
        origins=-3 * ahead, directions=ahead, pixel_area=torch.ones(2), camera_index=torch.zeros(2, dtype=torch.int64)
    )
    for solids in ((near, far), (far, near)):
        scene = CompositeField([placed(Analytic.field(solid)) for solid in solids])
        seen = scene.render_rays(rays, background=WHITE)
        torch.testing.assert_close(seen["rgb"], torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), atol=1e-3, rtol=0)
        # One interval through the sphere that is met first.
        torch.testing.assert_close(seen["depth"], torch.full((2,), 2.5), atol=0.01, rtol=0)


def test_a_crop_cuts_within_the_member_and_hides_nothing_behind_it() -> None:
    box = Solid(shape="box", centre=(0, 0, 0), size=(0.5, 0.5, 0.5), density=2.0, colour=(0.2, 0.8, 0.4))
    half = dataclasses.replace(box, centre=(0, 0, -0.25), size=(0.5, 0.5, 0.25))
    crop = Bounds(minimum=(-1, -1, -1), maximum=(1, 1, 0))
    check_exact([placed(Analytic.field(box), crop=crop)], SyntheticScene(solids=(half,)), rays_around())
    assert placed(Analytic.field(box), crop=crop).bounds == crop


def test_factors_thin_out_and_nothing_is_nothing() -> None:
    haze = Solid(shape="sphere", centre=(0, 0, 0), size=(0.5,) * 3, density=2.0, colour=(0.2, 0.8, 0.4))
    thin = dataclasses.replace(haze, density=0.5)
    rays = rays_around()
    check_exact([placed(Analytic.field(haze), density_factor=0.25)], SyntheticScene(solids=(thin,)), rays)
    gone = CompositeField([placed(Analytic.field(haze), density_factor=0.0)]).render_rays(rays, background=WHITE)
    assert bool((gone["rgb"] == 1).all())
    assert not bool(gone["depth"].any())
    none = CompositeField([placed(Analytic.field(haze))]).render_rays(rays[:0], background=WHITE)
    assert none["rgb"].shape == (0, 3)
    with pytest.raises(InputError, match="at least one"):
        CompositeField([])
    with pytest.raises(InputError, match="density_factor"):
        placed(Analytic.field(haze), density_factor=math.nan)


def test_pictures_do_not_depend_on_how_rays_are_divided() -> None:
    scene = SyntheticScene.example()
    field = CompositeField([placed(Analytic.field(solid)) for solid in scene.solids])
    cameras = cameras_around(1, resolution=12)
    whole = field.render_image(cameras, 0, background=WHITE)
    parts = field.render_image(cameras, 0, background=WHITE, rays_per_chunk=7)
    assert whole["rgb"].shape == (12, 12, 3)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-6)


def brute_cover(part: Intervals, ray: int, t: float) -> bool:
    return bool(((part.ray == ray) & (part.start <= t) & (t < part.end)).any())


def test_stretches_are_cut_at_all_edges_and_know_who_covers_them() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = []
    for count in (5, 0, 7, 4):
        edges = (torch.rand(3, count + 1, generator=generator) * 16).round().sort(1).values / 16
        part = Intervals.of_edges(edges)
        parts.append(part.where(torch.rand(len(part.ray), generator=generator) < 0.7))
    found, covers = merged(parts)
    assert bool((found.ray.diff() >= 0).all())
    assert bool((found.end > found.start).all())
    assert bool(covers.any(0).all())
    same = found.ray[1:] == found.ray[:-1]
    assert bool((found.start[1:][same] >= found.end[:-1][same]).all())
    for k, part in enumerate(parts):
        total = float((part.end - part.start).sum())
        assert math.isclose(float((found.end - found.start)[covers[k]].sum()), total, abs_tol=1e-5)
        for s in range(len(found.ray)):
            middle = float(found.start[s] + found.end[s]) / 2
            assert bool(covers[k, s]) == brute_cover(part, int(found.ray[s]), middle)


def test_neighbours_that_differ_by_rounding_leave_no_slivers() -> None:
    edge = torch.tensor([0.3])
    one = Intervals(
        start=torch.cat([torch.tensor([0.1]), edge]),
        end=torch.cat([edge * (1 + 2e-7), torch.tensor([0.5])]),
        ray=torch.zeros(2, dtype=torch.int64),
    )
    other = Intervals(start=torch.tensor([0.2]), end=torch.tensor([0.4]), ray=torch.zeros(1, dtype=torch.int64))
    found, _ = merged([one, other])
    assert len(found.ray) == 4


def make(recipe: str, **changes: object) -> Model:
    captures, config = dataclasses.replace(CAPTURES, **changes), smallest_model(recipe)
    if isinstance(config, PlenoxelsConfig):
        config = dataclasses.replace(config, spheres=SpheresConfig(layers=0))
    return build_model(recipe, config, captures, 0)


@pytest.mark.parametrize("recipe", ["grid-ngp", "nerfacto", "pynerf", "pynerf-occupancy-grid", "plenoxels"])
@pytest.mark.parametrize("unbounded", [False, True])
def test_a_model_alone_is_seen_as_it_renders_itself(recipe: str, unbounded: bool) -> None:
    model = make(recipe, unbounded=unbounded)
    rays = CAPTURES.cameras.image_rays(0)
    with torch.no_grad():
        expected = model.render_rays(rays, background=WHITE)
    scene = CompositeField([placed(ray_field(model, CAPTURES.bounds))])
    seen = scene.render_rays(rays, background=WHITE)
    # Where steps grow, the middle of a ray's last one may lie just outside the outermost cells.
    for name in ("opacity", "rgb"):
        error = (seen[name] - expected[name]).abs()
        assert float(error.max()) < 0.01
        assert float(error.flatten().quantile(0.98)) < 2e-3


@pytest.mark.parametrize("recipe", ["grid-ngp", "nerfacto", "plenoxels"])
def test_a_model_that_is_cropped_is_asked_only_there(recipe: str) -> None:
    field = ray_field(make(recipe), CAPTURES.bounds)
    rays = CAPTURES.cameras.image_rays(0)
    near, _ = unlimited(rays)
    found = field.intervals(rays, near + 3.7, near + 4.1)
    assert len(found.ray)
    assert bool((found.start >= 3.7).all())
    assert bool((found.end <= 4.1).all())
    away = CompositeField([placed(field, crop=Bounds.from_cube(0.1, (50.0, 0.0, 0.0)))])
    assert not bool(away.render_rays(rays, background=WHITE)["opacity"].any())


def test_two_grids_together_are_the_grid_of_both(grid_of: Callable[..., VoxelGrid]) -> None:
    solids = (
        Solid(shape="sphere", centre=(0.4, 0.3, 0.1), size=(0.35,) * 3, density=20.0, colour=(0.9, 0.2, 0.1)),
        Solid(shape="sphere", centre=(-0.4, -0.3, 0.2), size=(0.3,) * 3, density=2.0, colour=(0.1, 0.4, 0.9)),
        Solid(shape="box", centre=(0.0, 0.0, -0.6), size=(0.8, 0.8, 0.1), density=40.0, colour=(0.6, 0.6, 0.3)),
    )
    parts = [solids[:1], solids[1:]]
    members = [placed(voxel_ray_field(grid_of(SyntheticScene(solids=part)))) for part in parts]
    rays = rays_around()
    seen = CompositeField(members).render_rays(rays, background=WHITE)
    union = grid_of(SyntheticScene(solids=solids))
    with torch.no_grad():
        expected = union.render(rays)
    torch.testing.assert_close(seen["opacity"], expected.opacity, atol=1e-3, rtol=0)
    over_white = expected.rgb + (1 - expected.opacity)[:, None]
    torch.testing.assert_close(seen["rgb"], over_white, atol=1e-3, rtol=0)


def test_models_that_are_no_function_of_space_are_refused() -> None:
    with pytest.raises(InputError, match="no function of points"):
        ray_field(torch.nn.Linear(1, 1), CAPTURES.bounds)  # type: ignore[arg-type]


def test_pyramids_refuse_pixels_that_do_not_widen() -> None:
    scene = CompositeField([placed(ray_field(make("pynerf"), CAPTURES.bounds))])
    parallel = dataclasses.replace(CAPTURES.cameras, model="orthographic")
    with pytest.raises(InputError, match="orthographic"):
        scene.render_image(parallel, 0, background=WHITE)
