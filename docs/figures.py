"""Draw the pictures of the manual: ``python docs/figures.py`` writes docs/_static/figures.

Every number in them is computed by chainrob from seeded data; nothing is drawn by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

import chainrob
from chainrob.characteristics import breakdown, efficiency, influence
from chainrob.plotting import PALETTE, new_figure

FOLDER = Path(__file__).parent / "_static" / "figures"
BLUE, RED, GREEN = PALETTE[0], PALETTE[1], PALETTE[2]


def pull() -> None:
    """Nine gradients in the plane, one of them bad: the mean and the geometric median."""
    rng = np.random.default_rng(4)
    rows = rng.normal((1.0, 0.6), 0.25, size=(9, 2))
    rows[0] = (-9.0, -4.0)
    with new_figure(7.2, 2.6) as figure:
        panels = figure.subplots(1, 2)
        for axes, robust, title, color in (
            (panels[0], chainrob.Mean(), "plain mean", RED),
            (panels[1], chainrob.GeometricMedian(), "geometric median", BLUE),
        ):
            axes.plot(*np.stack([(0, 0), rows[0]]).T, color="0.6", linewidth=1.0)
            for row in rows[1:]:
                _arrow(axes, row, "0.6", 1.0)
            _arrow(axes, robust(rows), color, 3.5)
            axes.set(xlim=(-2.6, 2.0), ylim=(-1.3, 1.5), xticks=[], yticks=[], aspect="equal")
            axes.set_title(title, color=color)
            axes.axis("off")
            axes.text(-2.5, -0.3, "one bad sample,\nfar longer than drawn", fontsize=8, color="0.4")
        _save(figure, "pull")


def _arrow(axes: Any, end: np.ndarray, color: str, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=tuple(end), xytext=(0, 0), arrowprops=style)


def way_of_the_data() -> None:
    """The arrays of one Linear layer, drawn to scale, with their shapes."""
    with new_figure(7.6, 3.0) as figure:
        axes = figure.subplots()
        axes.set(xlim=(0, 15.2), ylim=(0, 6), aspect="equal")
        axes.axis("off")
        _matrix(axes, (0.6, 3.3), 1.6, 2.4, "x", "(N, P)", BLUE)
        _matrix(axes, (0.6, 0.3), 1.0, 2.4, "gy", "(N, Q)", RED)
        _matrix(axes, (6.0, 1.8), 1.6, 2.4, "", "", "0.5")
        axes.text(6.8, 3.0, "operator\nof N rows", ha="center", va="center", fontsize=9)
        axes.text(6.8, 1.35, "never built: (N, Q·P)", ha="center", fontsize=8, color="0.35")
        _matrix(axes, (9.7, 2.2), 1.8, 1.6, "", "", GREEN)
        axes.text(10.6, 3.0, "robustifier", ha="center", va="center", fontsize=9)
        _matrix(axes, (13.2, 2.5), 1.6, 1.0, "gW", "(Q, P)", "0.2")
        for start, end in (
            ((3.1, 4.3), (5.9, 3.3)),
            ((2.5, 1.5), (5.9, 2.7)),
            ((7.7, 3.0), (9.6, 3.0)),
            ((11.6, 3.0), (13.1, 3.0)),
        ):
            style = {"arrowstyle": "-|>", "color": "0.3"}
            axes.annotate("", xy=end, xytext=start, arrowprops=style)
        _save(figure, "way_of_the_data")


def _matrix(
    axes: Any,
    corner: tuple[float, float],
    width: float,
    height: float,
    name: str,
    shape: str,
    c: str,
) -> None:
    axes.add_patch(Rectangle(corner, width, height, facecolor=c, alpha=0.18))
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=c))
    x, y = corner[0] + width / 2, corner[1] + height / 2
    if name:
        axes.text(x, y, name, ha="center", va="center", fontsize=12)
        axes.text(corner[0] + width + 0.1, y, shape, va="center", fontsize=8, color="0.35")


def _layer() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (8, 6) and output gradients (8, 4); sample 2 is bad."""
    rng = np.random.default_rng(1)
    x, gy = rng.normal(0.6, 0.5, size=(8, 6)), rng.normal(0.5, 0.5, size=(8, 4))
    x[2] *= -4
    return x, gy


def outer_products() -> None:
    """The row of a sample as a product of its output gradient and its input."""
    x, gy = _layer()
    with new_figure(7.6, 2.6) as figure:
        grid = figure.add_gridspec(1, 6, width_ratios=[1.5, 1.1, 1.2, 1.2, 1.2, 1.2])
        for place, array, title in ((0, x, "x (N=8, P=6)"), (1, gy, "gy (N=8, Q=4)")):
            axes = figure.add_subplot(grid[place])
            _heat(axes, array, title)
            axes.set_ylabel("samples" if place == 0 else "")
            axes.set_yticks(range(8), [str(n) for n in range(8)], fontsize=7)
        for place, n in enumerate((0, 1, 2, 3), start=2):
            axes = figure.add_subplot(grid[place])
            _heat(axes, np.outer(gy[n], x[n]), f"row {n}: gy x$^T$\n(Q=4, P=6)")
        _save(figure, "outer_products")


def _heat(axes: Any, array: np.ndarray, title: str, limit: float = 2.5) -> None:
    axes.imshow(array, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def gram() -> None:
    """The Gram matrix as a product of two small ones, and the weights that come from it."""
    x, gy = _layer()
    products = (x @ x.T, gy @ gy.T, (x @ x.T) * (gy @ gy.T))
    built = np.einsum("nq,np->nqp", gy, x).reshape(8, -1)
    np.testing.assert_allclose(products[2], built @ built.T)
    weights = chainrob.GeometricMedian().sample_weights(built)
    with new_figure(7.6, 2.3) as figure:
        panels = figure.subplots(1, 4)
        titles = ("x x$^T$ (N, N)", "gy gy$^T$ (N, N)", "their product: Gram matrix")
        for axes, array, title in zip(panels, products, titles, strict=False):
            _heat(axes, array, title, float(np.quantile(np.abs(array), 0.95)))
        panels[3].barh(range(8), weights, color=[RED if n == 2 else BLUE for n in range(8)])
        panels[3].invert_yaxis()
        panels[3].axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
        panels[3].set_title("weights of the samples", fontsize=8)
        panels[3].set_yticks(range(8), [str(n) for n in range(8)], fontsize=7)
        _save(figure, "gram")


def tiles() -> None:
    """One tile: all N values of a few coordinates, each reduced to one."""
    x, gy = _layer()
    rows = np.einsum("nq,np->nqp", gy, x)
    robust = chainrob.CoordinateMedian()
    estimate = robust(rows.reshape(8, -1)).reshape(4, 6)
    with new_figure(7.6, 2.3) as figure:
        panels = figure.subplots(1, 3, width_ratios=[1, 1.5, 1])
        _heat(panels[0], np.zeros((4, 6)), "the parameter W (Q, P)\nand one tile of it")
        panels[0].set_xticks(np.arange(7) - 0.5, [])
        panels[0].set_yticks(np.arange(5) - 0.5, [])
        panels[0].grid(True, alpha=1.0, color="0.8")
        panels[0].add_patch(Rectangle((-0.5, 0.5), 6, 1, fill=False, edgecolor=RED, linewidth=2))
        for n in range(8):
            panels[1].plot(range(6), rows[n, 1], "o", color=RED if n == 2 else "0.6", markersize=4)
        panels[1].plot(range(6), estimate[1], "_", color=BLUE, markersize=18, markeredgewidth=3)
        panels[1].set_title("N values of each coordinate, and their median", fontsize=8)
        panels[1].set(ylim=(-3, 3), xticks=range(6), xticklabels=[])
        _heat(panels[2], estimate, "the estimate (Q, P)", 1.0)
        _save(figure, "tiles")


FAMILY = {
    "mean": chainrob.Mean(),
    "soft truncation": chainrob.SoftTruncation(),
    "soft truncation,\nmedian pilot": chainrob.SoftTruncation(pilot="median"),
    "trimmed mean 10%": chainrob.TrimmedMean(fraction=0.1),
    "median": chainrob.CoordinateMedian(),
}


def robustness() -> None:
    """Influence and breakdown, labeled at the lines."""
    z = np.linspace(-10, 10, 161)
    counts = np.arange(26)
    with new_figure(7.6, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        ends = {}
        for index, (name, robust) in enumerate(FAMILY.items()):
            curve = influence(robust, z)
            ends[name] = curve[-1]
            left.plot(z, curve, color=PALETTE[index])
            moved = np.maximum(breakdown(robust, counts), 1e-2)
            right.plot(counts / 50, moved, color=PALETTE[index])
        for index, (name, height) in enumerate(_apart(ends, 1.5).items()):
            left.text(10.3, min(height, 9.5), name, color=PALETTE[index], fontsize=8, va="center")
        left.set(
            xlabel="z, where one more sample lies", ylabel="pull on the estimate", ylim=(-10, 10)
        )
        right.set_yscale("log")
        right.set(xlabel="share of bad samples", ylabel="largest displacement")
        _save(figure, "robustness")


def _apart(heights: dict[str, float], least: float) -> dict[str, float]:
    """Heights of labels, moved up until no two are nearer than ``least``."""
    result: dict[str, float] = {}
    last = -np.inf
    for name in sorted(heights, key=heights.__getitem__):
        lines = 1 + name.count("\n")
        last = max(heights[name], last + least * (1 + lines) / 2)
        result[name] = last
    return {name: result[name] for name in heights}


def efficiencies() -> str:
    """The table of efficiencies, as Markdown."""
    lines = ["| robustifier | normal data | heavy tails (Student, 3 degrees) |", "|---|---|---|"]
    for name, robust in FAMILY.items():
        values = [
            efficiency(robust, draws=1000, distribution=kind) for kind in ("normal", "student")
        ]
        lines.append(f"| {name.replace(chr(10), ' ')} | {values[0]:.2f} | {values[1]:.2f} |")
    return "\n".join(lines) + "\n"


def _save(figure: Any, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=140, bbox_inches="tight", metadata={"Software": ""})


if __name__ == "__main__":
    for draw in (pull, way_of_the_data, outer_products, gram, tiles, robustness):
        draw()
    (FOLDER / "efficiency.md").write_text(efficiencies())
