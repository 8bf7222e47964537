"""The node that takes the place of the plain sum: (inputs, gy) to robust parameter gradients.

Every robust function has the same backward pass: gx is the stock one, and the parameters' gradients
come from one ``GradientNode``, told how to make sample-gradient operators of this layer. Scale,
scope, observers and recording for the whole model are therefore in one place, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import chainer
from chainer import function_node
from chainrob.functions import observers, recorder
from chainrob.functions.double_backward import GradientPullback, Pull
from chainrob.functions.estimate import (
    Reduction,
    Scope,
    check_options,
    count_samples,
    estimate_watched,
)
from chainrob.functions.exact import is_exact
from chainrob.kernels import array_module
from chainrob.robustifiers import Mean
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.sample_gradients import Dense, SampleGradients
from chainrob.sample_gradients.base import Array

Build = Callable[[tuple[Array, ...], Sequence[int]], Mapping[int, SampleGradients]]
"""(inputs and gy, wanted parameter indices) to one operator a parameter."""


@dataclass(frozen=True, eq=False)
class Aggregation:
    """How a layer turns its sample gradients into gradients: what all robust functions share.

    Args:
        robustifier: a Robustifier, any callable (N, D) -> (D,), or None for the plain sum.
        loss_reduction: ``'mean'`` or ``'sum'``.
        scope: ``'unit'``, ``'parameter'``, ``'layer'``; ``'model'`` only with a link.
        link: the link that runs the function, which observers and recorders know it by.
    """

    robustifier: Callable[[Any], Any] | None
    loss_reduction: Reduction = "mean"
    scope: Scope = "layer"
    link: chainer.Link | None = None

    def __post_init__(self) -> None:
        check_options(self.robustifier, self.loss_reduction, self.scope)
        if self.scope == "model" and self.link is None:
            raise ValueError(
                "scope='model' joins the links of a model, so a function by itself has none; "
                "use the robust link, or another scope"
            )


def aggregation_now(aggregation: Aggregation) -> Aggregation:
    """The aggregation itself, or the plain sum inside ``exact_backward``."""
    if not is_exact():
        return aggregation
    plain = Mean(nonfinite="propagate")
    return Aggregation(plain, aggregation.loss_reduction, "parameter", None)


class GradientNode(function_node.FunctionNode):
    """(*inputs, gy) to the robust estimates of a layer's parameter gradients.

    Its graph inputs are the layer's own input x (for some layers more) and gy, all retained; its
    outputs the gradients of ``wanted``.

    Args:
        build: makes the operators from the input arrays and gy, where row n is what sample n adds
            to the gradient.
        aggregation: robustifier, scope and scale; the robustifier is not None.
        wanted: input indices, in the layer's function, of the parameters to estimate.
        names: input index to name of the parameter in the link.
        dtypes: input index to dtype of the gradient.
        sample_axis: which axis of gy counts the samples.
        n_positions: how many consecutive entries of that axis belong to one sample.
        origin: the layer's function node.
        pull: for double backward: takes the cotangents of the operators' ingredients to those of
            the graph inputs.
    """

    def __init__(
        self,
        build: Build,
        aggregation: Aggregation,
        wanted: Sequence[int],
        names: Mapping[int, str],
        dtypes: Mapping[int, np.dtype],
        sample_axis: int = 0,
        n_positions: int = 1,
        origin: function_node.FunctionNode | None = None,
        pull: Pull | None = None,
    ) -> None:
        super().__init__()
        self.build = build
        self.pull = pull
        self.aggregation = aggregation
        self.wanted = wanted
        self.names = names
        self.dtypes = dtypes
        self.sample_axis = sample_axis
        self.n_positions = n_positions
        self.origin = origin

    def forward(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(arrays))))
        operators, n_samples = self.operators(arrays)
        plan = self.aggregation
        if plan.scope == "model":
            return self._record(operators)
        wanted = self.wanted
        rows = [operators[index] for index in wanted]
        robustifier: Any = plan.robustifier
        watch = observers.is_observed(plan.link)
        estimates, weights = estimate_watched(robustifier, rows, plan.scope, watch=watch)
        if watch:
            named = {self.names[index]: operators[index] for index in wanted}
            observers.notify(
                (plan.link,),
                plan.link,
                robustifier,
                named,
                plan.scope,
                plan.loss_reduction,
                weights,
            )
        if plan.loss_reduction == "sum":
            n_samples = count_samples(robustifier, n_samples)
            estimates = [one * one.dtype.type(n_samples) for one in estimates]
        # NumPy's arithmetic turns an array of no axes into a scalar, which Chainer does not take.
        return tuple(
            row.xp.asarray(one).astype(self.dtypes[index], copy=False)
            for index, row, one in zip(wanted, rows, estimates, strict=True)
        )

    def operators(self, arrays: tuple[Array, ...]) -> tuple[Mapping[int, SampleGradients], int]:
        """The operators of the wanted parameters, in the unit of contract 1, and N.

        Row n is the gradient of sample n's own loss when the loss is a mean over the batch (``gy``
        then carries 1 / N, so it is multiplied by N), and the raw contribution when it is a sum.
        """
        arrays, n_samples = self.scaled(arrays)
        return self.build(arrays, self.wanted), n_samples

    def scaled(self, arrays: tuple[Array, ...]) -> tuple[tuple[Array, ...], int]:
        """The graph inputs with gy in the unit of contract 1, and N.

        float16 becomes float32 first: N times what a scaled loss leaves there is soon beyond it.
        """
        *inputs, gy = (one.astype(np.float32) if one.dtype == np.float16 else one for one in arrays)
        n_samples = gy.shape[self.sample_axis] // self.n_positions
        if self.aggregation.loss_reduction == "mean":
            gy = gy * gy.dtype.type(n_samples)
        return (*inputs, gy), n_samples

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable | None, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        plan = self.aggregation
        names = ", ".join(self.names[index] for index in self.wanted)
        if plan.scope == "model":
            raise NotDifferentiableError(
                f"the gradient of {names} with scope='model' is found after the backward pass, so "
                f"it cannot be differentiated; use another scope"
            )
        if self.pull is None:
            raise NotDifferentiableError(
                f"double backward through the robust gradient of {names} with "
                f"{plan.robustifier!r} is not available for {type(self.origin).__name__}"
            )
        present = [one is not None for one in grad_outputs]
        node = GradientPullback(self, self.pull, present)
        given = [one for one in grad_outputs if one is not None]
        pulled = node.apply((*self.get_retained_inputs(), *given))
        return tuple(pulled[index] for index in indexes)

    def _record(self, operators: Mapping[int, SampleGradients]) -> tuple[Array, ...]:
        """Leave the operators with the model's recorder; the gradient comes when the pass is over.

        Zeros are handed back meanwhile, so that what else the loss says of the parameter (a
        penalty, a plain use) adds up beside them and is kept.
        """
        named = {self.names[index]: operators[index] for index in self.wanted}
        recorder.record(self.aggregation.link, named, self.aggregation.loss_reduction)
        rows = [operators[index] for index in self.wanted]
        return tuple(
            one.xp.zeros((*one.replicas, *one.shape), self.dtypes[index])
            for index, one in zip(self.wanted, rows, strict=True)
        )


class RobustFunction:
    """Mixed in before a stock function node: its forward and gx, robust parameter gradients.

    A subclass names its parameters in ``parameters`` and makes their operators in
    ``sample_gradients``.
    """

    parameters: ClassVar[Mapping[int, str]]
    """Input index to name in the link."""

    aggregation: Aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        """The operators from (x, gy), where row n is what sample n adds to the gradient."""
        raise NotImplementedError

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable | None:
        """gx, as the stock function has it."""
        return super().backward((0,), (gy,))[0]  # type: ignore[misc]

    def sources(self) -> tuple[chainer.Variable, ...]:
        """What the operators are made from besides gy: x."""
        return (self.get_retained_inputs()[0],)  # type: ignore[attr-defined]

    def row_products(
        self, index: int, rows: Array, variables: tuple[chainer.Variable, ...]
    ) -> chainer.Variable:
        """sum_n <rows_n, g_n>, a scalar, as a Chainer expression of the sources and gy.

        It is linear in the sample gradients g_n of parameter ``index``, so its own gradients are
        the pullback of the cotangents ``rows`` (N, *shape): what double backward needs.
        """
        raise NotDifferentiableError(
            f"double backward through the robust gradient of {self.parameters[index]} is not "
            f"available for {type(self).__name__}"
        )

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        """Cotangents of the sources and gy from those of the rows."""
        variables = tuple(chainer.Variable(array) for array in arrays)
        real = [one for one in variables if one.dtype.kind == "f"]
        with chainer.force_backprop_mode():
            total = sum(
                self.row_products(index, rows, variables) for index, (rows,) in cotangents.items()
            )
        pulled = iter(chainer.grad([total], real))
        out = []
        for one in variables:
            gradient = next(pulled) if one.dtype.kind == "f" else None
            zeros = array_module(one.array).zeros_like(one.array)
            out.append(zeros if gradient is None else gradient.array)
        return tuple(out)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        (gy,) = grad_outputs
        gradients: dict[int, chainer.Variable | None] = {}
        if 0 in indexes:
            gradients[0] = self.input_gradient(gy)
        wanted = [index for index in indexes if index in self.parameters]
        if wanted:
            inputs = self.inputs  # type: ignore[attr-defined]
            node = GradientNode(
                self.sample_gradients,
                aggregation_now(self.aggregation),
                wanted,
                self.parameters,
                {index: inputs[index].dtype for index in wanted},
                origin=self,
                pull=self.pull,
            )
            gradients.update(zip(wanted, node.apply((*self.sources(), gy)), strict=True))
        return tuple(gradients[index] for index in indexes)


def spread(rows: Array, axis: int, like: chainer.Variable) -> Array:
    """Rows (N, *shape) of a parameter that begins at ``axis`` of the input, over all of it."""
    shape = rows.shape[1:]
    after = like.ndim - axis - len(shape)
    rows = rows.reshape((len(rows), *(1,) * (axis - 1), *shape, *(1,) * after))
    return array_module(rows).broadcast_to(rows, like.shape).astype(like.dtype)


def position_sums(rows: Array, keep: Sequence[int]) -> Dense:
    """Rows of a parameter that is shared along some axes: the sum over all axes but the first and
    ``keep``.

    Sums run in float32 at least, whatever the dtype of the rows.
    """
    axes = tuple(axis for axis in range(1, rows.ndim) if axis not in keep)
    if not axes:
        return Dense(rows)
    dtype = np.promote_types(rows.dtype, np.float32)
    return Dense(rows.sum(axis=axes, dtype=dtype))
