"""M-estimates of location of every coordinate; see ``robustifiers.MEstimator`` for the equations.

float32 only: what is computed here is right to a few 1e-6 of the spread. psi is u times a
polynomial up to ``REACH``, and the few values beyond are put right one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, fill, line, solve, sort, total
from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.network import MAX_ROWS, Program, selection
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

REACH = 2.0
"""Largest |u| for which psi(u) / u and psi'(u) are polynomials in u^2, in |u| for Catoni's."""

TERMS, SLOPE_TERMS = 10, 5

CHI_LEVEL = 0.34432045758120144

RHO = {"pseudo_huber": 0, "log_cosh": 1, "gudermannian": 2, "catoni": 3}
CATONI = RHO["catoni"]


def m_estimator(
    x: np.ndarray, gy: np.ndarray, rho: str, pilot: str, scale: float | None, factor: float,
    tolerance: float, max_iterations: int, report: Callable[[np.ndarray], None],
) -> np.ndarray | None:  # fmt: skip
    """The estimate (T, Q, P) from x (Tx, N, S, P) and gy (T, N, S, Q).

    Args:
        factor: s over sigma.
        tolerance: not used: what is left is below float32's share in the goal of 1e-4.
        report: not used: where a coordinate does not converge the answer is None, and the array
            form, which the caller then takes, warns.
    """
    n = gy.shape[1]
    if x.dtype != np.float32 or (pilot == "median" and n > MAX_ROWS):
        return None
    empty = np.empty(0, np.int32)
    program, low = Program(empty, empty, np.empty((0, 2), np.int64)), -1
    if pilot == "median":
        low = (n - 1) // 2
        program = selection(n, low, n - low)
    unconverged = np.zeros(1, np.int32)
    out = solve(
        _m_estimator, x, gy, *program, low, RHO[rho], polynomials(rho), np.float32(factor),
        np.float32(scale or 0.0), max_iterations, unconverged,
    )  # fmt: skip
    return None if unconverged[0] else out


def influence(kind: int, size: float) -> float:
    """psi of a value that is not negative."""
    if kind == 0:
        return size / math.sqrt(1.0 + 0.5 * size * size)
    if kind == 1:
        return math.tanh(size)
    if kind == 2:
        return 2.0 * math.atan(math.tanh(0.5 * size))
    return math.log1p(size) + math.log1p(0.5 * size * (size / (1.0 + size)))


def slope(kind: int, size: float) -> float:
    """psi' of a value that is not negative."""
    if kind == 0:
        return (1.0 + 0.5 * size * size) ** -1.5
    if kind == 1:
        return 1.0 - math.tanh(size) ** 2
    if kind == 2:
        half = math.tanh(0.5 * size)
        return (1.0 - half * half) / (1.0 + half * half)
    return 1.0 / (1.0 + 0.5 * size * (size / (1.0 + size)))


_influence, _slope = jit(influence), jit(slope)


@lru_cache(maxsize=8)
def polynomials(rho: str) -> np.ndarray:
    """Coefficients of psi(u) / u and of psi'(u) on [0, REACH], the highest first; then
    psi(REACH).
    """
    top = REACH if rho == "catoni" else REACH**2
    nodes = 0.5 * top * (1.0 - np.cos(np.pi * (np.arange(200) + 0.5) / 200))
    sizes = nodes if rho == "catoni" else np.sqrt(nodes)

    def fit(values: list[float], terms: int) -> np.ndarray:
        series = np.polynomial.Chebyshev.fit(nodes, values, terms - 1, domain=[0.0, top])
        return series.convert(kind=np.polynomial.Polynomial).coef[::-1]

    ratios = fit([influence(RHO[rho], size) / size for size in sizes], TERMS)
    slopes = fit([slope(RHO[rho], size) for size in sizes], SLOPE_TERMS)
    return np.array([*ratios, *slopes, influence(RHO[rho], REACH)], np.float32)


@Kernel
def _m_estimator(
    x: Any, gy: Any, out: Any, sizes: Any, shared: bool, start: int, stop: int,
    groups: Any, pairs: Any, stages: Any, low: int, kind: int, coefficients: Any,
    factor: Any, given: Any, max_iterations: int, unconverged: Any,
) -> None:  # fmt: skip
    n = sizes[0]
    dtype = x.dtype.type
    lanes = simd.LINE // x.itemsize
    memory, base = buffer(x, n)
    zero, one = splat(dtype(0)), splat(dtype(1))
    tiny, share = splat(np.finfo(dtype).tiny), splat(dtype(1.0 / n))
    beyond = np.empty(2 * lanes, x.dtype)
    for column in range(start, stop):
        doubt = fill(memory, base, x, gy, sizes, shared, column)
        if low >= 0:
            sort(memory, base, n, groups, pairs, stages)
            pivot = total(memory, base, low, n - low) * splat(dtype(1.0 / (n - 2 * low)))
        else:
            pivot = _mean(memory, base, n)
        # Deviations take the place of the values.
        size, different = zero, zero
        for i in range(n):
            at = base + line(i) * lanes
            deviation = load(memory, at) - pivot
            store(memory, at, deviation)
            deviation = absolute(deviation)
            size = fma(deviation, share, size)
            different = different + choose(tiny, deviation, one, zero)
        if given > 0:
            scale = splat(given)
        else:
            has_root = choose(splat(dtype(CHI_LEVEL * n)), different, one, zero)
            inverse = _inverse_chi_scale(memory, base, n, one / larger(size, tiny), has_root)
            scale = choose(zero, has_root, splat(factor) / inverse, zero)
        location = _location(
            memory, base, n, scale, kind, coefficients, beyond, max_iterations, unconverged
        )
        store(out, column * lanes, keep_nan(pivot + location, doubt))


@jit
def _mean(memory: Any, base: int, n: int) -> Any:
    lanes = simd.LINE // memory.itemsize
    first = load(memory, base)
    even = odd = first - first
    for i in range(n):
        even, odd = odd, even + (load(memory, base + line(i) * lanes) - first)
    return fma(even + odd, splat(memory.dtype.type(1.0 / n)), first)


@jit
def _inverse_chi_scale(memory: Any, base: int, n: int, inverse: Any, has_root: Any) -> Any:
    """1 / sigma at the root of mean(chi) = 0, by Newton's method in t = log sigma^2 in a bracket.

    Args:
        inverse: 1 / sigma to start from.
        has_root: 1 where there is a root, 0 elsewhere.
    """
    dtype = memory.dtype.type
    lanes = simd.LINE // memory.itemsize
    zero, one, three, twelve = (
        splat(dtype(0)), splat(dtype(1)), splat(dtype(3)), splat(dtype(12)),
    )  # fmt: skip
    quarter = splat(dtype(0.25))
    share, level = splat(dtype(1.0 / n)), splat(dtype(1.0 - CHI_LEVEL))
    lowest, highest = splat(dtype(1e-37)), splat(dtype(1e37))
    longest, negligible = splat(dtype(3)), splat(dtype(1e-30))
    for _ in range(150):
        rests, squares, other_rests, other_squares = zero, zero, zero, zero
        for i in range(n):
            unit = load(memory, base + line(i) * lanes) * inverse
            rest = one / fma(unit, unit, one)  # 1 - u^2 / (1 + u^2)
            rests, other_rests = other_rests, rests + rest
            squares, other_squares = other_squares, fma(rest, rest, squares)
        rests = (rests + other_rests) * share
        slope = larger(rests - (squares + other_squares) * share, negligible)
        excess = level - rests
        lowest = choose(excess, zero, larger(lowest, inverse), lowest)
        highest = choose(zero, excess, smaller(highest, inverse), highest)
        step = larger(smaller(excess / slope, longest), zero - longest) * has_root
        even = fma(step * quarter, step, twelve)
        moved = inverse * ((even - three * step) / (even + three * step))  # exp(-step / 2), nearly
        middle = simd.sqrt(lowest) * simd.sqrt(highest)
        moved = choose(lowest, moved, moved, middle)
        moved = choose(moved, highest, moved, middle)
        inverse = choose(zero, has_root, moved, inverse)
        if not simd.largest(absolute(step)) > 0.03:
            break
    return inverse


@jit
def _location(
    memory: Any, base: int, n: int, scale: Any, kind: int, coefficients: Any, beyond: Any,
    max_iterations: int, unconverged: Any,
) -> Any:  # fmt: skip
    """The root of sum psi((d - location) / scale) = 0 from 0; 0 where the scale is 0.

    Each step is Newton's where that is short, and else that of iterated weights psi(u) / u, which
    cannot pass the root.
    """
    dtype = memory.dtype.type
    lanes = simd.LINE // memory.itemsize
    zero, one, reach = splat(dtype(0)), splat(dtype(1)), splat(dtype(REACH))
    share, tiny = splat(dtype(1.0 / n)), splat(np.finfo(dtype).tiny)
    short, enough = splat(dtype(0.3)), splat(dtype(0.004))
    r0, r1, r2 = splat(coefficients[0]), splat(coefficients[1]), splat(coefficients[2])
    r3, r4, r5 = splat(coefficients[3]), splat(coefficients[4]), splat(coefficients[5])
    r6, r7, r8 = splat(coefficients[6]), splat(coefficients[7]), splat(coefficients[8])
    r9, s0, s1 = splat(coefficients[9]), splat(coefficients[10]), splat(coefficients[11])
    s2, s3, s4 = splat(coefficients[12]), splat(coefficients[13]), splat(coefficients[14])
    at_reach = coefficients[TERMS + SLOPE_TERMS]
    inverse = choose(zero, scale, one / larger(scale, tiny), zero)
    location = zero
    for _ in range(max_iterations):
        shift = zero - location * inverse
        influences, weights, slopes = zero, zero, zero
        for i in range(n):
            unit = fma(load(memory, base + line(i) * lanes), inverse, shift)
            inside = larger(smaller(unit, reach), zero - reach)
            power = absolute(inside) if kind == CATONI else inside * inside
            ratio = fma(fma(fma(r0, power, r1), power, r2), power, r3)
            ratio = fma(fma(fma(ratio, power, r4), power, r5), power, r6)
            ratio = fma(fma(fma(ratio, power, r7), power, r8), power, r9)
            slope = fma(fma(fma(fma(s0, power, s1), power, s2), power, s3), power, s4)
            influences = fma(inside, ratio, influences)
            bits = simd.exceeding(absolute(unit), reach)
            if bits:
                # Beyond the polynomials' reach, one by one.
                store(beyond, 0, unit)
                store(beyond, lanes, zero)
                for lane in range(lanes):
                    far = beyond[lane]
                    beyond[lane] = dtype(0)
                    if bits >> lane & 1:
                        more = dtype(_influence(kind, abs(far))) - at_reach
                        beyond[lane] = more if far > 0 else -more
                        beyond[lanes + lane] = dtype(_slope(kind, abs(far)))
                influences = influences + load(beyond, 0)
                far = absolute(unit)
                whole = (absolute(load(beyond, 0)) + splat(at_reach)) / larger(far, one)
                ratio = choose(reach, far, whole, ratio)
                slope = choose(reach, far, load(beyond, lanes), slope)
            weights = weights + ratio
            slopes = slopes + slope
        mean_slope = slopes * share
        newton = influences / larger(slopes, tiny)
        size = absolute(newton)
        step = choose(size, short * mean_slope, newton, influences / larger(weights, tiny))
        location = fma(step, scale, location)
        # What a Newton step leaves is of the order of its square.
        if not simd.largest(size - enough * mean_slope) > 0:
            return location
    unconverged[0] = 1
    return location
