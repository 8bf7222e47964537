"""Every robustifier of the library, its oracle, and what its docstring promises of it.

The tests of this folder and of the robust layers run over this table; ``test_registry`` fails when
a registered robustifier is missing here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

import chainrob
from tests.oracles import estimators as oracle


def minority(n: int) -> int:
    """The most rows that are fewer than the others."""
    return (n - 1) // 2


def krum_limit(n: int) -> int:
    return max((n - 3) // 2, 0)


def below_beta(n: int) -> int:
    return ceil(oracle.BETA * n) - 1


def bulyan_limit(n: int) -> int:
    return max((n - 3) // 4, 0)


def buckets_of_two(n: int) -> int:
    return (ceil(n / 2) - 1) // 2


@dataclass(frozen=True)
class Case:
    """One robustifier.

    Attributes:
        name: shown as the test's name; it begins with the registered name.
        make: f to the robustifier that assumes f bad rows (or stands them anyway).
        oracle: (rows, f) to the estimate.
        limit: N to the largest f, which is also the breakdown point that is promised.
        multiple: how many clean diameters f bad rows may move the estimate.
        robust: whether it has a breakdown point above 0.
        dim: least D in general position.
        permutation, translation, scale: invariances promised.
        most: largest N of comparisons with a slow oracle.
        accuracy: relative error in float64, where it is an iteration's tolerance.
    """

    name: str
    make: Callable[[int], Any]
    oracle: Callable[[np.ndarray, int], np.ndarray] = field(compare=False)
    limit: Callable[[int], int] = minority
    multiple: float = 1.0
    robust: bool = True
    dim: int = 1
    permutation: bool = True
    translation: bool = True
    scale: bool = True
    most: int = 20
    accuracy: float = 1e-9


C = chainrob


def m_estimator(rho: str, pilot: str) -> Case:
    return Case(
        f"m_estimator-{rho}-{pilot}",
        lambda f: C.MEstimator(rho, pilot=pilot),
        lambda rows, f: oracle.m_estimator(rows, rho, pilot=pilot),
        below_beta,
        robust=pilot == "median" and rho != "catoni",
        multiple=10.0,
    )


CASES = [
    Case(
        "adaptive_mean",
        lambda f: C.AdaptiveMean(),
        lambda rows, f: oracle.adaptive_mean(rows),
        translation=False,
        multiple=3.0,
    ),
    Case("mean", lambda f: C.Mean(), lambda rows, f: oracle.mean(rows), robust=False),
    Case(
        "soft_truncation-mean",
        lambda f: C.SoftTruncation(),
        lambda rows, f: oracle.soft_truncation(rows, 0.005, "mean"),
        robust=False,
    ),
    Case(
        "soft_truncation-median",
        lambda f: C.SoftTruncation(0.01, pilot="median"),
        lambda rows, f: oracle.soft_truncation(rows, 0.01, "median"),
        multiple=3.0,
    ),
    Case(
        "multiplicative_noise-mean",
        lambda f: C.MultiplicativeNoise(),
        lambda rows, f: oracle.multiplicative_noise(rows, 0.005, "mean"),
        robust=False,
    ),
    Case(
        "multiplicative_noise-median",
        lambda f: C.MultiplicativeNoise(0.01, pilot="median"),
        lambda rows, f: oracle.multiplicative_noise(rows, 0.01, "median"),
        multiple=3.0,
    ),
    *(m_estimator(rho, "mean") for rho in oracle.PSI),
    *(m_estimator(rho, "median") for rho in oracle.PSI),
    Case(
        "coordinate_median",
        lambda f: C.CoordinateMedian(),
        lambda rows, f: oracle.median(rows),
    ),
    Case(
        "trimmed_mean-count",
        lambda f: C.TrimmedMean(count=f),
        lambda rows, f: oracle.trimmed_mean(rows, f),
    ),
    Case(
        "trimmed_mean-fraction",
        lambda f: C.TrimmedMean(fraction=0.3),
        lambda rows, f: oracle.trimmed_mean(rows, int(0.3 * len(rows) + 1e-9)),
        lambda n: int(0.3 * n + 1e-9),
    ),
    Case(
        "winsorized_mean",
        lambda f: C.WinsorizedMean(count=f),
        lambda rows, f: oracle.winsorized_mean(rows, f),
    ),
    Case(
        "mean_around_median",
        lambda f: C.MeanAroundMedian(f),
        oracle.mean_around_median,
    ),
    Case("phocas", lambda f: C.Phocas(f), oracle.phocas),
    Case(
        "median_of_means-geometric",
        lambda f: C.MedianOfMeans(2 * f + 1),
        lambda rows, f: oracle.geometric_median(oracle.block_means(rows, 2 * f + 1)),
        permutation=False,
        dim=6,
        most=12,
        accuracy=1e-6,
    ),
    Case(
        "median_of_means-coordinate",
        lambda f: C.MedianOfMeans(2 * f + 1, center="coordinate"),
        lambda rows, f: oracle.median(oracle.block_means(rows, 2 * f + 1)),
        permutation=False,
    ),
    Case(
        "geometric_median",
        lambda f: C.GeometricMedian(tolerance=1e-12, max_iterations=20_000),
        lambda rows, f: oracle.geometric_median(rows),
        dim=6,
    ),
    Case("krum", lambda f: C.Krum(f), oracle.krum, krum_limit),
    Case("multi_krum", lambda f: C.MultiKrum(f), oracle.multi_krum, krum_limit),
    Case(
        "multi_krum-m",
        lambda f: C.MultiKrum(f, m=1, neighbors="n-f", count_self=True),
        lambda rows, f: oracle.multi_krum(rows, f, m=1, n_neighbors=max(len(rows) - f - 1, 1)),
        krum_limit,
    ),
    Case(
        "centered_clipping",
        lambda f: C.CenteredClipping(),
        lambda rows, f: oracle.centered_clipping(rows),
        multiple=3.0,
    ),
    Case(
        "centered_clipping-radius",
        lambda f: C.CenteredClipping(1.5, iterations=3),
        lambda rows, f: oracle.centered_clipping(rows, 1.5, 3),
        multiple=3.0,
        scale=False,
    ),
    Case(
        "centered_clipping-zero",
        lambda f: C.CenteredClipping(start="zero"),
        lambda rows, f: oracle.centered_clipping(rows, start="zero"),
        multiple=3.0,
        translation=False,
    ),
    Case(
        "minimum_diameter_averaging",
        lambda f: C.MinimumDiameterAveraging(f),
        oracle.minimum_diameter_averaging,
        most=9,
    ),
    Case("smea", lambda f: C.SMEA(f), oracle.smea, most=9),
    Case("caf", lambda f: C.CAF(f), oracle.caf, multiple=3.0),
    Case(
        "monna",
        lambda f: C.MoNNA(f, pivot="last"),
        lambda rows, f: oracle.monna(rows, f, -1),
        permutation=False,
    ),
    Case("spectral_filter", lambda f: C.SpectralFilter(f), oracle.spectral_filter, dim=2),
    Case(
        "spectral_filter-rounds",
        lambda f: C.SpectralFilter(f, rounds=2),
        lambda rows, f: oracle.spectral_filter(
            rows, f, {0: [], 1: [1]}.get(f, [f // 2, f - f // 2])
        ),
        robust=False,
        dim=2,
    ),
    Case(
        "dnc",
        lambda f: C.DnC(f),
        lambda rows, f: oracle.spectral_filter(rows, f, [f] if f else []),
        robust=False,
        dim=2,
    ),
    Case("bulyan", lambda f: C.Bulyan(f), oracle.bulyan, bulyan_limit),
    Case(
        "nearest_neighbor_mixing-geometric_median",
        lambda f: (
            C.NearestNeighborMixing(f) >> C.GeometricMedian(tolerance=1e-12, max_iterations=20_000)
        ),
        lambda rows, f: oracle.geometric_median(oracle.nearest_neighbor_mixing(rows, f)),
        dim=6,
        most=12,
    ),
    Case(
        "nearest_neighbor_mixing-trimmed_mean",
        lambda f: C.NearestNeighborMixing(f) >> C.TrimmedMean(count=f),
        lambda rows, f: oracle.trimmed_mean(oracle.nearest_neighbor_mixing(rows, f), f),
    ),
    Case(
        "bucketing-coordinate_median",
        lambda f: C.Bucketing(2, seed=3) >> C.CoordinateMedian(),
        lambda rows, f: oracle.median(oracle.bucketing(rows, 2, 3)),
        buckets_of_two,
        permutation=False,
    ),
    Case(
        "clip_norm-mean",
        lambda f: C.ClipNorm(0.5) >> C.Mean(),
        lambda rows, f: oracle.mean(oracle.clip_norm(rows, 0.5)),
        translation=False,
        scale=False,
    ),
    Case(
        "relative_clipping-mean",
        lambda f: C.RelativeClipping() >> C.Mean(),
        lambda rows, f: oracle.mean(oracle.relative_clipping(rows, 2.0)),
        translation=False,
        multiple=3.0,
    ),
    Case(
        "relative_clipping-winsorized-mean",
        lambda f: C.RelativeClipping(1.5, quantile=0.4, reference="winsorized") >> C.Mean(),
        lambda rows, f: oracle.mean(oracle.relative_clipping(rows, 1.5, 0.4, True)),
        translation=False,
        multiple=3.0,
    ),
    Case(
        "adaptive_robust_clipping-multi_krum",
        lambda f: C.AdaptiveRobustClipping(f) >> C.MultiKrum(f),
        lambda rows, f: oracle.multi_krum(oracle.adaptive_robust_clipping(rows, f), f),
        krum_limit,
        multiple=2.0,
        translation=False,
    ),
    Case(
        "adaptive_robust_clipping-nearest_neighbor_mixing-coordinate_median",
        lambda f: C.AdaptiveRobustClipping(f) >> C.NearestNeighborMixing(f) >> C.CoordinateMedian(),
        lambda rows, f: oracle.median(
            oracle.nearest_neighbor_mixing(oracle.adaptive_robust_clipping(rows, f), f)
        ),
        multiple=2.0,
        translation=False,
    ),
]

IDS = [case.name for case in CASES]


def clean_rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows in general position, of unit spread about a mean of ordinary size."""
    rng = np.random.default_rng([n, d, seed])
    return rng.normal(size=(n, d)) + rng.normal(size=d)


def diameter(rows: np.ndarray) -> float:
    return float(np.sqrt(oracle.squared_distances(rows).max()))
