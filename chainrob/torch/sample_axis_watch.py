"""A warning where the rows of a layer look as if they were no samples.

A layer cannot know what its first axis counts; what it sees is how many samples there are, in each
of its calls and in the other layers of the same backward pass.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

from chainrob.aggregation.sample_index import new_step, warn_of_axis, watch_count
from chainrob.robustifiers import Mean

__all__ = ["watch"]


class _Pass(threading.local):
    """What the layers of the backward pass that this thread runs have seen."""

    task = -1
    mixed = False
    """Whether they saw different numbers, so that somebody looks at the end of the pass."""

    def __init__(self) -> None:
        self.layers: list[tuple[weakref.ref[Any], str, int]] = []
        """Each layer with its name and what it saw, in the order of the pass."""


_pass = _Pass()

_looked_at: weakref.WeakSet[Any] = weakref.WeakSet()
"""Layers whose ids were compared with positions: those are the same in every step."""


def watch(call: Any, x: torch.Tensor, n_samples: int) -> None:
    """Take down what a layer sees in a backward pass, and warn where that looks wrong.

    A layer for which ``chainrob.samples`` was used is left out, even as ``samples()``. So is one
    whose estimate is the same whatever a sample is.
    """
    plan = call.aggregation
    if plan.owner is None or plan.samples is not None or isinstance(plan.robustifier, Mean):
        return
    task = torch._C._current_graph_task_id()
    if task != _pass.task:
        new_step()
        _pass.task, _pass.mixed, _pass.layers = task, False, []
    watch_count(plan.owner, n_samples, plan.scope, call.path)
    looks = call.kind.function == "embedding" and x.ndim == 1 and n_samples > 1
    if looks and plan.owner not in _looked_at:
        _looked_at.add(plan.owner)
        if torch.equal(x, torch.arange(n_samples).to(x)):
            what = (
                f"saw the ids 0 to {n_samples - 1} in order and took each for a sample (right "
                f"where each id is a sample of its own; where they are positions that all samples "
                f"share, ids.expand(n_samples, -1) gives every sample its own)"
            )
            warn_of_axis(plan.owner, what, call.path, again=True)
    layers = _pass.layers
    layers.append((weakref.ref(plan.owner), call.path, n_samples))
    if n_samples != layers[0][2] and not _pass.mixed:
        _pass.mixed = True
        torch.autograd.Variable._execution_engine.queue_callback(lambda: _compare(layers))


def _compare(layers: list[tuple[weakref.ref[Any], str, int]]) -> None:
    """Warn of a layer that saw a multiple of what the first layer of the forward pass saw: most
    likely positions that were put below one another, as by ``x.view(-1, size)``.

    Fewer samples are no sign: an expert of a mixture sees those that are sent to it.
    """
    _, first, n_samples = layers[-1]  # the backward pass ends where the forward pass began
    if n_samples <= 1:
        return
    for reference, name, found in layers:
        owner = reference()
        if owner is not None and found > n_samples and found % n_samples == 0:
            what = f"saw {found} samples, and the layer {first!r} before it {n_samples}"
            warn_of_axis(owner, what, name)
