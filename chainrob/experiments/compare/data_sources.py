"""The data of the comparison: scikit-learn's data sets, generated data, and the user's files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

__all__ = ["DATA", "DataSource", "Sample", "load_sample", "parse_data"]

Array = NDArray[Any]


class Sample(NamedTuple):
    """Points and their targets."""

    x: Array
    """(n, d), float64."""
    t: Array
    """(n,): classes 0, 1, ... as integers, or responses as floats."""
    truth: Array
    """(n,): the values that tests compare with; for generated data, the responses without noise."""


class DataSource(NamedTuple):
    """A way to load data, and the network and batch size that suit them."""

    load: Callable[[], Sample]
    network: str
    """``linear``, ``mlp16`` (one hidden layer of 16 units) or ``cnn6`` (6 filters of 3 x 3)."""
    batch: int
    pixels: tuple[int, int] | None = None
    """Height and width of images. All features of images are scaled by the same number."""
    classification: bool = True


def _shipped(load: Callable[..., Any]) -> Callable[[], Sample]:
    def read() -> Sample:
        x, t = load(return_X_y=True)
        return Sample(np.asarray(x, np.float64), np.asarray(t), np.asarray(t))

    return read


def clusters(n: int = 1000, d: int = 10, classes: int = 5, seed: int = 11) -> Sample:
    """Normal clusters of unit variance whose centers are normal with deviation 1.5."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(scale=1.5, size=(classes, d))
    t = rng.integers(0, classes, n)
    return Sample(centers[t] + rng.normal(size=(n, d)), t, t)


def plane(n: int = 800, d: int = 20, seed: int = 12) -> Sample:
    """Linear regression: normal inputs, equal weights, and noise of a third of the signal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    truth = x @ (np.ones(d) / np.sqrt(d))
    return Sample(x, truth + rng.normal(scale=1 / 3, size=n), truth)


def friedman(n: int = 1000, seed: int = 13) -> Sample:
    """Friedman's first function of five of ten uniform inputs, with normal noise."""
    x, truth = datasets.make_friedman1(n, 10, noise=0.0, random_state=seed)
    return Sample(x, truth + np.random.default_rng(seed).normal(size=n), truth)


def strokes(n: int = 800, side: int = 6, seed: int = 14) -> Sample:
    """Noisy images of one stroke, which is horizontal, vertical or on one of the diagonals."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 4, n)
    rows, columns = np.indices((side, side))
    across = np.stack([rows, columns, rows - columns, rows + columns])[t]
    middle = np.array([side / 2, side / 2, 0.0, side - 1.0])[t] + rng.integers(-1, 2, n)
    stroke = np.abs(across - middle[:, None, None]) < 1
    x = stroke + rng.normal(scale=0.4, size=stroke.shape)
    return Sample(x.reshape(n, -1), t, t)


DATA: dict[str, DataSource] = {
    "iris": DataSource(_shipped(datasets.load_iris), "mlp16", 32),
    "wine": DataSource(_shipped(datasets.load_wine), "linear", 32),
    "breast_cancer": DataSource(_shipped(datasets.load_breast_cancer), "mlp16", 64),
    "digits": DataSource(_shipped(datasets.load_digits), "mlp32", 64, (8, 8)),
    "clusters": DataSource(clusters, "linear", 128),
    "strokes": DataSource(strokes, "cnn4", 32, (6, 6)),
    "diabetes": DataSource(_shipped(datasets.load_diabetes), "linear", 64, None, False),
    "plane": DataSource(plane, "linear", 64, None, False),
    "friedman": DataSource(friedman, "mlp16", 64, None, False),
}
"""Data sets by name. scikit-learn ships the first four and diabetes; the others are generated."""


def parse_data(text: str) -> DataSource:
    """The data set that a text names: ``NAME`` or a file, then options after colons.

    A file is CSV (a header, then numbers; the last column is the target) or NPZ (arrays ``x`` and
    ``t``). Targets that are integers or texts are classes; other numbers are responses. Options:
    ``target=COLUMN``, ``network=linear|mlpN|cnnN``, ``batch=N``, ``task=classification|regression``
    and, for images in rows, ``pixels=HxW``.

    Raises:
        ValueError: If there is no such name or file, or an option is wrong.

    Example:
        >>> from chainrob.experiments.compare.data_sources import parse_data
        >>> parse_data("digits:network=cnn8:batch=32").network
        'cnn8'
    """
    name, *options = text.split(":")
    given = dict(option.partition("=")[::2] for option in options)
    unknown = sorted(set(given) - {"target", "network", "batch", "task", "pixels"})
    if unknown:
        raise ValueError(f"data {text!r}: unknown option {', '.join(unknown)}")
    if name in DATA:
        if {"target", "task", "pixels"} & set(given):
            raise ValueError(f"data {text!r}: target, task and pixels are only for files")
        source = DATA[name]
    elif Path(name).suffix.lower() in (".csv", ".npz"):
        source = _file(Path(name), given)
    else:
        raise ValueError(
            f"unknown data {name!r}; known data are {', '.join(DATA)}, and files *.csv and *.npz"
        )
    source = source._replace(network=given.get("network", source.network))
    if "batch" in given:
        if not given["batch"].isdigit() or int(given["batch"]) < 2:
            raise ValueError(
                f"data {text!r}: batch must be an integer of at least 2, found {given['batch']!r}"
            )
        source = source._replace(batch=int(given["batch"]))
    if not re.fullmatch(r"linear|(mlp|cnn)[1-9]\d*", source.network):
        raise ValueError(
            f"data {text!r}: network must be linear, mlpN or cnnN, found {source.network!r}"
        )
    if source.network.startswith("cnn") and source.pixels is None:
        raise ValueError(f"data {text!r}: a cnn needs images; give pixels=HxW")
    return source


@lru_cache(maxsize=16)
def load_sample(text: str) -> Sample:
    """The data of ``parse_data``. Each process reads them once."""
    return parse_data(text).load()


def _file(path: Path, given: dict[str, str]) -> DataSource:
    try:
        x, t = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path, given)
    except (OSError, KeyError, ValueError, StopIteration) as error:
        raise ValueError(f"data {path} cannot be read: {error}") from error
    if x.ndim != 2 or len(x) != len(t) or len(x) < 20 or not np.isfinite(x).all():
        raise ValueError(
            f"data {path}: inputs must be (n, d) finite numbers with n >= 20 targets, found "
            f"{x.shape} and {t.shape}"
        )
    task = given.get("task", "classification" if t.dtype.kind in "iubUS" else "regression")
    if task not in ("classification", "regression"):
        raise ValueError(f"data {path}: task must be classification or regression, found {task!r}")
    if task == "classification":
        t = np.unique(t, return_inverse=True)[1].reshape(-1)
    else:
        t = t.astype(np.float64)
    pixels = None
    if "pixels" in given:
        size = re.fullmatch(r"(\d+)x(\d+)", given["pixels"])
        if size is None or int(size[1]) * int(size[2]) != x.shape[1]:
            raise ValueError(
                f"data {path}: pixels must be HxW with H * W = {x.shape[1]}, found "
                f"{given['pixels']!r}"
            )
        pixels = (int(size[1]), int(size[2]))
    return DataSource(
        lambda: Sample(x.astype(np.float64), t, t), "mlp16", 64, pixels, task == "classification"
    )


def _read_npz(path: Path) -> tuple[Array, Array]:
    with np.load(path, allow_pickle=False) as content:
        names = [pair for pair in (("x", "t"), ("X", "y")) if set(pair) <= set(content.files)]
        if not names:
            raise KeyError(f"it must hold x and t (or X and y), found {content.files}")
        x, t = (content[name] for name in names[0])
    return x.reshape(len(x), -1), t.reshape(-1)


def _read_csv(path: Path, given: dict[str, str]) -> tuple[Array, Array]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    header, rows = rows[0], [row for row in rows[1:] if row]
    target = given.get("target", header[-1])
    if target not in header:
        raise KeyError(f"no column {target!r}; there are {header}")
    at = header.index(target)
    x = np.array([[float(v) for i, v in enumerate(row) if i != at] for row in rows])
    texts = [row[at] for row in rows]
    for kind in (int, float):
        try:
            return x, np.array([kind(text) for text in texts])
        except ValueError:
            continue
    return x, np.array(texts)
