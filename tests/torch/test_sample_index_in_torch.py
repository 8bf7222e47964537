"""Rows that are not samples, in PyTorch: the index of ``chainrob.samples``."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("scope", ["layer", "parameter"])
def test_rows_of_one_sample_add_up(scope):
    torch.manual_seed(0)
    plain = torch.nn.Linear(3, 2).double()
    robust = torch.nn.Linear(3, 2).double()
    robust.load_state_dict(plain.state_dict())
    x = torch.randn(6, 3, dtype=torch.float64)
    index = np.array([0, 0, 1, 2, 1, 3])
    rows: dict[str, list[np.ndarray]] = {"weight": [], "bias": []}
    for n in range(4):
        plain.zero_grad()
        plain(x[index == n]).sin().sum().backward()
        for name, one in plain.named_parameters():
            rows[name].append(one.grad.numpy().copy())
    chainrob.torch.robustify(robust, chainrob.CoordinateMedian(), scope=scope)
    with chainrob.samples(index):
        y = robust(x)
    (y.sin().sum() / 4).backward()
    for name, one in robust.named_parameters():
        np.testing.assert_allclose(one.grad.numpy(), np.median(rows[name], axis=0), atol=1e-12)
