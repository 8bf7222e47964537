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
from chainrob.kernels.cpu.compiling import lean
from chainrob.kernels.cpu.simd import element, splat, store

POWERS = 3

BLOCK = 256
"""Samples whose powers are added up before they join the sums of the blocks before, so that
rounding does not grow with N."""

UNITS = 4 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 2
"""Units whose sums are in registers at a time: three vectors each. A power of two, so that it
divides the lanes of a vector."""


@intrinsic
def _add_power_sums(
    typingctx: Any, b: Any, from_b: Any, powers: Any, from_powers: Any, n: Any, sums: Any, at: Any
) -> Any:  # fmt: skip
    """Add the sums over n samples of (a b)^k, k = 1, 2, 3, to ``sums[at:]``, for ``UNITS`` units.

    Args:
        b: vectors of inputs, one a sample, from ``from_b`` on.
        powers: from ``from_powers`` on, for each sample, a of all units, then a^2, then a^3.
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


@lean
def powers_of_batch(a: Any, start: int, n: int, powers: Any) -> None:
    """The first three powers of a batch's factors, ``UNITS`` units after the others, each as
    ``_add_power_sums`` takes them.
    """
    lanes = simd.lanes(a)
    at = 0
    for group in range(0, lanes, UNITS):
        for i in range(n):
            for unit in range(UNITS):
                first = element(a, start + i * lanes + group + unit)
                square = first * first
                powers[at + unit] = first
                powers[at + UNITS + unit] = square
                powers[at + 2 * UNITS + unit] = square * first
            at += POWERS * UNITS


@lean
def power_sums(b: Any, at_b: int, powers: Any, n: int, units: int, sums: Any) -> None:
    """Sums of u, u^2 and u^3 over the samples, u = a b, for the units of a batch."""
    lanes = simd.lanes(b)
    zero = splat(b.dtype.type(0))
    for k in range(POWERS * lanes):
        store(sums, k * lanes, zero)
    for low in range(0, n, BLOCK):
        count = min(BLOCK, n - low)
        for unit in range(0, units, UNITS):
            _add_power_sums(
                b, at_b + low * lanes, powers, POWERS * (unit * n + UNITS * low), count,
                sums, unit * POWERS * lanes,
            )  # fmt: skip
