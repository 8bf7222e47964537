"""Make the layers of an existing PyTorch module robust, or plain again, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from chainrob.aggregation import Reduction, Scope, check_options
from chainrob.aggregation.layer_choice import choose_layers
from chainrob.robustifiers import AdaptiveMean
from chainrob.torch.attention import unsupported_attention
from chainrob.torch.compiled_layers import enroll
from chainrob.torch.model_group import ModelGroup
from chainrob.torch.recurrent_cells import RecurrentCell
from chainrob.torch.robust_modules import SETTINGS, RobustModule, robust_forms

__all__ = ["UnsupportedModuleWarning", "plain", "robustify"]

Module = TypeVar("Module", bound=nn.Module)
Predicate = Callable[[str, nn.Module], bool]
Selection = str | int | Iterable[str | int] | Predicate | None

DEFAULT = AdaptiveMean()
"""What ``robustify`` takes where nobody says which robustifier."""

MIXES_SAMPLES = (nn.modules.batchnorm._BatchNorm,)

POSITIONS_FIRST = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Modules whose samples are axis 1 of their inputs unless ``batch_first``."""


class UnsupportedModuleWarning(UserWarning):
    """Some modules have no robust form and keep their plain gradients."""


def robustify(
    module: Module,
    robustifier: Callable[[Any], Any] | None = DEFAULT,
    *,
    layers: Selection = None,
    scope: Scope = "layer",
    loss_reduction: Reduction = "mean",
    strict: bool = True,
    sample_axis: int | Mapping[str, int] | None = None,
) -> Module:
    """Let the layers of a module estimate their gradients robustly, in place.

    A layer changes its class to the robust form of ``chainrob.torch`` and stays the same object:
    parameters, names, ``state_dict``, hooks, optimizers, copies and pickles are kept, and
    checkpoints fit both ways. Layers that are robust already get the new settings. Call it again
    with other ``layers`` for other settings; ``plain`` undoes it.

    A module is converted if its class is exactly a stock one, for a subclass may do anything in its
    ``forward``: derive such a class from the robust form instead.

    What is computed, and when:

    - A layer that is called several times in a pass estimates each call by itself, and the
      estimates add up. So do those of two layers that share a weight. Only ``scope='model'`` adds
      up each sample's gradients first.
    - With ``scope='model'`` there is one estimate a backward pass, complete when ``backward()``
      returns. Two backward passes before a step are two estimates that add up, as gradients do;
      ``accumulate_samples`` joins them into one.
    - A weight that is used past its layer, as in ``F.linear(x, layer.weight)``, gets the plain
      gradient of that use: nothing there can see the samples.
    - A single sequence in a Linear layer has as many axes as a batch of samples. The layer takes it
      for a batch.
    - A layer warns once, with a ``chainrob.SampleAxisWarning``, where its samples look wrong: a
      single sample, other numbers of samples in one pass, or a multiple of what the first layer saw
      (positions put below one another).

    Args:
        module: any module.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); by default
            ``chainrob.AdaptiveMean``, which has nothing to tune. None makes the layers robust ones
            that run plainly until ``layer.robustifier`` is set.
        layers: which: names as ``module.named_modules()`` gives them (a name of a container means
            all below it); numbers, counting the modules that hold parameters in the order of
            ``named_modules``, from the end where negative; or a predicate ``(name, module) ->
            bool``. All by default.
        scope: what makes up one row for a weighting robustifier: ``'unit'``, ``'parameter'``,
            ``'layer'``, or ``'model'`` (all these layers together).
        loss_reduction: ``'mean'`` or ``'sum'``: how the loss joins the samples.
        strict: whether modules without a robust form are an error; else they stay as they are, with
            an ``UnsupportedModuleWarning`` that lists them.
        sample_axis: the axis of the layers' inputs that counts the samples, 0 by default; 1 for a
            Transformer without ``batch_first``, which must be said. A mapping from names to axes
            for layers that differ.

    Returns:
        the module itself.

    Raises:
        ValueError: modules without a robust form; ``layers`` that choose nothing; a bad ``scope``,
            ``loss_reduction`` or ``sample_axis``.
        KeyError: a name, or a number, that no module has.
        TypeError: no module, or a robustifier that is not callable.
        RuntimeError: a module that FSDP or DataParallel has taken over.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = chainrob.torch.robustify(net, chainrob.TrimmedMean(0.1), layers="0")
        >>> net
        Sequential(
          (0): Linear(in_features=4, ... robustifier=TrimmedMean(fraction=0.1), scope='layer')
          (1): ReLU()
          (2): Linear(in_features=8, out_features=3, bias=True)
        )
        >>> type(chainrob.torch.plain(net)[0]) is torch.nn.Linear
        True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"robustify: module must be a torch.nn.Module, found {type(module).__name__}"
        )
    check_options(robustifier, loss_reduction, scope)
    _refuse_wrappers(module)
    chosen = choose_layers(
        named_layers(module), layers, lambda name: _named(module, name), "module"
    )
    bypassed = {
        id(
            one.out_proj
        ): f"{name!r}, which runs it, has no robust form: {unsupported_attention(one)}"
        for name, one in module.named_modules()
        if isinstance(one, nn.MultiheadAttention) and unsupported_attention(one)
    }
    reasons = {name: bypassed.get(id(one)) or _unsupported(one, scope) for name, one in chosen}
    found = [
        f"{name!r} ({type(one).__name__}): {reasons[name]}" for name, one in chosen if reasons[name]
    ]
    if found:
        message = f"{len(found)} of {len(chosen)} modules have no robust form: {'; '.join(found)}"
        if strict:
            raise ValueError(
                f"robustify: {message}; choose others with layers=, or pass strict=False to leave "
                f"them plain"
            )
        warnings.warn(message, UnsupportedModuleWarning, stacklevel=2)
    chosen = [(name, one) for name, one in chosen if not reasons[name]]
    axes = _sample_axes(module, chosen, sample_axis)
    group = _group(module, chosen) if scope == "model" else None
    for name, one in chosen:
        _convert(one)
        assert isinstance(one, RobustModule)
        one.set_aggregation(robustifier, loss_reduction, scope, axes[name], group)
        one.path = name
    for name, one in module.named_modules():
        # Attention does not call its output projection unless it is robust itself.
        if type(one) is nn.MultiheadAttention and isinstance(one.out_proj, RobustModule):
            _convert(one)
            one.path = name
    return module


def plain(module: Module) -> Module:
    """Undo ``robustify``: every robust layer becomes the stock one again, in place.

    Parameters, names, hooks and optimizer state are kept. A layer of a class that was derived from
    a robust form keeps its class and gets ``robustifier=None``, which runs plainly.

    Args:
        module: any module.

    Returns:
        the module itself.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> layer = chainrob.torch.Linear(2, 1, robustifier=chainrob.Mean())
        >>> type(chainrob.torch.plain(layer)) is torch.nn.Linear
        True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"plain: module must be a torch.nn.Module, found {type(module).__name__}")
    for one in module.modules():
        if isinstance(one, RobustModule):
            if one.group is not None:
                one.group.leave(one)
            for name in SETTINGS:
                one.__dict__.pop(name, None)
            if "stock" in type(one).__dict__:
                one.__class__ = type(one).stock
            else:
                one.name_in_graphs = enroll(one)
    return module


def named_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that hold parameters of their own (or mix samples), each once, by name."""
    found = []
    for name, one in module.named_modules():
        own = any(parameter is not None for parameter in one._parameters.values())
        inside = "parametrizations" in name.split(".")  # a part of the module that it computes for
        if (own or is_parametrized(one) or isinstance(one, MIXES_SAMPLES)) and not inside:
            found.append((name, one))
    return found


def _convert(module: nn.Module) -> None:
    if not isinstance(module, RobustModule):
        module.__class__ = robust_forms()[type(module)]
        module.name_in_graphs = enroll(module)


def _refuse_wrappers(module: nn.Module) -> None:
    for name, one in module.named_modules():
        sharded = "_is_fsdp_managed_module" in one.__dict__
        if sharded or any(
            kind.__name__ == "FullyShardedDataParallel" for kind in type(one).__mro__
        ):
            raise RuntimeError(
                f"robustify: FSDP splits the parameters of {name or 'the module'!r} over the "
                f"ranks, which robust layers cannot estimate; use DistributedDataParallel"
            )
        if isinstance(one, nn.DataParallel):
            raise RuntimeError(
                "robustify: DataParallel runs copies of the module on parts of the batch, and each "
                "would be estimated by itself; use DistributedDataParallel"
            )


def _named(module: nn.Module, entry: str) -> Iterator[str]:
    """The names of the modules that hold parameters and have this name, or are below it."""
    # One module under two names is listed under the first; the second means it as well.
    meant = {
        id(one)
        for name, one in module.named_modules(remove_duplicate=False)
        if _is_at_or_below(name, entry)
    }
    for name, one in named_layers(module):
        if id(one) in meant:
            yield name


def _is_at_or_below(name: str, entry: str) -> bool:
    return entry == "" or name == entry or name.startswith(f"{entry}.")


def _unsupported(module: nn.Module, scope: str) -> str:
    """Why a module cannot be made robust; empty where it can."""
    forms = robust_forms()
    if isinstance(module, MIXES_SAMPLES):
        return (
            "it mixes the samples of a batch in training mode, so no sample has a gradient of its "
            "own; use GroupNorm or LayerNorm"
        )
    if any(isinstance(one, UninitializedParameter) for one in module._parameters.values()):
        return "its parameters have no shape yet; run one batch through the module first"
    if is_parametrized(module):
        return "a parametrization computes its parameters; remove it, or register it afterwards"
    if isinstance(module, nn.modules.rnn.RNNBase):
        cell = f"torch.nn.{type(module).__name__}Cell"
        return (
            f"it runs all its layers and time steps in one function; build the recurrence from "
            f"{cell}, called once a step, and convert that with scope='model'"
        )
    if isinstance(module, nn.Embedding):
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, name) not in (None, False):
                return f"it has {name}={getattr(module, name)!r}"
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
        return "it has track_running_stats=True, and running statistics mix the samples"
    if isinstance(module, nn.MultiheadAttention):
        why = unsupported_attention(module)
        if why:
            return why
    if any(one is not None and one.is_complex() for one in module._parameters.values()):
        return "its parameters are complex"
    if isinstance(module, RobustModule) or type(module) in forms:
        recurrent = issubclass(forms.get(type(module), type(module)), RecurrentCell)
        if recurrent and scope != "model":
            return (
                "a model runs it once a time step, and a sample's gradient is the sum over the "
                "steps; use scope='model'"
            )
        return ""
    for stock, form in forms.items():
        if isinstance(module, stock):
            return (
                f"it is a subclass of {stock.__name__}, whose forward may do anything; derive it "
                f"from chainrob.torch.{form.__name__}"
            )
    return (
        f"its class is not known; derive a robust form from chainrob.torch.RobustModule with "
        f"stock = {type(module).__name__}, or put its parameters into layers"
    )


def _sample_axes(
    module: nn.Module,
    chosen: list[tuple[str, nn.Module]],
    sample_axis: int | Mapping[str, int] | None,
) -> dict[str, int]:
    """The axis of the samples, by the layer's name."""
    positions_first = [
        (name, one)
        for name, one in module.named_modules()
        if isinstance(one, POSITIONS_FIRST) and not _batch_first(one)
    ]
    meant: dict[str, int] = {}
    for name, _ in chosen:
        axis: Any = sample_axis
        if isinstance(sample_axis, Mapping):
            near = [key for key in sample_axis if _is_at_or_below(name, key)]
            axis = sample_axis[max(near, key=len)] if near else None
        around = [path for path, _ in positions_first if _is_at_or_below(name, path)]
        if axis is None and positions_first:
            raise ValueError(
                f"robustify: {positions_first[0][0]!r} has batch_first=False, so axis 1 of its "
                f"inputs counts the samples, and of other layers nobody knows; pass sample_axis=1 "
                f"(or a mapping from names of layers to axes), found None for {name!r}"
            )
        axis = 0 if axis is None else axis
        if isinstance(axis, bool) or not isinstance(axis, Integral) or axis < 0:
            raise ValueError(
                f"robustify: sample_axis must be a number from 0 on, found {axis!r} for {name!r}"
            )
        if around and axis != 1:
            raise ValueError(
                f"robustify: {around[0]!r} has batch_first=False, so sample_axis must be 1 for "
                f"{name!r}, found {axis}"
            )
        meant[name] = int(axis)
    return meant


def _batch_first(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention | nn.Transformer):
        return bool(module.batch_first)
    return bool(module.self_attn.batch_first)


def _group(module: nn.Module, chosen: list[tuple[str, nn.Module]]) -> ModelGroup:
    """The group of the model: that of its layers that are robust already, or a new one."""
    below = {id(one) for one in module.modules()}
    picked = {id(one) for _, one in chosen}
    for one in module.modules():
        group = one.group if isinstance(one, RobustModule) else None
        if group is None:
            continue
        members = [id(layer) for layer in group.layers()]
        if all(key in below for key in members) and any(key not in picked for key in members):
            return group
    return ModelGroup()
