"""Recurrent cells, called once a time step: with ``scope='model'`` a sample's gradient is the sum
over the steps.
"""

from __future__ import annotations

from torch import Tensor, nn

from chainrob.torch import layer_kinds
from chainrob.torch.robust_modules import RobustModule

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class RecurrentCell(RobustModule, nn.modules.rnn.RNNCellBase):
    """A cell is two Linear layers, of input and state, and what it makes of their sums."""

    def _plain(self) -> bool:
        if self.runs_plainly:
            return True
        if self.scope != "model":
            raise ValueError(
                f"{type(self).__name__} {self.path!r}: a cell runs once a time step, and a "
                f"sample's gradient is the sum over the steps: it needs scope='model', found "
                f"{self.scope!r}"
            )
        return False

    def _of_input(self, x: Tensor) -> Tensor:
        kind = layer_kinds.linear(("weight_ih", "bias_ih"))
        return self.run(kind, self._batched(x), self.weight_ih, self.bias_ih)

    def _of_state(self, h: Tensor) -> Tensor:
        kind = layer_kinds.linear(("weight_hh", "bias_hh"))
        return self.run(kind, self._batched(h), self.weight_hh, self.bias_hh)

    def _batched(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} {self.path!r}: a robust cell needs a batch: its input and "
                f"state must have 2 axes, found shape {tuple(x.shape)}"
            )
        return x

    def _start(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.hidden_size)


class RNNCell(RecurrentCell, nn.RNNCell):
    """``torch.nn.RNNCell``, with robust gradients of its weights; needs ``scope='model'``."""

    stock = nn.RNNCell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self._plain():
            return super().forward(input, hx)
        h = self._start(input) if hx is None else hx
        total = self._of_input(input) + self._of_state(h)
        return total.tanh() if self.nonlinearity == "tanh" else total.relu()


class LSTMCell(RecurrentCell, nn.LSTMCell):
    """``torch.nn.LSTMCell``, with robust gradients of its weights; needs ``scope='model'``."""

    stock = nn.LSTMCell

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if self._plain():
            return super().forward(input, hx)
        h, c = (self._start(input), self._start(input)) if hx is None else hx
        i, f, g, o = (self._of_input(input) + self._of_state(h)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GRUCell(RecurrentCell, nn.GRUCell):
    """``torch.nn.GRUCell``, with robust gradients of its weights; needs ``scope='model'``."""

    stock = nn.GRUCell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self._plain():
            return super().forward(input, hx)
        h = self._start(input) if hx is None else hx
        ri, zi, ni = self._of_input(input).chunk(3, dim=1)
        rh, zh, nh = self._of_state(h).chunk(3, dim=1)
        n = (ni + (ri + rh).sigmoid() * nh).tanh()
        return n + (zi + zh).sigmoid() * (h - n)
