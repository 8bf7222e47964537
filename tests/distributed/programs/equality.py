"""Every robustifier over several ranks gives what one process computes from all rows.

A collective operation costs milliseconds where ranks share processors, so two ranks meet every
combination of operator and robustifier, three and four ranks a choice of them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import chainrob.distributed
from chainrob.distributed import Distributed
from chainrob.sample_gradients import SampleGradients

sys.path.insert(0, str(Path(__file__).parent))
from cases import ROBUSTIFIERS, Checks, N, midrange, operators, part, splits


def compare(
    comm: Any,
    checks: Checks,
    kind: str,
    operator: SampleGradients,
    exchange: Any,
    step: int,
    name: str = "",
) -> None:
    """Compare every ``step``-th robustifier, with all ways to split in turn or with one."""
    tolerance = 1e-9 if operator.dtype == np.float64 else 1e-4
    all_splits = splits(comm.size)
    for number, robustifier in enumerate([*ROBUSTIFIERS, midrange]):
        if number % step:
            continue
        plain = chainrob.robustifiers.FromFunction(midrange)
        expected = (plain if robustifier is midrange else robustifier)(operator)
        way = name or list(all_splits)[number % 3]
        start = sum(all_splits[way][: comm.rank])
        mine = part(operator, start, start + all_splits[way][comm.rank])
        found = Distributed(robustifier, comm, exchange=exchange)(mine)
        label = f"{robustifier!r} {kind} {way} {exchange} {operator.dtype}"
        checks.close(label, found, expected, tolerance)


def main(mpi_comm: Any, checks: Checks) -> None:
    """Compare on the ranks of this communicator."""
    comm = chainrob.distributed.create_communicator("naive", mpi_comm=mpi_comm)
    double = operators(np.float64)
    # What MedianOfMeansMinimization asks for: every rank knows it of all samples.
    facts = chainrob.sample_facts(losses=np.random.default_rng(7).random(N))
    with warnings.catch_warnings(), facts:
        # Warnings are errors, but that of an iteration that stops early is the same in both.
        warnings.simplefilter("ignore", chainrob.ConvergenceWarning)
        if comm.size == 2:
            for kind, operator in double.items():
                compare(comm, checks, kind, operator, "factors", step=1)
                step = 1 if kind in ("dense", "layer") else 3
                compare(comm, checks, kind, operator, "reductions", step=step)
            single = operators(np.float32)
            compare(comm, checks, "layer", single["layer"], "factors", step=1)
            compare(comm, checks, "dense", single["dense"], "reductions", step=1)
        else:
            compare(comm, checks, "layer", double["layer"], "factors", step=1, name="empty")
            compare(comm, checks, "wide", double["wide"], "auto", step=2, name="uneven")
            compare(comm, checks, "dense", double["dense"], "reductions", step=1, name="empty")
