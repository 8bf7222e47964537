"""Drop-ins for ``chainer.links``: they hold the parameters and train them robustly."""

from chainrob.links.activation import PReLU, Swish
from chainrob.links.conversion import UnsupportedLinkWarning, plain, robustify
from chainrob.links.convolution import (
    Convolution1D,
    Convolution2D,
    Convolution3D,
    ConvolutionND,
    Deconvolution1D,
    Deconvolution2D,
    Deconvolution3D,
    DeconvolutionND,
    DilatedConvolution2D,
)
from chainrob.links.embed_id import EmbedID
from chainrob.links.ensemble import Ensemble
from chainrob.links.linear import Linear
from chainrob.links.mlp import MLP
from chainrob.links.normalization import GroupNormalization, LayerNormalization
from chainrob.links.recurrent import (
    NStepBiGRU,
    NStepBiLSTM,
    NStepBiRNNReLU,
    NStepBiRNNTanh,
    NStepGRU,
    NStepLSTM,
    NStepRNNReLU,
    NStepRNNTanh,
)
from chainrob.links.robust_link import RobustLink
from chainrob.links.scale_bias import Bias, Scale
from chainrob.links.tree_lstm import ChildSumTreeLSTM

__all__ = [
    "MLP",
    "Bias",
    "ChildSumTreeLSTM",
    "Convolution1D",
    "Convolution2D",
    "Convolution3D",
    "ConvolutionND",
    "Deconvolution1D",
    "Deconvolution2D",
    "Deconvolution3D",
    "DeconvolutionND",
    "DilatedConvolution2D",
    "EmbedID",
    "Ensemble",
    "GroupNormalization",
    "LayerNormalization",
    "Linear",
    "NStepBiGRU",
    "NStepBiLSTM",
    "NStepBiRNNReLU",
    "NStepBiRNNTanh",
    "NStepGRU",
    "NStepLSTM",
    "NStepRNNReLU",
    "NStepRNNTanh",
    "PReLU",
    "RobustLink",
    "Scale",
    "Swish",
    "UnsupportedLinkWarning",
    "plain",
    "robustify",
]
