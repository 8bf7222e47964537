"""What all robust links share: three settings beside the stock link's own attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import chainer
from chainrob.aggregation import Aggregation, Reduction, Scope, check_options

_forms: dict[type[chainer.Link], type[RobustLink]] = {}


def robust_forms() -> dict[type[chainer.Link], type[RobustLink]]:
    """Stock class to robust class: every class that derives from RobustLink and names its stock."""
    return dict(_forms)


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

    def __init__(
        self,
        *args: Any,
        robustifier: Callable[[Any], Any] | None = None,
        loss_reduction: Reduction = "mean",
        scope: Scope = "layer",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_aggregation(robustifier, loss_reduction, scope)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "stock" in cls.__dict__:
            _forms.setdefault(cls.stock, cls)
            # help() and inspect show the stock link's arguments, then the keyword-only ones.
            own = inspect.signature(RobustLink.__init__).parameters
            settings = [one for one in own.values() if one.kind is one.KEYWORD_ONLY]
            stock = list(inspect.signature(cls.stock).parameters.values())
            rest = [stock.pop()] if stock and stock[-1].kind is stock[-1].VAR_KEYWORD else []
            cls.__signature__ = inspect.Signature([*stock, *settings, *rest])

    def set_aggregation(
        self, robustifier: Callable[[Any], Any] | None, loss_reduction: Reduction, scope: Scope
    ) -> None:
        """Check the settings and take them."""
        check_options(robustifier, loss_reduction, scope)
        self.robustifier = robustifier
        self.loss_reduction = loss_reduction
        self.scope = scope

    @property
    def printable_specs(self) -> Iterator[tuple[str, Any]]:
        """What ``print(model)`` shows: the stock link's arguments, then the settings where they
        matter.
        """
        yield from super().printable_specs
        if self.robustifier is not None:
            for name in ("robustifier", "loss_reduction", "scope"):
                yield name, repr(getattr(self, name))

    def __str__(self) -> str:
        text = super().__str__()
        if self.robustifier is not None and isinstance(self, chainer.Chain | chainer.ChainList):
            # A chain prints only its children: add the settings.
            settings = ", ".join(f"{name}={value}" for name, value in self.printable_specs)
            text = text.replace("(", f"({settings}", 1)
        return text

    def __repr__(self) -> str:
        return str(self)

    @property
    def aggregation(self) -> Aggregation:
        """The settings as the functions take them."""
        return Aggregation(self.robustifier, self.loss_reduction, self.scope, self)
