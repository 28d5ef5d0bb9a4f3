import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.march_grid import (
    OccupancyBits,
    PackedSamples,
    StepRule,
    march_grid,
    pack_occupancy,
    unpack_occupancy,
)
from voxfield.kernels.march_grid.occupancy import cascade_box

IMPLEMENTATIONS = ["numba", "triton"]
BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 0.5, 1.5]])
CUBE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
FIELDS = ("t_start", "t_end", "ray_index", "ray_offsets", "positions")


def random_occupancy(resolution: int, cascades: int, share: float) -> torch.Tensor:
    """Cells set at random inside random blocks of 4 inside random blocks of 16, so that all three can be skipped."""
    generator = torch.Generator().manual_seed(resolution + cascades)
    occupied = torch.ones(cascades, resolution, resolution, resolution, dtype=torch.bool)
    for factor, chance in ((16, 0.7 if resolution > 16 else 1.0), (4, 0.4), (1, share)):
        blocks = torch.rand(cascades, *[resolution // factor] * 3, generator=generator) < chance
        occupied &= blocks.repeat_interleave(factor, 1).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return occupied


def random_rays(count: int, reach: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Origins in and around the box, directions towards its inside (some along an axis), jitter."""
    generator = torch.Generator().manual_seed(count)
    origins = BOX.mean(0) + reach * 2 * torch.randn(count, 3, generator=generator)
    targets = BOX.mean(0) + 0.5 * torch.randn(count, 3, generator=generator)
    directions = targets - origins
    directions[::7, 1] = 0
    directions[::11, :2] = 0
    return origins, torch.nn.functional.normalize(directions, dim=1), torch.rand(count, generator=generator)


def march(implementation, device, origins, directions, occupancy, box, *, jitter=None, **options) -> PackedSamples:
    samples = march_grid(
        origins.to(device),
        directions.to(device),
        occupancy.to(device),
        box.to(device),
        jitter=None if jitter is None else jitter.to(device),
        implementation=implementation,
        **options,
    )
    return PackedSamples(**{name: getattr(samples, name).cpu() for name in FIELDS})


def assert_packed(samples: PackedSamples, rays: int) -> None:
    """The laws of the packing, whatever was marched through."""
    assert samples.ray_offsets.dtype == torch.int64
    assert samples.ray_index.dtype == torch.int32
    assert samples.positions.shape == (len(samples), 3)
    lengths = samples.ray_offsets.diff()
    assert len(lengths) == rays
    assert samples.ray_offsets[0] == 0
    assert samples.ray_offsets[-1] == len(samples)
    assert torch.equal(samples.ray_index.long(), torch.arange(rays).repeat_interleave(lengths))
    same_ray = samples.ray_index[1:] == samples.ray_index[:-1]
    overlap = samples.t_end[:-1] - samples.t_start[1:]
    assert (overlap[same_ray] <= 1e-4).all()
    assert (samples.t_end > samples.t_start).all()


def lattice_keys(samples: PackedSamples, first: torch.Tensor, step: StepRule) -> dict[tuple[int, int], int]:
    """(ray, k) of every sample -> its row."""
    steps = step.to_steps(samples.t_start.double()) - first[samples.ray_index.long()]
    assert (steps - steps.round()).abs().max() < 0.05 if len(steps) else True
    return {
        key: row for row, key in enumerate(zip(samples.ray_index.tolist(), steps.round().int().tolist(), strict=True))
    }


# (occupied, step, options, rays). 32 rays are one program on a GPU: the interpreter takes its time over each.
SCENES = {
    "one cascade": (random_occupancy(32, 1, 0.2), StepRule(min_step=0.05), {}, 45),
    "no jitter": (random_occupancy(32, 2, 0.2), StepRule(min_step=0.07), {"jitter": None}, 32),
    "coarsest resolution": (random_occupancy(16, 1, 0.2), StepRule(min_step=0.04), {}, 32),
    "two coarsest blocks a side": (random_occupancy(32, 3, 0.2), StepRule(min_step=0.15), {}, 32),
    "cascades straddling blocks": (random_occupancy(16, 4, 0.2), StepRule(min_step=0.25), {}, 32),
    "growing steps": (random_occupancy(32, 4, 0.3), StepRule(min_step=0.04, cone_angle=1 / 16), {}, 32),
    "capped steps": (random_occupancy(16, 3, 0.2), StepRule(min_step=0.04, cone_angle=0.05, max_step=0.2), {}, 32),
    "steps larger than cells": (random_occupancy(64, 3, 0.3), StepRule(min_step=0.3), {}, 32),
    "near and far": (random_occupancy(16, 2, 0.5), StepRule(min_step=0.05), {"near": 1.3, "far": 4.2}, 32),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_matches_the_reference(implementation, scene, device):
    occupied, step, options, count = scene
    origins, directions, jitter = random_rays(count, reach=2.0 ** (len(occupied) - 1))
    occupancy = pack_occupancy(occupied)
    arguments = {"jitter": jitter, "step": step, "max_samples": 100_000, **options}
    actual = march(implementation, device, origins, directions, occupancy, BOX, **arguments)
    assert_packed(actual, count)

    exact = origins.double(), directions.double()
    if arguments["jitter"] is not None:
        arguments["jitter"] = jitter.double()
    expected = march("reference", "cpu", *exact, occupancy, BOX.double(), **arguments)
    # With every cell occupied the reference shows the whole lattice, so its first point.
    full = pack_occupancy(torch.ones_like(occupied))
    lattice = march("reference", "cpu", *exact, full, BOX.double(), **arguments)
    hit = lattice.ray_offsets.diff() > 0
    first = torch.zeros(count, dtype=torch.float64)
    first[hit] = step.to_steps(lattice.t_start[lattice.ray_offsets[:-1][hit]])

    ours, theirs = lattice_keys(actual, first, step), lattice_keys(expected, first, step)
    assert len(theirs) > 30
    # Where only one has a sample its midpoint must be so near a face that rounding decides. A handful at most.
    disputed = ours.keys() ^ theirs.keys()
    assert len(disputed) <= 0.01 * len(theirs)
    for ray, k in disputed:
        assert decided_by_rounding(first[ray] + k + 0.5, *(tensor[ray] for tensor in exact), occupancy, step, options)
    rows = torch.tensor([(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()])
    # Distances reach 50 and a lattice point is some 1000 steps in: 1e-6 relative is 16 roundings.
    for name in ("t_start", "t_end", "positions"):
        found, wanted = getattr(actual, name)[rows[:, 0]], getattr(expected, name)[rows[:, 1]]
        torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("resolution", "count"), [(16, 3000), (32, 700), (128, 5000), (64, 1), (64, 17), (64, 0)])
@pytest.mark.parametrize("limits", [{}, {"max_samples": 1}, {"max_samples": 7}, {"near": 1.3, "far": 2.5}])
def test_rays_side_by_side_meet_what_each_meets_alone(resolution, count, limits):
    """A cone so narrow that steps never grow is followed ray by ray."""
    occupancy = pack_occupancy(random_occupancy(resolution, 1, 0.2))
    origins, directions, jitter = random_rays(count)
    if count > 50:
        origins[20], origins[21, 1], directions[22], directions[23, 0] = math.nan, math.inf, 0.0, -math.inf
        directions[24] = torch.tensor([-0.0, 1.0, 1e-42])
    samples = [
        march_grid(
            origins,
            directions,
            occupancy,
            BOX,
            step=StepRule(min_step=0.01, cone_angle=cone),
            jitter=jitter,
            implementation="numba",
            **limits,
        )
        for cone in (0.0, 1e-300)
    ]
    assert_packed(samples[0], count)
    assert count < 100 or len(samples[0]) > count // 3
    for name in FIELDS:
        assert torch.equal(getattr(samples[0], name), getattr(samples[1], name)), name


def decided_by_rounding(s_mid, origin, direction, occupancy, step, options) -> bool:
    """Whether a midpoint is within 1e-3 of a cell of a face, an end of the ray, or a change of cascade."""
    t = float(step.to_distance(s_mid))
    box = cascade_box(BOX.double(), occupancy.num_cascades - 1)
    position = origin + direction * t
    unit = (position - box[0]) / (box[1] - box[0])
    # Cells of cascade 0 are the finest: every face of every cascade is a face of this lattice extended.
    cells = unit * occupancy.resolution * 2 ** (occupancy.num_cascades - 1)
    near_a_face = bool(((cells - cells.round()).abs() < 1e-3 * 2 ** (occupancy.num_cascades - 1)).any())
    near_far = abs(t - options.get("far", math.inf)) < 1e-4
    cell_size = float((BOX[1] - BOX[0]).max()) / occupancy.resolution
    dt = float(step.step_at(torch.tensor(t)))
    grows_here = any(abs(cell_size * 2**c - dt / 2) < 1e-4 * dt for c in range(occupancy.num_cascades))
    return near_a_face or near_far or grows_here


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("max_samples", [1, 5, 1000])
def test_axis_parallel_rays_exactly(implementation, max_samples, device):
    """All numbers are dyadic, so nothing is rounded and the samples can be written down."""
    occupied = torch.zeros(1, 16, 16, 16, dtype=torch.bool)
    occupied[0, 3, 5, 2:4] = True  # z = 3, y = 5, x = 2 and 3
    occupied[0, 3, 5, 15] = True
    origins = torch.tensor([[-1.0, 5.5 / 16, 3.5 / 16], [-1.0, 6.5 / 16, 3.5 / 16], [2.0, 5.5 / 16, 3.5 / 16]])
    directions = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    step = StepRule(min_step=1 / 32)
    occupancy = pack_occupancy(occupied)
    samples = march(implementation, device, origins, directions, occupancy, CUBE, step=step, max_samples=max_samples)
    assert_packed(samples, 3)
    forward = [1 + k / 32 for k in (4, 5, 6, 7, 30, 31)][:max_samples]
    backward = [1 + k / 32 for k in (0, 1, 24, 25, 26, 27)][:max_samples]
    assert samples.t_start.tolist() == forward + backward
    assert samples.t_end.tolist() == [t + 1 / 32 for t in forward + backward]
    assert samples.ray_offsets.tolist() == [0, len(forward), len(forward), 2 * len(forward)]
    x = [t + 1 / 64 - 1 for t in forward] + [2 - t - 1 / 64 for t in backward]
    assert samples.positions.tolist() == [[value, 5.5 / 16, 3.5 / 16] for value in x]


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_jitter_shifts_the_lattice_forward(implementation, device):
    occupancy = pack_occupancy(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    origins, directions = torch.full((2, 3), 0.5), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    origins[:, 0] = -1
    jitter = torch.tensor([0.25, 0.75])
    samples = march(
        implementation, device, origins, directions, occupancy, CUBE, jitter=jitter, step=StepRule(min_step=0.125)
    )
    # The last midpoint has to stay below t_exit = 2.
    assert samples.ray_offsets.tolist() == [0, 8, 15]
    assert samples.t_start.tolist() == [1 + (k + 0.25) / 8 for k in range(8)] + [1 + (k + 0.75) / 8 for k in range(7)]


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_the_cascade_follows_place_and_step(implementation, device):
    """Rays along x from the centre of [-1, 1]^3, three cascades of 16 cells; only some cascades are occupied."""
    box = torch.tensor([[-1.0, -1, -1], [1.0, 1, 1]])
    origins, directions = torch.tensor([[0.01, 0.3, 0.3]]), torch.tensor([[1.0, 0, 0]])
    cases = [
        # (occupied cascades, step) -> range of x that has samples
        ([0], StepRule(min_step=1 / 16), (0.01, 1.0)),
        ([1], StepRule(min_step=1 / 16), (1.0, 2.0)),
        ([2], StepRule(min_step=1 / 16), (2.0, 4.0)),
        # Cells of cascade 0 are 1/8 wide: a step of 3/8 is more than twice that, so cascade 1 decides from the start.
        ([0], StepRule(min_step=3 / 8), None),
        ([1], StepRule(min_step=3 / 8), (0.01, 2.0)),
        # A step above twice the cells of every cascade leaves it to the last.
        ([2], StepRule(min_step=1.5), (0.01, 4.0)),
        # The step passes 1/4, twice the cells of cascade 0, at t = 0.5.
        ([0], StepRule(min_step=1 / 32, cone_angle=0.5), (0.01, 0.51)),
        ([1], StepRule(min_step=1 / 32, cone_angle=0.5), (0.51, 1.01)),
    ]
    for cascades, step, wanted in cases:
        occupied = torch.zeros(3, 16, 16, 16, dtype=torch.bool)
        occupied[cascades] = True
        arguments = origins, directions, pack_occupancy(occupied), box
        x = march(implementation, device, *arguments, step=step).positions[:, 0] * 8 - 4
        full = march("reference", "cpu", *arguments[:2], pack_occupancy(torch.ones_like(occupied)), box, step=step)
        everywhere = full.positions[:, 0] * 8 - 4
        low, high = wanted or (0.0, 0.0)
        expected = everywhere[(everywhere > low) & (everywhere < high)]
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-5, msg=lambda text, c=cascades: f"{c}: {text}")
        assert len(x) or wanted is None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    origins, directions, jitter = (tensor.to(device) for tensor in random_rays(30))
    occupancy, box = pack_occupancy(random_occupancy(16, 1, 0.5)).to(device), BOX.to(device)
    step = StepRule(min_step=0.05)
    plain = march_grid(origins, directions, occupancy, box, step=step, jitter=jitter, implementation=implementation)
    wide = torch.cat([origins, directions, jitter[:, None]], dim=1).T.contiguous().T
    strided = march_grid(
        wide[:, :3],
        wide[:, 3:6],
        occupancy,
        box.T.contiguous().T,
        step=step,
        jitter=torch.stack([jitter, jitter], dim=1)[:, 0],
        implementation=implementation,
    )
    assert len(plain) > 50
    for name in FIELDS:
        assert torch.equal(getattr(plain, name), getattr(strided, name))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_nothing_to_march(implementation, device):
    occupied = torch.ones(1, 16, 16, 16, dtype=torch.bool)
    origins, directions, _ = random_rays(5)
    step = StepRule(min_step=0.05)
    for rays, grid in ((0, occupied), (5, ~occupied)):
        arguments = origins[:rays], directions[:rays], pack_occupancy(grid), BOX
        samples = march(implementation, device, *arguments, step=step)
        assert_packed(samples, rays)
        assert len(samples) == 0
    missing = march(
        implementation,
        device,
        origins * 0 + 50,
        torch.eye(3)[[0, 1, 2, 0, 1]],
        pack_occupancy(occupied),
        BOX,
        step=step,
    )
    assert_packed(missing, 5)
    assert len(missing) == 0


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_one_ray(implementation, device):
    occupancy = pack_occupancy(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    samples = march(
        implementation,
        device,
        torch.tensor([[0.5, 0.5, 0.25]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        occupancy,
        CUBE,
        step=StepRule(min_step=0.5),
    )
    assert samples.t_start.tolist() == [0.0]  # the second midpoint, 0.75, is where the box ends: not below it
    assert_packed(samples, 1)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, under Triton's interpreter
@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_ray_has_no_samples(implementation, device):
    occupancy = pack_occupancy(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    origins, directions, _ = random_rays(4)
    origins[:] = BOX.mean(0)
    origins[1, 0] = math.nan
    directions[2, 2] = math.nan
    samples = march(implementation, device, origins, directions, occupancy, BOX, step=StepRule(min_step=0.05))
    lengths = samples.ray_offsets.diff()
    assert (lengths > 0).tolist() == [True, False, False, True]


def test_reference_agrees_with_brute_force():
    """Independent of the lattice's closed form: step by step along the ray, cell by cell through plain Python."""
    occupied, step = random_occupancy(16, 3, 0.4), StepRule(min_step=0.04, cone_angle=0.03, max_step=0.11)
    origins, directions, _ = (tensor.double() for tensor in random_rays(12, reach=3.0))
    box = BOX.double()
    samples = march_grid(
        origins, directions, pack_occupancy(occupied), box, step=step, implementation="reference", max_samples=10_000
    )
    centre, half = box.mean(0), (box[1] - box[0]) / 2
    t_entered = torch.zeros(12, dtype=torch.float64)
    found = []
    for ray in range(12):
        outer = (centre - 4 * half, centre + 4 * half)
        times = torch.linspace(0, 40, 400_001, dtype=torch.float64)
        points = origins[ray] + times[:, None] * directions[ray]
        inside = times[((points >= outer[0]) & (points <= outer[1])).all(1)]
        t_entered[ray], t_exit = (float(inside[0]), float(inside[-1])) if len(inside) else (0.0, -1.0)
        # The lattice is anchored at t_enter by way of s(t); walk from there with dt(t) as the contract states it.
        t = t_entered[ray].item()
        while t < t_exit:
            middle = t + 0.5 * min(max(t * 0.03, 0.04), 0.11)
            point = origins[ray] + middle * directions[ray]
            reach = float(((point - centre) / half).abs().max())
            cascade = 0 if reach <= 1 else 1 if reach <= 2 else 2
            cell = ((point - centre) / (2 * half * 2**cascade) + 0.5) * 16
            x, y, z = (min(max(math.floor(value), 0), 15) for value in cell.tolist())
            if bool(occupied[cascade, z, y, x]):
                found.append((ray, middle))
            t += min(max(t * 0.03, 0.04), 0.11)
    rays = torch.tensor([ray for ray, _ in found])
    middles = torch.tensor([middle for _, middle in found], dtype=torch.float64)
    ours = torch.bincount(samples.ray_index.long(), minlength=12)
    theirs = torch.bincount(rays, minlength=12)
    # t_enter is found to 1e-4 only and steps near the breaks of the rule are a mixture: a few samples may differ.
    assert (ours - theirs).abs().max() <= 3
    assert abs(len(samples) - len(found)) <= 0.02 * len(found)
    mid = 0.5 * (samples.t_start + samples.t_end)
    assert float(mid.mean()) == pytest.approx(float(middles.mean()), rel=0.02)


def test_positions_are_in_the_unit_cube_of_the_outermost_box():
    occupied, step = random_occupancy(16, 3, 0.5), StepRule(min_step=0.1)
    origins, directions, jitter = random_rays(40, reach=2.0)
    samples = march_grid(
        origins, directions, pack_occupancy(occupied), BOX, step=step, jitter=jitter, implementation="reference"
    )
    low, high = cascade_box(BOX, 2)
    ray = samples.ray_index.long()
    world = origins[ray] + directions[ray] * (0.5 * (samples.t_start + samples.t_end))[:, None]
    torch.testing.assert_close(low + samples.positions * (high - low), world, rtol=0, atol=1e-4)
    assert samples.positions.min() >= -1e-5
    assert samples.positions.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "step",
    [
        StepRule(min_step=0.1),
        StepRule(min_step=0.1, cone_angle=0.02),
        StepRule(min_step=0.1, cone_angle=0.02, max_step=0.4),
        StepRule(min_step=0.1, cone_angle=0.02, max_step=0.1),
    ],
)
def test_stepping_space(step):
    t = torch.linspace(0, 60, 500, dtype=torch.float64)
    steps = step.to_steps(t)
    torch.testing.assert_close(step.to_distance(steps), t)
    assert (steps.diff() > 0).all()
    # One unit of s is the step of the rule, except in the unit that holds a break.
    length = step.to_distance(steps + 1) - t
    wanted = step.step_at(t)
    clear = torch.ones_like(t, dtype=torch.bool)
    for edge in step.break_steps:
        clear &= (steps > edge) | (steps + 1 < edge)
    torch.testing.assert_close(length[clear], wanted[clear])
    assert clear.sum() > 480


@pytest.mark.parametrize(("resolution", "cascades"), [(16, 1), (16, 3), (32, 2), (64, 1)])
def test_occupancy_packing(resolution, cascades):
    occupied = random_occupancy(resolution, cascades, 0.01)
    occupancy = pack_occupancy(occupied)
    assert torch.equal(unpack_occupancy(occupancy), occupied)
    for level, factor in ((1, 4), (2, 16)):
        blocks = resolution // factor
        expected = torch.zeros(cascades, blocks, blocks, blocks, dtype=torch.bool)
        for cascade, z, y, x in occupied.nonzero().tolist():
            expected[cascade, z // factor, y // factor, x // factor] = True
        assert torch.equal(unpack_occupancy(occupancy, level), expected)


def test_occupancy_bit_order():
    occupied = torch.zeros(2, 16, 16, 16, dtype=torch.bool)
    occupied[1, 2, 1, 9] = True  # bit 9 + 1*16 + 2*256 = 537 of cascade 1
    bits = pack_occupancy(occupied).bits
    assert bits.nonzero()[:, 0].tolist() == [512 + 537 // 8, 1024 + 8 + (2 + 0 * 4 + 0 * 16) // 8, 1040 + 1]
    assert bits[512 + 67] == 1 << 537 % 8
    assert bits[1032] == 1 << 2
    assert bits[1041] == 1


def test_errors_teach():
    occupancy = pack_occupancy(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    origins, directions, jitter = random_rays(4)
    good = {"step": StepRule(min_step=0.1)}
    for arguments, options, message in (
        ((origins[0], directions), {}, r"origins: expected shape \(R, 3\)"),
        ((origins, directions[:3]), {}, r"directions: expected shape \(4, 3\), got \(3, 3\)"),
        ((origins, directions), {"jitter": jitter[:2]}, r"jitter: expected shape \(4\), got \(2,\)"),
        ((origins, directions), {"near": -1.0}, "near: expected a value at least 0, got -1"),
        ((origins, directions), {"near": 2.0, "far": 1.0}, "far: expected a value above near, 2, got 1"),
        ((origins, directions), {"max_samples": 0}, "max_samples: expected a value at least 1, got 0"),
        ((origins, directions.double()), {}, "directions: expected dtype torch.float32, got torch.float64"),
    ):
        with pytest.raises(InputError, match=message):
            march_grid(*arguments, occupancy, BOX, **good, **options)
    for fields, message in (
        ({"min_step": 0.0}, "min_step: expected a value above 0"),
        ({"min_step": 0.1, "cone_angle": -1.0}, "cone_angle: expected a value at least 0"),
        ({"min_step": 0.1, "max_step": 0.01}, "max_step: expected a value at least 0.1"),
    ):
        with pytest.raises(InputError, match=message):
            StepRule(**fields)
    with pytest.raises(InputError, match="resolution: expected a power of two, got 24"):
        pack_occupancy(torch.ones(1, 24, 24, 24, dtype=torch.bool))
    with pytest.raises(InputError, match=r"bits: expected shape \(521\), got \(520,\)"):
        OccupancyBits(bits=occupancy.bits[:-1], resolution=16, num_cascades=1)
