"""Trained fields as volumes: a voxel grid as it is, any other field sampled; what is refused."""

from dataclasses import replace

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.export.volumes import exported, volume_of
from voxfield.geometry.bounds import Bounds
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.plenoxels import Plenoxels
from voxfield.recipes import smallest_model

BOUNDS = Bounds(minimum=(-1.0, -0.5, 0.0), maximum=(1.0, 0.5, 0.5))
ORIGINS = 4 * torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), dim=1)


def plenoxels(spheres: int = 0) -> Plenoxels:
    cameras = posed_images(count=3, resolution=16).cameras
    config = smallest_model("plenoxels")
    config = replace(config, spheres=replace(config.spheres, layers=spheres))
    return Plenoxels(config, BOUNDS, cameras, near=0.1, has_alpha=True)


def test_a_voxel_grid_is_taken_as_it_is() -> None:
    model = plenoxels()
    grid, own = volume_of(model, BOUNDS, ORIGINS, None), model.world_grid()
    assert (grid.resolution, grid.scene_bounds) == (own.resolution, BOUNDS)
    torch.testing.assert_close(grid.density, own.density)


def test_a_voxel_grid_is_resampled_where_a_resolution_is_asked_for() -> None:
    assert volume_of(plenoxels(), BOUNDS, ORIGINS, 8).resolution == (8, 4, 2)


def test_other_fields_are_sampled() -> None:
    model = GridNgp(smallest_model("grid-ngp"), BOUNDS, unbounded=False, near=0.1, has_alpha=True, tone=None, seed=0)
    grid = volume_of(model, BOUNDS, ORIGINS, 8, sh_degree=1, min_opacity=0.0)
    assert (grid.resolution, grid.sh_degree, grid.scene_bounds) == ((8, 4, 2), 1, BOUNDS)
    assert grid.num_voxels > 0


def test_models_without_voxels_need_a_resolution() -> None:
    with pytest.raises(InputError, match="Say how many"):
        volume_of(torch.nn.Linear(1, 1), BOUNDS, ORIGINS, None)


@pytest.mark.parametrize(("resolution", "settings"), [(5000, {}), (8, {"sh_degree": 4}), (8, {"min_opacity": 1.5})])
def test_settings_out_of_range(resolution, settings) -> None:
    with pytest.raises(InputError):
        volume_of(plenoxels(), BOUNDS, ORIGINS, resolution, **settings)


def test_what_was_written_is_told(tmp_path) -> None:
    file = tmp_path / "a.vdb"
    file.write_bytes(b"123")
    model = plenoxels()
    told = exported(file, model.world_grid(), model)
    assert (told.bytes, told.file, told.left_out) == (3, file, None)
    model = plenoxels(spheres=2)
    assert exported(file, model.world_grid(), model).left_out == "the background spheres"
