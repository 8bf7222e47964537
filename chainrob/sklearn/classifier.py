"""``RobustMLPClassifier``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import column_or_1d

import chainer
from chainrob.sklearn.robust_estimator import RobustMLP

__all__ = ["RobustMLPClassifier"]


class RobustMLPClassifier(ClassifierMixin, RobustMLP):
    r"""Multi-layer perceptron classifier, trained with robust estimates of the gradients.

    Most parameters are those of scikit-learn's ``MLPClassifier`` and mean the same. New are
    ``robustifier``, ``scope``, ``loss``, ``huber_delta``, ``track_suspects`` and ``rank_by``. One
    differs: here ``solver='sgd'`` has no momentum, and ``solver='momentum'`` has.

    Args:
        hidden_layer_sizes: Units of the hidden layers, an integer or a sequence.
        robustifier: A ``chainrob.Robustifier``; any callable (N, D) -> (D,); the name of a
            robustifier (``chainrob.robustifiers.names()``); an expression such as ``'krum(f=3)'``
            (``chainrob.robustifiers.grammar``); or None for the plain mean. The default,
            ``chainrob.AdaptiveMean``, has nothing to tune.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``: which gradients form one row
            for a weighting robustifier.
        loss: ``'log_loss'`` (cross entropy), ``'squared_error'`` (half the square; Brier's score),
            ``'absolute_error'`` or ``'huber'``. The last three are summed over the classes; their
            error is the difference between the class probabilities and the class's unit vector.
        activation: ``'identity'``, ``'logistic'``, ``'tanh'`` or ``'relu'``.
        solver: ``'sgd'``, ``'momentum'`` or ``'adam'``.
        alpha: L2 penalty of the weights.
        batch_size: Largest number of samples in a batch, or ``'auto'`` for min(200, n). The batches
            of an epoch have nearly equal sizes, so that none is too small to be robust.
        learning_rate_init: Step size.
        max_iter: Largest number of epochs.
        shuffle: Visit the samples in a new order every epoch.
        random_state: Seed or ``RandomState`` for initial weights, order and validation split.
        tol: Training stops when ``n_iter_no_change`` epochs in a row bring no improvement of at
            least ``tol``. It looks at the mean of the smallest 90% of the losses, so that outliers
            do not decide; with early stopping, at the validation score.
        verbose: Print a line for every epoch.
        momentum: For solver ``'momentum'``.
        early_stopping: Hold out ``validation_fraction`` of the samples, and keep the parameters
            with the best score on them.
        validation_fraction: Share held out.
        beta_1, beta_2, epsilon: For solver ``'adam'``.
        n_iter_no_change: Patience, in epochs.
        huber_delta: The error at which Huber's loss turns from a square into a line.
        track_suspects: Record the samples' weights for ``suspects_``. The weights come from the
            pass that makes the estimate (``benchmarks/watching.py`` measures the cost).
        rank_by: The measure that is recorded: ``'weight'``, or ``'suspicion'`` for one minus
            ``chainrob.robustifiers.suspicion``, which finds wrong labels better. It takes the
            weight's place in the attributes.

    Attributes:
        classes_: The classes.
        suspects_: Row numbers of the training data, the most suspect sample first, as
            ranked by ``chainrob.training.WeightAverages``. Held-out samples are left out. Empty
            without a robustifier. After ``partial_fit`` the rows are those of the last call.
        sample_weights_: Mean effective weight of every sample, (n,); 1 in a plain mean, NaN
            for samples without a weight.
        relative_weights_: The relative weights that ``suspects_`` is sorted by, (n,).
        sample_losses_: Mean loss of every sample over the epochs, (n,), NaN for held-out
            samples. ``np.argsort(-sample_losses_)`` finds wrong labels better than the weights do.
        model_: The network.
        coefs_, intercepts_ (lists of arrays): The network's weights and biases.
        loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_, n_layers_,
        n_features_in_, feature_names_in_: As in scikit-learn.

    Raises:
        ValueError: In ``fit``: a parameter is out of range (the message names the parameter, the
            rule and the value found), the data cannot be used, or the weights diverged.

    Example:
        >>> import numpy as np
        >>> from chainrob import TrimmedMean
        >>> from chainrob.sklearn import RobustMLPClassifier
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.where(x[:, 0] > 0, "right", "left")
        >>> x[:4] *= -1e3                                  # four samples are far off and wrong
        >>> model = RobustMLPClassifier((10,), robustifier=TrimmedMean(fraction=0.1),
        ...                             learning_rate_init=0.05, random_state=0)
        >>> model = model.fit(x, y)
        >>> model.predict([[1.0, 0.0], [-1.0, 0.0]]).tolist(), sorted(model.suspects_[:4].tolist())
        (['right', 'left'], [0, 1, 2, 3])

    References:
        M. J. Holland, Robust gradient descent via back-propagation: a Chainer-based tutorial.
        A. Ghosh, H. Kumar and P. S. Sastry (2017). Robust loss functions under label noise for deep
        neural networks. AAAI (absolute error).
    """

    _losses = ("log_loss", "squared_error", "absolute_error", "huber")

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        robustifier: Callable[[Any], Any] | str | None = "adaptive_mean",
        scope: str = "layer",
        loss: str = "log_loss",
        activation: str = "relu",
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        momentum: float = 0.9,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        huber_delta: float = 1.0,
        track_suspects: bool = True,
        rank_by: str = "weight",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.robustifier = robustifier
        self.scope = scope
        self.loss = loss
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.momentum = momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.huber_delta = huber_delta
        self.track_suspects = track_suspects
        self.rank_by = rank_by

    def fit(self, X: Any, y: ArrayLike) -> RobustMLPClassifier:
        """Train a new network on X, (n, d), dense or sparse, and the classes y, (n,)."""
        return self._fit(X, y, incremental=False)

    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None
    ) -> RobustMLPClassifier:
        """Train for one epoch on more data.

        Args:
            X: (n, d), dense or sparse.
            y: (n,).
            classes: All classes there will be; needed at the first call.

        Raises:
            ValueError: The first call has no classes, the classes changed, y has an unknown class,
                or early stopping is on, which makes no sense here.
        """
        if self.early_stopping:
            raise ValueError("early_stopping must be False for partial_fit, found True")
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes must be given at the first call of partial_fit")
        if (
            not first
            and classes is not None
            and not np.array_equal(self.classes_, unique_labels(classes))
        ):
            raise ValueError(
                f"classes must stay the same as at the first call of partial_fit, "
                f"{self.classes_.tolist()}, found {unique_labels(classes).tolist()}"
            )
        announced = unique_labels(classes) if first else None
        return self._fit(X, y, incremental=True, classes=announced)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of every row: (n,)."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of every class: (n, classes), in the order of ``classes_``."""
        return chainer.functions.softmax(self._scores(X)).array

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """The logarithms of the probabilities; right for tiny probabilities too."""
        return chainer.functions.log_softmax(self._scores(X)).array

    def _encode(self, y: Any, dtype: Any, again: bool, classes: Any) -> NDArray[np.int32]:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if not again:
            self.classes_ = np.unique(y) if classes is None else classes
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        unknown = self.classes_[codes] != y
        if unknown.any():
            raise ValueError(
                f"y must hold the classes {self.classes_.tolist()} only, found "
                f"{np.unique(y[unknown]).tolist()}"
            )
        return codes.astype(np.int32)

    @property
    def _n_scores(self) -> int:
        return len(self.classes_)

    def _score_of(self, X: Any, targets: NDArray[Any]) -> float:
        return float((self._forward(X).argmax(axis=1) == targets).mean())
