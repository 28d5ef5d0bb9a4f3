"""Kernels beside fork, beside threads, and beside an import that should stay quick."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from voxfield.kernels.composite import composite
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.march_grid import StepRule, march_grid, pack_occupancy

GRID = HashGrid(num_levels=4, features=2, log2_table_size=10, base_resolution=4, max_resolution=32)


def render(seed: int, *, backward: bool = True) -> list[torch.Tensor]:
    """March, encode and composite some 100,000 samples, and back: enough work to be split over threads."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.tensor([[0.5, 0.5, -1.0]]).repeat(3000, 1)
    directions = torch.randn(3000, 3, generator=generator) * 0.2 + torch.tensor([0.0, 0, 1])
    directions = torch.nn.functional.normalize(directions, dim=1)
    occupancy = pack_occupancy(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    box = torch.tensor([[0.0, 0, 0], [1.0, 1, 1]])
    samples = march_grid(origins, directions, occupancy, box, step=StepRule(min_step=1 / 40))
    table = torch.randn(GRID.num_entries, 2, generator=generator).requires_grad_()
    features = hash_encode(samples.positions, table, GRID)
    result = composite(features[:, 0].exp(), features[:, 1:4], samples.t_start, samples.t_end, samples.ray_offsets)
    if not backward:
        return [result.rgb.detach(), result.depth.detach()]
    (result.rgb.square().sum() + result.opacity.sum()).backward()
    return [result.rgb.detach(), result.depth.detach(), table.grad]


@pytest.fixture
def _four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def _in_child(connection, seed, backward):
    try:
        torch.set_num_threads(2)
        connection.send([tensor.numpy() for tensor in render(seed, backward=backward)])
    finally:
        connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("what", ["forward", "backward"])
def test_a_forked_worker_after_use_in_the_parent(what):
    """Data loaders fork by default on Linux; Numba's own thread pool crashes in such a child.

    In a process of its own: earlier tests have started torch's OpenMP pool, which no fork survives, whatever we do.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, what], capture_output=True, text=True, timeout=110, check=False
    )
    if what == "backward" and "Autograd-and-Fork" in done.stderr:
        pytest.skip("torch itself refuses backward in a forked child once its own threads have run, as 2.14 does")
    assert done.returncode == 0, done.stderr


def _fork_after_use(backward):
    torch.set_num_threads(1)  # torch's own OpenMP pool does not survive a fork either; ours, below, has to
    expected = render(0, backward=backward)
    torch.set_num_threads(4)
    threads = [threading.Thread(target=render, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(sender, 0, backward), daemon=True)
    child.start()
    sender.close()
    assert receiver.poll(60), "the child hangs"
    actual = receiver.recv()
    child.join(10)
    assert child.exitcode == 0
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_four_threads")
def test_python_threads_call_kernels_at_once():
    """A viewer renders while training runs; Numba's workqueue layer aborts the process there."""
    expected = [render(seed) for seed in range(4)]
    results: dict[tuple[int, int], list[torch.Tensor]] = {}

    def work(seed: int) -> None:
        for repeat in range(3):
            results[seed, repeat] = render(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 12
    for (seed, _), actual in results.items():
        for ours, theirs in zip(actual, expected[seed], strict=True):
            assert torch.equal(ours, theirs)


def test_the_result_does_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(0)
        torch.set_num_threads(3)
        three = render(0)
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(three, one, strict=True):
        assert torch.equal(ours, theirs)


def test_importing_loads_no_compiler():
    program = """
        import sys
        import voxfield
        import voxfield.kernels.composite, voxfield.kernels.hash_encode, voxfield.kernels.march_grid
        import voxfield.kernels.ray_box, voxfield.kernels.spherical_harmonics, voxfield.kernels.dense_composite
        import voxfield.kernels.distortion, voxfield.kernels.interlevel, voxfield.kernels.pdf_resample
        heavy = {"numba", "llvmlite", "triton", "torch._dynamo", "torch._inductor"} & set(sys.modules)
        sys.exit(f"loaded: {heavy}" if heavy else 0)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


if __name__ == "__main__":
    _fork_after_use(backward=sys.argv[1] == "backward")
