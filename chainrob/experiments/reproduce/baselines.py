"""A referee's question: are robust estimates better than one-line baselines?"""

from __future__ import annotations

from chainrob.experiments.report.document import Section, Table, Text, Verdict
from chainrob.experiments.reproduce.measures import Measured, below, with_interval

__all__ = ["baselines"]


def baselines(measured: Measured) -> Section:
    """One-line baselines beside the robust methods, with and without contamination."""
    plan = measured.plan["baselines"]
    names = list(dict.fromkeys(name for name, _ in plan))
    shares = list(dict.fromkeys(share for _, share in plan))
    bad, clean = shares
    rows = []
    for name in names:
        cells = [
            with_interval(measured.final("baselines", (name, share)))
            if (name, share) in plan
            else ""
            for share in shares
        ]
        rows.append([name, *cells])
    one_line = [name for name in names if "clipped" in name]
    verdicts = []
    for robust in ("deep-rob (released)", "trimmed mean 5%, all layers"):
        level = 1 - 0.05 / len(one_line)
        differences = {
            name: measured.final("baselines", (name, bad))
            - measured.final("baselines", (robust, bad))
            for name in one_line
        }
        best = min(differences, key=lambda name: float(differences[name].mean()))
        outcomes = [below(one, 0, level) for one in differences.values()]
        outcome = next((o for o in ("holds", "not shown") if o in outcomes), "does not hold")
        verdicts.append(
            Verdict.of(
                f"A one-line baseline is better than `{robust}`",
                measured.decided(outcome),  # type: ignore[arg-type]
                "for one of them the interval of the difference, paired by trial, lies below 0 "
                "(95% for all together)",
                f"{best}: {with_interval(differences[best], level)}",
            )
        )
    return Section(
        "One-line baselines",
        [
            Text(
                "The settings are the program's. Gradient clipping limits the norm of each layer's "
                "batch gradient, W and b together, to 0.1. Input clipping limits each input to the "
                "median plus and minus 3 median absolute deviations of the contaminated training "
                "points. The oracle leaves out the pushed points."
            ),
            Table(["method", f"{bad:.0%} contaminated", f"{clean:.0%}"], rows),
            *verdicts,
        ],
    )
