"""The data and the initial weights of a trial. They depend only on (seed, trial)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler

from chainrob.datasets import Iris, load_iris, random_split
from chainrob.datasets.contamination import choose_rows, push_inputs
from chainrob.experiments.iris.protocol import IrisSettings

__all__ = ["TrialData", "initial_parameters", "trial_data"]

Array = NDArray[np.float64]

# Each purpose has its own random stream. So a change of one leaves the others as they are: the
# splits are the same with and without contamination, and both methods start from the same weights.
_SPLIT, _CONTAMINATION, _WEIGHTS = range(3)


class TrialData(NamedTuple):
    """Data of one trial, in two principal components."""

    x_train: Array
    """(n_train, 2), contaminated."""
    t_train: NDArray[np.int32]
    x_test: Array
    """(150 - n_train, 2), never contaminated."""
    t_test: NDArray[np.int32]
    x_clean: Array
    """(n_train, 2), the training points before the contamination."""
    pushed: NDArray[np.int64]
    """Numbers of the training points that were contaminated."""
    projected: Array
    """(150, 2), all points in the order of the file, before they are scaled."""


@lru_cache(maxsize=1)
def _iris() -> Iris:
    return load_iris()


def _stream(settings: IrisSettings, trial: int, purpose: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(settings.seed, spawn_key=(trial, purpose))


def trial_data(settings: IrisSettings, trial: int) -> TrialData:
    """Split, project, scale and contaminate the Iris data for one trial.

    Args:
        settings: The run's settings.
        trial: Number of the trial, from 0.

    Returns:
        TrialData: float64 inputs and int32 classes.

    Example:
        >>> from chainrob.experiments.iris import iris_settings, trial_data
        >>> data = trial_data(iris_settings(), 0)
        >>> data.x_train.shape, data.x_test.shape, data.pushed.shape
        ((100, 2), (50, 2), (2,))
    """
    x, t, *_ = _iris()
    train, test = random_split(len(x), settings.n_train, _stream(settings, trial, _SPLIT))
    # Each component's largest loading is positive: the sign is part of the definition.
    components = PCA(2, whiten=True, svd_solver="full")
    z = components.fit(x[train] if settings.components_from == "train" else x).transform(x)
    projected = z
    z = MinMaxScaler().fit(z[train] if settings.scaling_from == "train" else z).transform(z)
    pushed = choose_rows(
        settings.n_train, settings.contamination, _stream(settings, trial, _CONTAMINATION)
    )
    x_train, x_test, t_train = push_inputs(z[train], pushed, settings.push), z[test], t[train]
    if settings.inputs == "clipped":
        middle = np.median(x_train, axis=0)
        reach = 3 * np.median(np.abs(x_train - middle), axis=0)
        x_train, x_test = (np.clip(x, middle - reach, middle + reach) for x in (x_train, x_test))
    elif settings.inputs == "good":
        x_train, t_train = np.delete(x_train, pushed, axis=0), np.delete(t_train, pushed)
    return TrialData(
        x_train=x_train,
        t_train=t_train,
        x_test=x_test,
        t_test=t[test],
        x_clean=z[train],
        pushed=pushed,
        projected=projected,
    )


def initial_parameters(settings: IrisSettings, trial: int) -> list[tuple[Array, Array]]:
    """W (outputs, inputs) and b (outputs,) of every layer for one trial, float64.

    Example:
        >>> from chainrob.experiments.iris import initial_parameters, iris_settings
        >>> [W.shape for W, b in initial_parameters(iris_settings(), 0)]
        [(10, 2), (10, 10), (3, 10)]
    """
    rng = np.random.default_rng(_stream(settings, trial, _WEIGHTS))
    parameters = []
    for inputs, outputs in zip(settings.dims, settings.dims[1:], strict=False):
        if settings.initial_weights == "uniform":
            width = settings.half_width
            W = rng.uniform(-width, width, (outputs, inputs))
            b = rng.uniform(-width, width, outputs)
        else:
            W = rng.normal(scale=inputs**-0.5, size=(outputs, inputs))
            b = np.zeros(outputs)
        parameters.append((W, b))
    return parameters
