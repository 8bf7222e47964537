"""Convolutions and transposed convolutions of any number of dimensions: sums over positions of
products with patches.

Both are the same sum. In a convolution the patches are cut from x, and gy is plain. In a transposed
convolution the patches are cut from gy, and x is plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chainrob.builders.positions import broadcast_to_positions, position_sums
from chainrob.kernels import array_module
from chainrob.sample_gradients import PatchProducts, SampleGradients, TransposedPatchProducts
from chainrob.sample_gradients.operator_base import Array
from chainrob.sample_gradients.patches import Geometry, padded


def convolution_rows(
    arrays: tuple[Array, ...], wanted: Sequence[int], geometry: Geometry, pad: Sequence[int]
) -> dict[int, SampleGradients]:
    r"""The operators of W (key 1) and b (key 2) of a convolution.

    .. math::
        g_{W,n,q,c,k} = \sum_s g_{y_{n,q,s}} x_{n,c,s \cdot stride + k \cdot dilate - pad},
        \qquad g_{b,n,q} = \sum_s g_{y_{n,q,s}}

    Args:
        arrays: x (N, C, *spatial) and gy (N, Q, *positions).
        wanted: 1, 2 or both.
        geometry: filter size, stride, dilation and groups.
        pad: number of zeros before each axis of x. Behind it there are as many as the positions
            need.
    """
    x, gy = arrays
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        operators[1] = PatchProducts(padded(x, pad, geometry, gy.shape[2:]), gy, geometry)
    if 2 in wanted:
        operators[2] = position_sums(gy, keep=(1,), of_signals=True)
    return operators


def transposed_convolution_rows(
    arrays: tuple[Array, ...], wanted: Sequence[int], geometry: Geometry, pad: Sequence[int]
) -> dict[int, SampleGradients]:
    r"""The operators of W (key 1) and b (key 2) of a transposed convolution.

    .. math::
        g_{W,n,c,q,k} = \sum_s x_{n,c,s}\, g_{y_{n,q,s \cdot stride + k \cdot dilate - pad}}

    Args:
        arrays: x (N, C, *positions) and gy (N, Q, *outsize).
        wanted, geometry: as for ``convolution_rows``.
        pad: number of entries cut off before each axis of y.
    """
    x, gy = arrays
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        patched = padded(gy, pad, geometry, x.shape[2:])
        operators[1] = TransposedPatchProducts(patched, x, geometry)
    if 2 in wanted:
        operators[2] = position_sums(gy, keep=(1,), of_signals=True)
    return operators


def convolution_pullback(
    arrays: tuple[Array, ...],
    cotangents: Mapping[int, tuple[Array, ...]],
    geometry: Geometry,
    pad: Sequence[int],
) -> tuple[Array, ...]:
    """Cotangents of x and gy from those of the rows; arguments as for ``convolution_rows``."""
    x, gy = arrays
    of_x, of_gy = array_module(x).zeros_like(x), array_module(gy).zeros_like(gy)
    if 1 in cotangents:
        of_x, of_gy = _patch_pullback(x, gy, cotangents[1][0], geometry, pad)
    if 2 in cotangents:
        of_gy = of_gy + broadcast_to_positions(cotangents[2][0], 1, gy)
    return of_x, of_gy


def transposed_convolution_pullback(
    arrays: tuple[Array, ...],
    cotangents: Mapping[int, tuple[Array, ...]],
    geometry: Geometry,
    pad: Sequence[int],
) -> tuple[Array, ...]:
    """Cotangents of x and gy from those of the rows; arguments as for
    ``transposed_convolution_rows``.
    """
    x, gy = arrays
    of_x, of_gy = array_module(x).zeros_like(x), array_module(gy).zeros_like(gy)
    if 1 in cotangents:
        of_gy, of_x = _patch_pullback(gy, x, cotangents[1][0], geometry, pad)
    if 2 in cotangents:
        of_gy = of_gy + broadcast_to_positions(cotangents[2][0], 1, gy)
    return of_x, of_gy


def _patch_pullback(
    array: Array, plain: Array, rows: Array, geometry: Geometry, pad: Sequence[int]
) -> tuple[Array, Array]:
    """Cotangents of the array with the patches, without its padding, and of the plain array.

    They are derivatives of the sum over n of <rows_n, g_n>, added up tap by tap of the filter. Each
    tap is one matrix product per sample and group.

    Args:
        array: (N, C, *spatial).
        plain: (N, A, *positions).
        rows: cotangents (N, A, C / G, *ksize).
        geometry, pad: as for ``convolution_rows``.
    """
    xp, positions, groups = array_module(plain), plain.shape[2:], geometry.groups
    n_samples, n_plain = plain.shape[:2]
    patched = padded(array, pad, geometry, positions)
    of_patched, of_plain = xp.zeros_like(patched), xp.zeros_like(plain)
    rows = rows.astype(plain.dtype, copy=False)

    def grouped(values: Array) -> Array:
        """(N, G, channels of a group, positions)."""
        n_channels = values.shape[1] // groups
        count = int(np.prod(positions))  # not -1: a layer may have no channels
        return values.reshape((n_samples, groups, n_channels, count))

    for tap in np.ndindex(*geometry.ksize):
        window = tuple(
            slice(k * dilate, k * dilate + max((count - 1) * stride + 1, 0), stride)
            for k, count, stride, dilate in zip(
                tap, positions, geometry.stride, geometry.dilate, strict=True
            )
        )
        seen = (slice(None), slice(None), *window)
        filters = rows[(slice(None), slice(None), slice(None), *tap)]
        filters = filters.reshape((n_samples, groups, n_plain // groups, rows.shape[2]))
        of_plain += xp.matmul(filters, grouped(patched[seen])).reshape(plain.shape)
        back = xp.matmul(filters.swapaxes(-1, -2), grouped(plain))
        of_patched[seen] += back.reshape((n_samples, patched.shape[1], *positions))
    inside = (slice(p, p + size) for p, size in zip(pad, array.shape[2:], strict=True))
    return of_patched[(slice(None), slice(None), *inside)], of_plain
