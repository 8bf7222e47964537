"""The weights of the adaptive mean from inputs and output gradients; see
``robustifiers.AdaptiveMean``, whose array code is the definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.vectors import ranked
from chainrob.kernels.threads import share

Fence = tuple[float, float, float]

ALIKE = 1e-6
"""Share of the longest input below which a difference is rounding."""

GRAIN = 1 << 16
"""Numbers a thread looks at before it asks for more."""


def adaptive_evidence(
    x: np.ndarray, gy: np.ndarray, bias: bool, of_inputs: Fence, of_signals: Fence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the weights come from, one problem a replica.

    Args:
        x: inputs (T, N, P), or (1, N, P) where all replicas share them.
        gy: output gradients (T, N, Q).
        bias: whether there is one more input that is 1.
        of_inputs, of_signals: a, b and k of the fences.

    Returns:
        trust (T, N), limited signals (T, N) and cosines (T, N, N), these with zeros for a sample
        with itself.
    """
    n_replicas, n, n_outputs = gy.shape
    dtype = np.promote_types(np.promote_types(x.dtype, gy.dtype), np.float32)
    x, gy = (np.ascontiguousarray(one, dtype) for one in (x, gy))
    inputs = np.empty((len(x), n, x.shape[-1] + bias), dtype)
    signals = np.empty((n_replicas, n, n_outputs), dtype)
    near, trust, limited = (np.empty((len(one), n)) for one in (x, gy, gy))

    def of_x(start: int, stop: int) -> None:
        _inputs(x, inputs, near, start, stop, *of_inputs)

    def of_gy(start: int, stop: int) -> None:
        _signals(gy, signals, near, trust, limited, start, stop, *of_signals)

    share(of_x, len(x), _grain(n * x.shape[-1]))
    share(of_gy, n_replicas, _grain(n * n_outputs))
    products, cosines = _products(inputs), _products(signals)
    cosines *= products
    diagonal = np.arange(n)
    cosines[:, diagonal, diagonal] = 0.0
    return trust, limited, cosines


def adaptive_weights(
    trust: np.ndarray, limited: np.ndarray, cosines: np.ndarray, constants: tuple[float, ...]
) -> np.ndarray:
    """The weights (T, N) of the estimate's sum, from what ``adaptive_evidence`` gives."""
    weights = np.empty(trust.shape)
    n_replicas, n = trust.shape

    def work(start: int, stop: int) -> None:
        _weigh(cosines, trust, limited, weights, start, stop, *constants)

    share(work, n_replicas, _grain(n * n))
    return weights


def _grain(size: int) -> int:
    return max(1, GRAIN // max(size, 1))


def _products(rows: np.ndarray) -> np.ndarray:
    """Inner products (T, N, N): of a matrix with its own transpose BLAS computes one half."""
    if len(rows) == 1:
        return (rows[0] @ rows[0].T)[None]
    return np.matmul(rows, rows.swapaxes(-1, -2))


@Kernel
def _inputs(
    x: Any, out: Any, near: Any, start: int, stop: int, least: float, spread: float, power: float
) -> None:
    """Inputs within their fence, about their mean, as rows of length one; and the squared share of
    each that lies within.
    """
    n, width = x.shape[1:]
    biased = out.shape[2] > width
    sizes, factors = np.empty(n), np.empty(n)
    mean, row = np.empty(width + 1), np.empty(width + 1)
    for t in range(start, stop):
        longest = 0.0
        for i in range(n):
            sizes[i] = _length(x[t, i])
            if biased:
                sizes[i] = np.hypot(sizes[i], 1.0)
        limit = _fence(sizes, factors, least, spread, power)
        for i in range(n):
            factors[i] = limit / sizes[i] if sizes[i] > limit else 1.0
            near[t, i] = factors[i] * factors[i]
            longest = max(longest, sizes[i] * factors[i])
        mean[:] = 0.0
        for i in range(n):
            # Two factors, for one could be too small or too large for a number.
            scale = longest if longest > 0.0 else 1.0
            factors[i] /= scale if scale > TINY else TINY
            for j in range(width):
                mean[j] += x[t, i, j] * factors[i]
            mean[width] += factors[i]
        for j in range(width + 1):
            mean[j] /= n
        for i in range(n):
            for j in range(width):
                row[j] = x[t, i, j] * factors[i] - mean[j]
            row[width] = factors[i] - mean[width] if biased else 0.0
            length = np.sqrt(_square(row, 1.0))
            inverse = 0.0 if length <= ALIKE else 1.0 / length
            for j in range(out.shape[2]):
                out[t, i, j] = row[j] * inverse


@Kernel
def _signals(
    gy: Any, out: Any, near: Any, trust: Any, limited: Any, start: int, stop: int,
    least: float, spread: float, power: float,
) -> None:  # fmt: skip
    """Output gradients as rows of length one, the trust in each sample, and how long each is within
    the fence.
    """
    n, width = gy.shape[1:]
    sizes, work = np.empty(n), np.empty(n)
    for t in range(start, stop):
        for i in range(n):
            sizes[i] = _length(gy[t, i])
            inverse = 1.0 / max(sizes[i], TINY)
            for j in range(width):
                out[t, i, j] = gy[t, i, j] * inverse
        limit = _fence(sizes, work, least, spread, power)
        shared = 0 if len(near) == 1 else t
        for i in range(n):
            inside = limit / sizes[i] if sizes[i] > limit else 1.0
            trust[t, i] = near[shared, i] * inside * inside
            limited[t, i] = min(sizes[i], limit)


TINY = 1e-290
"""What nothing is divided by less of, so that no quotient is infinite."""


@jit
def _length(values: Any) -> float:
    """The norm of numbers of any size."""
    largest = TINY
    for value in values:
        size = abs(value)
        if not size <= largest:  # NaN stays
            largest = size
    return np.sqrt(_square(values, 1.0 / largest)) * largest


@jit
def _square(values: Any, factor: float) -> float:
    """The sum of squares, in four sums: one would be a chain of additions that wait in line."""
    n = len(values)
    a = b = c = d = 0.0
    i = 0
    while i + 4 <= n:
        u, v = values[i] * factor, values[i + 1] * factor
        w, z = values[i + 2] * factor, values[i + 3] * factor
        a += u * u
        b += v * v
        c += w * w
        d += z * z
        i += 4
    while i < n:
        u = values[i] * factor
        a += u * u
        i += 1
    return (a + b) + (c + d)


@jit
def _fence(sizes: Any, work: Any, least: float, spread: float, power: float) -> float:
    n = len(sizes)
    half = (n - 1) // 2
    largest = 0.0
    for i in range(n):
        work[i] = sizes[i]
        largest = max(largest, sizes[i])
    middle = ranked(work, half)
    if not middle > 0.0:
        return largest if largest > 0.0 else 1.0
    lower = 0.0
    for i in range(half):
        lower += work[i] / middle
    wide = half / (spread * max(lower, 1e-30))
    return min(middle * least * max(1.0, wide) ** power, largest)


@jit
def _logistic(value: float) -> float:
    return 1.0 / (1.0 + np.exp(-value))


@Kernel
def _weigh(
    cosines: Any, trust: Any, limited: Any, out: Any, start: int, stop: int,
    slope: float, suspicion: float, power: float, taken: float, left: float,
) -> None:  # fmt: skip
    n = trust.shape[1]
    agreement, size = np.empty(n), np.empty(n)
    for t in range(start, stop):
        largest = 0.0
        for i in range(n):
            largest = max(largest, limited[t, i])
        mass = overall = 0.0
        for i in range(n):
            agreement[i] = _agreement(cosines[t, i])
            size[i] = limited[t, i] / largest if largest > 0.0 else 0.0
            mass += size[i]
            overall += size[i] * agreement[i]
        overall /= mass if mass > 0.0 else 1.0
        exponent = power * _logistic(-suspicion * overall)
        total = mean = 0.0
        for i in range(n):
            opposed = _logistic(-slope * (agreement[i] + overall))
            kept = (1.0 - size[i] * opposed) * (1.0 - taken * size[i]) ** exponent
            if kept < left:
                kept = left
            out[t, i] = trust[t, i] * kept
            total += trust[t, i]
            mean += out[t, i]
        mean *= n / total
        for i in range(n):
            out[t, i] /= mean


@jit
def _agreement(cosines: Any) -> float:
    """sum c |c| / sum c^2 of a row, each in four sums."""
    n = len(cosines)
    for_0 = for_1 = for_2 = for_3 = all_0 = all_1 = all_2 = all_3 = 0.0
    i = 0
    while i + 4 <= n:
        a, b = np.float64(cosines[i]), np.float64(cosines[i + 1])
        c, d = np.float64(cosines[i + 2]), np.float64(cosines[i + 3])
        for_0 += a * abs(a)
        for_1 += b * abs(b)
        for_2 += c * abs(c)
        for_3 += d * abs(d)
        all_0 += a * a
        all_1 += b * b
        all_2 += c * c
        all_3 += d * d
        i += 4
    while i < n:
        a = np.float64(cosines[i])
        for_0 += a * abs(a)
        all_0 += a * a
        i += 1
    total = (all_0 + all_1) + (all_2 + all_3)
    pull = (for_0 + for_1) + (for_2 + for_3)
    return pull / 1e-30 if total < 1e-30 else pull / total
