"""Fields as meshes and points: where the matter is, what is coloured how, and what is refused."""

import dataclasses
from contextlib import contextmanager
from typing import get_args

import numpy as np
import pytest
import torch
import trimesh

from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.export.seen_colours import Obstacles
from voxfield.export.surfaces import CloudConfig, MeshConfig, cloud_of, mesh_of, write_surface_of
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.plenoxels_config import SpheresConfig
from voxfield.recipes import smallest_model
from voxfield.storage.surface_files import ColouredSurface
from voxfield.voxels.isosurface import SurfaceMethod

BOUNDS = Bounds(minimum=(-1.0, -1.0, -1.0), maximum=(1.0, 1.0, 1.0))
CONFIG = dataclasses.replace(smallest_model("plenoxels"), spheres=SpheresConfig(layers=0))
CAMERAS = posed_images(count=6, resolution=16).cameras


def box_model(density: float) -> Plenoxels:
    """A dark blue cube of side 1 around the origin."""
    model = Plenoxels(CONFIG, BOUNDS, CAMERAS, near=0.1, has_alpha=True)
    grid = model.grid
    centres = torch.cat([some for _, some in grid.centres()])
    inside = (model_world(model, centres).abs() < 0.5).all(1)
    with torch.no_grad():
        grid.density.copy_(torch.where(inside, density, -1.0).to(grid.density).view_as(grid.density))
        grid.sh.zero_()
        grid.sh[:, :, 0] = torch.tensor([-0.5, -0.3, 0.1]) / 0.28209479
    return model


class Told:
    """Hears of stages: for every unit how many there are and how many were done."""

    def __init__(self) -> None:
        self.done: dict[str, list[int]] = {}

    @contextmanager
    def __call__(self, description: str, total: int, unit: str):
        self.done[unit] = counts = [total, 0]

        class Stage:
            def advance(self, count: int = 1) -> None:
                counts[1] += count

        yield Stage()


def model_world(model: Plenoxels, points: torch.Tensor) -> torch.Tensor:
    """Points of the model's grid in the world."""
    low, high = model.grid.scene_bounds.tensor()
    box_low, box_high = model.world_bounds.tensor()
    return box_low + (points - low) / (high - low) * (box_high - box_low)


def test_a_mesh_lies_around_the_matter() -> None:
    stages = Told()
    config = MeshConfig(resolution=32)
    found = mesh_of(box_model(1e3), BOUNDS, CAMERAS, config=config, stages=stages)
    size = 2 / CONFIG.resolutions[0][0]
    assert config.nodes(BOUNDS)[2] == 33
    assert stages.done == {"layers": [33, 33], "vertices": [len(found.vertices)] * 2}
    assert np.abs(found.vertices).max() < 0.5 + size
    assert np.abs(found.vertices).max(1).min() > 0.5 - size
    assert (found.vertices * found.normals).sum(1).min() > 0
    np.testing.assert_allclose(found.colours, np.tile([0.0, 0.2, 0.6], (len(found.colours), 1)), atol=1e-3)


def test_the_method_is_the_one_asked_for() -> None:
    on_edges = []
    for method in get_args(SurfaceMethod):
        found = mesh_of(box_model(1e3), BOUNDS, CAMERAS, config=MeshConfig(resolution=32, method=method))
        assert trimesh.Trimesh(found.vertices, found.faces, process=False).is_watertight
        assert (found.vertices * found.normals).sum(1).min() > 0
        steps = (found.vertices + 1) * 16
        on_edges.append(((np.abs(steps - steps.round()) < 1e-4).sum(1) >= 2).mean())
    # Marching cubes has vertices on the grid's edges, dual contouring amid its cells.
    assert on_edges == [1.0, 0.0]


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_a_mesh_of_depth_lies_there_too(method: SurfaceMethod) -> None:
    config = MeshConfig(resolution=24, source="depth", method=method)
    found = mesh_of(box_model(1e3), BOUNDS, CAMERAS, config=config)
    size = 2 / CONFIG.resolutions[0][0] + 2 / 24
    assert np.abs(found.vertices).max() < 0.5 + size
    assert np.abs(found.vertices).max(1).min() > 0.5 - 2 * size
    np.testing.assert_allclose(np.median(found.colours, 0), [0.0, 0.2, 0.6], atol=0.01)


def test_a_texture_takes_the_place_of_coloured_vertices() -> None:
    pytest.importorskip("xatlas")
    config = MeshConfig(resolution=24, triangles=200, texture=64)
    found = mesh_of(box_model(1e3), BOUNDS, CAMERAS, config=config)
    assert 0 < len(found.faces) <= 200
    assert found.texture.picture.shape == (64, 64, 3)
    # All of it, what charts spread over too, has the one colour that there is.
    near = np.abs(found.texture.picture.astype(int) - [0, 51, 153]).max(2) <= 8
    assert near.mean() > 0.98
    np.testing.assert_allclose(found.colours[0], [0.0, 0.2, 0.6], atol=0.03)


def test_what_stands_between_is_not_seen_through() -> None:
    # A red wall to the left of a green ball: from the left, its colour is not the ball's.
    low, high = torch.tensor([-0.5, 0.0, 0.0]), torch.tensor([0.5, 0.0, 0.0])
    wall = torch.stack([torch.full((400,), -0.5), *(torch.rand(2, 400) - 0.5)], dim=1)
    obstacles = Obstacles.of(torch.cat([wall, high[None]]), BOUNDS, 0.1, torch.device("cpu"))
    normal = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    points = torch.stack([high, high, low])
    blocked = obstacles.between(points, normal, normal)
    assert blocked.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("density", "advice"),
    [(-1.0, r"Train it longer\.$"), (1e-3, r"Train it longer, or ask for less opacity \(--opacity\)\.$")],
)
def test_an_empty_field_has_no_mesh(density: float, advice: str) -> None:
    with pytest.raises(InputError, match=f"no surface in its region of interest.*{advice}"):
        mesh_of(box_model(density), BOUNDS, CAMERAS, config=MeshConfig(resolution=16))


def test_points_lie_where_rays_end() -> None:
    generator = torch.Generator().manual_seed(0)
    found = cloud_of(box_model(1e3), BOUNDS, CAMERAS, config=CloudConfig(points=500), generator=generator)
    size = 2 / CONFIG.resolutions[0][0]
    assert (len(found.vertices), len(found.faces)) == (500, 0)
    assert np.abs(found.vertices).max() < 0.5 + 2 * size
    assert ((found.vertices * found.normals).sum(1) > 0).mean() > 0.95
    np.testing.assert_allclose(found.colours.mean(0), [0.0, 0.2, 0.6], atol=0.01)


def test_an_empty_field_has_no_points() -> None:
    config = CloudConfig(points=3)
    with pytest.raises(InputError, match=r"stops hardly any ray.* Train it longer\.$"):
        cloud_of(box_model(-1.0), BOUNDS, CAMERAS, config=config, generator=torch.Generator())


@pytest.mark.parametrize(
    "settings",
    [
        {"resolution": 4},
        {"resolution": 10_000},
        {"opacity": 0.0},
        {"opacity": 1.0},
        {"min_part": 2.0},
        {"source": "guess"},
        {"method": "dual"},
        {"triangles": 3},
        {"texture": 32},
        {"texture": 10_000},
        {"texture": 64, "triangles": 300_000},
    ],
)
def test_settings_of_meshes_out_of_range(settings: dict) -> None:
    with pytest.raises(InputError):
        MeshConfig(**settings)


@pytest.mark.parametrize("settings", [{"points": 0}, {"points": 10**9}, {"min_opacity": 0.2}, {"min_opacity": 1.0}])
def test_settings_of_points_out_of_range(settings: dict) -> None:
    with pytest.raises(InputError):
        CloudConfig(**settings)


def test_specks_are_left_out() -> None:
    model = box_model(1e3)
    centres = torch.cat([some for _, some in model.grid.centres()])
    with torch.no_grad():
        model.grid.density[model_world(model, centres).sub(0.85).abs().amax(1).argmin()] = 1e3
    whole = mesh_of(model, BOUNDS, CAMERAS, config=MeshConfig(resolution=24))
    large = mesh_of(model, BOUNDS, CAMERAS, config=MeshConfig(resolution=24, min_part=0.5))
    assert whole.vertices.max() > 0.7 > large.vertices.max()
    assert large.faces.max() == len(large.vertices) - 1


def test_a_surface_is_written_in_other_coordinates(tmp_path) -> None:
    triangle = ColouredSurface(
        vertices=np.eye(3, dtype=np.float32),
        normals=np.eye(3, dtype=np.float32),
        colours=np.zeros((3, 3), np.float32),
        faces=np.array([[0, 1, 2]]),
    )
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    to_world = SceneTransform.from_parts(turn, 2.0, torch.tensor([1.0, 2, 3]))
    done = write_surface_of(tmp_path / "a.ply", triangle, to_world)
    assert (done.vertices, done.faces, done.bytes) == (3, 1, (tmp_path / "a.ply").stat().st_size)
    back = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    again = to_world.apply_points(torch.tensor(np.array(back.vertices)))
    np.testing.assert_allclose(again, np.eye(3), atol=1e-6)
    # trimesh makes normals of its own; those of the file are in what it read.
    raw = back.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([raw[name] for name in ("nx", "ny", "nz")], 1).reshape(3, 3)
    np.testing.assert_allclose(normals @ turn.numpy().T, np.eye(3), atol=1e-6)


def test_runs_in_normalised_device_coordinates_are_refused() -> None:
    model = box_model(1e3)
    model.ndc = object()
    with pytest.raises(InputError, match="normalised device coordinates"):
        mesh_of(model, BOUNDS, CAMERAS, config=MeshConfig(resolution=8))
    with pytest.raises(InputError, match="normalised device coordinates"):
        cloud_of(model, BOUNDS, CAMERAS, config=CloudConfig(points=3), generator=torch.Generator())
