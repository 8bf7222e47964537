"""What all robust links share: three settings beside the stock link's own attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import chainer
from chainrob.functions import recorder
from chainrob.functions.estimate import Reduction, Scope, check_options
from chainrob.functions.gradient_node import Aggregation


class RobustLink(chainer.Link):
    """Mixed in before a stock link: it holds how its gradients are estimated.

    The settings are plain attributes, may be exchanged between iterations, and are no part of what
    is serialised: files are the stock link's. ``robustifier=None`` is the stock link, bit for bit.

    Attributes:
        robustifier: a Robustifier, any callable (N, D) -> (D,), or None for the plain sum.
        loss_reduction: ``'mean'`` or ``'sum'``: how the loss joins the samples.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``: what makes up one row for a
            weighting robustifier.
    """

    stock: ClassVar[type[chainer.Link]]
    """The class of ``chainer.links`` that it stands in for."""

    # Of the class, so that a stock link whose class was exchanged has them too.
    robustifier: Callable[[Any], Any] | None = None
    loss_reduction: Reduction = "mean"
    scope: Scope = "layer"

    def set_aggregation(
        self, robustifier: Callable[[Any], Any] | None, loss_reduction: Reduction, scope: Scope
    ) -> None:
        """Check the settings and take them."""
        check_options(robustifier, loss_reduction, scope)
        self.robustifier = robustifier
        self.loss_reduction = loss_reduction
        self.scope = scope

    @property
    def aggregation(self) -> Aggregation:
        """The settings as the functions take them."""
        return Aggregation(self.robustifier, self.loss_reduction, self.scope, self)

    def cleargrads(self) -> None:
        """Clear the gradients, and what is recorded for them with ``scope='model'``."""
        super().cleargrads()
        recorder.forget(self)

    def zerograds(self) -> None:
        """As ``chainer.Link.zerograds`` (deprecated there), with what is recorded."""
        super().zerograds()
        recorder.forget(self)
