"""Robust training in PyTorch: the estimates of ``chainrob`` in the backward pass of any module.

The lines of a program that change::

    import chainrob, chainrob.torch
    model = chainrob.torch.robustify(model, chainrob.GeometricMedian(), scope="model")

Everything else stays: optimizers, schedulers, loaders, hooks, ``state_dict``, ``deepcopy``, AMP,
DistributedDataParallel. Needs PyTorch: ``pip install 'chainrob[torch]'``.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "chainrob.torch needs PyTorch: pip install 'chainrob[torch]' (or torch, in the build for "
        "your machine)"
    ) from _error

from chainrob.aggregation import exact_backward
from chainrob.torch import functional
from chainrob.torch.attention import MultiheadAttention
from chainrob.torch.gradient_accumulation import accumulate_samples
from chainrob.torch.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Embedding,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    Linear,
    PReLU,
    RMSNorm,
)
from chainrob.torch.loss_scale import use_grad_scaler
from chainrob.torch.module_conversion import UnsupportedModuleWarning, plain, robustify
from chainrob.torch.recurrent_cells import GRUCell, LSTMCell, RNNCell
from chainrob.torch.robust_modules import RobustModule
from chainrob.torch.sample_measures import gram, per_sample_norms
from chainrob.torch.suspect_samples import Suspects

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "GRUCell",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "MultiheadAttention",
    "PReLU",
    "RMSNorm",
    "RNNCell",
    "RobustModule",
    "Suspects",
    "UnsupportedModuleWarning",
    "accumulate_samples",
    "exact_backward",
    "functional",
    "gram",
    "per_sample_norms",
    "plain",
    "robustify",
    "use_grad_scaler",
]
