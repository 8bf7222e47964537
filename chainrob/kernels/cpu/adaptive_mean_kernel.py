"""The weights of the adaptive mean from inputs and output gradients; see
``robustifiers.AdaptiveMean``, whose array code is the definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel, jit
from chainrob.kernels.cpu.vector_operations import ranked
from chainrob.kernels.threads import share

Fence = tuple[float, float, float, float]

ALIKE = 1e-6
"""Share of the longest input below which a difference is rounding."""

FLOAT32 = np.dtype(np.float32)

GRAIN = 1 << 16
"""Numbers that a thread takes at a time."""


def adaptive_weights(
    x: np.ndarray,
    gy: np.ndarray,
    bias: bool,
    of_inputs: Fence,
    of_signals: Fence,
    constants: tuple[float, ...],
) -> np.ndarray:
    """Weights (T, N) of the estimate's sum, one problem a replica, of 3 samples and more.

    Args:
        x: inputs (T, N, P), or (1, N, P) where all replicas share them.
        gy: output gradients (T, N, Q).
        bias: whether there is one more input that is 1.
        of_inputs, of_signals: q, a, b and k of the fences.
        constants: slopes in the agreement of a sample and of the batch, the power, how much is
            taken and how much is left.
    """
    dtype = FLOAT32
    if not x.dtype == gy.dtype == dtype:
        dtype = np.promote_types(np.promote_types(x.dtype, gy.dtype), dtype)
    x, gy = np.ascontiguousarray(x, dtype), np.ascontiguousarray(gy, dtype)
    n_replicas, n, n_outputs = gy.shape
    weights = np.empty((n_replicas, n))

    def work(start: int, stop: int) -> None:
        _weights(x, gy, weights, start, stop, int(bias), of_inputs, of_signals, constants)

    share(work, n_replicas, max(1, GRAIN // (n * (n + x.shape[-1] + n_outputs))))
    return weights


@Kernel
def _weights(
    x: Any, gy: Any, out: Any, start: int, stop: int, bias: int, of_inputs: Fence,
    of_signals: Fence, constants: Any,
) -> None:  # fmt: skip
    n = out.shape[1]
    inputs = np.empty((n, x.shape[2] + bias), x.dtype)
    signals = np.empty((n, gy.shape[2]), x.dtype)
    products, cosines = np.empty((n, n), x.dtype), np.empty((n, n), x.dtype)
    trust, limited, work = np.empty(n), np.empty(n), np.empty((2, n))
    for t in range(start, stop):
        _inputs(x[t if len(x) > 1 else 0], inputs, trust, work, of_inputs)
        _signals(gy[t], signals, trust, limited, work, of_signals)
        if inputs.shape[1] and signals.shape[1]:
            np.dot(inputs, inputs.T, products)
            np.dot(signals, signals.T, cosines)
        else:
            cosines[:] = 0.0
        for i in range(n):
            for j in range(n):
                cosines[i, j] *= products[i, j]
            cosines[i, i] = 0.0
        _weigh(cosines, trust, limited, out[t], work, constants)


@jit
def _inputs(x: Any, out: Any, near: Any, work: Any, fence: Fence) -> None:
    """Inputs within their fence, about their mean, as rows of length one; and the squared share of
    each that lies within.
    """
    n, width = x.shape
    biased = out.shape[1] > width
    sizes, factors = work[0], work[1]
    mean, row = np.empty(width + 1), np.empty(width + 1)
    for i in range(n):
        sizes[i] = _length(x[i])
        if biased:
            sizes[i] = np.hypot(sizes[i], 1.0)
    limit = _fence(sizes, factors, fence)
    longest = 0.0
    for i in range(n):
        factors[i] = limit / sizes[i] if sizes[i] > limit else 1.0
        near[i] = factors[i] * factors[i]
        longest = max(longest, sizes[i] * factors[i])
    longest = max(longest, TINY)
    mean[:] = 0.0
    for i in range(n):
        factor = factors[i] / longest
        for j in range(width):
            mean[j] += x[i, j] * factor
        mean[width] += factor
    for j in range(width + 1):
        mean[j] /= n
    for i in range(n):
        factor = factors[i] / longest
        for j in range(width):
            row[j] = x[i, j] * factor - mean[j]
        row[width] = factor - mean[width] if biased else 0.0
        length = np.sqrt(_square(row, 1.0))
        inverse = 0.0 if length <= ALIKE else 1.0 / length
        for j in range(out.shape[1]):
            out[i, j] = row[j] * inverse


@jit
def _signals(gy: Any, out: Any, trust: Any, limited: Any, work: Any, fence: Fence) -> None:
    """Output gradients as rows of length one, the trust in each sample, which is left the share of
    its input that lies within before, and how long each is within the fence.
    """
    n, width = gy.shape
    sizes = work[0]
    for i in range(n):
        sizes[i] = _length(gy[i])
        inverse = 1.0 / max(sizes[i], TINY)
        for j in range(width):
            out[i, j] = gy[i, j] * inverse
    limit = _fence(sizes, work[1], fence)
    for i in range(n):
        inside = limit / sizes[i] if sizes[i] > limit else 1.0
        trust[i] *= inside * inside
        limited[i] = min(sizes[i], limit)


TINY = 1e-290
"""What nothing is divided by less of, so that no quotient is infinite."""


@jit
def _length(values: Any) -> float:
    """The norm of numbers of any size."""
    if values.itemsize == 4:  # squares of float32 fit into float64
        return np.sqrt(_square(values, 1.0))
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
def _fence(sizes: Any, work: Any, fence: Fence) -> float:
    share, least, spread, power = fence
    n = len(sizes)
    below = max(1, min(n - 1, int((n - 1) * share + 1e-9)))
    largest = 0.0
    for i in range(n):
        work[i] = sizes[i]
        largest = max(largest, sizes[i])
    quantile = ranked(work, below)
    if not quantile > 0.0:
        return largest if largest > 0.0 else 1.0
    lower = 0.0
    for i in range(below):
        lower += work[i] / quantile
    wide = below / (spread * max(lower, 1e-30))
    return min(quantile * least * max(1.0, wide) ** power, largest)


@jit
def _weigh(cosines: Any, trust: Any, limited: Any, out: Any, work: Any, constants: Any) -> None:
    slope, suspicion, power, taken, left = constants
    n = len(out)
    agreement, size = work[0], work[1]
    largest = 0.0
    for i in range(n):
        largest = max(largest, limited[i])
    mass = overall = 0.0
    for i in range(n):
        agreement[i] = _agreement(cosines[i])
        size[i] = limited[i] / largest if largest > 0.0 else 0.0
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
        out[i] = trust[i] * kept
        total += trust[i]
        mean += out[i]
    mean *= n / total
    for i in range(n):
        out[i] /= mean


@jit
def _logistic(value: float) -> float:
    return 1.0 / (1.0 + np.exp(-value))


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
