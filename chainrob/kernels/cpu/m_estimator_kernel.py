"""M-estimates of location of every coordinate; see ``robustifiers.MEstimator`` for the equations.

What is computed here is right to about 1e-6 of the spread in float32, and in float64 to what the
definition's tolerance asks. psi is u (1 - k) with k a polynomial up to ``REACH``, and the few
values beyond are put right one by one.

Measured gain over the array code: 9 at 2 -> 10 with 100 samples, 28 to 44 at 784 -> 100 with 64; in
float64 6 to 9 and 11 to 20. With a given scale of a hundredth of the spread or less it is 1 to 12.
There an even number of rows may leave the root open between the two values in the middle, and the
answer is another point of this interval than the array code's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.kernels.constants import CHI_LEVEL
from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.column_kernels import column_kernels
from chainrob.kernels.cpu.columns import fill, fill_with_mean, line
from chainrob.kernels.cpu.compiling import inlined, lean
from chainrob.kernels.cpu.headroom_kernel import with_headroom
from chainrob.kernels.cpu.median import median, networks
from chainrob.kernels.cpu.psi_polynomials import CATONI, REACH, RHO, TERMS, polynomials
from chainrob.kernels.cpu.row_squares import Watch
from chainrob.kernels.cpu.simd import (
    absolute,
    choose,
    fma,
    keep_nan,
    larger,
    load,
    smaller,
    splat,
    store,
)

SINGLE_TERMS, DOUBLE_TERMS = TERMS[4], TERMS[8]

EASY = 16
"""Steps towards a location before a bracket is halved."""

INVERSE_FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(17))


def m_estimator(
    x: np.ndarray, gy: np.ndarray, rho: str, pilot: str, scale: float | None, factor: float,
    tolerance: float, max_iterations: int, report: Callable[[np.ndarray], None],
    *, watch: Watch | None = None,
) -> np.ndarray | None:  # fmt: skip
    """The estimate (T, Q, P) from x (Tx, N, S, P) and gy (T, N, S, Q).

    Args:
        factor: s over sigma.
        tolerance: that of the definition. In float32 a step that leaves less than a share of 1e-4
            is the last.
        report: not used: where a coordinate does not converge the answer is None, and the array
            form, which the caller then takes, warns.
    """
    n = gy.shape[1]
    by_median = pilot == "median"
    programs = networks(n if by_median else 1)
    if programs is None:
        return None
    info, single = np.finfo(x.dtype), x.dtype == np.float32
    unconverged = np.zeros(1, np.int32)
    # An error of e in log s^2 moves the estimate by some e / factor^2 of the spread, and a step of
    # the fourth order leaves an error of some 2 % of its fourth power.
    goal = 1e-6 if single else 1e-14
    step = (goal * max(1.0, factor * factor) / 0.02) ** 0.25
    enough = 0.004 if single else max(tolerance, 4.0 * float(info.eps))

    def parameters(shrink: float) -> tuple[Any, ...]:
        given = 0.0
        if scale is not None:
            given = min(max(scale * shrink, float(info.tiny)), float(info.max))
        return (
            programs, by_median, RHO[rho], polynomials(rho, x.dtype), info.dtype.type(factor),
            info.dtype.type(given), info.dtype.type(min(step, 0.5)), info.dtype.type(enough),
            max_iterations, unconverged,
        )  # fmt: skip

    out = with_headroom(_m_estimator, x, gy, parameters, watch)
    return None if unconverged[0] else out


@inlined
def _estimate(room: Any, source: Any, column: int, parameters: Any) -> Any:
    memory, base, rows, at_rows = room
    programs, by_median, kind, coefficients = parameters[:4]
    factor, given, step_tolerance, enough, limit, lost = parameters[4:]
    n = source.sizes[0]
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one = splat(dtype(0)), splat(dtype(1))
    tiny, share = splat(np.finfo(dtype).tiny), splat(dtype(1.0 / n))
    if by_median:
        nan_flag = fill(memory, base, source, column)
        pivot = median(memory, base, n, programs)
    else:
        nan_flag = pivot = fill_with_mean(memory, base, source, column)
    # Deviations take the place of the values.
    size, square, odd_size, odd_square, equal = zero, zero, zero, zero, zero
    for i in range(n):
        at = base + line(i) * lanes
        deviation = load(memory, at) - pivot
        store(memory, at, deviation)
        size, odd_size = odd_size, size + absolute(deviation)
        square, odd_square = odd_square, fma(deviation, deviation, square)
        equal = equal + choose(absolute(deviation), tiny, one, zero)
    size, square = (size + odd_size) * share, (square + odd_square) * share
    # Deviations near the smallest number are brought to where their squares have digits.
    unit = one
    little, raise_by = (1e-25, 2.0**80) if simd.lanes(memory) == 16 else (1e-140, 2.0**500)
    if simd.smallest(size) < little:
        unit = choose(size, splat(dtype(little)), splat(dtype(raise_by)), one)
        size, square = size * unit, square * unit * unit
        equal = zero
        for i in range(n):
            at = base + line(i) * lanes
            deviation = load(memory, at) * unit
            store(memory, at, deviation)
            equal = equal + choose(absolute(deviation), tiny, one, zero)
    if given > 0:
        # No farther from the deviations than psi can tell from its limits.
        linear, least = (2.0**20, 1e-37) if simd.lanes(memory) == 16 else (2.0**40, 1e-230)
        scale = smaller(splat(given) * unit, size * splat(dtype(n * linear)))
        scale = larger(scale, size * splat(dtype(n * least)))
    else:
        has_root = choose(equal, splat(dtype((1.0 - CHI_LEVEL) * n)), one, zero)
        inverse = _inverse_chi_scale(memory, base, n, size, square, has_root, step_tolerance)
        scale = choose(zero, has_root, splat(factor) / inverse, zero)
    # Lanes that hold NaN or infinity, where these may propagate, end in NaN. They have no scale:
    # the others do not wait for them.
    nan_flag = keep_nan(nan_flag, size - size)
    scale = choose(size, splat(dtype(np.inf)), scale, zero)
    farthest = size * splat(dtype(n))
    location = _location(
        memory, base, rows, at_rows, n, scale, farthest, kind, coefficients, enough, limit, lost
    )
    return keep_nan(pivot + location / unit, nan_flag), (pivot, unit, location, scale)


@lean
def _about_location(room: Any, n: int, found: Any, parameters: Any) -> Any:
    pivot, unit, location, scale = found
    dtype = room[0].dtype.type
    zero, one = splat(dtype(0)), splat(dtype(1))
    inverse = choose(zero, scale, one / scale, zero)
    return pivot, location / unit, unit, location, inverse, zero, one, splat(dtype(REACH))


@inlined
def _psi_over_u(value: Any, facts: Any, parameters: Any) -> Any:
    """psi(u) / u; without a scale the estimate is the pivot, and what differs has no say."""
    pivot, _, unit, location, inverse, zero, one, reach = facts
    kind, coefficients = parameters[2], parameters[3]
    deviation = (value - pivot) * unit
    u = (deviation - location) * inverse
    size = absolute(u)
    inside = smaller(size, reach)
    weight = one - _deficit(inside, kind, coefficients)
    if simd.exceeding(size, reach):
        psi, _ = _far(size, kind, coefficients)
        weight = choose(reach, size, psi / size, weight)
    alone = choose(zero, absolute(deviation), zero, one)
    return choose(zero, inverse, weight, alone)


@inlined
def _deficit(size: Any, kind: int, coefficients: Any) -> Any:
    r"""1 - psi(u) / u for \|u\| up to REACH, as ``polynomials`` has it."""
    square = size * size
    power = size if kind == CATONI else square
    terms = SINGLE_TERMS
    if simd.lanes(coefficients) == 8:
        terms, dtype = DOUBLE_TERMS, coefficients.dtype.type
        one, half = splat(dtype(1)), splat(dtype(0.5))
        power = size - one if kind == CATONI else square * half - one
    deficit = splat(coefficients[0])
    for k in range(1, terms):
        deficit = fma(deficit, power, splat(coefficients[k]))
    return deficit * square


@lean
def _inverse_chi_scale(
    memory: Any, base: int, n: int, size: Any, square: Any, has_root: Any, step_tolerance: Any
) -> Any:
    """1 / sigma at the root of mean(chi) = 0.

    Householder's method of the fourth order in t = log sigma^2, in a bracket. A step costs little
    more than one of Newton's, for the derivatives of r = 1 / (1 + u^2) in t are polynomials in r.

    Args:
        size, square: mean absolute and mean square deviation.
        has_root: 1 where there is a root, 0 elsewhere.
        step_tolerance: length of a step after which nothing is left to do.
    """
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one, two, three = splat(dtype(0)), splat(dtype(1)), splat(dtype(2)), splat(dtype(3))
    six, seven, twelve = splat(dtype(6)), splat(dtype(7)), splat(dtype(12))
    quarter = splat(dtype(0.25))
    share, level = splat(dtype(1.0 / n)), splat(dtype(1.0 - CHI_LEVEL))
    tiny, most = splat(np.finfo(dtype).tiny), splat(dtype(1e37))
    limit = 1e37 if simd.lanes(memory) == 16 else 1e307
    lowest, highest = splat(dtype(1.0 / limit)), splat(dtype(limit))
    longest, negligible = splat(dtype(3)), splat(dtype(1e-30))
    padding = splat(dtype(n % 2))
    if n % 2:
        store(memory, base + line(n) * lanes, zero)
    # Between the normal distribution's and heavier tails sigma falls with the kurtosis; this is a
    # fit to both. Where a square leaves the range of numbers it says nothing.
    evenness = size * size / larger(square, tiny)
    evenness = choose(evenness, one, larger(evenness, zero), one)
    t = fma(evenness, splat(dtype(2.2)), splat(dtype(-0.9)))
    inverse = one / larger(size, tiny) * _exp_of_minus_half(t, quarter, three, twelve)
    inverse = smaller(inverse, highest)
    # As many of the longest steps as lead through the range of numbers.
    for _ in range(150 if simd.lanes(memory) == 16 else 1000):
        p1, p2, p3, p4, squares = zero, zero, zero, zero, zero
        for i in range(0, n, 2):
            a = load(memory, base + line(i) * lanes) * inverse
            b = load(memory, base + line(i + 1) * lanes) * inverse
            a, b = smaller(fma(a, a, one), most), smaller(fma(b, b, one), most)
            # Sums of powers of 1 / a and 1 / b by one division.
            product = one / (a * b)
            s1 = (a + b) * product
            s2 = s1 * s1 - two * product
            p1 = p1 + s1
            p2 = p2 + s2
            p3 = fma(s1, s2 - product, p3)
            p4 = fma(s2, s2, p4)
            squares = fma(product, product, squares)
        p4 = p4 - two * squares
        p1, p2 = (p1 - padding) * share, (p2 - padding) * share
        p3, p4 = (p3 - padding) * share, (p4 - padding) * share
        excess = level - p1
        d1 = zero - larger(p1 - p2, negligible)
        d2 = zero - (p1 - three * p2 + two * p3)
        d3 = zero - (p1 - seven * p2 + twelve * p3 - six * p4)
        newton = zero - excess / d1
        bend, twist = d2 / d1, d3 / d1
        step = newton * (one + newton * bend * splat(dtype(0.5)))
        denominator = one + newton * bend + newton * newton * twist * splat(dtype(1.0 / 6.0))
        step = choose(absolute(newton), splat(dtype(0.7)), step / denominator, newton)
        lowest = choose(excess, zero, larger(lowest, inverse), lowest)
        highest = choose(zero, excess, smaller(highest, inverse), highest)
        step = larger(smaller(step, longest), zero - longest) * has_root
        moved = inverse * _exp_of_minus_half(step, quarter, three, twelve)
        middle = simd.sqrt(lowest) * simd.sqrt(highest)
        moved = choose(lowest, moved, moved, middle)
        moved = choose(moved, highest, moved, middle)
        inverse = choose(zero, has_root, moved, inverse)
        if simd.exceeding(absolute(step), splat(step_tolerance)) == 0:
            break
    return inverse


@lean
def _exp_of_minus_half(t: Any, quarter: Any, three: Any, twelve: Any) -> Any:
    """exp(-t / 2), to 1e-6 for t within 0.4 of 0 and nearly within 3."""
    even = fma(t * quarter, t, twelve)
    return (even - three * t) / (even + three * t)


@lean
def _location(
    memory: Any, base: int, rows: Any, at_rows: int, n: int, scale: Any, farthest: Any, kind: int,
    coefficients: Any, enough: Any, max_iterations: int, unconverged: Any,
) -> Any:  # fmt: skip
    """The root of sum psi((d - location) / scale) = 0 from 0; 0 where the scale is 0.

    Each step is Newton's where that is short, and else that of iterated weights psi(u) / u, which
    cannot pass the root. Where the scale is far less than the deviations these are too many: after
    ``EASY`` of them a step is Newton's where it stays in the bracket and is at most half of the one
    before, and else it halves the bracket, as in the definition.

    Args:
        rows: room for the numbers of the rows beyond ``REACH``, from ``at_rows``.
        farthest: no deviation is larger.
    """
    dtype = memory.dtype.type
    lanes = simd.lanes(memory)
    zero, one, reach = splat(dtype(0)), splat(dtype(1)), splat(dtype(REACH))
    share, tiny = splat(dtype(1.0 / n)), splat(np.finfo(dtype).tiny)
    short, enough = splat(dtype(0.3)), splat(enough)
    k0, k1, k2 = splat(coefficients[0]), splat(coefficients[1]), splat(coefficients[2])
    k3, k4, k5 = splat(coefficients[3]), splat(coefficients[4]), splat(coefficients[5])
    k6, k7 = splat(coefficients[6]), splat(coefficients[7])
    facts = len(coefficients) - 4
    bend1, bend2 = splat(coefficients[facts]), splat(coefficients[facts + 1])
    deficit_at_reach = splat(coefficients[facts + 2])
    bend_at_reach = splat(coefficients[facts + 3])
    inverse = choose(zero, scale, one / larger(scale, tiny), zero)
    location, low, high = zero, zero - farthest, farthest
    half, previous = splat(dtype(0.5)), splat(dtype(np.inf))
    roundings = splat(dtype(4.0 * np.finfo(dtype).eps))
    for number in range(max_iterations):
        shift = zero - location * inverse
        units, excesses, deficits, squares, ratios = zero, zero, zero, zero, zero
        n_rows = 0
        for i in range(n):
            unit = fma(load(memory, base + line(i) * lanes), inverse, shift)
            inside = larger(smaller(unit, reach), zero - reach)
            if simd.lanes(memory) == 8:
                deficit = _deficit(absolute(inside), kind, coefficients)
            else:  # the same, from registers
                square = inside * inside
                power = absolute(inside) if kind == CATONI else square
                deficit = fma(fma(fma(k0, power, k1), power, k2), power, k3)
                deficit = fma(fma(fma(deficit, power, k4), power, k5), power, k6)
                deficit = fma(deficit, power, k7) * square
            units = units + inside
            excesses = fma(inside, deficit, excesses)
            deficits = deficits + deficit
            squares = fma(deficit, deficit, squares)
            rows[at_rows + n_rows] = i
            n_rows += simd.exceeding(absolute(unit), reach) != 0
        bends = fma(bend1, deficits, bend2 * squares)
        for place in range(n_rows):
            # Beyond the polynomials' reach, where they stand still.
            row = int(simd.element(rows, at_rows + place))
            unit = fma(load(memory, base + line(row) * lanes), inverse, shift)
            far = absolute(unit)
            psi, bend = _far(far, kind, coefficients)
            ratio = psi / larger(far, one)
            ratios = ratios + choose(reach, far, ratio, zero)
            excess = psi - reach * (one - deficit_at_reach)
            units = units + choose(reach, far, choose(zero, unit, excess, zero - excess), zero)
            deficits = deficits + choose(reach, far, one - ratio - deficit_at_reach, zero)
            bends = bends + choose(reach, far, bend - bend_at_reach, zero)
        influences = (units - excesses) * share
        slope = one - bends * share
        newton = influences / larger(slope, tiny)
        size = choose(zero, inverse, absolute(newton), zero)
        # Weights so small that one less them is one are found among those beyond.
        weight = larger(one - deficits * share, ratios * share)
        step = choose(size, short * slope, newton, influences / larger(weight, tiny))
        # What a Newton step leaves is of the order of its square.
        limit = enough * slope
        low = choose(zero, influences, larger(low, location), low)
        high = choose(influences, zero, smaller(high, location), high)
        if number >= EASY:
            moved = fma(newton, scale, location)
            halving = (half * low + half * high - location) * inverse
            inside = choose(low, moved, choose(moved, high, one, zero), zero)
            inside = choose(larger(half * previous, limit), size, zero, inside)
            inside = choose(size, tiny, one, inside)
            step = choose(zero, inside, newton, halving)
            limit = choose(zero, inside, larger(limit, roundings), roundings)
            size = choose(zero, inverse, absolute(step), zero)
        previous = size
        location = fma(step, scale, location)
        if simd.lanes(memory) == 8 or number >= EASY:
            # Rounding bounds the step by the distance that was traveled, where that is long.
            limit = limit * larger(absolute(location) * inverse, one)
        if simd.exceeding(size, limit) == 0:
            return location
    unconverged[0] = 1
    return location


@lean
def _far(size: Any, kind: int, coefficients: Any) -> Any:
    """psi(size) and 1 - psi'(size) where size is at least REACH; anything elsewhere."""
    dtype = coefficients.dtype.type
    one, two = splat(dtype(1)), splat(dtype(2))
    if kind == CATONI:
        # log(1 + a + a^2 / 2) as that of a product, none of whose factors overflows.
        other = fma(splat(dtype(0.5)), size, one) + one / size
        twos = simd.exponent(size) + simd.exponent(other)
        psi = _log(simd.significand(size) * simd.significand(other), twos, coefficients)
        rest = splat(dtype(0.5)) * size * (size / (one + size))
        return psi, rest / (one + rest)
    if kind == 0:
        size = smaller(size, splat(dtype(1e18)))
        shrink = one / simd.sqrt(fma(size * splat(dtype(0.5)), size, one))
        return size * shrink, one - shrink * shrink * shrink
    # exp(-size) as a power of exp(-size / 2^halvings); beyond the last it makes no difference.
    last, part, halvings, degree, terms = 20.0, 1.0 / 32.0, 5, 5, 4
    if simd.lanes(coefficients) == 8:
        last, part, halvings, degree, terms = 40.0, 1.0 / 64.0, 6, 16, 10
    x = smaller(size, splat(dtype(last))) * splat(dtype(-part))
    e = splat(dtype(INVERSE_FACTORIALS[degree]))
    for k in range(degree - 1, -1, -1):
        e = fma(e, x, splat(dtype(INVERSE_FACTORIALS[k])))
    for _ in range(halvings):
        e = e * e
    square = e * e
    share = one / (one + square)
    if kind == 1:
        psi = (one - square) * share
        return psi, psi * psi
    arc, minus = splat(dtype(0)), splat(dtype(0)) - square
    for k in range(terms - 1, -1, -1):
        arc = fma(arc, minus, splat(dtype(1.0 / (2 * k + 1))))
    return splat(dtype(0.5 * math.pi)) - two * arc * e, one - two * e * share


@lean
def _log(value: Any, twos: Any, coefficients: Any) -> Any:
    """log(value * 2^twos) for values from 1 to 4, by the series of atanh."""
    dtype = coefficients.dtype.type
    two, root = splat(dtype(2)), splat(dtype(2.0**0.5))
    halved = simd.significand(value)
    x = (halved - root) / (halved + root)
    square = x * x
    terms = 5 if simd.lanes(coefficients) == 16 else 12
    series = splat(dtype(0))
    for k in range(terms - 1, -1, -1):
        series = fma(series, square, splat(dtype(1.0 / (2 * k + 1))))
    twos = twos + simd.exponent(value) + splat(dtype(0.5))
    return fma(twos, splat(dtype(math.log(2.0))), series * x * two)


_m_estimator = column_kernels("m_estimator", _estimate, _psi_over_u, _about_location)
