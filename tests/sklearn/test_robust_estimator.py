from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import chainrob
import chainer
from chainrob.datasets import contamination
from chainrob.sklearn import RobustMLPClassifier, RobustMLPRegressor
from chainrob.sklearn.network_choice import sample_losses
from chainrob.sklearn.training import Course, batches

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = np.array(["a", "b", "c"])[(X @ RNG.normal(size=(3, 3))).argmax(axis=1)]
R = X @ [1.0, -2.0, 0.5]


def quick(kind, **parameters):
    return kind((8,), max_iter=30, random_state=0, learning_rate_init=0.01, **parameters)


# -- against scikit-learn's own network


@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_the_plain_mean_trains_like_scikit_learns_network(solver, activation):
    """Same parameters to begin with, same batches, same penalty: the same parameters after."""
    common = {
        "hidden_layer_sizes": (6, 5),
        "activation": activation,
        "alpha": 0.3,
        "learning_rate_init": 0.01,
        "shuffle": False,
        "max_iter": 7,
        "batch_size": 40,
        "random_state": 0,
    }
    ours = RobustMLPRegressor(robustifier=chainrob.Mean(), solver=solver, **common)
    ours.partial_fit(X, R)
    theirs = MLPRegressor(
        solver="adam" if solver == "adam" else "sgd",
        momentum=0.9 if solver == "momentum" else 0.0,
        nesterovs_momentum=False,
        **common,
    )
    theirs.partial_fit(X, R)
    for mine, other in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        other[...] = mine  # the optimizers' states go on from the same first step
    fresh_ours = pickle.loads(pickle.dumps(ours))
    fresh_ours._optimizer = type(ours._optimizer)(0.01).setup(fresh_ours.model_)
    del theirs._optimizer
    for _ in range(5):
        fresh_ours.partial_fit(X, R)
        theirs.partial_fit(X, R)
    for mine, other in zip(
        fresh_ours.coefs_ + fresh_ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_predictions_are_those_of_scikit_learns_network_with_the_same_weights():
    ours = quick(RobustMLPClassifier).fit(X, Y)
    theirs = MLPClassifier((8,), max_iter=1, random_state=0).fit(X, Y)
    theirs.coefs_, theirs.intercepts_ = ours.coefs_, ours.intercepts_
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(np.exp(ours.predict_log_proba(X)), ours.predict_proba(X))


# -- losses


@pytest.mark.parametrize("loss", ["log_loss", "squared_error", "absolute_error", "huber"])
def test_losses_of_classes(loss):
    scores = RNG.normal(size=(6, 4)) * 3
    t = RNG.integers(0, 4, 6).astype(np.int32)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    e = p - np.eye(4)[t]
    delta = 0.4
    expected = {
        "log_loss": -np.log(p[np.arange(6), t]),
        "squared_error": 0.5 * (e**2).sum(axis=1),
        "absolute_error": abs(e).sum(axis=1),
        "huber": np.where(abs(e) < delta, 0.5 * e**2, delta * (abs(e) - delta / 2)).sum(axis=1),
    }[loss]
    found = sample_losses(loss, chainer.Variable(scores), t, classes=True, delta=delta)
    np.testing.assert_allclose(found.array, expected)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_losses_of_numbers(loss):
    scores, t = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 2))
    e, delta = scores - t, 0.7
    expected = {
        "squared_error": 0.5 * (e**2).mean(axis=1),
        "absolute_error": abs(e).mean(axis=1),
        "huber": np.where(abs(e) < delta, 0.5 * e**2, delta * (abs(e) - delta / 2)).mean(axis=1),
    }[loss]
    found = sample_losses(loss, chainer.Variable(scores), t, classes=False, delta=delta)
    np.testing.assert_allclose(found.array, expected)


@pytest.mark.parametrize("loss", ["log_loss", "squared_error", "absolute_error", "huber"])
def test_every_loss_learns_to_classify(loss):
    model = RobustMLPClassifier(
        (16,), loss=loss, learning_rate_init=0.02, max_iter=100, random_state=0
    )
    assert model.fit(X, Y).score(X, Y) > 0.85


# -- robustness


def test_bad_responses_do_not_move_the_robust_regressor():
    y, rows = contamination.shift_responses(R, 0.1, shift=50, seed=0)
    robust = RobustMLPRegressor(
        (), robustifier="geometric_median", solver="sgd", learning_rate_init=0.3, random_state=0
    ).fit(X, y)
    plain = clone(robust).set_params(robustifier=None).fit(X, y)
    assert robust.score(X, R) > 0.99
    assert plain.score(X, R) < 0
    assert set(robust.suspects_[: len(rows)].tolist()) == set(rows.tolist())
    assert plain.suspects_.size == 0
    assert np.isnan(plain.sample_weights_).all()


def test_suspicion_finds_wrong_labels_beside_the_plain_mean():
    y = np.array(["a", "b", "c"])[(5 * X).argmax(axis=1)]
    wrong = np.arange(8)
    y[wrong] = np.where(y[wrong] == "a", "b", "a")
    model = RobustMLPClassifier(
        (),
        robustifier=chainrob.Mean(),
        rank_by="suspicion",
        learning_rate_init=0.05,
        random_state=0,
    ).fit(X, y)
    assert np.isin(model.suspects_[:8], wrong).sum() >= 7
    assert 0 <= model.sample_weights_.min() <= model.sample_weights_.max() <= 1
    with pytest.raises(ValueError, match="rank_by must be one of 'weight', 'suspicion'"):
        quick(RobustMLPClassifier, rank_by="loss").fit(X, y)
    with pytest.raises(ValueError, match=r"batch_size must leave at least 3 samples .* found 2"):
        quick(RobustMLPClassifier, rank_by="suspicion", batch_size=2).fit(X, y)


def test_outliers_have_no_say_in_when_training_stops():
    """As the fit gets better the few outliers' loss grows; training must go on all the same."""
    y, _ = contamination.shift_responses(R, 0.05, shift=1000, seed=0)
    model = RobustMLPRegressor(
        (),
        robustifier=chainrob.TrimmedMean(fraction=0.1),
        solver="sgd",
        learning_rate_init=0.05,
        max_iter=500,
        random_state=0,
    ).fit(X, y)
    assert model.score(X, R) > 0.99


def test_held_out_samples_have_no_weight():
    model = quick(RobustMLPClassifier, early_stopping=True, validation_fraction=0.25).fit(X, Y)
    assert np.isnan(model.sample_weights_).sum() == 30
    assert len(model.suspects_) == 90
    assert not np.isnan(model.sample_weights_[model.suspects_]).any()
    assert np.isnan(model.sample_losses_).sum() == 30
    assert quick(RobustMLPClassifier, track_suspects=False).fit(X, Y).__dict__.get("suspects_") is (
        None
    )


def test_sample_losses_are_the_mean_of_those_in_the_epochs():
    model = quick(RobustMLPClassifier, robustifier=None).fit(X, Y)
    assert model.sample_losses_.mean() == pytest.approx(np.mean(model.loss_curve_), rel=1e-6)


def test_early_stopping_keeps_the_parameters_that_scored_best():
    model = quick(
        RobustMLPRegressor, early_stopping=True, n_iter_no_change=3, batch_size=10
    ).set_params(learning_rate_init=0.1, max_iter=200)
    model.fit(X, R)
    assert model.n_iter_ < 200
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    assert model.score(X, R) > 0.9


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer", "model"])
def test_scopes(scope):
    model = quick(RobustMLPClassifier, robustifier=chainrob.GeometricMedian(tolerance=1e-4))
    model.set_params(scope=scope, learning_rate_init=0.05).fit(X, Y)
    assert model.score(X, Y) > 0.6
    copy = pickle.loads(pickle.dumps(model)).partial_fit(X, Y)
    np.testing.assert_allclose(copy.coefs_[0], model.partial_fit(X, Y).coefs_[0])


# -- the interface


@pytest.mark.parametrize("kind", [RobustMLPClassifier, RobustMLPRegressor])
def test_the_same_random_state_gives_the_same_model_whatever_the_global_stream_does(kind):
    y = Y if kind is RobustMLPClassifier else R
    first = quick(kind).fit(X, y)
    np.random.random(10)  # noqa: NPY002
    second = clone(first).fit(X, y)
    for one, other in zip(first.coefs_, second.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.suspects_, second.suspects_)
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    quick(kind).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_the_data_is_kept(dtype):
    model = quick(RobustMLPClassifier).fit(X.astype(dtype), Y)
    assert model.coefs_[0].dtype == model.predict_proba(X.astype(dtype)).dtype == dtype
    assert quick(RobustMLPRegressor).fit(X.astype(dtype), R).predict(X).dtype == dtype


def test_sparse_and_dense_data_give_the_same_model():
    dense = quick(RobustMLPClassifier).fit(X, Y)
    thin = quick(RobustMLPClassifier).fit(sparse.csr_array(X), Y)
    np.testing.assert_array_equal(dense.coefs_[0], thin.coefs_[0])
    np.testing.assert_allclose(dense.predict_proba(X), thin.predict_proba(sparse.csr_array(X)))


def test_several_responses():
    y = np.stack([R, -R, X[:, 0]], axis=1)
    model = quick(RobustMLPRegressor).fit(X, y)
    assert model.predict(X).shape == (120, 3)
    assert model.n_outputs_ == 3
    assert quick(RobustMLPRegressor).fit(X, R).predict(X).shape == (120,)
    with pytest.raises(ValueError, match="y must have 3 responses per row as before, found 1"):
        model.partial_fit(X, R)


def test_pickle_clone_pipeline_and_grid_search_over_robustifiers():
    choices = ["mean", chainrob.TrimmedMean(fraction=0.1), chainrob.SoftTruncation(delta=0.1), None]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(RobustMLPClassifier)),
        {"robustmlpclassifier__robustifier": choices},
        cv=3,
    )
    with joblib.parallel_config(backend="threading", n_jobs=2):
        search.fit(X, Y)
    alone = clone(search).fit(X, Y)
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(search.cv_results_[key], alone.cv_results_[key])
    assert search.best_params_["robustmlpclassifier__robustifier"] in choices
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert clone(search).get_params()["estimator__robustmlpclassifier__alpha"] == 0.0001


def test_a_pickled_model_goes_on_as_if_it_had_not_been_pickled():
    model = quick(RobustMLPClassifier).partial_fit(X, Y, classes=["a", "b", "c", "d"])
    copy = pickle.loads(pickle.dumps(model))
    for one in (model, copy):
        one.random_state = 3
        one.partial_fit(X, Y).partial_fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], copy.coefs_[0])
    assert model.predict_proba(X).shape == (120, 4)
    assert model.n_iter_ == 3
    assert model.t_ == 360


def test_partial_fit_says_what_it_needs():
    with pytest.raises(ValueError, match="classes must be given at the first call"):
        quick(RobustMLPClassifier).partial_fit(X, Y)
    model = quick(RobustMLPClassifier).partial_fit(X, Y, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"must stay the same as .*\['a', 'b'\]"):
        model.partial_fit(X, Y, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"y must hold the classes .* only, found \['z'\]"):
        model.partial_fit(X, np.where(Y == "a", "z", Y))
    with pytest.raises(ValueError, match="early_stopping must be False"):
        quick(RobustMLPRegressor, early_stopping=True).partial_fit(X, R)


def test_robustifiers_by_expression():
    text = "bucketing:size=2 >> trimmed_mean(count=5)"
    named = quick(RobustMLPClassifier, robustifier=text).fit(X, Y)
    robust = chainrob.Bucketing(2) >> chainrob.TrimmedMean(count=5)
    made = quick(RobustMLPClassifier, robustifier=robust).fit(X, Y)
    np.testing.assert_array_equal(named.predict_proba(X), made.predict_proba(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes must .*found \(3, 0\)"),
        ({"loss": "hinge"}, "loss must be one of .*'log_loss'.*found 'hinge'"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"solver": "lbfgs"}, "solver must be one of 'sgd', 'momentum', 'adam', found 'lbfgs'"),
        ({"scope": "net"}, "scope must be one of"),
        ({"batch_size": 0}, "batch_size must be 'auto' or a positive integer, found 0"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        (
            {"learning_rate_init": -1.0},
            r"learning_rate_init must be a positive number, found -1\.0",
        ),
        ({"alpha": np.nan}, "alpha must be a number of at least 0, found nan"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie strictly"),
        (
            {"robustifier": "medoid"},
            "robustifier='medoid': name must be one of .*krum.*trimmed_mean.*; found 'medoid'",
        ),
        (
            {"robustifier": "trimmed_mean"},
            "robustifier='trimmed_mean': TrimmedMean: give either fraction or count",
        ),
        (
            {"robustifier": "krum"},
            r"robustifier='krum': krum: parameter 'f' is missing; write krum\(f=...\), or take "
            r"chainrob.robustifiers.default\('krum', n_samples\)",
        ),
        (
            {"robustifier": "bucketing"},
            r"robustifier must end in what makes one gradient.*found 'bucketing'",
        ),
        ({"robustifier": 3}, "robustifier must be a robustifier, a name of one, or None, found 3"),
        ({"robustifier": chainrob.Mean}, "robustifier must be"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "validation|test_size|classes"),
    ],
)
def test_bad_parameters_are_refused_when_fitting(parameters, message):
    model = RobustMLPClassifier(max_iter=1).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)


def test_a_classifiers_loss_is_no_regressors_loss():
    with pytest.raises(ValueError, match="loss must be one of 'squared_error'"):
        RobustMLPRegressor(loss="log_loss").fit(X, R)


def test_a_training_that_diverges_is_an_error():
    model = RobustMLPRegressor(robustifier=None, solver="sgd", learning_rate_init=1e6)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"not finite: .* learning_rate_init=1000000\.0"),
    ):
        model.fit(X, R)


def test_progress_is_printed(capsys):
    quick(RobustMLPClassifier, verbose=True, early_stopping=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Iteration 1, loss = ")
    assert "validation score = " in lines[0]


def test_a_model_that_could_get_better_is_a_convergence_warning():
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        RobustMLPClassifier(max_iter=2).fit(X, Y)


# -- parts of the loop


@pytest.mark.parametrize(("n", "size", "sizes"), [(10, 4, [4, 3, 3]), (4, 9, [4]), (6, 3, [3, 3])])
def test_batches_are_nearly_equal(n, size, sizes):
    order = RNG.permutation(n)
    parts = list(batches(order, size))
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate(parts), order)


def test_patience():
    course = Course(tol=0.1, patience=2)
    assert [course.improved(v) for v in (3.0, 2.0, 1.95, 2.5)] == [True, True, True, False]
    assert not course.finished
    course.improved(1.9)
    assert course.finished


@pytest.mark.parametrize(
    ("kind", "loss", "bounded"),
    [
        (RobustMLPClassifier, "log_loss", True),
        (RobustMLPRegressor, "huber", False),
        (RobustMLPRegressor, "absolute_error", True),
        (RobustMLPRegressor, "squared_error", False),
    ],
)
def test_the_default_is_told_whether_the_loss_is_bounded(kind, loss, bounded):
    model = quick(kind, loss=loss, robustifier="adaptive_mean")
    model.fit(X, Y if kind is RobustMLPClassifier else R)
    assert model.model_.layers[0].robustifier == chainrob.AdaptiveMean(bounded=bounded)
