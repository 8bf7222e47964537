"""One case a kind of layer, and its per-sample gradients by ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

N = 9


@dataclass(frozen=True)
class Case:
    """A layer, the shape of one sample of its input (or of its ids), and where its units lie."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    n_ids: int | None = None
    unit_axis: int = 0

    def layer(self, dtype=torch.float64):
        torch.manual_seed(3)
        return self.make().to(dtype)

    def batch(self, dtype=torch.float64, n=N):
        generator = torch.Generator().manual_seed(5)
        if self.n_ids is not None:
            return torch.randint(0, self.n_ids, (n, *self.shape), generator=generator)
        x = torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)
        x[-1] *= 30.0  # one sample far out
        return x.to(dtype)


CASES = [
    Case("linear", lambda: nn.Linear(4, 3), (4,)),
    Case("linear without bias", lambda: nn.Linear(4, 3, bias=False), (4,)),
    Case("linear over positions", lambda: nn.Linear(3, 2), (2, 3, 3)),
    Case("conv1d", lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    Case("conv2d", lambda: nn.Conv2d(2, 4, (2, 3), padding=1, groups=2), (2, 4, 5)),
    Case("conv2d same", lambda: nn.Conv2d(1, 2, 2, padding="same"), (1, 3, 4)),
    Case(
        "conv2d reflect", lambda: nn.Conv2d(1, 2, 2, padding=1, padding_mode="reflect"), (1, 3, 4)
    ),
    Case("conv3d", lambda: nn.Conv3d(1, 2, 2, dilation=(1, 2, 1)), (1, 3, 4, 3)),
    Case("conv_transpose1d", lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 4), unit_axis=1),
    Case(
        "conv_transpose2d",
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, padding=1, output_padding=1),
        (2, 3, 3),
        unit_axis=1,
    ),
    Case("conv_transpose3d", lambda: nn.ConvTranspose3d(1, 2, 2), (1, 2, 2, 2), unit_axis=1),
    Case("embedding", lambda: nn.Embedding(6, 3, padding_idx=0), (4,), n_ids=6, unit_axis=1),
    Case("layer_norm", lambda: nn.LayerNorm(4), (3, 4)),
    Case("layer_norm of two axes", lambda: nn.LayerNorm((2, 3)), (2, 3)),
    Case("rms_norm", lambda: nn.RMSNorm(4), (4,)),
    Case("group_norm", lambda: nn.GroupNorm(2, 4), (4, 3)),
    Case("instance_norm", lambda: nn.InstanceNorm1d(3, affine=True), (3, 5)),
    Case("prelu", lambda: nn.PReLU(), (3, 2)),
    Case("prelu by channel", lambda: nn.PReLU(3), (3, 2)),
]
IDS = [case.name for case in CASES]


def losses(y, seed=7):
    """One loss a sample, nonlinear in y: (N,)."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return (y - target).square().flatten(1).mean(dim=1).mul(1.5).log1p()


def sample_rows(module, x, loss=losses):
    """The gradient of every sample's own loss: {name: (N, *shape)} in float64, by torch.func."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    count = torch.arange(len(x))
    generator_rows = loss_rows(module, loss, x)

    def one(values, x_n, n):
        y = torch.func.functional_call(module, values, (x_n[None],))
        return generator_rows(y, n)

    rows = torch.func.vmap(torch.func.grad(one), (None, 0, 0))(parameters, x, count)
    return {name: value.double().numpy() for name, value in rows.items()}


def loss_rows(module, loss, x):
    """``loss`` of one sample, with the target that it has in the batch."""
    with torch.no_grad():
        y = module(x)
    generator = torch.Generator().manual_seed(7)
    target = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)

    def one(y_n, n):
        picked = target.index_select(0, n.reshape(1))
        return (y_n - picked).square().flatten(1).mean(dim=1).mul(1.5).log1p().sum()

    return one


def joined(rows):
    """All parameters side by side: (N, D)."""
    return np.concatenate([value.reshape(len(value), -1) for value in rows.values()], axis=1)


def apart(estimate, rows):
    """An estimate (D,) of ``joined`` rows, by name."""
    found, place = {}, 0
    for name, value in rows.items():
        size = int(np.prod(value.shape[1:]))
        found[name] = estimate[place : place + size].reshape(value.shape[1:])
        place += size
    return found


def expected(rows, estimator, scope, unit_axis=0):
    """Estimates by name from materialized rows, for an oracle (N, D) -> (D,)."""
    if scope in ("layer", "model"):
        return apart(estimator(joined(rows)), rows)
    if scope == "parameter":
        return {
            name: estimator(value.reshape(len(value), -1)).reshape(value.shape[1:])
            for name, value in rows.items()
        }
    found = {}
    for name, value in rows.items():
        axis = 1 + (unit_axis if value.ndim > 2 else 0)
        units = np.moveaxis(value, axis, 0)
        estimates = [estimator(one.reshape(len(one), -1)) for one in units]
        shape = units.shape[2:]
        stacked = np.stack([one.reshape(shape) for one in estimates])
        found[name] = np.moveaxis(stacked, 0, axis - 1)
    return found


def gradients(module):
    return {name: p.grad.double().numpy() for name, p in module.named_parameters()}
