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
    r"""Optimizer hook: the gradient of the whole model from one row a sample.

    .. math::
        \hat g = R\big(\{(g_n^{(1)}, \ldots, g_n^{(L)})\}_n\big), \qquad
        \langle g_m, g_n \rangle = \sum_l \langle g_m^{(l)}, g_n^{(l)} \rangle

    Row n joins sample n's gradients of all parameters whose links have ``scope='model'``, so a
    weighting robustifier sees the Gram matrices of all layers added up and gives each sample one
    weight (Prasad et al.). A parameter that is used in several places or time steps enters once:
    its row is the sum over the uses, so a recurrent network is estimated once after the whole pass.
    Coordinate-wise robustifiers do what they do in each layer, but likewise once.

    During the backward pass the links record their sample gradients and leave zeros (which is what
    ``chainer.grad`` sees: it has no update that a hook could precede). This hook adds the estimate
    to ``parameter.grad`` before the update and forgets the records. Gradients of other origin (a
    penalty in the loss, plain links, WeightDecay) are kept as they are. It runs before the
    optimizer's other hooks, whatever the order in which they were added, so that GradientClipping,
    say, sees the whole gradient. Clearing a gradient drops its records.
    A link hook that puts another array in a parameter's place (SpectralNormalization,
    WeightStandardization) is differentiated: rows are of what the layer was run with, as with the
    other scopes, and the estimate goes on to the parameters through the hook.
    Two backward passes before an update add up sample by sample, as two losses of one batch do (and
    as two batches do not: call the hook after each of them instead).

    Args:
        model: the model (or the part of it) that was robustified with ``scope='model'``; its links
            report to this hook from now on, and not to another one's.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); by default the one
            that the links hold.
        parameters: Algorithm 1's index set, the weights that are estimated robustly: names as
            ``model.namedparams()`` gives them (a name of a link means all parameters below it), a
            predicate ``(name, parameter)`` that is asked at each update, or None for all. Single
            weights are given by a mapping from the name to a mask of booleans or to a list of
            indices, ``{'/0/W': [(0, 1)], '/0/b': True}``; a predicate may return a mask too. The
            other weights get the plain mean. Assign to it at any time between updates.

    Raises:
        ValueError: at an update: no link has ``scope='model'``, parameters that saw different
            numbers of samples or loss reductions, or links that hold different robustifiers where
            none was given.
        KeyError: a name that no parameter has.
        TypeError: an index set that is none of these.

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
                "RobustGradient: timing must be 'pre', for the update needs the gradient, found "
                "'post'"
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
            optimizer.check_nan_in_grads()  # which saw zeros before this hook

    def _named(self, recordings: Iterable[Recording]) -> Iterator[tuple[str, Recording]]:
        """Recordings whose gradient is still wanted, each with its parameter's path."""
        names = {id(one): name for name, one in self.model.namedparams(include_uninit=True)}
        links = {id(link): name for name, link in self.model.namedlinks()}
        for one in recordings:
            if isinstance(one.target, chainer.Parameter):
                if one.target.grad is not None:
                    yield names.get(id(one.target), one.target.name or "?"), one
            else:  # a link hook put it in the parameter's place
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
                    f"{link.name or ''} after this one, and gets its gradients; use one a model"
                )
        # Links that were added to the model since.
        self._recorder.listen(self.model.links())

    def _held_by_links(self) -> Callable[[Any], Any]:
        held: list[Any] = []
        for link in self._robust_links():
            if link.robustifier is not None and link.robustifier not in held:
                held.append(link.robustifier)
        if len(held) != 1:
            raise ValueError(
                f"RobustGradient: the links must hold one robustifier, found {held}; pass the one "
                f"for the model"
            )
        return held[0]

    # A copy listens to its copy of the model, and what is recorded stays where it belongs.

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_recorder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._recorder = Recorder()
        self._recorder.listen(self.model.links())


def _add(target: Any, gradient: Array) -> None:
    """Add an estimate to a parameter's gradient; or send it on to where a link hook made the
    parameter of others, through the rest of the graph.
    """
    if isinstance(target, chainer.Parameter):
        # A new array, for Chainer may have handed the old one to another variable as well.
        grad = target.grad
        gradient = gradient.astype(grad.dtype, copy=False)
        target.grad = array_module(grad).asarray(grad + gradient)
        return
    variable = target.get_variable()
    if variable.array is None:  # nobody kept it, and only its gradient matters
        variable.array = array_module(gradient).zeros(target.shape, target.dtype)
    variable.grad = gradient.astype(target.dtype, copy=False)
    variable.backward()
    variable.cleargrad()
