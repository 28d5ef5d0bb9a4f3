"""Fields baked to voxel grids: the density and colours of a field with a known form, and what is refused."""

import pytest
import torch

from voxfield.errors import InputError
from voxfield.export.volumes import bake, cubes, volume_of
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.spherical_harmonics import spherical_harmonics

BOUNDS = Bounds(minimum=(-1.0, -0.5, 0.0), maximum=(1.0, 0.5, 0.5))


class Ball(torch.nn.Module):
    """A ball whose colours are harmonics of degree 1 that change from place to place."""

    def __init__(self):
        super().__init__()
        self.density = torch.nn.Parameter(torch.tensor(40.0))

    def coefficients(self, points):
        base = torch.stack([points[:, 0], points[:, 1], points[:, 2]], dim=1)
        return torch.stack([0.3 * base, 0.1 + 0 * base, 0.05 * base.flip(1), 0 * base], dim=2)

    def sample_field(self, points, directions, width):
        assert width == pytest.approx(1 / 16)
        density = torch.where((points - torch.tensor([0.0, 0.0, 0.25])).norm(dim=1) < 0.2, self.density, 0)
        basis = spherical_harmonics(directions, 1)
        return density, 0.5 + torch.einsum("njb,kb->nkj", self.coefficients(points), basis)


@pytest.mark.parametrize("degree", [1, 2])
def test_densities_and_harmonics_of_a_known_field(degree):
    ball = Ball()
    grid = bake(ball, BOUNDS, 32, sh_degree=degree)
    assert (grid.resolution, grid.scene_bounds) == ((32, 16, 8), BOUNDS)
    places = (grid.links >= 0).nonzero().flip(1)
    rows = grid.links[grid.links >= 0].long()
    centres = torch.tensor(BOUNDS.minimum) + (places + 0.5) / 16
    assert float((centres - torch.tensor([0.0, 0.0, 0.25])).norm(dim=1).max()) < 0.2
    assert abs(len(places) - 4 / 3 * 3.14159 * 3.2**3) < 20
    assert torch.equal(grid.density.detach(), torch.full((len(places),), 40.0))
    fitted = grid.sh.detach()[rows]
    torch.testing.assert_close(fitted[:, :, :4], ball.coefficients(centres), atol=1e-5, rtol=1e-4)
    assert float(fitted[:, :, 4:].abs().sum()) < 1e-2


def test_haze_is_left_out():
    ball = Ball()
    with torch.no_grad():
        ball.density.fill_(0.1)
    assert bake(ball, BOUNDS, 32).num_voxels == 0
    assert bake(ball, BOUNDS, 32, min_opacity=0.0).num_voxels > 100


def test_voxels_are_near_to_cubes():
    assert cubes(BOUNDS, 32) == (32, 16, 8)
    assert cubes(Bounds(minimum=(0, 0, 0), maximum=(1, 1, 0.001)), 10) == (10, 10, 2)


@pytest.mark.parametrize("options", [{"sh_degree": 4}, {"min_opacity": 1.5}, {"resolution": 1}, {"resolution": 5000}])
def test_settings_out_of_range(options):
    with pytest.raises(InputError):
        bake(Ball(), BOUNDS, **{"resolution": 8, **options})


def test_models_without_voxels_need_a_resolution():
    with pytest.raises(InputError, match="Say how many"):
        volume_of(Ball(), BOUNDS, None)
    with pytest.raises(InputError, match="no field that can be asked"):
        bake(torch.nn.Linear(1, 1), BOUNDS, 8)
