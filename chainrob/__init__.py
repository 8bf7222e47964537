"""Robust training on Chainer: the sum of per-sample gradients gives way to a robust estimate."""

from chainrob import _chainer

__all__ = ["__version__"]

__version__ = "0.1.0"

_chainer.install()
