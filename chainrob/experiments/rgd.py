"""Holland and Ikeda's synthetic linear regression: excess risk over the iterations."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import chainer
from chainrob.experiments.descent import descend
from chainrob.experiments.engine import Run
from chainrob.experiments.files import save_figure, write_json
from chainrob.experiments.tables import write_csv
from chainrob.links import Ensemble, Linear
from chainrob.plotting import learning_curves, new_figure
from chainrob.robustifiers import MEstimator
from chainrob.statistics import bootstrap_interval

__all__ = ["METHODS", "NOISES", "RgdResults", "RgdSettings", "figure_rgd", "run_rgd"]

Array = NDArray[np.float64]

NOISES = ("normal", "lognormal")
METHODS = ("mean", "oracle", "robust")


@dataclass(frozen=True, kw_only=True)
class RgdSettings:
    """Settings; the defaults are the published ones.

    Args:
        trials: Data sets for each kind of noise.
        n: Points in a data set.
        d: Parameters.
        iterations: Updates.
        step: Step size of the gradient descent.
        start: All trials start at one point. Each of its coordinates is uniform within +-start of
            the optimum's.
        sigma: Standard deviation of the normal noise.
        log_sigma: Standard deviation of the logarithm of the log-normal noise, which is
            centered at its mean.
        delta: Confidence parameter of the M-estimator.
        seed: Seed of all random numbers.

    Raises:
        ValueError: If a number is out of range.
    """

    trials: int = 250
    n: int = 500
    d: int = 2
    iterations: int = 45
    step: float = 0.1
    start: float = 5.0
    sigma: float = 20.0
    log_sigma: float = 1.75
    delta: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "n", "d", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        for name in ("step", "start", "sigma", "log_sigma"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(
                    f"{name} must be finite and positive, found {getattr(self, name)!r}"
                )


@dataclass(frozen=True, eq=False)
class RgdResults:
    """Excess risks: for each (noise, method) an array (trials, iterations + 1)."""

    settings: RgdSettings
    excess_risk: dict[tuple[str, str], Array]

    def final(self) -> dict[str, dict[str, Any]]:
        """Last excess risk by noise and method: mean, 95% interval, standard deviation.

        ``robust - mean`` is the paired difference of the two methods. Its interval tells whether
        one of them is better on the same data.
        """
        final: dict[str, dict[str, Any]] = {}
        for noise in NOISES:
            last = {method: self.excess_risk[noise, method][:, -1] for method in METHODS}
            last["robust - mean"] = last["robust"] - last["mean"]
            final[noise] = {
                name: {
                    "mean": float(values.mean()),
                    "interval": bootstrap_interval(values).tolist(),
                    "standard_deviation": float(values.std()),
                }
                for name, values in last.items()
            }
        return final


def run_rgd(
    settings: RgdSettings | None = None, out: str | os.PathLike[str] | None = None
) -> RgdResults:
    r"""Gradient descent on the squared loss with the mean, the true, and a robust gradient.

    .. math:: y = x^\top w^* + \varepsilon, \quad x \sim N(0, I_d), \qquad
        R(w) - R(w^*) = \tfrac12 \|w - w^*\|^2

    with :math:`w^* = (1, \dots, 1)` and the loss :math:`\tfrac12 (y - x^\top w)^2`. The robust
    gradient is that of ``chainrob.links.Linear`` with ``MEstimator``. All trials of both methods
    are trained in one graph. The oracle knows the gradient of the risk, w - w*.

    Args:
        settings: The settings; None takes the published ones.
        out: Folder for ``rgd.csv``, ``rgd.json`` and the figure ``rgd``.

    Returns:
        RgdResults: All excess risks.

    Raises:
        UsageError: If the folder cannot be used.

    Example:
        >>> from chainrob.experiments.rgd import RgdSettings, run_rgd
        >>> results = run_rgd(RgdSettings(trials=5, iterations=3))
        >>> results.excess_risk["lognormal", "robust"].shape
        (5, 4)

    References:
        M. J. Holland and K. Ikeda, Efficient learning with robust gradient descent, Machine
        Learning 108, 2019, section on controlled tests. Start, inputs and delta are those of the
        authors' demonstration program.
    """
    settings = settings or RgdSettings()
    the_run = Run(asdict(settings), out)
    excess = {}
    streams = np.random.SeedSequence(settings.seed).spawn(1 + len(NOISES))
    start = np.random.default_rng(streams[0]).uniform(-settings.start, settings.start, settings.d)
    for noise, stream in zip(NOISES, streams[1:], strict=True):
        x, epsilon = _data(settings, noise, np.random.default_rng(stream))
        learned = _descend(settings, x, epsilon, start)
        oracle = start * (1 - settings.step) ** np.arange(settings.iterations + 1)[:, None]
        learned["oracle"] = np.broadcast_to(oracle, learned["mean"].shape)
        for method in METHODS:
            excess[noise, method] = 0.5 * (learned[method] ** 2).sum(axis=-1)
    results = RgdResults(settings, excess)
    if the_run.folder is not None and the_run.kept is not None:
        columns = ("noise", "method", "trial", "iteration", "excess_risk")
        rows = (
            (*key, trial, time, value)
            for key, curves in excess.items()
            for trial, curve in enumerate(curves.tolist())
            for time, value in enumerate(curve)
        )
        write_csv(the_run.folder / "rgd.csv", columns, rows)
        write_json(the_run.folder / "rgd.json", {**the_run.record(), "final": results.final()})
        save_figure(figure_rgd(results), the_run.folder / "rgd")
        the_run.kept.remove()
    return results


def _data(settings: RgdSettings, noise: str, rng: np.random.Generator) -> tuple[Array, Array]:
    shape = (settings.trials, settings.n)
    x = rng.standard_normal((*shape, settings.d))
    if noise == "normal":
        return x, rng.normal(0, settings.sigma, shape)
    mean = np.exp(settings.log_sigma**2 / 2)
    return x, rng.lognormal(0, settings.log_sigma, shape) - mean


def _descend(settings: RgdSettings, x: Array, epsilon: Array, start: Array) -> dict[str, Array]:
    """w - w* after every update, (trials, iterations + 1, d), by method.

    The trained parameters are w - w*. With epsilon as the responses, the gradients are the same.
    """
    methods = {"mean": None, "robust": MEstimator(delta=settings.delta)}
    models = []
    for robustifier in methods.values():
        one = Linear(settings.d, 1, nobias=True, robustifier=robustifier)
        one.W.array = start[None].copy()
        models += [one] * settings.trials
    model = Ensemble(models)
    inputs = np.concatenate([x] * len(methods))
    targets = np.concatenate([epsilon] * len(methods))[..., None]
    optimizer = chainer.optimizers.SGD(settings.step).setup(model)
    W = model.model.W
    passed = [W.array[:, 0].copy()]

    def backward(_: int, y: chainer.Variable) -> None:
        y.grad = (y.array - targets) / settings.n  # the loss is the mean of half the squares
        y.backward()

    descend(
        optimizer, settings.iterations, lambda _: model(inputs), backward,
        updated=lambda _: passed.append(W.array[:, 0].copy()),
    )  # fmt: skip
    split = np.stack(passed, axis=1).reshape(len(methods), settings.trials, -1, settings.d)
    return dict(zip(methods, split, strict=True))


def figure_rgd(results: RgdResults) -> Figure:
    """Mean excess risk over the iterations, with 95% bands, for both kinds of noise."""
    titles = {"normal": "normal noise", "lognormal": "log-normal noise"}
    times = np.arange(results.settings.iterations + 1)
    with new_figure(8.4, 3.4) as figure:
        for ax, noise in zip(figure.subplots(1, 2), NOISES, strict=True):
            curves = {method: results.excess_risk[noise, method] for method in METHODS}
            learning_curves(times, curves, ax=ax)
            ax.set(title=titles[noise], xlabel="iteration", ylabel="excess risk", yscale="log")
        figure.axes[0].legend()
    return figure
