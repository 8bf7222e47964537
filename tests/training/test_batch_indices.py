from __future__ import annotations

import pytest

import chainer
from chainrob.training import SeededShuffle
from chainrob.training.batch_indices import BatchIndices

MAKERS = {
    "serial": lambda n, b, **k: chainer.iterators.SerialIterator(range(n), b, **k),
    "threads": lambda n, b, **k: chainer.iterators.MultithreadIterator(
        range(n), b, n_threads=2, **k
    ),
    "processes": lambda n, b, **k: chainer.iterators.MultiprocessIterator(
        range(n), b, n_processes=1, **k
    ),
}


@pytest.mark.parametrize("shuffle", [True, False, "seeded", "once"])
@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize(("n", "b"), [(7, 3), (6, 3), (5, 5), (4, 1)])
def test_the_indices_are_those_of_the_batch(kind, n, b, shuffle):
    options = {
        True: {},
        False: {"shuffle": False},
        "seeded": {"order_sampler": SeededShuffle(0)},
        "once": {"repeat": False},
    }[shuffle]
    iterator = MAKERS[kind](n, b, **options)
    indices = BatchIndices(iterator)
    batches = 0
    try:
        for _ in range(25):
            assert list(iterator.next()) == indices.next().tolist()
            batches += 1
    except StopIteration:
        assert shuffle == "once"
        assert batches == -(-n // b)
    iterator.finalize()


# Forking a process with threads, as pytest-timeout's, is deprecated from Python 3.12 on.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_processes():
    iterator = MAKERS["processes"](7, 3, order_sampler=SeededShuffle(0))
    indices = BatchIndices(iterator)
    for _ in range(12):
        assert list(iterator.next()) == indices.next().tolist()
    iterator.finalize()


def test_it_starts_in_the_middle():
    iterator = MAKERS["serial"](10, 4)
    for _ in range(4):
        iterator.next()
    indices = BatchIndices(iterator)
    for _ in range(9):
        assert list(iterator.next()) == indices.next().tolist()


def test_what_it_cannot_know():
    with pytest.raises(ValueError, match="must not exceed the size of the dataset, 3"):
        BatchIndices(MAKERS["serial"](3, 4))
    with pytest.raises(TypeError, match="order of a list_iterator is not known"):
        BatchIndices(iter([1]))
