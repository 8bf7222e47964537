from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainer
from chainrob.training import WeightAverages

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["/a", "/b"]),
        st.lists(st.tuples(st.integers(0, 9), st.floats(0, 5)), max_size=6),
    ),
    max_size=12,
)


def filled(steps):
    averages = WeightAverages(10)
    for layer, pairs in steps:
        averages.add(layer, [i for i, _ in pairs], [w for _, w in pairs])
    return averages


@given(STEPS)
def test_against_a_plain_loop(steps):
    averages = filled(steps)
    heard = {(layer, n): [] for layer in ("/a", "/b") for n in range(10)}
    for layer, pairs in steps:
        quartile = np.percentile([w for _, w in pairs], 25) if pairs else 0
        for index, weight in pairs:
            relative = float(weight > 0)
            if quartile > 0:  # not by a division, which overflows at the least quartiles
                relative = weight / quartile if weight < quartile else 1.0
            heard[layer, index].append((weight, relative))
    for n in range(10):
        means = [np.mean(w, axis=0) for layer in ("/a", "/b") if (w := heard[layer, n])]
        expected = np.mean(means, axis=0) if means else [np.nan, np.nan]
        found = [averages.weights()[n], averages.relative()[n]]
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert averages.counts()[n] == max(len(heard[layer, n]) for layer in ("/a", "/b"))
    ranking = averages.ranking()
    assert sorted(ranking) == np.flatnonzero(np.isfinite(averages.weights())).tolist()
    assert (np.diff(averages.relative()[ranking]) >= 0).all()


def test_one_very_heavy_sample_does_not_make_the_others_suspect():
    averages = WeightAverages(8)
    averages.add("/a", [0, 1, 2, 3], [3.997, 0.001, 0.001, 0.001])
    averages.add("/a", [4, 5, 6, 7], [1.3, 1.3, 1.3, 0.1])
    assert averages.ranking()[0] == 7
    assert averages.weights().argmin() != 7


@given(STEPS)
def test_what_is_written_is_read_back(steps):
    averages = filled(steps)
    writer = chainer.serializers.DictionarySerializer()
    averages.serialize(writer)
    again = WeightAverages(10)
    again.serialize(chainer.serializers.NpzDeserializer(writer.target))
    assert again.layers == averages.layers
    np.testing.assert_array_equal(again.weights(), averages.weights())
    np.testing.assert_array_equal(again.relative(), averages.relative())
    np.testing.assert_array_equal(again.counts(), averages.counts())
    with pytest.raises(ValueError, match="has the weights of 10 samples, the dataset has 3"):
        WeightAverages(3).serialize(chainer.serializers.NpzDeserializer(writer.target))
