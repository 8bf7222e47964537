"""One robust estimate for the whole model: an optimizer hook that runs before the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chainer
from chainrob.functions import observers
from chainrob.functions.estimate import check_options, count_samples, estimate, plain_mean
from chainrob.functions.recorder import Recorder, Recording, recorder_of
from chainrob.kernels import array_module
from chainrob.links.robust_link import RobustLink
from chainrob.sample_gradients import SampleGradients, add_up
from chainrob.sample_gradients.base import Array
from chainrob.training.index_set import IndexSet, Selection, masked_rows, outside, scattered

Entry = tuple[str, Recording, SampleGradients]
"""A parameter's path in the model, what it recorded, and its rows."""


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
    penalty in the loss, plain links, WeightDecay) are kept as they are. Add hooks that look at the
    whole gradient, such as GradientClipping, after this one. Clearing a gradient drops its records.
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
        self._check_links()
        names = {id(one): name for name, one in self.model.namedparams(include_uninit=True)}
        recordings = [one for one in self._recorder.collect() if one.parameter.grad is not None]
        robust: list[Entry] = []
        plain: list[Entry] = []
        masks: dict[str, Any] = {}
        for one in recordings:
            name = names.get(id(one.parameter), one.parameter.name or "?")
            rows = _added(name, one)
            masks[name] = mask = self._index_set.of(name, one.parameter)
            if mask is not True:
                plain.append((name, one, rows))
            if mask is not False:
                rows = rows if mask is True else masked_rows(name, rows, mask)
                robust.append((name, one, rows))
        for name, recording, rows in plain:
            robustifier = self.robustifier or recording.link.robustifier
            n_samples = count_samples(robustifier, rows.n_samples)
            if n_samples:
                factor = n_samples if recording.loss_reduction == "sum" else 1
                mean = outside(plain_mean(robustifier, rows), masks[name])
                _add(recording.parameter, mean, factor)
        if robust:
            self._estimate(robust, masks)

    def _estimate(self, entries: list[Entry], masks: dict[str, Any]) -> None:
        counts = {name: rows.n_samples for name, _, rows in entries}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"RobustGradient: all parameters must see the same samples, found numbers of "
                f"samples {counts}"
            )
        reductions = {name: recording.loss_reduction for name, recording, _ in entries}
        if len(set(reductions.values())) > 1:
            raise ValueError(
                f"RobustGradient: all links must have one loss_reduction, found {reductions}"
            )
        robustifier = self._held_by_links() if self.robustifier is None else self.robustifier
        gradients = [rows for _, _, rows in entries]
        estimates = estimate(robustifier, gradients, "layer")
        reduction = entries[0][1].loss_reduction
        n_samples = count_samples(robustifier, gradients[0].n_samples)
        for (name, recording, _), one in zip(entries, estimates, strict=True):
            one = scattered(one, masks[name])
            _add(recording.parameter, one, n_samples if reduction == "sum" else 1)
        if observers.any_observed() and gradients[0].n_samples:
            links = (self.model, *(recording.link for _, recording, _ in entries))
            named = {name: rows for name, _, rows in entries}
            observers.notify(links, self.model, robustifier, named, "model", reduction)

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


def _added(name: str, recording: Recording) -> SampleGradients:
    try:
        return add_up(recording.operators)
    except ValueError as error:
        raise ValueError(
            f"RobustGradient: parameter {name} is used several times: {error}"
        ) from error


def _add(parameter: chainer.Parameter, gradient: Array, factor: int) -> None:
    # A new array, for Chainer may have handed the old one to another variable as well.
    grad = parameter.grad
    gradient = gradient.astype(grad.dtype, copy=False)
    if factor != 1:
        gradient = gradient * grad.dtype.type(factor)
    parameter.grad = array_module(grad).asarray(grad + gradient)
