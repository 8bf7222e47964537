"""Robust multi-layer perceptrons with the interface of scikit-learn."""

from chainrob.sklearn.classifier import RobustMLPClassifier
from chainrob.sklearn.regressor import RobustMLPRegressor

__all__ = ["RobustMLPClassifier", "RobustMLPRegressor"]
