"""Levels of detail in the viewer: what is loaded is what a camera shows, and all levels stand in one place."""

from pathlib import Path

import numpy as np
import pytest
import torch

import voxfield
from voxfield.errors import FormatError, InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.storage.voxel_pyramid import VoxelPyramid
from voxfield.storage.voxel_vdb import write_voxel_vdb
from voxfield.viewer.level_subjects import (
    GridSubject,
    LevelFiles,
    PyramidSubject,
    level_for,
    open_volume,
)
from voxfield.viewer.painter import Painter
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.voxel_grid import VoxelGrid


def camera(rows: int, distance: float = 3.0) -> Cameras:
    """A camera that looks at the origin from the side."""
    return Cameras(
        camera_to_world=look_at(torch.tensor([[0.0, -distance, 0.0]]), torch.zeros(1, 3)),
        focal=torch.tensor([[1.0 * rows, 1.0 * rows]]),
        principal=torch.tensor([[0.5 * rows, 0.5 * rows]]),
        width=torch.tensor([rows]),
        height=torch.tensor([rows]),
    )


@pytest.fixture(scope="module")
def ball() -> VoxelGrid:
    """A red ball on one side of blue, in a box that is not about the origin."""
    axis = torch.linspace(-1, 1, 32)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    stored = points.norm(dim=-1) < 0.7
    made = VoxelGrid(32, (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), 1, stored=stored)
    with torch.no_grad():
        rows = made.links[stored].long()
        made.density[rows] = 30.0
        made.sh[rows, 0, 0] = points[stored][:, 0].sign() * 1.5
    return made


@pytest.fixture(scope="module")
def file(ball: VoxelGrid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voxel_vdb(tmp_path_factory.mktemp("ball") / "ball.vdb", ball, layout="compact")


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("levels")
    voxfield.make_levels(file, made, levels=3)
    return made


@pytest.fixture(scope="module")
def fogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fogs")
    dense = np.zeros((24, 24, 24), np.float32)
    dense[4:20, 4:20, 4:20] = 2.0
    grid = VdbGrid(
        name="density",
        volume=SparseVolume.from_dense(dense, background=0.0, active=dense > 0),
        index_to_world=np.diag([0.5, 0.5, 0.5, 1.0]),
        grid_class="fog volume",
    )
    source = write_vdb(made / "fog.vdb", [grid])
    voxfield.make_levels(source, made / "levels", levels=3)
    return made / "levels"


def looked(subject, cameras: Cameras) -> dict[str, torch.Tensor]:
    return subject.look(cameras.image_rays(0), "colour")


def middle_of(seen: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Row and column about which a square picture is opaque."""
    opacity = seen["opacity"].reshape(48, 48)
    at = torch.arange(48.0)
    return tuple(float((opacity.sum(axis) * at).sum() / opacity.sum()) for axis in (1, 0))


def test_a_grid_has_all_its_colours(file: Path, ball: VoxelGrid) -> None:
    subject = open_volume(file)
    assert isinstance(subject, GridSubject)
    assert subject.bounds == ball.scene_bounds
    assert list(subject.load(camera(8))) == []
    seen = looked(subject, camera(32))
    with torch.no_grad():
        expected = ball.render(camera(32).image_rays(0))
    torch.testing.assert_close(seen["opacity"], expected.opacity)
    middle = seen["rgb"].reshape(32, 32, 3)[:, 16]
    assert float(middle[12, 0]) > float(middle[20, 0]) + 0.5  # red above


@pytest.mark.parametrize(("voxels", "level"), [(0.0, 0), (0.3, 0), (1.9, 0), (2.0, 1), (4.5, 2), (1e6, 4)])
def test_the_level_has_voxels_no_larger_than_pixels(voxels: float, level: int) -> None:
    assert level_for(voxels, 5) == level


@pytest.mark.parametrize("kind", ["folder", "fogs"])
def test_files_of_levels_are_loaded_as_the_camera_needs_them(kind: str, request: pytest.FixtureRequest) -> None:
    subject = open_volume(request.getfixturevalue(kind))
    assert isinstance(subject, LevelFiles)
    assert subject.finest == 2
    coarse = looked(subject, camera(48))
    assert list(subject.load(camera(4))) == []
    assert list(subject.load(camera(16))) == [1]
    assert list(subject.load(camera(200))) == [0]
    assert list(subject.load(camera(200))) == []
    fine = looked(subject, camera(48))
    # All stand in one place, if with softer edges.
    for seen in (middle_of(coarse), middle_of(fine)):
        assert seen == pytest.approx((23.5, 23.5), abs=0.3)
    hit = (coarse["opacity"] > 0.9) & (fine["opacity"] > 0.9)
    assert int(hit.sum()) > 100
    assert float((coarse["depth"] - fine["depth"])[hit].abs().mean()) < 0.25


def test_a_file_of_levels_loads_bricks(ball: VoxelGrid, file: Path, tmp_path: Path) -> None:
    voxfield.make_levels(file, tmp_path / "levels.vdb", levels=3, brick=8)
    subject = open_volume(tmp_path / "levels.vdb")
    assert isinstance(subject, PyramidSubject)
    before = len(subject.voxels.resident)
    near = camera(200)
    loaded = list(subject.load(near))
    assert len(subject.voxels.resident) == before + len(loaded) > before
    seen = looked(subject, camera(32))
    with torch.no_grad():
        expected = ball.render(camera(32).image_rays(0))
    assert float((seen["opacity"] - expected.opacity).abs().mean()) < 0.02
    with pytest.raises(InputError, match="do not hold the coarsest level"):
        PyramidSubject(VoxelPyramid(tmp_path / "levels.vdb"), 1000)


def test_the_painter_loads_before_it_paints(folder: Path, shot) -> None:
    subject = LevelFiles(sorted(folder.glob("lod_*.vdb")))
    seen = []
    painter = Painter(subject, lambda picture, last: seen.append((subject.finest, last)), background=torch.ones(3))
    painter.want(shot, 200)
    while painter.work(0.0):
        pass
    assert seen[0][0] > 0
    assert seen[-1] == (0, True)


def test_other_files_are_not_levels(folder: Path, fogs: Path, tmp_path: Path) -> None:
    assert open_volume(tmp_path) is None
    (tmp_path / "lod_1.vdb").write_bytes((folder / "lod_1.vdb").read_bytes())
    assert open_volume(tmp_path) is None
    (tmp_path / "lod_0.vdb").write_bytes((fogs / "lod_0.vdb").read_bytes())
    mixed = open_volume(tmp_path)
    with pytest.raises(FormatError, match="not of the same kind"):
        list(mixed.load(camera(400)))
    (tmp_path / "lod_1.vdb").write_bytes(b"no volume")
    with pytest.raises(FormatError):
        open_volume(tmp_path)


def test_view_serves_a_set_of_levels(folder: Path) -> None:
    pytest.importorskip("viser")
    with voxfield.view(folder, port=0, quiet=True) as viewer:
        assert viewer.url.startswith("http://127.0.0.1:")
