"""Embedding of integer ids, with a robust gradient of the matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.connection import embed_id as stock
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import embedding_pullback, embedding_rows
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.kernels import array_module
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


class EmbedIDFunction(RobustFunction, stock.EmbedIDFunction):
    """Chainer's embedding, with a robust gradient of W."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W"}

    def __init__(self, aggregation: Aggregation, ignore_label: int | None = None) -> None:
        super().__init__(ignore_label)
        self.aggregation = aggregation

    def input_gradient(self, gy: chainer.Variable) -> None:
        """Ids are integers and have no gradient."""

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        return embedding_rows(arrays, wanted, self.inputs[1].shape[0], self.ignore_label)

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return embedding_pullback(arrays, cotangents, self.inputs[1].shape[0], self.ignore_label)


def embed_id(
    x: Any,
    W: Any,
    ignore_label: int | None = None,
    *,
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""Rows of W by id, with a robust gradient of W.

    .. math::
        y_{n,s} = W_{x_{n,s}}, \qquad
        g_W = R\Big(\Big\{N \sum_s e_{x_{n,s}}\, g_{y_{n,s}}^\top\Big\}_n\Big)

    A sample uses few ids, so most of its gradient is zero. In most coordinates nearly all samples
    are zero, and then a coordinate-wise robust estimate may be zero too. For example, a
    coordinate-wise median hardly moves the rows of rare ids. Weighting robustifiers give each
    sample one weight and do not have this problem.

    Args:
        x: integer ids, (N, ...); ``chainrob.samples`` can name another sample axis.
        W: embedding matrix, (V, Q).
        ignore_label: id whose output is zero and whose row gets no gradient.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.embed_id``.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'`` (one column of W), ``'parameter'`` or ``'layer'``.

    Returns:
        chainer.Variable: y, (N, ..., Q).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> W = np.arange(6, dtype=np.float32).reshape(3, 2)
        >>> ids = np.array([2, 0], np.int32)
        >>> chainrob.functions.embed_id(ids, W, robustifier=chainrob.Mean()).array
        array([[4., 5.],
               [0., 1.]], dtype=float32)
    """
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    if runs_plainly(plan):
        return chainer.functions.embed_id(x, W, ignore_label=ignore_label)
    axis = plan.axis_of(len(x.shape))
    if axis:
        ids = chainer.as_variable(x).array
        x = array_module(ids).moveaxis(ids, axis, 0)
    (y,) = EmbedIDFunction(plan, ignore_label).apply((x, W))
    return chainer.functions.moveaxis(y, 0, axis) if axis else y
