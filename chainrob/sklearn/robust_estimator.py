"""The base of classifier and regressor: parameters, their check, fitting and predicting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

import chainer
from chainrob import robustifiers
from chainrob.sklearn.network_choice import ACTIVATIONS, Network, sample_losses
from chainrob.sklearn.training import make_optimizer, run_epoch, train
from chainrob.training import WeightAverages

SOLVERS = ("sgd", "momentum", "adam")
SCOPES = ("unit", "parameter", "layer", "model")


class RobustMLP(BaseEstimator):
    """Base of ``RobustMLPClassifier`` and ``RobustMLPRegressor``."""

    _losses: tuple[str, ...]
    n_outputs_: int

    # -- where the two differ

    @abstractmethod
    def _encode(self, y: Any, dtype: Any, again: bool, classes: Any) -> NDArray[Any]:
        """Targets as the network sees them.

        It also stores their properties. With ``again`` they must stay the same. ``classes`` are
        those given at the first ``partial_fit``.
        """

    @property
    @abstractmethod
    def _n_scores(self) -> int:
        """The number of units of the last layer."""

    @abstractmethod
    def _score_of(self, X: Any, targets: NDArray[Any]) -> float:
        """The score on encoded targets."""

    # -- fitting

    def _fit(self, X: Any, y: Any, *, incremental: bool, classes: Any = None) -> Any:
        self._check_parameters()
        again = incremental and hasattr(self, "model_")
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric="log_loss" not in self._losses,
            dtype=self.model_.l1.W.dtype if again else (np.float64, np.float32),
            reset=not again,
        )
        targets = self._encode(y, X.dtype, again, classes)
        rng = check_random_state(self.random_state)
        if not again:
            self._start(X, rng)
        rows = np.arange(len(targets))
        held_out = None
        if self.early_stopping:
            rows, held_out = self._split(rows, targets, rng)
        self._check_batches(len(rows))
        averages = WeightAverages(len(targets)) if self.track_suspects else None

        total, epochs = np.zeros(len(targets)), 0

        def epoch() -> NDArray[Any]:
            nonlocal epochs
            order = rng.permutation(rows) if self.shuffle else rows
            losses = run_epoch(
                self.model_,
                self._optimizer,
                lambda scores, chosen: self._sample_losses(scores, targets[chosen]),
                lambda chosen: _dense(X[chosen]),
                order,
                self._batch_size(len(rows)),
                self.alpha,
                averages,
                self.rank_by,
            )
            total[order] += losses
            epochs += 1
            return losses

        if incremental:
            losses = epoch()
            self.n_iter_ += 1
            self.t_ += len(losses)
            self.loss_ = float(losses.mean(dtype=np.float64))
            self.loss_curve_.append(self.loss_)
        else:
            score: Callable[[], float] | None = None
            if held_out is not None:
                X_held, t_held = X[held_out], targets[held_out]
                score = lambda: self._score_of(X_held, t_held)  # noqa: E731
            train(self, epoch, score, self._parameters)
        if not all(np.isfinite(p.array).all() for p in self.model_.params()):
            raise ValueError(
                "training ended with weights that are not finite: scale the inputs, or lower "
                f"learning_rate_init={self.learning_rate_init!r}"
            )
        self.sample_losses_ = np.full(len(targets), np.nan)
        self.sample_losses_[rows] = total[rows] / max(1, epochs)
        if averages is not None:
            self.suspects_ = averages.ranking()
            self.sample_weights_ = averages.weights()
            self.relative_weights_ = averages.relative()
        return self

    def _start(self, X: Any, rng: np.random.RandomState) -> None:
        """A new network and a new optimizer."""
        hidden = self.hidden_layer_sizes
        hidden = (hidden,) if isinstance(hidden, Integral) else tuple(hidden)
        self.model_ = Network(
            (X.shape[1], *(int(size) for size in hidden), self._n_scores),
            self._robustifier(),
            self.scope,
            self.activation,
            X.dtype,
            rng,
        )
        self._optimizer = make_optimizer(
            self.solver,
            self.learning_rate_init,
            self.momentum,
            self.beta_1,
            self.beta_2,
            self.epsilon,
        ).setup(self.model_)
        self.n_layers_ = self.model_.n_layers + 1
        self.n_iter_, self.t_ = 0, 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_: float | None = None

    def _split(
        self, rows: NDArray[Any], targets: NDArray[Any], rng: np.random.RandomState
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        kept, held_out = train_test_split(
            rows,
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=targets if self._losses[0] == "log_loss" else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                f"validation_fraction must leave at least two of the {len(rows)} samples for "
                f"validation, found {self.validation_fraction!r}"
            )
        return np.sort(kept), held_out

    def _parameters(self, values: Any = None) -> Any:
        """A copy of the network's parameters. Called with a copy, restore it."""
        parameters = [p for _, p in sorted(self.model_.namedparams())]
        if values is None:
            return [p.array.copy() for p in parameters]
        for parameter, value in zip(parameters, values, strict=True):
            parameter.array[...] = value
        return None

    def _sample_losses(self, scores: Any, targets: NDArray[Any]) -> chainer.Variable:
        classes = "log_loss" in self._losses
        return sample_losses(self.loss, scores, targets, classes=classes, delta=self.huber_delta)

    def _batch_size(self, n_samples: int) -> int:
        return min(200 if self.batch_size == "auto" else int(self.batch_size), n_samples)

    def _check_batches(self, n_samples: int) -> None:
        """Suspicion compares samples of one batch, and two of them say nothing of each other."""
        smallest = n_samples // max(1, -(-n_samples // self._batch_size(n_samples)))
        if self.track_suspects and self.rank_by == "suspicion" and smallest < 3:
            _refuse(
                "batch_size",
                "leave at least 3 samples in every batch with rank_by='suspicion'",
                self.batch_size,
            )

    def _robustifier(self) -> Callable[[Any], Any] | None:
        if not isinstance(self.robustifier, str):
            return self.robustifier
        try:
            made = robustifiers.parse(self.robustifier)
        except ValueError as error:
            raise ValueError(f"robustifier={self.robustifier!r}: {error}") from error
        if made == robustifiers.AdaptiveMean():  # the loss is known here, as nowhere in a model
            return robustifiers.AdaptiveMean(bounded=self.loss in _BOUNDED)
        return made

    # -- predicting

    def _scores(self, X: Any) -> NDArray[Any]:
        """Outputs of the last layer: (n, Q)."""
        check_is_fitted(self, "model_")
        dtype = self.model_.l1.W.dtype
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)
        return self._forward(X.astype(dtype, copy=False))

    def _forward(self, X: Any) -> NDArray[Any]:
        step = max(1, 1_000_000 // X.shape[1]) if sparse.issparse(X) else X.shape[0]
        with chainer.no_backprop_mode():
            parts = [
                self.model_(_dense(X[start : start + step])).array
                for start in range(0, X.shape[0], step)
            ]
        return np.concatenate(parts)

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """Weight matrices, (inputs, outputs) as in scikit-learn."""
        check_is_fitted(self, "model_")
        return [layer.W.array.T for layer in self.model_.layers]

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """Bias vectors."""
        check_is_fitted(self, "model_")
        return [layer.b.array for layer in self.model_.layers]

    # -- parameters

    def _check_parameters(self) -> None:
        hidden = self.hidden_layer_sizes
        sizes = [hidden] if isinstance(hidden, Integral) else list(hidden)
        if any(not isinstance(size, Integral) or size < 1 for size in sizes):
            _refuse("hidden_layer_sizes", "hold positive integers", hidden)
        for name, known in (
            ("activation", tuple(ACTIVATIONS)),
            ("solver", SOLVERS),
            ("loss", self._losses),
            ("scope", SCOPES),
            ("rank_by", ("weight", "suspicion")),
        ):
            if getattr(self, name) not in known:
                _refuse(name, f"be one of {', '.join(map(repr, known))}", getattr(self, name))
        size = self.batch_size
        if size != "auto" and (not isinstance(size, Integral) or size < 1):
            _refuse("batch_size", "be 'auto' or a positive integer", size)
        for name in ("max_iter", "n_iter_no_change"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                _refuse(name, "be a positive integer", value)
        for name in ("learning_rate_init", "epsilon", "huber_delta"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                _refuse(name, "be a positive number", getattr(self, name))
        for name in ("alpha", "tol"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                _refuse(name, "be a number of at least 0", getattr(self, name))
        for name in ("momentum", "beta_1", "beta_2"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                _refuse(name, "lie in [0, 1)", getattr(self, name))
        if not _is_number(self.validation_fraction) or not 0 < self.validation_fraction < 1:
            _refuse("validation_fraction", "lie strictly between 0 and 1", self.validation_fraction)
        if isinstance(self.robustifier, type) or not (
            self.robustifier is None
            or isinstance(self.robustifier, str)
            or callable(self.robustifier)
        ):
            _refuse("robustifier", "be a robustifier, a name of one, or None", self.robustifier)
        if isinstance(self._robustifier(), robustifiers.PreAggregation):
            rule = "end in what makes one gradient, as in 'bucketing(size=2) >> coordinate_median'"
            _refuse("robustifier", rule, self.robustifier)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_BOUNDED = ("log_loss", "absolute_error")
"""Losses whose derivative is bounded at the size of ordinary ones."""


def _dense(X: Any) -> NDArray[Any]:
    return X.toarray() if sparse.issparse(X) else np.ascontiguousarray(X)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and isfinite(value)


def _refuse(name: str, rule: str, value: Any) -> None:
    raise ValueError(f"{name} must {rule}, found {value!r}")
