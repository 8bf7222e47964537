"""scikit-learn's own checks of an estimator, none left out."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from chainrob.sklearn import RobustMLPClassifier, RobustMLPRegressor

# Small and quick: the checks fit some hundreds of times.
QUICK = {"hidden_layer_sizes": (20,), "learning_rate_init": 0.01, "max_iter": 40}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([RobustMLPClassifier(**QUICK), RobustMLPRegressor(**QUICK)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)
