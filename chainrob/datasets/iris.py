"""Fisher's Iris data, as the UCI repository distributes it."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrob.datasets._files import read_data_file

__all__ = ["Iris", "load_iris"]

_SHA256 = "6f608b71a7317216319b4d27b4d9bc84e6abd734eda7872b71a458569e2656c0"


class Iris(NamedTuple):
    """The Iris data: measurements, classes, and the names of both."""

    x: NDArray[np.float64]
    """Array of shape (150, 4): lengths in centimeters."""
    t: NDArray[np.int32]
    """Array of shape (150,): 0, 1 or 2."""
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


def load_iris(path: str | os.PathLike[str] | None = None) -> Iris:
    """Load Fisher's Iris data, 150 flowers of three species.

    Rows 35 and 38 (counted from 1) are those of UCI's file. They differ from Fisher's article and
    from scikit-learn's copy. ``data/README.md`` gives the source and the license.

    Args:
        path: Another copy of the same file. ``None`` is the library's copy.

    Returns:
        Iris: ``x`` (150, 4) float64 in centimeters, ``t`` (150,) int32, ``feature_names``,
        ``class_names``.

    Raises:
        DataFileError: If the file is missing or its SHA-256 is wrong.

    Example:
        >>> from chainrob.datasets import load_iris
        >>> iris = load_iris()
        >>> iris.x.shape, iris.x[34].tolist(), iris.class_names[iris.t[34]]
        ((150, 4), [4.9, 3.1, 1.5, 0.1], 'setosa')

    References:
        R. A. Fisher (1936). The use of multiple measurements in taxonomic problems. Annals of
        Eugenics 7(2), 179-188. UCI Machine Learning Repository, DOI 10.24432/C56C76 (CC BY 4.0).
    """
    rows = read_data_file("iris/iris.data", _SHA256, path).decode("ascii").split()
    fields = [row.split(",") for row in rows]
    species = tuple(sorted({row[4] for row in fields}))
    return Iris(
        x=np.array([[float(value) for value in row[:4]] for row in fields]),
        t=np.array([species.index(row[4]) for row in fields], dtype=np.int32),
        feature_names=("sepal length", "sepal width", "petal length", "petal width"),
        class_names=tuple(name.removeprefix("Iris-") for name in species),
    )
