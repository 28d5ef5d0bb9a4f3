"""Volumes of other programs as fields of a scene."""

import numpy as np
import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.pose import SceneTransform
from voxfield.models.composite import CompositeField, PlacedField
from voxfield.models.volume_fields import volume_ray_field
from voxfield.storage.vdb import VdbGrid
from voxfield.voxels.sparse import SparseVolume

SIDE = 24
PLACED = np.diag([2 / SIDE] * 3 + [1.0])
PLACED[:3, 3] = -1 + 1 / SIDE
WHITE = torch.ones(3)


def density_of(seed: int) -> np.ndarray:
    """A soft ball within a frame of faint corners, so that all volumes span the same box."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij")
    centre = generator.uniform(SIDE * 0.35, SIDE * 0.65, 3)
    apart = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    density = 15 * np.clip(1 - apart / (SIDE * 0.3) ** 2, 0, 1)
    density[0, 0, 0] = density[-1, -1, -1] = 1e-6
    return density.astype(np.float32)


def grid(values: np.ndarray, name: str = "density", placed: np.ndarray = PLACED, **options: object) -> VdbGrid:
    return VdbGrid(name=name, volume=SparseVolume.from_dense(values), index_to_world=placed, **options)


def colours(values: np.ndarray) -> VdbGrid:
    return grid(np.ascontiguousarray(np.moveaxis(values, 3, 0).astype(np.float32)), "colour")


def seen(*fields: object, transform: SceneTransform | None = None) -> dict[str, torch.Tensor]:
    place = transform or SceneTransform.identity()
    scene = CompositeField([PlacedField(field=field, transform=place) for field in fields])  # type: ignore[arg-type]
    return scene.render_image(cameras_around(1, resolution=20), 0, background=WHITE)


def test_two_volumes_together_are_their_union() -> None:
    one, other = density_of(1), density_of(2)
    red, blue = (0.9, 0.1, 0.2), (0.1, 0.3, 0.8)
    both = one + other
    mixed = (one[..., None] * np.array(red) + other[..., None] * np.array(blue)) / np.maximum(both, 1e-9)[..., None]
    union = seen(volume_ray_field(grid(both), colours(mixed)))
    apart = seen(volume_ray_field(grid(one), red), volume_ray_field(grid(other), blue))
    assert float(union["opacity"].max()) > 0.9
    assert float(union["opacity"].mean()) > 0.1
    for name in ("rgb", "opacity"):
        torch.testing.assert_close(apart[name], union[name], atol=1e-3, rtol=0)


def test_a_volume_lies_where_its_transform_says() -> None:
    values = density_of(3)
    straight = seen(volume_ray_field(grid(values), (0.2, 0.7, 0.4)))
    # The same voxels listed along other axes, twice as long along one of them and moved.
    turned = np.ascontiguousarray(values.transpose(2, 0, 1)[::-1])
    axes = np.zeros((4, 4))
    axes[0, 2], axes[2, 1], axes[1, 0], axes[3, 3] = -1, 1, 1, 1
    axes[0, 3] = SIDE - 1
    again = seen(volume_ray_field(grid(turned, placed=PLACED @ axes), (0.2, 0.7, 0.4)))
    torch.testing.assert_close(again["rgb"], straight["rgb"], atol=2e-3, rtol=0)


def test_a_volume_twice_as_large_and_half_as_dense_looks_the_same_through_a_scaled_place() -> None:
    values = density_of(4)
    straight = seen(volume_ray_field(grid(values), (0.2, 0.7, 0.4)))
    half = SceneTransform.from_parts(torch.eye(3), 0.5, torch.zeros(3))
    large = np.diag([2.0, 2.0, 2.0, 1.0]) @ PLACED
    scaled = seen(volume_ray_field(grid(values / 2, placed=large), (0.2, 0.7, 0.4)), transform=half)
    torch.testing.assert_close(scaled["rgb"], straight["rgb"], atol=1e-4, rtol=0)


def test_what_an_empty_neighbour_does_not_do_is_change_the_colour() -> None:
    field = volume_ray_field(grid(density_of(5)), (0.9, 0.1, 0.5))
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = field.points.density(points) > 1e-3
    colour = field.points.colours(points[found], points[found])
    torch.testing.assert_close(colour, torch.tensor([0.9, 0.1, 0.5]).expand_as(colour), atol=1e-4, rtol=1e-4)


def test_colours_may_have_voxels_of_their_own() -> None:
    coarse = np.broadcast_to(np.array([0.2, 0.4, 0.6]), (8, 8, 8, 3))
    volume = SparseVolume.from_dense(np.ascontiguousarray(np.moveaxis(coarse, 3, 0).astype(np.float32)))
    place = np.diag([2 / 4] * 3 + [1.0])
    place[:3, 3] = -2
    colour = VdbGrid(name="Cd", volume=volume, index_to_world=place)
    field = volume_ray_field(grid(density_of(6)), colour)
    asked = field.points.colours(torch.zeros(1, 3), torch.ones(1, 3))
    torch.testing.assert_close(asked, torch.tensor([[0.2, 0.4, 0.6]]), atol=1e-3, rtol=0)


def test_constant_tiles_count_as_their_voxels() -> None:
    volume = SparseVolume.from_dense(np.full((16, 16, 16), 2.0, np.float32))
    whole = volume_ray_field(VdbGrid(name="density", volume=volume), (1, 1, 1))
    assert whole.bounds.size == (16, 16, 16)
    middle = torch.full((1, 3), 7.0)
    torch.testing.assert_close(whole.points.density(middle), torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (grid(np.zeros((4, 4, 4), np.float32)), "no active voxels"),
        (grid(np.ones((4, 4, 4), np.int32)), "no density"),
        (grid(np.ones((3, 4, 4, 4), np.float32)), "no density"),
        (grid(np.ones((4, 4, 4), np.float32), grid_class="level set"), "level set"),
        (grid(np.full((4, 4, 4), np.nan, np.float32)), "finite"),
    ],
)
def test_what_is_no_fog_is_refused(density: VdbGrid, message: str) -> None:
    with pytest.raises(InputError, match=message):
        volume_ray_field(density, (1, 1, 1))


def test_a_few_voxels_far_apart_ask_for_no_memory() -> None:
    far = SparseVolume.from_voxels(np.array([[0, 0, 0], [60000, 60000, 60000]]), np.ones(2, np.float32))
    with pytest.raises(InputError, match="too many"):
        volume_ray_field(VdbGrid(name="density", volume=far), (1, 1, 1))
    with pytest.raises(InputError, match="three numbers"):
        volume_ray_field(grid(density_of(1)), grid(density_of(1), "Cd"))
