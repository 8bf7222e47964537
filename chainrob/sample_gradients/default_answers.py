"""Questions to an operator that most leave as they are answered here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar

from chainrob.sample_gradients.reduction import Array
from chainrob.sample_gradients.row_index import RowIndex


class DefaultAnswers:
    """What most operators leave as it is. An operator overrides what it knows better.

    The operators that are arguments and answers are ``SampleGradients``.
    """

    replicas: tuple[int, ...]
    shape: tuple[int, ...]

    # -- what an operator is

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The operator of each parameter: itself, unless several are joined."""
        return (self,)

    weights: Any = None
    """Of a bias: the weights beside it, which answer for both with ``with_bias()`` and
    ``reduce_with_bias()``."""

    units_come_first: ClassVar[bool] = True
    """Whether output units are the entries of the parameter's first axis."""

    sparse: ClassVar[bool] = False
    """Whether most coordinates are zero in all samples."""

    of_signals: bool = False
    """Whether the rows are output gradients alone, with no input in them, as those of a bias."""

    of_rows: ClassVar[bool] = False
    """Whether a layer sees several rows of one sample; see ``RowSums``."""

    # -- what its rows are made of

    outer_factors: tuple[Array, Array] | None = None
    """x and gy, (*R, N, S, P) and (*R, N, S, Q), of ordinary outer products."""

    input_and_signal: tuple[Array, Array] | None = None
    """Each sample's inputs and output gradients as vectors, (*R, N, K) and (*R, N, L), where the
    rows are sums of their products."""

    def map_factors(self, answer: Callable[[Array, int], Array]) -> Any:
        """The operator of other samples, from what the rows are made of.

        Args:
            answer: an array and the number of its sample axis to the array of the other samples.
        """
        raise NotImplementedError(f"the rows of {type(self).__name__} are made of no arrays")

    def numbers_per_sample(self) -> int:
        """How many numbers one sample's rows are made of."""
        return prod(self.replicas) * prod(self.shape)

    # -- the same rows in another form

    def each(self, answer: Callable[[Any], Any]) -> Any:
        """What ``answer`` says of the operator; a tuple, one a part, for joined parameters."""
        return answer(self)

    def touched(self) -> Any:
        """The operator without coordinates that are known to be zero in all samples."""
        return self

    def combined(self, matrix: Array) -> Any:
        """``mix`` by a matrix (M, N) in a form that compiled reductions know, or None."""
        return None

    def added_up(self, uses: Sequence[Any]) -> Any:
        """One operator for the sum of several of this kind, or None: see ``summed.add_up``."""
        return None

    def row_sums(self, rows: RowIndex) -> Any:
        """The operator whose row n is the sum of sample n's rows, or None: see ``RowSums``."""
        return None

    def resolved(self) -> Any:
        """The same rows as an operator of the samples itself, where that is cheaper."""
        return self

    def as_layer(self) -> Any:
        """The same coordinates, output units side by side: for whom looks at one at a time."""
        return self

    def join_units(self, estimate: Array) -> Array:
        """Estimates of all output units (*R, U, ...) in the parameter's own shape."""
        return estimate.reshape((*self.replicas, *self.shape))

    # -- size

    def magnitude(self) -> Any:
        """The exponent e for which rows of 2^-e G have ordinary size; see ``normalized``."""
        return 0

    def scaled_down(self, exponent: Any) -> Any:
        """The operator 2^-exponent G."""
        raise NotImplementedError(f"{type(self).__name__} has no scaled form")
