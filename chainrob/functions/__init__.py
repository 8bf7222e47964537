"""Function nodes: forward as in Chainer, backward through a robustifier."""

from chainrob.functions.linear import LinearFunction, LinearGradient, linear

__all__ = ["LinearFunction", "LinearGradient", "linear"]
