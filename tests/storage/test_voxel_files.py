from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.storage.voxel_files import read_archive, read_compact, read_svox2, write_compact, write_svox2
from voxfield.voxels.voxel_grid import VoxelGrid

BOX = Bounds(minimum=(-1.0, -2.0, 0.5), maximum=(1.0, 2.0, 3.0))


def random_grid(degree: int = 2, fill: float = 0.4) -> VoxelGrid:
    generator = torch.Generator().manual_seed(0)
    grid = VoxelGrid((6, 9, 7), BOX, degree, stored=torch.rand(7, 9, 6, generator=generator) < fill)
    with torch.no_grad():
        grid.density.copy_(5 * torch.randn(grid.num_voxels, generator=generator))
        grid.sh.copy_(0.3 * torch.randn(grid.sh.shape, generator=generator))
    return grid


def seen(grid: VoxelGrid) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([[0.0, -7.0, 1.5]]).expand(400, 3)
    targets = torch.tensor([0.0, 0.0, 1.7]) + 0.8 * torch.randn(400, 3, generator=generator)
    rays = Rays(
        origins=origins,
        directions=torch.nn.functional.normalize(targets - origins, dim=1),
        pixel_area=torch.ones(400),
        camera_index=torch.zeros(400, dtype=torch.int64),
    )
    result = grid.render(rays)
    return (result.rgb + 1 - result.opacity[:, None]).detach()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_svox2_round_trip(degree: int, tmp_path: Path) -> None:
    grid = random_grid(degree)
    back = read_svox2(write_svox2(tmp_path / "ckpt.npz", grid))
    assert back.resolution == grid.resolution
    assert back.scene_bounds == grid.scene_bounds
    assert torch.equal(back.links, grid.links)
    assert torch.equal(back.density, grid.density)
    assert torch.equal(back.sh, grid.sh.half().float())


def test_a_file_as_svox2_writes_it(tmp_path: Path) -> None:
    # Its axes are x, y, z; empty voxels carry distances; coefficients come channel by channel.
    links = np.full((2, 3, 4), -5, np.int32)
    links[1, 2, 3], links[0, 1, 2] = 1, 0
    sh = np.arange(24, dtype=np.float16).reshape(2, 12)
    density = np.array([[0.5], [2.0]], np.float32)
    path = tmp_path / "ckpt.npz"
    np.savez(
        path,
        radius=np.array([1.0, 2.0, 3.0], np.float32),
        center=np.array([0.5, 0.0, 0.0], np.float32),
        links=links,
        density_data=density,
        sh_data=sh,
        basis_type=1,
    )
    grid = read_svox2(path)
    assert grid.resolution == (2, 3, 4)
    assert grid.scene_bounds == Bounds(minimum=(-0.5, -2.0, -3.0), maximum=(1.5, 2.0, 3.0))
    row = int(grid.links[3, 2, 1])
    assert float(grid.density.detach()[row]) == 2.0
    assert grid.sh[row].tolist() == sh[1].reshape(3, 4).tolist()
    assert grid.num_voxels == 2


def broken(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "radius": np.ones(3, np.float32),
        "center": np.zeros(3, np.float32),
        "links": np.arange(8, dtype=np.int32).reshape(2, 2, 2),
        "density_data": np.ones((8, 1), np.float32),
        "sh_data": np.zeros((8, 27), np.float16),
        "basis_type": np.array(1),
    }
    return {**arrays, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"links": np.full((2, 2, 2), 8, np.int32)}, "rows below 8, got values from 8 to 8"),
        ({"links": np.full((2, 2, 2), 2**31 - 1, np.int32)}, "rows below 8"),
        ({"links": np.full((2, 2, 2), 2**40)}, "rows below 8"),
        ({"links": np.zeros((4, 4), np.int32)}, r"expected links \(X, Y, Z\) of whole numbers, got \(4, 4\)"),
        ({"links": np.zeros((2, 2, 2), np.float32)}, r"expected links .* of float32"),
        ({"links": np.zeros((1, 1, 1), np.int32)}, "at least 2 voxels"),
        ({"density_data": np.ones(8, np.float32)}, r"expected density_data \(N, 1\)"),
        ({"sh_data": np.zeros((7, 27), np.float16)}, r"got \(8, 1\) and \(7, 27\)"),
        ({"sh_data": np.zeros((8, 15), np.float16)}, "sh's coefficients: unknown value 5"),
        ({"sh_data": np.full((8, 27), np.nan, np.float16)}, "sh_data holds NaN"),
        ({"radius": np.zeros(3, np.float32)}, "Bounds: expected minimum < maximum"),
        ({"radius": np.ones(2, np.float32)}, "radius"),
        ({"basis_type": np.array(4)}, "its basis is not spherical harmonics"),
        ({"links": np.array(["a"] * 8).reshape(2, 2, 2)}, "links"),
        ({"density_data": np.array([[None]] * 8)}, "holds Python objects"),
    ],
)
def test_svox2_files_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "ckpt.npz", **broken(**changes))
    with pytest.raises(FormatError, match=message):
        read_svox2(tmp_path / "ckpt.npz")


@pytest.mark.parametrize("read", [read_svox2, read_compact])
def test_damaged_and_missing_files(read: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read(tmp_path / "none.npz")
    path = tmp_path / "half.npz"
    whole = write_svox2(tmp_path / "ckpt.npz", random_grid()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="cannot be read"):
        read(path)
    np.savez(path, radius=np.ones(3))
    with pytest.raises(FormatError, match="holds no"):
        read(path)


def test_the_compact_form_looks_the_same_and_is_small(tmp_path: Path) -> None:
    grid = random_grid()
    path = write_compact(tmp_path / "grid.npz", grid)
    back = read_compact(path)
    assert torch.equal(back.links, grid.links)
    torch.testing.assert_close(back.density, grid.density.detach(), rtol=1e-3, atol=1e-4)
    scale = grid.sh.detach().abs().amax(0)
    assert bool(((back.sh - grid.sh).abs() <= scale / 127 + 1e-3).all())
    assert float((seen(back) - seen(grid)).square().mean()) < 1e-5
    # 27 coefficients in a byte each and two bytes of density, against 112 bytes.
    assert path.stat().st_size < 33 * grid.num_voxels + 4000


def test_an_empty_grid_is_kept(tmp_path: Path) -> None:
    grid = VoxelGrid(4, BOX, 1, stored=torch.zeros(4, 4, 4, dtype=torch.bool))
    assert read_compact(write_compact(tmp_path / "a.npz", grid)).num_voxels == 0
    assert read_svox2(write_svox2(tmp_path / "b.npz", grid)).num_voxels == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", np.array("other"), "is no compact voxel grid"),
        ("version", np.array(99), "newer Voxfield"),
        ("resolution", np.array([6, 9, 2**30], np.int32), "expected three sizes"),
        ("resolution", np.array([6, 9, 8], np.int32), "expected the bits of 432 voxels"),
        ("bounds", np.zeros((2, 3)), "Bounds: expected minimum < maximum"),
        ("density", np.zeros(3, np.float16), r"expected sh \(3, B, N\)"),
        ("sh_scale", np.zeros(3, np.float32), r"expected sh \(3, B, N\)"),
        ("stored", np.zeros(48, np.uint8), "stores 0 voxels"),
    ],
)
def test_compact_files_that_do_not_fit_are_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = write_compact(tmp_path / "grid.npz", random_grid())
    with np.load(path) as arrays:
        changed = {**arrays, name: value}
    np.savez(path, **changed)
    with pytest.raises(FormatError, match=message):
        read_compact(path)


def test_what_svox2_keeps_around_its_grid_is_named(tmp_path: Path) -> None:
    grid = random_grid()
    path = write_svox2(tmp_path / "ckpt.npz", grid)
    assert read_archive(path)[1] == ""
    arrays = dict(np.load(path))
    np.savez(path, **arrays, background_links=np.zeros((4, 2), np.int32), background_data=np.zeros((8, 4, 4)))
    read, left_out = read_archive(path)
    assert torch.equal(read.links, grid.links)
    assert left_out == f"{path}: its background (background_data, background_links) is left out: only the grid is read."
    with pytest.warns(UserWarning, match="its background .* is left out"):
        read_svox2(path)
    compact, nothing = read_archive(write_compact(tmp_path / "a.npz", grid))
    assert (torch.equal(compact.links, grid.links), nothing) == (True, "")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(FormatError, match="holds no radius"):
        read_archive(tmp_path / "other.npz")
