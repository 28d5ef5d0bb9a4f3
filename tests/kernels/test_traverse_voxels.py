import math
from dataclasses import fields

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.traverse_voxels import VoxelHits, traverse_voxels
from voxfield.kernels.voxel_words import pack_voxels

IMPLEMENTATIONS = ["numba", "triton"]


def random_grid(resolution: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(resolution)
    grid = torch.rand(resolution, resolution, resolution, generator=generator) < share
    if resolution > 30:
        # Empty and full blocks of every size, and a full slab that ends off the blocks' lattice.
        grid[:20], grid[-9:] = False, True
    return grid


def random_rays(count: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """From in and around the grid; some from lattice points, some along one or two axes, some missing it."""
    generator = torch.Generator().manual_seed(count)
    origins = (torch.rand(count, 3, generator=generator) * 3 - 1) * resolution
    targets = torch.rand(count, 3, generator=generator) * resolution
    origins[::7] = origins[::7].round()
    directions = targets - origins
    directions[::5, 0] = 0
    directions[::9, 1] = 0
    directions[3::50] *= -1
    return origins, torch.nn.functional.normalize(directions, dim=1)


def trace(origins, directions, grid, implementation="numba", device="cpu", **options) -> VoxelHits:
    tensors = [tensor.to(device) for tensor in (origins, directions, pack_voxels(grid))]
    hits = traverse_voxels(*tensors, len(grid), implementation=implementation, **options)
    return VoxelHits(**{field.name: getattr(hits, field.name).cpu() for field in fields(hits)})


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize(("count", "resolution"), [(0, 4), (1, 1), (300, 3), (300, 4), (400, 13), (300, 37)])
def test_matches_the_reference(implementation, count, resolution, share, device):
    grid = random_grid(resolution, share)
    origins, directions = random_rays(count, resolution)
    ours = trace(origins, directions, grid, implementation, device)
    theirs = trace(origins, directions, grid, "reference")
    # Sums of at most 3 R pieces, each two float64 divisions; then float32.
    torch.testing.assert_close(ours.chord, theirs.chord, rtol=2e-6, atol=1e-5)
    # A ray through an edge of voxels has pieces near the least length, which may count for one and not the other.
    first = (ours.distance - theirs.distance).abs() > 1e-5
    assert int((first & ours.hit & theirs.hit).sum()) == 0
    assert int((ours.hit != theirs.hit).sum()) == 0
    clear = ours.voxel == theirs.voxel
    assert float(clear.float().mean()) >= (0.98 if count > 1 else 1) or count == 0
    assert ours.normal.dtype == theirs.normal.dtype == torch.int8


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize(("count", "resolution"), [(0, 4), (1, 1), (300, 3), (400, 13), (300, 37)])
def test_first_hits_are_those_of_the_whole_way(implementation, count, resolution, device):
    grid = random_grid(resolution, 0.1)
    origins, directions = random_rays(count, resolution)
    whole = trace(origins, directions, grid, implementation, device)
    first = trace(origins, directions, grid, implementation, device, first_hit_only=True)
    for name in ("distance", "normal", "voxel"):
        assert torch.equal(getattr(first, name), getattr(whole, name)), name
    assert first.chord.shape == whole.chord.shape
    assert bool(first.chord.isnan().all())


def blocky_grid(resolution: int) -> torch.Tensor:
    """Empty and full blocks of 4 to 64 voxels, each shifted a little from the lattice or not."""
    generator = torch.Generator().manual_seed(7)
    grid = torch.zeros(resolution, resolution, resolution, dtype=torch.bool)
    for size in (64, 32, 16, 8, 4, 1):
        for _ in range(6):
            low = torch.randint(0, max(resolution // size, 1), (3,), generator=generator) * size
            low += torch.randint(0, 2, (1,), generator=generator) * torch.randint(0, 3, (3,), generator=generator)
            value = bool(torch.rand(1, generator=generator) < 0.6)
            grid[tuple(slice(int(start), int(start) + size) for start in low)] = value
    return grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("resolution", [8, 16, 64, 100, 128])
def test_blocks_of_all_sizes_match_the_reference(resolution, dtype):
    grid = blocky_grid(resolution)
    origins, directions = (rays.to(dtype) for rays in random_rays(500, resolution))
    ours, theirs = trace(origins, directions, grid), trace(origins, directions, grid, "reference")
    torch.testing.assert_close(ours.chord, theirs.chord, rtol=2e-6, atol=1e-5)
    assert torch.equal(ours.hit, theirs.hit)
    torch.testing.assert_close(ours.distance, theirs.distance, rtol=2e-6, atol=1e-5)
    same = ours.voxel == theirs.voxel
    assert float(same.float().mean()) >= 0.98
    # Where a ray crosses planes of two axes at once, either may be named.
    assert float((ours.normal == theirs.normal).all(1)[same].float().mean()) >= 0.97


CASES = {
    # name: origin, direction, chord, distance, normal, voxel
    "along x": ([-1.0, 1.5, 1.5], [1.0, 0, 0], 2.0, 2.0, [-1, 0, 0], 1 + 4 * (1 + 4 * 1)),
    "against x": ([9.0, 1.5, 1.5], [-1.0, 0, 0], 2.0, 6.0, [1, 0, 0], 2 + 4 * (1 + 4 * 1)),
    "from inside": ([1.5, 1.5, 1.5], [1.0, 0, 0], 1.5, 0.0, [0, 0, 0], 1 + 4 * (1 + 4 * 1)),
    "past it": ([-1.0, 0.5, 0.5], [1.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "away from it": ([-1.0, 1.5, 1.5], [-1.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "outside the grid": ([-1.0, 9.0, 1.5], [1.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "along z": ([1.5, 2.5, -3.0], [0.0, 0, 1], 2.0, 4.0, [0, 0, -1], 1 + 4 * (2 + 4 * 1)),
    "within the plane between voxels": ([-1.0, 1.0, 2.0], [1.0, 0, 0], 2.0, 2.0, [-1, 0, 0], 1 + 4 * (1 + 4 * 2)),
    "within the grid's last plane": ([-1.0, 4.0, 1.5], [1.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "NaN": ([math.nan, 1.5, 1.5], [1.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "infinite direction": ([0.0, 1.5, 1.5], [math.inf, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "no direction": ([1.5, 1.5, 1.5], [0.0, 0, 0], 0.0, math.inf, [0, 0, 0], -1),
    "touching an edge": ([0.0, 2.0, 1.5], [1 / math.sqrt(2), -1 / math.sqrt(2), 0], 0.0, math.inf, [0, 0, 0], -1),
}


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_hand_made_cases(implementation, device):
    grid = torch.zeros(4, 4, 4, dtype=torch.bool)
    grid[1:3, 1:3, 1:3] = True
    origins, directions = (torch.tensor([case[at] for case in CASES.values()]) for at in (0, 1))
    hits = trace(origins, directions, grid, implementation, device)
    for ray, (name, (_, _, chord, distance, normal, voxel)) in enumerate(CASES.items()):
        assert hits.chord[ray].item() == pytest.approx(chord, abs=1e-6), name
        assert hits.distance[ray].item() == pytest.approx(distance, abs=1e-6), name
        assert hits.normal[ray].tolist() == normal, name
        assert int(hits.voxel[ray]) == voxel, name


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_ray_that_starts_on_the_grid_enters_through_its_face(implementation, device):
    grid = torch.ones(8, 8, 8, dtype=torch.bool)
    hits = trace(
        torch.tensor([[0.0, 3.5, 3.5], [3.5, 8.0, 3.5]]),
        torch.tensor([[1.0, 0, 0], [0.0, -1, 0]]),
        grid,
        implementation,
        device,
    )
    assert hits.normal.tolist() == [[-1, 0, 0], [0, 1, 0]]
    assert hits.distance.tolist() == [0, 0]
    assert hits.chord.tolist() == [8, 8]


def test_chord_is_the_integral_of_occupancy():
    grid = random_grid(16, 0.3)
    origins, directions = random_rays(40, 16)
    hits = trace(origins, directions, grid)
    t = (torch.arange(40_000, dtype=torch.float64) + 0.5) * 2e-3
    for ray in range(40):
        points = (origins[ray].double() + directions[ray].double() * t[:, None]).floor().long()
        within = ((points >= 0) & (points < 16)).all(1)
        x, y, z = points.clamp(0, 15).unbind(1)
        integral = float((grid[z, y, x] & within).double().sum() * 2e-3)
        # Two ends of at most a step for each of the pieces.
        assert hits.chord[ray].item() == pytest.approx(integral, abs=2e-3 * 48)


def test_turning_grid_and_rays_together_changes_nothing():
    grid = random_grid(13, 0.2)
    origins, directions = random_rays(200, 13)
    # Off the lattice: what runs within a plane lies on its greater side, which turning changes.
    origins += 0.137
    before = trace(origins, directions, grid)
    # A quarter turn about z: x' = R - y, y' = x.
    turned = torch.rot90(grid, 1, dims=(2, 1))
    around = [torch.stack([shift - v[:, 1], v[:, 0], v[:, 2]], 1) for v, shift in ((origins, 13), (directions, 0))]
    after = trace(*around, turned)
    torch.testing.assert_close(after.chord, before.chord, rtol=0, atol=2e-4)


def test_any_strides_and_threads_give_the_same():
    grid = random_grid(32, 0.1)
    origins, directions = random_rays(3000, 32)
    both = torch.cat([origins, directions], 1)
    ours, theirs = trace(both[:, :3], both[:, 3:], grid), trace(origins[:300], directions[:300], grid)
    assert torch.equal(ours.chord[:300], theirs.chord)
    assert torch.equal(ours.voxel[:300], theirs.voxel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins": torch.zeros(3)}, r"origins: expected shape \(R, 3\)"),
        ({"directions": torch.zeros(3, 3)}, r"directions: expected shape \(2, 3\)"),
        ({"directions": torch.zeros(2, 3).double()}, "directions: expected dtype torch.float32"),
        ({"words": torch.zeros(2, dtype=torch.int64)}, r"words: expected shape \(1\)"),
        ({"resolution": 0}, "resolution"),
    ],
)
def test_errors_teach(change, message):
    arguments = {
        "origins": torch.zeros(2, 3),
        "directions": torch.ones(2, 3),
        "words": torch.zeros(1, dtype=torch.int64),
        "resolution": 4,
    }
    with pytest.raises(InputError, match=message):
        traverse_voxels(**{**arguments, **change})
