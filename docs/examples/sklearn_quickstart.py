"""Train a scikit-learn classifier on handwritten digits, of which a few are broken."""

from chainrob.sklearn import RobustMLPClassifier
from sklearn.datasets import load_digits

# The data: 8 x 8 images. Every 50th training image is broken: its pixels are 200 times too large.
digits = load_digits()
x, t = digits.data / 16, digits.target
x_train, t_train, x_test, t_test = x[:1200].copy(), t[:1200], x[1200:], t[1200:]
x_train[::50] *= 200


def train(robustifier):
    """Train the classifier for 20 epochs. Return its accuracy on clean test images."""
    model = RobustMLPClassifier(
        hidden_layer_sizes=(32,),
        robustifier=robustifier,  # the one argument that changes
        solver="momentum",
        learning_rate_init=0.05,
        batch_size=50,
        max_iter=20,
        random_state=0,
        track_suspects=False,
    )
    return model.fit(x_train, t_train).score(x_test, t_test)


print(f"plain mean:       {train(None):.2f}")
print(f"5% trimmed mean:  {train('trimmed_mean(fraction=0.05)'):.2f}")
