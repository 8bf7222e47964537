"""The launch of the geometric median's iteration."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from chainrob.kernels.gpu.loading import kernel, launch, log

Array = Any

THREADS = 256
WARPS = THREADS // 32
VECTORS = 13
"""As in geometric_median.cu."""

ONE_BLOCK = 128
"""Rows up to which one block is faster than several that wait for each other."""


def geometric_median(
    gram: Array, tolerance: float, max_iterations: int, smoothing: float
) -> tuple[Array, Array, Array]:
    """Solve one problem a replica, without waiting for the device.

    Args:
        gram: inner products (T, N, N), float64, on the device.
        tolerance, max_iterations, smoothing: those of the robustifier.

    Returns:
        weights (T, N), iterations (T,) and residuals (T,), on the device.
    """
    import cupy

    replicas, n = gram.shape[:2]
    products = gram.astype(np.float64, order="C")  # always a copy, which the kernel changes
    weights = cupy.empty((replicas, n), np.float64)
    iterations = cupy.zeros(replicas, np.int64)
    residuals = cupy.zeros(replicas, np.float64)
    if weights.size == 0:
        return weights, iterations, residuals
    radii = cupy.empty((replicas, n), np.float64)
    size = np.int32(n)
    # Replicas lie along the grid's first axis, the only one with room for more than 65,535.
    medians = (products, radii, size)
    launch("geometric_median", "median_squares_float64", (replicas, n), (THREADS,), medians)
    centers = cupy.argmin(radii, axis=-1).astype(np.int64)
    squares = radii.min(axis=-1)
    n_processors, shared_memory = _limits(cupy.cuda.Device().id)
    n_blocks = _blocks(n, replicas, n_processors)
    shared = VECTORS * n * 8
    fits = shared + THREADS * 8 <= shared_memory
    # A null pointer, of the width of one, where shared memory will do.
    work = np.uintp(0) if fits else cupy.empty((replicas, n_blocks, VECTORS, n), np.float64)
    exchange = cupy.empty((replicas, 2, n), np.float64)
    counters = cupy.zeros(replicas, np.uint32)
    solver = kernel("geometric_median", "geometric_median_float64")
    if fits:
        solver.max_dynamic_shared_size_bytes = shared
    arguments = (
        products, centers, squares, weights, iterations, residuals, work, exchange, counters,
        size, np.int32(n_blocks), np.float64(tolerance), np.int32(max_iterations),
        np.float64(smoothing),
    )  # fmt: skip
    # Blocks that wait for each other must all be running: a cooperative launch sees to it.
    log.debug("geometric_median_float64")
    solver.kernel(
        (replicas, n_blocks),
        (THREADS,),
        arguments,
        shared if fits else 0,
        enable_cooperative_groups=n_blocks > 1,
    )
    return weights, iterations, residuals


@cache
def _limits(device: int) -> tuple[int, int]:
    """Processors of a device, and the shared memory a block may have."""
    import cupy

    attributes = cupy.cuda.Device(device).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


def _blocks(n: int, replicas: int, n_processors: int) -> int:
    """Blocks a replica: at least a row a warp, and together no more than run at the same time."""
    if n <= ONE_BLOCK:
        return 1
    return max(1, min(-(-n // WARPS), n_processors // replicas))
