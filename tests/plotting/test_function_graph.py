"""Chainer's own graphs: every node and edge, wherever it comes from."""

import io

import numpy as np
import pytest

import chainrob  # noqa: F401
import chainer
from chainrob import plotting

F, L = chainer.functions, chainer.links


@pytest.mark.parametrize("kind", ["network", "skips", "outputs"])
def test_all_nodes_and_edges_are_drawn(kind):
    x = chainer.Variable(np.ones((2, 3), np.float32))
    if kind == "network":
        outputs = [F.relu(L.Linear(3, 4)(F.tanh(L.Linear(3, 3)(x))))]
    elif kind == "skips":
        h = F.sin(x)
        outputs = [F.exp(F.cos(h) + h) * x + h]
    else:
        h = F.sin(x)
        outputs = [F.sum(h), F.exp(h)]
    graph = chainer.computational_graph.build_computational_graph(outputs)
    with plotting.new_figure(6, 6) as figure:
        ax = plotting.chainer_graph(outputs, names={"x": x}, ax=figure.subplots())
        figure.savefig(io.BytesIO(), format="png")
    texts = [text for text in ax.texts if text.get_text()]
    assert len(texts) == len(graph.nodes)
    assert any(text.get_text().startswith("x: (2, 3), float32") for text in texts)
    assert len(ax.texts) - len(texts) == len(set(graph.edges))
    places = {text.get_position() for text in texts}
    assert len(places) == len(texts)  # none hides another
    assert plotting.chainer_dot(outputs).count("->") == len(set(graph.edges))


def test_what_has_no_graph_is_refused():
    with pytest.raises(ValueError, match="without a graph"):
        plotting.chainer_graph(chainer.Variable(np.ones(2, np.float32)))
    with pytest.raises(ValueError, match="without a graph"):
        plotting.chainer_dot([])
