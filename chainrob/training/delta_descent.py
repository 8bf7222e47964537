"""Choose the confidence parameter of soft truncation by the gradient of a validation loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import chainer
from chainrob.aggregation import Observation, exact_backward
from chainrob.kernels import array_module
from chainrob.robustifiers import SoftTruncation
from chainrob.sample_gradients.operator_base import Array
from chainrob.training.observation import observe


class DeltaDescent:
    r"""Hypergradient descent on delta, for all ``SoftTruncation`` layers of a model together.

    An SGD step with rate r moves the parameters by -r e(delta), where e is the robust gradient. So
    the validation loss L after the step has the derivative

    .. math:: \frac{dL}{d\delta} = -r \Big\langle \nabla L, \frac{\partial e}{\partial \delta}
        \Big\rangle,

    which is exact for that step. ``update`` takes a step against it in the log-odds of delta, so
    delta stays inside (0, 1).

    Args:
        model: a link whose robust layers all have the same ``SoftTruncation``.
        rate: learning rate of the optimizer that steps the model; plain SGD is assumed.
        step: length of a step in the log-odds of delta; only the sign of the derivative is used.

    Raises:
        ValueError: no layer has soft truncation, the layers' robustifiers differ, or rate or step
            is not positive.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
        >>> model = chainrob.links.MLP((2, 1), chainrob.SoftTruncation(delta=0.5))
        >>> optimizer = chainer.optimizers.SGD(0.1).setup(model)
        >>> tuner = chainrob.training.DeltaDescent(model, rate=0.1)
        >>> loss = chainer.functions.mean((model(x) - x[:, :1]) ** 2)
        >>> model.cleargrads()
        >>> with tuner.watch():
        ...     loss.backward()
        >>> optimizer.update()
        >>> tuner.update(lambda: chainer.functions.mean((model(x) - x[:, :1]) ** 2))
        >>> 0.0 < tuner.delta < 1.0
        True

    References:
        A. G. Baydin, R. Cornish, D. Martinez Rubio, M. Schmidt and F. Wood, Online learning rate
        adaptation with hypergradient descent, ICLR 2018 (the same idea, for the learning rate).
    """

    def __init__(self, model: chainer.Link, rate: float, step: float = 0.1) -> None:
        for name, value in (("rate", rate), ("step", step)):
            if not value > 0.0:
                raise ValueError(f"DeltaDescent: {name} must be positive, found {value!r}")
        self.model = model
        self.rate = rate
        self.step = step
        self.links = [
            link
            for link in model.links()
            if isinstance(getattr(link, "robustifier", None), SoftTruncation)
        ]
        found = {link.robustifier for link in self.links}
        if len(found) != 1:
            raise ValueError(
                f"DeltaDescent: the model's robust layers must share one SoftTruncation, found "
                f"{sorted(map(repr, found)) or 'none'}"
            )
        self._derivatives: list[tuple[chainer.Parameter, Array]] = []

    @property
    def delta(self) -> float:
        """The present value in all layers."""
        return float(self.links[0].robustifier.delta)

    def watch(self) -> Any:
        """A context in which a backward pass records what ``update`` needs."""
        self._derivatives = []
        return observe(self.model, self._keep)

    def derivative(self, validation_loss: Callable[[], chainer.Variable]) -> float:
        """dL/ddelta, after the model's step. The model's gradients stay as they are.

        Args:
            validation_loss: computes L, a scalar variable, with the stepped parameters.

        Raises:
            RuntimeError: no backward pass was watched.
        """
        if not self._derivatives:
            raise RuntimeError(
                "DeltaDescent: no robust backward pass was watched; run loss.backward() inside "
                "tuner.watch()"
            )
        loss = validation_loss()
        parameters = [parameter for parameter, _ in self._derivatives]
        total = 0.0
        for (_, by_delta), gradient in zip(
            self._derivatives, _exact_gradients(loss, parameters), strict=True
        ):
            total -= self.rate * float((gradient * by_delta).sum())
        return total

    def update(self, validation_loss: Callable[[], chainer.Variable]) -> None:
        """Step delta in all layers towards a lower validation loss.

        Args:
            validation_loss: as for ``derivative``.
        """
        slope = self.derivative(validation_loss)
        odds = log(self.delta / (1.0 - self.delta))
        odds -= self.step * ((slope > 0.0) - (slope < 0.0))
        delta = 1.0 / (1.0 + exp(-min(max(odds, -30.0), 30.0)))
        for link in self.links:
            link.robustifier = replace(link.robustifier, delta=delta)
        self._derivatives = []

    def _keep(self, observation: Observation) -> None:
        if observation.link not in self.links:
            return
        for name, gradients in observation.gradients.items():
            by_delta = observation.robustifier.delta_derivative(gradients)  # type: ignore[attr-defined]
            if observation.loss_reduction == "sum":
                by_delta = by_delta * observation.n_samples
            self._derivatives.append((getattr(observation.link, name), by_delta))


def _exact_gradients(loss: chainer.Variable, parameters: list[chainer.Parameter]) -> list[Array]:
    """Plain gradients of a loss in parameters. The parameters' own gradients are not changed."""
    with exact_backward():
        found = chainer.grad([loss], parameters)
    return [
        array_module(parameter.array).zeros_like(parameter.array) if one is None else one.array
        for parameter, one in zip(parameters, found, strict=True)
    ]
