"""What the kernel benchmark measures: every operation at a training step's sizes, beside what plain torch does.

Points lie in ray order, 4,096 rays of 64 samples, as marching makes them: neighbours in memory are neighbours in space,
which caches notice.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

RAYS, SAMPLES = 4096, 64
POINTS = RAYS * SAMPLES
TABLE_SIZES = (19, 17, 15)
MLP_WIDTHS = (32, 64, 64, 4)
CHUNK = 8192
"""Rows that a chunked torch network takes at a time: its activations then stay in the second-level cache."""


class Prepared(NamedTuple):
    """A call to measure, and what must be done before each without being measured."""

    call: Callable[[], Any]
    before: Callable[[], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure."""

    op: str
    """The kernel's folder; its tests run first."""
    case: str
    """What is done, at which size."""
    variant: str
    """Whose code: ``voxfield`` or a way to do it in torch."""
    unit: str
    """What is counted."""
    count: int
    """How many of them a call does."""
    prepare: Callable[[], Prepared]
    """Makes the inputs."""
    own_cores: bool = True
    """Run as the trainer does: the kernels on all threads, torch's operators on one. False: torch as it comes."""

    def surroundings(self) -> AbstractContextManager[None]:
        """The context to measure in."""
        from voxfield.kernels.threads import kernels_own_the_cores

        return kernels_own_the_cores() if self.own_cores else nullcontext()


def cases() -> Iterator[Case]:
    """All of them, operation by operation."""
    yield from _hash_encode()
    yield from _fused_mlp()
    yield from _composite()
    yield from _dense_composite()
    yield from _pdf_resample()
    yield from _losses_on_weights()
    yield from _march_grid()
    yield from _sample_runs()
    yield from _spherical_harmonics()
    yield from _ray_box()
    yield from _interval_points()
    yield from _adam()
    yield from _sh_grid()
    yield from _sphere_layers()
    yield from _row_update()
    yield from _total_variation()
    yield from _voxelise()
    yield from _traverse_voxels()
    yield from _cube_symmetry()
    yield from _block_code()
    yield from _scatter_points()
    yield from _chamfer()


def ops() -> list[str]:
    """Names of the operations, in order."""
    return list(dict.fromkeys(case.op for case in cases()))


def ray_points(rays: int = RAYS, samples: int = SAMPLES, seed: int = 0) -> torch.Tensor:
    """Midpoints (rays * samples, 3) of equal intervals along random chords of the unit cube, ray after ray.

    Stored coordinate by coordinate, as ``march_grid`` returns them.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(2, rays, 3, generator=generator)
    along = (torch.arange(samples) + 0.5) / samples
    points = ends[0][:, None] + (ends[1] - ends[0])[:, None] * along[None, :, None]
    return points.reshape(-1, 3).T.contiguous().T


def _random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _directions(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(_random(count, 3) - 0.5, dim=-1)


# ------------------------------------------------------------------------------------------------------- hash_encode
def _hash_encode() -> Iterator[Case]:
    for size in TABLE_SIZES:
        for backward in (False, True):
            for variant in ("voxfield", "torch index_select"):
                yield Case(
                    op="hash_encode",
                    case=f"{'backward' if backward else 'forward'}, T = 2^{size}",
                    variant=variant,
                    unit="points",
                    count=POINTS,
                    prepare=lambda size=size, backward=backward, variant=variant: _prepare_hash(
                        size, backward, variant
                    ),
                    own_cores=variant == "voxfield",
                )


def _prepare_hash(log2_table_size: int, backward: bool, variant: str) -> Prepared:
    from voxfield.kernels.hash_encode import HashGrid, hash_encode
    from voxfield.kernels.workspace import huge_zeros

    grid, points = HashGrid(log2_table_size=log2_table_size), ray_points()
    table = huge_zeros(torch.Size((grid.num_entries, grid.features)))
    table.copy_(_random(grid.num_entries, grid.features)).requires_grad_(backward)
    gradient_buffer = huge_zeros(table.shape)

    def forward() -> torch.Tensor:
        if variant == "voxfield":
            return hash_encode(points, table, grid, table_grad=gradient_buffer)
        return hash_encode_index_select(points, table, grid)

    if not backward:
        return Prepared(torch.no_grad()(forward))
    encoded = forward()
    gradient = _random(grid.num_outputs, POINTS).T
    if variant == "voxfield":  # adds to gradient_buffer
        return Prepared(lambda: torch.autograd.backward(encoded, gradient, retain_graph=True))
    return Prepared(lambda: torch.autograd.grad(encoded, table, gradient, retain_graph=True))


def hash_encode_index_select(points: torch.Tensor, table: torch.Tensor, grid: Any) -> torch.Tensor:
    """The encoding as one writes it in torch: for every level and vertex, look up the entries and add them up."""
    from voxfield.kernels.hash_encode.reference import vertex_rows

    levels = []
    for level, resolution in enumerate(grid.resolutions):
        scaled = points * resolution
        cell = scaled.long().clamp(max=resolution - 1)
        weight = scaled - cell
        total: Any = 0.0
        for corner in range(8):
            offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2])
            share = torch.where(offset.bool(), weight, 1 - weight).prod(dim=1, keepdim=True)
            total = total + share * table.index_select(0, vertex_rows(cell + offset, grid, level))
        levels.append(total)
    return torch.cat(levels, dim=1)


# --------------------------------------------------------------------------------------------------------- fused_mlp
def _fused_mlp() -> Iterator[Case]:
    shape = " -> ".join(str(width) for width in MLP_WIDTHS)
    for both in (False, True):
        for variant in MLP_VARIANTS:
            yield Case(
                op="fused_mlp",
                case=f"{shape}, {'forward and backward' if both else 'forward'}",
                variant=variant,
                unit="rows",
                count=POINTS,
                prepare=lambda both=both, variant=variant: _prepare_mlp(both, variant),
                own_cores=variant == "voxfield",
            )


MLP_VARIANTS = {
    "voxfield": (torch.float32, "highest", 0),
    "torch float32, one call": (torch.float32, "highest", POINTS),
    f"torch float32, chunks of {CHUNK}": (torch.float32, "highest", CHUNK),
    f"torch float32 'medium', chunks of {CHUNK}": (torch.float32, "medium", CHUNK),
    f"torch bfloat16, chunks of {CHUNK}": (torch.bfloat16, "highest", CHUNK),
}
"""Variant to the type of numbers, torch's precision of float32 products, and rows a call (0: our kernel)."""


def _prepare_mlp(both: bool, variant: str) -> Prepared:
    from voxfield.kernels.fused_mlp import fused_mlp

    dtype, precision, chunk = MLP_VARIANTS[variant]
    # Each gets its inputs as it likes them: ours feature by feature, torch's row by row.
    inputs = (_random(MLP_WIDTHS[0], POINTS).T if chunk == 0 else _random(POINTS, MLP_WIDTHS[0])).to(dtype)
    weights = [
        ((_random(rows, columns) - 0.5) * (6 / columns) ** 0.5).to(dtype).requires_grad_(both)
        for columns, rows in zip(MLP_WIDTHS[:-1], MLP_WIDTHS[1:], strict=True)
    ]
    inputs.requires_grad_(both)
    gradient = _random(MLP_WIDTHS[-1], POINTS).T.to(dtype)
    parts = inputs.detach().split(chunk) if chunk else ()
    if both:
        parts = tuple(part.clone().requires_grad_() for part in parts)

    def through(part: torch.Tensor, share: torch.Tensor) -> None:
        result = fused_mlp(part, weights, implementation="numba" if chunk == 0 else "reference")
        if both:
            torch.autograd.grad(result, (part, *weights), share)

    def call() -> None:
        held = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            if chunk == 0:
                through(inputs, gradient)
            else:
                for part, share in zip(parts, gradient.split(chunk), strict=True):
                    through(part, share)
        finally:
            torch.set_float32_matmul_precision(held)

    return Prepared(call if both else torch.no_grad()(call))


# ----------------------------------------------------------------------------------------- compositing and its rays
def _both_implementations(
    op: str, case: str, unit: str, count: int, prepare: Callable[..., Prepared]
) -> Iterator[Case]:
    for variant, implementation in (("voxfield", None), ("torch reference", "reference")):
        yield Case(
            op=op,
            case=case,
            variant=variant,
            unit=unit,
            count=count,
            prepare=lambda implementation=implementation: prepare(implementation),
            own_cores=implementation is None,
        )


def _composite() -> Iterator[Case]:
    def prepare(implementation: Any, both: bool) -> Prepared:
        from voxfield.kernels.composite import composite

        density = (20 * _random(POINTS)).requires_grad_(both)
        colour = _random(POINTS, 3).requires_grad_(both)
        offsets = torch.arange(RAYS + 1) * SAMPLES
        start = (torch.arange(POINTS) % SAMPLES) * 0.02
        end = start + 0.02

        def call() -> None:
            seen = composite(density, colour, start, end, offsets, implementation=implementation)
            if both:
                torch.autograd.grad(seen.rgb.sum() + seen.opacity.sum(), (density, colour))

        return Prepared(call if both else torch.no_grad()(call))

    for both in (False, True):
        yield from _both_implementations(
            "composite",
            f"{SAMPLES} samples a ray, {'forward and backward' if both else 'forward'}",
            "samples",
            POINTS,
            lambda implementation, both=both: prepare(implementation, both),
        )


# ------------------------------------------------------------------------- proposal sampling, at nerfacto's sizes
PROPOSAL_SAMPLES, FINE_SAMPLES = (256, 96), 48


def _histogram(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges and weights of RAYS rays with one narrow peak each, as a trained scene has."""
    edges = torch.linspace(0.0, 1.0, samples + 1).expand(RAYS, -1).contiguous()
    return edges, torch.softmax(-40.0 * (edges[:, 1:] - _random(RAYS, 1)).abs(), dim=1)


def _dense_composite() -> Iterator[Case]:
    def prepare(implementation: Any, samples: int, both: bool) -> Prepared:
        from voxfield.kernels.dense_composite import dense_composite, dense_weights

        edges, weights = _histogram(samples)
        density = (20 * samples * weights).requires_grad_(both)
        # Feature by feature, as the fields give it.
        colour = _random(3, RAYS, samples).permute(1, 2, 0).requires_grad_(both)
        upstream, upstream_rgb = _random(RAYS, samples), _random(RAYS, 3)

        def call() -> None:
            if samples != FINE_SAMPLES:
                alone = dense_weights(density, edges, implementation=implementation)
                if both:
                    torch.autograd.grad(alone, density, upstream)
                return
            seen = dense_composite(density, colour, edges, implementation=implementation)
            if both:
                torch.autograd.grad((seen.rgb, seen.weights), (density, colour), (upstream_rgb, upstream))

        return Prepared(call if both else torch.no_grad()(call))

    for samples in (*PROPOSAL_SAMPLES, FINE_SAMPLES):
        for both in (False, True):
            what = "rgb and weights" if samples == FINE_SAMPLES else "weights alone"
            yield from _both_implementations(
                "dense_composite",
                f"{what}, {samples} samples a ray, {'forward and backward' if both else 'forward'}",
                "samples",
                RAYS * samples,
                lambda implementation, samples=samples, both=both: prepare(implementation, samples, both),
            )


def _pdf_resample() -> Iterator[Case]:
    def prepare(implementation: Any, old: int, new: int) -> Prepared:
        from voxfield.kernels.pdf_resample import pdf_resample

        edges, weights = _histogram(old)
        jitter = _random(RAYS, 1)
        return Prepared(lambda: pdf_resample(edges, weights, new, jitter=jitter, implementation=implementation))

    for old, new in ((PROPOSAL_SAMPLES[0], PROPOSAL_SAMPLES[1]), (PROPOSAL_SAMPLES[1], FINE_SAMPLES)):
        yield from _both_implementations(
            "pdf_resample",
            f"{old} to {new} samples",
            "rays",
            RAYS,
            lambda implementation, old=old, new=new: prepare(implementation, old, new),
        )


def _losses_on_weights() -> Iterator[Case]:
    def prepare_distortion(implementation: Any) -> Prepared:
        from voxfield.kernels.distortion import distortion_loss

        edges, weights = _histogram(FINE_SAMPLES)
        weights.requires_grad_()

        def call() -> None:
            torch.autograd.grad(distortion_loss(edges, weights, implementation=implementation).mean(), weights)

        return Prepared(call)

    def prepare_interlevel(implementation: Any, proposals: int) -> Prepared:
        from voxfield.kernels.interlevel import interlevel_loss

        edges, weights = _histogram(FINE_SAMPLES)
        proposal_edges, offered = _histogram(proposals)
        offered = (0.9 * offered).requires_grad_()

        def call() -> None:
            loss = interlevel_loss(edges, weights, proposal_edges, offered, implementation=implementation)
            torch.autograd.grad(loss.mean(), offered)

        return Prepared(call)

    yield from _both_implementations(
        "distortion", f"{FINE_SAMPLES} samples, forward and backward", "rays", RAYS, prepare_distortion
    )
    for proposals in PROPOSAL_SAMPLES:
        yield from _both_implementations(
            "interlevel",
            f"{FINE_SAMPLES} samples, {proposals} proposal samples, forward and backward",
            "rays",
            RAYS,
            lambda implementation, proposals=proposals: prepare_interlevel(implementation, proposals),
        )


def _march_grid() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.march_grid import StepRule, march_grid, pack_occupancy

        # A shell of a ball: rays cross empty space, a thin surface, and empty space again, as in a trained scene.
        axis = torch.linspace(-1.0, 1.0, 128)
        radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
        occupancy = pack_occupancy(((radius - 0.5).abs() < 0.03)[None])
        box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        directions = _directions(RAYS)
        origins = -3.0 * directions + 0.5 * (_random(RAYS, 3) - 0.5)
        step, jitter = StepRule(min_step=3**0.5 / 512), _random(RAYS)
        return Prepared(
            lambda: march_grid(
                origins, directions, occupancy, box, step=step, jitter=jitter, implementation=implementation
            )
        )

    yield from _both_implementations("march_grid", "128^3 cells, a thin shell", "rays", RAYS, prepare)


def _sample_runs() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.march_grid import PackedSamples
        from voxfield.kernels.sample_runs import take_runs

        lengths = torch.randint(0, 24, (RAYS,), generator=torch.Generator().manual_seed(1))
        ends = lengths.cumsum(0)
        count = int(ends[-1])
        samples = PackedSamples(
            t_start=_random(count),
            t_end=_random(count),
            ray_index=torch.arange(RAYS, dtype=torch.int32).repeat_interleave(lengths),
            ray_offsets=torch.nn.functional.pad(ends, (1, 0)),
            positions=_random(3, count).T,
        )
        begin, counts = samples.ray_offsets[:-1], lengths.clamp(max=6)
        return Prepared(lambda: take_runs(samples, begin, counts, implementation=implementation))

    yield from _both_implementations("sample_runs", "the first 6 of 0 to 23 samples", "rays", RAYS, prepare)


def _spherical_harmonics() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.spherical_harmonics import spherical_harmonics

        directions = _directions(POINTS)
        return Prepared(lambda: spherical_harmonics(directions, 3, implementation=implementation))

    yield from _both_implementations("spherical_harmonics", "degree 3, forward", "directions", POINTS, prepare)


def _ray_box() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.ray_box import ray_box

        box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        directions = _directions(POINTS)
        origins = -3.0 * directions + _random(POINTS, 3)
        return Prepared(lambda: ray_box(origins, directions, box, implementation=implementation))

    yield from _both_implementations("ray_box", "forward", "rays", POINTS, prepare)


# --------------------------------------------------------------------------------------------------- interval_points
def _interval_points() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.interval_points import interval_points

        rays = POINTS // SAMPLES
        directions = _directions(rays)
        origins = 0.2 * _random(rays, 3)
        box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        edges = torch.linspace(0.05, 100.0, SAMPLES + 1).repeat(rays, 1)
        return Prepared(
            lambda: interval_points(origins, directions, edges, box, contracted=True, implementation=implementation)
        )

    yield from _both_implementations("interval_points", "forward", "points", POINTS, prepare)


# -------------------------------------------------------------------------------------------------------------- adam
def _adam() -> Iterator[Case]:
    from voxfield.kernels.hash_encode import HashGrid

    size = 18
    count = HashGrid(log2_table_size=size).num_entries * 2

    def prepare(implementation: Any, touched: float) -> Prepared:
        from voxfield.kernels.adam import AdamRule, adam_step
        from voxfield.kernels.workspace import huge_zeros

        parameter, gradient, first, second = (huge_zeros(torch.Size((count,))) for _ in range(4))
        # Entries of two features are touched together, in no order: hashing scatters them.
        fresh = (_random(count // 2) < touched).float().repeat_interleave(2) * (_random(count) + 0.1)
        rule = AdamRule(skip_zero=touched < 1.0)
        return Prepared(
            lambda: adam_step(parameter, gradient, first, second, step=100, rule=rule, implementation=implementation),
            lambda: gradient.copy_(fresh),
        )

    for touched in (1.0, 0.1):
        yield from _both_implementations(
            "adam",
            f"table of T = 2^{size}, {touched:.0%} of the entries touched",
            "numbers",
            count,
            lambda implementation, touched=touched: prepare(implementation, touched),
        )


# ------------------------------------------------------------------------------------------------------------ sh_grid
VOXELS = 128
"""Along each axis of the voxel grids."""
VOXEL_RAYS = {"voxfield": 5000, "torch reference": 64}
"""Rays a call: a training step's, and what the reference, which keeps every sample of every ray, has memory for."""


def voxel_grid(kind: str) -> Any:
    """A grid of degree 2 in [-1, 1]^3: ``dense``, as training starts, or a ``shell`` three voxels thick."""
    from voxfield.voxels.voxel_grid import VoxelGrid

    axis = (torch.arange(VOXELS) + 0.5) / VOXELS * 2 - 1
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    stored = None if kind == "dense" else (radius - 0.6).abs() < 3 / VOXELS
    return VoxelGrid(VOXELS, (-1, -1, -1, 1, 1, 1), 2, density=0.1 if kind == "dense" else 3.0, stored=stored)


def _sh_grid() -> Iterator[Case]:
    for kind in ("dense", "shell"):
        for both in (False, True):
            for variant, rays in VOXEL_RAYS.items():
                yield Case(
                    op="sh_grid",
                    case=f"{VOXELS}^3, degree 2, {kind}, {'forward and backward' if both else 'forward'}",
                    variant=variant,
                    unit="rays",
                    count=rays,
                    prepare=lambda kind=kind, both=both, variant=variant, rays=rays: _prepare_voxels(
                        kind, both, variant, rays
                    ),
                    own_cores=variant == "voxfield",
                )


def _prepare_voxels(kind: str, both: bool, variant: str, rays: int) -> Prepared:
    from voxfield.kernels.sh_grid import GridGradients, MarchRule, render_sh_grid
    from voxfield.kernels.workspace import huge_zeros

    grid = voxel_grid(kind)
    directions = _directions(rays)
    origins = -4.0 * directions + 1.2 * (_random(rays, 3) - 0.5)
    buffers = GridGradients(
        density=huge_zeros(grid.density.shape),
        sh=huge_zeros(grid.sh.shape),
        touched=torch.zeros(grid.num_voxels, dtype=torch.uint8),
    )
    implementation: Any = None if variant == "voxfield" else "reference"

    def call() -> None:
        seen = render_sh_grid(
            origins, directions, grid.values, rule=MarchRule(), gradients=buffers, implementation=implementation
        )
        if both:
            seen.rgb.square().mean().backward()

    return Prepared(call if both else torch.no_grad()(call))


def _sphere_layers() -> Iterator[Case]:
    from voxfield.kernels.sphere_layers import LayerGradients, render_spheres
    from voxfield.voxels.sphere_layers import SphereLayers

    rays = VOXEL_RAYS["voxfield"]

    def prepare(variant: str) -> Prepared:
        spheres = SphereLayers(32, 256)
        directions, origins = _directions(rays), 0.5 * (_random(rays, 3) - 0.5)
        buffers = LayerGradients(
            density=torch.zeros_like(spheres.density.data),
            rgb=torch.zeros_like(spheres.rgb.data),
            touched=torch.zeros(spheres.num_texels, dtype=torch.uint8),
        )
        implementation: Any = None if variant == "voxfield" else "reference"

        def call() -> None:
            seen = render_spheres(origins, directions, spheres.values, gradients=buffers, implementation=implementation)
            seen.rgb.square().mean().backward()

        return Prepared(call)

    for variant in VOXEL_RAYS:
        yield Case(
            op="sphere_layers",
            case="32 of 256 x 512, forward and backward",
            variant=variant,
            unit="rays",
            count=rays,
            prepare=lambda variant=variant: prepare(variant),
            own_cores=variant == "voxfield",
        )


def _row_update() -> Iterator[Case]:
    count, width = VOXELS**3 // 2, 27

    def prepare(implementation: Any, kind: Any) -> Prepared:
        from voxfield.kernels.row_update import RowRule, row_update
        from voxfield.kernels.workspace import huge_zeros

        rule = RowRule(kind=kind)
        parameter, gradient, *moments = (huge_zeros(torch.Size((count, width))) for _ in range(2 + rule.moments))
        touched = (_random(count) < 0.5).to(torch.uint8)
        fresh = _random(count, width) * touched[:, None]
        return Prepared(
            lambda: row_update(
                parameter, gradient, tuple(moments), touched, step=9, rule=rule, implementation=implementation
            ),
            lambda: gradient.copy_(fresh),
        )

    for kind in ("rmsprop", "adam"):
        yield from _both_implementations(
            "row_update",
            f"{kind}, rows of {width}, half of them touched",
            "rows",
            count,
            lambda implementation, kind=kind: prepare(implementation, kind),
        )


def _total_variation() -> Iterator[Case]:
    cells = VOXELS**3 // 100

    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.total_variation import CellRange, total_variation

        grid = voxel_grid("dense")
        buffer, touched = torch.zeros_like(grid.sh), torch.zeros(grid.num_voxels, dtype=torch.uint8)
        stretch = CellRange(start=VOXELS**3 // 2, count=cells)

        def call() -> None:
            total_variation(
                grid.sh, grid.topology, stretch, gradient=buffer, touched=touched, implementation=implementation
            ).backward()

        return Prepared(call)

    yield from _both_implementations(
        "total_variation", f"1% of {VOXELS}^3, degree 2, forward and backward", "voxels", cells, prepare
    )


# ------------------------------------------------------------------------------------------------------- binary voxels
SPHERE_BANDS = {"voxfield": 160, "torch reference": 12}
"""Bands of the sphere that is voxelised, of 2 triangles each: the reference takes milliseconds for every one."""


def sphere_triangles(resolution: int, bands: int) -> torch.Tensor:
    """A sphere that fills a grid, as triangles (T, 3, 3) float64 in voxels; T = 2 * bands squared."""
    polar = torch.linspace(0, torch.pi, bands + 1, dtype=torch.float64)[:, None]
    around = torch.linspace(0, 2 * torch.pi, bands + 1, dtype=torch.float64)[None]
    unit = torch.stack(
        [polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos().expand(-1, bands + 1)], dim=-1
    )
    points = resolution * (0.5 + 0.49 * unit)
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    halves = torch.stack([torch.stack([a, b, c], dim=2), torch.stack([a, c, d], dim=2)], dim=2)
    return halves.reshape(-1, 3, 3)


def _voxelise() -> Iterator[Case]:
    for op in ("triangle_box", "scan_fill"):
        for variant, bands in SPHERE_BANDS.items():
            yield Case(
                op=op,
                case=f"a sphere at {VOXELS}^3",
                variant=variant,
                unit="triangles",
                count=2 * bands**2,
                prepare=lambda op=op, variant=variant, bands=bands: _prepare_voxelise(op, variant, bands),
                own_cores=variant == "voxfield",
            )


def _prepare_voxelise(op: str, variant: str, bands: int) -> Prepared:
    from voxfield.kernels.scan_fill import scan_fill
    from voxfield.kernels.triangle_box import triangle_box

    kernel = triangle_box if op == "triangle_box" else scan_fill
    implementation: Any = None if variant == "voxfield" else "reference"
    triangles = sphere_triangles(VOXELS, bands)
    return Prepared(lambda: kernel(triangles, VOXELS, implementation=implementation))


def _traverse_voxels() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.traverse_voxels import traverse_voxels
        from voxfield.kernels.triangle_box import triangle_box

        words = triangle_box(sphere_triangles(VOXELS, SPHERE_BANDS["voxfield"]), VOXELS)
        directions = _directions(RAYS)
        origins = VOXELS * (0.5 - 1.5 * directions + 0.3 * (_random(RAYS, 3) - 0.5))
        return Prepared(lambda: traverse_voxels(origins, directions, words, VOXELS, implementation=implementation))

    yield from _both_implementations("traverse_voxels", f"a sphere's shell at {VOXELS}^3", "rays", RAYS, prepare)


# ------------------------------------------------------------------------------------------------------ cube_symmetry
TURNED_BLOCKS = {"voxfield": 4096, "reference": 64}
"""Blocks of 16^3 voxels: the reference spells every voxel out."""


def _cube_symmetry() -> Iterator[Case]:
    for variant, blocks in TURNED_BLOCKS.items():
        yield Case(
            op="cube_symmetry",
            case="canonical forms of blocks of 16^3 voxels, half of them set",
            variant=variant,
            unit="blocks",
            count=blocks,
            prepare=lambda variant=variant, blocks=blocks: _prepare_symmetry(variant, blocks),
            own_cores=variant == "voxfield",
        )


def _prepare_symmetry(variant: str, blocks: int) -> Prepared:
    import numpy as np

    from voxfield.kernels.cube_symmetry import canonical_blocks

    words = np.random.default_rng(0).integers(-(2**63), 2**63, (blocks, 64), dtype=np.int64)
    implementation: Any = None if variant == "voxfield" else "reference"
    return Prepared(lambda: canonical_blocks(words, implementation=implementation))


# --------------------------------------------------------------------------------------------------------- block_code
CODED_BLOCKS = {"voxfield": 512, "interpreted reference": 1}
"""Blocks of 8^3 voxels: the interpreted walk takes a tenth of a second for one."""


def _block_code() -> Iterator[Case]:
    for coded in ("states", "values"):
        for variant, blocks in CODED_BLOCKS.items():
            yield Case(
                op="block_code",
                case=f"decoding {coded} of a wavy field, half of it active",
                variant=variant,
                unit="voxels",
                count=512 * blocks,
                prepare=lambda coded=coded, variant=variant, blocks=blocks: _prepare_blocks(coded, variant, blocks),
                own_cores=variant == "voxfield",
            )


def _prepare_blocks(coded: str, variant: str, blocks: int) -> Prepared:
    import numpy as np

    from voxfield.kernels import block_code

    z = np.arange(8 * blocks).reshape(blocks, 1, 1, 8)
    x, y = np.arange(8)[:, None, None], np.arange(8)[None, :, None]
    field = np.sin(z / 9) + np.sin(x / 5) * np.cos(y / 3)
    states = (field > 0).astype(np.uint8).reshape(blocks, 512)
    levels = np.rint(40 * field).astype(np.int32).reshape(blocks, 512)
    neighbours = np.full((blocks, len(block_code.EARLIER)), -1, np.int32)
    neighbours[1:, block_code.EARLIER.index((0, 0, -1))] = np.arange(blocks - 1)
    implementation: Any = None if variant == "voxfield" else "reference"
    if coded == "states":
        raw = block_code.encode_states(states, neighbours)
        return Prepared(lambda: block_code.decode_states(raw, neighbours, implementation=implementation))
    active = states == 1
    taps = block_code.fit_taps(levels, active, neighbours)
    raw = block_code.encode_values(levels, active, neighbours, taps)
    return Prepared(
        lambda: block_code.decode_values(raw, levels, active, neighbours, taps, implementation=implementation)
    )


# ----------------------------------------------------------------------------------------------------- scatter_points
def _scatter_points() -> Iterator[Case]:
    def prepare(implementation: Any) -> Prepared:
        from voxfield.kernels.scatter_points import scatter_points

        points, box = _random(100_000, 3), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        return Prepared(lambda: scatter_points(points, (VOXELS,) * 3, *box, implementation=implementation))

    yield from _both_implementations("scatter_points", f"blurred, to {VOXELS}^3", "points", 100_000, prepare)


# ------------------------------------------------------------------------------------------------------------ chamfer
def _chamfer() -> Iterator[Case]:
    sets, points = 32, 512

    def prepare(variant: str) -> Prepared:
        from voxfield.kernels.chamfer import chamfer_distances

        first, second = _random(2, sets, points, 3)
        if variant == "voxfield":
            return Prepared(lambda: chamfer_distances(first, second))
        return Prepared(lambda: chamfer_cdist(first, second))

    for variant in ("voxfield", "torch cdist"):
        yield Case(
            op="chamfer",
            case=f"{points} points a set",
            variant=variant,
            unit="distances",
            count=(sets * points) ** 2,
            prepare=lambda variant=variant: prepare(variant),
            own_cores=variant == "voxfield",
        )


def chamfer_cdist(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Chamfer distances row by row, through all distances."""
    rows = []
    for points in first:
        squared = torch.cdist(points.expand(len(second), -1, -1), second).square()
        rows.append(squared.amin(2).mean(1) + squared.amin(1).mean(1))
    return torch.stack(rows)
