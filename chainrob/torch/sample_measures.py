"""Norms and inner products of per-sample gradients, from what a backward pass knows anyway."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from chainrob.aggregation import Observation, add_observer, remove_observer
from chainrob.robustifiers import Mean
from chainrob.sample_gradients import Joined, SampleGradients, add_up
from chainrob.torch.module_conversion import MIXES_SAMPLES, named_layers, plain, robustify
from chainrob.torch.robust_modules import RobustModule
from chainrob.torch.tensor_arrays import computing, to_tensor

__all__ = ["SampleMeasure", "gram", "per_sample_norms"]


class SampleMeasure:
    """A measure of the per-sample gradients of the last backward pass; a context manager.

    Made by ``per_sample_norms`` and ``gram``.

    Attributes:
        total: over all parameters together, float64.
        layers: for each layer by itself, by its name. A parameter that layers share belongs to the
            first.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        measure: Callable[[list[SampleGradients]], Any],
        loss_reduction: Any,
    ) -> None:
        self._module = module
        self._measure = measure
        self._switched_on, self._converted = _made_robust(module, loss_reduction)
        self._watched = [one for one in module.modules() if isinstance(one, RobustModule)]
        for one in self._watched:
            add_observer(one, self._keep)
        self._task = -1
        self._parts: dict[Any, tuple[str, list[SampleGradients]]] = {}
        self._found: tuple[Tensor, dict[str, Tensor]] | None = None

    @property
    def total(self) -> Tensor:
        return self._answer()[0]

    @property
    def layers(self) -> dict[str, Tensor]:
        return self._answer()[1]

    def close(self) -> None:
        """Stop measuring; a module that was plain is plain again."""
        if self._parts:
            self._answer()
        for one in self._watched:
            remove_observer(one, self._keep)
        self._watched = []
        for one in self._converted:
            plain(one)
        for one in self._switched_on:
            one.robustifier = None
        self._converted, self._switched_on = [], []

    def _keep(self, observation: Observation) -> None:
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._parts = task, {}
        self._found = None
        owner = observation.owner
        for name, operator in observation.gradients.items():
            if isinstance(owner, RobustModule):
                key, layer = id(owner._parameters.get(name)), owner.path
            else:
                key, layer = name, name.rpartition(".")[0]  # type: ignore[assignment]
            self._parts.setdefault(key, (layer, []))[1].append(operator)

    def _answer(self) -> tuple[Tensor, dict[str, Tensor]]:
        if self._found is None:
            if not self._parts:
                raise RuntimeError(
                    "no backward pass has been measured: run forward and backward passes inside "
                    "`with ... as measure:`, and read it afterwards"
                )
            self._found = self._compute()
            self._parts = {}  # the arrays of the pass
        return self._found

    def _compute(self) -> tuple[Tensor, dict[str, Tensor]]:
        by_layer: dict[str, list[SampleGradients]] = {}
        for layer, operators in self._parts.values():
            by_layer.setdefault(layer, []).append(add_up(operators))
        everything = [one for parts in by_layer.values() for one in parts]
        counts = {layer: parts[0].n_samples for layer, parts in by_layer.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"all layers must see the same samples, found {counts}")
        like = next(iter(self._module.parameters()))
        with computing(like):
            layers = {layer: self._measured(parts) for layer, parts in by_layer.items()}
            return self._measured(everything), layers

    def _measured(self, parts: list[SampleGradients]) -> Tensor:
        return to_tensor(self._measure(parts), torch.float64)

    def __enter__(self) -> SampleMeasure:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._parts = {}
        self.close()


def per_sample_norms(module: torch.nn.Module, *, loss_reduction: str = "mean") -> SampleMeasure:
    r"""The norms of every sample's gradient, without the gradients.

    .. math:: \lVert g_n \rVert = \Big(\sum_l \lVert g_n^{(l)} \rVert^2\Big)^{1/2}, \qquad
        \lVert g_{y_n} x_n^\top \rVert = \lVert g_{y_n} \rVert \, \lVert x_n \rVert

    Forward and backward passes inside ``with`` are measured, and the last one counts. Robust layers
    are measured as they are. Plain ones are made robust meanwhile, so they need a robust form. They
    get ``Mean()``, which leaves their gradients as they are. Frozen layers do not count.

    Args:
        module: the model.
        loss_reduction: ``'mean'`` or ``'sum'``, for a plain module: how the loss joins the samples.
            Norms are of the gradient of each sample's own loss.

    Returns:
        SampleMeasure: ``total``, (N,) float64, over all parameters, and ``layers``.

    Raises:
        ValueError: a plain module with layers that have no robust form. Where other layers are
            robust, there is an ``UnsupportedModuleWarning`` instead, and they are left out.

    Example:
        >>> import torch, chainrob.torch
        >>> net = torch.nn.Linear(2, 1)
        >>> with chainrob.torch.per_sample_norms(net) as norms:
        ...     net(torch.tensor([[3., 4.], [0., 0.]])).mean().backward()
        >>> norms.total.square().round()
        tensor([26.,  1.], dtype=torch.float64)
    """
    return SampleMeasure(module, _norms, loss_reduction)


def gram(module: torch.nn.Module, *, loss_reduction: str = "mean") -> SampleMeasure:
    """The inner products of all pairs of samples' gradients, without the gradients.

    Args:
        module, loss_reduction: as for ``per_sample_norms``.

    Returns:
        SampleMeasure: ``total``, (N, N) float64, over all parameters, and ``layers``.

    Example:
        >>> import torch, chainrob.torch
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> with chainrob.torch.gram(net) as products:
        ...     net(torch.tensor([[3., 4.], [1., 0.]])).mean().backward()
        >>> products.total
        tensor([[25.,  3.],
                [ 3.,  1.]], dtype=torch.float64)
    """
    return SampleMeasure(module, lambda parts: Joined(parts).gram(), loss_reduction)


def _made_robust(
    module: torch.nn.Module, loss_reduction: Any
) -> tuple[list[RobustModule], list[torch.nn.Module]]:
    """Give the layers that estimate nothing yet ``Mean()``, which leaves their gradients as they
    are.

    Returns:
        robust layers that had no robustifier; plain layers, which are robust now.
    """
    mean = Mean(nonfinite="propagate")
    robust = [one for one in module.modules() if isinstance(one, RobustModule)]
    switched_on = [one for one in robust if one.robustifier is None]
    for one in switched_on:
        one.robustifier = mean

    def left(_: str, one: torch.nn.Module) -> bool:
        if isinstance(one, RobustModule):
            return False
        frozen = not any(parameter.requires_grad for parameter in one.parameters(recurse=False))
        return not frozen or (isinstance(one, MIXES_SAMPLES) and one.training)

    found = [one for name, one in named_layers(module) if left(name, one)]
    if found:
        recurrent = any(isinstance(one, torch.nn.RNNCellBase) for one in found)
        robustify(
            module,
            mean,
            layers=left,
            scope="model" if recurrent else "layer",
            loss_reduction=robust[0].loss_reduction if robust else loss_reduction,
            strict=not robust,
        )
    return switched_on, [one for one in found if isinstance(one, RobustModule)]


def _norms(parts: list[SampleGradients]) -> Any:
    return sum(part.squared_norms() for part in parts) ** 0.5
