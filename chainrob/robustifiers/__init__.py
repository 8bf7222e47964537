"""Robust estimators of the mean of N gradients: coordinate by coordinate, or by one weight a
sample.
"""

from chainrob.robustifiers.adaptive_mean import AdaptiveMean
from chainrob.robustifiers.adaptive_robust_clipping import AdaptiveRobustClipping
from chainrob.robustifiers.bucketing import Bucketing
from chainrob.robustifiers.bulyan import Bulyan
from chainrob.robustifiers.caf import CAF
from chainrob.robustifiers.centered_clipping import CenteredClipping
from chainrob.robustifiers.clip_norm import ClipNorm
from chainrob.robustifiers.coordinate_median import CoordinateMedian
from chainrob.robustifiers.errors import (
    ConvergenceWarning,
    NonFiniteGradientError,
    NonFiniteGradientWarning,
    NotDifferentiableError,
)
from chainrob.robustifiers.from_function import FromFunction
from chainrob.robustifiers.geometric_median import GeometricMedian
from chainrob.robustifiers.grouped import Grouped
from chainrob.robustifiers.krum import Krum, MultiKrum
from chainrob.robustifiers.m_estimator import MEstimator
from chainrob.robustifiers.mean import Mean
from chainrob.robustifiers.mean_around_median import MeanAroundMedian
from chainrob.robustifiers.median_of_means import MedianOfMeans
from chainrob.robustifiers.median_of_means_minimization import MedianOfMeansMinimization
from chainrob.robustifiers.minimum_diameter_averaging import MinimumDiameterAveraging
from chainrob.robustifiers.monna import MoNNA
from chainrob.robustifiers.multiplicative_noise import MultiplicativeNoise
from chainrob.robustifiers.nearest_neighbor_mixing import NearestNeighborMixing
from chainrob.robustifiers.per_replica import PerReplica
from chainrob.robustifiers.phocas import Phocas
from chainrob.robustifiers.pre_aggregation import Pipeline, PreAggregation
from chainrob.robustifiers.registry import default, get, names, parse, register
from chainrob.robustifiers.relative_clipping import RelativeClipping
from chainrob.robustifiers.robustifier import CoordinateWise, Robustifier, Weighting
from chainrob.robustifiers.sample_facts import sample_facts
from chainrob.robustifiers.smea import SMEA
from chainrob.robustifiers.soft_truncation import SoftTruncation
from chainrob.robustifiers.spectral_filter import DnC, SpectralFilter
from chainrob.robustifiers.suspicion import suspicion
from chainrob.robustifiers.trimmed_mean import TrimmedMean
from chainrob.robustifiers.winsorized_mean import WinsorizedMean

register(Mean, SoftTruncation, MEstimator, CoordinateMedian, TrimmedMean, WinsorizedMean)
register(MeanAroundMedian, Phocas, MedianOfMeans, GeometricMedian, Krum, MultiKrum)
register(CenteredClipping, MinimumDiameterAveraging, CAF, SMEA)
register(MoNNA, SpectralFilter, DnC, Bulyan, MultiplicativeNoise, MedianOfMeansMinimization)
register(RelativeClipping, AdaptiveMean)
register(NearestNeighborMixing, Bucketing, ClipNorm, AdaptiveRobustClipping)

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
    "CoordinateWise",
    "DnC",
    "FromFunction",
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
    "Pipeline",
    "PreAggregation",
    "RelativeClipping",
    "Robustifier",
    "SoftTruncation",
    "SpectralFilter",
    "TrimmedMean",
    "Weighting",
    "WinsorizedMean",
    "default",
    "get",
    "names",
    "parse",
    "register",
    "sample_facts",
    "suspicion",
]
