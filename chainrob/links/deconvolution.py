"""Drop-ins for the transposed convolutions of ``chainer.links``."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.deconvolution import deconvolve, deconvolve_2d
from chainrob.links.robust_link import RobustLink


class _AnyDimensions(RobustLink):
    """Forward of the stock links that are made of ``DeconvolutionND``."""

    def forward(self, x: Any) -> chainer.Variable:
        """y, (N, Q, *outsize), for x (N, C, *spatial)."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        return deconvolve(
            x,
            self.W,
            self.b,
            self.stride,
            self.pad,
            self.outsize,
            self.dilate,
            self.groups,
            self.aggregation,
        )


class DeconvolutionND(_AnyDimensions, chainer.links.DeconvolutionND):
    """N-dimensional transposed convolution with robust gradients of W and b.

    It takes the arguments of ``chainer.links.DeconvolutionND``, holds the same parameters under the
    same names, and reads and writes the same files. With ``robustifier=None`` it is that link. A
    sample's gradient is the sum over its positions; see ``chainrob.functions.deconvolution_nd``.

    Args:
        ndim, in_channels, out_channels, ksize, stride, pad, nobias, outsize, initialW,
            initial_bias, dilate, groups: as in ``chainer.links.DeconvolutionND``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None for the plain
            sum.
        loss_reduction: ``'mean'`` or ``'sum'``: how the loss joins the samples.
        scope: ``'unit'`` (one output channel), ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.DeconvolutionND(
        ...     1, 2, 3, 3, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 2, 8), np.float32)).shape
        (5, 3, 10)
    """

    stock = chainer.links.DeconvolutionND


class Deconvolution1D(_AnyDimensions, chainer.links.Deconvolution1D):
    """One-dimensional transposed convolution with robust gradients: see ``DeconvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Deconvolution1D``.
        robustifier, loss_reduction, scope: as in ``DeconvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Deconvolution1D(2, 3, 3, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 2, 8), np.float32)).shape
        (5, 3, 10)
    """

    stock = chainer.links.Deconvolution1D


class Deconvolution3D(_AnyDimensions, chainer.links.Deconvolution3D):
    """Three-dimensional transposed convolution with robust gradients: see ``DeconvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Deconvolution3D``.
        robustifier, loss_reduction, scope: as in ``DeconvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Deconvolution3D(1, 3, 2, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 1, 4, 4, 4), np.float32)).shape
        (5, 3, 5, 5, 5)
    """

    stock = chainer.links.Deconvolution3D


class Deconvolution2D(RobustLink, chainer.links.Deconvolution2D):
    """Two-dimensional transposed convolution with robust gradients: see ``DeconvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Deconvolution2D``.
        robustifier, loss_reduction, scope: as in ``DeconvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Deconvolution2D(8, 1, 3, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 8, 6, 6), np.float32)).shape
        (5, 1, 8, 8)
    """

    stock = chainer.links.Deconvolution2D

    def forward(self, x: Any) -> chainer.Variable:
        """y, (N, Q, H', W'), for x (N, C, H, W)."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        return deconvolve_2d(
            x,
            self.W,
            self.b,
            self.stride,
            self.pad,
            self.outsize,
            self.dilate,
            self.groups,
            self.aggregation,
        )
