"""The networks of the forum thread, and the way in which the thread minimized them."""

import json
from pathlib import Path

import numpy as np

import chainrob
import chainer

F = chainer.functions
DATA = Path(chainrob.__file__).parent / "_data" / "published" / "argmin_thread.json"
CASES = json.loads(DATA.read_text())["cases"]
NAMES = ("W1", "b1", "W2")


def parameters(case, dtype=np.float64):
    """W1, b1 and W2 of one case as Variables."""
    return [chainer.Variable(np.array(CASES[case]["parameters"][n], dtype)) for n in NAMES]


def network(x, w1, b1, w2):
    """W2 tanh(W1 x + b1) for x of shape (inputs,)."""
    return F.matmul(w2, F.tanh(F.matmul(w1, x) + b1))


def stabilised(x, w1, b1, w2):
    """The network plus x^2 / 16, which makes it grow on both sides."""
    return network(x, w1, b1, w2) + F.sum(x**2) / 16


def objective(case):
    """The function that a case minimizes."""
    return stabilised if "added_term" in CASES[case] else network


def inputs(case):
    """Number of inputs of the case's network."""
    return len(CASES[case]["parameters"]["W1"][0])


def adam(function, x0, steps=350):
    """The thread's minimizer: Adam with step 0.5, written out."""
    x, first, second = x0, np.zeros_like(x0), np.zeros_like(x0)
    for t in range(1, steps + 1):
        point = chainer.Variable(x)
        (slope,) = chainer.grad([function(point)], [point])
        g = slope.array
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        ahead = first / (1 - 0.9**t)
        x = x - (0.5 * ahead / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)).astype(x0.dtype)
    return x
