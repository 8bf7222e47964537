"""A layer whose output is the argmin of an objective that depends on its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation.argmin import argmin
from chainrob.differentiation.constraints import Constraint

__all__ = ["ArgminLayer"]

Variable = Any


class ArgminLayer(chainer.Link):
    r"""A trainable link that solves one optimization problem for each sample of a batch.

    .. math:: z_n = \arg\min_{z \in Z} f(z, h_n, \theta)

    h_n is the output of the layer below. The parameters theta of the problem are learned. The
    forward pass solves and verifies all problems of the batch together. The backward pass
    differentiates the optimality conditions (:func:`argmin`), in h and in theta. A problem without
    an isolated minimum raises an error.

    Args:
        objective: ``objective(z, *inputs, **parameters)`` takes z (N, \*size), the layer's inputs,
            and the parameters by their names, as Variables; it returns one number per sample, (N,).
        size: Shape of one z, or its number of entries.
        parameters: theta, a mapping from names to initial arrays.
        constraints: A constraint, a list of them, or a callable that makes one from
            ``(*inputs, **parameters)``. So bounds and equations can be learned too.
        start: Start of every z, an array that broadcasts to ``size``. Default: zeros. In a
            simplex, 1 / size is a good start.
        options: Further options of :func:`argmin`.

    Attributes:
        report: The :class:`ArgminReport` of the last forward pass.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> from chainrob.differentiation import ArgminLayer, Simplex
        >>> def energy(z, h, scale):
        ...     return F.sum(F.broadcast_to(scale, z.shape) * z**2 / 2 - h * z, axis=1)
        >>> layer = ArgminLayer(energy, 3, {'scale': np.ones(3)}, constraints=Simplex(),
        ...                     start=np.full(3, 1 / 3))
        >>> z = layer(np.array([[0.5, 0.25, -1.0]]))
        >>> print(z.array)
        [[0.625 0.375 0.   ]]
        >>> F.sum(z[:, 0]).backward()
        >>> print(layer.scale.grad[:2])
        [-0.3125  0.1875]

    References:
        B. Amos and J. Z. Kolter, OptNet: differentiable optimization as a layer in neural networks,
        ICML 2017.
    """

    def __init__(
        self,
        objective: Callable[..., Any],
        size: int | Sequence[int],
        parameters: Mapping[str, Any] | None = None,
        *,
        constraints: Constraint | Sequence[Constraint] | Callable[..., Any] | None = None,
        start: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not callable(objective):
            raise TypeError(f"objective must be callable, found {type(objective).__name__}")
        self.objective = objective
        self.size = (int(size),) if isinstance(size, (int, np.integer)) else tuple(size)
        if not all(extent > 0 for extent in self.size):
            raise ValueError(f"size must be positive, found {size!r}")
        self.constraints = constraints
        self.start = np.broadcast_to(0.0 if start is None else np.asarray(start), self.size)
        self.options = options
        self.report: Any = None
        self._names = tuple(parameters or ())
        with self.init_scope():
            for name, value in (parameters or {}).items():
                if hasattr(self, name):
                    raise ValueError(
                        f"parameters must not be named {name!r}: a link has this attribute"
                    )
                setattr(self, name, chainer.Parameter(np.asarray(value)))

    def forward(self, *inputs: Any) -> Variable:
        """z, an array (N, ...) of the given size, for inputs of N samples each."""
        if not inputs:
            raise TypeError(
                "forward takes at least one input, which says how many samples there are"
            )
        given = [chainer.as_variable(one) for one in inputs]
        own = [getattr(self, name) for name in self._names]
        count = len(given)

        def objective(z: Variable, *rest: Variable) -> Variable:
            return self.objective(
                z, *rest[:count], **dict(zip(self._names, rest[count:], strict=True))
            )

        constraints = self.constraints
        if callable(constraints):
            constraints = constraints(*given, **dict(zip(self._names, own, strict=True)))
        dtype = given[0].dtype if given[0].dtype.kind == "f" else np.float64
        start = np.broadcast_to(self.start, (len(given[0]), *self.size)).astype(dtype)
        z = argmin(
            objective,
            given[0].xp.asarray(start),
            [*given, *own],
            constraints=constraints,
            batched=True,
            **self.options,
        )
        self.report = z.report
        return z
