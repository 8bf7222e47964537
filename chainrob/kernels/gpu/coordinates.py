"""Launches of the coordinate-wise estimates of outer products."""

from __future__ import annotations

from collections.abc import Callable
from math import log, prod
from typing import Any

import numpy as np

from chainrob.kernels.gpu import moments
from chainrob.kernels.gpu.loading import launch

Array = Any

DOUBT = {np.dtype(np.float32): 1e-2, np.dtype(np.float64): 1e-4}
"""Share of the second moment below which a variance found as a difference has lost too many
digits."""

RHO = ("pseudo_huber", "log_cosh", "gudermannian", "catoni")
"""In the order of m_estimator.cu."""

MAX_GRID = 65535
"""Blocks that a grid may have along its second and third axes."""


def fused(name: str, parameters: tuple[Any, ...], x: Array, gy: Array) -> Array | None:
    """A coordinate-wise estimate of the outer products gy[n] x[n]^T, or None where there is no
    kernel.

    Args:
        name, parameters: those of ``chainrob.sample_gradients.operator_base.Fused``.
        x: inputs (*R, N, P), float32 or float64, on the device; replica axes may be 1.
        gy: output gradients (*R, N, Q), likewise.

    Returns:
        array (*R, Q, P).
    """
    launcher = _LAUNCHERS.get(name)
    if launcher is None or x.dtype != gy.dtype or x.dtype not in DOUBT:
        return None
    if x.size == 0 or gy.size == 0:
        return None
    replicas = np.broadcast_shapes(x.shape[:-2], gy.shape[:-2])
    if prod(replicas) > MAX_GRID or gy.shape[-1] > 16 * MAX_GRID:
        return None
    x, x_stride = _flattened(x, replicas)
    gy, gy_stride = _flattened(gy, replicas)
    out = launcher(parameters, _Batch(x, gy, x_stride, gy_stride, prod(replicas)))
    return out.reshape((*replicas, *out.shape[1:]))


class _Batch:
    """Arguments that all kernels share."""

    def __init__(self, x: Array, gy: Array, x_stride: int, gy_stride: int, replicas: int) -> None:
        self.x, self.gy = x, gy
        self.strides = (np.int64(x_stride), np.int64(gy_stride))
        self.replicas = replicas
        self.n_samples, self.n_inputs = x.shape[-2:]
        self.n_outputs = gy.shape[-1]

    def launch(
        self,
        source: str,
        name: str,
        after: tuple[Any, ...],
        before: tuple[Any, ...] = (),
        edge: int | None = None,
    ) -> Array:
        """Run a kernel over all coordinates.

        Args:
            after, before: its arguments behind the common ones, and between inputs and output.
            edge: side of the square of coordinates that a block has, by default one a thread.
        """
        import cupy

        wide = edge is None and self.n_outputs == 1
        block = (256, 1) if wide else (16, 16)
        edges = (edge, edge) if edge else block

        dtype = self.x.dtype
        out = cupy.empty((self.replicas, self.n_outputs, self.n_inputs), dtype)
        grid = (-(-self.n_inputs // edges[0]), -(-self.n_outputs // edges[1]), self.replicas)
        sizes = tuple(np.int32(size) for size in (self.n_samples, self.n_inputs, self.n_outputs))
        arguments = (self.x, self.gy, *before, out, *sizes, *self.strides, *after)
        launch(source, f"{name}_{dtype.name}", grid, block, arguments, wide)
        return out


def _coordinate(name: str, batch: _Batch, count: int, factor: float, floor: float) -> Array:
    scalar = batch.x.dtype.type
    return batch.launch("coordinate", name, (np.int32(count), scalar(factor), scalar(floor)))


def _nearest(name: str, batch: _Batch, f: int) -> Array:
    return batch.launch("nearest_values", name, (np.int32(f),))


def _m_estimator(parameters: tuple[Any, ...], batch: _Batch) -> Array:
    rho, pilot, given, factor, tolerance, max_iterations, report = parameters
    import cupy

    dtype = batch.x.dtype
    tolerance = max(tolerance, 4.0 * float(np.finfo(dtype).eps))
    integers = (RHO.index(rho), int(pilot == "median"), max_iterations)
    reals = (given or 0.0, factor, tolerance)
    unconverged = cupy.zeros((), np.int32)
    after = (*(np.int32(one) for one in integers), *(dtype.type(one) for one in reals), unconverged)
    out = batch.launch("m_estimator", "m_estimator", after)
    report(unconverged)
    return out


def _soft_truncation(parameters: tuple[Any, ...], batch: _Batch) -> Array:
    delta, pilot, min_variance = parameters
    n = batch.n_samples
    factor = n / (2.0 * log(1.0 / delta))
    if pilot == "median":
        return _coordinate("soft_truncation", batch, 1, factor, min_variance)
    if batch.replicas == 1 and moments.pays(n, batch.n_outputs, batch.n_inputs, delta):
        return moments.soft_truncation(batch.x[0], batch.gy[0], delta, min_variance)[None]
    import cupy

    scalar = batch.x.dtype.type
    transposed = batch.gy.swapaxes(-1, -2)
    mean = cupy.matmul(transposed, batch.x) / scalar(n)
    second = cupy.matmul(cupy.square(transposed), cupy.square(batch.x)) / scalar(n)
    shape = (batch.replicas, batch.n_outputs, batch.n_inputs)
    both = tuple(
        cupy.ascontiguousarray(cupy.broadcast_to(moment, shape)) for moment in (mean, second)
    )
    after = (scalar(factor), scalar(min_variance), scalar(DOUBT[batch.x.dtype]))
    return batch.launch("soft_truncation", "soft_truncation_mean", after, both, edge=64)


_LAUNCHERS: dict[str, Callable[[tuple[Any, ...], _Batch], Array]] = {
    "coordinate_median": lambda _, batch: _coordinate("coordinate_median", batch, 0, 1.0, 0.0),
    "trimmed_mean": lambda p, batch: _coordinate("trimmed_mean", batch, p[0], 1.0, 0.0),
    "winsorized_mean": lambda p, batch: _coordinate("winsorized_mean", batch, p[0], 1.0, 0.0),
    "mean_around_median": lambda p, batch: _nearest("mean_around_median", batch, p[0]),
    "phocas": lambda p, batch: _nearest("phocas", batch, p[0]),
    "m_estimator": _m_estimator,
    "soft_truncation": _soft_truncation,
}


def _flattened(array: Array, replicas: tuple[int, ...]) -> tuple[Array, int]:
    """The array contiguous with one replica axis, and its stride between replicas (0: shared)."""
    import cupy

    if prod(array.shape[:-2]) == 1:
        return cupy.ascontiguousarray(array.reshape((1, *array.shape[-2:]))), 0
    full = cupy.ascontiguousarray(cupy.broadcast_to(array, (*replicas, *array.shape[-2:])))
    return full.reshape((-1, *array.shape[-2:])), prod(array.shape[-2:])
