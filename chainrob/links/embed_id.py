"""Drop-in for ``chainer.links.EmbedID``."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.embedding_function import embed_id
from chainrob.links.robust_link import RobustLink


class EmbedID(RobustLink, chainer.links.EmbedID):
    """Embedding of integer ids with a robust gradient of W: see ``chainrob.functions.embed_id``.

    It takes the arguments of ``chainer.links.EmbedID``, holds the same parameter under the same
    name, and reads and writes the same files. With ``robustifier=None`` it is that link.

    Args:
        in_size, out_size, initialW, ignore_label: as in ``chainer.links.EmbedID``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'`` (one column of W), ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.EmbedID(1000, 4, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 7), np.int32)).shape
        (5, 7, 4)
    """

    stock = chainer.links.EmbedID

    def forward(self, x: Any) -> chainer.Variable:
        """Rows of W, (N, ..., Q), for ids (N, ...)."""
        return embed_id(x, self.W, self.ignore_label, robustifier=self.aggregation)
