"""The errors that the report lists are there, and the mended forms are right."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.experiments.reproduce.tutorial_errata import (
    ListingFour,
    bundling_section,
    errata,
    errata_section,
)


def test_every_erratum_is_as_noted():
    found = errata()
    assert [one.place for one in found] == ["Section 1.2", "Listing 4", "Listing 4", "Table 3"]
    for one in found:
        assert one.holds, one
    assert len(errata_section().verdicts()) == 4


def test_bundling_loses_what_jumps_over_a_layer():
    section = bundling_section()
    assert all(
        verdict.outcome is verdict.of("", True, "", "").outcome for verdict in section.verdicts()
    )
    rows = {row[0].split(":")[0]: row[1:] for row in section.blocks[1].rows}
    assert rows["tanh(sin(x))"][1] == rows["tanh(sin(x))"][2]
    assert rows["sin(x) x"][1] != rows["sin(x) x"][2]
    exact = np.sin(0.7) + 0.7 * np.cos(0.7)
    assert float(rows["sin(x) x"][1]) == pytest.approx(exact, abs=1e-6)
    assert float(rows["sin(x) x"][2]) == pytest.approx(0.7 * np.cos(0.7), abs=1e-6)


@pytest.mark.parametrize(
    "robustifier",
    [chainrob.SoftTruncation(), chainrob.CoordinateMedian(), lambda x: x.mean(axis=0)],
    ids=["soft", "median", "callable"],
)
def test_a_layer_as_listing_4_writes_it(robustifier):
    rng = np.random.default_rng(1)
    x, gy = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    parameters = [chainer.Variable(rng.normal(size=s)) for s in ((3, 4), (3,))]
    variable = chainer.Variable(x)
    y = ListingFour(robustifier).apply((variable, *parameters))[0]
    y.grad = gy
    y.backward()
    np.testing.assert_allclose(variable.grad, gy @ parameters[0].array, rtol=1e-12)
    for q in range(3):
        np.testing.assert_allclose(parameters[0].grad[q], robustifier(gy[:, q : q + 1] * x))
        np.testing.assert_allclose(parameters[1].grad[q], robustifier(gy[:, q : q + 1])[0])


def test_the_rows_have_two_names_and_are_given_once():
    rows = np.arange(12.0).reshape(4, 3)
    for robustifier in (chainrob.SoftTruncation(), chainrob.GeometricMedian()):
        np.testing.assert_array_equal(robustifier(x=rows), robustifier(rows))
        with pytest.raises(TypeError, match="takes the rows once: as gradients or as x="):
            robustifier()
        with pytest.raises(TypeError, match="takes the rows once"):
            robustifier(rows, x=rows)
