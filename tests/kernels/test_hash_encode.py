import itertools
import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.hash_encode.reference import vertex_rows

IMPLEMENTATIONS = ["numba", "triton"]
SMALL = HashGrid(num_levels=3, features=2, log2_table_size=9, base_resolution=3, max_resolution=40)
ONE_LEVEL = HashGrid(num_levels=1, features=4, log2_table_size=12, base_resolution=7, max_resolution=7)
GRIDS = {
    "dense and hashed": SMALL,
    "one dense level": ONE_LEVEL,
    "one hashed level": HashGrid(num_levels=1, features=2, log2_table_size=5, base_resolution=30, max_resolution=30),
    "one feature": HashGrid(num_levels=3, features=1, log2_table_size=8, base_resolution=2, max_resolution=50),
    "eight features": HashGrid(num_levels=2, features=8, log2_table_size=7, base_resolution=4, max_resolution=2048),
    "smoothstep": HashGrid(
        num_levels=4, features=2, log2_table_size=9, base_resolution=3, max_resolution=40, smoothstep=True
    ),
    "one cell": HashGrid(num_levels=1, features=2, log2_table_size=4, base_resolution=1, max_resolution=1),
}


def tolerance(grid: HashGrid) -> dict[str, float]:
    """Of the encoding, for features of order 1."""
    return {"rtol": 1e-5, "atol": 1e-6 * max(grid.resolutions)}


def gradient_tolerance(grid: HashGrid) -> dict[str, float]:
    """Of the gradient to positions, which is a difference of features times the resolution."""
    return {"rtol": 1e-4, "atol": 2e-6 * max(grid.resolutions) ** 2}


def random_problem(grid: HashGrid, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions (some outside the cube, none near a face of a cell), table and output gradient, exact in float32."""
    generator = torch.Generator().manual_seed(count + grid.num_levels)
    positions = torch.rand(4 * count + 40, 3, generator=generator) * 1.2 - 0.1
    for resolution in grid.resolutions:
        to_face = (positions * resolution - (positions * resolution).round()).abs()
        # Coordinates outside the cube are clamped onto a face, on purpose.
        inside = (positions > 0) & (positions < 1)
        positions = positions[((to_face > 1e-3) | ~inside).all(1)]
    positions = positions[:count]
    assert len(positions) == count
    table = torch.randn(grid.num_entries, grid.features, generator=generator)
    grad = torch.randn(count, grid.num_outputs, generator=generator)
    return positions, table, grad


def evaluate(positions, table, grad, grid, implementation, *, device="cpu", dtype=torch.float32):
    """Encoding, gradient to the positions and to the table, as float64 on the CPU."""
    positions = positions.to(device, dtype).detach().requires_grad_()
    table = table.to(device, dtype).detach().requires_grad_()
    encoded = hash_encode(positions, table, grid, implementation=implementation)
    found = torch.autograd.grad(encoded, (positions, table), grad.to(device, dtype))
    return [tensor.detach().cpu().double() for tensor in (encoded, *found)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("count", [1, 67])
def test_matches_the_reference(implementation, grid, count, device):
    problem = random_problem(grid, count)
    actual = evaluate(*problem, grid, implementation, device=device)
    expected = evaluate(*problem, grid, "reference", dtype=torch.float64)
    torch.testing.assert_close(actual[0], expected[0], **tolerance(grid))
    torch.testing.assert_close(actual[1], expected[1], **gradient_tolerance(grid))
    torch.testing.assert_close(actual[2], expected[2], **tolerance(grid))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_more_points_than_a_block(implementation, device):
    problem = random_problem(SMALL, 301)
    actual = evaluate(*problem, SMALL, implementation, device=device)
    expected = evaluate(*problem, SMALL, "reference", dtype=torch.float64)
    torch.testing.assert_close(actual[0], expected[0], **tolerance(SMALL))
    torch.testing.assert_close(actual[1], expected[1], **gradient_tolerance(SMALL))
    # A row of the table meets up to some 50 points.
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_points(implementation, device):
    encoded, grad_positions, grad_table = evaluate(*random_problem(SMALL, 0), SMALL, implementation, device=device)
    assert encoded.shape == (0, SMALL.num_outputs)
    assert grad_positions.shape == (0, 3)
    assert grad_table.eq(0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    positions, table, grad = (tensor.to(device) for tensor in random_problem(SMALL, 67))
    plain = evaluate(positions, table, grad, SMALL, implementation, device=device)
    strided = (
        positions.T.contiguous().T,
        table.T.contiguous().T,
        torch.stack([grad, grad], dim=2)[..., 0],
    )
    assert not any(tensor.is_contiguous() for tensor in strided)
    for variant in (strided, (positions, table, grad.T.contiguous().T)):
        for actual, expected in zip(evaluate(*variant, SMALL, implementation, device=device), plain, strict=True):
            # Table gradients are sums whose order a GPU does not fix.
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_only_the_gradients_asked_for(implementation, device):
    positions, table, grad = (tensor.to(device) for tensor in random_problem(SMALL, 20))
    _, both_positions, both_table = evaluate(positions, table, grad, SMALL, implementation, device=device)
    leaf = table.clone().requires_grad_()
    hash_encode(positions, leaf, SMALL, implementation=implementation).backward(grad)
    torch.testing.assert_close(leaf.grad.cpu().double(), both_table, rtol=1e-5, atol=1e-6)
    leaf = positions.clone().requires_grad_()
    hash_encode(leaf, table, SMALL, implementation=implementation).backward(grad)
    torch.testing.assert_close(leaf.grad.cpu().double(), both_positions)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_table_gradient_added_to_a_buffer(implementation, device):
    positions, table, grad = (tensor.to(device) for tensor in random_problem(SMALL, 20))
    _, _, expected = evaluate(positions, table, grad, SMALL, implementation, device=device)
    leaf = table.clone().requires_grad_()
    buffer = torch.full_like(table, 0.5)
    for _ in range(2):
        hash_encode(positions, leaf, SMALL, table_grad=buffer, implementation=implementation).backward(grad)
    assert leaf.grad is None
    torch.testing.assert_close(buffer.cpu().double(), 0.5 + 2 * expected, rtol=1e-5, atol=1e-5)
    hash_encode(positions, table, SMALL, table_grad=buffer, implementation=implementation)
    torch.testing.assert_close(buffer.cpu().double(), 0.5 + 2 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_broadcast_gradient(implementation, device):
    positions, table, _ = random_problem(SMALL, 20)
    ones = torch.ones(()).expand(20, SMALL.num_outputs)
    actual = evaluate(positions, table, ones, SMALL, implementation, device=device)
    expected = evaluate(positions, table, ones, SMALL, "reference", dtype=torch.float64)
    torch.testing.assert_close(actual[2], expected[2], **tolerance(SMALL))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("smoothstep", [False, True])
def test_vertices_are_interpolated_exactly(implementation, smoothstep, device):
    grid = HashGrid(
        num_levels=3, features=2, log2_table_size=8, base_resolution=2, max_resolution=8, smoothstep=smoothstep
    )
    assert grid.resolutions == (2, 4, 8)
    assert grid.dense == (True, True, False)
    table = torch.randn(grid.num_entries, 2)
    for level, resolution in enumerate(grid.resolutions):
        vertices = torch.tensor(list(itertools.product(range(resolution + 1), repeat=3)))
        positions = vertices / resolution  # exact: the resolution is a power of two
        encoded = hash_encode(positions.to(device), table.to(device), grid, implementation=implementation).cpu()
        assert torch.equal(encoded[:, 2 * level : 2 * level + 2], table[vertex_rows(vertices, grid, level)])


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_outside_the_cube_is_its_border_with_no_gradient(implementation, device):
    _, table, _ = random_problem(SMALL, 1)
    outside = torch.tensor([[-0.5, 0.3, 0.7], [0.2, 7.0, 0.4], [-math.inf, 0.5, math.inf]], device=device)
    border = outside.clamp(0, 1)
    table = table.to(device)
    positions = outside.clone().requires_grad_()
    encoded = hash_encode(positions, table, SMALL, implementation=implementation)
    expected = hash_encode(border, table, SMALL, implementation=implementation)
    assert torch.equal(encoded, expected)
    encoded.sum().backward()
    assert ((positions.grad == 0) == ((outside < 0) | (outside > 1))).all()


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_the_upper_face_has_the_gradient_of_the_last_cell(implementation, device):
    # Vertices of a one-level grid hold their own x coordinate: the interpolant is x itself, its gradient 1.
    resolution = ONE_LEVEL.resolutions[0]
    vertices = torch.tensor(list(itertools.product(range(resolution + 1), repeat=3)))
    table = torch.zeros(ONE_LEVEL.num_entries, 4)
    table[vertex_rows(vertices, ONE_LEVEL, 0)] = (vertices[:, :1] / resolution).expand(-1, 4)
    positions = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.31, 1.0, 0.0]], device=device).requires_grad_()
    encoded = hash_encode(positions, table.to(device), ONE_LEVEL, implementation=implementation)
    torch.testing.assert_close(encoded[:, 0], positions[:, 0], rtol=0, atol=1e-6)
    encoded[:, 0].sum().backward()
    expected = torch.tensor([[1.0, 0.0, 0.0]] * 3, device=device)
    torch.testing.assert_close(positions.grad, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, under Triton's interpreter
@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_nan_positions_do_no_harm(implementation, device):
    positions, table, _ = (tensor.to(device) for tensor in random_problem(SMALL, 40))
    broken = positions.clone()
    broken[7] = math.nan
    broken[8, 1] = math.nan
    encoded = hash_encode(broken, table, SMALL, implementation=implementation)
    whole = torch.ones(40, dtype=torch.bool)
    whole[7:9] = False
    expected = hash_encode(positions, table, SMALL, implementation=implementation)
    assert torch.equal(encoded[whole], expected[whole])


def test_hashed_rows_are_those_of_32_bit_arithmetic():
    grid = HashGrid(num_levels=1, log2_table_size=14, base_resolution=2048, max_resolution=2048)
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randint(0, 2049, (200, 3), generator=generator)
    for (x, y, z), row in zip(vertices.tolist(), vertex_rows(vertices, grid, 0).tolist(), strict=True):
        hashed = x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
        assert row == hashed % 2**14


def test_dense_vertices_have_rows_of_their_own():
    vertices = torch.tensor(list(itertools.product(range(SMALL.resolutions[0] + 1), repeat=3)))
    rows = vertex_rows(vertices, SMALL, 0)
    assert sorted(rows.tolist()) == list(range(len(vertices)))
    # x runs fastest.
    assert vertex_rows(torch.tensor([[1, 0, 0]]), SMALL, 0).item() == 1


def test_reference_is_linear_inside_a_cell():
    """Trilinear interpolation reproduces every function a + bx + cy + dz exactly."""
    grid = HashGrid(num_levels=2, features=1, log2_table_size=12, base_resolution=5, max_resolution=9)
    coefficients = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    table = torch.zeros(grid.num_entries, 1, dtype=torch.float64)
    for level, resolution in enumerate(grid.resolutions):
        vertices = torch.tensor(list(itertools.product(range(resolution + 1), repeat=3)))
        table[vertex_rows(vertices, grid, level), 0] = vertices.double() / resolution @ coefficients + 0.1
    positions = torch.rand(50, 3, dtype=torch.float64)
    encoded = hash_encode(positions, table, grid, implementation="reference")
    torch.testing.assert_close(encoded, (positions @ coefficients + 0.1)[:, None].expand(-1, 2))


@pytest.mark.parametrize("smoothstep", [False, True])
def test_reference_gradient_by_finite_differences(smoothstep):
    grid = HashGrid(
        num_levels=3, features=2, log2_table_size=6, base_resolution=2, max_resolution=9, smoothstep=smoothstep
    )
    positions, table, _ = random_problem(grid, 6)
    inputs = positions.double().requires_grad_(), table.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: hash_encode(p, t, grid, implementation="reference"), inputs)


def test_smoothstep_gradient_is_continuous_across_faces():
    grid = HashGrid(num_levels=1, features=1, log2_table_size=10, base_resolution=8, max_resolution=8, smoothstep=True)
    table = torch.randn(grid.num_entries, 1, dtype=torch.float64)
    below, above = (torch.tensor([[0.5 + e, 0.3, 0.6]], dtype=torch.float64).requires_grad_() for e in (-1e-9, 1e-9))
    for positions in (below, above):
        hash_encode(positions, table, grid, implementation="reference").sum().backward()
    torch.testing.assert_close(below.grad, above.grad, rtol=0, atol=1e-5)


def test_default_grid_is_instant_ngps():
    grid = HashGrid()
    assert (grid.resolutions[0], grid.resolutions[-1]) == (16, 2048)
    assert grid.growth == pytest.approx(1.3819, abs=1e-4)
    assert grid.dense == (True,) * 5 + (False,) * 11  # 58**3 vertices fit 2**19 entries, 81**3 do not
    assert grid.num_entries == grid.offsets[-1] == sum(grid.entries)
    assert all(offset % 8 == 0 for offset in grid.offsets)
    assert grid.entries[0] == 4920  # 17**3 = 4913, rounded up


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 3}, "features: unknown value 3"),
        ({"num_levels": 0}, "num_levels: expected a value at least 1 and at most 32, got 0"),
        ({"max_resolution": 8}, "max_resolution: expected a value at least 16 and at most 65535, got 8"),
        ({"log2_table_size": 40}, "log2_table_size: expected a value at least 4 and at most 28, got 40"),
    ],
)
def test_grid_errors_teach(fields, message):
    with pytest.raises(InputError, match=message):
        HashGrid(**fields)


@pytest.mark.parametrize(
    ("positions", "table", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(SMALL.num_entries, 2), r"positions: expected shape \(N, 3\), got \(4, 2\)"),
        (torch.zeros(4, 3), torch.zeros(7, 2), rf"table: expected shape \({SMALL.num_entries}, 2\), got \(7, 2\)"),
        (
            torch.zeros(4, 3),
            torch.zeros(SMALL.num_entries, 2).double(),
            "table: expected the dtype of positions, torch.float32, got torch.float64",
        ),
    ],
)
def test_errors_teach(positions, table, message):
    with pytest.raises(InputError, match=message):
        hash_encode(positions, table, SMALL)


def test_errors_about_buffers_teach():
    positions, table, _ = random_problem(SMALL, 4)
    wrong = {
        "table_grad: expected a contiguous tensor of the table's dtype": {"table_grad": table.T.contiguous().T},
        rf"table_grad: expected shape \({SMALL.num_entries}, 2\)": {"table_grad": table[1:]},
    }
    for message, arguments in wrong.items():
        with pytest.raises(InputError, match=message):
            hash_encode(positions, table, SMALL, **arguments)
