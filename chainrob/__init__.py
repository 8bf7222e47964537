"""Robust training: a robust estimate replaces the sum of the per-sample gradients.

An example in ten lines, with Chainer::

    >>> import numpy as np
    >>> import chainrob                       # before chainer, which needs it on today's stack
    >>> import chainer
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 2)).astype(np.float32)
    >>> t = (x[:, 0] > 0).astype(np.int32)
    >>> x[:2] *= 1e4                          # two corrupted samples
    >>> model = chainrob.links.MLP((2, 10, 2), chainrob.TrimmedMean(fraction=0.05))
    >>> optimizer = chainer.optimizers.SGD(0.5).setup(model)
    >>> for _ in range(200):
    ...     optimizer.update(lambda: chainer.functions.softmax_cross_entropy(model(x), t))
    >>> bool((model(x).array.argmax(axis=1) == t)[2:].mean() > 0.95)
    True

Data pass through the packages in this order: ``datasets`` -> ``links`` (hold the parameters) ->
``functions`` (backward passes on the per-sample gradients) -> ``sample_gradients`` (as an operator,
never as an array) -> ``robustifiers`` (N gradients in, one out) -> an unmodified Chainer optimizer
-> ``experiments``.
"""

import os
from importlib import import_module
from typing import Any

# After a matrix product OpenBLAS keeps its threads spinning for 2^26 ticks, some 25 ms. Meanwhile
# they occupy processors that our kernels need. 2^20 ticks still bridge the pause between two
# products. OpenBLAS reads the variable when NumPy is loaded. If that came first, it has no effect.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

from chainrob import _chainer

_chainer.install()  # before the first import of chainer, which only its users import

from chainrob import robustifiers, sample_gradients  # noqa: E402
from chainrob.aggregation import SampleAxisWarning, exact_backward, samples  # noqa: E402
from chainrob.robustifiers import (  # noqa: E402
    CAF,
    SMEA,
    AdaptiveMean,
    AdaptiveRobustClipping,
    Bucketing,
    Bulyan,
    CenteredClipping,
    ClipNorm,
    ConvergenceWarning,
    CoordinateMedian,
    DnC,
    GeometricMedian,
    Grouped,
    Krum,
    Mean,
    MeanAroundMedian,
    MedianOfMeans,
    MedianOfMeansMinimization,
    MEstimator,
    MinimumDiameterAveraging,
    MoNNA,
    MultiKrum,
    MultiplicativeNoise,
    NearestNeighborMixing,
    NonFiniteGradientError,
    NonFiniteGradientWarning,
    NotDifferentiableError,
    PerReplica,
    Phocas,
    RelativeClipping,
    Robustifier,
    SoftTruncation,
    SpectralFilter,
    TrimmedMean,
    WinsorizedMean,
    sample_facts,
)
from chainrob.sample_gradients import SampleGradients  # noqa: E402

__version__ = "0.1.0"

_LATER = (
    "datasets",
    "differentiation",
    "distributed",
    "experiments",
    "functions",
    "links",
    "plotting",
    "sklearn",
    "torch",
    "training",
)
"""Parts that are imported at their first use: they need a framework, or much time to import."""

__all__ = [
    "CAF",
    "SMEA",
    "AdaptiveMean",
    "AdaptiveRobustClipping",
    "Bucketing",
    "Bulyan",
    "CenteredClipping",
    "ClipNorm",
    "ConvergenceWarning",
    "CoordinateMedian",
    "DnC",
    "GeometricMedian",
    "Grouped",
    "Krum",
    "MEstimator",
    "Mean",
    "MeanAroundMedian",
    "MedianOfMeans",
    "MedianOfMeansMinimization",
    "MinimumDiameterAveraging",
    "MoNNA",
    "MultiKrum",
    "MultiplicativeNoise",
    "NearestNeighborMixing",
    "NonFiniteGradientError",
    "NonFiniteGradientWarning",
    "NotDifferentiableError",
    "PerReplica",
    "Phocas",
    "RelativeClipping",
    "Robustifier",
    "SampleAxisWarning",
    "SampleGradients",
    "SoftTruncation",
    "SpectralFilter",
    "TrimmedMean",
    "WinsorizedMean",
    "__version__",
    "exact_backward",
    "functions",
    "links",
    "plain",
    "robustifiers",
    "robustify",
    "sample_facts",
    "sample_gradients",
    "samples",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"chainrob.{name}")
    if name in ("plain", "robustify"):
        return getattr(import_module("chainrob.links"), name)
    raise AttributeError(f"module 'chainrob' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LATER})
