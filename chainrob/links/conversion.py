"""Make the links of an existing model robust, or plain again, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import chainer
from chainrob.aggregation import Reduction, Scope, check_options
from chainrob.aggregation.layer_choice import choose_layers
from chainrob.links.robust_link import RobustLink, robust_forms
from chainrob.robustifiers import AdaptiveMean

Model = TypeVar("Model", bound=chainer.Link)
Predicate = Callable[[str, chainer.Link], bool]

DEFAULT = AdaptiveMean()
"""The robustifier of ``robustify(model)``, where none is named."""

MIXES_SAMPLES = (
    chainer.links.BatchNormalization,
    chainer.links.BatchRenormalization,
    chainer.links.DecorrelatedBatchNormalization,
)


RUN_AS_A_WHOLE = (chainer.links.rnn.n_step_rnn.NStepRNNBase,)
"""Chains whose parts are never run by themselves."""


class UnsupportedLinkWarning(UserWarning):
    """Some links have no robust form and keep their plain gradients."""


def robustify(
    model: Model,
    robustifier: Callable[[Any], Any] | None = DEFAULT,
    *,
    layers: str | int | Iterable[str | int] | Predicate | None = None,
    scope: Scope = "layer",
    loss_reduction: Reduction = "mean",
    on_unsupported: Literal["raise", "skip"] = "raise",
) -> Model:
    """Let the links of a model estimate their gradients robustly, in place.

    Each link changes its class to the robust form in ``chainrob.links``. It stays the same object:
    parameters, names, optimizer state, update rules and hooks are kept. Checkpoints of the plain
    model load into the robust one and back. Links that are robust already get the new settings. To
    give some layers other settings, call ``robustify`` again with ``layers``. ``plain`` undoes it.

    Only links of exactly a class of ``chainer.links`` are converted, because a subclass may do
    anything in its ``forward``. Derive such a class from the robust form instead. For a link class
    of your own, derive the robust form from ``chainrob.links.RobustLink`` and set
    ``stock = YourLink``.

    Some models call a link several times in a pass, for example in a loop over time steps. Then
    the link estimates the gradient of each call separately and adds up the estimates. With
    ``scope='model'`` each sample's gradients are added up first. There is no warning: calls on
    different samples, such as those of a discriminator, look the same to the link.

    Args:
        model: a Link, Chain, ChainList or Sequential.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,). The default,
            ``chainrob.AdaptiveMean``, has nothing to tune. With None the links change their class
            and use the plain sum until ``link.robustifier`` is set.
        layers: which links to convert; all by default. Give names, numbers or a predicate
            ``(name, link) -> bool``. Names are those of ``model.namedlinks()``, with or without the
            leading slash; the name of a chain means all links below it. Numbers count the links
            that hold parameters, in the order in which the model defines them. Negative numbers
            count from the end.
        scope: which gradients form one row for a weighting robustifier: ``'unit'``,
            ``'parameter'``, ``'layer'`` or ``'model'``. ``'model'`` needs the hook
            ``chainrob.training.RobustGradient``.
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        on_unsupported: ``'raise'`` or ``'skip'``. ``'skip'`` leaves links without a robust form as
            they are and lists them in an ``UnsupportedLinkWarning``.

    Returns:
        the model itself.

    Raises:
        ValueError: a link has no robust form, ``layers`` chooses no link, or ``scope``,
            ``loss_reduction`` or ``on_unsupported`` is none of the values above.
        KeyError: no link has a name or number in ``layers``.
        TypeError: the model is not a Link, or the robustifier is not callable.

    Example:
        >>> import chainrob
        >>> import chainer
        >>> model = chainer.Sequential(
        ...     chainer.links.Linear(4, 8), chainer.functions.relu, chainer.links.Linear(8, 3))
        >>> model = chainrob.robustify(model, chainrob.TrimmedMean(0.1), layers=0)
        >>> [type(layer).__module__.split('.')[0] for layer in model if layer is not model[1]]
        ['chainrob', 'chainer']
        >>> type(chainrob.plain(model)[0]) is chainer.links.Linear
        True
    """
    if not isinstance(model, chainer.Link):
        raise TypeError(f"robustify: model must be a chainer.Link, found {type(model).__name__}")
    if on_unsupported not in ("raise", "skip"):
        raise ValueError(
            f"robustify: on_unsupported must be 'raise' or 'skip', found {on_unsupported!r}"
        )
    check_options(robustifier, loss_reduction, scope)
    chosen = choose_layers(named_layers(model), layers, lambda name: _named(model, name), "link")
    reasons = {name: _unsupported(model, name, link, scope) for name, link in chosen}
    unsupported: dict[tuple[str, str], list[str]] = {}
    for name, link in chosen:
        if reasons[name]:
            unsupported.setdefault((type(link).__name__, reasons[name]), []).append(name)
    if unsupported:
        count = sum(len(names) for names in unsupported.values())
        found = [
            f"{', '.join(names)} ({kind}): {reason}"
            for (kind, reason), names in unsupported.items()
        ]
        message = f"{count} of {len(chosen)} links have no robust form: {'; '.join(found)}"
        if on_unsupported == "raise":
            raise ValueError(
                f"robustify: {message}; choose others with layers, or pass on_unsupported='skip'"
            )
        warnings.warn(message, UnsupportedLinkWarning, stacklevel=2)
    for name, link in chosen:
        if not reasons[name]:
            if not isinstance(link, RobustLink):
                link.__class__ = robust_forms()[type(link)]
            link.set_aggregation(robustifier, loss_reduction, scope)
    converted = [name for name, _ in chosen if not reasons[name]]
    for path, link in _walk(model, ""):
        # A chain without own parameters may have to tell its links which rows they see.
        form = robust_forms().get(type(link))
        parts = [name for name in converted if name.startswith(f"{path}/")]
        if form is not None and isinstance(link, chainer.Chain) and not link._params and parts:
            link.__class__ = form
    return model


def plain(model: Model) -> Model:
    """Undo ``robustify``: every robust link becomes the stock link again, in place.

    Parameters, names, optimizer state and hooks are kept. A link whose class was derived from a
    robust form keeps that class and gets ``robustifier=None``, the plain sum.

    Args:
        model: a Link, Chain, ChainList or Sequential.

    Returns:
        the model itself.

    Example:
        >>> import chainrob
        >>> import chainer
        >>> model = chainrob.links.MLP((2, 3, 1), chainrob.Mean())
        >>> type(chainrob.plain(model).l1) is chainer.links.Linear
        True
    """
    if not isinstance(model, chainer.Link):
        raise TypeError(f"plain: model must be a chainer.Link, found {type(model).__name__}")
    for link in model.links():
        if isinstance(link, RobustLink):
            for name in ("robustifier", "loss_reduction", "scope"):
                link.__dict__.pop(name, None)
            if "stock" in type(link).__dict__:
                link.__class__ = type(link).stock
    return model


def named_layers(model: chainer.Link) -> list[tuple[str, chainer.Link]]:
    """The links that hold parameters of their own (or mix samples), each once, with their names.

    They come in the order in which the model defines them. ``namedlinks`` keeps this order only for
    lists: it sorts the children of a Chain by name, so l10 comes before l2.
    """
    found: list[tuple[str, chainer.Link]] = []
    seen: set[int] = set()
    for name, link in _walk(model, ""):
        own = bool(link._params) or isinstance(link, (*MIXES_SAMPLES, *RUN_AS_A_WHOLE))
        if own and id(link) not in seen:
            seen.add(id(link))
            found.append((name or "/", link))
    return found


def _walk(link: chainer.Link, path: str) -> Iterator[tuple[str, chainer.Link]]:
    yield path, link
    if isinstance(link, RUN_AS_A_WHOLE):
        children = []
    elif isinstance(link, chainer.ChainList):
        children = [(str(number), child) for number, child in enumerate(link.children())]
    elif isinstance(link, chainer.Chain):
        children = [(name, child) for name, child in vars(link).items() if name in link._children]
    else:
        children = []
    for name, child in children:
        yield from _walk(child, f"{path}/{name}")


def _named(model: chainer.Link, entry: str) -> Iterator[str]:
    """The names of the links that hold parameters and have this name, or are below it."""
    everything = named_layers(model)
    path = f"/{entry.strip('/')}"
    below = f"{path.rstrip('/')}/"
    # One link under two names is listed under the first; the second means it as well.
    aliases = [link for name, link in _walk(model, "") if name == path]
    for name, link in everything:
        if name == path or name.startswith(below) or any(link is one for one in aliases):
            yield name


def _unsupported(model: chainer.Link, name: str, link: chainer.Link, scope: str) -> str:
    """Why a link cannot be made robust; empty where it can."""
    if isinstance(link, MIXES_SAMPLES):
        return (
            "it mixes the samples of a batch in training mode, so single samples have no gradient "
            "of their own; use GroupNormalization or LayerNormalization"
        )
    if isinstance(link, RobustLink) or type(link) in robust_forms():
        container = _recurrent_container(model, name)
        if container is not None and scope != "model":
            return (
                f"{type(container).__name__} runs it in each time step, and a sample's gradient is "
                f"the sum over the steps; use scope='model', which estimates it after the pass "
                f"(and chainrob.samples, if the steps see different numbers of rows)"
            )
        return ""
    for stock, form in robust_forms().items():
        if isinstance(link, stock):
            return (
                f"it is a subclass of {stock.__name__}, whose forward may do anything; derive it "
                f"from chainrob.links.{form.__name__}"
            )
    return (
        "its class is not known; derive a robust form from chainrob.links.RobustLink with "
        f"stock = {type(link).__name__}"
    )


def _recurrent_container(model: chainer.Link, name: str) -> chainer.Link | None:
    """The recurrent link of Chainer that the named link is a part of."""
    for path, link in _walk(model, ""):
        inside = name.startswith(f"{path}/") and (path or "/") != name
        if inside and any(
            kind.__module__.startswith("chainer.links.rnn.") for kind in type(link).__mro__
        ):
            return link
    return None
