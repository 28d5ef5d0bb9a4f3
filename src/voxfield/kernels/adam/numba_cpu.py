"""The Adam update on a CPU: LANES entries at a time, skipped where no gradient came."""

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from voxfield.kernels.adam.api import AdamRule
from voxfield.kernels.jit import njit
from voxfield.kernels.simd import (
    LANES,
    VECTOR_F32,
    array_pointer,
    constant,
    load_vector,
    multiply_add,
    splat,
    store_vector,
)
from voxfield.kernels.threads import run_split

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")


@intrinsic
def _update_lanes(typingctx, at, parameter, gradient, first, second, constants, skip_zero):  # type: ignore[no-untyped-def]
    """Update LANES entries from index ``at``. ``constants``: a tuple of rate, beta1, beta2, root, epsilon (float32)."""
    signature = types.void(at, parameter, gradient, first, second, constants, skip_zero)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        p_ptr, g_ptr, m_ptr, v_ptr = (array_pointer(context, builder, signature.args[i], args[i]) for i in (1, 2, 3, 4))
        at, skip_zero = args[0], args[6]
        scalars = [builder.extract_value(args[5], i) for i in range(5)]
        rate, beta1, beta2, root, epsilon = (splat(builder, scalar) for scalar in scalars)
        one, zero = constant(1.0), constant(0.0)
        g = load_vector(builder, g_ptr, at)
        # As numbers, not as bits: -0.0 is zero, as in the reference; NaN is not, so that it is noticed.
        nonzero = builder.fcmp_unordered("!=", g, zero)
        touched = builder.or_(
            nonzero, builder.icmp_signed("==", splat(builder, skip_zero), constant(0, skip_zero.type))
        )
        some = builder.icmp_unsigned(
            "!=", builder.bitcast(touched, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)
        )
        with builder.if_then(some):
            m, v = load_vector(builder, m_ptr, at), load_vector(builder, v_ptr, at)
            m_next = multiply_add(builder, beta1, m, builder.fmul(builder.fsub(one, beta1), g))
            share = builder.fmul(builder.fmul(builder.fsub(one, beta2), g), g)
            v_next = multiply_add(builder, beta2, v, share)
            square_root = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(VECTOR_F32, [VECTOR_F32]), f"llvm.sqrt.v{LANES}f32"
            )
            divisor = multiply_add(builder, builder.call(square_root, [v_next]), root, epsilon)
            change = builder.fdiv(builder.fmul(rate, m_next), divisor)
            p = load_vector(builder, p_ptr, at)
            store_vector(builder, builder.fsub(p, builder.select(touched, change, zero)), p_ptr, at)
            store_vector(builder, builder.select(touched, m_next, m), m_ptr, at)
            store_vector(builder, builder.select(touched, v_next, v), v_ptr, at)
            store_vector(builder, zero, g_ptr, at)
        return context.get_dummy_value()

    return signature, codegen


@_jit
def _update(start, stop, parameter, gradient, first, second, constants, skip_zero):  # type: ignore[no-untyped-def]
    """Vectors [start, stop) of LANES entries each."""
    skip = np.int32(skip_zero)
    for vector in range(start, stop):
        _update_lanes(vector * LANES, parameter, gradient, first, second, constants, skip)


def adam_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    step: int,
    rule: AdamRule,
) -> None:
    """See `voxfield.kernels.adam.api.adam_step`."""
    rate, root, floor = rule.factors(step)
    constants = tuple(np.float32(value) for value in (rate, rule.beta1, rule.beta2, root, floor))
    arrays = [t.detach().view(-1).numpy() for t in (parameter, gradient, first_moment, second_moment)]
    whole = parameter.numel() // LANES
    run_split(_update, whole, *arrays, constants, rule.skip_zero, grain=1024)
    rest = parameter.numel() - whole * LANES
    if rest:
        # The last entries in a padded copy: a vector must not reach past the end of the arrays.
        tails = [np.zeros(LANES, np.float32) for _ in arrays]
        for tail, array in zip(tails, arrays, strict=True):
            tail[:rest] = array[-rest:]
        _update(0, 1, *tails, constants, rule.skip_zero)
        for tail, array in zip(tails, arrays, strict=True):
            array[-rest:] = tail[:rest]
