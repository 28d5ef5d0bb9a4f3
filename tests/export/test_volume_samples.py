from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from voxfield.data.shape_family import procedural_shape
from voxfield.errors import InputError
from voxfield.export.volume_samples import write_samples
from voxfield.storage.vdb import read_vdb
from voxfield.voxels.isosurface import SurfaceMethod


@pytest.fixture(scope="module")
def volumes() -> torch.Tensor:
    return torch.stack([procedural_shape(1, 12), procedural_shape(4, 12), torch.zeros((12, 12, 12))])


def test_values_survive(volumes: torch.Tensor, tmp_path: Path) -> None:
    write_samples(tmp_path, volumes, formats=("hdf5", "tiff", "vdb"), about={"seed": 7})
    with h5py.File(tmp_path / "samples.h5") as file:
        np.testing.assert_array_equal(file["voxels"][:], volumes.numpy())
        assert file["voxels"].chunks == (1, 12, 12, 12)
        assert file.attrs["seed"] == 7
    with Image.open(tmp_path / "tiff" / "sample_0001.tif") as image:
        assert image.n_frames == 12  # type: ignore[attr-defined]
        for layer in range(12):
            image.seek(layer)
            np.testing.assert_array_equal(np.asarray(image), volumes[1, layer].numpy())
    grid = read_vdb(tmp_path / "vdb" / "sample_0001.vdb")[0]
    assert grid.name == "density"
    dense = grid.volume.to_dense((0, 0, 0), (12, 12, 12))
    np.testing.assert_array_equal(np.asarray(dense), volumes[1].numpy())


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_surfaces_and_points_lie_on_the_shape(volumes: torch.Tensor, tmp_path: Path, method: SurfaceMethod) -> None:
    files = write_samples(tmp_path, volumes, formats=("mesh", "points"), points=500, method=method, about={})
    assert [path.name for path in files] == ["sample_0000.ply", "sample_0001.ply"] * 2
    mesh = trimesh.load_mesh(tmp_path / "mesh" / "sample_0000.ply")
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(float(volumes[0].mean()), rel=0.2)
    cloud = np.asarray(trimesh.load(tmp_path / "points" / "sample_0000.ply").vertices)
    cells = np.floor(cloud * 12).astype(int)
    assert len(cloud) == 500
    assert (volumes[0].numpy()[cells[:, 2], cells[:, 1], cells[:, 0]] >= 0.5).mean() > 0.99


def test_unknown_methods_are_refused_before_anything_is_written(volumes: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method: unknown value 'cubes'"):
        write_samples(tmp_path / "new", volumes, formats=("hdf5",), method="cubes", about={})  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_pictures_show_all(volumes: torch.Tensor, tmp_path: Path) -> None:
    write_samples(tmp_path, volumes, formats=("sheet", "turntable"), about={})
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size == (2 * 128 + 4, 2 * 128 + 4)
    with Image.open(tmp_path / "turntable.gif") as turning:
        assert turning.n_frames > 10  # type: ignore[attr-defined]
