"""Hash encoding on a CPU: level by level, LANES points at a time.

A level's table (4 MB at 2**19 entries of 2 float32) stays in cache while all points pass through it; going point by
point instead would read all 16 tables at random, three times slower. Forward: points are split between threads.
Backward to the table: levels are split between threads, so no two threads write one entry. Where a processor gathers
slowly (AVX2), scalar loads of whole entries beat its gather instruction: an entry's features are loaded as one short
vector and transposed in registers.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from voxfield.kernels.hash_encode.grid import HASH_PRIMES, HashGrid
from voxfield.kernels.simd import (
    F32,
    I32,
    I64,
    LANES,
    VECTOR_F32,
    VECTOR_I32,
    array_pointer,
    constant,
    load_vector,
    multiply_add,
    shuffle,
    splat,
    store_vector,
)
from voxfield.kernels.threads import run_split, run_tasks
from voxfield.kernels.workspace import empty_feature_major, feature_major

_jit = njit(cache=True, nogil=True, fastmath=True, boundscheck=False, error_model="numpy")


def _corners(builder, positions, pitch, n, resolution, dense, mask, smooth):  # type: ignore[no-untyped-def]
    """Vectors (row within the level, weight) of the 8 vertices around LANES points from column ``n`` of (3, N)."""
    zero, one, last = constant(0.0), constant(1.0), splat(builder, builder.sub(resolution, I32(1)))
    scale = splat(builder, builder.sitofp(resolution, F32))
    cells, weights = [], []
    for axis in range(3):
        x = load_vector(builder, positions, builder.add(builder.mul(pitch, I64(axis)), n))
        x = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)  # NaN becomes 0
        x = builder.select(builder.fcmp_ordered("<", x, one), x, one)
        scaled = builder.fmul(x, scale)
        cell = builder.fptosi(scaled, VECTOR_I32)
        cell = builder.select(builder.icmp_signed("<", cell, last), cell, last)
        weight = builder.fsub(scaled, builder.sitofp(cell, VECTOR_F32))
        smoothed = builder.fmul(builder.fmul(weight, weight), builder.fsub(constant(3.0), builder.fadd(weight, weight)))
        cells.append(cell)
        weights.append(builder.select(smooth, smoothed, weight))

    side = builder.add(resolution, I32(1))
    factors = [
        splat(builder, builder.select(dense, stride, ir.Constant(I32, prime)))
        for stride, prime in ((side, HASH_PRIMES[1]), (builder.mul(side, side), HASH_PRIMES[2]))
    ]
    x0, y0, z0 = cells[0], builder.mul(cells[1], factors[0]), builder.mul(cells[2], factors[1])
    x1, y1, z1 = builder.add(x0, constant(1, I32)), builder.add(y0, factors[0]), builder.add(z0, factors[1])
    (wx1, wy1, wz1), (wx0, wy0, wz0) = weights, [builder.fsub(one, weight) for weight in weights]
    mask = splat(builder, mask)
    for z, wz in ((z0, wz0), (z1, wz1)):
        for y, wy in ((y0, wy0), (y1, wy1)):
            wyz, added, xored = builder.fmul(wy, wz), builder.add(y, z), builder.xor(y, z)
            for x, wx in ((x0, wx0), (x1, wx1)):
                hashed = builder.and_(builder.xor(xored, x), mask)
                row = builder.select(dense, builder.add(added, x), hashed)
                yield row, builder.fmul(wyz, wx)


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
            entries = _join(
                builder,
                [
                    builder.load(_entry(builder, table_ptr, first_row, rows, lane, features), align=4)
                    for lane in range(LANES)
                ],
            )
            for feature in range(features):
                value = shuffle(builder, entries, None, range(feature, LANES * features, features))
                sums[feature] = multiply_add(builder, value, weight, sums[feature])
        for feature in range(features):
            row = builder.mul(output_pitch, builder.add(channel, I64(feature)))
            store_vector(builder, sums[feature], output_ptr, builder.add(row, n))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _scatter_lanes(
    typingctx, positions, n, grads, channel, first_row, resolution, dense, mask, smooth, table_grad, entry
):  # type: ignore[no-untyped-def]
    """Add LANES points' gradients (rows ``channel + f`` of ``grads``) to the 8 entries around each point.

    Nothing is done where all of them are zero, as behind an opaque surface.
    """
    signature = types.void(positions, n, grads, channel, first_row, resolution, dense, mask, smooth, table_grad, entry)
    features = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        position_ptr, grad_ptr, table_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 9)
        )
        pitch, grad_pitch = (_row_pitch(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, n, _, channel, first_row, resolution, dense, mask, smooth, _, _ = args
        gradients, some = [], constant(0, I32)
        for feature in range(features):
            row = builder.mul(grad_pitch, builder.add(channel, I64(feature)))
            gradients.append(load_vector(builder, grad_ptr, builder.add(row, n)))
            some = builder.or_(some, builder.bitcast(gradients[-1], VECTOR_I32))
        flags = builder.bitcast(builder.icmp_signed("!=", some, constant(0, I32)), ir.IntType(LANES))
        with builder.if_then(builder.icmp_unsigned("!=", flags, flags.type(0))):
            for rows, weight in _corners(builder, position_ptr, pitch, n, resolution, dense, mask, smooth):
                shares = _join(builder, [builder.fmul(gradient, weight) for gradient in gradients])
                for lane in range(LANES):
                    share = shuffle(builder, shares, None, range(lane, LANES * features, LANES))
                    pointer = _entry(builder, table_ptr, first_row, rows, lane, features)
                    builder.store(builder.fadd(builder.load(pointer, align=4), share), pointer, align=4)
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
def _scatter(level, positions, grads, levels, smooth, table_grad, entry):  # type: ignore[no-untyped-def]
    """Add every point's gradient to the entries of one level. N is a multiple of LANES."""
    row, resolution, mask = levels[level, 0], np.int32(levels[level, 1]), np.int32(levels[level, 3])
    channel = level * len(entry)
    if levels[level, 2]:
        for n in range(0, positions.shape[1], LANES):
            _scatter_lanes(positions, n, grads, channel, row, resolution, True, mask, smooth, table_grad, entry)
    else:
        for n in range(0, positions.shape[1], LANES):
            _scatter_lanes(positions, n, grads, channel, row, resolution, False, mask, smooth, table_grad, entry)


@_jit
def _position_gradient(start, stop, positions, grads, table, levels, smooth, position_grad):  # type: ignore[no-untyped-def]
    """Gradient to points [start, stop), point by point: it is rarely asked for (pose refinement, normals)."""
    one, features = np.float32(1.0), table.shape[1]
    weight, slope, inside = np.empty((2, 3), np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    cell = np.empty(3, np.int64)
    for n in range(start, stop):
        total = np.zeros(3, np.float32)
        for level in range(levels.shape[0]):
            resolution, dense, mask = levels[level, 1], levels[level, 2] != 0, levels[level, 3]
            for axis in range(3):
                x = positions[axis, n]
                inside[axis] = one if x >= 0.0 and x <= 1.0 else np.float32(0.0)
                x = x if x > 0.0 else np.float32(0.0)
                scaled = (x if x < 1.0 else one) * np.float32(resolution)
                cell[axis] = min(np.int64(scaled), resolution - 1)
                w = scaled - np.float32(cell[axis])
                slope[axis] = np.float32(6.0) * w * (one - w) if smooth else one
                weight[1, axis] = w * w * (np.float32(3.0) - w - w) if smooth else w
                weight[0, axis] = one - weight[1, axis]
            for corner in range(8):
                bx, by, bz = corner & 1, (corner >> 1) & 1, corner >> 2
                x_, y_, z_ = cell[0] + bx, cell[1] + by, cell[2] + bz
                if dense:
                    row = x_ + (y_ + z_ * (resolution + 1)) * (resolution + 1)
                else:
                    row = (x_ ^ (y_ * HASH_PRIMES[1]) ^ (z_ * HASH_PRIMES[2])) & mask
                value = np.float32(0.0)
                for feature in range(features):
                    value += table[levels[level, 0] + row, feature] * grads[level * features + feature, n]
                value *= np.float32(resolution)
                wx, wy, wz = weight[bx, 0], weight[by, 1], weight[bz, 2]
                total[0] += value * slope[0] * wy * wz * np.float32(2 * bx - 1)
                total[1] += value * slope[1] * wx * wz * np.float32(2 * by - 1)
                total[2] += value * slope[2] * wx * wy * np.float32(2 * bz - 1)
        for axis in range(3):
            position_grad[axis, n] = total[axis] * inside[axis]


def _level_table(grid: HashGrid) -> np.ndarray:
    """(L, 4) int64: first row, resolution, dense, mask of the hash."""
    return np.array(
        [
            (offset, resolution, dense, grid.table_size - 1)
            for offset, resolution, dense in zip(grid.offsets, grid.resolutions, grid.dense, strict=False)
        ],
        np.int64,
    )


def _whole_lanes(array: np.ndarray) -> np.ndarray:
    """``array`` (C, N), with columns of zeros appended if N is not a multiple of LANES."""
    missing = -array.shape[1] % LANES
    return np.pad(array, ((0, 0), (0, missing))) if missing else array


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, table, grid, table_grad):  # type: ignore[no-untyped-def]
        points = positions.shape[0]
        columns = _whole_lanes(feature_major(positions))
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
        grid, levels, columns, entry = ctx.grid, ctx.levels, ctx.columns, (0,) * ctx.grid.features
        grads = _whole_lanes(feature_major(grad_encoded))
        table_grad = position_grad = None
        if ctx.needs_input_grad[1]:
            accumulating = ctx.table_grad is not None
            table_grad = ctx.table_grad if accumulating else torch.zeros_like(table.contiguous())
            rows = table_grad.numpy()
            run_tasks(
                [
                    lambda level=level: _scatter(level, columns, grads, levels, grid.smoothstep, rows, entry)  # type: ignore[misc]
                    for level in reversed(range(grid.num_levels))
                ]
            )
            if accumulating:
                table_grad = None
        if ctx.needs_input_grad[0]:
            position_grad = torch.empty(3, columns.shape[1])
            values, target_columns = table.detach().contiguous().numpy(), position_grad.numpy()
            run_split(
                _position_gradient,
                columns.shape[1],
                columns,
                grads,
                values,
                levels,
                grid.smoothstep,
                target_columns,
            )
            position_grad = position_grad[:, : positions.shape[0]].T
        return position_grad, table_grad, None, None


def hash_encode(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    table_grad: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `voxfield.kernels.hash_encode.api.hash_encode`."""
    return _HashEncode.apply(positions, table, grid, table_grad)  # type: ignore[no-any-return, no-untyped-call]
