from __future__ import annotations

import numpy as np
import pytest

import chainer
from chainrob.training import SeededShuffle


def _epochs(iterator, n):
    epochs = []
    for _ in range(n):
        epochs.append(list(iterator.next()))
    return epochs


def test_epochs_are_different_permutations_that_follow_from_the_seed():
    def run(seed):
        sampler = SeededShuffle(seed)
        return _epochs(chainer.iterators.SerialIterator(range(30), 30, order_sampler=sampler), 50)

    first = run(3)
    assert first == run(3)
    assert first != run(4)
    assert all(sorted(epoch) == list(range(30)) for epoch in first)
    assert len({tuple(epoch) for epoch in first}) == 50


def test_every_place_is_equally_likely():
    sampler, order = SeededShuffle(0), np.arange(5)
    counts = np.zeros((5, 5))
    for _ in range(4000):
        counts[np.arange(5), order] += 1
        order = SeededShuffle(int(counts.sum()))(order, 0)
    np.testing.assert_allclose(counts / 4000, 0.2, atol=0.03)
    assert sampler(np.arange(5), 0).dtype.kind == "i"


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_the_global_stream_has_no_say(kind):
    def batches(noise):
        sampler = SeededShuffle(1)
        make = {
            "serial": lambda: chainer.iterators.SerialIterator(range(10), 3, order_sampler=sampler),
            "threads": lambda: chainer.iterators.MultithreadIterator(
                range(10), 3, order_sampler=sampler, n_threads=2
            ),
        }[kind]
        iterator = make()
        found = []
        for _ in range(20):
            np.random.random(noise)  # noqa: NPY002
            found.append(list(iterator.next()))
        iterator.finalize()
        return found

    assert batches(0) == batches(7)


def test_bad_seeds():
    with pytest.raises(ValueError, match="seed must not be negative, found -1"):
        SeededShuffle(-1)
    with pytest.raises(TypeError, match=r"seed must be an integer, found 1\.5"):
        SeededShuffle(1.5)
    assert repr(SeededShuffle(np.int64(2))) == "SeededShuffle(seed=2)"
