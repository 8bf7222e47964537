"""One robust estimate for the whole model: an optimizer hook that runs before the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import chainer
from chainrob._chainer import clearing
from chainrob.aggregation import (
    Entry,
    Recorder,
    Recording,
    check_options,
    mean_gradients,
    model_gradients,
)
from chainrob.aggregation.recorder import forget, recorder_of
from chainrob.kernels import array_module
from chainrob.links.robust_link import RobustLink
from chainrob.sample_gradients.operator_base import Array
from chainrob.training.index_set import IndexSet, Selection, masked_rows, outside, scattered

clearing.LISTENERS.append(forget)


class RobustGradient:
    r"""Optimizer hook: one robust estimate of the whole model's gradient, from one row per sample.

    .. math::
        \hat g = R\big(\{(g_n^{(1)}, \ldots, g_n^{(L)})\}_n\big), \qquad
        \langle g_m, g_n \rangle = \sum_l \langle g_m^{(l)}, g_n^{(l)} \rangle

    Row n joins sample n's gradients of all parameters whose links have ``scope='model'``. The Gram
    matrices of the layers add up, and a weighting robustifier gives each sample one weight (Prasad
    et al.). If a parameter is used in several places or time steps, its row is the sum over the
    uses. So a recurrent network is estimated once, after the whole pass. A coordinate-wise
    robustifier gives the same estimates as in each layer, also once after the whole pass.

    During the backward pass the links record their sample gradients and leave zeros. (This is also
    what ``chainer.grad`` returns, because it makes no update.) Before the update this hook adds the
    estimate to ``parameter.grad`` and drops the records. Other gradients stay as they are: those of
    a penalty in the loss, of plain links, of WeightDecay. The hook runs before all other hooks of
    the optimizer, so that GradientClipping, for example, sees the whole gradient. Clearing a
    gradient drops its records.
    A link hook may replace a parameter's array (SpectralNormalization, WeightStandardization). The
    rows are then gradients of the replaced array, as with the other scopes, and the estimate is
    pulled back through the hook to the parameters.
    Two backward passes before an update add up sample by sample. This is right for two losses of
    one batch. For two batches, call the hook after each of them instead.

    Args:
        model: the model, or a part of it, that was robustified with ``scope='model'``. From now on
            its links report to this hook only.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); by default the
            robustifier of the links.
        parameters: Algorithm 1's index set, the weights that are estimated robustly. None means
            all. Give names of ``model.namedparams()`` (the name of a link means all parameters
            below it), or a predicate ``(name, parameter)`` that is called at each update. For
            single weights give a mapping from names to boolean masks or lists of indices:
            ``{'/0/W': [(0, 1)], '/0/b': True}``. A predicate may return a mask too. The other
            weights get the plain mean. The attribute may be changed between updates.

    Raises:
        ValueError: at an update: no link has ``scope='model'``; the parameters saw different
            numbers of samples or have different loss reductions; or no robustifier was given and
            those of the links differ.
        KeyError: no parameter has a name in ``parameters``.
        TypeError: ``parameters`` is none of these.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> model = chainer.Sequential(
        ...     chainer.links.Linear(3, 4), chainer.functions.tanh, chainer.links.Linear(4, 1))
        >>> model = chainrob.robustify(model, chainrob.GeometricMedian(), scope='model')
        >>> optimizer = chainer.optimizers.SGD(0.1).setup(model)
        >>> optimizer.add_hook(chainrob.training.RobustGradient(model))
        >>> x = np.ones((8, 3), np.float32)
        >>> optimizer.update(lambda: chainer.functions.mean(model(x) ** 2))

    References:
        A. Prasad, A. S. Suggala, S. Balakrishnan and P. Ravikumar, Robust estimation via robust
        gradient estimation, JRSS B 2020. M. J. Holland, Robust gradient descent via
        back-propagation: a Chainer-based tutorial, Algorithm 1.
    """

    name = "RobustGradient"
    timing = "pre"
    runs_first = True  # see chainrob._chainer.hook_order
    call_for_each_param = False

    def __init__(
        self,
        model: chainer.Link,
        robustifier: Callable[[Any], Any] | None = None,
        *,
        parameters: Selection = None,
    ) -> None:
        if not isinstance(model, chainer.Link):
            raise TypeError(
                f"RobustGradient: model must be a chainer.Link, found {type(model).__name__}"
            )
        check_options(robustifier, "mean", "model")
        self.model = model
        self.robustifier = robustifier
        self.parameters = parameters
        self._recorder = Recorder()
        self._recorder.listen(model.links())

    @property
    def parameters(self) -> Selection:
        """The index set: names, weights by name, a predicate, or None for all."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: Selection) -> None:
        self._index_set = IndexSet(value, self.model.namedparams(include_uninit=True))
        self._parameters = value

    def __call__(self, optimizer: Any = None) -> None:
        """Add the estimates to the gradients; Chainer calls it with the optimizer."""
        hooks = getattr(optimizer, "_hookable", None)
        if hooks is not None and any(one is self for one in hooks._post_update_hooks.values()):
            raise ValueError(
                "RobustGradient: timing must be 'pre', because the update needs the gradient, "
                "found 'post'"
            )
        self._check_links()
        robust: list[Entry] = []
        plain: list[Entry] = []
        masks: dict[str, Any] = {}
        for name, recording in self._named(self._recorder.collect()):
            parameter = recording.target
            if not isinstance(parameter, chainer.Parameter):
                parameter = getattr(recording.owner, recording.name)
            entry = Entry.of(name, recording)
            masks[name] = mask = self._index_set.of(name, parameter)
            if mask is not True:
                plain.append(entry)
            if mask is not False:
                rows = entry.rows if mask is True else masked_rows(name, entry.rows, mask)
                robust.append(entry._replace(rows=rows))
        for entry, gradient in zip(plain, mean_gradients(plain, self._robustifier_of), strict=True):
            if gradient is not None:
                _add(entry.recording.target, outside(gradient, masks[entry.name]))
        if robust:
            robustifier = self._held_by_links() if self.robustifier is None else self.robustifier
            estimates = model_gradients(robust, robustifier, self.model)
            for entry, gradient in zip(robust, estimates, strict=True):
                _add(entry.recording.target, scattered(gradient, masks[entry.name]))
        if getattr(optimizer, "_loss_scaling_is_dynamic", False):
            optimizer.check_nan_in_grads()  # before this hook it saw zeros

    def _named(self, recordings: Iterable[Recording]) -> Iterator[tuple[str, Recording]]:
        """The recordings that are still in use, each with its parameter's path."""
        names = {id(one): name for name, one in self.model.namedparams(include_uninit=True)}
        links = {id(link): name for name, link in self.model.namedlinks()}
        for one in recordings:
            if isinstance(one.target, chainer.Parameter):
                if one.target.grad is not None:
                    yield names.get(id(one.target), one.target.name or "?"), one
            else:  # a link hook replaced the parameter's array
                yield f"{links.get(id(one.owner), '').rstrip('/')}/{one.name}", one

    def _robustifier_of(self, entry: Entry) -> Any:
        return self.robustifier or entry.recording.owner.robustifier

    def _robust_links(self) -> list[RobustLink]:
        return [
            link
            for link in self.model.links()
            if isinstance(link, RobustLink) and link.scope == "model"
        ]

    def _check_links(self) -> None:
        links = self._robust_links()
        if not links:
            raise ValueError(
                "RobustGradient: no link of the model has scope='model', so nothing is recorded "
                "for it; call chainrob.robustify(model, robustifier, scope='model')"
            )
        for link in links:
            recorder = recorder_of(link)
            if recorder is not None and recorder is not self._recorder:
                raise RuntimeError(
                    f"RobustGradient: another RobustGradient was made for {type(link).__name__} "
                    f"{link.name or ''} after this one, and gets its gradients; use one per model"
                )
        # Links that were added to the model later.
        self._recorder.listen(self.model.links())

    def _held_by_links(self) -> Callable[[Any], Any]:
        held: list[Any] = []
        for link in self._robust_links():
            if link.robustifier is not None and link.robustifier not in held:
                held.append(link.robustifier)
        if len(held) != 1:
            raise ValueError(
                f"RobustGradient: the links must share one robustifier, found {held}; pass the "
                f"robustifier of the model"
            )
        return held[0]

    # A copy of the hook listens to its copy of the model. Records are not copied.

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_recorder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._recorder = Recorder()
        self._recorder.listen(self.model.links())


def _add(target: Any, gradient: Array) -> None:
    """Add an estimate to a parameter's gradient. If a link hook computed the array from other
    parameters, send the estimate back through the graph to them.
    """
    if isinstance(target, chainer.Parameter):
        # A new array: Chainer may share the old one with another variable.
        grad = target.grad
        gradient = gradient.astype(grad.dtype, copy=False)
        target.grad = array_module(grad).asarray(grad + gradient)
        return
    variable = target.get_variable()
    if variable.array is None:  # the array was freed; only the gradient matters
        variable.array = array_module(gradient).zeros(target.shape, target.dtype)
    variable.grad = gradient.astype(target.dtype, copy=False)
    variable.backward()
    variable.cleargrad()
