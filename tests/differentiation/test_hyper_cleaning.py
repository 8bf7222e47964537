"""Data hyper-cleaning: sample weights by the gradient of a clean loss through an argmin."""

import numpy as np

import chainrob
import chainer
from chainrob.differentiation import argmin

F = chainer.functions


def iris_with_wrong_labels(wrong, seed):
    """90 training samples, ``wrong`` of them with another class's label, and 30 clean ones."""
    iris = chainrob.datasets.load_iris()
    rng = np.random.default_rng(seed)
    order = rng.permutation(150)
    x = (iris.x - iris.x.mean(axis=0)) / iris.x.std(axis=0)
    x = np.hstack((x, np.ones((150, 1))))
    train, clean = order[:90], order[90:120]
    labels = np.array(iris.t[train])
    bad = rng.choice(90, wrong, replace=False)
    labels[bad] = (labels[bad] + rng.integers(1, 3, wrong)) % 3
    return (x[train], np.eye(3)[labels]), (x[clean], np.eye(3)[iris.t[clean]]), bad


def losses(weights, x, onehot):
    """Cross entropy of softmax regression, one number a sample."""
    return -F.sum(onehot * F.log_softmax(F.matmul(x, weights)), axis=1)


def learn_weights(train, clean, steps, rate):
    logits = chainer.Variable(np.zeros(len(train[0])))
    start, history = np.zeros((5, 3)), []

    def objective(weights, logits):
        return F.mean(F.sigmoid(logits) * losses(weights, *train)) + 0.01 * F.sum(weights**2)

    for _ in range(steps):
        best = argmin(objective, start, logits)
        loss = F.mean(losses(best, *clean))
        history.append(float(loss.array))
        (slope,) = chainer.grad([loss], [logits])
        logits = chainer.Variable(logits.array - rate * slope.array / abs(slope.array).max())
        start = best.array
    return logits.array, history


def test_contaminated_iris_samples_are_found():
    wrong = 18
    train, clean, bad = iris_with_wrong_labels(wrong, seed=0)
    logits, history = learn_weights(train, clean, steps=8, rate=2.0)
    suspects = np.argsort(logits)[:wrong]
    found = len(set(suspects) & set(bad))
    print(f"{found} of {wrong} contaminated samples are among the {wrong} of least weight")
    assert history[-1] < 0.6 * history[0]
    # By chance 18 * 18 / 90 = 3.6 would be found.
    assert found >= 14
