"""Sums of the first three powers of products, for as many units at a time as registers hold.

The k-th power of a product is the product of the k-th powers: with those of both factors at hand,
a power of a product costs one fused multiply-add. That is a matrix product for each power, but a
vector of inputs is loaded once for all three, and its powers stay in registers.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chainrob.kernels.cpu import simd

POWERS = 3

UNITS = 8 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 2
"""Units whose sums are in registers at a time: three vectors each. A power of two, so that it
divides the lanes of a vector."""


@intrinsic
def add_power_sums(
    typingctx: Any, b: Any, from_b: Any, powers: Any, from_powers: Any, n: Any, sums: Any, at: Any
) -> Any:  # fmt: skip
    """Add the sums over n samples of (a b)^k, k = 1, 2, 3, to ``sums[at:]``, for ``UNITS`` units.

    Args:
        b: vectors of inputs, one a sample, from ``from_b`` on.
        powers: three vectors a sample, from ``from_powers`` on: a, a^2 and a^3 of some units, a
            unit a lane. ``from_powers`` says in which lane the first unit is.
        sums: three vectors a unit.
    """
    vector = simd.Vector(b.dtype)
    lanes = vector.lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_b, of_powers, of_sums = (signature.args[k] for k in (0, 2, 5))
        step, zero = args[1].type, ir.Constant(simd.vector_type(vector), None)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(POWERS * UNITS)]
        with cgutils.for_range(builder, args[4], intp=step) as loop:
            offset = builder.add(args[1], builder.mul(loop.index, step(lanes)))
            inputs = [simd.loaded(builder, context, of_b, args[0], offset)]
            for _ in range(POWERS - 1):
                inputs.append(builder.fmul(inputs[-1], inputs[0]))
            offset = builder.add(args[3], builder.mul(loop.index, step(POWERS * UNITS)))
            for power in range(POWERS):
                for unit in range(UNITS):
                    place = builder.add(offset, step(power * UNITS + unit))
                    factor = simd.repeated_at(builder, context, of_powers, args[2], place)
                    total = totals[POWERS * unit + power]
                    more = simd.fused(builder, factor, inputs[power], builder.load(total))
                    builder.store(more, total)
        for k, total in enumerate(totals):
            place = builder.add(args[6], step(k * lanes))
            before = simd.loaded(builder, context, of_sums, args[5], place)
            after = builder.fadd(before, builder.load(total))
            simd.stored(builder, context, of_sums, args[5], place, after)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(b, integer, powers, integer, integer, sums, integer), codegen
