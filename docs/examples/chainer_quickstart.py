"""Train a small Chainer network on handwritten digits, of which a few are broken."""

import chainrob  # first: it makes Chainer work on today's Python and NumPy
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
from sklearn.datasets import load_digits

# The data: 8 x 8 images. Every 50th training image is broken: its pixels are 200 times too large.
digits = load_digits()
x = (digits.data / 16).astype(np.float32)
t = digits.target.astype(np.int32)
x_train, t_train, x_test, t_test = x[:1200].copy(), t[:1200], x[1200:], t[1200:]
x_train[::50] *= 200


def train(robustifier):
    """Train the network for 20 epochs. Return its accuracy on clean test images."""
    np.random.seed(0)
    model = chainer.Sequential(L.Linear(64, 32), F.relu, L.Linear(32, 10))
    if robustifier is not None:
        chainrob.robustify(model, robustifier)  # the one line that changes

    def loss(images, labels):
        return F.softmax_cross_entropy(model(images), labels)

    optimizer = chainer.optimizers.MomentumSGD(lr=0.05).setup(model)
    for epoch in range(20):
        order = np.random.permutation(len(x_train))
        for start in range(0, len(order), 50):
            batch = order[start : start + 50]
            optimizer.update(loss, x_train[batch], t_train[batch])
    with chainer.no_backprop_mode():
        return float((model(x_test).array.argmax(axis=1) == t_test).mean())


print(f"plain mean:       {train(None):.2f}")
print(f"5% trimmed mean:  {train(chainrob.TrimmedMean(fraction=0.05)):.2f}")
