"""Time and memory of one robust Linear layer, forward and backward, beside the stock layer.

    python benchmarks/linear.py [--sizes 256x784x1000,...] [--repeat 15] [--threads 2] [--out DIR]

All cases run in this process, in turn, the stock layer right before each; a case's ratio is the
median over the rounds of its time over that of the stock layer just before, so that a busy
neighbor slows both alike. Sizes are N x P x Q, float32; the gradient of the input is computed too.
Beside the layers: a step of a deep network with a robustifier in every layer, the tutorial's loop
over output units, and published packages where they are installed (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOALS = {
    "SoftTruncation(delta=0.005)": 2.0,
    "AdaptiveMean()": 1.5,
    "GeometricMedian()": 1.5,
    "MedianOfMeans(n_blocks=11)": 2.0,
    "Krum(f=12)": 1.5,
    "MultiKrum(f=12)": 1.5,
    "CenteredClipping()": 1.5,
    "MEstimator(rho='gudermannian')": 8.0,
    "TrimmedMean(fraction=0.1)": 15.0,
    "CoordinateMedian()": 15.0,
}
TINY, GOAL_OF_TINY = 1_000_000, 2.0
STOCK, LOOP = "stock layer", "the tutorial's loop"


def main() -> int:
    options = arguments()
    # Libraries read these when they are imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    sys.path.insert(0, str(ROOT))
    import chainrob  # noqa: F401 (before NumPy, as README asks)

    results: dict[str, Any] = {"machine": machine(options.threads), "sizes": {}}
    print(json.dumps(results["machine"], indent=2))
    for text in options.sizes.split(","):
        n, p, q = map(int, text.split("x"))
        rows = layers(n, p, q, options)
        results["sizes"][text] = rows
        show(f"N = {n}, {p} -> {q}", rows, GOAL_OF_TINY if n * p * q < TINY else None)
    if options.deep:
        results["deep"] = deep(options)
        show("a step of 784 -> 1000 -> 1000 -> 10, N = 256, a robustifier in every layer",
             results["deep"])  # fmt: skip
    results["packages"] = packages()
    if options.out is not None:
        write(results, options.out)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="256x784x1000,64x784x1000,1024x784x1000,100x2x10")
    parser.add_argument("--repeat", type=int, default=15, help="rounds (ten times that if tiny)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of linear.json and linear.png")
    parser.add_argument("--only", default="", help="cases whose name contains this, and the stock")
    parser.add_argument("--no-loop", dest="loop", action="store_false", help="skip the slow loop")
    parser.add_argument("--no-deep", dest="deep", action="store_false")
    return parser.parse_args()


def robustifiers(n: int) -> list[Any]:
    import chainrob as c

    few = n // 20
    family = [
        c.Mean(),
        c.SoftTruncation(),
        c.SoftTruncation(pilot="median"),
        c.MEstimator(),
        c.CoordinateMedian(),
        c.TrimmedMean(fraction=0.1),
        c.WinsorizedMean(fraction=0.1),
        c.MeanAroundMedian(few),
        c.Phocas(few),
        c.MedianOfMeans(11),
        c.MedianOfMeans(11, center="coordinate"),
        c.AdaptiveMean(),
        c.GeometricMedian(),
        c.Krum(few),
        c.MultiKrum(few),
        c.CenteredClipping(),
        c.CAF(few),
    ]
    return [one for one in family if few > 0 or not hasattr(one, "f")]


def layers(n: int, p: int, q: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases at one size."""
    import numpy as np

    import chainrob
    import chainer

    rng = np.random.default_rng(0)
    x = chainer.Variable(rng.normal(size=(n, p)).astype(np.float32))
    gy = (rng.normal(size=(n, q)) / n).astype(np.float32)

    def step(layer: Any) -> Callable[[], None]:
        def run() -> None:
            layer.cleargrads()
            x.cleargrad()
            y = layer(x)
            y.grad = gy
            y.backward()

        return run

    cases = {STOCK: step(chainer.links.Linear(p, q))}
    for one in robustifiers(n):
        cases[repr(one)] = step(chainrob.links.Linear(p, q, robustifier=one))
    cases = chosen(cases, options.only)
    tiny = n * p * q < TINY
    timed = rounds(cases, options.repeat * (4 if tiny else 1), 10 if tiny else 1)
    batch = 4 * n * (p + q)
    for row in timed if not tiny else ():
        row["extra_memory_in_gW"] = (peak(cases[row["case"]]) - batch) / (4 * p * q)
    if options.loop and LOOP.find(options.only) >= 0:
        timed.append(loop(x.array, gy, next(row["median_s"] for row in timed)))
    return timed


def deep(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A training step of a multi-layer perceptron."""
    import numpy as np

    import chainrob
    import chainer

    dims, n = (784, 1000, 1000, 10), 256
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dims[0])).astype(np.float32)
    t = rng.integers(0, dims[-1], size=n).astype(np.int32)

    def step(robustifier: Any) -> Callable[[], None]:
        model = chainrob.links.MLP(dims, robustifier)
        optimizer = chainer.optimizers.SGD(0.01).setup(model)
        return lambda: optimizer.update(
            lambda: chainer.functions.softmax_cross_entropy(model(x), t)
        )

    cases = {STOCK: step(None), **{repr(one): step(one) for one in robustifiers(n)}}
    return rounds(chosen(cases, options.only), max(3, options.repeat // 3))


def chosen(cases: dict[str, Any], text: str) -> dict[str, Any]:
    return {name: case for name, case in cases.items() if name == STOCK or text in name}


def rounds(
    cases: dict[str, Callable[[], None]], repeat: int, calls: int = 1
) -> list[dict[str, Any]]:
    """Time the cases in turn, some calls each; slow ones sit out three rounds of four."""
    import numpy as np

    times: dict[str, list[float]] = {name: [] for name in cases}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()  # compiles
    for number in range(repeat):
        for name, case in cases.items():
            slow = times[name] and times[name][0] > 0.5
            if slow and number % 4:
                continue
            # The stock layer runs right before every case, so that both see the same neighbors,
            # and each once before it is timed: a training loop finds its memory and threads warm.
            cases[STOCK]()
            stock = min(clock(cases[STOCK]) for _ in range(calls))
            if name != STOCK:
                case()
            own = min(clock(case) for _ in range(calls)) if name != STOCK else stock
            times[name].append(own)
            ratios[name].append(times[name][-1] / stock)
    return [
        {
            "case": name,
            "median_s": float(np.median(times[name])),
            "least_s": float(np.min(times[name])),
            "ratio": float(np.median(ratios[name])),
            "ratio_of_least": float(np.min(times[name]) / np.min(times[STOCK])),
        }
        for name in cases
    ]


def clock(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak(step: Callable[[], None]) -> int:
    """Bytes that NumPy held at most during a step, beyond what it held before."""
    step()
    tracemalloc.start()
    step()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    step()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most - before


def loop(x: Any, gy: Any, stock: float) -> dict[str, Any]:
    """The tutorial's loop over output units, timed once: it is the oracle of the tests."""
    from tests.oracles.tutorial_loop import layer_gradients

    units = min(gy.shape[1], 100)
    seconds = clock(lambda: layer_gradients(x, gy[:, :units])) * gy.shape[1] / units
    ratio = (seconds + stock) / stock
    return {"case": LOOP, "median_s": seconds + stock, "ratio": ratio, "units_timed": units}


def packages() -> dict[str, Any]:
    """The same estimate of 64 gradients of 78,400 numbers in published packages."""
    import numpy as np

    import chainrob
    from chainrob.sample_gradients import OuterProducts

    n, p, q = 64, 784, 100
    rng = np.random.default_rng(0)
    x, gy = (rng.normal(size=(n, 1, k)).astype(np.float32) for k in (p, q))
    ours = chainrob.GeometricMedian()
    operator = OuterProducts(x, gy)
    expected = ours(operator)
    out = {"chainrob": min(clock(lambda: ours(operator)) for _ in range(5))}
    print(f"\nGeometric median of {n} gradients, {p} -> {q}\n  chainrob {out['chainrob']:.4f} s")
    for name, run in (("geom-median", geom_median), ("torch", torch_vmap)):
        try:
            seconds, estimate = run(x[:, 0], gy[:, 0])
        except ImportError:
            print(f"  {name} skipped: it is not installed (pip install chainrob[bench])")
            continue
        out[name] = seconds
        error = float(np.linalg.norm(estimate - expected.ravel()) / np.linalg.norm(expected))
        print(f"  {name} {seconds:.4f} s, relative difference {error:.1e}")
    return out


def geom_median(x: Any, gy: Any) -> tuple[float, Any]:
    """PyPI's geom-median on materialized rows."""
    import numpy as np
    from geom_median.numpy import compute_geometric_median

    def run() -> Any:
        rows = gy[:, :, None] * x[:, None, :]
        return compute_geometric_median([row.ravel() for row in rows], np.ones(len(rows))).median

    return clock(run), run()


def torch_vmap(x: Any, gy: Any) -> tuple[float, Any]:
    """Per-sample gradients by torch.func.vmap, and Weiszfeld's iteration on them."""
    import torch

    inputs, outputs = torch.from_numpy(x), torch.from_numpy(gy)
    weights = torch.zeros(gy.shape[1], x.shape[1])

    def loss(w: Any, one: Any, g: Any) -> Any:
        return (torch.nn.functional.linear(one, w) * g).sum()

    def run() -> Any:
        grads = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, inputs, outputs)
        rows = grads.reshape(len(grads), -1)
        z = rows.mean(0)
        for _ in range(20):
            inverse = 1 / (rows - z).norm(dim=1)
            z = (inverse / inverse.sum()) @ rows
        return z

    run()
    return clock(run), run().numpy()


def show(title: str, rows: list[dict[str, Any]], common: float | None = None) -> None:
    print(f"\n{title}\n  {'case':42} {'median':>10} {'ratio':>8} {'goal':>6} {'memory/gW':>10}")
    for row in rows:
        goal = GOALS.get(row["case"]) if common is None else common
        memory = row.get("extra_memory_in_gW")
        print(
            f"  {row['case']:42} {row['median_s'] * 1e3:8.2f}ms {row['ratio']:8.2f} "
            f"{'' if goal is None else goal:>6} {'' if memory is None else f'{memory:.2f}':>10}"
        )


def machine(threads: int) -> dict[str, Any]:
    names = ("chainer", "numpy", "numba", "scipy", "geom-median", "torch")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": threads,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": found,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((one.split(":")[1].strip() for one in lines if one.startswith("model name")), "")


def write(results: dict[str, Any], folder: Path) -> None:
    from chainrob.experiments.files import atomic_path

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "linear.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    size, rows = next(iter(results["sizes"].items()))
    rows = [row for row in rows if row["case"] != STOCK]
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    names = [row["case"] for row in rows][::-1]
    axes.barh(names, [row["ratio"] for row in rows][::-1], color="#4477aa", label="measured")
    goals = [(GOALS[name], name) for name in names if name in GOALS]
    if goals:
        axes.plot(*zip(*goals, strict=True), "|", color="#cc3311", ms=14, mew=2, label="goal")
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_xlabel("time over the stock layer's (logarithmic)")
    axes.set_title(f"Linear layer, N x P x Q = {size}, {results['machine']['threads']} threads")
    axes.legend(loc="center right")
    with atomic_path(folder / "linear.png") as path:
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
