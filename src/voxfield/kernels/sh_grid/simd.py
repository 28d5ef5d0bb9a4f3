"""Rows of coefficients as short vectors: the inner loops of ``numba_cpu.py``, written in LLVM's own terms.

A row has 3, 12, 27 or 48 floats, which Numba's vectoriser leaves half scalar. ``entry`` is a tuple as long as a row:
its length is known when a loop is compiled.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from voxfield.kernels.simd import F32, I64, array_pointer, row_piece, row_pieces, shuffle, splat

_LINE = 16
"""Floats in a cache line."""
_QUARTER = ir.VectorType(F32, 4)
"""Four values of a corner of a cell."""


def _corner(builder, pointer, corner):  # type: ignore[no-untyped-def]
    """Pointer to the four values of a corner."""
    address = builder.gep(pointer, [builder.mul(corner, I64(4))])
    return builder.bitcast(address, _QUARTER.as_pointer())


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
        for at, width in row_pieces(channels):
            total = None
            for start, share in zip(starts, shares, strict=True):
                value = builder.load(row_piece(builder, values_ptr, start, at, width), align=4)
                term = builder.fmul(value, splat(builder, share, width), flags=("fast",))
                total = term if total is None else builder.fadd(total, term, flags=("fast",))
            builder.store(total, row_piece(builder, output_ptr, args[4], at, width), align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def project_row(typingctx, values, offset, basis, basis_at, corners, corner, entry):  # type: ignore[no-untyped-def]
    """``corners[4 * corner + c] = sum over b of values[offset + c * bands + b] * basis[basis_at + b]``, three colours.

    ``entry`` has three times as many elements as there are bands.
    """
    signature = types.void(values, offset, basis, basis_at, corners, corner, entry)
    bands = len(entry) // 3

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values_ptr, basis_ptr, corners_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 4)
        )
        colours = []
        for colour in range(3):
            quarters, total = [], None
            for at, width in row_pieces(bands):
                value = builder.load(row_piece(builder, values_ptr, args[1], colour * bands + at, width), align=4)
                share = builder.load(row_piece(builder, basis_ptr, args[3], at, width), align=4)
                term = builder.fmul(value, share, flags=("fast",))
                while width > 4:
                    width //= 2
                    low, high = (shuffle(builder, term, None, range(half, half + width)) for half in (0, width))
                    term = builder.fadd(low, high, flags=("fast",))
                zeros = ir.Constant(term.type, None)
                quarters.append(shuffle(builder, term, zeros, [*range(width), *[width] * (4 - width)]))
            for quarter in quarters:
                total = quarter if total is None else builder.fadd(total, quarter, flags=("fast",))
            colours.append(total)
        red, green, blue = colours
        # Sums of four lanes each, of all three at once: (r0+r2, r1+r3, g0+g2, g1+g3), then pairs of those.
        mixed = builder.fadd(
            shuffle(builder, red, green, [0, 1, 4, 5]), shuffle(builder, red, green, [2, 3, 6, 7]), flags=("fast",)
        )
        last = builder.fadd(blue, shuffle(builder, blue, None, [2, 3, 0, 1]), flags=("fast",))
        summed = builder.fadd(
            shuffle(builder, mixed, last, [0, 2, 4, 4]), shuffle(builder, mixed, last, [1, 3, 5, 5]), flags=("fast",)
        )
        builder.store(summed, _corner(builder, corners_ptr, args[5]), align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_outer(typingctx, target, offset, corners, corner, tiled, entry):  # type: ignore[no-untyped-def]
    """``target[offset + c * bands + b] += corners[4 * corner + c] * tiled[c * bands + b]``, three colours.

    ``tiled`` holds the basis three times over, as long as ``entry``.
    """
    signature = types.void(target, offset, corners, corner, tiled, entry)
    channels = len(entry)
    bands = channels // 3

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target_ptr, corners_ptr, tiled_ptr = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 4)
        )
        colours = builder.load(_corner(builder, corners_ptr, args[3]), align=4)
        for at, width in row_pieces(channels):
            place = row_piece(builder, target_ptr, args[1], at, width)
            share = builder.load(row_piece(builder, tiled_ptr, I64(0), at, width), align=4)
            spread = shuffle(builder, colours, None, [channel // bands for channel in range(at, at + width)])
            added = builder.fmul(share, spread, flags=("fast",))
            builder.store(builder.fadd(builder.load(place, align=4), added, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def clear_corner(typingctx, corners, corner):  # type: ignore[no-untyped-def]
    """``corners[4 * corner :][:4] = 0``."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = array_pointer(context, builder, signature.args[0], args[0])
        builder.store(ir.Constant(_QUARTER, [0.0] * 4), _corner(builder, pointer, args[1]), align=4)
        return context.get_dummy_value()

    return types.void(corners, corner), codegen


@intrinsic
def lerp_corners(typingctx, corners, x, y, z, output):  # type: ignore[no-untyped-def]
    """``output[:4]``: the eight corners' four values at a point ``x, y, z`` (0 to 1, float32) between them."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer, output_ptr = (array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 4))
        values = [builder.load(_corner(builder, pointer, I64(corner)), align=4) for corner in range(8)]
        for position in args[1:4]:
            share = splat(builder, position, 4)
            steps = [builder.fsub(values[i + 1], values[i], flags=("fast",)) for i in range(0, len(values), 2)]
            values = [
                builder.fadd(start, builder.fmul(share, step, flags=("fast",)), flags=("fast",))
                for start, step in zip(values[::2], steps, strict=True)
            ]
        builder.store(values[0], _corner(builder, output_ptr, I64(0)), align=4)
        return context.get_dummy_value()

    return types.void(corners, x, y, z, output), codegen


@intrinsic
def spread_corners(typingctx, corners, x, y, z, given, number):  # type: ignore[no-untyped-def]
    """Add ``given[4 * number :][:4]`` to the eight corners, each its share at a point ``x, y, z`` between them."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer, given_ptr = (array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 4))
        parts = [builder.load(_corner(builder, given_ptr, args[5]), align=4)]
        for position in reversed(args[1:4]):
            share = splat(builder, position, 4)
            split = []
            for part in parts:
                high = builder.fmul(part, share, flags=("fast",))
                split += [builder.fsub(part, high, flags=("fast",)), high]
            parts = split
        for corner, part in enumerate(parts):
            place = _corner(builder, pointer, I64(corner))
            builder.store(builder.fadd(builder.load(place, align=4), part, flags=("fast",)), place, align=4)
        return context.get_dummy_value()

    return types.void(corners, x, y, z, given, number), codegen


@intrinsic
def prefetch_row(typingctx, values, offset, entry):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of ``values[offset : offset + len(entry)]``; elements of four bytes, or a single one."""
    signature = types.void(values, offset, entry)
    channels = len(entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0i8"
        )
        pointer = array_pointer(context, builder, signature.args[0], args[0])
        offset = args[1] if args[1].type == I64 else builder.sext(args[1], I64)
        for at in {*range(0, channels, _LINE), channels - 1}:
            address = builder.bitcast(builder.gep(pointer, [builder.add(offset, I64(at))]), byte)
            builder.call(
                prefetch,
                [
                    address,
                    number(0),
                    number(__import__("os").environ.get("P", "3") and int(__import__("os").environ.get("P", "3"))),
                    number(1),
                ],
            )
        return context.get_dummy_value()

    return signature, codegen
