"""The node that replaces the plain sum: from (inputs, gy) to robust parameter gradients.

All robust functions share one backward pass. gx is the stock gradient. The parameters' gradients
come from one ``GradientNode``, which builds the sample-gradient operators of this layer.
``chainrob.aggregation`` then works on the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import chainer
from chainer import function_node
from chainrob._chainer import clearing
from chainrob.aggregation import Aggregation, LayerGradients
from chainrob.aggregation.layer_gradients import Build, Pull
from chainrob.aggregation.sample_index import new_step, watch_count
from chainrob.aggregation.scopes import spans_ranks
from chainrob.robustifiers import Mean
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

clearing.LISTENERS.append(new_step)

__all__ = ["Aggregation", "GradientNode", "RobustFunction"]


class GradientNode(function_node.FunctionNode):
    """From (*inputs, gy) to the robust estimates of a layer's parameter gradients.

    The inputs in the graph are the layer's input x (some layers have more) and gy; all are
    retained. The outputs are the gradients of ``wanted``.

    Args:
        build: makes the operators from the input arrays and gy; row n is sample n's contribution
            to the gradient.
        aggregation: robustifier, scope and scale; the robustifier is not None.
        wanted: input indices, in the layer's function, of the parameters to estimate.
        names: input index to name of the parameter in the link.
        dtypes: input index to dtype of the gradient.
        sample_axis: which axis of gy counts the samples.
        n_positions: how many consecutive entries of that axis belong to one sample.
        origin: the layer's function node.
        pull: for double backward: maps the cotangents of the operators' ingredients to those of
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
        self.settings = aggregation
        self.traced = chainer.config.schedule_func is not None
        """Whether a static graph records this node, which then runs its forward pass again."""
        targets = None
        if origin is not None and (aggregation.scope == "model" or self.traced):
            targets = {index: _target(origin.inputs[index]) for index in wanted}
        self.layer = LayerGradients(
            build,
            aggregation.now(),
            wanted,
            names,
            dtypes,
            sample_axis,
            n_positions,
            type(origin).__name__,
            pull,
            targets,
        )

    def forward(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(arrays))))
        if self.traced:
            return self._replayed(arrays)
        plan = self.layer.aggregation
        watched = plan.owner is not None and plan.samples is None
        if watched and not isinstance(plan.robustifier, Mean) and not spans_ranks(plan.robustifier):
            watch_count(plan.owner, self.layer.n_rows(arrays), plan.scope)
        return self.layer.estimates(arrays)

    def _replayed(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """The gradients with the present settings. ``@static_graph`` runs this once while it
        traces the pass, drops the results, and then runs it in every pass.
        """
        owner = self.settings.owner
        if self.settings.samples is not None:
            raise RuntimeError(
                "chainrob.samples: @static_graph would keep the index of its first pass; leave it "
                "out"
            )
        self.layer.aggregation = (self.settings if owner is None else owner.aggregation).now()
        if self.layer.aggregation.scope != "model":
            return self.layer.estimates(arrays)
        assert self.layer.targets is not None
        if not all(isinstance(one, chainer.Parameter) for one in self.layer.targets.values()):
            raise RuntimeError(
                f"{type(owner).__name__} has scope='model' and a link hook that replaces its "
                f"parameter's array, which @static_graph hides; use another scope, or leave "
                f"@static_graph out"
            )
        if chainer.config.schedule_func is not None:
            return self.layer.zeros(arrays)
        return self.layer.estimates(arrays)

    def operators(self, arrays: tuple[Array, ...]) -> tuple[Mapping[int, SampleGradients], int]:
        """The operators of the wanted parameters, scaled to one sample's own loss, and N."""
        return self.layer.operators(arrays)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable | None, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        self.layer.check_differentiable()
        node = GradientPullback(self.layer, [one is not None for one in grad_outputs])
        given = [one for one in grad_outputs if one is not None]
        pulled = node.apply((*self.get_retained_inputs(), *given))
        return tuple(pulled[index] for index in indexes)


class GradientPullback(function_node.FunctionNode):
    """From (*inputs, gy, *cotangents of the estimates) to the cotangents of (*inputs, gy).

    A third derivative is refused.

    Args:
        layer: the node whose estimates are differentiated.
        present: which of the estimates have a cotangent; for the others it is zero.
    """

    def __init__(self, layer: LayerGradients, present: Sequence[bool]) -> None:
        super().__init__()
        self.layer = layer
        self.present = tuple(present)

    def forward(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        n_cotangents = sum(self.present)
        given = iter(arrays[len(arrays) - n_cotangents :])
        cotangents = [next(given) if present else None for present in self.present]
        return self.layer.pullback(arrays[: len(arrays) - n_cotangents], cotangents)

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> Any:
        raise self.layer.refuse_third()


class RobustFunction:
    """Base of the robust functions: stock forward pass and gx, robust parameter gradients.

    Derive from it and from a function node, in this order. A subclass names its parameters in
    ``parameters`` and makes their operators in ``sample_gradients``. Where the rows are made from
    more than x and gy it overrides ``sources``, and for second derivatives it defines ``pull``.

    Example:
        >>> import chainer, chainrob, numpy as np
        >>> from chainrob.sample_gradients import Dense
        >>> class Gain(chainrob.functions.RobustFunction, chainer.FunctionNode):
        ...     parameters = {1: "w"}
        ...
        ...     def __init__(self, aggregation):
        ...         super().__init__()
        ...         self.aggregation = aggregation
        ...
        ...     def forward(self, inputs):
        ...         self.retain_inputs((0, 1))
        ...         return (inputs[0] * inputs[1],)
        ...
        ...     def input_gradient(self, gy):
        ...         w = self.get_retained_inputs()[1]
        ...         return gy * chainer.functions.broadcast_to(w, gy.shape)
        ...
        ...     def sample_gradients(self, arrays, wanted):
        ...         x, gy = arrays
        ...         return {1: Dense(gy * x)}
        >>> w = chainer.Parameter(np.ones(1, np.float32))
        >>> median = chainrob.functions.Aggregation(chainrob.CoordinateMedian(), "sum", "layer")
        >>> x = np.array([[1], [2], [90]], np.float32)
        >>> (y,) = Gain(median).apply((x, w))
        >>> chainer.functions.sum(y).backward()  # three times the median of 1, 2 and 90
        >>> w.grad
        array([6.], dtype=float32)
    """

    parameters: ClassVar[Mapping[int, str]]
    """Input index to name in the link."""

    aggregation: Aggregation

    n_positions = 1
    """How many consecutive entries of gy's sample axis belong to one sample."""

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        """The operators from the sources and gy; row n is sample n's contribution to the
        gradient.
        """
        raise NotImplementedError

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable | None:
        """gx of the stock function."""
        return super().backward((0,), (gy,))[0]  # type: ignore[misc]

    def sources(self) -> tuple[chainer.Variable, ...]:
        """The arrays besides gy from which the operators are made: x."""
        return (self.get_retained_inputs()[0],)  # type: ignore[attr-defined]

    def sample_axis(self, gy: chainer.Variable) -> int:
        """Which axis of gy counts the samples."""
        return 0

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        """Cotangents of the sources and gy from those of the operators' ingredients."""
        names = ", ".join(self.parameters[index] for index in cotangents)
        raise NotDifferentiableError(
            f"double backward through the robust gradient of {names} is not available for "
            f"{type(self).__name__}"
        )

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        (gy,) = grad_outputs
        gradients: dict[int, chainer.Variable | None] = {}
        if 0 in indexes:
            gradients[0] = self.input_gradient(gy)
        inputs = self.inputs  # type: ignore[attr-defined]
        dtypes = {index: inputs[index].dtype for index in indexes if index in self.parameters}
        if dtypes:
            wanted = tuple(dtypes)
            node = GradientNode(
                self.sample_gradients,
                self.aggregation,
                wanted,
                self.parameters,
                dtypes,
                self.sample_axis(gy),
                self.n_positions,
                origin=self,
                pull=self.pull,
            )
            gradients.update(zip(wanted, node.apply((*self.sources(), gy)), strict=True))
        return tuple(map(gradients.get, indexes))


def runs_plainly(aggregation: Aggregation) -> bool:
    """Whether to run Chainer's own function: there is no robustifier, and none can be set later.

    A static graph keeps the functions that it has recorded. There a link without a robustifier runs
    the robust function too, and its gradient is the plain sum.
    """
    if aggregation.robustifier is not None:
        return False
    return aggregation.owner is None or chainer.config.schedule_func is None


def _target(node: Any) -> Any:
    """A parameter's node in the graph: its own, or that of the variable a link hook made of it."""
    variable = node.get_variable_or_none()
    return variable if isinstance(variable, chainer.Parameter) else node
