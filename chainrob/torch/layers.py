"""Drop-ins for the layers of ``torch.nn``: the stock constructor's arguments, then ``robustifier``,
``loss_reduction``, ``scope`` and ``sample_axis``.

Each is the stock module with another ``forward``. Parameters, names and ``state_dict`` are the
stock module's, and ``robustifier=None`` is the stock module, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chainrob.torch import functional, layer_kinds, normalizations
from chainrob.torch.robust_modules import RobustModule

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Linear",
    "PReLU",
    "RMSNorm",
]


class Linear(RobustModule, nn.Linear):
    """``torch.nn.Linear``, with robust gradients of weight and bias.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> layer = chainrob.torch.Linear(2, 1, robustifier=chainrob.CoordinateMedian())
        >>> x = torch.ones(5, 2)
        >>> x[4] = 1e6
        >>> layer(x).mean().backward()
        >>> layer.weight.grad
        tensor([[1., 1.]])
    """

    stock = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(input)
        return self.run(layer_kinds.linear(), input, self.weight, self.bias)


class AttentionOutput(Linear):
    """The output projection of ``torch.nn.MultiheadAttention``."""

    stock = nn.modules.linear.NonDynamicallyQuantizableLinear


class _Convolution(RobustModule, nn.modules.conv._ConvNd):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.runs_plainly:
            return super()._conv_forward(input, weight, bias)
        padding: Any = self.padding
        if self.padding_mode != "zeros" and input.ndim == weight.ndim:
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return functional._convolution(
            self.run, input, weight, bias, self.stride, padding, self.dilation, self.groups
        )


class Conv1d(_Convolution, nn.Conv1d):
    """``torch.nn.Conv1d``, with robust gradients of weight and bias."""

    stock = nn.Conv1d


class Conv2d(_Convolution, nn.Conv2d):
    """``torch.nn.Conv2d``, with robust gradients of weight and bias.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> layer = chainrob.torch.Conv2d(1, 3, 2, robustifier=chainrob.GeometricMedian())
        >>> layer(torch.randn(4, 1, 5, 5)).shape
        torch.Size([4, 3, 4, 4])
    """

    stock = nn.Conv2d


class Conv3d(_Convolution, nn.Conv3d):
    """``torch.nn.Conv3d``, with robust gradients of weight and bias."""

    stock = nn.Conv3d


class _TransposedConvolution(RobustModule, nn.modules.conv._ConvTransposeNd):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.runs_plainly:
            return super().forward(input, output_size)
        output_padding: Any = self.output_padding
        if output_size is not None:
            options = (self.stride, self.padding, self.kernel_size)
            output_padding = self._output_padding(
                input, output_size, *options, self.weight.ndim - 2, self.dilation
            )
        return functional._transposed(
            self.run,
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose1d(_TransposedConvolution, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d``, with robust gradients of weight and bias."""

    stock = nn.ConvTranspose1d


class ConvTranspose2d(_TransposedConvolution, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d``, with robust gradients of weight and bias."""

    stock = nn.ConvTranspose2d


class ConvTranspose3d(_TransposedConvolution, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d``, with robust gradients of weight and bias."""

    stock = nn.ConvTranspose3d


class Embedding(RobustModule, nn.Embedding):
    """``torch.nn.Embedding``, with a robust gradient of the weight.

    ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` are not available: the first changes the
    weight in the forward pass, the second mixes the samples, the third gives sparse gradients.
    """

    stock = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(input)
        found = [
            name
            for name in ("max_norm", "scale_grad_by_freq", "sparse")
            if getattr(self, name) not in (None, False)
        ]
        if found:
            raise ValueError(
                f"embedding {self.path!r}: a robust embedding has no "
                f"{', '.join(f'{name}={getattr(self, name)!r}' for name in found)}"
            )
        return functional._embedding(self.run, input, self.weight, self.padding_idx)


class LayerNorm(RobustModule, nn.LayerNorm):
    """``torch.nn.LayerNorm``, with robust gradients of weight and bias."""

    stock = nn.LayerNorm

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(input)
        return normalizations._layer_norm(
            self.run, input, tuple(self.normalized_shape), self.weight, self.bias, self.eps
        )


class RMSNorm(RobustModule, nn.RMSNorm):
    """``torch.nn.RMSNorm``, with a robust gradient of the weight."""

    stock = nn.RMSNorm

    def forward(self, x: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(x)
        return normalizations._rms_norm(
            self.run, x, tuple(self.normalized_shape), self.weight, self.eps
        )


class GroupNorm(RobustModule, nn.GroupNorm):
    """``torch.nn.GroupNorm``, with robust gradients of weight and bias."""

    stock = nn.GroupNorm

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(input)
        return normalizations._group_norm(
            self.run, input, self.num_groups, self.weight, self.bias, self.eps
        )


class _InstanceNorm(RobustModule, nn.modules.instancenorm._InstanceNorm):
    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly or (self.weight is None and self.bias is None):
            return super().forward(input)
        if self.track_running_stats:
            raise ValueError(
                f"instance_norm {self.path!r}: a robust layer needs track_running_stats=False, for "
                f"running statistics mix the samples, found True"
            )
        self._check_input_dim(input)
        return normalizations._instance_norm(self.run, input, self.weight, self.bias, self.eps)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """``torch.nn.InstanceNorm1d`` without running statistics, with robust gradients."""

    stock = nn.InstanceNorm1d


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """``torch.nn.InstanceNorm2d`` without running statistics, with robust gradients."""

    stock = nn.InstanceNorm2d


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """``torch.nn.InstanceNorm3d`` without running statistics, with robust gradients."""

    stock = nn.InstanceNorm3d


class PReLU(RobustModule, nn.PReLU):
    """``torch.nn.PReLU``, with a robust gradient of the slopes."""

    stock = nn.PReLU

    def forward(self, input: Tensor) -> Tensor:
        if self.runs_plainly:
            return super().forward(input)
        kind = layer_kinds.prelu(self.weight.numel() == 1)
        return self.run(kind, input, self.weight)
