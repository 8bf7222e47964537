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
        super().__init__(dmm, fe_type, vector_type(fe_type))


def vector_type(vector: Vector) -> ir.VectorType:
    """The type in LLVM's language; this and the functions up to ``load`` build intrinsics."""
    element = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


# -- memory: arrays are one-dimensional and contiguous, offsets count elements


def pointer_to(builder: Any, context: Any, kind: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    vector = vector_type(Vector(kind.dtype))
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def loaded(builder: Any, context: Any, kind: Any, array: Any, offset: Any) -> Any:
    pointer = pointer_to(builder, context, kind, array, offset)
    return builder.load(pointer, align=kind.dtype.bitwidth // 8)


def stored(builder: Any, context: Any, kind: Any, array: Any, offset: Any, value: Any) -> None:
    pointer = pointer_to(builder, context, kind, array, offset)
    builder.store(value, pointer, align=kind.dtype.bitwidth // 8)


def repeated_at(builder: Any, context: Any, kind: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return all_lanes(builder, Vector(kind.dtype), builder.load(builder.gep(data, [offset])))


def widened(builder: Any, context: Any, kind: Any, array: Any, offset: Any) -> Any:
    """The float64 vector of as many numbers of an array of float32 or float64."""
    wide = vector_type(Vector(types.float64))
    data = context.make_array(kind)(context, builder, array).data
    narrow = ir.VectorType(data.type.pointee, wide.count)
    pointer = builder.bitcast(builder.gep(data, [offset]), narrow.as_pointer())
    value = builder.load(pointer, align=kind.dtype.bitwidth // 8)
    return value if narrow == wide else builder.fpext(value, wide)


def all_lanes(builder: Any, vector: Vector, scalar: Any) -> Any:
    kind, index = vector_type(vector), ir.IntType(32)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, index(0))
    zeros = ir.Constant(ir.VectorType(index, vector.lanes), None)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


@intrinsic
def lanes(typingctx: Any, array: Any) -> Any:
    """Lanes of a vector of an array's numbers, known when the code is compiled.

    ``array.itemsize`` is read from memory instead, so that addresses have to be multiplied and
    branches stay.
    """
    count = Vector(array.dtype).lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, count)

    return types.intp(array), codegen


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """The vector that starts at ``array[offset]``."""
    vector = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return loaded(builder, context, signature.args[0], *args)

    return vector(array, types.intp), codegen


@intrinsic
def load_wide(typingctx: Any, array: Any, offset: Any) -> Any:
    """As ``load``, but always of float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return widened(builder, context, signature.args[0], *args)

    return Vector(types.float64)(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector to ``array[offset:]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored(builder, context, signature.args[0], *args)
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
        return all_lanes(builder, vector, args[0])

    return vector(scalar), codegen


@intrinsic
def repeated(typingctx: Any, array: Any, offset: Any) -> Any:
    """``splat(element(array, offset))``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return repeated_at(builder, context, signature.args[0], *args)

    return Vector(array.dtype)(array, types.intp), codegen


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


def smaller_of(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def larger_of(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def nan_kept(builder: Any, value: Any, nan_flag: Any) -> Any:
    return builder.select(builder.fcmp_unordered("uno", nan_flag, nan_flag), nan_flag, value)


def _choose(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


_add = _lanewise(lambda builder, a, b: builder.fadd(a, b), 2, "_add", "a + b")
_sub = _lanewise(lambda builder, a, b: builder.fsub(a, b), 2, "_sub", "a - b")
_mul = _lanewise(lambda builder, a, b: builder.fmul(a, b), 2, "_mul", "a * b")
_div = _lanewise(lambda builder, a, b: builder.fdiv(a, b), 2, "_div", "a / b")
fused = _call("llvm.fma")

fma = _lanewise(fused, 3, "fma", "a * b + c, rounded once.")
sqrt = _lanewise(_call("llvm.sqrt"), 1, "sqrt", "Square root.")
absolute = _lanewise(_call("llvm.fabs"), 1, "absolute", "Absolute value.")
smaller = _lanewise(smaller_of, 2, "smaller", "a if a < b else b.")
larger = _lanewise(larger_of, 2, "larger", "b if a < b else a.")
keep_nan = _lanewise(nan_kept, 2, "keep_nan", "NaN where the flag is NaN, the value elsewhere.")
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


smallest = _fold(smaller_of, "smallest", "The smallest lane, a scalar.")
largest = _fold(larger_of, "largest", "The largest lane, a scalar.")
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
