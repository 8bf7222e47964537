"""Rows at the edges: not finite, tied, huge, in disorder; and ranks that disagree."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import chainrob.distributed
from chainrob.distributed import Distributed, DistributedGradients
from chainrob.distributed.distributed_values import DistributedValues, NotDistributableError
from chainrob.distributed.ranks import Partition, Ranks
from chainrob.distributed.selection_over_ranks import largest, order_statistics
from chainrob.robustifiers import CoordinateWise, NonFiniteGradientError, NonFiniteGradientWarning
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from chainrob.sample_gradients.operator_base import squared_distances

sys.path.insert(0, str(Path(__file__).parent))
from cases import Checks, operators, part, splits

# The communicator of the ranks that run this program; ``main`` sets these four.
comm: Any
ranks: Ranks
checks: Checks
rng: np.random.Generator


def mine(rows: Any, name: str = "uneven") -> Any:
    """The part of this rank, of an array or operator of 14 samples."""
    start, stop = own_range(name)
    return rows[..., start:stop, :] if isinstance(rows, np.ndarray) else part(rows, start, stop)


def own_range(name: str) -> tuple[int, int]:
    """Where this rank's samples of 14 begin and end."""
    counts = splits(ranks.size)[name]
    start = sum(counts[: ranks.rank])
    return start, start + counts[ranks.rank]


def selection() -> None:
    for dtype in (np.float32, np.float64):
        tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
        special = np.array([0.0, -0.0, tiny, -tiny, huge, -huge, 1.0, -1.0], dtype)
        values = np.concatenate(
            [
                rng.choice(special, size=(14, 40)),
                rng.normal(size=(14, 40)),
                rng.integers(-2, 3, size=(14, 40)),
                np.full((14, 1), 3.0),
            ],
            axis=1,
        ).astype(dtype)
        expected = np.sort(values, axis=0)
        for name in ("uneven", "empty"):
            found = order_statistics(mine(values, name), range(14), 14, ranks)
            checks.true(f"order {dtype} {name}", np.array_equal(np.stack(found), expected))
            top = largest(mine(values, name), ranks)
            checks.true(f"largest {dtype} {name}", np.array_equal(top, expected[-1]))
        values[5, 7] = np.nan
        found = order_statistics(mine(values), [3], 14, ranks)[0]
        checks.true("NaN in one column", np.flatnonzero(np.isnan(found)).tolist() == [7])
        checks.true("NaN is largest", bool(np.isnan(largest(mine(values), ranks)[7])))
    for count in (1, 2, 3):
        few = np.split(np.arange(count * 2.0).reshape(count, 2), count)
        own = few[ranks.rank] if ranks.rank < count else np.zeros((0, 2))
        total = min(count, ranks.size)
        found = order_statistics(own, [0, total - 1], total, ranks)
        checks.true(f"{count} rows", found[0][0] == 0.0 and found[1][1] == 2 * total - 1)


def spread_arrays() -> None:
    values = rng.normal(size=(2, 14, 5)).round(1)
    counts = splits(ranks.size)["empty"]
    whole = DistributedValues(mine(values, "empty"), Partition(ranks, counts))
    checks.close("mean", whole.mean(axis=-2), values.mean(axis=-2), 1e-12)
    checks.close("sum", np.sum(whole, axis=1), values.sum(axis=1), 1e-12)
    checks.close("min", np.min(whole, axis=-2), values.min(axis=-2), 0.0)
    checks.close("share", (whole > 0).mean(axis=-2), (values > 0).mean(axis=-2), 1e-15)
    checks.true("any", np.array_equal((whole > 2).any(axis=-2), (values > 2).any(axis=-2)))
    checks.true("all", np.array_equal((whole > -1).all(-2), (values > -1).all(-2)))
    ordered = np.sort(values, axis=-2)
    for a, b in ((0, 14), (3, 11), (6, 8), (6, 7)):
        piece = np.partition(whole, (a, b - 1), axis=-2)[..., a:b, :]
        checks.close(f"{a}:{b}", piece.mean(axis=-2), ordered[..., a:b, :].mean(axis=-2), 1e-12)
    lowest = np.take(np.partition(whole, 4, axis=-2), 4, axis=-2)
    checks.close("one rank", lowest, ordered[..., 4, :], 0.0)
    ends = np.take(np.sort(whole, axis=-2), np.array([0, 13]), axis=-2)
    checks.close("two ranks", ends, ordered[..., [0, 13], :], 0.0)
    clipped = np.clip(whole, ordered[..., 2:3, :], ordered[..., 11:12, :]).mean(axis=-2)
    expected = np.clip(values, ordered[..., 2:3, :], ordered[..., 11:12, :]).mean(axis=-2)
    checks.close("clip", clipped, expected, 1e-12)
    weights = rng.normal(size=(14, 1))
    checks.close("rows", (weights * whole).sum(-2), (weights * values).sum(-2), 1e-12)
    matrix = rng.normal(size=(3, 14))
    checks.close("matmul", matrix @ whole, matrix @ values, 1e-12)
    checks.raises("index", NotDistributableError, lambda: whole[..., 0, :], "indexed")
    checks.raises("cumsum", NotDistributableError, lambda: np.cumsum(whole, axis=-2), "cumsum")
    checks.raises("axis", NotDistributableError, lambda: whole.sum(axis=-1), "sample axis")


class Center(CoordinateWise):
    """A user's own robustifier, whose formula cannot run on values that are spread over ranks."""

    def reduce(self, values: Any) -> Any:
        return np.sort(values, axis=-2)[..., [4, 9], :].sum(axis=-2)

    def coordinate_weights(self, values: Any) -> Any:
        raise NotImplementedError


def rows_in_disorder() -> None:
    rows = rng.normal(size=(14, 6))
    found = Distributed(Center(), comm, exchange="reductions")(mine(rows))
    checks.close("own subclass", found, Center()(rows), 1e-12)
    bad = rows.copy()
    bad[2, 3], bad[13, 0] = np.nan, np.inf
    for robustifier in (
        chainrob.CoordinateMedian(),
        chainrob.GeometricMedian(),
        chainrob.Krum(f=4),
    ):
        for exchange in ("factors", "reductions"):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                expected = robustifier(bad)
                found = Distributed(robustifier, comm, exchange=exchange)(mine(bad, "empty"))
            checks.close(f"NaN {robustifier}", found, expected, 1e-9)
            kinds = [one.category for one in seen]
            checks.true("two warnings", kinds == [NonFiniteGradientWarning] * 2)
    refuse = Distributed(chainrob.Mean(nonfinite="raise"), comm)
    checks.raises("refuse", NonFiniteGradientError, lambda: refuse(mine(bad)), "2 of 14")
    propagate = Distributed(chainrob.CoordinateMedian(nonfinite="propagate"), comm)
    nan = np.flatnonzero(np.isnan(propagate(mine(bad)))).tolist()
    checks.true("propagate", nan == [3])
    double = operators(np.float64)["replicas"]
    each = chainrob.PerReplica((chainrob.TrimmedMean(count=2), chainrob.GeometricMedian()))
    found = Distributed(each, comm)(mine(double, "empty"))
    checks.close("per replica", found, each(double), 1e-9)
    # One row 1e15 times the rest, and float64 rows whose squares leave its range.
    far = rows.copy()
    far[4] *= 1e15
    median = chainrob.GeometricMedian()
    checks.close("far", Distributed(median, comm)(mine(far)), median(far), 1e-9)
    x, gy = rng.normal(size=(2, 14, 1, 4))
    layer = Joined([OuterProducts(x * 1e130, gy * 1e120), Dense(gy[:, 0] * 1e250)])
    for robustifier in (median, chainrob.SMEA(f=3), chainrob.SoftTruncation()):
        found = Distributed(robustifier, comm)(mine(layer, "empty"))
        checks.close(f"huge {robustifier}", found, robustifier(layer), 1e-9)


def questions() -> None:
    """Everything that an operator answers, in one process and over ranks."""
    for kind, operator in operators(np.float64).items():
        if isinstance(operator, Joined):
            continue
        partition = Partition(ranks, splits(ranks.size)["empty"])
        whole = DistributedGradients(mine(operator, "empty"), partition).scaled_down(3)
        operator = operator.scaled_down(3)
        checks.close(f"{kind} gram", whole.gram(), operator.gram(), 1e-12)
        distances = squared_distances(operator.centered_gram())
        found = squared_distances(whole.centered_gram())
        checks.close(f"{kind} distances", found, distances, 1e-12)
        checks.close(f"{kind} rows", whole.materialize(), operator.materialize(), 1e-15)
        disorder = np.array([5, 2, 2, 9])
        checks.close(
            f"{kind} disorder",
            whole.take(disorder).mean(),
            operator.take(disorder).mean(),
            1e-12,
        )
        finite = whole.finite_rows()
        checks.true(f"{kind} finite", finite.shape == operator.finite_rows().shape and finite.all())


def what_auto_takes() -> None:
    layer = OuterProducts(np.zeros((1, 1, 8)), np.zeros((1, 1, 8)))
    for count, by_factors in ((2, True), (10**6, False)):
        partition = Partition(ranks, [count] * ranks.size)
        checks.true(f"{count}", DistributedGradients(layer, partition)._by_factors() == by_factors)


def several_ranks_one_object() -> None:
    rows = rng.normal(size=(14, 6))
    median = chainrob.CoordinateMedian()
    robust = Distributed(median, comm)
    checks.true("equal", robust == Distributed(median, comm) and hash(robust) == hash(robust))
    checks.true("unequal", robust != Distributed(median, comm, exchange="factors"))
    checks.true("pickle", pickle.loads(pickle.dumps(robust)) == median)
    checks.true("copies", copy.deepcopy([robust])[0] is robust)
    counts = splits(ranks.size)["uneven"]
    weights = Partition(ranks, counts).mine(chainrob.GeometricMedian().sample_weights(rows))
    found = Distributed(chainrob.GeometricMedian(), comm).sample_weights(mine(rows))
    checks.close("weights", found, weights, 1e-9)
    checks.true("no rows", not Distributed(median, comm)(np.zeros((0, 3))).any())
    checks.raises(
        "double backward",
        chainrob.robustifiers.errors.NotDifferentiableError,
        lambda: robust.pullback(None, None),
        "own graph",
    )
    checks.raises("twice", TypeError, lambda: Distributed(robust, comm), "already")
    checks.raises("no comm", TypeError, lambda: Distributed(median, None), "communicator")
    checks.raises("way", ValueError, lambda: Distributed(median, comm, exchange="x"), "factors")
    inside = chainrob.Bucketing(size=2) >> robust
    checks.raises("inside", TypeError, lambda: inside(mine(rows)), "outermost")
    other = median if ranks.rank else chainrob.Mean()
    checks.raises("disagree", ValueError, lambda: Distributed(other, comm)(mine(rows)), "[1")
    wide = rows if ranks.rank else rows[:, :3]
    checks.raises("shapes", ValueError, lambda: robust(wide), "same parameter")


def main(mpi_comm: Any, found: Checks) -> None:
    """Check on the ranks of this communicator."""
    global comm, ranks, checks, rng
    comm = chainrob.distributed.create_communicator("naive", mpi_comm=mpi_comm)
    ranks, checks, rng = Ranks(comm), found, np.random.default_rng(1)
    selection()
    spread_arrays()
    rows_in_disorder()
    questions()
    what_auto_takes()
    several_ranks_one_object()
