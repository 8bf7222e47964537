"""Drop-ins for the convolutions and transposed convolutions of ``chainer.links``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import chainer
from chainrob.functions.convolution_functions import (
    convolution_2d,
    convolution_nd,
    deconvolution_2d,
    deconvolution_nd,
)
from chainrob.functions.gradient_node import runs_plainly
from chainrob.links.robust_link import RobustLink


class _Filters(RobustLink):
    """The forward pass of all convolutions: one function gets the link's settings."""

    function: ClassVar[Callable[..., chainer.Variable]]
    options: ClassVar[tuple[str, ...]]
    """The settings that the function takes besides stride and padding."""

    def forward(self, x: Any) -> chainer.Variable:
        """y, (N, Q, *positions), for x (N, C, *spatial)."""
        if runs_plainly(self.aggregation):
            return super().forward(x)
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        return type(self).function(
            x,
            self.W,
            self.b,
            self.stride,
            self.pad,
            **{name: getattr(self, name) for name in self.options},
            robustifier=self.aggregation,
        )


class ConvolutionND(_Filters, chainer.links.ConvolutionND):
    """N-dimensional convolution with robust gradients of W and b.

    It takes the arguments of ``chainer.links.ConvolutionND``, holds the same parameters under the
    same names, and reads and writes the same files. With ``robustifier=None`` it is that link. A
    sample's gradient is the sum over its positions; see ``chainrob.functions.convolution_nd``.

    Args:
        ndim, in_channels, out_channels, ksize, stride, pad: as in ``chainer.links.ConvolutionND``.
        nobias, initialW, initial_bias, cover_all, dilate, groups: likewise.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'`` (one output channel), ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.ConvolutionND(1, 2, 3, 3, robustifier=chainrob.TrimmedMean(0.1))
        >>> layer(np.zeros((5, 2, 8), np.float32)).shape
        (5, 3, 6)
    """

    stock = chainer.links.ConvolutionND
    function = staticmethod(convolution_nd)
    options = ("cover_all", "dilate", "groups")


class Convolution1D(ConvolutionND, chainer.links.Convolution1D):
    """One-dimensional convolution with robust gradients: see ``ConvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Convolution1D``.
        robustifier, loss_reduction, scope: as in ``ConvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Convolution1D(2, 3, 3, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 2, 8), np.float32)).shape
        (5, 3, 6)
    """

    stock = chainer.links.Convolution1D


class Convolution3D(ConvolutionND, chainer.links.Convolution3D):
    """Three-dimensional convolution with robust gradients: see ``ConvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Convolution3D``.
        robustifier, loss_reduction, scope: as in ``ConvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Convolution3D(1, 3, 2, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 1, 4, 4, 4), np.float32)).shape
        (5, 3, 3, 3, 3)
    """

    stock = chainer.links.Convolution3D


class Convolution2D(_Filters, chainer.links.Convolution2D):
    """Two-dimensional convolution with robust gradients of W and b: see ``ConvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.Convolution2D``.
        robustifier, loss_reduction, scope: as in ``ConvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Convolution2D(1, 8, 3, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 1, 8, 8), np.float32)).shape
        (5, 8, 6, 6)
    """

    stock = chainer.links.Convolution2D
    function = staticmethod(convolution_2d)
    options = ("dilate", "groups")


class DilatedConvolution2D(_Filters, chainer.links.DilatedConvolution2D):
    """Dilated two-dimensional convolution with robust gradients: see ``ConvolutionND``.

    Args:
        in_channels, out_channels, ksize, ...: as in ``chainer.links.DilatedConvolution2D``.
        robustifier, loss_reduction, scope: as in ``ConvolutionND``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.DilatedConvolution2D(
        ...     1, 8, 3, dilate=2, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 1, 8, 8), np.float32)).shape
        (5, 8, 4, 4)
    """

    stock = chainer.links.DilatedConvolution2D
    function = staticmethod(convolution_2d)
    options = ("dilate",)


class DeconvolutionND(_Filters, chainer.links.DeconvolutionND):
    """N-dimensional transposed convolution with robust gradients of W and b.

    It takes the arguments of ``chainer.links.DeconvolutionND``, holds the same parameters under the
    same names, and reads and writes the same files. With ``robustifier=None`` it is that link. A
    sample's gradient is the sum over its positions; see ``chainrob.functions.deconvolution_nd``.

    Args:
        ndim, in_channels, out_channels, ksize, stride, pad: as in
            ``chainer.links.DeconvolutionND``.
        nobias, outsize, initialW, initial_bias, dilate, groups: likewise.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'`` (one output channel), ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.DeconvolutionND(
        ...     1, 2, 3, 3, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 2, 8), np.float32)).shape
        (5, 3, 10)
    """

    stock = chainer.links.DeconvolutionND
    function = staticmethod(deconvolution_nd)
    options = ("outsize", "dilate", "groups")


class Deconvolution1D(DeconvolutionND, chainer.links.Deconvolution1D):
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


class Deconvolution3D(DeconvolutionND, chainer.links.Deconvolution3D):
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


class Deconvolution2D(_Filters, chainer.links.Deconvolution2D):
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
    function = staticmethod(deconvolution_2d)
    options = ("outsize", "dilate", "groups")
