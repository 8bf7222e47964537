"""Function nodes: forward as in Chainer, backward through a robustifier; and losses."""

from chainrob.aggregation import Aggregation, exact_backward
from chainrob.functions.activation_functions import prelu, swish
from chainrob.functions.convolution_functions import (
    convolution_2d,
    convolution_nd,
    deconvolution_2d,
    deconvolution_nd,
)
from chainrob.functions.cross_entropy import CrossEntropy, cross_entropy
from chainrob.functions.embedding_function import embed_id
from chainrob.functions.gradient_node import GradientNode, RobustFunction
from chainrob.functions.huber import Huber, huber
from chainrob.functions.linear_function import LinearFunction, linear
from chainrob.functions.mean_absolute_error import MeanAbsoluteError, mean_absolute_error
from chainrob.functions.mean_squared_error import MeanSquaredError, mean_squared_error
from chainrob.functions.normalization_functions import group_normalization, layer_normalization
from chainrob.functions.sample_loss import SampleLoss
from chainrob.functions.scale_bias_functions import bias, scale

__all__ = [
    "Aggregation",
    "CrossEntropy",
    "GradientNode",
    "Huber",
    "LinearFunction",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "RobustFunction",
    "SampleLoss",
    "bias",
    "convolution_2d",
    "convolution_nd",
    "cross_entropy",
    "deconvolution_2d",
    "deconvolution_nd",
    "embed_id",
    "exact_backward",
    "group_normalization",
    "huber",
    "layer_normalization",
    "linear",
    "mean_absolute_error",
    "mean_squared_error",
    "prelu",
    "scale",
    "swish",
]
