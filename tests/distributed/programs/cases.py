"""Rows of every kind, and robustifiers of every kind, for comparisons with one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrob.robustifiers import (
    CAF,
    SMEA,
    AdaptiveMean,
    AdaptiveRobustClipping,
    Bucketing,
    Bulyan,
    CenteredClipping,
    ClipNorm,
    CoordinateMedian,
    DnC,
    GeometricMedian,
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
    Phocas,
    RelativeClipping,
    SoftTruncation,
    SpectralFilter,
    TrimmedMean,
    WinsorizedMean,
)
from chainrob.sample_gradients import (
    Dense,
    EmbeddingGradients,
    Joined,
    OuterProducts,
    PatchProducts,
    SampleGradients,
)
from chainrob.sample_gradients.patches import Geometry

N = 14

# Every name of the registry occurs (a test checks that).
ROBUSTIFIERS: list[Any] = [
    Mean(),
    SoftTruncation(),
    SoftTruncation(delta=0.5),
    SoftTruncation(pilot="median"),
    MEstimator("gudermannian"),
    MEstimator("catoni", pilot="median"),
    MEstimator("pseudo_huber", scale=0.3),
    CoordinateMedian(),
    TrimmedMean(count=3),
    TrimmedMean(fraction=0.2),
    WinsorizedMean(count=2),
    MeanAroundMedian(f=3),
    Phocas(f=3),
    MedianOfMeans(n_blocks=5),
    MedianOfMeans(n_blocks=5, center="coordinate"),
    GeometricMedian(),
    Krum(f=3),
    MultiKrum(f=3),
    CenteredClipping(radius=1.0),
    MinimumDiameterAveraging(f=2),
    CAF(f=3),
    SMEA(f=2),
    NearestNeighborMixing(f=3) >> TrimmedMean(count=2),
    Bucketing(size=2, seed=1) >> CoordinateMedian(),
    ClipNorm(0.7) >> Mean(),
    ClipNorm(0.7) >> Bucketing(size=3) >> GeometricMedian(),
    AdaptiveRobustClipping(f=3) >> Krum(f=3),
    AdaptiveMean(),
    MultiplicativeNoise(),
    MedianOfMeansMinimization(n_blocks=5),
    MoNNA(f=3),
    Bulyan(f=2),
    SpectralFilter(f=3),
    DnC(f=3),
    RelativeClipping() >> Mean(),
]


def midrange(rows: np.ndarray) -> np.ndarray:
    """A plain callable."""
    return (rows.min(axis=0) + rows.max(axis=0)) / 2


def outer(rng: np.random.Generator, dtype: Any, q: int, p: int, s: int = 1) -> OuterProducts:
    """A layer behind ReLU: many inputs are zero, one unit never fires, one sample is far off."""
    x = np.maximum(rng.normal(size=(N, s, p)), 0.0)
    gy = rng.standard_t(3, size=(N, s, q))
    x[:, :, 0] = 0.0
    gy[3] *= 100.0
    return OuterProducts(x.astype(dtype), gy.astype(dtype))


def operators(dtype: Any) -> dict[str, SampleGradients]:
    """One operator of every kind, with the same number of samples."""
    rng = np.random.default_rng(5)
    wide, tall = outer(rng, dtype, 3, 7), outer(rng, dtype, 8, 2)
    bias = Dense(rng.standard_t(3, size=(N, 3)).astype(dtype))
    replicas = OuterProducts(
        rng.normal(size=(2, N, 1, 4)).astype(dtype), rng.normal(size=(2, N, 1, 3)).astype(dtype)
    )
    convolution = PatchProducts(
        rng.normal(size=(N, 2, 4, 4)).astype(dtype),
        rng.normal(size=(N, 3, 3, 3)).astype(dtype),
        Geometry((2, 2), (1, 1), (1, 1), 1),
    )
    ids = rng.integers(0, 5, size=(N, 3))
    return {
        "wide": wide,
        "tall": tall,
        "positions": outer(rng, dtype, 4, 5, s=3),
        "dense": bias,
        "layer": Joined([wide, bias]),
        "layer with its bias": Joined([wide, wide.bias()]),
        "units": tall.units(),
        "replicas": replicas,
        "convolution": convolution,
        "embedding": EmbeddingGradients(ids, rng.normal(size=(N, 3, 2)).astype(dtype), 6),
    }


def part(operator: SampleGradients, start: int, stop: int) -> SampleGradients:
    """The operator of some of the samples, cut from the arrays that it is made of."""
    if isinstance(operator, Joined):
        weights, bias = (part(one, start, stop) for one in operator.parts)
        return Joined([weights, weights.bias() if operator.parts[1].weights is not None else bias])
    return operator.take(np.arange(start, stop))


def splits(size: int) -> dict[str, list[int]]:
    """Samples of the ranks: even, uneven, with an empty rank."""
    even = [N * (r + 1) // size - N * r // size for r in range(size)]
    uneven = [1] * (size - 1) + [N - size + 1]
    empty = [0, N] if size == 2 else [even[0] + even[1], 0, *even[2:]]
    return {"even": even, "uneven": uneven, "empty": empty}


def difference(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest entry."""
    if isinstance(expected, tuple):
        return max(difference(a, b) for a, b in zip(found, expected, strict=True))
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert found.dtype == expected.dtype, (found.dtype, expected.dtype)
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-300)
    return float(np.abs(found - expected).max(initial=0.0)) / scale


class Checks:
    """Collects what went wrong on this rank, so that one start of mpiexec tests many things."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.count = 0

    def close(self, name: str, found: Any, expected: Any, tolerance: float) -> None:
        """Two results agree."""
        self.count += 1
        error = difference(found, expected)
        if not error <= tolerance:
            self.failed.append(f"{name}: {error:.2g}")

    def true(self, name: str, value: bool) -> None:
        """Something holds."""
        self.count += 1
        if not value:
            self.failed.append(name)

    def raises(self, name: str, kind: type[Exception], call: Callable[[], Any], text: str) -> None:
        """A call fails, on every rank, with a message that says why."""
        self.count += 1
        try:
            call()
        except kind as error:
            if text not in str(error):
                self.failed.append(f"{name}: {error}")
        else:
            self.failed.append(f"{name}: nothing raised")

    def report(self, name: str, rank: int) -> None:
        """Print how many checks the program of this name made, or fail."""
        if self.failed:
            said = f"{name}, rank {rank}: {len(self.failed)} failed\n"
            raise SystemExit(said + "\n".join(self.failed))
        if rank == 0:
            print(f"{name}: {self.count} checks", flush=True)
