"""Equation (2), Algorithms 1 and 2, and Listings 2 to 4, compared with plain computations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.experiments.iris import ReleasedSoftTruncation
from chainrob.experiments.report import Image, Section, Table, Text, Verdict, lines_alt
from chainrob.links import MLP, Linear
from chainrob.plotting import influence_curve, new_figure
from chainrob.robustifiers import CoordinateMedian, Mean, SoftTruncation
from chainrob.robustifiers.soft_truncation import psi

__all__ = ["estimator_sections", "truncated_mean"]

Array = NDArray[Any]


def truncated_mean(
    rows: Array, delta: float = 0.005, *, ddof: int = 1, floor: float = 0.0
) -> Array:
    """Algorithm 2 written out step by step, to check the library.

    The released program uses ``ddof=0, floor=0.001`` on 1/N-scaled rows.
    """
    n = len(rows)
    mean = rows.sum(axis=0) / n
    variance = np.maximum(((rows - mean) ** 2).sum(axis=0) / (n - ddof), floor)
    s = np.sqrt(n * variance / (2 * np.log(1 / delta)))
    u = (rows - mean) / s
    bent = np.where(np.abs(u) <= np.sqrt(2), u - u**3 / 6, np.sign(u) * 2 * np.sqrt(2) / 3)
    estimate: Array = mean + s / n * bent.sum(axis=0)
    return estimate


def estimator_sections(seed: int = 0) -> list[Section]:
    """The estimator and the layer, compared with the same steps written out."""
    return [_truncation(seed), _algorithm1(seed), _listings(seed)]


def _truncation(seed: int) -> Section:
    rng = np.random.default_rng(seed)
    u = np.linspace(-20, 20, 40001)
    upper = np.log1p(u + u**2 / 2)
    slack = min((upper - psi(u)).min(), (psi(u) + upper[::-1]).min())
    rows = rng.standard_t(2, (100, 1000))
    error = np.abs(SoftTruncation(0.005)(rows) - truncated_mean(rows)).max()
    followed = []
    for far in (1e1, 1e2, 1e4, 1e8):
        bad = rng.standard_normal((100, 1))
        bad[:2] = far
        mean, median = bad.mean(), float(CoordinateMedian()(bad)[0])
        both = [float(SoftTruncation(0.005, pilot=p)(bad)[0]) for p in ("mean", "median")]
        shown = [mean, *both, median]
        followed.append([f"{far:.0e}", *(f"{one:.4g}" for one in shown), f"{both[0] / mean:.3f}"])
    with new_figure(5.2, 3.2) as figure:
        ax = figure.subplots()
        influence_curve(
            [Mean(), SoftTruncation(0.005), SoftTruncation(0.005, pilot="median")], ax=ax
        )
        ax.set_ylim(-6, 6)
        ax.legend(loc="lower right", fontsize=8)
    return Section(
        "Equation (2) and Algorithm 2: soft truncation",
        [
            Text(
                "psi(u) = u - u^3/6 for |u| <= sqrt 2, and +-2 sqrt 2 / 3 beyond. The estimate is "
                "mean + s/n * sum psi((g - mean)/s) with s^2 = n * variance / (2 log(1/delta)), "
                "delta = 0.005."
            ),
            Verdict.of(
                "psi has the bounds that the theory of the estimator needs: "
                "-log(1 - u + u^2/2) <= psi(u) <= log(1 + u + u^2/2)",
                slack >= -1e-12,
                "the least slack on 40,001 points of [-20, 20] is not negative, up to rounding",
                f"least slack {slack:.1e}",
            ),
            Verdict.of(
                "Algorithm 2: `SoftTruncation(delta=0.005)` is the estimate as printed",
                error < 1e-12,
                "the largest difference from the steps written out is below 1e-12 (100 rows x 1000 "
                "coordinates of Student's t with 2 degrees of freedom, float64)",
                f"largest difference {error:.1e}",
            ),
            Text(
                "Here 2 of 100 samples are at M. The estimate as printed follows them like a fixed "
                "share of the plain mean, because its own mean and variance follow them: its "
                "breakdown point is 0. A start from the median, and from the deviations from it, "
                "cures this."
            ),
            Table(
                ["M", "mean", "soft truncation", "with pilot='median'", "median", "share of mean"],
                followed,
            ),
            Image(
                "soft_truncation",
                figure,
                "How far one more sample at z moves the estimate of 50 others (times 51)",
                lines_alt(figure),
            ),
        ],
    )


def _batch(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 2))
    x[:2] *= 100
    return x, rng.integers(0, 3, 60).astype(np.int32)


class _StockNetwork(chainer.Chain):
    """The tutorial's network of stock links."""

    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.l1 = chainer.links.Linear(2, 10)
            self.l2 = chainer.links.Linear(10, 10)
            self.l3 = chainer.links.Linear(10, 3)

    def forward(self, x: Any) -> Any:
        relu = chainer.functions.relu
        return self.l3(relu(self.l2(relu(self.l1(x)))))


def _algorithm1(seed: int) -> Section:
    x, t = _batch(seed)
    step = 0.1
    with chainer.using_config("dtype", np.dtype(np.float64)):
        model = MLP((2, 10, 10, 3), [SoftTruncation(0.005), None, None])
    rng = np.random.default_rng(seed + 1)
    for _, one in sorted(model.namedparams()):  # Chainer's initializers have no seed
        one.array = rng.uniform(-0.5, 0.5, one.shape)
    before = {name: one.array.copy() for name, one in model.namedparams()}
    with chainer.using_config("dtype", np.dtype(np.float64)):
        stock = _StockNetwork()
    rows: dict[str, list[Array]] = {name: [] for name in before}
    for name, parameter in stock.namedparams():
        parameter.array = before[name].copy()
    for i in range(len(x)):  # sample by sample, with Chainer alone
        stock.cleargrads()
        chainer.functions.softmax_cross_entropy(stock(x[i : i + 1]), t[i : i + 1]).backward()
        for name, parameter in stock.namedparams():
            rows[name].append(parameter.grad)
    expected = {}
    for name, gradients in rows.items():
        each = np.stack(gradients).reshape(len(x), -1)
        estimate = truncated_mean(each) if name.startswith("/l1/") else each.mean(axis=0)
        expected[name] = before[name] - step * estimate.reshape(before[name].shape)
    optimizer = chainer.optimizers.SGD(step).setup(model)
    optimizer.update(lambda: chainer.functions.softmax_cross_entropy(model(x), t))
    errors = {n: np.abs(one.array - expected[n]).max() for n, one in model.namedparams()}
    largest = max(errors.values())
    return Section(
        "Algorithm 1: a step with some parameters robust",
        [
            Text(
                "An unmodified optimizer makes one update of the tutorial's network. Only the "
                "first layer has soft truncation. 2 of 60 inputs are 100 times too large. For "
                "comparison, stock Chainer computes the gradient of each sample separately."
            ),
            Table(
                ["parameter", "largest difference"], [[n, f"{e:.1e}"] for n, e in errors.items()]
            ),
            Verdict.of(
                "Algorithm 1: the update is that of the estimates in the index set and of plain "
                "means outside it",
                largest < 1e-12,
                "the largest difference over all parameters is below 1e-12 (float64)",
                f"largest difference {largest:.1e}",
            ),
        ],
    )


def _listings(seed: int) -> Section:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, 4)).astype(np.float32)
    x[:2] *= 1e3
    gy = (rng.standard_normal((100, 5)) / 100).astype(np.float32)
    stock = chainer.links.Linear(4, 5)

    def gradients(robustifier: Any, scope: Any = "layer") -> dict[str, Array]:
        link = Linear(4, 5, robustifier=robustifier, scope=scope)
        link.copyparams(stock)
        return _backward(link, x, gy)

    plain = _backward(stock, x, gy)
    loop = {"W": np.empty_like(plain["W"]), "b": np.empty_like(plain["b"])}
    for q in range(5):  # Listing 4: the output units one by one, on the 1/N-scaled rows
        loop["W"][q] = truncated_mean(gy[:, q, None] * x, ddof=0, floor=0.001)
        loop["b"][q] = truncated_mean(gy[:, q, None], ddof=0, floor=0.001)[0]
    cases = (
        ("Listings 2 and 3: without a robustifier the layer has stock Chainer's gradients",
         gradients(None), plain, 0.0),
        ("Listings 2 and 3: with `Mean()` the layer has stock Chainer's gradients",
         gradients(Mean()), plain, 1e-5),
        ("Listing 4: with the released estimator the layer has the loop's gradients",
         gradients(ReleasedSoftTruncation()), loop, 1e-5),
    )  # fmt: skip
    blocks: list[Any] = [
        Text(
            "The listings' function and link are `chainrob.functions.linear` and "
            "`chainrob.links.Linear`. Their gradients of W and b are compared with those of stock "
            "Chainer, and with the loop over output units of Listing 4. The batch has 100 samples "
            "with 2 large outliers."
        )
    ]
    for claim, ours, theirs, bound in cases:
        error = max(
            float(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max()) for k in theirs
        )
        rule = (
            "the gradients are equal to the last bit"
            if bound == 0
            else f"the relative difference is below {bound:g} (float32)"
        )
        blocks.append(Verdict.of(claim, error <= bound, rule, f"relative difference {error:.1e}"))
    return Section("Listings 2 to 4: the robust layer", blocks)


def _backward(link: Any, x: Array, gy: Array) -> dict[str, Array]:
    link.cleargrads()
    y = link(x)
    y.grad = gy
    y.backward()
    return {"W": link.W.grad, "b": link.b.grad}
