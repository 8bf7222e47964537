"""One SGD step in PyTorch with robust gradients, against the stock step: CPU time as a ratio.

    python benchmarks/torch_step.py [--threads 1 2] [--repeats 15] [--rows]

Network 784-1000-1000-10, 256 samples, float32. Every row alternates with the stock step in one
process; the ratio is of the least CPU times that the process used, all threads together.
``--rows`` adds what is usual today: rows from ``torch.func.vmap``, and Opacus, ByzFL and TorchJD
where they are installed (extra ``bench``). The table goes to ``results/torch_step.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import chainrob
import chainrob.torch

DIMS, N_SAMPLES = (784, 1000, 1000, 10), 256

ROBUST: dict[str, tuple[Any, str]] = {
    "Mean": (chainrob.Mean(), "layer"),
    "AdaptiveMean": (chainrob.AdaptiveMean(), "layer"),
    "ClipNorm >> Mean, model": (chainrob.ClipNorm(1.0) >> chainrob.Mean(), "model"),
    "GeometricMedian, layer": (chainrob.GeometricMedian(), "layer"),
    "GeometricMedian, model": (chainrob.GeometricMedian(), "model"),
    "Krum(64), model": (chainrob.Krum(64), "model"),
    "SoftTruncation": (chainrob.SoftTruncation(), "layer"),
    "TrimmedMean(0.1)": (chainrob.TrimmedMean(0.1), "layer"),
}


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for width, following in pairwise(DIMS):
        layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class Step:
    """One step of a training program; ``rows`` makes the gradients by itself."""

    def __init__(self, net: torch.nn.Module, rows: Callable[..., Any] | None = None) -> None:
        self.net, self.rows = net, rows
        self.optimizer = torch.optim.SGD(net.parameters(), 0.01)
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(N_SAMPLES, DIMS[0], generator=generator)
        self.t = torch.randint(0, DIMS[-1], (N_SAMPLES,), generator=generator)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        if self.rows is not None:
            self.rows(self.net, self.x, self.t)
        else:
            F.cross_entropy(self.net(self.x), self.t).backward()
        self.optimizer.step()


class Watched(Step):
    """A robust step whose sample weights are summed up."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__(net)
        self.suspects = chainrob.torch.Suspects(net, N_SAMPLES)
        self.suspects.next(np.arange(N_SAMPLES))


def rows_of(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """All per-sample gradients, (N, D), by ``torch.func``."""
    parameters = dict(net.named_parameters())

    def loss(values: Any, one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        y = torch.func.functional_call(net, values, (one[None],))
        return F.cross_entropy(y, target[None])

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, t)
    return torch.cat([one.reshape(len(x), -1) for one in found.values()], dim=1)


def by_rows(estimate: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    """A step that estimates from the rows themselves."""

    def step(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> None:
        answer = estimate(rows_of(net, x, t).detach())
        place = 0
        for parameter in net.parameters():
            parameter.grad = answer[place : place + parameter.numel()].reshape(parameter.shape)
            place += parameter.numel()

    return step


def weiszfeld(rows: torch.Tensor, steps: int = 20) -> torch.Tensor:
    center = rows.mean(dim=0)
    for _ in range(steps):
        weights = 1.0 / (rows - center).norm(dim=1).clamp_min(1e-12)
        center = (weights / weights.sum()) @ rows
    return center


def trimmed(rows: torch.Tensor, share: float = 0.1) -> torch.Tensor:
    cut = int(share * len(rows))
    return rows.sort(dim=0).values[cut : len(rows) - cut].mean(dim=0)


def usual() -> dict[str, Callable[[], Callable[[], None]]]:
    """What is usual today, by name; packages that are not installed are left out."""
    steps: dict[str, Callable[[], Callable[[], None]]] = {
        "vmap rows, mean": lambda: Step(network(), by_rows(lambda rows: rows.mean(dim=0))),
        "vmap rows, 20 Weiszfeld steps": lambda: Step(network(), by_rows(weiszfeld)),
        "vmap rows, trimmed mean": lambda: Step(network(), by_rows(trimmed)),
    }
    try:
        from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
    except ImportError:
        pass
    else:

        def ghost() -> Callable[[], None]:
            step = Step(network())
            net = GradSampleModuleFastGradientClipping(
                step.net, max_grad_norm=1.0, use_ghost_clipping=True
            )
            optimizer = DPOptimizerFastGradientClipping(
                step.optimizer,
                noise_multiplier=0.0,
                max_grad_norm=1.0,
                expected_batch_size=N_SAMPLES,
            )
            criterion = DPLossFastGradientClipping(net, optimizer, torch.nn.CrossEntropyLoss())

            def run() -> None:
                optimizer.zero_grad()
                criterion(net(step.x), step.t).backward()
                optimizer.step()

            return run

        def hooks() -> Callable[[], None]:
            step = Step(network())
            net = GradSampleModule(step.net)
            optimizer = DPOptimizer(
                step.optimizer,
                noise_multiplier=0.0,
                max_grad_norm=1.0,
                expected_batch_size=N_SAMPLES,
            )

            def run() -> None:
                optimizer.zero_grad()
                F.cross_entropy(net(step.x), step.t).backward()
                optimizer.step()

            return run

        steps["Opacus, ghost clipping"] = ghost
        steps["Opacus, rows by hooks"] = hooks
    try:
        from byzfl import GeometricMedian, TrMean
    except ImportError:
        pass
    else:
        steps["ByzFL on vmap rows, geometric median"] = lambda: Step(
            network(), by_rows(GeometricMedian())
        )
        steps["ByzFL on vmap rows, trimmed mean"] = lambda: Step(network(), by_rows(TrMean(f=26)))
    try:
        from torchjd.aggregation import TrimmedMean
    except ImportError:
        pass
    else:
        steps["TorchJD on vmap rows, trimmed mean"] = lambda: Step(
            network(), by_rows(TrimmedMean(trim_number=26))
        )
    return steps


def cpu_seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def ratio(stock: Callable[[], None], step: Callable[[], None], repeats: int) -> dict[str, float]:
    """Minima of alternating steps: the robust one over the stock one."""
    for one in (stock, step):
        one()
    times: list[tuple[float, float]] = [
        (cpu_seconds(stock), cpu_seconds(step)) for _ in range(repeats)
    ]
    base, own = (min(column) for column in zip(*times, strict=True))
    found = {"ratio": own / base, "ms": 1e3 * own, "stock_ms": 1e3 * base}
    return {key: round(value, 3) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rows", action="store_true", help="also what is usual today (slow)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "torch_step.json"
    )
    options = parser.parse_args()
    table: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        stock = Step(network())

        def add(name: str, step: Callable[[], None], repeats: int, threads: int = threads) -> None:
            row = {"step": name, "threads": threads, **ratio(stock, step, repeats)}  # noqa: B023
            row["load_average"] = round(os.getloadavg()[0], 1)  # ratios of a busy machine are high
            print(
                f"{threads} threads  {name:40} {row['ratio']:8.2f}  {row['ms']:9.1f} ms", flush=True
            )
            table.append(row)

        for name, (robustifier, scope) in ROBUST.items():
            net = chainrob.torch.robustify(network(), robustifier, scope=scope)
            add(name, Step(copy.deepcopy(net)), options.repeats)
            add(f"{name}, watched", Watched(net), options.repeats)
        if options.rows and threads == options.threads[0]:
            for name, make in usual().items():
                add(name, make(), 1)
    about = {
        "network": "-".join(map(str, DIMS)),
        "n_samples": N_SAMPLES,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "measure": "least CPU time of a step, over that of the stock step in the same process",
    }
    options.output.write_text(json.dumps({"about": about, "steps": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
