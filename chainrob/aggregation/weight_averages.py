"""Each sample's average effective weight over many steps, found by its index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["WeightAverages", "relative_weights"]

Floats = NDArray[np.float64]

_SUMS, _COUNTS = ("weights", "relative"), "counts"


class WeightAverages:
    r"""How robust layers weighed every sample of a dataset, on average, layer by layer.

    .. math::
        \bar w_{ln} = \frac1{|T_n|} \sum_{t \in T_n} w_{ln}(t), \qquad
        \bar r_{ln} = \frac1{|T_n|} \sum_{t \in T_n} \min\!\left(\frac{w_{ln}(t)}{q_l(t)}, 1\right)

    T_n are the steps whose batch held sample n, w is the effective weight (1 in a plain mean), and
    q is the lower quartile of the batch's weights. Samples are ranked by r, averaged over the
    layers. r says how far a sample falls below the weight of three quarters of its batch. The
    weights themselves cannot be compared between batches if a robustifier makes them add up to a
    constant: then one very heavy sample makes all others light.

    Args:
        n_samples: Size of the dataset.

    Example:
        >>> from chainrob.training import WeightAverages
        >>> averages = WeightAverages(5)
        >>> averages.add("l1", [0, 1, 2, 3], [1.0, 0.9, 0.1, 2.0])
        >>> averages.add("l1", [3, 0], [1.0, 0.5])
        >>> averages.weights().round(2).tolist(), averages.ranking().tolist()
        ([0.75, 0.9, 0.1, 1.5, nan], [2, 0, 1, 3])
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self._sums: dict[str, dict[str, Floats]] = {kind: {} for kind in _SUMS}
        self._counts: dict[str, NDArray[np.int64]] = {}

    @property
    def layers(self) -> list[str]:
        """The names of the layers seen so far, sorted."""
        return sorted(self._counts)

    def add(self, layer: str, indices: ArrayLike, weights: ArrayLike) -> None:
        """Add one step's weights (B,) of the samples with these indices (B,)."""
        if layer not in self._counts:
            self._counts[layer] = np.zeros(self.n_samples, np.int64)
            for kind in _SUMS:
                self._sums[kind][layer] = np.zeros(self.n_samples)
        rows, values = np.asarray(indices, np.int64), np.asarray(weights, np.float64)
        # A batch over the end of an epoch may hold a sample twice.
        np.add.at(self._sums["weights"][layer], rows, values)
        np.add.at(self._sums["relative"][layer], rows, relative_weights(values))
        np.add.at(self._counts[layer], rows, 1)

    def weights(self, layer: str | None = None) -> Floats:
        """The mean weight of every sample, in one layer or over all: (n,), NaN if never weighed."""
        return self._mean("weights", layer)

    def relative(self, layer: str | None = None) -> Floats:
        """The mean relative weight of every sample, as ``weights``; 1 means not suspect."""
        return self._mean("relative", layer)

    def counts(self) -> NDArray[np.int64]:
        """In how many steps each sample was weighed: (n,)."""
        if not self._counts:
            return np.zeros(self.n_samples, np.int64)
        return np.stack(list(self._counts.values())).max(axis=0)

    def ranking(self) -> NDArray[np.int64]:
        """Indices of the samples that were weighed, the most suspect first."""
        relative = self.relative()
        order = np.lexsort((self.weights(), relative))  # NaN last
        return order[: int(np.isfinite(relative).sum())].astype(np.int64)

    def state(self) -> dict[str, Any]:
        """The sums as arrays, by name."""
        layers = np.frombuffer(json.dumps(self.layers).encode(), np.uint8)
        sums = {kind: self._stacked(self._sums[kind], np.float64) for kind in _SUMS}
        return {"layers": layers, _COUNTS: self._stacked(self._counts, np.int64), **sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the sums of ``state``.

        Raises:
            ValueError: the sums belong to a dataset of another size.
        """
        names: Sequence[str] = json.loads(bytes(state["layers"]).decode())
        counts = state[_COUNTS]
        if counts.shape != (len(names), self.n_samples):
            raise ValueError(
                f"the snapshot has the weights of {counts.shape[-1]} samples, the dataset has "
                f"{self.n_samples}"
            )
        self._counts = dict(zip(names, counts.astype(np.int64), strict=True))
        for kind in _SUMS:
            sums = state[kind].astype(np.float64)
            self._sums[kind] = dict(zip(names, sums, strict=True))

    def serialize(self, serializer: Any) -> None:
        """Read or write the sums with one of Chainer's serializers."""
        if hasattr(serializer, "load"):  # a Deserializer; the others save
            self.load_state({key: serializer(key, None) for key in ("layers", _COUNTS, *_SUMS)})
            return
        for key, value in self.state().items():
            serializer(key, value)

    def _mean(self, kind: str, layer: str | None) -> Floats:
        total, layers = np.zeros(self.n_samples), np.zeros(self.n_samples)
        for name in self.layers if layer is None else [layer]:
            known = self._counts[name] > 0
            total[known] += self._sums[kind][name][known] / self._counts[name][known]
            layers += known
        return np.where(layers > 0, total / np.maximum(layers, 1), np.nan)

    def _stacked(self, arrays: dict[str, Any], dtype: Any) -> Any:
        rows = np.array([arrays[name] for name in self.layers], dtype)
        return rows.reshape(len(self.layers), self.n_samples)


def relative_weights(weights: Floats) -> Floats:
    """The weights (B,) over their lower quartile, at most 1."""
    if not weights.size:
        return weights
    quartile = float(np.quantile(weights, 0.25))
    if quartile <= 0:  # a quarter has weight 0, as with Krum
        return (weights > 0).astype(np.float64)
    return np.minimum(weights, quartile) / quartile
