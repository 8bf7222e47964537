# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""Every model: as plain training with a mean, robust under contamination, resumed where it was."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import chainrob
import chainer
from tests.zoo.entry import Entry, Trained, batches
from tests.zoo.language import LANGUAGE
from tests.zoo.vision import VISION

ZOO = [*VISION, *LANGUAGE]
every = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)


@pytest.fixture(autouse=True)
def _float64():
    with (
        chainer.using_config("dtype", np.dtype(np.float64)),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", chainrob.links.UnsupportedLinkWarning)
        np.random.seed(0)
        yield


def steps(trained, data, seed=1):
    np.random.seed(seed)  # of dropout and noise
    return [trained.step(batch) for batch in data]


@every
def test_with_a_mean_its_losses_are_those_of_plain_training(entry: Entry):
    data = batches(entry.data(np.random.default_rng(0), 4 * entry.batch), entry.batch)
    np.random.seed(0)
    _, plain = entry.plain()
    np.random.seed(0)
    model, robust = entry.robust(chainrob.Mean())
    assert any(isinstance(link, chainrob.links.RobustLink) for link in model.links())
    np.testing.assert_allclose(steps(robust, data), steps(plain, data), rtol=1e-6)


@every
def test_it_goes_on_where_it_was(entry: Entry, tmp_path):
    data = batches(entry.data(np.random.default_rng(0), 4 * entry.batch), entry.batch)
    np.random.seed(0)
    _, whole = entry.robust(chainrob.GeometricMedian())
    steps(whole, data[:2])
    whole.save(tmp_path / "half")
    expected = steps(whole, data[2:])
    _, resumed = entry.robust(chainrob.GeometricMedian())
    resumed.load(tmp_path / "half")
    np.testing.assert_array_equal(steps(resumed, data[2:]), expected)


@pytest.mark.parametrize(
    "entry", [one for one in ZOO if one.spoil is not None], ids=lambda entry: entry.name
)
def test_it_learns_under_contamination_what_plain_training_does_not(entry: Entry):
    rng = np.random.default_rng(0)
    data = entry.data(rng, 6 * entry.batch)
    clean = entry.data(rng, 40)
    dirty = []
    for batch in batches(data, entry.batch):
        bad = entry.spoil(*[one[:2] for one in batch])
        dirty.append(
            tuple(
                np.concatenate([b, one[2:]]) if isinstance(one, np.ndarray) else [*b, *one[2:]]
                for b, one in zip(bad, batch, strict=True)
            )
        )
    errors = {}
    for name, robustifier in (("plain", None), ("robust", chainrob.GeometricMedian())):
        np.random.seed(0)
        model = entry.make()
        with chainer.no_backprop_mode():
            untrained = entry.error(model, *clean)
        if robustifier is not None:
            chainrob.robustify(model, robustifier, scope=entry.scope)
        trained = Trained(
            model,
            entry,
            hook=robustifier is not None and entry.scope == "model",
            optimizer=lambda: chainer.optimizers.SGD(entry.rate),
        )
        with np.errstate(all="ignore"):
            for epoch in range(entry.epochs):
                steps(trained, dirty, epoch)
            with chainer.no_backprop_mode():
                errors[name] = entry.error(model, *clean)
    assert errors["robust"] < 0.7 * untrained
    assert not errors["plain"] < 1.5 * errors["robust"]  # which may be no number
