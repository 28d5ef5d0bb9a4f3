"""Every Triton kernel compiles for GPUs, on machines without one.

The interpreter runs kernels as Python and so accepts what the compiler refuses (a variable that changes its type in a
loop, a method call on an argument that happens to be 1 and is therefore a constant). Here the launchers run with
kernels that compile what they are given, specialised as a launch would be, instead of running it.
"""

import ast
import importlib
import inspect
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is installed on Linux only")

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="under the interpreter kernels are plain functions"
)

TARGETS = {"cuda": ("cuda", 90, 32), "rocm": ("hip", "gfx942", 64)}
_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


class CompileOnly:
    """Stands in for a kernel: a launch compiles it for ``target`` and leaves the outputs as they are."""

    def __init__(self, kernel: Any, target: Any, compiled: list[str], on_launch: Callable[[dict[str, Any]], None]):
        self.kernel, self.target, self.compiled, self.on_launch = kernel, target, compiled, on_launch

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.compile

    def compile(self, *arguments: Any, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in keywords}
        bound = inspect.signature(self.kernel.fn).bind(*arguments, **keywords).arguments
        signature, constants = {}, {}
        for parameter in self.kernel.params:
            value = bound[parameter.name]
            # As a launch does: constants, and integers that are 1, are compiled in.
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = _POINTERS[value.dtype]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        source = triton.compiler.ASTSource(self.kernel, signature, constants)
        triton.compile(source, target=self.target, options=options)
        self.compiled.append(self.kernel.fn.__name__)
        self.on_launch(bound)


def launched(source: str) -> set[str]:
    """Names of what the source launches, ``_forward[grid](...)``: kernels, and no functions that kernels call."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        called.value.id for called in calls if isinstance(called, ast.Subscript) and isinstance(called.value, ast.Name)
    }


@pytest.fixture(autouse=True)
def _cache_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def compile_kernels_of(request, monkeypatch):
    """Make a backend's launchers compile; returns (module, names of the kernels compiled so far)."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    def prepare(op: str, on_launch: Callable[[dict[str, Any]], None] = lambda bound: None) -> tuple[Any, list[str]]:
        module = importlib.import_module(f"voxfield.kernels.{op}.triton_gpu")
        compiled: list[str] = []
        for name in launched(inspect.getsource(module)):
            kernel = getattr(module, name, None)
            if isinstance(kernel, JITFunction):
                monkeypatch.setattr(module, name, CompileOnly(kernel, GPUTarget(*request.param), compiled, on_launch))
        return module, compiled

    return prepare


@pytest.mark.parametrize(("count", "smoothstep"), [(1, False), (1000, True)])
def test_hash_encode(compile_kernels_of, count, smoothstep):
    from voxfield.kernels.hash_encode import HashGrid

    module, compiled = compile_kernels_of("hash_encode")
    grid = HashGrid(num_levels=3 if smoothstep else 1, features=1 if smoothstep else 4, smoothstep=smoothstep)
    positions = torch.zeros(count, 3, requires_grad=True)
    table = torch.zeros(grid.num_entries, grid.features, requires_grad=True)
    module.hash_encode(positions, table, grid).backward(torch.zeros(count, grid.num_outputs))
    assert compiled == ["_forward", "_backward_table", "_backward_positions"]


def test_spherical_harmonics(compile_kernels_of):
    module, compiled = compile_kernels_of("spherical_harmonics")
    module.spherical_harmonics(torch.zeros(9, 3, requires_grad=True), 4).sum().backward()
    assert compiled == ["_forward", "_backward"]


@pytest.mark.parametrize(("rays", "channels"), [(1, 1), (5, 3)])
def test_composite(compile_kernels_of, rays, channels):
    module, compiled = compile_kernels_of("composite")
    density = torch.zeros(2 * rays, requires_grad=True)
    colour, t = torch.zeros(2 * rays, channels, requires_grad=True), torch.zeros(2 * rays)
    outputs = module.composite(density, colour, t, t, torch.arange(rays + 1) * 2, 1e-4)
    torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
    assert compiled == ["_forward", "_backward"]


@pytest.mark.parametrize(("rays", "samples", "channels"), [(1, 1, 1), (5, 40, 3)])
def test_dense_composite(compile_kernels_of, rays, samples, channels):
    module, compiled = compile_kernels_of("dense_composite")
    density, edges = torch.zeros(rays, samples, requires_grad=True), torch.zeros(rays, samples + 1)
    colour = torch.zeros(rays, samples, channels, requires_grad=True)
    outputs = module.dense_composite(density, colour, edges)
    torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
    module.dense_weights(density, edges).sum().backward()
    assert compiled == ["_forward", "_backward"] * 2


@pytest.mark.parametrize("samples", [1, 40])
def test_losses_on_weights(compile_kernels_of, samples):
    edges, weights = torch.zeros(3, samples + 1), torch.zeros(3, samples, requires_grad=True)
    module, compiled = compile_kernels_of("distortion")
    module.distortion_loss(edges, weights).sum().backward()
    assert compiled == ["_forward", "_backward"]
    module, compiled = compile_kernels_of("interlevel")
    module.interlevel_loss(edges, weights.detach(), edges, weights, 1e-7).sum().backward()
    assert compiled == ["_forward", "_backward"]


@pytest.mark.parametrize("shape", [(1,), (5, 3, 9)])
@pytest.mark.parametrize("kind", ["sgd", "rmsprop", "adam"])
def test_row_update(compile_kernels_of, kind, shape):
    from voxfield.kernels.row_update import RowRule

    module, compiled = compile_kernels_of("row_update")
    rule, touched = RowRule(kind=kind), torch.ones(shape[0], dtype=torch.uint8)
    moments = tuple(torch.zeros(shape) for _ in range(rule.moments))
    module.row_update(torch.zeros(shape), torch.zeros(shape), moments, touched, 1, rule)
    assert compiled == ["_update"]


@pytest.mark.parametrize(("rays", "spheres"), [(1, 1), (40, 5)])
def test_sphere_layers(compile_kernels_of, rays, spheres):
    from voxfield.kernels.sphere_layers import LayerValues

    module, compiled = compile_kernels_of("sphere_layers")
    links = torch.arange(spheres * 8, dtype=torch.int32).reshape(spheres, 2, 4)
    density, rgb = torch.zeros(links.numel(), requires_grad=True), torch.zeros(links.numel(), 3, requires_grad=True)
    layers = LayerValues(links=links, density=density, rgb=rgb)
    outputs = module.render(torch.zeros(rays, 3), torch.ones(rays, 3), layers, 0.0, None)
    torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
    assert compiled == ["_forward", "_backward"]


@pytest.mark.parametrize(("rays", "degree"), [(1, 0), (40, 2)])
def test_sh_grid(compile_kernels_of, rays, degree):
    from voxfield.kernels.sh_grid import MarchRule, ShGrid, link_grid

    def one_sample_a_ray(bound: dict[str, Any]) -> None:
        if "counts" in bound:
            bound["counts"].fill_(1)  # so that the writing pass is launched too

    module, compiled = compile_kernels_of("sh_grid", one_sample_a_ray)
    links = link_grid(torch.arange(60, dtype=torch.int32).reshape(3, 4, 5), 60)
    density, sh = torch.zeros(60, requires_grad=True), torch.zeros(60, 3, (degree + 1) ** 2, requires_grad=True)
    grid = ShGrid(links=links, density=density, sh=sh, box=torch.tensor([[0.0, 0, 0], [1, 1, 1]]))
    origins, jitter = torch.zeros(rays, 3), torch.zeros(rays)
    basis = torch.zeros(rays, (degree + 1) ** 2)
    outputs = module.render(origins, origins, basis, grid, MarchRule(), jitter, 0.0, None)
    torch.autograd.backward(outputs[:4], [torch.zeros_like(output) for output in outputs[:4]])
    assert compiled == ["_forward", "_backward"]
    module.march(origins, origins, grid, MarchRule(), jitter, 0.0)
    module.greatest_weights(origins, origins, grid, MarchRule(), jitter, 0.0, torch.zeros(60))
    module.sample(origins, grid)
    assert compiled[2:] == ["_walk", "_walk", "_walk", "_sample"]


@pytest.mark.parametrize("resolution", [1, 5])
def test_voxels_of_shapes(compile_kernels_of, resolution):
    from voxfield.kernels.voxel_words import word_count

    triangles = torch.tensor([[[0.5, 0.5, 0.5], [4.5, 0.5, 0.5], [0.5, 4.5, 4.5]]], dtype=torch.float64)
    module, compiled = compile_kernels_of("triangle_box")
    module.triangle_box(triangles, resolution)
    assert compiled == ["_mark"]
    module, compiled = compile_kernels_of("scan_fill")
    for inside in ("parity", "winding"):
        module.scan_fill(triangles, resolution, inside)
    assert compiled == ["_cross", "_fill"] * 2
    module, compiled = compile_kernels_of("traverse_voxels")
    rays = torch.zeros(resolution, 3, dtype=torch.float64)
    words = torch.zeros(word_count(resolution), dtype=torch.int64)
    for first_hit_only in (False, True):
        module.traverse_voxels(rays, rays, words, resolution, first_hit_only)
    assert compiled == ["_follow"] * 2


@pytest.mark.parametrize(("channels", "start", "count"), [((), 0, 1), ((3, 9), 1, 30)])
def test_total_variation(compile_kernels_of, channels, start, count):
    from voxfield.kernels.sh_grid import link_grid
    from voxfield.kernels.total_variation import CellRange

    module, compiled = compile_kernels_of("total_variation")
    links = link_grid(torch.arange(60, dtype=torch.int32).reshape(3, 4, 5), 60)
    values = torch.zeros(60, *channels, requires_grad=True)
    module.total_variation(values, links, CellRange(start=start, count=count), None, None).backward()
    assert compiled == ["_forward", "_backward"]


@pytest.mark.parametrize(("samples", "new"), [(1, 1), (40, 50)])
def test_pdf_resample(compile_kernels_of, samples, new):
    module, compiled = compile_kernels_of("pdf_resample")
    for jitters in (1, new + 1):
        tensors = torch.zeros(3, samples + 1), torch.zeros(3, samples), new, torch.zeros(3, jitters)
        module.pdf_resample(*tensors, 0.01, 1e-5)
    assert compiled == ["_resample"] * 2


def test_ray_box(compile_kernels_of):
    module, compiled = compile_kernels_of("ray_box")
    module.ray_box(torch.zeros(7, 3), torch.ones(7, 3), torch.zeros(2, 3))
    assert compiled == ["_slabs"]


def test_chamfer(compile_kernels_of):
    module, compiled = compile_kernels_of("chamfer")
    module.chamfer_distances(torch.zeros(2, 7, 3), torch.zeros(1, 16, 3))
    assert compiled == ["_one_way"] * 2


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1, 1)), (300, (4, 5, 6))])
def test_scatter_points(compile_kernels_of, count, shape):
    module, compiled = compile_kernels_of("scatter_points")
    cases = (("gaussian", True), ("density", False), ("trilinear", False))
    for dtype, (method, compatible) in itertools.product((torch.float32, torch.float64), cases):
        box = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        sigma = (1.0, 0.0, 0.3) if method == "gaussian" else (0.0, 0.0, 0.0)
        module.scatter_points(torch.zeros(count, 3, dtype=dtype), shape, *box, method, sigma, compatible, compatible)
    assert compiled == ["_scatter", "_blur", "_blur", "_scatter", "_scatter"] * 2


@pytest.mark.parametrize(
    ("rays", "cascades", "rule"),
    [(1, 1, {}), (40, 3, {"cone_angle": 0.01}), (40, 2, {"cone_angle": 0.01, "max_step": 1.0})],
    ids=["one ray", "growing steps", "capped steps"],
)
def test_march_grid(compile_kernels_of, monkeypatch, rays, cascades, rule):
    from voxfield.kernels.march_grid import StepRule, pack_occupancy
    from voxfield.kernels.ray_box import reference

    def one_sample_a_ray(bound: dict[str, Any]) -> None:
        bound["counts"].fill_(1)  # so that the writing pass is launched too

    module, compiled = compile_kernels_of("march_grid", one_sample_a_ray)
    monkeypatch.setattr(module, "ray_box", reference.ray_box)
    occupancy = pack_occupancy(torch.ones(cascades, 16, 16, 16, dtype=torch.bool))
    origins, directions = torch.zeros(rays, 3), torch.eye(3)[[0]].expand(rays, 3)
    box = torch.tensor([[-1.0, -1, -1], [1.0, 1, 1]])
    step = StepRule(min_step=0.1, **rule)
    module.march_grid(origins, directions, occupancy, box, step, None, 0.0, 10.0, 1 if rays == 1 else 1024)
    assert compiled == ["_march", "_march"]
