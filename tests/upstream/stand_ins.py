"""A pytest plugin: Chainer's own tests see our classes where they ask for Chainer's.

``CHAINROB_UPSTREAM`` says which: ``stock`` (nothing is replaced), ``none`` (our links without a
robustifier, and our functions) or ``mean`` (our links with ``Mean()``, whose gradients are those of
the stock links).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import chainrob
import chainer

MODE = os.environ.get("CHAINROB_UPSTREAM", "none")

FUNCTIONS = (
    "bias",
    "convolution_2d",
    "convolution_nd",
    "deconvolution_2d",
    "deconvolution_nd",
    "embed_id",
    "group_normalization",
    "layer_normalization",
    "linear",
    "prelu",
    "scale",
    "swish",
)


def pytest_configure(config: Any) -> None:
    if MODE == "stock":
        return
    for name in chainrob.links.__all__:
        ours = getattr(chainrob.links, name)
        stock = getattr(chainer.links, name, None)
        if isinstance(stock, type) and issubclass(ours, chainrob.links.RobustLink):
            setattr(chainer.links, name, with_mean(ours) if MODE == "mean" else ours)
    if MODE == "none":
        for name in FUNCTIONS:
            stock = getattr(chainer.functions, name)
            setattr(chainer.functions, name, from_outside(getattr(chainrob.functions, name), stock))


def from_outside(ours: Callable[..., Any], stock: Callable[..., Any]) -> Callable[..., Any]:
    """Our function for the tests; Chainer's for ours, which calls it without a robustifier."""
    inside = False

    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return stock(*args, **kwargs)
        inside = True
        try:
            return ours(*args, **kwargs)
        finally:
            inside = False

    return function


def with_mean(link: type) -> type:
    """The link whose robustifier is the plain mean unless a caller says another."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("robustifier", chainrob.Mean())
        kwargs.setdefault("loss_reduction", "sum")  # the tests' losses are sums
        link.__init__(self, *args, **kwargs)  # type: ignore[misc]

    made = type(link.__name__, (link,), {"__init__": __init__, "__module__": __name__})
    globals()[link.__name__] = made  # so that pickle finds it
    return made
