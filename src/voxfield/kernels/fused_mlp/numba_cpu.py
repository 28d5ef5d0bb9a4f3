"""`fused_mlp` on a CPU: blocks of BLOCK points go through all layers while they stay in the L2 cache.

Every product is the same register-blocked tile (`voxfield.kernels.simd`) on (feature, point) blocks:
forward ``H = W X``; backward ``dX = W^T dH`` with the ReLU mask applied on the way out, and ``dW = dH X^T`` with the
block of X transposed first, so that no horizontal sums are needed. Matrices are padded with zero rows to whole tiles.
Weight gradients are summed per task, then over tasks, in a fixed order: the result does not depend on which thread
ran what.
"""

from collections.abc import Sequence

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.simd import (
    ACCUMULATE,
    LANES,
    POINT_STEP,
    STORE,
    STORE_MASKED,
    STORE_RELU,
    TILE_ROWS,
    matrix_tile,
    transpose_tile,
)
from voxfield.kernels.threads import kernel_threads, run_split, run_tasks
from voxfield.kernels.workspace import empty_feature_major, feature_major

BLOCK = 128
"""Points a block: 64 units x 128 points x 4 bytes = 32 KiB a layer, three layers and weights within a 512 KiB L2."""

PITCH = BLOCK + 16
"""Floats from one row of a block to the next. A power of two would put the 64 rows a tile reads into 8 of the L1
cache's 64 sets: measured 26 instead of 70 GFLOP/s a thread."""

_jit = njit(nogil=True, fastmath=True, boundscheck=False, error_model="numpy")


@_jit
def _product(w, w_at, w_pitch, rows, depth, x, y, y_at, columns, pitch, mode, mask):  # type: ignore[no-untyped-def]
    """``y[:rows, :columns] = w @ x``; rows of x and y are ``pitch`` apart. Rows and columns are whole tiles."""
    for p in range(0, columns, POINT_STEP):
        for o in range(0, rows, TILE_ROWS):
            matrix_tile(w, w_at + o * w_pitch, w_pitch, depth, x, p, pitch, y, y_at + o * pitch + p, mask, mode)


@_jit
def _load_block(source, first, count, block):  # type: ignore[no-untyped-def]
    """Copy points of feature-major ``source`` (C, N) into ``block`` (C rows), padding missing points with zero."""
    for channel in range(source.shape[0]):
        row = source[channel, first : first + count]
        target = block[channel * PITCH : channel * PITCH + BLOCK]
        for p in range(count):
            target[p] = row[p]
        for p in range(count, BLOCK):
            target[p] = np.float32(0.0)


@_jit
def _load_shared(shared, index, first, count, block, at):  # type: ignore[no-untyped-def]
    """Rows of ``shared`` (R, K) picked by ``index`` into ``block`` from element ``at``, feature by feature."""
    width = shared.shape[1]
    for p in range(count):
        ray = index[first + p]
        for k in range(width):
            block[at + k * PITCH + p] = shared[ray, k]
    for k in range(width):
        for p in range(count, BLOCK):
            block[at + k * PITCH + p] = np.float32(0.0)


@_jit
def _store_block(block, target, first, count):  # type: ignore[no-untyped-def]
    """The inverse of `_load_block`, for the rows that ``target`` has."""
    for channel in range(target.shape[0]):
        row = target[channel, first : first + count]
        source = block[channel * PITCH : channel * PITCH + BLOCK]
        for p in range(count):
            row[p] = source[p]


@_jit
def _forward(block_start, block_stop, inputs, shared, index, weights, widths, hidden, keep, outputs):  # type: ignore[no-untyped-def]
    """Blocks [block_start, block_stop). ``hidden`` (slots, units * PITCH) has a slot per block if ``keep``.

    ``widths``: inputs, then rows of each layer padded to whole tiles.
    """
    layers = widths.size - 1
    x = np.empty(widths[0] * PITCH, np.float32)
    y = np.empty(widths[layers] * PITCH, np.float32)
    for block in range(block_start, block_stop):
        first = block * BLOCK
        count = min(BLOCK, inputs.shape[1] - first)
        _load_block(inputs, first, count, x)
        _load_shared(shared, index, first, count, x, inputs.shape[0] * PITCH)
        slot = hidden[block if keep else block_start]
        source = x
        w_at, at = 0, 0
        for layer in range(layers):
            depth, rows = widths[layer], widths[layer + 1]
            last = layer + 1 == layers
            target = y if last else slot
            mode = STORE if last else STORE_RELU
            _product(weights, w_at, depth, rows, depth, source, target, 0 if last else at, BLOCK, PITCH, mode, y)
            if not last:
                source = slot[at:]
                at += rows * PITCH
            w_at += rows * depth
        _store_block(y, outputs, first, count)


@_jit
def _transpose(source, rows, padded, target):  # type: ignore[no-untyped-def]
    """``target[p * padded + k] = source[k * PITCH + p]``; ``padded``: ``rows`` rounded up to POINT_STEP, rest 0."""
    whole = rows // LANES * LANES
    for k in range(0, whole, LANES):
        for p in range(0, BLOCK, LANES):
            transpose_tile(source, k * PITCH + p, PITCH, target, p * padded + k, padded)
    if whole < padded:
        for p in range(BLOCK):
            for k in range(whole, rows):
                target[p * padded + k] = source[k * PITCH + p]
            for k in range(rows, padded):
                target[p * padded + k] = np.float32(0.0)


@_jit
def _backward(
    block_start, block_stop, inputs, shared, index, hidden, grad_outputs, transposed, widths, grad_inputs, grad_weights
):  # type: ignore[no-untyped-def]
    """Gradients of blocks [block_start, block_stop); ``grad_weights`` belongs to this task alone.

    ``transposed`` holds W^T of every layer, padded, one after another; ``grad_inputs`` without rows is not computed.
    """
    layers = widths.size - 1
    widest = widths.max() + TILE_ROWS
    x = np.empty(widths[0] * PITCH, np.float32)
    grad = np.zeros(widest * PITCH, np.float32)
    grad_below = np.zeros(widest * PITCH, np.float32)
    turned = np.empty((widest + POINT_STEP) * BLOCK, np.float32)
    for block in range(block_start, block_stop):
        first = block * BLOCK
        count = min(BLOCK, inputs.shape[1] - first)
        _load_block(inputs, first, count, x)
        _load_shared(shared, index, first, count, x, inputs.shape[0] * PITCH)
        _load_block(grad_outputs, first, count, grad)
        grad[grad_outputs.shape[0] * PITCH : widths[layers] * PITCH] = np.float32(0.0)
        slot = hidden[block]
        at, w_at, g_at = slot.size, transposed.size, grad_weights.size
        for layer in range(layers - 1, -1, -1):
            depth, rows = widths[layer], widths[layer + 1]
            padded = (depth + POINT_STEP - 1) // POINT_STEP * POINT_STEP
            deep = (depth + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
            w_at -= rows * deep
            g_at -= rows * padded
            at -= depth * PITCH if layer else 0
            source = slot[at:] if layer else x
            _transpose(source, depth, padded, turned)
            _product(grad, 0, PITCH, rows, BLOCK, turned, grad_weights, g_at, padded, padded, ACCUMULATE, grad)
            if layer or grad_inputs.shape[0]:
                mode = STORE_MASKED if layer else STORE
                _product(transposed, w_at, rows, deep, rows, grad, grad_below, 0, BLOCK, PITCH, mode, source)
                grad, grad_below = grad_below, grad
        _store_block(grad, grad_inputs, first, count)


@_jit
def _sum_by_index(first, stop, grads, index, sums):  # type: ignore[no-untyped-def]
    """Rows [first, stop): add ``grads`` (K, N) of the points that share an input, into ``sums`` (K, R)."""
    for k in range(first, stop):
        for n in range(index.size):
            sums[k, index[n]] += grads[k, n]


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _padded(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """``matrix`` with zeros appended up to so many rows and columns."""
    if matrix.shape == (rows, columns):  # mostly; and padding by nothing takes longer than multiplying does
        return matrix
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, shared, index, *weights):  # type: ignore[no-untyped-def]
        x, common, rays = _arrays(inputs, shared, index)
        points, keep = inputs.shape[0], any(ctx.needs_input_grad)
        widths = np.array([weights[0].shape[1], *(_up(weight.shape[0], TILE_ROWS) for weight in weights)], np.int64)
        # Hidden units that only pad a tile have no column in the next layer's matrix: give them zero ones.
        shapes = [(int(rows), int(columns)) for rows, columns in zip(widths[1:], widths, strict=False)]
        matrices = [_padded(weight.detach(), *shape) for weight, shape in zip(weights, shapes, strict=True)]
        flat = torch.cat([matrix.reshape(-1) for matrix in matrices]).numpy()
        tasks = _ranges(-(-points // BLOCK))
        slots = tasks[-1][1] if tasks else 0
        hidden = workspace.empty(slots, int(widths[1:-1].sum()) * PITCH)
        outputs = empty_feature_major(points, weights[-1].shape[0])
        turned = outputs.T.numpy()
        run_tasks(
            [lambda a=a, b=b: _forward(a, b, x, common, rays, flat, widths, hidden, keep, turned) for a, b in tasks]
        )  # type: ignore[misc]
        if keep:
            ctx.save_for_backward(inputs, shared, index, *weights)
            ctx.hidden, ctx.widths, ctx.matrices = hidden, widths, matrices
        return outputs

    @staticmethod
    def backward(ctx, grad_outputs):  # type: ignore[no-untyped-def]
        inputs, shared, index, *weights = ctx.saved_tensors
        widths, points = ctx.widths, inputs.shape[0]
        # W^T: its rows, which are the matrix' columns, must be whole tiles too; those of the inputs are not yet.
        transposed = torch.cat(
            [_padded(matrix.T, _up(matrix.shape[1], TILE_ROWS), matrix.shape[0]).reshape(-1) for matrix in ctx.matrices]
        ).numpy()
        pitches = [_up(int(width), POINT_STEP) for width in widths[:-1]]
        sizes = [int(rows) * pitch for rows, pitch in zip(widths[1:], pitches, strict=True)]
        tasks = _ranges(-(-points // BLOCK))
        partial = np.zeros((len(tasks), sum(sizes)), np.float32)
        to_inputs, to_shared = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        # The gradient of all inputs, of the first ones alone, or of none.
        rows = int(widths[0]) if to_shared else inputs.shape[1] if to_inputs else 0
        grad_all = empty_feature_major(points, rows)
        x, common, rays = _arrays(inputs, shared, index)
        g, gx = feature_major(grad_outputs), grad_all.T.numpy()
        run_tasks(
            [
                lambda a=a, b=b, out=out: _backward(a, b, x, common, rays, ctx.hidden, g, transposed, widths, gx, out)  # type: ignore[misc]
                for (a, b), out in zip(tasks, partial, strict=True)
            ]
        )
        total = torch.from_numpy(partial).sum(0).split(sizes)
        grads = [
            part.view(-1, pitch)[: weight.shape[0], : weight.shape[1]]
            for part, weight, pitch in zip(total, weights, pitches, strict=True)
        ]
        grad_shared = None
        if to_shared:
            sums = np.zeros((shared.shape[1], shared.shape[0]), np.float32)
            run_split(_sum_by_index, len(sums), gx[inputs.shape[1] :], rays, sums, grain=1)
            grad_shared = torch.from_numpy(sums).T
        return (grad_all[:, : inputs.shape[1]] if to_inputs else None, grad_shared, None, *grads)


def _arrays(inputs, shared, index):  # type: ignore[no-untyped-def]
    """Inputs (C, N), shared inputs (R, K) and their index (N,) as arrays; without shared inputs K is 0."""
    if shared is None:
        return feature_major(inputs), np.empty((1, 0), np.float32), np.zeros(len(inputs), np.int32)
    return feature_major(inputs), shared.detach().contiguous().numpy(), index.int().contiguous().numpy()


def _ranges(blocks: int) -> list[tuple[int, int]]:
    """Block ranges, four a thread: a fixed partition, so that sums are reproducible for a thread count."""
    count = min(blocks, 4 * kernel_threads())
    edges = [blocks * index // count for index in range(count + 1)] if count else [0]
    return list(zip(edges[:-1], edges[1:], strict=True))


def fused_mlp(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    shared: torch.Tensor | None = None,
    shared_index: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `voxfield.kernels.fused_mlp.api.fused_mlp`."""
    return _FusedMlp.apply(inputs, shared, shared_index, *weights)  # type: ignore[no-any-return, no-untyped-call]
