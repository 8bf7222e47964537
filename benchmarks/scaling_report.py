"""The cost model of ``scaling.py`` and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chainrob.experiments.files import save_figure, write_bytes

NETWORKS = {
    # seconds a message and step of a tree, bytes a second and rank
    "Ethernet 25 Gb/s": (20e-6, 25e9 / 8),
    "InfiniBand 200 Gb/s": (2e-6, 200e9 / 8),
}
SIZES = (1, 2, 4, 8, 16, 64, 256, 1024)
LIMIT = 8e9
"""Bytes that an N x N matrix may take on a rank."""
ON_PAPER = (
    "plain allreduce (ChainerMN)",
    "SoftTruncation(delta=0.005), factors",
    "SoftTruncation(delta=0.005), reductions",
    "CoordinateMedian(), factors",
    "CoordinateMedian(), reductions",
    "GeometricMedian()",
)


class Model:
    """Bytes and time of a step on P ranks, 64 samples each, from what was measured here."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.p, self.q = results["layer"]
        self.n = results["samples"]
        self.size = self.p * self.q + self.q
        self.here = fit_network(results["network"]["2"], 2)
        weights = results["weights"]
        logs = np.log([[one["samples"], one["seconds"]] for one in weights])
        self.exponent, constant = np.polyfit(logs[:, 0], logs[:, 1], 1)
        self.factor = float(np.exp(constant))
        self.flops = float(max(one["flops"] for one in weights))

    def kind(self, name: str) -> str:
        """How a row of the table communicates."""
        if name.startswith(("plain", "Mean()")):
            return "sum"
        tail = name.rsplit(", ", 1)[-1]
        return tail if tail in ("factors", "reductions") else "weights"

    def bytes(self, name: str, ranks: int) -> float:
        """Bytes that leave a rank in one step, by the formulas of the report."""
        if ranks == 1:
            return 0.0
        n, p, q = self.n, self.p, self.q
        total, others, share = n * ranks, ranks - 1, (ranks - 1) / ranks
        agree = 0.0 if name.startswith("plain") else 24.0 * others
        gradient = 4.0 * self.size
        kind = self.kind(name)
        if kind == "sum":
            return agree + 2 * share * gradient
        if kind == "factors":
            moved = 4.0 * n * (min(p, q) * others + max(p, q) * share) + 4.0 * n * q * share
            return agree + moved + share * gradient
        if kind == "weights":
            matrix = 2 * share * 8.0 * total**2
            layer = min(
                4.0 * n * (p + q) * others,
                4.0 * n * (min(p, q) * others + max(p, q) * share) + matrix,
            )
            bias = min(4.0 * n * q * others, 4.0 * n * q * share + matrix)
            return agree + layer + bias + 2 * 8.0 * total * share + 2 * share * gradient
        measured = self.results["steps"]["4"][name]["bytes"] - 24.0 * 3
        per_gradient = measured / (2 * 0.75)
        return agree + 2 * share * per_gradient

    def seconds(self, name: str, ranks: int, latency: float, bandwidth: float) -> float | None:
        """Time of one step; None where a rank's memory does not hold the Gram matrix."""
        steps = self.results["steps"]
        compute = steps["1"][name]["seconds"]
        total = self.n * ranks
        if self.kind(name) == "reductions":
            # On one rank nothing is spread; what two ranks took is here less what they sent.
            two = steps["2"][name]
            sent = two["calls"] * self.here[0] + two["bytes"] / self.here[1]
            compute = max(two["seconds"] - sent, compute)
        if self.kind(name) == "weights":
            if 8.0 * total**2 > LIMIT:
                return None
            compute = steps["1"]["plain allreduce (ChainerMN)"]["seconds"]
            small, large = sorted((self.p, self.q))
            compute += 2.0 * total**2 * (small + (large + self.q) / ranks) / self.flops
            compute += self.factor * total**self.exponent
        if ranks == 1:
            return compute
        calls = steps["4"][name]["calls"]
        return (
            compute
            + calls * latency * np.ceil(np.log2(ranks))
            + self.bytes(name, ranks) / bandwidth
        )


def fit_network(measured: list[dict[str, float]], ranks: int) -> tuple[float, float]:
    """Latency of a tree's step and bandwidth of a rank, by least squares of relative errors."""
    seconds = np.array([one["seconds"] for one in measured])
    sent = np.array([2 * (ranks - 1) / ranks * one["bytes"] for one in measured])
    columns = np.stack([np.full(len(sent), np.log2(ranks)), sent], axis=1) / seconds[:, None]
    latency, inverse = np.linalg.lstsq(columns, np.ones(len(sent)), rcond=None)[0]
    return float(latency), float(1.0 / inverse)


def write_report(results: dict[str, Any], folder: Path) -> None:
    """``scaling.md`` and ``scaling.png`` from the numbers of ``scaling.json``."""
    model = Model(results)
    lines = [*_measured(model), *_on_paper(model)]
    write_bytes(folder / "scaling.md", ("\n".join(lines) + "\n").encode())
    _figure(model, folder)
    print("\n".join(lines))


def _measured(model: Model) -> list[str]:
    results = model.results
    steps, wire = results["steps"], results["wire"]
    p, q = results["layer"]
    found = results["versions"]
    lines = [
        "# Scaling",
        "",
        f"One step: forward and backward of a layer {p} -> {q} (gradient {4e-6 * model.size:.2f} "
        f"MB), {results['samples']} samples a rank, float32, and its gradient estimated over all "
        "ranks. Made by `python benchmarks/scaling.py`.",
        "",
        f"{results['cores']} cores, {found['machine']}, MPICH; 4 ranks share them, so times on 4 "
        "ranks show contention, not scaling.",
        "",
        "## Measured",
        "",
        "Bytes that leave a rank, by the counting communicator (a ring for allgather, "
        "reduce-scatter and allgather for allreduce, and so on); in brackets what the loopback "
        "device counted, a rank, when the same step ran over TCP (headers, handshakes and other "
        "programs included). Coordinate-wise robustifiers can send factors or reductions; by "
        "default they take what should be faster, here factors at any P up to 1,024.",
        "",
        "| | messages | MB, 2 ranks | MB, 4 ranks | x plain | model / counted, 4 ranks | ms, 1 "
        "rank | 2 ranks | 4 ranks |",
        "|---|" + "---:|" * 8,
    ]
    plain = steps["4"]["plain allreduce (ChainerMN)"]["bytes"]
    for name, four in steps["4"].items():
        one, two = steps["1"][name], steps["2"][name]
        known = "" if ">>" in name else f"{model.bytes(name, 4) / four['bytes']:.3f}"
        if model.kind(name) == "reductions":
            known = "measured"
        lines.append(
            f"| {name} | {four['calls']} | {two['bytes'] / 1e6:.2f} "
            f"({wire['2'][name]['wire'] / 1e6:.2f}) | {four['bytes'] / 1e6:.2f} "
            f"({wire['4'][name]['wire'] / 1e6:.2f}) | {four['bytes'] / plain:.2f} | {known} | "
            f"{1e3 * one['seconds']:.1f} | {1e3 * two['seconds']:.1f} | "
            f"{1e3 * four['seconds']:.1f} |"
        )
    return lines


def _on_paper(model: Model) -> list[str]:
    latency, bandwidth = model.here
    networks = {"this machine's MPI, as fitted": (latency, bandwidth), **NETWORKS}
    lines = [
        "",
        "## On paper",
        "",
        "Assumptions:",
        "",
        f"- {model.n} samples a rank, so N = {model.n} P; every rank has a processor of its own "
        "and computes as fast as one rank did here.",
        "- time = computation + messages x latency x ceil(log2 P) + bytes / bandwidth; nothing "
        "overlaps, the network is not congested, no rank waits for a slow one.",
        "- sums: 2 (P - 1) / P gradients. Factors: the smaller of x and gy is sent to all, the "
        "larger is dealt out, then (P - 1) / P of a gradient comes back; each rank reduces N rows "
        "at 1 / P of the coordinates, which is the work of one rank at any P. Reductions: as many "
        "sums and counts a coordinate as were counted on 4 ranks.",
        f"- weights: inputs and output gradients to all, products at {model.flops / 1e9:.0f} "
        f"GFlop/s, the geometric median's weights in {model.factor * 1e9:.1f} ns x N^"
        f"{model.exponent:.2f}, both as measured here in float64; no further than a Gram matrix of "
        f"{LIMIT / 1e9:.0f} GB.",
        f"- fitted to allreduces on 2 ranks here: latency {latency * 1e6:.1f} us, bandwidth "
        f"{bandwidth / 1e9:.2f} GB/s.",
    ]
    for network, (slow, fast) in networks.items():
        head = " | ".join(str(size) for size in SIZES)
        lines += ["", f"Milliseconds a step, {network}:", "", f"| ranks | {head} |"]
        lines.append("|---|" + "---:|" * len(SIZES))
        for name in ON_PAPER:
            cells = [model.seconds(name, size, slow, fast) for size in SIZES]
            shown = ["-" if one is None else f"{1e3 * one:.1f}" for one in cells]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    head = " | ".join(str(size) for size in SIZES[1:])
    lines += ["", "Megabytes that leave a rank:", "", f"| ranks | {head} |"]
    lines.append("|---|" + "---:|" * (len(SIZES) - 1))
    for name in ON_PAPER:
        shown = [f"{model.bytes(name, size) / 1e6:.2f}" for size in SIZES[1:]]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def _figure(model: Model, folder: Path) -> None:
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    styles = ("k-", "C0--", "C0:", "C1--", "C1:", "C2-.")
    latency, bandwidth = NETWORKS["Ethernet 25 Gb/s"]
    for name, style in zip(ON_PAPER, styles, strict=True):
        sizes = np.array(SIZES[1:])
        panels[0].plot(sizes, [model.bytes(name, size) / 1e6 for size in sizes], style)
        times = [model.seconds(name, size, latency, bandwidth) for size in sizes]
        known = [(size, 1e3 * one) for size, one in zip(sizes, times, strict=True) if one]
        panels[1].plot(*zip(*known, strict=True), style, label=name)
    for panel, label in zip(panels, ("MB sent by a rank", "ms a step"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="ranks P", ylabel=label)
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
    panels[0].set_title("Bytes")
    panels[1].set_title("Time, Ethernet 25 Gb/s (model)")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, folder / "scaling")
