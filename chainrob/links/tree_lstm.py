"""Drop-in for ``chainer.links.ChildSumTreeLSTM``. Children count for their parent's sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import Reduction, Scope
from chainrob.aggregation.sample_index import SampleIndex, current_samples, using
from chainrob.links.linear import Linear
from chainrob.links.robust_link import RobustLink


class ChildSumTreeLSTM(RobustLink, chainer.links.ChildSumTreeLSTM):
    """Tree LSTM. Its three linear links have robust gradients.

    It takes the arguments of ``chainer.links.ChildSumTreeLSTM``, holds the same parameters under
    the same names, and reads and writes the same files. The link ``W_h_f`` sees one row per
    child, and all of them count for the sample of the node. If several nodes of one call belong to
    one sample, give each node's sample number to ``chainrob.samples``.

    Args:
        in_size, out_size: as in ``chainer.links.ChildSumTreeLSTM``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: as in ``chainrob.links.Linear``; only ``'model'`` adds up a sample's gradients
            over several calls before it estimates.

    Example:
        >>> import numpy as np, chainrob
        >>> cell = chainrob.links.ChildSumTreeLSTM(3, 4, robustifier=chainrob.GeometricMedian())
        >>> x = np.ones((5, 3), np.float32)
        >>> c, h = cell(None, None, x)  # five leaves
        >>> cell(c, c, h, h, x)[1].shape  # five nodes with two children
        (5, 4)
    """

    stock = chainer.links.ChildSumTreeLSTM

    def set_aggregation(
        self, robustifier: Callable[[Any], Any] | None, loss_reduction: Reduction, scope: Scope
    ) -> None:
        """Check the settings, and set them on the links of the cell."""
        super().set_aggregation(robustifier, loss_reduction, scope)
        for link in self.children():
            if type(link) is chainer.links.Linear:
                link.__class__ = Linear
            if isinstance(link, RobustLink):
                link.set_aggregation(robustifier, loss_reduction, scope)

    def forward(self, *cshsx: Any) -> tuple[chainer.Variable, chainer.Variable]:
        """Cell state and state of each node, from those of its children and the input."""
        n_children = len(cshsx) // 2
        given = [one for one in cshsx if one is not None]
        if n_children < 2 or not given:
            return super().forward(*cshsx)
        n_nodes = len(given[0])
        outer = current_samples()
        rows = None if outer is None else outer.rows(n_nodes, type(self).__name__)
        if rows is None:
            found = SampleIndex((np.tile(np.arange(n_nodes), n_children),), n_nodes)
        else:
            found = SampleIndex((rows.index, np.tile(rows.index, n_children)), rows.n_samples)
        with using(found):
            return super().forward(*cshsx)
