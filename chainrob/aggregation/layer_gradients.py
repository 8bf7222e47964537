"""One layer's backward pass: arrays in, the robust gradients of its parameters out.

Scale, scope, watching, recording for the whole model and second derivatives are in one
place, here, for all layers of all fronts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrob.aggregation.layer_options import Aggregation
from chainrob.aggregation.observers import is_observed, watched_estimate
from chainrob.aggregation.recorder import record
from chainrob.aggregation.scopes import count_samples, pullback
from chainrob.robustifiers import CoordinateWise, Mean
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.sample_gradients import Joined, RowIndex, RowSums, SampleGradients, summed_rows
from chainrob.sample_gradients.operator_base import Array

Build = Callable[[tuple[Array, ...], Sequence[int]], Mapping[int, SampleGradients]]
"""(inputs and gy, wanted parameter indices) to one operator a parameter."""

Pull = Callable[[tuple[Array, ...], Mapping[int, tuple[Array, ...]]], tuple[Array, ...]]
"""(inputs and gy, cotangents of the operators' ingredients) to cotangents of inputs and gy."""


@dataclass(eq=False)
class LayerGradients:
    """(*inputs, gy) to the robust estimates of a layer's parameter gradients.

    The arrays are what the operators are made from: the layer's input x (for some layers more) and
    gy.

    Args:
        build: makes the operators from the input arrays and gy, where row n is what sample n adds
            to the gradient.
        aggregation: robustifier, scope and scale; the robustifier is not None.
        wanted: keys of the parameters to estimate, as ``build`` knows them.
        names: key to name of the parameter in the layer.
        dtypes: key to dtype of the gradient.
        sample_axis: which axis of gy counts the samples.
        n_positions: how many consecutive entries of that axis belong to one sample.
        function: what the layer computes, by name, for messages.
        pull: for double backward: takes the cotangents of the operators' ingredients to those of
            the arrays. None where that is not available.
        targets: with ``scope='model'``: key to what the parameter is in the graph.
    """

    build: Build
    aggregation: Aggregation
    wanted: Sequence[int]
    names: Mapping[int, str]
    dtypes: Mapping[int, np.dtype]
    sample_axis: int = 0
    n_positions: int = 1
    function: str = "this layer"
    pull: Pull | None = None
    targets: Mapping[int, Any] | None = None

    def estimates(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """The gradients of the wanted parameters.

        With ``scope='model'`` they are zeros, and the operators wait with the model's recorder for
        the end of the pass: what else the loss says of a parameter (a penalty, a plain use) adds up
        beside the zeros and is kept.
        """
        plan = self.aggregation
        if type(plan.robustifier) is Mean and (sums := self._sums(arrays, plan.robustifier)):
            return sums
        found, n_samples = self.operators(arrays)
        operators = [found[index] for index in self.wanted]
        rows = {self.names[index]: found[index] for index in self.wanted}
        if plan.scope == "model":
            assert self.targets is not None
            targets = {self.names[index]: self.targets[index] for index in self.wanted}
            record(plan.owner, rows, plan.loss_reduction, targets)
            estimates = [one.zeros() for one in operators]
        else:
            robustifier: Any = plan.robustifier
            owners = () if plan.owner is None else (plan.owner,)
            estimates = watched_estimate(
                robustifier, rows, plan.scope, plan.loss_reduction, plan.owner, owners
            )
            if plan.loss_reduction == "sum":
                n_samples = count_samples(robustifier, n_samples)
                estimates = [one * one.dtype.type(n_samples) for one in estimates]
        return self._as_gradients(operators, estimates)

    def _sums(self, arrays: tuple[Array, ...], mean: Mean) -> tuple[Array, ...] | None:
        """The sums of the raw contributions: what ``Mean`` estimates, whatever the loss reduction.

        None where somebody else estimates, watches or says what a sample is, and where rows are not
        finite.
        """
        plan = self.aggregation
        if plan.scope == "model" or plan.samples is not None:
            return None
        if is_observed(plan.owner) or any(one.dtype == np.float16 for one in arrays):
            return None
        operators = self.build(arrays, self.wanted)
        rows = [operators[index] for index in self.wanted]
        whole = rows[0] if len(rows) == 1 else Joined(rows)
        if whole.replicas:  # beside replicas with other robustifiers the numbers stay the same bits
            return None
        if mean.nonfinite != "propagate" and not whole.all_finite():
            return None
        return self._as_gradients(rows, [one.total() for one in rows])

    def _as_gradients(
        self, rows: Sequence[SampleGradients], estimates: Sequence[Array]
    ) -> tuple[Array, ...]:
        """The estimates in the dtypes of the gradients."""
        gradients = []
        for index, row, one in zip(self.wanted, rows, estimates, strict=True):
            if not one.ndim:  # NumPy's arithmetic turns it into a scalar, which is no array
                one = row.xp.asarray(one)
            gradients.append(one.astype(self.dtypes[index], copy=False))
        return tuple(gradients)

    def zeros(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """Zeros of the wanted parameters' shapes."""
        operators, _ = self.operators(arrays)
        return tuple(
            operators[index].xp.zeros(
                (*operators[index].replicas, *operators[index].shape), self.dtypes[index]
            )
            for index in self.wanted
        )

    def operators(self, arrays: tuple[Array, ...]) -> tuple[Mapping[int, SampleGradients], int]:
        """The operators of the wanted parameters, and N.

        Row n is the gradient of sample n's own loss when the loss is a mean over the batch (``gy``
        then carries 1 / N, so it is multiplied by N), and the raw contribution when it is a sum.
        """
        arrays, n_samples, rows = self._scaled(arrays)
        operators = self.build(arrays, self.wanted)
        if rows is None:
            return operators, n_samples
        if self.aggregation.scope == "model":  # all uses are first put together
            return {key: RowSums(one, rows) for key, one in operators.items()}, n_samples
        return summed_rows(operators, rows), n_samples

    def n_rows(self, arrays: tuple[Array, ...]) -> int:
        """The entries of gy's sample axis, positions of one put together."""
        return int(arrays[-1].shape[self.sample_axis]) // self.n_positions

    def _scaled(self, arrays: tuple[Array, ...]) -> tuple[tuple[Array, ...], int, RowIndex | None]:
        """The arrays with gy in the unit of the rows (see ``operators``), N, and to which sample
        each row belongs, where ``chainrob.samples`` says it.

        float16 becomes float32 first: N times what a scaled loss leaves there is soon beyond it.
        """
        *inputs, gy = [one.astype(np.float32) if one.dtype == np.float16 else one for one in arrays]
        n_samples, samples, rows = self.n_rows(arrays), self.aggregation.samples, None
        if samples is not None:
            rows = samples.rows(n_samples, self.function)
        if rows is not None:
            n_samples = rows.n_samples
        if self.aggregation.loss_reduction == "mean":
            gy = gy * gy.dtype.type(n_samples)
        return (*inputs, gy), n_samples, rows

    def check_differentiable(self) -> None:
        """Raise where the estimate has no derivative.

        Raises:
            NotDifferentiableError: ``scope='model'``, or a layer without a ``pull``.
        """
        names = ", ".join(self.names[index] for index in self.wanted)
        if self.aggregation.scope == "model":
            raise NotDifferentiableError(
                f"the gradient of {names} with scope='model' is found after the backward pass, so "
                f"it cannot be differentiated; use another scope"
            )
        if self.pull is None:
            raise NotDifferentiableError(
                f"double backward through the robust gradient of {names} with "
                f"{self.aggregation.robustifier!r} is not available for {self.function}"
            )

    def pullback(
        self, arrays: tuple[Array, ...], cotangents: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        """The derivative of ``estimates``: cotangents of the estimates to those of the arrays.

        An estimate is differentiated as what it is: truncations and order statistics in closed form
        (almost everywhere), minimizers by the implicit function theorem, never with frozen weights.

        Args:
            arrays: as for ``estimates``.
            cotangents: one a wanted parameter; None is zero.
        """
        self.check_differentiable()
        assert self.pull is not None
        plan = self.aggregation
        assert plan.robustifier is not None
        inputs, n_samples, index = self._scaled(arrays)
        operators = self.build(inputs, self.wanted)
        if index is not None:  # not resolved: cotangents are wanted of the single rows
            operators = {key: RowSums(one, index) for key, one in operators.items()}
        rows = [self._explicit(operators[index]) for index in self.wanted]
        given = [
            row.xp.zeros((*row.replicas, *row.shape), row.compute_dtype)
            if one is None
            else one.astype(row.compute_dtype, copy=False)
            for row, one in zip(rows, cotangents, strict=True)
        ]
        pulled = pullback(plan.robustifier, rows, given, plan.scope)
        *of_inputs, of_gy = self.pull(inputs, dict(zip(self.wanted, pulled, strict=True)))
        # With 'mean' the rows are N times the raw ones, with 'sum' the estimate is: either way N.
        of_gy = of_gy * n_samples
        if plan.loss_reduction == "sum":
            of_inputs = [one * n_samples for one in of_inputs]
        return tuple(
            rows[0].xp.asarray(one).astype(array.dtype, copy=False)
            for one, array in zip((*of_inputs, of_gy), arrays, strict=True)
        )

    def refuse_third(self) -> NotDifferentiableError:
        """What a third derivative raises."""
        return NotDifferentiableError(
            f"the robust gradient with {self.aggregation.robustifier!r} can be differentiated "
            f"twice, not three times"
        )

    def _explicit(self, gradients: SampleGradients) -> SampleGradients:
        """The operator itself, or its rows as an array where it can only give tiles."""
        plan = self.aggregation
        by_unit = plan.scope == "unit" and not isinstance(plan.robustifier, CoordinateWise | Mean)
        if by_unit and not gradients.units_come_first:
            raise NotDifferentiableError(
                f"double backward with scope='unit' is not available for {self.function}; use "
                f"another scope"
            )
        return gradients.with_pullback()
