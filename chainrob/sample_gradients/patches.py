"""Sample gradients of convolution filters: sums over positions of an array times patches of
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module
from chainrob.kernels.matrix_products import filter_sums
from chainrob.sample_gradients.operator_base import TILE_BUDGET, Array, Index
from chainrob.sample_gradients.tiled import Tiled, blocks


class Geometry(NamedTuple):
    """How a filter moves over its array."""

    ksize: tuple[int, ...]
    stride: tuple[int, ...]
    dilate: tuple[int, ...]
    groups: int


class PatchProducts(Tiled):
    """Row n is sum_s plain[n, a, s] patches[n, c, k, s]: the gradient (A, C/G, *ksize) of a filter.

    In a convolution ``plain`` is gy and the patches are cut from x; in a transposed one it is the
    other way round. Patches are a strided view of ``patched``, copied a tile at a time: the array
    that im2col would build, prod(ksize) times the input, is never held.

    Args:
        patched: (N, C, *spatial), with its padding.
        plain: (N, A, *positions).
        geometry: filter size, stride, dilation and groups.
    """

    def __init__(self, patched: Array, plain: Array, geometry: Geometry) -> None:
        self.patched = patched
        self.plain = plain
        self.geometry = geometry
        self.n_samples = plain.shape[0]
        self.n_positions = prod(plain.shape[2:])
        self.shape = (plain.shape[1], patched.shape[1] // geometry.groups, *geometry.ksize)
        self.full_shape = self.shape
        self.dtype = np.promote_types(patched.dtype, plain.dtype)

    @property
    def xp(self) -> Any:
        return array_module(self.plain)

    @property
    def factors(self) -> tuple[Array, ...]:
        return self.patched, self.plain

    @property
    def input_and_signal(self) -> tuple[Array, Array] | None:  # type: ignore[override]
        if self.unit is not None:
            return None
        n = self.n_samples
        return self.patched.reshape(n, -1), self.plain.reshape(n, -1)

    def _made_of(self, *factors: Array) -> PatchProducts:
        patched, plain = factors
        return type(self)(patched, plain, self.geometry)

    def _values(self, index: Index) -> Array:
        outputs, channels, *kernel = index
        dtype = self.compute_dtype
        parts = []
        for group, part in self._by_group(outputs, self.full_shape[0]):
            offset = group * self.full_shape[1]
            picked = slice(offset + channels.start, offset + channels.stop)
            patches = self._patches((slice(None), picked, *kernel)).astype(dtype, copy=False)
            patches = patches.reshape((self.n_samples, -1, self.n_positions))
            plain = self.plain[:, part].astype(dtype, copy=False)
            plain = plain.reshape((self.n_samples, -1, self.n_positions))
            parts.append(self.xp.matmul(plain, patches.swapaxes(-1, -2)))
        values = parts[0] if len(parts) == 1 else self.xp.concatenate(parts, axis=1)
        return values.reshape((self.n_samples, -1))

    def rectangles(self, budget: int) -> Iterator[Index]:
        if self.unit is not None:
            yield from super().rectangles(budget)
            return
        # All outputs of few filter taps: each patch is then copied once for all of them.
        per_tap = max(1, self.n_samples)
        step = max(1, min(self.full_shape[0], budget // per_tap))
        count = max(1, budget // (per_tap * max(step, self.n_positions)))
        for rest in blocks(self.shape[1:], count):
            for start in range(0, self.full_shape[0], step):
                yield (slice(start, min(start + step, self.full_shape[0])), *rest)

    def _weighted_sum(self, weights: Array) -> Array:
        column = weights.astype(self.compute_dtype, copy=False)
        return self._contract(column.reshape((-1, *(1,) * (self.plain.ndim - 1))), None)

    def mean(self) -> Array:
        if self.unit is not None:
            return super().mean()
        return self._contract(self.compute_dtype.type(1.0 / self.n_samples), None)

    def _unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False).T
        weights = weights.reshape((*weights.shape, *(1,) * (self.plain.ndim - 2)))
        if units != slice(0, self.n_units):
            full = self.xp.zeros((self.n_samples, self.n_units, *weights.shape[2:]), weights.dtype)
            full[:, units] = weights
            weights = full
        if self.units_come_first:
            return self._contract(weights, None)[units]
        return self._split_units(self._contract(None, weights))[units]

    def surely_finite(self) -> Array:
        if not (self.patched.size and self.plain.size):
            return self.xp.ones((), bool)
        # One fast pass over each array. If it fails, the caller looks at the rows themselves.
        with np.errstate(over="ignore", invalid="ignore"):
            largest = [
                self.xp.abs(array).max().astype(self.compute_dtype)
                for array in (self.patched, self.plain)
            ]
            bound = largest[0] * largest[1] * self.compute_dtype.type(self.n_positions)
            return self.xp.isfinite(bound)

    # -- inside

    def _by_group(self, chosen: slice, extent: int) -> Iterator[tuple[int, slice]]:
        """The groups that a run of channels meets, each with its part of the run."""
        size = extent // self.geometry.groups
        for group in range(self.geometry.groups):
            start, stop = max(chosen.start, group * size), min(chosen.stop, (group + 1) * size)
            if start < stop:
                yield group, slice(start, stop)

    def _patches(self, index: tuple[slice, ...]) -> Array:
        """A part of the patches, a view: (n, c, *k, *positions)."""
        _, stride, dilate, _ = self.geometry
        array = self.patched
        lead, spatial = array.strides[:2], array.strides[2:]
        view = self.xp.lib.stride_tricks.as_strided(
            array,
            shape=(*array.shape[:2], *self.geometry.ksize, *self.plain.shape[2:]),
            strides=(
                *lead,
                *(size * by for size, by in zip(spatial, dilate, strict=True)),
                *(size * by for size, by in zip(spatial, stride, strict=True)),
            ),
        )
        return view[index]

    def _contract(self, scale_plain: Any, scale_patched: Any) -> Array:
        """The sum over all samples, one array scaled: (A, C/G, *ksize), a few samples at a time."""
        dtype, groups = self.compute_dtype, self.geometry.groups
        if scale_patched is None:
            patched, plain = self.patched, self.plain
            out = filter_sums(patched, plain, scale_plain, self.geometry, dtype)
            if out is not None:
                return out.astype(self.dtype, copy=False)
        out = self.xp.zeros(self.full_shape, dtype)
        per_sample = max(1, self.n_positions * prod(self.full_shape[1:]))
        step = max(1, 2 * TILE_BUDGET // per_sample)
        spatial = len(self.geometry.ksize)
        over_plain = (0, *range(2, 2 + spatial))
        over_patches = (0, *range(2 + spatial, 2 + 2 * spatial))
        n_plain, n_patched = self.full_shape[0] // groups, self.full_shape[1]
        for start in range(0, self.n_samples, step):
            samples = slice(start, min(start + step, self.n_samples))
            for group in range(groups):
                outputs = slice(group * n_plain, (group + 1) * n_plain)
                channels = slice(group * n_patched, (group + 1) * n_patched)
                plain = self.plain[samples, outputs].astype(dtype, copy=False)
                patches = self._patches((samples, channels)).astype(dtype, copy=False)
                if scale_plain is not None:
                    plain = plain * _part(scale_plain, samples, outputs)
                if scale_patched is not None:
                    scale = _part(scale_patched, samples, channels)
                    patches = patches * scale.reshape((*scale.shape[:2], *(1,) * 2 * spatial))
                out[outputs] += self.xp.tensordot(plain, patches, (over_plain, over_patches))
        return out.astype(self.dtype, copy=False)

    def _split_units(self, array: Array) -> Array:
        raise NotImplementedError


class TransposedPatchProducts(PatchProducts):
    """The filter gradients (C_in, C_out/G, *ksize) of a transposed convolution.

    ``patched`` is gy and ``plain`` is x; an output unit is a channel of gy, so its parameters are
    (C_in/G, *ksize) and lie across the first axis.
    """

    units_come_first = False

    @property
    def input_and_signal(self) -> tuple[Array, Array] | None:  # type: ignore[override]
        pair = super().input_and_signal
        return pair and pair[::-1]

    @property
    def n_units(self) -> int:
        return self.patched.shape[1]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        return (self.full_shape[0] // self.geometry.groups, *self.full_shape[2:])

    def _unit_values(self, units: slice, index: Index) -> Array:
        inputs, *kernel = index
        parts = []
        for group, part in self._by_group(units, self.n_units):
            first = group * self.unit_shape[0]
            channels = slice(
                part.start - group * self.full_shape[1], part.stop - group * self.full_shape[1]
            )
            values = self._values(
                (slice(first + inputs.start, first + inputs.stop), channels, *kernel)
            )
            count, width = inputs.stop - inputs.start, part.stop - part.start
            values = values.reshape((self.n_samples, count, width, -1)).transpose((2, 0, 1, 3))
            parts.append(values.reshape((width, self.n_samples, -1)))
        return parts[0] if len(parts) == 1 else self.xp.concatenate(parts, axis=0)

    def join_units(self, estimate: Array) -> Array:
        groups = self.geometry.groups
        by_group = estimate.reshape((groups, -1, *self.unit_shape)).swapaxes(1, 2)
        return by_group.reshape(self.full_shape)

    def _split_units(self, array: Array) -> Array:
        groups = self.geometry.groups
        by_group = array.reshape((groups, -1, *self.full_shape[1:])).swapaxes(1, 2)
        return by_group.reshape((self.n_units, *self.unit_shape))


def padded(array: Array, pad: Sequence[int], geometry: Geometry, positions: Sequence[int]) -> Array:
    """The array with zeros around it, so that ``positions`` patches fit; itself where they do."""
    widths = []
    for size, before, kernel, stride, dilate, count in zip(
        array.shape[2:],
        pad,
        geometry.ksize,
        geometry.stride,
        geometry.dilate,
        positions,
        strict=True,
    ):
        reach = (count - 1) * stride + (kernel - 1) * dilate + 1 if count else 0
        widths.append((before, max(0, reach - size - before)))
    if not any(any(pair) for pair in widths):
        return array
    return array_module(array).pad(array, ((0, 0), (0, 0), *widths))


def _part(scale: Any, samples: slice, channels: slice) -> Any:
    """The part of a scale (N, 1 or channels, 1...) that belongs to a chunk; a number as it is."""
    if getattr(scale, "ndim", 0) == 0:
        return scale
    return scale[samples] if scale.shape[1] == 1 else scale[samples, channels]
