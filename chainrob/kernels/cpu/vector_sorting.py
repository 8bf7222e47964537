"""Vectors of an array put through sorting networks, lane by lane and within registers.

Used inside functions compiled by Numba only; see ``simd`` for what a vector is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from chainrob.kernels.cpu import simd


def _align(kind: Any) -> int:
    return int(kind.dtype.bitwidth // 8)


@intrinsic
def exchange(typingctx: Any, array: Any, first: Any, second: Any) -> Any:
    """Put the smaller of two vectors of an array first, lane by lane: one comparator."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointers = [simd.pointer_to(builder, context, kind, args[0], offset) for offset in args[1:]]
        a, b = (builder.load(pointer, align=_align(kind)) for pointer in pointers)
        builder.store(simd.smaller_of(builder, a, b), pointers[0], align=_align(kind))
        builder.store(simd.larger_of(builder, a, b), pointers[1], align=_align(kind))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), codegen


def _network(builder: Any, kind: Any, pointers: Sequence[Any], comparators: Any) -> None:
    """Load some vectors, put them through comparators within registers, and store them."""
    rows = [builder.load(pointer, align=_align(kind)) for pointer in pointers]
    _sorted_store(builder, kind, rows, pointers, comparators)


def _sorted_store(
    builder: Any, kind: Any, rows: list[Any], pointers: Sequence[Any], comparators: Any
) -> None:
    for i, j in comparators:
        rows[i], rows[j] = (
            simd.smaller_of(builder, rows[i], rows[j]),
            simd.larger_of(builder, rows[i], rows[j]),
        )
    for row, pointer in zip(rows, pointers, strict=True):
        builder.store(row, pointer, align=_align(kind))


def block_sorter(comparators: Sequence[tuple[int, int]], size: int) -> Any:
    """An intrinsic (array, offset) that puts ``size`` consecutive vectors through a network."""

    @intrinsic
    def sort_block(typingctx: Any, array: Any, offset: Any) -> Any:
        width = simd.Vector(array.dtype).lanes

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, step = signature.args[0], args[1].type
            offsets = [builder.add(args[1], step(row * width)) for row in range(size)]
            pointers = [
                simd.pointer_to(builder, context, kind, args[0], offset) for offset in offsets
            ]
            _network(builder, kind, pointers, comparators)
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    return sort_block


def product_sorter(comparators: Sequence[tuple[int, int]], size: int) -> Any:
    """An intrinsic (x, from_x, stride, gy, from_gy, array, offset): ``size`` vectors of x, some
    elements apart, times as many numbers of gy go through a network and into consecutive vectors
    of an array. It answers with NaN in the lanes that hold one, 0 elsewhere.
    """

    @intrinsic
    def sort_products(
        typingctx: Any, x: Any, from_x: Any, stride: Any, gy: Any, from_gy: Any, array: Any,
        offset: Any,
    ) -> Any:  # fmt: skip
        vector = simd.Vector(array.dtype)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, step = signature.args, args[6].type
            nan_flag = ir.Constant(simd.vector_type(vector), None)
            rows, pointers = [], []
            at = args[1]
            for row in range(size):
                place = builder.add(args[4], step(row))
                factor = simd.repeated_at(builder, context, kinds[3], args[3], place)
                value = simd.loaded(builder, context, kinds[0], args[0], at)
                value = builder.fmul(factor, value)
                rows.append(value)
                nan_flag = simd.nan_kept(builder, nan_flag, value)
                at = builder.add(at, args[2])
                target = builder.add(args[6], step(row * vector.lanes))
                pointers.append(simd.pointer_to(builder, context, kinds[5], args[5], target))
            _sorted_store(builder, kinds[5], rows, pointers, comparators)
            return nan_flag

        integer = types.intp
        return vector(x, integer, integer, gy, integer, array, integer), codegen

    return sort_products


def group_sorter(comparators: Sequence[tuple[int, int]], size: int) -> Any:
    """An intrinsic (array, base, rows, start) that puts the ``size`` vectors whose numbers stand at
    ``rows[start:]`` (int32) through a network.
    """

    @intrinsic
    def sort_group(typingctx: Any, array: Any, base: Any, rows: Any, start: Any) -> Any:
        width = simd.Vector(array.dtype).lanes

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, step = signature.args[0], args[1].type
            numbers = context.make_array(signature.args[2])(context, builder, args[2]).data
            pointers = []
            for k in range(size):
                entry = builder.gep(numbers, [builder.add(args[3], step(k))])
                row = builder.sext(builder.load(entry), step)
                offset = builder.add(args[1], builder.mul(row, step(width)))
                pointers.append(simd.pointer_to(builder, context, kind, args[0], offset))
            _network(builder, kind, pointers, comparators)
            return context.get_dummy_value()

        return types.void(array, types.intp, rows, types.intp), codegen

    return sort_group
