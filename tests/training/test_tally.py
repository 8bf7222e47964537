from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainer
from chainrob.training import WeightTally

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["/a", "/b"]),
        st.lists(st.tuples(st.integers(0, 9), st.floats(0, 5)), max_size=6),
    ),
    max_size=12,
)


def filled(steps):
    tally = WeightTally(10)
    for layer, pairs in steps:
        tally.add(layer, [i for i, _ in pairs], [w for _, w in pairs])
    return tally


@given(STEPS)
def test_against_a_plain_loop(steps):
    tally = filled(steps)
    heard = {(layer, n): [] for layer in ("/a", "/b") for n in range(10)}
    for layer, pairs in steps:
        for index, weight in pairs:
            heard[layer, index].append(weight)
    for n in range(10):
        means = [np.mean(w) for layer in ("/a", "/b") if (w := heard[layer, n])]
        expected = np.mean(means) if means else np.nan
        np.testing.assert_allclose(tally.weights()[n], expected)
        assert tally.counts()[n] == max(len(heard[layer, n]) for layer in ("/a", "/b"))
    ranking = tally.ranking()
    assert sorted(ranking) == np.flatnonzero(np.isfinite(tally.weights())).tolist()
    assert (np.diff(tally.weights()[ranking]) >= 0).all()


@given(STEPS)
def test_what_is_written_is_read_back(steps):
    tally = filled(steps)
    writer = chainer.serializers.DictionarySerializer()
    tally.serialize(writer)
    again = WeightTally(10)
    again.serialize(chainer.serializers.NpzDeserializer(writer.target))
    assert again.layers == tally.layers
    np.testing.assert_array_equal(again.weights(), tally.weights())
    np.testing.assert_array_equal(again.counts(), tally.counts())
    with pytest.raises(ValueError, match="are of 10 samples, the dataset has 3"):
        WeightTally(3).serialize(chainer.serializers.NpzDeserializer(writer.target))
