"""The one loop over columns, made for each estimator; see ``columns`` for what a column is."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels.cpu import simd
from chainrob.kernels.cpu.columns import buffer, prepare
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.row_squares import (
    FLUSH,
    Watch,
    flush,
    one_sweep,
    two_sweeps,
    vector_sums,
    watched_pieces,
)
from chainrob.kernels.cpu.simd import splat, store
from chainrob.kernels.threads import share

PIECE = 1 << 19
"""Numbers a piece of work holds: some ten microseconds at the least, so that threads pay off."""


class ColumnKernels(NamedTuple):
    """One estimator's loop over columns; both are called through ``solve``."""

    plain: Kernel
    watched: Kernel
    """The same estimates, and the rows' squares beside them."""


def column_kernels(
    name: str,
    estimate: Callable[..., Any],
    weight: Callable[..., Any] | None = None,
    facts: Callable[..., Any] | None = None,
    *,
    normalized: bool | None = None,
) -> ColumnKernels:
    """The loop over columns for an estimator.

    Args:
        name: of the estimator; machine code is kept on disk under it.
        estimate: compiled, called as ``estimate(room, source, column, parameters)``: it fills the
            column (see ``fill``) and answers with the estimate and what it found on the way, a
            tuple of vectors. ``room`` is two buffers for a column, each with its offset.
        weight: compiled, called as ``weight(value, facts, parameters)``: the weights of values.
            None for what nobody watches.
        facts: compiled, called as ``facts(room, n, found, parameters)`` where somebody watches:
            what ``weight`` needs to know, a tuple. First come the number about which deviations are
            taken, of the size of the values, and the distance from it to the weighted mean of the
            values (not so where ``normalized`` is not None).
        normalized: None where ``facts`` knows the weighted mean. Else it is found from the weights;
            True if these are then scaled to a mean of 1, too.
    """
    plain = _cloned(_plain, name, estimate=estimate)
    if weight is None:
        return ColumnKernels(plain, plain)
    sweep = one_sweep(weight) if normalized is None else two_sweeps(weight, normalized)
    watched = _cloned(_watched, name, estimate=estimate, facts_of=facts, sweep=sweep)
    return ColumnKernels(plain, watched)


def _cloned(loop: Any, name: str, **inserted: Any) -> Kernel:
    """The loop with its own estimator, as a function of its own.

    Machine code is stored by a function's name, and by what it closes over: functions compiled in
    this process, which no later one would find again. Global names are looked up when it is
    compiled.
    """
    function = FunctionType(loop.__code__, {**loop.__globals__, **inserted}, loop.__name__)
    function.__module__ = __name__
    function.__qualname__ = function.__name__ = f"{name}{loop.__name__}"
    return Kernel(function)


def solve(
    kernels: ColumnKernels,
    x: np.ndarray,
    gy: np.ndarray,
    parameters: tuple[Any, ...],
    watch: Watch | None = None,
) -> np.ndarray:
    """Estimate all columns.

    Args:
        kernels: the estimator's.
        x: inputs (Tx, N, S, P), float32 or float64.
        gy: output gradients (T, N, S, Q) of the same dtype.
        parameters: those of the estimator.
        watch: where the rows' squares are added up, if anybody asks.

    Returns:
        array (T, Q, P).
    """
    n_inputs, n_outputs = x.shape[-1], gy.shape[-1]
    if n_inputs < min(n_outputs, simd.LINE // x.itemsize):
        # The longer axis fills the lanes.
        if x.shape[0] != gy.shape[0]:
            x = np.repeat(x, gy.shape[0], axis=0)
        return np.ascontiguousarray(solve(kernels, gy, x, parameters, watch).swapaxes(-1, -2))
    source, out = prepare(x, gy)
    n, _, q, n_vectors = source.sizes[:4]
    replicas, columns = gy.shape[0], q * n_vectors
    grain = max(1, PIECE // (n * (simd.LINE // x.itemsize)))
    if watch is None:

        def work(start: int, stop: int) -> None:
            kernels.plain(out, source, start, stop, parameters)

        share(work, replicas * columns, grain)
    else:
        scale = x.dtype.type(watch.scale)

        def work_watched(start: int, stop: int, sums: np.ndarray) -> None:
            kernels.watched(out, source, start, stop, parameters, scale, sums)

        watch.sums[...] += watched_pieces(work_watched, replicas, columns, n, grain)
    return np.ascontiguousarray(out.reshape(replicas, q, -1)[..., :n_inputs])


# -- the loop over columns: what it does not define is inserted by ``_cloned``


def _plain(out: Any, source: Any, start: int, stop: int, parameters: Any) -> None:
    n = source.sizes[0]
    lanes = simd.lanes(out)
    memory, base = buffer(out, n)
    spare, at = buffer(out, n)
    room = memory, base, spare, at
    for column in range(start, stop):
        answer, _ = estimate(room, source, column, parameters)  # type: ignore[name-defined] # noqa: F821
        store(out, column * lanes, answer)


def _watched(
    out: Any, source: Any, start: int, stop: int, parameters: Any, scale: Any, sums: Any
) -> None:
    n = source.sizes[0]
    lanes = simd.lanes(out)
    memory, base = buffer(out, n)
    spare, at = buffer(out, n)
    room = memory, base, spare, at
    rows = vector_sums(out, n)
    for column in range(start, stop):
        answer, found = estimate(room, source, column, parameters)  # type: ignore[name-defined] # noqa: F821
        store(out, column * lanes, answer)
        facts = facts_of(room, n, found, parameters)  # type: ignore[name-defined] # noqa: F821
        sweep(room, source, column, facts, parameters, splat(scale), rows)  # type: ignore[name-defined] # noqa: F821
        if (column - start) % FLUSH == FLUSH - 1 or column == stop - 1:
            flush(rows, sums)
