"""Hash encoding on a CPU: level by level, LANES points at a time.

A level's table (4 MB at 2**19 entries of 2 float32) stays in cache while all points pass through it; going point by
point instead would read all 16 tables at random, three times slower. Forward: points are split between threads.
Backward to the table: levels are split between threads, so no two threads write one entry. Where a processor gathers
slowly (AVX2), scalar loads of whole entries beat its gather instruction: an entry's features are loaded as one short
vector and transposed in registers. Where it gathers quickly, entries of two features are gathered as 64-bit numbers.
"""

from typing import NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from voxfield.kernels.hash_encode.grid import HASH_PRIMES, HashGrid
from voxfield.kernels.jit import njit
from voxfield.kernels.simd import (
    F32,
    GATHERS,
    I32,
    I64,
    LANES,
    VECTOR_F32,
    VECTOR_I32,
    array_pointer,
    constant,
    gather_pairs,
    load_vector,
    multiply_add,
    shuffle,
    splat,
    store_vector,
)
from voxfield.kernels.threads import run_split, run_tasks
from voxfield.kernels.workspace import empty_feature_major

_jit = njit(nogil=True, fastmath=True, boundscheck=False, error_model="numpy")


class _Axis(NamedTuple):
    """Where LANES points lie along one axis of a level: vectors."""

    cell: ir.Value
    weight: ir.Value
    """Of the vertex above; the one below has the rest."""
    slope: ir.Value
    """d weight / d scaled coordinate."""
    inside: ir.Value
    """Whether the point was moved into the unit cube: outside, its gradient is 0."""


def _locate(builder, positions, pitch, n, resolution, smooth):  # type: ignore[no-untyped-def]
    """The three `_Axis` of LANES points from column ``n`` of (3, N)."""
    zero, one, last = constant(0.0), constant(1.0), splat(builder, builder.sub(resolution, I32(1)))
    scale = splat(builder, builder.sitofp(resolution, F32))
    axes = []
    for axis in range(3):
        given = load_vector(builder, positions, builder.add(builder.mul(pitch, I64(axis)), n))
        x = builder.select(builder.fcmp_ordered(">", given, zero), given, zero)  # NaN becomes 0
        x = builder.select(builder.fcmp_ordered("<", x, one), x, one)
        scaled = builder.fmul(x, scale)
        cell = builder.fptosi(scaled, VECTOR_I32)
        cell = builder.select(builder.icmp_signed("<", cell, last), cell, last)
        weight = builder.fsub(scaled, builder.sitofp(cell, VECTOR_F32))
        smoothed = builder.fmul(builder.fmul(weight, weight), builder.fsub(constant(3.0), builder.fadd(weight, weight)))
        slope = builder.fmul(builder.fmul(constant(6.0), weight), builder.fsub(one, weight))
        axes.append(
            _Axis(
                cell=cell,
                weight=builder.select(smooth, smoothed, weight),
                slope=builder.select(smooth, slope, one),
                inside=builder.fcmp_ordered("==", x, given),
            )
        )
    return axes


def _rows(builder, axes, resolution, dense, mask):  # type: ignore[no-untyped-def]
    """Rows within the level of the 8 vertices around each of LANES points; x varies fastest, z slowest."""
    side = builder.add(resolution, I32(1))
    factors = [
        splat(builder, builder.select(dense, stride, ir.Constant(I32, prime)))
        for stride, prime in ((side, HASH_PRIMES[1]), (builder.mul(side, side), HASH_PRIMES[2]))
    ]
    x0, y0, z0 = axes[0].cell, builder.mul(axes[1].cell, factors[0]), builder.mul(axes[2].cell, factors[1])
    x1, y1, z1 = builder.add(x0, constant(1, I32)), builder.add(y0, factors[0]), builder.add(z0, factors[1])
    mask = splat(builder, mask)
    for z in (z0, z1):
        for y in (y0, y1):
            added, xored = builder.add(y, z), builder.xor(y, z)
            for x in (x0, x1):
                yield builder.select(dense, builder.add(added, x), builder.and_(builder.xor(xored, x), mask))


def _corners(builder, positions, pitch, n, resolution, dense, mask, smooth):  # type: ignore[no-untyped-def]
    """Vectors (row within the level, weight) of the 8 vertices around LANES points from column ``n`` of (3, N)."""
    axes = _locate(builder, positions, pitch, n, resolution, smooth)
    rows = _rows(builder, axes, resolution, dense, mask)
    pairs = [(builder.fsub(constant(1.0), axis.weight), axis.weight) for axis in axes]
    for wz in pairs[2]:
        for wy in pairs[1]:
            wyz = builder.fmul(wy, wz)
            for wx in pairs[0]:
                yield next(rows), builder.fmul(wyz, wx)


def _entry(builder, table, first_row, rows, lane, features):  # type: ignore[no-untyped-def]
    """Pointer to the entry of one lane, as a vector of its features."""
    row = builder.add(builder.zext(builder.extract_element(rows, I32(lane)), I64), first_row)
    pointer = builder.gep(table, [builder.mul(row, I64(features))])
    return builder.bitcast(pointer, ir.VectorType(F32, features).as_pointer())


def _join(builder, vectors):  # type: ignore[no-untyped-def]
    """Concatenate equally long vectors (a power of two of them), pair by pair."""
    while len(vectors) > 1:
        width = 2 * vectors[0].type.count
        vectors = [shuffle(builder, a, b, range(width)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _gather(builder, table, first_row, rows, features):  # type: ignore[no-untyped-def]
    """A vector per feature, of LANES entries of the table."""
    if GATHERS and features == 2:
        first = builder.gep(table, [builder.mul(first_row, I64(features))])
        return gather_pairs(builder, first, rows)
    entries = [builder.load(_entry(builder, table, first_row, rows, lane, features), align=4) for lane in range(LANES)]
    joined = _join(builder, entries)
    return [shuffle(builder, joined, None, range(f, LANES * features, features)) for f in range(features)]


def _row_pitch(context, builder, array_type, value):  # type: ignore[no-untyped-def]
    """Floats from one row of a 2D float32 array to the next."""
    strides = context.make_array(array_type)(context, builder, value).strides
    return builder.sdiv(builder.extract_value(strides, 0), I64(4))


@intrinsic
def _encode_lanes(typingctx, positions, n, table, first_row, resolution, dense, mask, smooth, outputs, channel, entry):  # type: ignore[no-untyped-def]
    """Encode LANES points from column ``n`` of ``positions`` (3, N) at one level, into rows ``channel + f`` of
    ``outputs``.

    ``entry`` is any tuple with one item a feature: its length is known when this is compiled.
    """
    signature = types.void(positions, n, table, first_row, resolution, dense, mask, smooth, outputs, channel, entry)
    features = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        position_ptr, table_ptr, output_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 8)
        )
        pitch, output_pitch = (_row_pitch(context, builder, signature.args[i], args[i]) for i in (0, 8))
        _, n, _, first_row, resolution, dense, mask, smooth, _, channel, _ = args
        sums = [constant(0.0)] * features
        for rows, weight in _corners(builder, position_ptr, pitch, n, resolution, dense, mask, smooth):
            for feature, value in enumerate(_gather(builder, table_ptr, first_row, rows, features)):
                sums[feature] = multiply_add(builder, value, weight, sums[feature])
        for feature in range(features):
            row = builder.mul(output_pitch, builder.add(channel, I64(feature)))
            store_vector(builder, sums[feature], output_ptr, builder.add(row, n))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _share_lanes(typingctx, positions, n, grads, channel, resolution, dense, mask, smooth, rows, shares, entry):  # type: ignore[no-untyped-def]
    """Of LANES points' gradients (rows ``channel + f`` of ``grads``), what falls to the 8 entries around each point.

    ``rows`` (8, LANES) int32 gets the entries' rows within the level, ``shares`` (8 * LANES, F) what is to be added to
    them. Returns False, with neither written, where all gradients are zero, as behind an opaque surface.
    """
    signature = types.boolean(positions, n, grads, channel, resolution, dense, mask, smooth, rows, shares, entry)
    features = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        position_ptr, grad_ptr, row_ptr, share_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 8, 9)
        )
        pitch, grad_pitch = (_row_pitch(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, n, _, channel, resolution, dense, mask, smooth, _, _, _ = args
        gradients, some = [], constant(0, I32)
        for feature in range(features):
            row = builder.mul(grad_pitch, builder.add(channel, I64(feature)))
            gradients.append(load_vector(builder, grad_ptr, builder.add(row, n)))
            some = builder.or_(some, builder.bitcast(gradients[-1], VECTOR_I32))
        flags = builder.bitcast(builder.icmp_signed("!=", some, constant(0, I32)), ir.IntType(LANES))
        reached = builder.icmp_unsigned("!=", flags, flags.type(0))
        with builder.if_then(reached):
            corners = _corners(builder, position_ptr, pitch, n, resolution, dense, mask, smooth)
            for corner, (row, weight) in enumerate(corners):
                store_vector(builder, row, row_ptr, I64(corner * LANES))
                joined = _join(builder, [builder.fmul(gradient, weight) for gradient in gradients])
                for part in range(features):  # feature by feature becomes point by point
                    items = range(part * LANES, (part + 1) * LANES)
                    turned = shuffle(builder, joined, None, [i % features * LANES + i // features for i in items])
                    store_vector(builder, turned, share_ptr, I64((corner * features + part) * LANES))
        return reached

    return signature, codegen


@intrinsic
def _add_entry(typingctx, table_grad, row, shares, share, entry):  # type: ignore[no-untyped-def]
    """Add item ``share`` of ``shares`` (.., F) to row ``row`` of ``table_grad``."""
    signature = types.void(table_grad, row, shares, share, entry)
    features = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointers = []
        for array, index in ((0, 1), (2, 3)):
            base = array_pointer(context, builder, signature.args[array], args[array])
            item = builder.gep(base, [builder.mul(args[index], I64(features))])
            pointers.append(builder.bitcast(item, ir.VectorType(F32, features).as_pointer()))
        sums, added = (builder.load(pointer, align=4) for pointer in pointers)
        builder.store(builder.fadd(sums, added), pointers[0], align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _slope_lanes(
    typingctx, positions, n, grads, channel, table, first_row, resolution, dense, mask, smooth, position_grad, entry
):  # type: ignore[no-untyped-def]
    """Add one level's share of the gradient to LANES points, columns ``n`` of ``position_grad`` (3, N)."""
    signature = types.void(
        positions, n, grads, channel, table, first_row, resolution, dense, mask, smooth, position_grad, entry
    )
    features = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        position_ptr, grad_ptr, table_ptr, output_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 4, 10)
        )
        pitch, grad_pitch, output_pitch = (_row_pitch(context, builder, signature.args[i], args[i]) for i in (0, 2, 10))
        _, n, _, channel, _, first_row, resolution, dense, mask, smooth, _, _ = args
        axes = _locate(builder, position_ptr, pitch, n, resolution, smooth)
        gradients = [
            load_vector(builder, grad_ptr, builder.add(builder.mul(grad_pitch, builder.add(channel, I64(f))), n))
            for f in range(features)
        ]
        vertices = []  # what the loss gains per unit of each vertex' weight
        for rows in _rows(builder, axes, resolution, dense, mask):
            gain = constant(0.0)
            for value, gradient in zip(_gather(builder, table_ptr, first_row, rows, features), gradients, strict=True):
                gain = multiply_add(builder, value, gradient, gain)
            vertices.append(gain)

        def blend(pairs, axis):  # type: ignore[no-untyped-def]
            return [
                multiply_add(builder, builder.fsub(b, a), axes[axis].weight, a)
                for a, b in zip(pairs[::2], pairs[1::2], strict=True)
            ]

        def differences(pairs):  # type: ignore[no-untyped-def]
            return [builder.fsub(b, a) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]

        along_x = blend(vertices, 0)
        slopes = [
            blend(blend(differences(vertices), 1), 2)[0],
            blend(differences(along_x), 2)[0],
            differences(blend(along_x, 1))[0],
        ]
        scale = splat(builder, builder.sitofp(resolution, F32))
        for axis, slope in enumerate(slopes):
            share = builder.fmul(builder.fmul(slope, axes[axis].slope), scale)
            share = builder.select(axes[axis].inside, share, constant(0.0))
            at = builder.add(builder.mul(output_pitch, I64(axis)), n)
            store_vector(builder, builder.fadd(load_vector(builder, output_ptr, at), share), output_ptr, at)
        return context.get_dummy_value()

    return signature, codegen


@_jit
def _encode(start, stop, positions, table, levels, smooth, outputs, entry):  # type: ignore[no-untyped-def]
    """Points [start, stop), a multiple of LANES, through every level (see `_level_table`)."""
    for level in range(levels.shape[0]):
        row, resolution, mask = levels[level, 0], np.int32(levels[level, 1]), np.int32(levels[level, 3])
        channel = level * len(entry)
        # The two kinds of level are separate loops, so that neither computes the other's index.
        if levels[level, 2]:
            for n in range(start, stop, LANES):
                _encode_lanes(positions, n, table, row, resolution, True, mask, smooth, outputs, channel, entry)
        else:
            for n in range(start, stop, LANES):
                _encode_lanes(positions, n, table, row, resolution, False, mask, smooth, outputs, channel, entry)


@_jit
def _scatter(level, points, positions, grads, levels, smooth, table_grad, entry):  # type: ignore[no-untyped-def]
    """Add the gradients of ``points`` points to the entries of one level; arrays have whole LANES.

    Rows and shares pass through memory: taking them out of vectors lane by lane is slower than storing and reading.
    Point by point, not vertex by vertex: neighbours on a ray add to the same entries, and each would wait for the last.
    """
    row, resolution, mask = levels[level, 0], np.int32(levels[level, 1]), np.int32(levels[level, 3])
    dense, channel = levels[level, 2] != 0, level * len(entry)
    rows = np.empty((8, LANES), np.int32)
    shares = np.empty((8 * LANES, len(entry)), np.float32)
    for n in range(0, points, LANES):
        if _share_lanes(positions, n, grads, channel, resolution, dense, mask, smooth, rows, shares, entry):
            for lane in range(min(LANES, points - n)):
                for vertex in range(8):
                    _add_entry(table_grad, row + rows[vertex, lane], shares, vertex * LANES + lane, entry)


@_jit
def _position_gradient(start, stop, positions, grads, table, levels, smooth, position_grad, entry):  # type: ignore[no-untyped-def]
    """Gradient to points [start, stop), a multiple of LANES, summed over the levels."""
    for axis in range(3):
        position_grad[axis, start:stop] = 0.0
    for level in range(levels.shape[0]):
        row, resolution, mask = levels[level, 0], np.int32(levels[level, 1]), np.int32(levels[level, 3])
        dense, channel = levels[level, 2] != 0, level * len(entry)
        for n in range(start, stop, LANES):
            _slope_lanes(
                positions, n, grads, channel, table, row, resolution, dense, mask, smooth, position_grad, entry
            )


def _level_table(grid: HashGrid) -> np.ndarray:
    """(L, 4) int64: first row, resolution, dense, mask of the hash."""
    return np.array(
        [
            (offset, resolution, dense, grid.table_size - 1)
            for offset, resolution, dense in zip(grid.offsets, grid.resolutions, grid.dense, strict=False)
        ],
        np.int64,
    )


def _whole_lanes(tensor: torch.Tensor) -> np.ndarray:
    """``tensor`` (N, C) as (C, M), N rounded up to a multiple of LANES. Columns from N on hold anything.

    Not copied where its memory goes on that far, as that of other kernels' results does.
    """
    points, channels = tensor.shape
    whole = -(-points // LANES) * LANES
    turned = tensor.detach().T
    last = turned.storage_offset() + (channels - 1) * turned.stride(0) + whole
    if turned.stride(1) == 1 and turned.stride(0) >= whole and 4 * last <= turned.untyped_storage().nbytes():
        return turned.as_strided((channels, whole), turned.stride()).numpy()  # type: ignore[no-any-return]
    copy = empty_feature_major(whole, channels).T
    copy[:, :points] = turned
    return copy.numpy()


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, table, grid, table_grad):  # type: ignore[no-untyped-def]
        points = positions.shape[0]
        columns = _whole_lanes(positions)
        ctx.save_for_backward(positions, table)
        ctx.grid, ctx.levels, ctx.columns, ctx.table_grad = grid, _level_table(grid), columns, table_grad
        encoded = empty_feature_major(columns.shape[1], grid.num_outputs)
        levels, entry = ctx.levels, (0,) * grid.features
        values, outputs = table.detach().contiguous().numpy(), encoded.T.numpy()
        run_split(
            lambda start, stop: _encode(
                start * LANES, stop * LANES, columns, values, levels, grid.smoothstep, outputs, entry
            ),
            columns.shape[1] // LANES,
            grain=256,
            chunks_per_thread=1,  # a chunk more is another pass over every table
        )
        return encoded[:points]

    @staticmethod
    def backward(ctx, grad_encoded):  # type: ignore[no-untyped-def]
        positions, table = ctx.saved_tensors
        points = positions.shape[0]
        grid, levels, columns, entry = ctx.grid, ctx.levels, ctx.columns, (0,) * ctx.grid.features
        grads = _whole_lanes(grad_encoded)
        table_grad = position_grad = None
        if ctx.needs_input_grad[1]:
            accumulating = ctx.table_grad is not None
            table_grad = ctx.table_grad if accumulating else torch.zeros_like(table.contiguous())
            rows = table_grad.numpy()
            run_tasks(
                [
                    lambda level=level: _scatter(level, points, columns, grads, levels, grid.smoothstep, rows, entry)  # type: ignore[misc]
                    for level in reversed(range(grid.num_levels))
                ]
            )
            if accumulating:
                table_grad = None
        if ctx.needs_input_grad[0]:
            position_grad = torch.empty(3, columns.shape[1])
            values, target_columns = table.detach().contiguous().numpy(), position_grad.numpy()
            run_split(
                lambda start, stop: _position_gradient(
                    start * LANES, stop * LANES, columns, grads, values, levels, grid.smoothstep, target_columns, entry
                ),
                columns.shape[1] // LANES,
                grain=256,
                chunks_per_thread=1,
            )
            position_grad = position_grad[:, :points].T
        return position_grad, table_grad, None, None


def hash_encode(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    table_grad: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `voxfield.kernels.hash_encode.api.hash_encode`."""
    return _HashEncode.apply(positions, table, grid, table_grad)  # type: ignore[no-any-return, no-untyped-call]
