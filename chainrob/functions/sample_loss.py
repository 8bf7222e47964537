"""The base of all losses: a loss and an error vector for every sample, and two reductions."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np

import chainer
import chainer.functions as F
from chainer import function_node
from chainer.utils import type_check
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array

__all__ = ["Reduce", "Reduction", "SampleLoss"]

Reduce = Literal["mean", "no"]
"""Over the samples."""

Reduction = Literal["mean", "sum"]
"""Over the D numbers of one sample."""


class SampleLoss(function_node.FunctionNode):
    r"""The loss l_n of every sample from its outputs y_n and its target t_n, or their mean.

    Shapes: y and t (N, \*D); the loss is () or (N,). A subclass defines
    the loss of a sample (``losses``, a sum over its D numbers) and its error vector, the gradient
    of that sum in y_n and in t_n (``error_vectors``). The error vector consists of Chainer
    operations, so second derivatives are right too. Half precision is computed in single precision
    and rounded once.

    Args:
        reduce: ``'mean'`` over the samples, or ``'no'``.
        reduction: over the D numbers of one sample: ``'mean'`` divides their sum by D, ``'sum'``
            does not.
    """

    def __init__(self, reduce: Reduce, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduce not in ("mean", "no"):
            raise ValueError(f"reduce must be 'mean' or 'no', found {reduce!r}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', found {reduction!r}")
        self.reduce = reduce
        self.reduction = reduction

    def check_type_forward(self, in_types: Any) -> None:
        type_check._argname(in_types, ("y", "t"))
        y_type, t_type = in_types
        type_check.expect(
            y_type.dtype.kind == "f",
            t_type.dtype == y_type.dtype,
            y_type.ndim >= 1,
            t_type.shape == y_type.shape,
        )

    def losses(self, y: Array, t: Array) -> Array:
        """Losses (N,) of outputs and targets (N, D), summed over the D numbers."""
        raise NotImplementedError

    def error_vectors(
        self, indexes: tuple[int, ...], y: chainer.Variable, t: chainer.Variable
    ) -> tuple[chainer.Variable, ...]:
        """Gradients (N, D) of each sample's sum, in y (index 0) and in t (index 1)."""
        raise NotImplementedError

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs((0, 1))
        dtype, n = inputs[0].dtype, len(inputs[0])
        rows = [a.reshape(n, prod(a.shape[1:])).astype(_wide(dtype), copy=False) for a in inputs]
        loss = self.losses(*rows) / self._divisor(rows[0].shape[1])
        if self.reduce == "mean":
            loss = loss.sum() / max(n, 1)  # zero without samples, as in Chainer's losses
        return (array_module(loss).asarray(loss, dtype=dtype),)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        inputs = self.get_retained_inputs()
        shape, dtype = inputs[0].shape, inputs[0].dtype
        matrix = (shape[0], prod(shape[1:]))
        y, t = (F.reshape(F.cast(v, _wide(dtype)), matrix) for v in inputs)
        gy = F.cast(grad_outputs[0], _wide(dtype))
        if self.reduce == "mean":
            gy = gy / max(shape[0], 1)
        gy = gy / self._divisor(matrix[1])
        gy = F.broadcast_to(F.reshape(gy, (-1, 1)), matrix)
        return tuple(
            F.cast(F.reshape(gy * error, shape), dtype)
            for error in self.error_vectors(indexes, y, t)
        )

    def _divisor(self, width: int) -> int:
        return max(width, 1) if self.reduction == "mean" else 1


def _wide(dtype: Any) -> Any:
    return np.promote_types(dtype, np.float32)
