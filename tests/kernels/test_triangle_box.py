import itertools
import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.triangle_box import triangle_box
from voxfield.kernels.voxel_words import unpack_voxels

IMPLEMENTATIONS = ["numba", "triton"]


def random_triangles(count: int, resolution: int) -> torch.Tensor:
    """Around a grid; a quarter on lattice points, some without area, some far outside."""
    generator = torch.Generator().manual_seed(count + resolution)
    triangles = torch.rand(count, 3, 3, generator=generator, dtype=torch.float64) * (resolution + 2) - 1
    triangles[::4] = triangles[::4].round()
    triangles[5::11, 2] = triangles[5::11, 1]
    triangles[6::13] += 3 * resolution
    return triangles


def voxels(triangles: torch.Tensor, resolution: int, implementation: str, device: str = "cpu") -> torch.Tensor:
    return unpack_voxels(triangle_box(triangles.to(device), resolution, implementation=implementation), resolution)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("count", "resolution"), [(0, 4), (1, 1), (30, 3), (40, 4), (60, 13), (40, 20)])
def test_matches_the_reference(implementation, count, resolution, device):
    triangles = random_triangles(count, resolution)
    # Both decide in the same operations of float64: not one voxel may differ.
    ours = voxels(triangles, resolution, implementation, device)
    assert torch.equal(ours, voxels(triangles, resolution, "reference"))


def separated(triangle: torch.Tensor, corner: tuple[int, int, int]) -> float:
    """The widest gap between a triangle and a unit cube over the thirteen axes; negative where none separates."""
    cube = torch.tensor(list(itertools.product(*[(c, c + 1) for c in corner])), dtype=torch.float64)
    edges = triangle.roll(-1, 0) - triangle
    axes = [*torch.eye(3, dtype=torch.float64), torch.linalg.cross(edges[0], edges[1])]
    axes += [torch.linalg.cross(edge, unit) for edge in edges for unit in torch.eye(3, dtype=torch.float64)]
    gap = -math.inf
    for axis in axes:
        if float(axis.norm()) > 1e-9:
            a, b = triangle @ axis / axis.norm(), cube @ axis / axis.norm()
            gap = max(gap, float(a.min() - b.max()), float(b.min() - a.max()))
    return gap


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_agrees_with_separating_axes(implementation):
    triangles = random_triangles(24, 5)
    for triangle in triangles:
        found = voxels(triangle[None], 5, implementation)
        for x, y, z in itertools.product(range(5), repeat=3):
            gap = separated(triangle, (x, y, z))
            # Within rounding of touching either answer is right.
            if abs(gap) > 1e-12:
                assert bool(found[z, y, x]) == (gap < 0), (triangle, x, y, z)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_closed_cubes_share_their_faces(implementation, device):
    flat = torch.tensor([[[0.5, 0.5, 2.0], [1.5, 0.5, 2.0], [0.5, 1.5, 2.0]]], dtype=torch.float64)
    found = voxels(flat, 4, implementation, device)
    assert found.nonzero()[:, 0].unique().tolist() == [1, 2]
    point = torch.full((1, 3, 3), 2.0, dtype=torch.float64)
    assert int(voxels(point, 4, implementation, device).sum()) == 8


def test_takes_any_strides():
    triangles = random_triangles(20, 8)
    turned = triangles.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(triangle_box(turned, 8), triangle_box(triangles, 8))


@pytest.mark.parametrize(
    ("triangles", "resolution", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.float64), 4, r"triangles: expected shape \(T, 3, 3\), got \(3, 3\)"),
        (torch.zeros(2, 3, 3), 4, "triangles: expected dtype torch.float64"),
        (torch.full((1, 3, 3), math.nan, dtype=torch.float64), 4, "expected finite corners"),
        (torch.zeros(1, 3, 3, dtype=torch.float64), 1025, "resolution: expected a value at least 1 and at most 1024"),
        (torch.zeros(1, 3, 3, dtype=torch.float64), 0, "resolution"),
    ],
)
def test_errors_teach(triangles, resolution, message):
    with pytest.raises(InputError, match=message):
        triangle_box(triangles, resolution)
