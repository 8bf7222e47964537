"""Clipping to a running norm: each layer's limit follows the norms of earlier steps."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

import chainer
from chainrob.robustifiers import ClipNorm, Mean, Robustifier
from chainrob.training.observation import Observation, observe

__all__ = ["RunningClipping"]


class RunningClipping(chainer.training.Extension):
    r"""Extension or optimizer hook: clipping to a multiple of each layer's running norm.

    .. math:: \log c_{t+1} = \beta \log c_t + (1 - \beta) \log\big(m\, Q_q(\lVert g_n \rVert)\big)

    Q is the q-quantile of the norms of the batch's sample gradients in that layer. c is the limit
    of ``ClipNorm(c) >> robustifier``, which the hook gives to the link after every update. The
    first batch sets c. If a whole batch is bad, its norms enter the limit only with the power 1 -
    beta. If a batch has small gradients because it is fitted well, the limit does not fall at once;
    with ``RelativeClipping`` it does. The robustifiers stay immutable, because the limits belong to
    this object. ``trainer.extend(...)`` puts the limits into the trainer's snapshot. Without a
    trainer, use ``optimizer.add_hook(...)``.

    Args:
        model: the model, or the part of it, whose robust links are clipped. Their scope must be
            ``'layer'`` or ``'parameter'``.
        multiple: m, above 0.
        quantile: q, in (0, 1).
        memory: beta, in [0, 1).
        robustifier: the robustifier after the clipping; by default the mean.

    Raises:
        ValueError: a parameter is out of range, or the model has no robust links.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> model = chainrob.robustify(chainer.Sequential(chainer.links.Linear(3, 1)))
        >>> optimizer = chainer.optimizers.SGD(0.1).setup(model)
        >>> hook = chainrob.training.RunningClipping(model)
        >>> optimizer.add_hook(hook)
        >>> x = np.ones((8, 3), np.float32)
        >>> optimizer.update(lambda: chainer.functions.mean(model(x) ** 2))
        >>> sorted(hook.limits)
        ['/0']

    References:
        G. Andrew, O. Thakkar, H. B. McMahan and S. Ramaswamy, Differentially private learning with
        adaptive clipping, NeurIPS 2021 (a quantile of the norms that is followed in logarithms).
    """

    trigger = (1, "iteration")
    priority = chainer.training.PRIORITY_WRITER
    default_name = name = "RunningClipping"
    timing = "post"
    call_for_each_param = False

    def __init__(
        self,
        model: chainer.Link,
        multiple: float = 2.0,
        *,
        quantile: float = 0.5,
        memory: float = 0.9,
        robustifier: Robustifier | None = None,
    ) -> None:
        for name, value, holds, rule in (
            ("multiple", multiple, 0 < multiple < float("inf"), "be a positive number"),
            ("quantile", quantile, 0 < quantile < 1, "lie strictly between 0 and 1"),
            ("memory", memory, 0 <= memory < 1, "lie in [0, 1)"),
        ):
            if not holds:
                raise ValueError(f"RunningClipping: {name} must {rule}, found {value!r}")
        self.multiple, self.quantile, self.memory = multiple, quantile, memory
        self.robustifier = Mean() if robustifier is None else robustifier
        self.limits: dict[str, float] = {}
        self._links = {
            name: link for name, link in model.namedlinks() if hasattr(link, "set_aggregation")
        }
        if not self._links:
            raise ValueError(
                "RunningClipping: model must hold robust links; call chainrob.robustify first"
            )
        self._watch = observe(model, self._look)

    def _look(self, observation: Observation) -> None:
        """Follow the norms of one layer's batch, inside the backward pass."""
        squares: Any = sum(one.squared_norms() for one in observation.gradients.values())
        norms = np.sqrt(np.asarray(chainer.backends.cuda.to_cpu(squares), np.float64)).ravel()
        norms = np.sort(norms[np.isfinite(norms)])
        length = norms[int(self.quantile * (len(norms) - 1))] if len(norms) else 0.0
        if not (length > 0.0 and isfinite(self.multiple * length)):
            return  # no norms to follow
        limit, before = self.multiple * length, self.limits.get(observation.name)
        if before is not None:
            limit = before**self.memory * limit ** (1.0 - self.memory)
        self.limits[observation.name] = float(limit)

    def __call__(self, owner: Any = None) -> None:
        """Give the links their new limits; Chainer calls it with the trainer or the optimizer."""
        for name, limit in self.limits.items():
            self._links[name].robustifier = ClipNorm(limit) >> self.robustifier

    def finalize(self) -> None:
        """Stop following: the links keep their last limits."""
        self._watch.close()

    def serialize(self, serializer: Any) -> None:
        """Save or load the limits; a loaded one is given to its link at once."""
        for name in self._links:
            value = serializer(f"limit{name.replace('/', '_')}", self.limits.get(name, 0.0))
            if value:
                self.limits[name] = float(value)
        self()
