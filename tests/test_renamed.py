"""Old names work for one version more, and say what they are called now."""

import numpy as np
import pytest

import chainrob
import chainrob.builders
import chainrob.training
from chainrob.differentiation import functional
from chainrob.sample_gradients import Dense


def ensemble():
    return chainrob.links.Ensemble([chainrob.links.MLP((2, 3)) for _ in range(2)])


def with_averages():
    return chainrob.training.SuspectReport(indices=lambda trainer: [0], n_samples=3)


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (lambda: chainrob.training, "WeightTally", "WeightAverages"),
        (lambda: chainrob.builders, "spread", "broadcast_to_positions"),
        (with_averages, "tally", "averages"),
        (ensemble, "split", "members"),
        (lambda: functional(chainrob.links.MLP((2, 3))), "join", "flatten"),
        (lambda: functional(chainrob.links.MLP((2, 3))), "split", "unflatten"),
        (lambda: Dense(np.ones((4, 3))), "split", "unflatten"),
    ],
)
def test_an_old_name_warns_and_works(make, old, new):
    holder = make()
    with pytest.warns(DeprecationWarning, match=rf"{old} is now called {new}; .* next version"):
        found = getattr(holder, old)
    assert found == getattr(holder, new)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        chainrob.builders.nothing  # noqa: B018
