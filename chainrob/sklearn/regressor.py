"""``RobustMLPRegressor``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import column_or_1d

from chainrob.sklearn.robust_estimator import RobustMLP

__all__ = ["RobustMLPRegressor"]


class RobustMLPRegressor(RegressorMixin, MultiOutputMixin, RobustMLP):
    r"""Multi-layer perceptron regressor, trained with robust estimates of the gradients.

    The parameters and attributes are those of ``RobustMLPClassifier``, except for the loss and the
    classes. Those of scikit-learn's ``MLPRegressor`` mean the same as there.

    Args:
        hidden_layer_sizes, robustifier, scope, activation: As in ``RobustMLPClassifier``.
        solver, alpha, batch_size, learning_rate_init, max_iter, shuffle, random_state: Likewise.
        tol, verbose, momentum, early_stopping, validation_fraction: Likewise.
        beta_1, beta_2, epsilon, n_iter_no_change, track_suspects, rank_by: Likewise.
        loss: ``'squared_error'`` (half the square), ``'absolute_error'`` or ``'huber'``, averaged
            over the outputs.
        huber_delta: The error, in units of y, at which Huber's loss turns from a square into a
            line.

    Attributes:
        suspects_, sample_weights_, relative_weights_, model_, coefs_, intercepts_ and so on: As in
            ``RobustMLPClassifier``.
        n_outputs_: Numbers in one response.

    Raises:
        ValueError: In ``fit``: a parameter is out of range, the data cannot be used, or the weights
            diverged.

    Example:
        >>> import numpy as np
        >>> from chainrob import GeometricMedian
        >>> from chainrob.sklearn import RobustMLPRegressor
        >>> x = np.random.default_rng(0).normal(size=(200, 1))
        >>> y = 2 * x[:, 0]
        >>> y[:20] += 100                                  # a tenth of the responses is off
        >>> model = RobustMLPRegressor((), robustifier=GeometricMedian(), solver='sgd',
        ...                            learning_rate_init=0.5, random_state=0)
        >>> model = model.fit(x, y)
        >>> model.predict([[0.0], [1.0]]).round(1).tolist(), int(model.suspects_[:20].max())
        ([0.0, 2.0], 19)

    References:
        M. J. Holland, Robust gradient descent via back-propagation: a Chainer-based tutorial.
        P. J. Huber (1964). Robust estimation of a location parameter. Annals of Mathematical
        Statistics 35(1), 73-101.
    """

    _losses = ("squared_error", "absolute_error", "huber")

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        robustifier: Callable[[Any], Any] | str | None = "adaptive_mean",
        scope: str = "layer",
        loss: str = "squared_error",
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

    def fit(self, X: Any, y: ArrayLike) -> RobustMLPRegressor:
        """Train a new network on X, (n, d), dense or sparse, and responses y, (n,) or (n, k)."""
        return self._fit(X, y, incremental=False)

    def partial_fit(self, X: Any, y: ArrayLike) -> RobustMLPRegressor:
        """Train for one epoch on more data.

        Raises:
            ValueError: The number of responses changed, or early stopping is on, which makes no
                sense here.
        """
        if self.early_stopping:
            raise ValueError("early_stopping must be False for partial_fit, found True")
        return self._fit(X, y, incremental=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """The responses of every row: (n,), or (n, k) if y had two axes."""
        scores = self._scores(X)
        return scores[:, 0] if self._one_axis else scores

    def _encode(self, y: Any, dtype: Any, again: bool, classes: Any) -> NDArray[Any]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        responses = y.reshape(len(y), -1).astype(dtype)
        if again and responses.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y must have {self.n_outputs_} responses per row as before, found "
                f"{responses.shape[1]}"
            )
        self.n_outputs_ = responses.shape[1]
        self._one_axis = y.ndim == 1
        return responses

    @property
    def _n_scores(self) -> int:
        return self.n_outputs_

    def _score_of(self, X: Any, targets: NDArray[Any]) -> float:
        predicted = self._forward(X)
        if not np.isfinite(predicted).all():
            return -np.inf  # the check after training names the problem
        return float(r2_score(targets, predicted))
