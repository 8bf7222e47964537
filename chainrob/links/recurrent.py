"""Drop-ins for Chainer's recurrent networks over lists of sequences: NStepLSTM and its family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

import chainer
from chainer import functions as F
from chainer.links.rnn.n_step_rnn import argsort_list_descent
from chainrob.aggregation.sample_index import SampleIndex, current_samples, using
from chainrob.functions import sequence_functions
from chainrob.functions.gradient_node import runs_plainly
from chainrob.functions.sequence_functions import Cell, recurrence
from chainrob.links.robust_link import RobustLink


class SequenceNetwork(RobustLink):
    """The base of the networks over sequences. It runs layers and directions step by step.

    A sample is a sequence. Its gradient is the sum over the time steps. The parameters of one layer
    in one direction (``0/w0`` to ``0/b7`` in an LSTM) are estimated together, after the backward
    pass has seen all steps. ``scope='layer'`` joins their gradients to one row.
    """

    cell: ClassVar[Cell]

    def _call(self, hs: Any, xs: Any, **kwargs: Any) -> Any:
        if runs_plainly(self.aggregation):
            return super()._call(hs, xs, **kwargs)
        # Chainer sorts the sequences by length; the samples keep their numbers.
        outer, count = current_samples(), len(xs)
        rows = None if outer is None else outer.rows(count, type(self).__name__)
        index = np.arange(count) if rows is None else rows.index
        n_samples = count if rows is None else rows.n_samples
        order = argsort_list_descent(xs)
        with using(SampleIndex((index[order],), n_samples)):
            return super()._call(hs, xs, **kwargs)

    def rnn(self, *args: Any) -> Any:
        """States of all layers, and the outputs of all steps."""
        if runs_plainly(self.aggregation):
            return super().rnn(*args)
        n_layers, ratio, *states, ws, bs, xs = args
        counts = [len(x) for x in xs]
        samples = current_samples()
        found = None if samples is None else samples.rows(counts[0])
        index = np.arange(counts[0]) if found is None else found.index
        n_samples = counts[0] if found is None else found.n_samples
        of_rows = np.concatenate([index[:count] for count in counts])
        plan = replace(self.aggregation, samples=SampleIndex((of_rows,), n_samples))
        first = [F.separate(one) for one in states]
        last: list[list[Any]] = [[] for _ in states]
        rows = F.concat(xs, axis=0)
        for layer in range(n_layers):
            outputs = []
            for direction in range(self.direction):
                number = layer * self.direction + direction
                x = F.dropout(rows, ratio) if layer else rows
                *before, after = recurrence(
                    self.cell,
                    x,
                    counts,
                    first[0][number],
                    first[1][number] if len(first) > 1 else None,
                    ws[number],
                    bs[number],
                    plan,
                    str(number),
                    backward=direction == 1,
                )
                outputs.append(after)
                for one, state in zip(last, before, strict=False):
                    one.append(state)
            rows = F.concat(outputs, axis=1) if len(outputs) > 1 else outputs[0]
        ys = F.split_axis(rows, np.cumsum(counts)[:-1], axis=0) if len(counts) > 1 else (rows,)
        return (*[F.stack(one) for one in last], tuple(ys))


class NStepLSTM(SequenceNetwork, chainer.links.NStepLSTM):
    """Layers of LSTM over a list of sequences, with robust gradients.

    It takes the arguments of ``chainer.links.NStepLSTM``, holds the same parameters under the same
    names, and reads and writes the same files. With ``robustifier=None`` it is that link. With a
    robustifier it runs step by step in Chainer's operations, also on a GPU, where the stock link
    uses cuDNN. Double backward through the robust gradients is refused.

    Args:
        n_layers, in_size, out_size, dropout, initialW, initial_bias: as in
            ``chainer.links.NStepLSTM``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples. N is the
            number of sequences, or the number given to ``chainrob.samples``.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` (one layer and direction) or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.NStepLSTM(1, 3, 4, 0.0, robustifier=chainrob.GeometricMedian())
        >>> xs = [np.ones((length, 3), np.float32) for length in (2, 5)]
        >>> hy, cy, ys = layer(None, None, xs)
        >>> hy.shape, [y.shape for y in ys]
        ((1, 2, 4), [(2, 4), (5, 4)])
    """

    stock = chainer.links.NStepLSTM
    cell = sequence_functions.LSTM


class NStepBiLSTM(SequenceNetwork, chainer.links.NStepBiLSTM):
    """``NStepLSTM`` in both directions of time."""

    stock = chainer.links.NStepBiLSTM
    cell = sequence_functions.LSTM


class NStepGRU(SequenceNetwork, chainer.links.NStepGRU):
    """Layers of GRU over a list of sequences, with robust gradients: see ``NStepLSTM``."""

    stock = chainer.links.NStepGRU
    cell = sequence_functions.GRU


class NStepBiGRU(SequenceNetwork, chainer.links.NStepBiGRU):
    """``NStepGRU`` in both directions of time."""

    stock = chainer.links.NStepBiGRU
    cell = sequence_functions.GRU


class NStepRNNTanh(SequenceNetwork, chainer.links.NStepRNNTanh):
    """Layers of tanh(W x + U h + b) over a list of sequences, with robust gradients: see
    ``NStepLSTM``.
    """

    stock = chainer.links.NStepRNNTanh
    cell = sequence_functions.TANH


class NStepRNNReLU(SequenceNetwork, chainer.links.NStepRNNReLU):
    """``NStepRNNTanh`` with max(0, .) in place of tanh."""

    stock = chainer.links.NStepRNNReLU
    cell = sequence_functions.RELU


class NStepBiRNNTanh(SequenceNetwork, chainer.links.NStepBiRNNTanh):
    """``NStepRNNTanh`` in both directions of time."""

    stock = chainer.links.NStepBiRNNTanh
    cell = sequence_functions.TANH


class NStepBiRNNReLU(SequenceNetwork, chainer.links.NStepBiRNNReLU):
    """``NStepRNNReLU`` in both directions of time."""

    stock = chainer.links.NStepBiRNNReLU
    cell = sequence_functions.RELU
