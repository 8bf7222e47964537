"""Train a scikit-learn classifier on handwritten digits, of which a few are broken."""

from chainrob.sklearn import RobustMLPClassifier
from sklearn.datasets import load_digits

# The data: 8 x 8 images. Every 50th training image is broken: its pixels are 200 times too large.
digits = load_digits()
x, t = digits.data / 16, digits.target
x_train, t_train, x_test, t_test = x[:1200].copy(), t[:1200], x[1200:], t[1200:]
x_train[::50] *= 200


def train(robustifier):
    """Train the classifier. Return it."""
    model = RobustMLPClassifier(
        hidden_layer_sizes=(32,),
        robustifier=robustifier,  # the one argument that changes
        solver="momentum",
        learning_rate_init=0.05,
        batch_size=50,
        max_iter=20,
        random_state=0,
        track_suspects=True,
    )
    return model.fit(x_train, t_train)


robust = train("geometric_median")
print(f"plain mean:       {train(None).score(x_test, t_test):.2f}")
print(f"geometric median: {robust.score(x_test, t_test):.2f}")
found = sum(index % 50 == 0 for index in robust.suspects_[:24])
print(f"of the 24 most suspect images, {found} are broken")
