"""The tutorial's chain: linear layers with ReLU between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chainer
from chainrob.aggregation import Reduction, Scope
from chainrob.links.linear import Linear


class MLP(chainer.Chain):
    """Multi-layer perceptron: ReLU between the layers, nothing after the last.

    The layers are the children ``l1``, ``l2``, ...; ``layers`` lists them.

    Args:
        dims: the sizes from the input to the output, at least two. ``(2, 10, 10, 3)`` makes three
            layers.
        robustifiers: None, one robustifier for all layers, or a sequence with one entry (a
            robustifier or None) for each layer.
        initialW: initializer of every W.
        initial_bias: initializer of every b.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``, see
            ``chainrob.links.Linear``.

    Raises:
        ValueError: ``dims`` has fewer than two entries or one that is not a positive integer, or
            ``robustifiers`` has another length than there are layers.

    Example:
        >>> import numpy as np, chainrob
        >>> model = chainrob.links.MLP((2, 10, 10, 3), [chainrob.SoftTruncation(), None, None])
        >>> model(np.zeros((7, 2), np.float32)).shape
        (7, 3)
        >>> [layer.robustifier for layer in model.layers]
        [SoftTruncation(delta=0.005), None, None]
    """

    def __init__(
        self,
        dims: Sequence[int],
        robustifiers: Callable[[Any], Any] | Sequence[Callable[[Any], Any] | None] | None = None,
        *,
        initialW: Any = None,
        initial_bias: Any = None,
        loss_reduction: Reduction = "mean",
        scope: Scope = "layer",
    ) -> None:
        dims = tuple(dims)
        if len(dims) < 2:
            raise ValueError(
                f"MLP: dims must hold at least an input and an output size, found {dims}"
            )
        if any(
            size is not None and (isinstance(size, bool) or int(size) != size or size < 1)
            for size in dims
        ):
            raise ValueError(f"MLP: dims must be positive integers, found {dims}")
        n_layers = len(dims) - 1
        if robustifiers is None or callable(robustifiers):
            robustifiers = [robustifiers] * n_layers
        if len(robustifiers) != n_layers:
            raise ValueError(
                f"MLP: robustifiers must have one entry for each of the {n_layers} layers, found "
                f"{len(robustifiers)}"
            )
        super().__init__()
        with self.init_scope():
            for number, robustifier in enumerate(robustifiers, start=1):
                layer = Linear(
                    dims[number - 1],
                    dims[number],
                    initialW=initialW,
                    initial_bias=initial_bias,
                    robustifier=robustifier,
                    loss_reduction=loss_reduction,
                    scope=scope,
                )
                setattr(self, f"l{number}", layer)
        self.n_layers = n_layers

    @property
    def layers(self) -> list[Linear]:
        """The layers from the input to the output."""
        return [self[f"l{number}"] for number in range(1, self.n_layers + 1)]

    def forward(self, x: Any) -> chainer.Variable:
        """Scores (N, dims[-1]) of inputs (N, dims[0])."""
        *hidden, last = self.layers
        for layer in hidden:
            x = chainer.functions.relu(layer(x))
        return last(x)
