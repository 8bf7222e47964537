"""What all robust modules share: their settings beside the stock module's own attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

from chainrob.aggregation import Aggregation, Reduction, Scope, check_options
from chainrob.torch import compiled_layers
from chainrob.torch.model_group import ModelGroup
from chainrob.torch.robust_call import LayerKind, run

__all__ = ["SETTINGS", "RobustModule", "robust_forms"]

SETTINGS = (
    "robustifier",
    "loss_reduction",
    "scope",
    "sample_axis",
    "group",
    "path",
    "name_in_graphs",
)

_forms: dict[type[torch.nn.Module], type[RobustModule]] = {}


def robust_forms() -> dict[type[torch.nn.Module], type[RobustModule]]:
    """Stock class to robust class: every RobustModule that names its stock."""
    return dict(_forms)


class RobustModule(torch.nn.Module):
    """Mixed in before a stock module: it holds how its gradients are estimated.

    The settings are plain attributes, and may be exchanged between iterations. They are no part of
    ``state_dict``: files are the stock module's. ``robustifier=None`` is the stock module, bit for
    bit. To give a module of your own a robust form, derive a class from this one and from yours,
    with ``stock = YourModule``. Its ``forward`` calls the functions of
    ``chainrob.torch.functional``, or ``self.run``.

    Attributes:
        robustifier: a Robustifier, any callable (N, D) -> (D,), or None for the plain sum.
        loss_reduction: ``'mean'`` or ``'sum'``: how the loss joins the samples.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``: what makes up one row for a
            weighting robustifier.
        sample_axis: the axis of the input that counts the samples.
        group: with ``scope='model'``: the layers that are estimated together.
        path: the module's name in the model, for messages.
        name_in_graphs: its name in the graphs of ``torch.compile``.
    """

    stock: ClassVar[type[torch.nn.Module]]
    """The class of ``torch.nn`` that it stands in for."""

    # Of the class, so that a stock module whose class was exchanged has them too.
    robustifier: Callable[[Any], Any] | None = None
    loss_reduction: Reduction = "mean"
    scope: Scope = "layer"
    sample_axis: int = 0
    group: ModelGroup | None = None
    path: str = ""
    name_in_graphs: torch.Tensor | None = None

    def __init__(
        self,
        *args: Any,
        robustifier: Callable[[Any], Any] | None = None,
        loss_reduction: Reduction = "mean",
        scope: Scope = "layer",
        sample_axis: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_aggregation(robustifier, loss_reduction, scope, sample_axis)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "stock" in cls.__dict__:
            known = _forms.setdefault(cls.stock, cls)
            if (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__):
                _forms[cls.stock] = cls  # a cell of a notebook has been run again
            # help() and inspect show the stock module's arguments, then the keyword-only ones.
            own = inspect.signature(RobustModule.__init__).parameters
            settings = [one for one in own.values() if one.kind is one.KEYWORD_ONLY]
            stock = list(inspect.signature(cls.stock).parameters.values())
            cls.__signature__ = inspect.Signature([*stock, *settings])

    def set_aggregation(
        self,
        robustifier: Callable[[Any], Any] | None,
        loss_reduction: Reduction,
        scope: Scope,
        sample_axis: int = 0,
        group: ModelGroup | None = None,
    ) -> None:
        """Check the settings and take them.

        Args:
            robustifier, loss_reduction, scope, sample_axis: see the attributes.
            group: with ``scope='model'``: the group to join; by default one of its own.
        """
        check_options(robustifier, loss_reduction, scope)
        self.robustifier = robustifier
        self.loss_reduction = loss_reduction
        self.scope = scope
        self.sample_axis = sample_axis
        if self.name_in_graphs is None:
            self.name_in_graphs = compiled_layers.enroll(self)
        if self.group is not None and (scope != "model" or self.group is not group):
            self.group.leave(self)
            self.group = None
        if scope == "model":
            self.group = self.group or group or ModelGroup()
            self.group.join(self)

    @property
    def aggregation(self) -> Aggregation:
        """The settings as the core takes them."""
        return Aggregation(self.robustifier, self.loss_reduction, self.scope, self)

    def estimated(self) -> Iterator[torch.Tensor | None]:
        """The parameters that the module's own calls estimate."""
        return iter(self._parameters.values())

    @property
    def runs_plainly(self) -> bool:
        """Whether a call is the stock module's: nothing is estimated, or nobody wants gradients."""
        return self.robustifier is None or not torch.is_grad_enabled()

    def run(
        self,
        kind: LayerKind | str,
        x: torch.Tensor,
        *parameters: torch.Tensor | None,
        sample_axis: int | None = None,
    ) -> Any:
        """y of one call of this layer, with its settings.

        Args:
            kind: what the layer does; of a kind in this library, its name while Dynamo traces.
            x: the input.
            parameters: in the order of the kind's names.
            sample_axis: the axis of x that counts the samples; by default that of the settings.
        """
        axis = self.sample_axis if sample_axis is None else sample_axis
        if isinstance(kind, str):
            return compiled_layers.call(self, kind, x, parameters, axis)
        if self.robustifier is None:
            return kind.op(x, *parameters)
        return run(
            kind,
            x,
            parameters,
            self.aggregation,
            sample_axis=axis,
            path=self.path,
            group=self.group,
        )

    def register_parameter(self, name: str, param: Any) -> None:
        super().register_parameter(name, param)
        if self.group is not None:
            self.group.parameters_changed()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy or an unpickled module belongs to its copy of the group.
        super().__setstate__(state)
        self.name_in_graphs = compiled_layers.enroll(self)
        if self.group is not None:
            self.group.join(self)

    def extra_repr(self) -> str:
        stock = super().extra_repr()
        if self.robustifier is None:
            return stock
        return f"{stock}, robustifier={self.robustifier!r}, scope={self.scope!r}"
