"""Function nodes: forward as in Chainer, backward through a robustifier."""

from chainrob.functions.activation import prelu, swish
from chainrob.functions.convolution import convolution_2d, convolution_nd
from chainrob.functions.deconvolution import deconvolution_2d, deconvolution_nd
from chainrob.functions.embed_id import embed_id
from chainrob.functions.exact import exact_backward
from chainrob.functions.gradient_node import Aggregation, GradientNode
from chainrob.functions.linear import LinearFunction, linear
from chainrob.functions.normalization import group_normalization, layer_normalization
from chainrob.functions.scale_bias import bias, scale

__all__ = [
    "Aggregation",
    "GradientNode",
    "LinearFunction",
    "bias",
    "convolution_2d",
    "convolution_nd",
    "deconvolution_2d",
    "deconvolution_nd",
    "embed_id",
    "exact_backward",
    "group_normalization",
    "layer_normalization",
    "linear",
    "prelu",
    "scale",
    "swish",
]
