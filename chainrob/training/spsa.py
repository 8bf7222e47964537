"""Training without backpropagation: two forward passes per step, with an ordinary optimizer."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

import chainer
from chainer import function_node
from chainrob.differentiation import spsa
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array

__all__ = ["SPSA"]


class SPSA:
    r"""A loss whose ``backward`` is the simultaneous-perturbation estimate of the gradient.

    .. math:: \hat g = R\Big(\Big\{ \frac{L(\theta + h u_s) - L(\theta - h u_s)}{2 h} \, u_s
        \Big\}_{s=1}^{S}\Big), \qquad \theta = \text{all parameters together}

    R is the mean or a robustifier (``chainrob.differentiation.spsa``). Call an instance like the
    loss that it wraps. It returns the mean of the 2 S values, and ``backward`` then gives the
    estimate to the parameters. So any optimizer, its hooks and a ``Trainer`` work unchanged. The
    loss need not be differentiable, and no graph is kept.

    The estimate's variance is about (D - 1) / S times the squared gradient, with D the number of
    parameters. Use a learning rate that is smaller by this factor than with backpropagation, or
    more samples.

    Args:
        model: link whose parameters are estimated. Frozen parameters (``disable_update``) stay as
            they are. All parameters must have one dtype. If some have no shape yet, one more
            forward pass sets it.
        lossfun: ``lossfun(*args, **kwargs)`` gives a scalar, a Variable or an array; None is the
            model itself (as with ``chainer.links.Classifier``). It must be the same function in
            all 2 S passes. So run layers that draw at random (dropout) or keep statistics (batch
            normalization) under ``chainer.using_config('train', False)``.
        step: h, positive. None is ``eps ** (1/3) * max(1, |theta|)`` with the dtype's eps. For a
            noisy loss choose a step that changes the loss by more than the noise.
        samples: S, the number of directions per step; each takes two forward passes.
        directions: ``'rademacher'`` or ``'gaussian'``.
        robustifier: any callable (S, D) -> (D,) in place of the mean, for losses with gross errors.
            It needs ``samples`` of at least three to be useful.
        seed: seed or ``numpy.random.Generator`` of the directions; None takes a random seed. To
            make runs resumable, pass ``Snapshot(generators=[spsa.generator])``.

    Attributes:
        evaluations: forward passes so far.
        generator: the generator of the directions.

    Raises:
        TypeError: ``model`` is not a link, or ``lossfun`` is not callable.
        ValueError: ``step``, ``samples`` or ``directions`` is out of range (checked at the call);
            the parameters have several dtypes, or there are none; the loss is not scalar or not
            finite.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
        >>> model = chainrob.links.Linear(2, 1)
        >>> loss = chainrob.training.SPSA(
        ...     model, lambda x: chainer.functions.mean((model(x) - x[:, :1]) ** 2), seed=0
        ... )
        >>> optimizer = chainer.optimizers.SGD(0.1).setup(model)
        >>> for _ in range(200):
        ...     optimizer.update(loss, x)
        >>> print(model.W.array.round(2) + 0.0, loss.evaluations)
        [[1. 0.]] 400

    References:
        J. C. Spall, Multivariate stochastic approximation using a simultaneous perturbation
        gradient approximation, IEEE Trans. Automatic Control 37 (1992).
    """

    def __init__(
        self,
        model: chainer.Link,
        lossfun: Callable[..., Any] | None = None,
        *,
        step: float | None = None,
        samples: int = 1,
        directions: str = "rademacher",
        robustifier: Callable[[Any], Any] | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(model, chainer.Link):
            raise TypeError(f"SPSA: model must be a chainer.Link, found {type(model).__name__}")
        self.model = model
        self.lossfun = model if lossfun is None else lossfun
        if not callable(self.lossfun):
            raise TypeError(f"SPSA: lossfun must be callable, found {lossfun!r}")
        self.step = step
        self.samples = samples
        self.directions = directions
        self.robustifier = robustifier
        self.generator = np.random.default_rng(seed)
        self.evaluations = 0

    def __call__(self, *args: Any, **kwargs: Any) -> chainer.Variable:
        """The loss. Its ``backward`` gives the estimated gradient to the parameters."""
        if not chainer.config.enable_backprop:
            return chainer.as_variable(self.lossfun(*args, **kwargs))
        parameters = self._parameters(args, kwargs)
        originals = [parameter.array for parameter in parameters]
        values: list[float] = []

        def loss_at(theta: Array) -> Any:
            for parameter, part in zip(parameters, _split(theta, originals), strict=True):
                parameter.array = part
            value = self.lossfun(*args, **kwargs)
            value = value.array if isinstance(value, chainer.Variable) else value
            if np.shape(value) != ():
                raise ValueError(f"SPSA: lossfun must be scalar, found shape {np.shape(value)}")
            values.append(float(value))
            return value

        theta = array_module(originals[0]).concatenate([array.ravel() for array in originals])
        try:
            estimate, info = spsa(
                loss_at,
                theta,
                step=self.step,
                samples=self.samples,
                directions=self.directions,
                robustifier=self.robustifier,
                seed=self.generator,
                return_info=True,
            )
        finally:
            for parameter, array in zip(parameters, originals, strict=True):
                parameter.array = array
        self.evaluations += info.evaluations
        node = _Estimate(float(np.mean(values)), _split(estimate, originals))
        (loss,) = node.apply(parameters)
        return loss

    def _parameters(self, args: Any, kwargs: Any) -> list[chainer.Parameter]:
        parameters = [
            parameter
            for _, parameter in sorted(self.model.namedparams())
            if parameter.requires_grad
            and (parameter.update_rule is None or parameter.update_rule.enabled)
        ]
        if any(parameter.array is None for parameter in parameters):
            with chainer.no_backprop_mode():
                self.lossfun(*args, **kwargs)
            self.evaluations += 1
        missing = [parameter.name for parameter in parameters if parameter.array is None]
        if missing:
            raise ValueError(f"SPSA: the loss leaves parameters without a shape: {missing}")
        dtypes = {parameter.dtype for parameter in parameters}
        if len(dtypes) != 1:
            found = sorted(map(str, dtypes)) or "no parameter that is trained"
            raise ValueError(f"SPSA: the model's parameters must have one dtype, found {found}")
        return parameters


class _Estimate(function_node.FunctionNode):
    """A node for a computed loss with estimated gradients."""

    def __init__(self, loss: float, gradients: list[Array]) -> None:
        super().__init__()
        self.loss = loss
        self.gradients = gradients

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        xp = array_module(inputs[0])
        return (xp.asarray(self.loss, dtype=inputs[0].dtype),)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        if chainer.config.enable_backprop:
            raise RuntimeError("SPSA: the estimate of the gradient has no derivative of its own")
        (gy,) = grad_outputs
        return tuple(chainer.Variable(self.gradients[index] * gy.array) for index in indexes)


def _split(flat: Array, like: list[Array]) -> list[Array]:
    """Views of the flat array, in the shapes of the given arrays."""
    ends = np.cumsum([prod(array.shape) for array in like])
    return [
        flat[end - prod(array.shape) : end].reshape(array.shape)
        for end, array in zip(ends.tolist(), like, strict=True)
    ]
