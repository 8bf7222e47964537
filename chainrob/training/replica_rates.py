"""A learning rate for each replica of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, ClassVar

import numpy as np

import chainer
from chainrob.kernels import array_module


class ReplicaRates:
    r"""Optimizer hook: replica t of an ensemble learns at its own rate.

    .. math:: g_t \leftarrow \frac{\eta_t}{\eta} g_t

    Here eta is the rate of the optimizer. A step of ``SGD`` is -eta g, so replica t takes the step
    of a run at rate eta_t. The steps of ``MomentumSGD``, ``NesterovAG`` and
    ``CorrectedMomentumSGD`` are linear in eta g, so the same holds for them while the rates stay
    constant. Optimizers that divide by the size of past gradients (Adam, RMSprop, ...) cancel a
    factor of the gradient. They are refused, because scaling their gradients does not change their
    rate. Add this hook last: it also scales what earlier hooks added, such as weight decay, as a
    run at that rate would. It does not scale what later hooks add.

    Args:
        rates: eta_t, one per replica, positive.

    Raises:
        ValueError: the rates are not positive numbers; or, at the update, the first axis of a
            parameter is not that of the replicas.
        TypeError: at the update, the optimizer's step is not linear in the gradient.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> ensemble = chainrob.links.Ensemble([chainrob.links.MLP((2, 3)) for _ in range(2)])
        >>> optimizer = chainer.optimizers.SGD(lr=0.1).setup(ensemble)
        >>> optimizer.add_hook(chainrob.training.ReplicaRates([0.1, 0.3]))
    """

    name = "ReplicaRates"
    call_for_each_param = False
    timing = "pre"

    exact_for: ClassVar[tuple[str, ...]] = (
        "SGD",
        "MomentumSGD",
        "NesterovAG",
        "CorrectedMomentumSGD",
    )

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = tuple(float(rate) for rate in rates)
        if not self.rates:
            raise ValueError("ReplicaRates: rates must hold one rate per replica, found none")
        for rate in self.rates:
            if not (isfinite(rate) and rate > 0.0):
                raise ValueError(f"ReplicaRates: rates must be positive numbers, found {rate!r}")
        self._factors: dict[Any, Any] = {}

    def __call__(self, optimizer: Any) -> None:
        """Scale the gradients; Chainer calls it with the optimizer."""
        kind = type(optimizer).__name__
        if kind not in self.exact_for or type(optimizer).__module__.split(".")[0] != "chainer":
            raise TypeError(
                f"ReplicaRates: scaling the gradient scales the rate only for "
                f"{', '.join(self.exact_for)}, found {kind}; use one of these, or train all "
                f"replicas at one rate"
            )
        for name, parameter in optimizer.target.namedparams():
            if parameter.grad is None:
                continue
            if parameter.ndim < 1 or parameter.shape[0] != len(self.rates):
                raise ValueError(
                    f"ReplicaRates: the first axis of every parameter must be the "
                    f"{len(self.rates)} replicas, found shape {parameter.shape} for {name}"
                )
            factors = self._on_device(parameter, float(optimizer.hyperparam.lr))
            parameter.grad = parameter.grad * factors.reshape((-1, *(1,) * (parameter.ndim - 1)))

    def _on_device(self, parameter: chainer.Parameter, rate: float) -> Any:
        """eta_t / eta on the gradient's device; copied there once."""
        xp = array_module(parameter.grad)
        key = (parameter.dtype, str(parameter.device), rate)
        if key not in self._factors:
            self._factors = {one: kept for one, kept in self._factors.items() if one[2] == rate}
            self._factors[key] = xp.asarray(np.array(self.rates) / rate, parameter.dtype)
        return self._factors[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"rates": self.rates, "_factors": {}}
