"""The differences of a voxel's channels to its neighbours', as short vectors written in LLVM's own terms."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from voxfield.kernels.simd import F32, F64, I32, I64, array_pointer, row_piece, row_pieces, shuffle, splat
from voxfield.kernels.total_variation.api import SMOOTHING

_FAST = ("fast",)


class _Stencil:
    """A voxel and its next neighbours along x, y, z: their rows' channels, and what they differ by."""

    def __init__(self, context, builder, signature, args) -> None:  # type: ignore[no-untyped-def]
        """``args``: values, rows (4 int64, -1 where nothing is stored), sizes (3 float32), channels of a row, first."""
        self.builder = builder
        self.values, rows, sizes = (array_pointer(context, builder, signature.args[i], args[i]) for i in range(3))
        numbers = [builder.load(builder.gep(rows, [I64(i)])) for i in range(4)]
        self.stored = [builder.icmp_signed(">=", number, I64(0)) for number in numbers]
        # Where nothing is stored the first row is looked at, and counts as zeros.
        self.offsets = [
            builder.add(builder.mul(builder.select(there, number, I64(0)), args[3]), args[4])
            for there, number in zip(self.stored, numbers, strict=True)
        ]
        self.sizes = [builder.load(builder.gep(sizes, [I64(i)])) for i in range(3)]

    def differences(self, at, width):  # type: ignore[no-untyped-def]
        """Differences along x, y, z of ``width`` channels, per 1 / 256 of the box, and the roots of their squares."""
        builder, zeros = self.builder, ir.Constant(ir.VectorType(F32, width), None)
        here, *others = (
            builder.select(there, builder.load(row_piece(builder, self.values, offset, at, width), align=4), zeros)
            for there, offset in zip(self.stored, self.offsets, strict=True)
        )
        found, square = [], splat(builder, F32(SMOOTHING), width)
        for other, size in zip(others, self.sizes, strict=True):
            step = builder.fmul(builder.fsub(other, here), splat(builder, size, width))
            square = builder.fadd(square, builder.fmul(step, step), flags=_FAST)
            found.append(step)
        root = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(zeros.type, [zeros.type]), f"llvm.sqrt.v{width}f32"
        )
        return found, builder.call(root, [square])


@intrinsic
def variation(typingctx, values, rows, sizes, channels, first, entry):  # type: ignore[no-untyped-def]
    """The sum of the roots of ``len(entry)`` channels from ``first``."""
    signature = types.float64(values, rows, sizes, channels, first, entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        stencil, total = _Stencil(context, builder, signature, args), ir.Constant(F64, 0.0)
        for at, width in row_pieces(len(entry)):
            roots = stencil.differences(at, width)[1]
            while width > 1:
                width //= 2
                low, high = (shuffle(builder, roots, None, range(half, half + width)) for half in (0, width))
                roots = builder.fadd(low, high, flags=_FAST)
            total = builder.fadd(total, builder.fpext(builder.extract_element(roots, I32(0)), F64))
        return total

    return signature, codegen


@intrinsic
def add_variation_gradient(typingctx, values, rows, sizes, channels, first, scale, gradient, entry):  # type: ignore[no-untyped-def]
    """Add ``scale`` (float32) times the gradient of `variation` to the four rows of ``gradient``."""
    signature = types.void(values, rows, sizes, channels, first, scale, gradient, entry)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        stencil = _Stencil(context, builder, signature, args)
        gradient_ptr = array_pointer(context, builder, signature.args[6], args[6])
        for at, width in row_pieces(len(entry)):
            steps, root = stencil.differences(at, width)
            slope = builder.fdiv(splat(builder, args[5], width), root)
            parts = [
                builder.fmul(builder.fmul(step, slope), splat(builder, size, width))
                for step, size in zip(steps, stencil.sizes, strict=True)
            ]
            parts.insert(0, builder.fneg(builder.fadd(builder.fadd(parts[0], parts[1]), parts[2])))
            # One after another: beyond the border a voxel is its own neighbour, and its row stands here twice.
            for part, there, offset in zip(parts, stencil.stored, stencil.offsets, strict=True):
                with builder.if_then(there):
                    place = row_piece(builder, gradient_ptr, offset, at, width)
                    builder.store(builder.fadd(builder.load(place, align=4), part), place, align=4)
        return context.get_dummy_value()

    return signature, codegen
