"""Ranks that lie: accuracy on the digits for every robustifier under every attack.

    python benchmarks/byzantine.py            # starts mpiexec by itself, for 4 and for 8 ranks

Each rank trains on its own part of the training digits. The gradient of a rank is one row, and the
last f of P ranks send what the attack makes of the honest rows, which it knows. The table holds the
accuracy on clean test digits after the last step, in percent, mean and standard deviation over the
seeds. It is written to
``benchmarks/results/byzantine.md`` and ``.json``. A run that was interrupted goes on after the last
cell that was finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import chainrob
import chainer
from chainrob.datasets.contamination import (
    a_little_is_enough,
    infinity,
    inner_product_manipulation,
    mimic,
    sign_flip,
)
from chainrob.experiments.digits import DigitsSettings, digits_data, make_model
from chainrob.experiments.files import write_bytes, write_json
from chainrob.experiments.versions import versions

RESULTS = Path(__file__).parent / "results"
CASES = ((4, 1), (8, 2))
BATCH = 16  # samples of one rank in one step

ATTACKS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "sign flip": sign_flip,
    "sign flip x 10": lambda rows, f: sign_flip(rows, f, scale=10.0),
    "IPM 0.5": inner_product_manipulation,
    "IPM 10": lambda rows, f: inner_product_manipulation(rows, f, epsilon=10.0),
    "ALIE": a_little_is_enough,
    "mimic": mimic,
    "infinity": infinity,
    "NaN": lambda rows, f: infinity(rows, f, value=np.nan),
}


def robustifiers(f: int) -> dict[str, Any]:
    """The robustifiers of the table, by the name of their row; P ranks are their rows."""
    nearest = chainrob.NearestNeighborMixing(f=f)
    made = (
        chainrob.Mean(),
        chainrob.CoordinateMedian(),
        chainrob.TrimmedMean(count=f),
        chainrob.WinsorizedMean(count=f),
        chainrob.MeanAroundMedian(f=f),
        chainrob.Phocas(f=f),
        chainrob.SoftTruncation(),
        chainrob.SoftTruncation(pilot="median"),
        chainrob.MEstimator(pilot="median"),
        chainrob.GeometricMedian(),
        chainrob.Krum(f=f),
        chainrob.MultiKrum(f=f),
        chainrob.CenteredClipping(),
        chainrob.ClipNorm(1.0) >> chainrob.Mean(),
        chainrob.MinimumDiameterAveraging(f=f),
        chainrob.CAF(f=f),
        chainrob.SMEA(f=f),
        nearest >> chainrob.TrimmedMean(count=f),
        nearest >> chainrob.GeometricMedian(),
    )
    return {"plain mean": lambda rows: rows.mean(axis=0), **{repr(one): one for one in made}}


def attack_on_rows(attack: Callable[..., Any] | None, f: int) -> Callable[[Any], Any] | None:
    """What becomes of the rows (P, D): the last f are the attackers'."""
    if attack is None:
        return None

    def hit(rows: Any) -> Any:
        rows[-f:] = attack(rows[:-f], f)
        return rows

    return hit


def accuracy(comm: Any, f: int, robustifier: Any, attack: Any, seed: int, steps: int) -> float:
    """Accuracy on the clean test digits after so many steps."""
    settings = DigitsSettings(hidden=32, flips=0.0, seed=seed, robustifier=("all=none",))
    train, test = digits_data(settings)
    x, t = chainer.dataset.concat_examples(train[:])
    mine = np.arange(comm.rank, len(x), comm.size)
    rng = np.random.default_rng([seed, comm.rank])
    model = make_model(settings)
    optimizer = chainrob.distributed.create_multi_node_optimizer(
        chainer.optimizers.MomentumSGD(0.05), comm, robustifier, attack=attack_on_rows(attack, f)
    ).setup(model)

    def loss(inputs: Any, labels: Any) -> Any:
        return chainer.functions.softmax_cross_entropy(model(inputs), labels)

    for _ in range(steps):
        batch = rng.choice(mine, BATCH, replace=False)
        try:
            optimizer.update(loss, x[batch], t[batch])
        except chainrob.NonFiniteGradientError:
            break  # the honest rows, too, have left the range of float32: on all ranks alike
    x, t = chainer.dataset.concat_examples(test[:])
    with chainer.no_backprop_mode():
        return float((model(x).array.argmax(axis=1) == t).mean())


def run_rank(f: int, seeds: int, steps: int, out: Path) -> None:
    """What every rank does; rank 0 writes the accuracies."""
    import chainrob.distributed

    comm = chainrob.distributed.create_communicator("naive")
    warnings.simplefilter("ignore")  # rows that were dropped, a mean that overflows
    cells: dict[str, dict[str, Any]] = json.loads(out.read_text()) if out.exists() else {}
    comm.mpi_comm.Barrier()  # all have read it
    with chainrob.distributed.abort_on_exception(comm):
        for name, robustifier in robustifiers(f).items():
            row = cells.setdefault(name, {})
            for label, attack in ATTACKS.items():
                if label in row:
                    continue
                begun = time.perf_counter()
                try:
                    row[label] = [
                        accuracy(comm, f, robustifier, attack, seed, steps) for seed in range(seeds)
                    ]
                except ValueError as error:  # all ranks have the same rows and the same error
                    row[label] = str(error)
                if comm.rank == 0:
                    seconds = time.perf_counter() - begun
                    print(
                        f"{comm.size} {name} {label} {cells[name][label]} {seconds:.1f} s",
                        flush=True,
                    )
    if comm.rank == 0:
        write_json(out, cells)


def table(cells: dict[str, dict[str, Any]]) -> list[str]:
    """A table in Markdown, and why some cells are empty."""
    labels = list(ATTACKS)
    lines = [f"| | {' | '.join(labels)} | worst |", "|---|" + "---:|" * (len(labels) + 1)]
    notes = []
    for name, row in cells.items():
        means = {
            label: None if isinstance(row[label], str) else 100 * float(np.mean(row[label]))
            for label in labels
        }
        known = [value for value in means.values() if value is not None]
        shown = [
            "-" if mean is None else f"{mean:.1f} ± {100 * np.std(row[label], ddof=1):.1f}"
            for label, mean in means.items()
        ]
        # An attack that a row refuses is no worse than it says: the worst is over what ran.
        complete = len(known) == len(labels)
        shown.append(f"{min(known):.1f}" if complete else "-")
        lines.append(f"| {name.replace('|', '/')} | {' | '.join(shown)} |")
        reasons = sorted({value for value in row.values() if isinstance(value, str)})
        notes += [f"- {name}: {reason}" for reason in reasons]
    return lines + (["", "Not run:", "", *notes] if notes else [])


def write(results: dict[str, Any]) -> None:
    """The tables of all numbers of ranks."""
    lines = [
        "# Ranks that lie",
        "",
        "Accuracy in percent on clean test digits (360; guessing gives 10), mean and standard "
        f"deviation of {results['seeds']} seeds, after {results['steps']} steps of SGD (0.05, "
        "momentum 0.9); "
        f"network 64-32-32-10, {BATCH} digits a rank and step. The last f of P ranks send what the "
        "attack makes of the honest rows. Rows with NaN or infinity are dropped, except by the "
        "plain mean. Made by `python benchmarks/byzantine.py --seeds "
        f"{results['seeds']} --steps {results['steps']}`. Only sign flip x 10 and IPM 10 (and what "
        "is not finite) keep the plain mean from learning; under the other attacks it is as good "
        "as the others, and the table shows what robustness costs there.",
    ]
    for case, cells in results["cases"].items():
        lines += ["", f"## {case}", "", *table(cells)]
    write_bytes(RESULTS / "byzantine.md", ("\n".join(lines) + "\n").encode())
    write_json(RESULTS / "byzantine.json", results)


def main() -> None:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--ranks", type=int, nargs="*", default=[ranks for ranks, _ in CASES])
    parser.add_argument("--rank-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()

    def part(ranks: int) -> Path:
        return RESULTS / f"byzantine-{ranks}-{args.seeds}-{args.steps}.json"

    if args.rank_of is not None:
        run_rank(dict(CASES)[args.rank_of], args.seeds, args.steps, part(args.rank_of))
        return
    RESULTS.mkdir(exist_ok=True)
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    results: dict[str, Any] = {"seeds": args.seeds, "steps": args.steps, "cases": {}}
    for ranks, f in CASES:
        if ranks not in args.ranks:
            continue
        options = ["--seeds", str(args.seeds), "--steps", str(args.steps), "--rank-of", str(ranks)]
        start = [beside or "mpiexec", "-n", str(ranks), sys.executable, __file__, *options]
        subprocess.run(start, check=True)
        results["cases"][f"P = {ranks}, f = {f}"] = json.loads(part(ranks).read_text())
    results["versions"] = versions()
    write(results)
    for ranks in args.ranks:
        part(ranks).unlink()


if __name__ == "__main__":
    main()
