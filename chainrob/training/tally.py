"""Each sample's effective weight, summed up by its index over as many steps as one likes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import chainer

__all__ = ["WeightTally"]

Floats = NDArray[np.float64]


class WeightTally:
    r"""The mean effective weight of every sample, layer by layer.

    .. math:: \bar w_{ln} = \frac1{|T_n|} \sum_{t \in T_n} w_{ln}(t), \qquad
        \bar w_n = \frac1L \sum_l \bar w_{ln}

    with T_n the steps whose batch held sample n. 1 is the weight in a plain mean.

    Args:
        n_samples (int): Size of the dataset.

    Example:
        >>> from chainrob.training.tally import WeightTally
        >>> tally = WeightTally(4)
        >>> tally.add("l1", [0, 2], [1.2, 0.1])
        >>> tally.add("l1", [3, 0], [0.5, 1.0])
        >>> tally.weights().tolist(), tally.ranking().tolist()
        ([1.1, nan, 0.1, 0.5], [2, 3, 0])
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self._sums: dict[str, Floats] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}

    @property
    def layers(self) -> list[str]:
        """The names of the layers that were heard of, sorted."""
        return sorted(self._sums)

    def add(self, layer: str, indices: ArrayLike, weights: ArrayLike) -> None:
        """Add one step's weights (B,) of the samples with these indices (B,)."""
        if layer not in self._sums:
            self._sums[layer] = np.zeros(self.n_samples)
            self._counts[layer] = np.zeros(self.n_samples, np.int64)
        # An epoch's end and the next one's beginning may hold a sample twice in one batch.
        rows = np.asarray(indices, np.int64)
        np.add.at(self._sums[layer], rows, np.asarray(weights, np.float64))
        np.add.at(self._counts[layer], rows, 1)

    def layer_weights(self, layer: str) -> Floats:
        """The mean weight of every sample in one layer: (n,), NaN where there is none yet."""
        counts = self._counts[layer]
        return np.where(counts > 0, self._sums[layer] / np.maximum(counts, 1), np.nan)

    def weights(self) -> Floats:
        """The mean weight of every sample over the layers: (n,), NaN where there is none yet."""
        total, layers = np.zeros(self.n_samples), np.zeros(self.n_samples)
        for name in self._sums:
            known = self._counts[name] > 0
            total[known] += self._sums[name][known] / self._counts[name][known]
            layers += known
        return np.where(layers > 0, total / np.maximum(layers, 1), np.nan)

    def counts(self) -> NDArray[np.int64]:
        """In how many steps each sample was weighed: (n,)."""
        if not self._counts:
            return np.zeros(self.n_samples, np.int64)
        return np.max(list(self._counts.values()), axis=0)

    def ranking(self) -> NDArray[np.int64]:
        """Indices of the samples that were weighed, the most suspect (lightest) first."""
        weights = self.weights()
        order = np.argsort(weights, kind="stable")  # NaN last
        return order[: int(np.isfinite(weights).sum())].astype(np.int64)

    def serialize(self, serializer: Any) -> None:
        """Read or write the sums with one of Chainer's serializers."""
        if isinstance(serializer, chainer.serializer.Deserializer):
            layers: Sequence[str] = json.loads(bytes(serializer("layers", None)).decode())
            sums, counts = serializer("sums", None), serializer("counts", None)
            if sums.shape[1:] != (self.n_samples,):
                raise ValueError(
                    f"the weights in the snapshot are of {sums.shape[1]} samples, the dataset has "
                    f"{self.n_samples}"
                )
            self._sums = dict(zip(layers, sums.astype(np.float64), strict=True))
            self._counts = dict(zip(layers, counts.astype(np.int64), strict=True))
            return
        shape = (len(self._sums), self.n_samples)
        serializer("layers", np.frombuffer(json.dumps(self.layers).encode(), np.uint8))
        for key, arrays in (("sums", self._sums), ("counts", self._counts)):
            dtype = np.float64 if key == "sums" else np.int64
            rows = np.array([arrays[name] for name in self.layers], dtype)
            serializer(key, rows.reshape(shape))
