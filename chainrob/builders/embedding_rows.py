"""Embeddings: a sample's gradient is zero except in the rows of its ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from chainrob.kernels import array_module
from chainrob.sample_gradients import EmbeddingGradients, SampleGradients
from chainrob.sample_gradients.operator_base import Array


def embedding_rows(
    arrays: tuple[Array, ...], wanted: Sequence[int], n_ids: int, ignored: int | None = None
) -> dict[int, SampleGradients]:
    r"""The operator of W (key 1), (V, Q).

    .. math:: g_{W,n} = \sum_s e_{x_{n,s}} g_{y_{n,s}}^\top

    Args:
        arrays: ids (N, ...), integers from -V to V - 1 (-1 is the last row), and gy (N, ..., Q).
        wanted: 1.
        n_ids: V.
        ignored: the id that has no gradient.
    """
    ids, gy = arrays
    ids = _counted(ids, n_ids, ignored)
    return {1: EmbeddingGradients(ids, gy.reshape((*ids.shape, gy.shape[-1])), n_ids)}


def embedding_pullback(
    arrays: tuple[Array, ...],
    cotangents: Mapping[int, tuple[Array, ...]],
    n_ids: int,
    ignored: int | None = None,
) -> tuple[Array, ...]:
    """Cotangents of the ids, which are zero, and of gy, from those of the rows (N, V, Q)."""
    ids, gy = arrays
    (rows,) = cotangents[1]
    xp = array_module(rows)
    nothing = xp.zeros((len(rows), 1, rows.shape[-1]), rows.dtype)  # for ignored ids
    rows = xp.concatenate([rows, nothing], axis=1)
    picked = rows[xp.arange(len(rows))[:, None], _counted(ids, n_ids, ignored)]
    return xp.zeros_like(ids), picked.reshape(gy.shape).astype(gy.dtype, copy=False)


def _counted(ids: Array, n_ids: int, ignored: int | None) -> Array:
    """Ids (N, S) from 0 to V; V stands for ignored ids."""
    xp = array_module(ids)
    ids = ids.reshape((len(ids), prod(ids.shape[1:])))
    dropped = ids == (n_ids if ignored is None else ignored)
    # W[-1] is its last row, as in the forward pass.
    ids = xp.where(ids < 0, ids.astype(xp.int64) + n_ids, ids)
    return xp.where(dropped, n_ids, ids)
