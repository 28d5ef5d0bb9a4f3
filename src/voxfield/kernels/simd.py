"""Explicit SIMD for the Numba kernels: small LLVM vector programs that Numba inlines into the loop that calls them.

Numba's auto-vectoriser leaves gathers and register-blocked matrix products scalar. An ``intrinsic`` may emit LLVM IR of
its own, with ``<LANES x float>`` vectors that LLVM lowers to whatever the processor has (AVX-512, AVX2, NEON).
Pointers are derived from C-contiguous float32 arrays; offsets and strides are counted in elements, as int64.

Symbols: ``p`` point (the contiguous axis), ``k`` summed axis, ``o`` output row.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
"""Floats in one vector register. Zen 3 (AVX2): 8; Zen 4 and later, Sapphire Rapids (AVX-512): 16."""

GATHERS = LANES == 16 and bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))
"""Whether the processor's gather instruction is quick: those with AVX-512 but without bfloat16 are the ones whose
gathers had to be slowed down against data sampling (Skylake to Ice Lake). Emerald Rapids, hash encoding forward,
tables of 2^15 to 2^19 entries, M points/s: 23 to 11 with it, 13 to 7 with scalar loads."""

TILE_ROWS = 8 if LANES == 16 else 4
TILE_VECTORS = 2
"""Accumulators of the matrix product: rows x vectors. Measured with the 16 registers of AVX2 (Zen 3), 64x64 times 64x64
blocks: 4x2 81 GFLOP/s a thread, 6x2 62, 3x4 51, 5x2 67 (torch: 57), because only 4x2 leaves LLVM registers to unroll.
With the 32 of AVX-512 (Sapphire Rapids), 32 -> 64 -> 64 -> 4 forward / with backward, M rows/s a thread: 4x2 8.1 / 2.4,
8x2 8.4 / 2.65, 4x4 9.2 / 2.4, as it pads the gradients of narrow matrices."""

POINT_STEP = LANES * TILE_VECTORS
"""Points that one tile covers: block sizes must be multiples of it."""

F32 = ir.FloatType()
F64 = ir.DoubleType()
I32 = ir.IntType(32)
I64 = ir.IntType(64)
VECTOR_F32 = ir.VectorType(F32, LANES)
VECTOR_F64 = ir.VectorType(F64, LANES)
VECTOR_I32 = ir.VectorType(I32, LANES)
_FAST = ("fast",)


def array_pointer(context: Any, builder: ir.IRBuilder, array_type: Any, value: ir.Value) -> ir.Value:
    """The data pointer of a Numba array argument."""
    return context.make_array(array_type)(context, builder, value).data


def splat(builder: ir.IRBuilder, scalar: ir.Value, width: int = LANES) -> ir.Value:
    """A vector with ``scalar`` in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(I32, width), [0] * width)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, I32(0)), undefined, zeros)


def constant(value: float, scalar_type: ir.Type = F32) -> ir.Value:
    """A vector constant with ``value`` in every lane."""
    return ir.Constant(ir.VectorType(scalar_type, LANES), [value] * LANES)


def load_vector(builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
    """LANES floats from ``pointer[index:]``, unaligned."""
    address = builder.bitcast(builder.gep(pointer, [index]), VECTOR_F32.as_pointer())
    return builder.load(address, align=4)


def store_vector(builder: ir.IRBuilder, vector: ir.Value, pointer: ir.Value, index: ir.Value) -> None:
    """Store ``vector`` at ``pointer[index:]``, unaligned."""
    address = builder.bitcast(builder.gep(pointer, [index]), vector.type.as_pointer())
    builder.store(vector, address, align=4)


def row_pieces(channels: int) -> Iterator[tuple[int, int]]:
    """(first channel, width) of the short vectors, powers of two, that a row of ``channels`` floats is taken in."""
    at, width = 0, LANES
    while at < channels:
        while width > channels - at:
            width //= 2
        yield at, width
        at += width


def row_piece(builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, at: int, width: int) -> ir.Value:
    """Pointer to ``width`` floats from ``pointer[offset + at]``, as a vector."""
    address = builder.gep(pointer, [builder.add(offset, I64(at))])
    return builder.bitcast(address, ir.VectorType(F32, width).as_pointer())


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value | None, lanes: Sequence[int]) -> ir.Value:
    """Pick ``lanes`` from the concatenation of ``a`` and ``b``."""
    other = ir.Constant(a.type, ir.Undefined) if b is None else b
    return builder.shuffle_vector(a, other, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def gather_pairs(builder: ir.IRBuilder, pointer: ir.Value, rows: ir.Value) -> list[ir.Value]:
    """The first and the second floats of LANES rows of a (R, 2) array at ``pointer``. Only where `GATHERS`."""
    pairs, indices, flags = (ir.VectorType(kind, 8) for kind in (ir.DoubleType(), I32, ir.IntType(1)))
    base = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(pairs, [pairs, base.type, indices, flags, I32])
    gather = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.gather.dpd.512")
    halves = []
    for first in (0, 8):
        index = shuffle(builder, rows, None, range(first, first + 8))
        every, row_bytes = ir.Constant(flags, [True] * 8), I32(8)
        gathered = builder.call(gather, [ir.Constant(pairs, ir.Undefined), base, index, every, row_bytes])
        halves.append(builder.bitcast(gathered, VECTOR_F32))
    return [shuffle(builder, halves[0], halves[1], range(feature, 2 * LANES, 2)) for feature in range(2)]


def gather_bits(builder: ir.IRBuilder, pointer: ir.Value, numbers: ir.Value, last: ir.Value) -> ir.Value:
    """Bits, 0 or 1, of bytes at ``pointer``: LANES of them by their ``numbers``, the lowest of a byte first.

    ``last`` is the number of bytes less 4, at least 0: each bit is taken from four bytes, none of them beyond the end.
    """
    ends = splat(builder, last)
    byte = builder.lshr(numbers, constant(3, I32))
    byte = builder.select(builder.icmp_signed("<", byte, ends), byte, ends)
    if GATHERS:
        flags = ir.VectorType(ir.IntType(1), LANES)
        base = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(VECTOR_I32, [VECTOR_I32, base.type, VECTOR_I32, flags, I32])
        gather = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.gather.dpi.512")
        every = ir.Constant(flags, [True] * LANES)
        words = builder.call(gather, [ir.Constant(VECTOR_I32, ir.Undefined), base, byte, every, I32(1)])
    else:
        words = ir.Constant(VECTOR_I32, ir.Undefined)
        for lane in range(LANES):
            address = builder.gep(pointer, [builder.zext(builder.extract_element(byte, I32(lane)), I64)])
            word = builder.load(builder.bitcast(address, I32.as_pointer()), align=1)
            words = builder.insert_element(words, word, I32(lane))
    within = builder.sub(numbers, builder.shl(byte, constant(3, I32)))
    return builder.and_(builder.lshr(words, within), constant(1, I32))


class LaneRows:
    """Rows of LANES float64 each, one number of LANES rays: what programs that follow rays side by side work on."""

    def __init__(self, builder: ir.IRBuilder, rows: ir.Value):
        self.builder, self.rows = builder, rows

    def load(self, row: int) -> ir.Value:
        """A row."""
        address = self.builder.gep(self.rows, [I64(row * LANES)])
        return self.builder.load(self.builder.bitcast(address, VECTOR_F64.as_pointer()), align=8)

    def store(self, row: int, value: ir.Value) -> None:
        """Write a row."""
        address = self.builder.gep(self.rows, [I64(row * LANES)])
        self.builder.store(value, self.builder.bitcast(address, VECTOR_F64.as_pointer()), align=8)

    def call(self, name: str, value: ir.Value) -> ir.Value:
        """LLVM's function of that name, such as ``floor``, of each lane."""
        signature = ir.FunctionType(VECTOR_F64, [VECTOR_F64])
        function = self.builder.module.declare_intrinsic(f"llvm.{name}.v{LANES}f64", (), signature)
        return self.builder.call(function, [value])

    def least(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The lesser of each lane; ``b`` where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def greatest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater of each lane; ``b`` where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def bits(self, lanes: ir.Value) -> ir.Value:
        """An int64 with a bit for each lane that is true."""
        return self.builder.zext(self.builder.bitcast(lanes, ir.IntType(LANES)), I64)


@intrinsic
def lowest_bit(typingctx, bits):  # type: ignore[no-untyped-def]
    """The number of the lowest bit that is set."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """``a * b + c``, contracted to one instruction where the processor has it."""
    return builder.fadd(builder.fmul(a, b, flags=_FAST), c, flags=_FAST)


STORE, STORE_RELU, STORE_MASKED, ACCUMULATE = 0, 1, 2, 3
"""What `matrix_tile` does with its sums: store; store max(0, sum); store where the mask is positive (the backward of
ReLU), else 0; add to what is there."""


@intrinsic
def matrix_tile(typingctx, w, w_at, w_pitch, depth, x, x_at, pitch, y, y_at, mask, mode):  # type: ignore[no-untyped-def]
    """One tile of ``Y = W @ X`` with its sums in registers: TILE_ROWS rows by POINT_STEP points.

    ``Y[i, p] = mode(sum_k W[i, k] X[k, p])``. Rows of W are ``w_pitch`` apart, those of X, Y and the mask ``pitch``.
    """
    signature = types.void(w, w_at, w_pitch, depth, x, x_at, pitch, y, y_at, mask, mode)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        w_ptr, x_ptr, y_ptr, mask_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 4, 7, 9)
        )
        _, w_at, w_pitch, depth, _, x_at, pitch, _, y_at, _, mode = args
        tile = [(i, j) for i in range(TILE_ROWS) for j in range(TILE_VECTORS)]
        # Stack slots: LLVM promotes them to registers.
        sums = {ij: cgutils.alloca_once(builder, VECTOR_F32) for ij in tile}
        for ij in tile:
            builder.store(constant(0.0), sums[ij])
        row_at = [builder.add(w_at, builder.mul(w_pitch, I64(i))) for i in range(TILE_ROWS)]
        with cgutils.for_range(builder, depth, intp=I64) as loop:
            x_row = builder.add(x_at, builder.mul(loop.index, pitch))
            x_vectors = [load_vector(builder, x_ptr, builder.add(x_row, I64(LANES * j))) for j in range(TILE_VECTORS)]
            for i in range(TILE_ROWS):
                weight = splat(builder, builder.load(builder.gep(w_ptr, [builder.add(row_at[i], loop.index)])))
                for j in range(TILE_VECTORS):
                    total = multiply_add(builder, weight, x_vectors[j], builder.load(sums[i, j]))
                    builder.store(total, sums[i, j])
        y_index = {(i, j): builder.add(builder.add(y_at, builder.mul(pitch, I64(i))), I64(LANES * j)) for i, j in tile}
        # Only what the mode needs is loaded: Y may be uninitialised memory and the mask a dummy.
        with builder.if_then(builder.icmp_signed("==", mode, mode.type(STORE_RELU))):
            for ij in tile:
                total = builder.load(sums[ij])
                positive = builder.fcmp_ordered(">", total, constant(0.0))
                builder.store(builder.select(positive, total, constant(0.0)), sums[ij])
        with builder.if_then(builder.icmp_signed("==", mode, mode.type(STORE_MASKED))):
            for ij in tile:
                kept = builder.fcmp_ordered(">", load_vector(builder, mask_ptr, y_index[ij]), constant(0.0))
                builder.store(builder.select(kept, builder.load(sums[ij]), constant(0.0)), sums[ij])
        with builder.if_then(builder.icmp_signed("==", mode, mode.type(ACCUMULATE))):
            for ij in tile:
                held = load_vector(builder, y_ptr, y_index[ij])
                builder.store(builder.fadd(builder.load(sums[ij]), held, flags=_FAST), sums[ij])
        for ij in tile:
            store_vector(builder, builder.load(sums[ij]), y_ptr, y_index[ij])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_tile(typingctx, source, source_at, source_stride, target, target_at, target_stride):  # type: ignore[no-untyped-def]
    """``target[j, i] = source[i, j]`` for LANES x LANES floats, by log2(LANES) rounds of interleaving."""
    signature = types.void(source, source_at, source_stride, target, target_at, target_stride)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source_ptr = array_pointer(context, builder, signature.args[0], args[0])
        target_ptr = array_pointer(context, builder, signature.args[3], args[3])
        rows = [
            load_vector(builder, source_ptr, builder.add(args[1], builder.mul(args[2], I64(i)))) for i in range(LANES)
        ]
        # One round interleaves row i with row i + LANES/2; after log2(LANES) rounds the matrix is transposed.
        half = LANES // 2
        low = [lane for pair in range(half) for lane in (pair, LANES + pair)]
        high = [lane for pair in range(half, LANES) for lane in (pair, LANES + pair)]
        for _ in range(LANES.bit_length() - 1):
            rows = [
                shuffle(builder, rows[i // 2], rows[i // 2 + half], low if i % 2 == 0 else high) for i in range(LANES)
            ]
        for i in range(LANES):
            store_vector(builder, rows[i], target_ptr, builder.add(args[4], builder.mul(args[5], I64(i))))
        return context.get_dummy_value()

    return signature, codegen
