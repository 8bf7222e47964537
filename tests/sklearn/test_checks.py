"""scikit-learn's own checks of an estimator, none left out."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from chainrob.sklearn import RobustMLPClassifier, RobustMLPRegressor

# Small and quick: the checks fit some hundreds of times.
QUICK = {"hidden_layer_sizes": (20,), "learning_rate_init": 0.01, "max_iter": 25}

# Not parametrize_with_checks: scikit-learn 1.7's gives pytest a generator, which it deprecates.
CHECKS = [
    pytest.param(
        estimator, check, id=f"{kind.__name__}-{check.func.__name__}{check.keywords or ''}"
    )
    for kind in (RobustMLPClassifier, RobustMLPRegressor)
    for estimator, check in estimator_checks_generator(kind(**QUICK))
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
