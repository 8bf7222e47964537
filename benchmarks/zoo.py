# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""Cost of robust training on the zoo's models: CPU time of a step, as a ratio to plain training.

One thread; plain and robust steps alternate in one process, and the smallest of several counts, so
that other work on the machine matters little. Run from the repository's root:

    OMP_NUM_THREADS=1 python benchmarks/zoo.py
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

import chainrob
import chainer
from chainrob.experiments.versions import versions
from tests.zoo.entry import batches
from tests.zoo.language import LANGUAGE
from tests.zoo.vision import VISION

RESULTS = Path(__file__).parent / "results"
ROBUSTIFIERS = {
    "Mean": chainrob.Mean(),
    "AdaptiveMean": chainrob.AdaptiveMean(),
    "GeometricMedian": chainrob.GeometricMedian(),
    "TrimmedMean(0.1)": chainrob.TrimmedMean(0.1),
    "SoftTruncation": chainrob.SoftTruncation(),
}
REPEATS = 7


def seconds(trained, batch) -> float:
    np.random.seed(0)
    start = time.process_time()
    trained.step(batch)
    return time.process_time() - start


def measure(entry) -> dict[str, float]:
    """Smallest CPU seconds of a step."""
    data = batches(entry.data(np.random.default_rng(0), entry.batch), entry.batch)
    np.random.seed(0)
    trained = {"plain": entry.plain()[1]}
    for name, robustifier in ROBUSTIFIERS.items():
        np.random.seed(0)
        trained[name] = entry.robust(robustifier)[1]
    for one in trained.values():
        seconds(one, data[0])  # compiles
    best = dict.fromkeys(trained, float("inf"))
    for _ in range(REPEATS):
        for name, one in trained.items():
            best[name] = min(best[name], seconds(one, data[0]))
    return best


def main() -> None:
    warnings.simplefilter("ignore", chainrob.links.UnsupportedLinkWarning)
    rows = []
    for entry in [*VISION, *LANGUAGE]:
        best = measure(entry)
        ratios = {name: round(best[name] / best["plain"], 2) for name in ROBUSTIFIERS}
        milliseconds = round(1e3 * best["plain"], 2)
        rows.append(
            {"model": entry.name, "scope": entry.scope, "batch": entry.batch}
            | {"plain_ms": milliseconds, "ratio": ratios}
        )
        print(rows[-1], flush=True)
    found = {
        "what": "CPU time of a training step, robust / plain, one thread, smallest of "
        f"{REPEATS} (models of tests/zoo, float32)",
        "versions": versions(),
        "rows": rows,
    }
    (RESULTS / "zoo.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "zoo.md").write_text(table(found))


def table(found: dict) -> str:
    """The results as a table."""
    names = list(ROBUSTIFIERS)
    lines = [
        f"{found['what']}. The models are tiny, so fixed costs weigh most.",
        "",
        f"| model | scope | batch | plain, ms | {' | '.join(names)} |",
        f"|---|---|---|---|{'---|' * len(names)}",
    ]
    for row in found["rows"]:
        ratios = " | ".join(f"{row['ratio'][name]:.2f}" for name in names)
        start = f"{row['model']} | {row['scope']} | {row['batch']} | {row['plain_ms']:.1f}"
        lines.append(f"| {start} | {ratios} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    chainer.global_config.dtype = np.dtype(np.float32)
    main()
