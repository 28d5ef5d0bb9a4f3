"""Volumes that are marched through: how much light comes through, in which colours, and where."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voxfield.errors import FormatError
from voxfield.geometry.rays import Rays
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.viewer import volume_subject as module
from voxfield.viewer.subjects import develop, look
from voxfield.viewer.volume_subject import VolumeSubject, volume_subject
from voxfield.voxels.sparse import SparseVolume


def cube(value: float, side: int = 16, *, channels: bool = False) -> SparseVolume:
    shape = (side, side, side, 3) if channels else (side, side, side)
    coordinates = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    values = np.full(shape, value, np.float32).reshape(len(coordinates), *shape[3:])
    background = np.zeros(shape[3:], np.float32)
    return SparseVolume.from_voxels(coordinates, values, background=background)


def grid(volume: SparseVolume, name: str = "density", side: float = 0.5, **changes) -> VdbGrid:
    return VdbGrid(name=name, volume=volume, index_to_world=np.diag([side, side, side, 1.0]), **changes)


def through(origin: tuple[float, ...], direction: tuple[float, ...]) -> Rays:
    return Rays(
        origins=torch.tensor([origin]),
        directions=torch.nn.functional.normalize(torch.tensor([direction]), dim=1),
        pixel_area=torch.ones(1),
        camera_index=torch.zeros(1, dtype=torch.int64),
    )


@pytest.mark.parametrize("side", [0.5, 20.0])
def test_light_through_a_fog_follows_its_density(side: float) -> None:
    fog = VolumeSubject(grid(cube(2.0 / (16 * side)), side=side, grid_class="fog volume"))
    assert fog.gain == 1.0
    assert max(fog.bounds.size) == pytest.approx(2.0)
    seen = fog.look(through((-5.0, 0.0, 0.0), (1.0, 0.0, 0.0)), "colour")
    assert float(seen["opacity"]) == pytest.approx(1 - math.exp(-2.0), rel=0.02)
    missed = fog.look(through((-5.0, 0.0, 3.0), (1.0, 0.0, 0.0)), "colour")
    assert float(missed["opacity"]) == 0.0
    assert missed["rgb"].tolist() == [[1.0, 1.0, 1.0]]


def test_a_faint_fog_is_shown_denser() -> None:
    fog = VolumeSubject(grid(cube(1e-6)))
    assert fog.gain > 1e3
    assert float(fog.look(through((-5.0, 0, 0), (1.0, 0, 0)), "colour")["opacity"]) > 0.99


def test_colours_are_those_of_the_file(tmp_path: Path) -> None:
    painted = cube(1.0, channels=True)
    painted.values[..., 0] = 0.25
    path = write_vdb(tmp_path / "a.vdb", [grid(cube(9.0)), grid(painted, "Cd")])
    seen = volume_subject(path).look(through((0.0, -5.0, 0.0), (0.0, 1.0, 0.0)), "colour")
    assert seen["rgb"][0].tolist() == pytest.approx([0.25, 1.0, 1.0], abs=0.02)


def test_a_fog_without_colours_is_lit_from_above() -> None:
    fog = VolumeSubject(grid(cube(9.0)))
    top, below = (fog.look(through((0.0, 0.1, s * 5.0), (0.0, 0.0, -s)), "colour")["rgb"].mean() for s in (1.0, -1.0))
    assert float(top) > float(below) + 0.15


def test_a_level_set_is_where_its_values_change_sign(shot) -> None:
    x = np.arange(32) - 15.5
    distance = np.sqrt((np.stack(np.meshgrid(x, x, x, indexing="ij")) ** 2).sum(0)) - 10.0
    band = np.abs(distance) < 3
    volume = SparseVolume.from_dense(distance.clip(-3, 3).astype(np.float32), background=3.0, active=band)
    ball = VolumeSubject(grid(volume, "surface", side=1.0, grid_class="level set"))
    seen = ball.look(through((0.0, -5.0, 0.0), (0.0, 1.0, 0.0)), "colour")
    assert float(seen["opacity"]) > 0.95
    assert float(seen["depth"]) == pytest.approx(5.0 - 10.0 * ball.scale, abs=1.5 * ball.scale)
    camera = shot.camera(24)
    for mode in ball.modes:
        wanted = replace(shot, mode=mode)
        made = develop(look(ball, camera.image_rays(0), wanted, torch.ones(3)), wanted, camera)
        assert made.rgb.shape == (24, 48, 3)


def test_volumes_too_large_are_halved(monkeypatch) -> None:
    whole = VolumeSubject(grid(cube(0.25)))
    monkeypatch.setattr(module, "MOST_VOXELS", 1000)
    coarse = VolumeSubject(grid(cube(0.25)))
    rays = through((-5.0, 0.1, 0.2), (1.0, 0.0, 0.0))
    seen, rough = (float(one.look(rays, "colour")["opacity"]) for one in (whole, coarse))
    assert rough == pytest.approx(seen, abs=0.02)


def test_long_rays_through_matter_come_out_on_the_other_side() -> None:
    # From corner to corner: the most samples that a ray can have.
    fog = VolumeSubject(grid(cube(0.01, side=40), side=1.0))
    corner = fog.look(through((-3.0, -3.0, -3.0), (1.0, 1.0, 1.0)), "colour")
    assert float(corner["opacity"]) == pytest.approx(1 - math.exp(-0.01 * fog.gain * 40 * math.sqrt(3)), rel=0.02)


def test_cells_beside_matter_are_marched_through_too() -> None:
    flags = torch.rand(6, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.97
    for reach in (0, 1, 3, 9):
        pooled = torch.nn.functional.max_pool3d(flags.float()[None], 2 * reach + 1, stride=1, padding=reach)[0] > 0
        assert torch.equal(module._widened(flags, reach), pooled)


def test_kernels_are_loaded_by_what_the_page_will_do() -> None:
    module.load_kernels()


def test_a_stretched_and_turned_volume_lies_where_its_transform_says() -> None:
    matrix = np.array([[0, -2.0, 0, 5.0], [1.0, 0, 0, -3.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    fog = VolumeSubject(VdbGrid(name="density", volume=cube(9.0), index_to_world=matrix))
    assert fog.bounds.size == pytest.approx((2.0, 18 / 18, 18 / 18), rel=1e-5)
    seen = fog.look(through((-5.0, 0.0, 0.0), (1.0, 0.0, 0.0)), "colour")
    # The grid's box is a voxel wider than its matter.
    assert float(seen["depth"]) == pytest.approx(5.0 - 16 / 18, abs=0.1)


def test_what_cannot_be_marched_through(tmp_path: Path) -> None:
    numbers = SparseVolume.from_dense(np.ones((2, 2, 2), np.int32))
    assert volume_subject(write_vdb(tmp_path / "n.vdb", [VdbGrid(name="n", volume=numbers)])) is None
    nothing = SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32))
    path = write_vdb(tmp_path / "e.vdb", [VdbGrid(name="density", volume=nothing)])
    with pytest.raises(FormatError, match="holds nothing to show"):
        volume_subject(path)


def test_the_page_paints_volumes_and_leaves_the_rest_to_the_browser(tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="needs viser")
    import voxfield
    from voxfield.viewer.showcase import Showcase
    from voxfield.viewer.viewer import Viewer

    with voxfield.view(write_vdb(tmp_path / "a.vdb", [grid(cube(1.0))]), port=0) as shown:
        assert isinstance(shown, Viewer)
        assert isinstance(shown.subject, VolumeSubject)
    numbers = VdbGrid(name="n", volume=SparseVolume.from_dense(np.ones((2, 2, 2), np.int32)))
    with voxfield.view(write_vdb(tmp_path / "n.vdb", [numbers]), port=0) as shown:
        assert isinstance(shown, Showcase)
