"""Explicit SIMD vectors for Numba: a cache line of numbers in one register, one coordinate a lane.

Order statistics, clipping and fixed-point iterations of many coordinates at once are branch-free in
lanes, but LLVM's own vectorizer gives up on them: it cannot tell the rows of a buffer apart, nor
keep an array of accumulators in registers. So a vector is a Numba type here, with loads, stores and
the usual operators. A ``Vector`` of float32 has 16 lanes and of float64 8; where the processor's
registers are narrower LLVM splits it. Nothing is reassociated: results do not depend on the
processor's width.

Used inside functions compiled by Numba only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LINE = 64
"""Bytes of one vector: a cache line."""


class Vector(types.Type):
    """The Numba type of a vector of float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = LINE * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, _ir_type(fe_type))


def _ir_type(vector: Vector) -> ir.VectorType:
    element = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


def lanes(dtype: Any) -> int:
    """Lanes of a vector of a NumPy dtype."""
    return LINE // dtype.itemsize


# -- memory: arrays are one-dimensional and contiguous, offsets count elements


def _pointer(builder: Any, context: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(
        builder.gep(data, [offset]), _ir_type(Vector(array_type.dtype)).as_pointer()
    )


def _align(array_type: Any) -> int:
    return array_type.dtype.bitwidth // 8


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """The vector that starts at ``array[offset]``."""
    vector = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, signature.args[0], args[0], args[1])
        return builder.load(pointer, align=_align(signature.args[0]))

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector to ``array[offset:]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, signature.args[0], args[0], args[1])
        builder.store(args[2], pointer, align=_align(signature.args[0]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def element(typingctx: Any, array: Any, offset: Any) -> Any:
    """``array[offset]`` for an offset that is not negative. Numba cannot know that, and to count
    from the end for negative ones costs more than the load.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), codegen


@intrinsic
def splat(typingctx: Any, scalar: Any) -> Any:
    """The vector whose lanes all hold a float32 or float64 scalar."""
    vector = Vector(scalar)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _all_lanes(builder, vector, args[0])

    return vector(scalar), codegen


@intrinsic
def repeated(typingctx: Any, array: Any, offset: Any) -> Any:
    """``splat(element(array, offset))``."""
    vector = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _all_lanes(builder, vector, builder.load(builder.gep(data, [args[1]])))

    return vector(array, types.intp), codegen


def _all_lanes(builder: Any, vector: Vector, scalar: Any) -> Any:
    kind, index = _ir_type(vector), ir.IntType(32)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, index(0))
    zeros = ir.Constant(ir.VectorType(index, vector.lanes), None)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


# -- arithmetic

Emit = Callable[..., Any]


def _lanewise(emit: Emit, n_arguments: int, name: str, doc: str) -> Any:
    """An intrinsic that emits one piece of code on whole vectors."""

    def build(arguments: Sequence[Any]) -> Any:
        if not all(isinstance(kind, Vector) for kind in arguments):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *args)

        return arguments[0](*arguments), codegen

    def unary(typingctx: Any, a: Any) -> Any:
        return build((a,))

    def binary(typingctx: Any, a: Any, b: Any) -> Any:
        return build((a, b))

    def ternary(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return build((a, b, c))

    def quaternary(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return build((a, b, c, d))

    function = (unary, binary, ternary, quaternary)[n_arguments - 1]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return intrinsic(function)


def _call(name: str) -> Emit:
    def emit(builder: Any, *args: Any) -> Any:
        kind = args[0].type
        full = f"{name}.v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}"
        prototype = ir.FunctionType(kind, [kind] * len(args))
        return builder.call(cgutils.get_or_insert_function(builder.module, prototype, full), args)

    return emit


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def _keep_nan(builder: Any, value: Any, nan_flag: Any) -> Any:
    return builder.select(builder.fcmp_unordered("uno", nan_flag, nan_flag), nan_flag, value)


def _choose(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


_add = _lanewise(lambda builder, a, b: builder.fadd(a, b), 2, "_add", "a + b")
_sub = _lanewise(lambda builder, a, b: builder.fsub(a, b), 2, "_sub", "a - b")
_mul = _lanewise(lambda builder, a, b: builder.fmul(a, b), 2, "_mul", "a * b")
_div = _lanewise(lambda builder, a, b: builder.fdiv(a, b), 2, "_div", "a / b")
fma = _lanewise(_call("llvm.fma"), 3, "fma", "a * b + c, rounded once.")
sqrt = _lanewise(_call("llvm.sqrt"), 1, "sqrt", "Square root.")
absolute = _lanewise(_call("llvm.fabs"), 1, "absolute", "Absolute value.")
smaller = _lanewise(_smaller, 2, "smaller", "a if a < b else b.")
larger = _lanewise(_larger, 2, "larger", "b if a < b else a.")
keep_nan = _lanewise(_keep_nan, 2, "keep_nan", "NaN where the flag is NaN, the value elsewhere.")
choose = _lanewise(_choose, 4, "choose", "yes if a < b else no, lane by lane.")


def _bits(builder: Any, a: Any) -> tuple[Any, Callable[[int], Any], int, int]:
    """The bits of a vector as integers; constants of that type; the fraction's bits, the bias."""
    wide = a.type.element != ir.FloatType()
    kind = ir.VectorType(ir.IntType(64 if wide else 32), a.type.count)
    bits = builder.bitcast(a, kind)
    return bits, lambda n: ir.Constant(kind, [n] * kind.count), *((52, 1023) if wide else (23, 127))


def _exponent(builder: Any, a: Any) -> Any:
    bits, constant, fraction, bias = _bits(builder, a)
    high = builder.lshr(bits, constant(fraction))
    return builder.sitofp(builder.sub(high, constant(bias)), a.type)


def _significand(builder: Any, a: Any) -> Any:
    bits, constant, fraction, bias = _bits(builder, a)
    low = builder.and_(bits, constant((1 << fraction) - 1))
    return builder.bitcast(builder.or_(low, constant(bias << fraction)), a.type)


exponent = _lanewise(
    _exponent, 1, "exponent", "floor(log2 a) of a positive number that is not subnormal."
)
significand = _lanewise(_significand, 1, "significand", "a / 2^exponent(a), in [1, 2).")


def _operator(symbol: Any, function: Any) -> None:
    # Numba wants the implementation's signature equal to this one, annotations included.
    @overload(symbol)
    def implementation(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: function(a, b)
        return None


for _symbol, _function in (
    (operator.add, _add),
    (operator.sub, _sub),
    (operator.mul, _mul),
    (operator.truediv, _div),
):
    _operator(_symbol, _function)


def _fold(pick: Emit, name: str, doc: str) -> Any:
    """An intrinsic that reduces the lanes of a vector to a scalar, by halves."""

    def fold(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, width, index = args[0], a.lanes, ir.IntType(32)
            while width > 1:
                width //= 2
                undefined = ir.Constant(value.type, ir.Undefined)
                kind = ir.VectorType(index, width)
                low, high = (
                    builder.shuffle_vector(
                        value,
                        undefined,
                        ir.Constant(kind, [index(i + start) for i in range(width)]),
                    )
                    for start in (0, width)
                )
                value = pick(builder, low, high)
            return builder.extract_element(value, index(0))

        return a.dtype(a), codegen

    fold.__name__ = fold.__qualname__ = name
    fold.__doc__ = doc
    return intrinsic(fold)


smallest = _fold(_smaller, "smallest", "The smallest lane, a scalar.")
largest = _fold(_larger, "largest", "The largest lane, a scalar.")
lane_sum = _fold(lambda builder, a, b: builder.fadd(a, b), "lane_sum", "The sum of the lanes.")


@intrinsic
def exceeding(typingctx: Any, a: Any, b: Any) -> Any:
    """An integer whose bit k is set where a > b in lane k."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_ordered(">", args[0], args[1])
        bits = builder.bitcast(mask, ir.IntType(a.lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b), codegen


@intrinsic
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; there must be one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), codegen


# -- sorting


@intrinsic
def exchange(typingctx: Any, array: Any, first: Any, second: Any) -> Any:
    """Put the smaller of two vectors of an array first, lane by lane: one comparator."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointers = [_pointer(builder, context, kind, args[0], offset) for offset in args[1:]]
        a, b = (builder.load(pointer, align=_align(kind)) for pointer in pointers)
        builder.store(_smaller(builder, a, b), pointers[0], align=_align(kind))
        builder.store(_larger(builder, a, b), pointers[1], align=_align(kind))
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
        rows[i], rows[j] = _smaller(builder, rows[i], rows[j]), _larger(builder, rows[i], rows[j])
    for row, pointer in zip(rows, pointers, strict=True):
        builder.store(row, pointer, align=_align(kind))


def block_sorter(comparators: Sequence[tuple[int, int]], size: int) -> Any:
    """An intrinsic (array, offset) that puts ``size`` consecutive vectors through a network."""

    @intrinsic
    def sort_block(typingctx: Any, array: Any, offset: Any) -> Any:
        width = Vector(array.dtype).lanes

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, step = signature.args[0], args[1].type
            offsets = [builder.add(args[1], step(row * width)) for row in range(size)]
            pointers = [_pointer(builder, context, kind, args[0], offset) for offset in offsets]
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
        vector = Vector(array.dtype)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, step = signature.args, args[6].type
            kind, index = _ir_type(vector), ir.IntType(32)
            numbers = context.make_array(kinds[3])(context, builder, args[3]).data
            lanes = ir.Constant(ir.VectorType(index, vector.lanes), None)
            undefined, nan_flag = ir.Constant(kind, ir.Undefined), ir.Constant(kind, None)
            rows, pointers = [], []
            at = args[1]
            for row in range(size):
                number = builder.load(builder.gep(numbers, [builder.add(args[4], step(row))]))
                one = builder.insert_element(undefined, number, index(0))
                value = builder.load(
                    _pointer(builder, context, kinds[0], args[0], at), align=_align(kinds[0])
                )
                value = builder.fmul(builder.shuffle_vector(one, undefined, lanes), value)
                rows.append(value)
                nan_flag = _keep_nan(builder, nan_flag, value)
                at = builder.add(at, args[2])
                target = builder.add(args[6], step(row * vector.lanes))
                pointers.append(_pointer(builder, context, kinds[5], args[5], target))
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
        width = Vector(array.dtype).lanes

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, step = signature.args[0], args[1].type
            numbers = context.make_array(signature.args[2])(context, builder, args[2]).data
            pointers = []
            for k in range(size):
                entry = builder.gep(numbers, [builder.add(args[3], step(k))])
                row = builder.sext(builder.load(entry), step)
                offset = builder.add(args[1], builder.mul(row, step(width)))
                pointers.append(_pointer(builder, context, kind, args[0], offset))
            _network(builder, kind, pointers, comparators)
            return context.get_dummy_value()

        return types.void(array, types.intp, rows, types.intp), codegen

    return sort_group
