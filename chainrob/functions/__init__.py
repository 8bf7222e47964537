"""Function nodes: forward as in Chainer, backward through a robustifier."""

from chainrob.functions.gradient_node import Aggregation, GradientNode
from chainrob.functions.linear import LinearFunction, linear

__all__ = ["Aggregation", "GradientNode", "LinearFunction", "linear"]
