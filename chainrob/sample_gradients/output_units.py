"""``scope='unit'``: every output unit of a layer is a problem of its own, and all share the
inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chainrob.kernels import array_module
from chainrob.sample_gradients.base import Array, Index, Reduction, RowSquares, SampleGradients
from chainrob.sample_gradients.outer_product import OuterProducts


class OutputUnits(SampleGradients):
    """Replica q holds the rows gy[n, q] x[n] of output unit q (P numbers each).

    The sample weights of all units are a (*R, Q, N) array, and the answer is still one product, (w
    * gy)^T x.

    Args:
        base: the layer's outer products; its units become the last replica axis.
    """

    def __init__(self, base: OuterProducts) -> None:
        self.base = base
        self.replicas = (*base.replicas, base.shape[0])
        self.n_samples = base.n_samples
        self.shape = base.shape[1:]
        self.dtype = base.dtype

    @property
    def xp(self) -> Any:
        return self.base.xp

    def weighted_sum(self, weights: Array) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False).swapaxes(-1, -2)
        scaled = self.base.gy * weights[..., :, None, :]
        return self.base._contract(scaled).astype(self.dtype, copy=False)

    def mean(self) -> Array:
        return self.base.mean()

    def gram(self) -> Array:
        return self._explicit().gram()

    def centered_gram(self) -> Array:
        return self._explicit().centered_gram()

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        return self._explicit().tiles(budget)

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Array:
        # Coordinates know nothing of units; squares are added up a unit.
        base = self.base if squares is None else self._explicit()
        return base.reduce(reduction, dtype, squares)

    def take(self, rows: Array) -> OutputUnits:
        return OutputUnits(self.base.take(rows))

    def replica(self, index: tuple[int | slice, ...]) -> SampleGradients:
        return self._explicit().replica(index)

    def units(self) -> SampleGradients:
        raise ValueError("OutputUnits: one output unit has no output units of its own")

    def by_replica(self) -> SampleGradients:
        return self._explicit()

    def finite_rows(self) -> Array:
        return self._explicit().finite_rows()

    def surely_finite(self) -> Array:
        return self.base.surely_finite()

    def _explicit(self) -> SampleGradients:
        """The units as ordinary outer products with Q = 1, the inputs shared by all of them."""
        x = self.base.x[..., None, :, :, :]
        gy = self.base.gy
        gy = array_module(gy).moveaxis(gy, -1, -3)[..., None]
        return _Rows(x, gy)


class _Rows(OuterProducts):
    """Outer products with Q = 1 whose parameter is the vector of the P inputs."""

    def __init__(self, x: Array, gy: Array) -> None:
        super().__init__(x, gy)
        self.shape = x.shape[-1:]

    def weighted_sum(self, weights: Array) -> Array:
        scaled = self.gy * weights.astype(self.compute_dtype, copy=False)[..., None, None]
        return self._contract(scaled)[..., 0, :].astype(self.dtype, copy=False)

    def mean(self) -> Array:
        return super().mean()[..., 0, :]

    def gram(self) -> Array:
        return self._full().gram()

    def centered_gram(self) -> Array:
        return self._full().centered_gram()

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        for (_, inputs), values in self._full().tiles(budget):
            yield (inputs,), values

    def take(self, rows: Array) -> _Rows:
        part = super().take(rows)
        return _Rows(part.x, part.gy)

    def replica(self, index: tuple[int | slice, ...]) -> _Rows:
        part = super().replica(index)
        return _Rows(part.x, part.gy)

    def _full(self) -> OuterProducts:
        return OuterProducts(self.x, self.gy)
