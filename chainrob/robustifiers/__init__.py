"""Robust estimators of the mean of N gradients: coordinate by coordinate, or by one weight a
sample.
"""

from chainrob.robustifiers.base import (
    ConvergenceWarning,
    CoordinateWise,
    NonFiniteGradientError,
    NonFiniteGradientWarning,
    Robustifier,
    Weighting,
)
from chainrob.robustifiers.coordinate_median import CoordinateMedian
from chainrob.robustifiers.geometric_median import GeometricMedian
from chainrob.robustifiers.mean import Mean
from chainrob.robustifiers.median_of_means import MedianOfMeans
from chainrob.robustifiers.per_replica import PerReplica
from chainrob.robustifiers.registry import get, names, register
from chainrob.robustifiers.soft_truncation import SoftTruncation
from chainrob.robustifiers.trimmed_mean import TrimmedMean

register(Mean, SoftTruncation, GeometricMedian, MedianOfMeans, CoordinateMedian, TrimmedMean)

__all__ = [
    "ConvergenceWarning",
    "CoordinateMedian",
    "CoordinateWise",
    "GeometricMedian",
    "Mean",
    "MedianOfMeans",
    "NonFiniteGradientError",
    "NonFiniteGradientWarning",
    "PerReplica",
    "Robustifier",
    "SoftTruncation",
    "TrimmedMean",
    "Weighting",
    "get",
    "names",
    "register",
]
