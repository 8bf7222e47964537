"""The base of all robust links. It adds three settings to the stock link's own attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import chainer
from chainrob.aggregation import Aggregation, Reduction, Scope, check_options

_forms: dict[type[chainer.Link], type[RobustLink]] = {}


def robust_forms() -> dict[type[chainer.Link], type[RobustLink]]:
    """The robust class of each stock class: all RobustLinks that name a ``stock``."""
    return dict(_forms)


class RobustLink(chainer.Link):
    """The settings of a robust link: how it estimates its gradients.

    Derive from it and from a stock link, in this order. The settings are plain attributes. They may
    change between iterations and are not serialized: files are the same as the stock link's. With
    ``robustifier=None`` the link does the same as the stock link, bit for bit.

    Attributes:
        robustifier: a Robustifier, any callable (N, D) -> (D,), or None (the plain sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``: which gradients form one row
            for a weighting robustifier.
    """

    stock: ClassVar[type[chainer.Link]]
    """The class of ``chainer.links`` that this class replaces."""

    # Class attributes, so that a link has them too when only its class was changed.
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
            known = _forms.setdefault(cls.stock, cls)
            if (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__):
                _forms[cls.stock] = cls  # a cell of a notebook has been run again
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
        """What ``print(model)`` shows: the stock link's arguments, then the settings if there is a
        robustifier.
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
        """The settings in the form that the functions take."""
        return Aggregation(self.robustifier, self.loss_reduction, self.scope, self)
