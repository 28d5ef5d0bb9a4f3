"""Rows of coefficients as short vectors: the inner loops of ``numba_cpu.py``, written in LLVM's own terms.

A row has 3, 12, 27 or 48 floats, which Numba's vectoriser leaves half scalar. ``entry`` is a tuple as long as a row:
its length is known when a loop is compiled.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from voxfield.kernels.simd import F32, I64, LANES, array_pointer

_LINE = 16
"""Floats in a cache line."""


def _pieces(channels):  # type: ignore[no-untyped-def]
    """(first channel, width) of the short vectors, powers of two, that a row of ``channels`` floats is taken in."""
    at, width = 0, LANES
    while at < channels:
        while width > channels - at:
            width //= 2
        yield at, width
        at += width


def _piece(builder, pointer, offset, at, width):  # type: ignore[no-untyped-def]
    """Pointer to ``width`` floats from ``pointer[offset + at]``, as a vector."""
    address = builder.gep(pointer, [builder.add(offset, I64(at))])
    return builder.bitcast(address, ir.VectorType(F32, width).as_pointer())


def _everywhere(builder, scalar, width):  # type: ignore[no-untyped-def]
    """A vector with ``scalar`` in every lane."""
    vector = ir.Constant(ir.VectorType(F32, width), ir.Undefined)
    vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)


@intrinsic
def blend(typingctx, values, offsets, weights, output, output_at, entry):  # type: ignore[no-untyped-def]
    """``output[output_at + c] = sum over i < 8 of weights[i] * values[offsets[i] + c]`` for ``len(entry)`` channels."""
    signature = types.void(values, offsets, weights, output, output_at, entry)
    channels = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values_ptr, offsets_ptr, weights_ptr, output_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in range(4)
        )
        starts = [builder.load(builder.gep(offsets_ptr, [I64(i)])) for i in range(8)]
        shares = [builder.load(builder.gep(weights_ptr, [I64(i)])) for i in range(8)]
        for at, width in _pieces(channels):
            total = None
            for start, share in zip(starts, shares, strict=True):
                value = builder.load(_piece(builder, values_ptr, start, at, width), align=4)
                term = builder.fmul(value, _everywhere(builder, share, width), flags=("fast",))
                total = term if total is None else builder.fadd(total, term, flags=("fast",))
            builder.store(total, _piece(builder, output_ptr, args[4], at, width), align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_row(typingctx, target, target_at, vector, share, entry):  # type: ignore[no-untyped-def]
    """``target[target_at + c] += share * vector[c]`` for ``len(entry)`` channels."""
    signature = types.void(target, target_at, vector, share, entry)
    channels = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target_ptr, vector_ptr = (array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2))
        for at, width in _pieces(channels):
            place = _piece(builder, target_ptr, args[1], at, width)
            added = builder.load(_piece(builder, vector_ptr, I64(0), at, width), align=4)
            added = builder.fmul(added, _everywhere(builder, args[3], width), flags=("fast",))
            builder.store(builder.fadd(builder.load(place, align=4), added, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def prefetch_row(typingctx, values, offset, entry):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of ``values[offset : offset + len(entry)]``."""
    signature = types.void(values, offset, entry)
    channels = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0i8"
        )
        pointer = array_pointer(context, builder, signature.args[0], args[0])
        for at in {*range(0, channels, _LINE), channels - 1}:
            address = builder.bitcast(builder.gep(pointer, [builder.add(args[1], I64(at))]), byte)
            builder.call(prefetch, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, codegen
