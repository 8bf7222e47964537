"""The networks of the comparison, of links that train many replicas in one graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import chainer
from chainrob.functions.linear_function import LinearFunction
from chainrob.links import MLP, Linear
from chainrob.robustifiers import Robustifier

__all__ = ["ConvNet", "PatchLinear", "make_network", "patches"]

Array = NDArray[Any]


class PatchLinear(Linear):
    """A convolution as a linear map of patches: (T, N * positions, P) to (T, N * positions, Q).

    A sample's gradient is the sum over its positions, as in ``chainrob.links.Convolution2D``.

    Args:
        in_size: P.
        out_size: Q, the number of filters.
        positions: Consecutive rows that belong to one sample.
        options: As for ``chainrob.links.Linear``; a robustifier is needed.
    """

    def __init__(self, in_size: int, out_size: int, positions: int, **options: Any) -> None:
        super().__init__(in_size, out_size, **options)
        self.positions = positions

    def forward(self, x: Any, n_batch_axes: int = 1) -> chainer.Variable:
        """The outputs of all filters at every position."""
        (y,) = LinearFunction(self.aggregation, self.positions).apply((x, self.W, self.b))
        return y


class ConvNet(chainer.Chain):
    """A network: filters of 3 x 3 pixels, ReLU, maxima over 2 x 2 positions, a linear layer.

    Args:
        pixels: Height and width of the images, both even.
        filters: Number of filters.
        outputs: Number of scores.
        robustifier: Robustifier of both layers.
        scope: As for ``chainrob.links.Linear``.
    """

    def __init__(
        self, pixels: tuple[int, int], filters: int, outputs: int, robustifier: Robustifier,
        scope: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.height, self.width = pixels[0] - 2, pixels[1] - 2
        self.pooled = (self.height // 2) * (self.width // 2)
        options = {"robustifier": robustifier, "scope": scope}
        with self.init_scope():
            self.l1 = PatchLinear(9, filters, self.height * self.width, **options)
            self.l2 = Linear(filters * self.pooled, outputs, **options)

    @property
    def layers(self) -> list[Linear]:
        """The layers from the input to the output."""
        return [self.l1, self.l2]

    def forward(self, x: Any) -> chainer.Variable:
        """Scores (T, N, outputs) of patches (T, N, positions, 9)."""
        reshape = chainer.functions.reshape
        replicas, n, positions, size = x.shape
        h = chainer.functions.relu(self.l1(x.reshape(replicas, n * positions, size)))
        filters = h.shape[-1]
        grid = reshape(h, (replicas, n, self.height // 2, 2, self.width // 2, 2, filters))
        h = chainer.functions.max(grid, axis=(3, 5))
        return self.l2(reshape(h, (replicas, n, self.pooled * filters)))


def patches(x: Array, pixels: tuple[int, int]) -> Array:
    """All 3 x 3 patches (..., positions, 9) of images (..., height * width)."""
    images = x.reshape(*x.shape[:-1], *pixels)
    windows = sliding_window_view(images, (3, 3), axis=(-2, -1))
    return np.ascontiguousarray(windows.reshape(*x.shape[:-1], -1, 9))


def make_network(
    kind: str,
    features: int,
    outputs: int,
    robustifier: Robustifier,
    scope: Any,
    pixels: tuple[int, int] | None = None,
    seed: Any = 0,
) -> Any:
    """Make one replica. Its weights are normal with variance 1 / inputs; its biases are zero.

    Args:
        kind: ``'linear'``, ``'mlpN'`` or ``'cnnN'``.
        features: Number of inputs.
        outputs: Number of scores.
        robustifier: Robustifier of all layers.
        scope: As for ``chainrob.links.Linear``.
        pixels: Height and width, for ``'cnnN'``.
        seed: Seed of the weights.

    Example:
        >>> from chainrob import Mean
        >>> from chainrob.experiments.compare.replica_network import make_network
        >>> [layer.W.shape for layer in make_network("mlp5", 3, 2, Mean(), "layer").layers]
        [(5, 3), (2, 5)]
    """
    if kind.startswith("cnn"):
        assert pixels is not None
        model: Any = ConvNet(pixels, int(kind[3:]), outputs, robustifier, scope)
    else:
        hidden = [int(kind[3:])] if kind.startswith("mlp") else []
        dims = (features, *hidden, outputs)
        model = MLP(dims, [robustifier] * (len(dims) - 1), scope=scope)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.W.array[...] = rng.normal(scale=layer.W.shape[1] ** -0.5, size=layer.W.shape)
        layer.b.array[...] = 0
    return model
