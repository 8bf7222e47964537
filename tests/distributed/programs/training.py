"""Models: the steps of one process on several ranks, what is sent for them, and ranks that lie."""

from __future__ import annotations

import sys
import tempfile
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import chainrob
import chainer
import chainermn
import chainrob.distributed
from chainer import functions as F
from chainrob.datasets.contamination import ATTACKS, infinity
from chainrob.distributed import (
    CountingComm,
    GlobalBatchIterator,
    create_multi_node_optimizer,
    distribute,
    undistribute,
)

sys.path.insert(0, str(Path(__file__).parent))
from cases import Checks, N, splits

# The communicator of the ranks that run this program; ``main`` sets these three.
counting: CountingComm
comm: Any
checks: Checks
rng = np.random.default_rng(2)
x = rng.normal(size=(N, 5))
x[3] *= 50.0
t = rng.integers(0, 3, size=N).astype(np.int32)


def make(robustifiers: Any, seed: int = 0, **options: Any) -> Any:
    np.random.seed(seed)  # noqa: NPY002 - Chainer's initializers draw on it
    return chainrob.links.MLP((5, 6, 3), robustifiers, **options)


def gradients(model: Any) -> Any:
    return tuple(parameter.grad for _, parameter in sorted(model.namedparams()))


def parameters(model: Any) -> Any:
    return tuple(parameter.array for _, parameter in sorted(model.namedparams()))


def backward(model: Any, part: slice, reduction: str) -> None:
    model.cleargrads()
    loss = F.sum((model(x[part]) - np.eye(3)[t[part]]) ** 2, axis=1)
    loss = F.sum(loss) if reduction == "sum" else F.sum(loss) / max(loss.size, 1)
    loss.backward()


def gradients_of_layers() -> None:
    # (Of an even number of single numbers, a unit's bias, every point between the middle two is a
    # geometric median, and rounding decides which is found.)
    robustifiers = [chainrob.TrimmedMean(count=2), chainrob.CenteredClipping(radius=1.0)]
    for name in ("uneven", "empty"):
        counts = splits(comm.size)[name]
        start = sum(counts[: comm.rank])
        part = slice(start, start + counts[comm.rank])
        for reduction in ("mean", "sum"):
            for scope in ("unit", "parameter", "layer", "model"):
                chosen = chainrob.GeometricMedian() if scope == "model" else robustifiers
                one = make(chosen, loss_reduction=reduction, scope=scope)
                many = distribute(make(chosen, loss_reduction=reduction, scope=scope), comm)
                hooks = {
                    id(model): chainrob.training.RobustGradient(model)
                    for model in (one, many)
                    if scope == "model"
                }
                backward(one, slice(None), reduction)
                backward(many, part, reduction)
                for model in (one, many):
                    if hooks:
                        hooks[id(model)].parameters = "/l2/W"
                        hooks[id(model)]()
                label = f"{scope} {reduction} {name}"
                checks.close(label, gradients(many), gradients(one), 1e-9)
    model = distribute(make(robustifiers), comm)
    checks.true(
        "undistribute", [one.robustifier for one in undistribute(model).layers] == robustifiers
    )


def optimizers() -> None:
    # What is robust over all ranks is not sent again; what is plain is averaged.
    model = distribute(make([chainrob.Mean(), None], seed=comm.rank), comm)
    optimizer = create_multi_node_optimizer(chainer.optimizers.SGD(0.1), comm).setup(model)
    reference = make(None)
    checks.close("rank 0's parameters", parameters(model), parameters(reference), 0.0)
    plain = chainer.optimizers.SGD(0.1).setup(reference)
    even = N // comm.size
    part = slice(comm.rank * even, (comm.rank + 1) * even)
    for _ in range(3):
        backward(model, part, "mean")
        counting.reset()
        optimizer.update()
        backward(reference, slice(0, even * comm.size), "mean")
        plain.update()
        checks.true("sent", counting.traffic.payload == 8 * model.l2.W.size + 8 * model.l2.b.size)
    checks.close("three steps", parameters(model), parameters(reference), 1e-9)
    # A parameter that a plain link shares is averaged.
    shared = chainer.Sequential(model.l1, chainer.links.Linear(5, 6))
    shared[1].W = model.l1.W
    from chainrob.distributed.optimizer import _PlainParameters

    names = [name for name, _ in _PlainParameters(shared).namedparams()]
    checks.true("shared", "/0/W" in names and "/0/b" not in names)
    counting.reset()
    chainrob.distributed.Distributed(chainrob.Mean(), comm)(np.ones((3, 10)))
    size = comm.size
    # Four integers a rank to agree on the task, and on who watches; one sum of 10 numbers.
    expected = 32 * (size - 1) + 80 * 2 * (size - 1) / size
    checks.true("counted", abs(counting.traffic.sent - expected) < 1e-9)


def lying_ranks() -> None:
    def hit(rows: np.ndarray) -> np.ndarray:
        rows[-1] = infinity(rows[:-1], 1, value=np.nan)[0]
        return rows

    for robustifier, goes_on in ((chainrob.CoordinateMedian(), True), (lambda g: g.mean(0), False)):
        model = make(None, seed=comm.rank)
        optimizer = create_multi_node_optimizer(
            chainer.optimizers.SGD(0.1), comm, robustifier, attack=hit
        ).setup(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                backward(model, slice(None), "mean")
                optimizer.update()
        finite = all(np.isfinite(one).all() for one in parameters(model))
        checks.true(f"goes on: {goes_on}", finite == goes_on)
        if goes_on:
            # All honest rows are equal here, so this is training without the liar.
            reference = make(None)
            plain = chainer.optimizers.SGD(0.1).setup(reference)
            for _ in range(3):
                backward(reference, slice(None), "mean")
                plain.update()
            checks.close("as without", parameters(model), parameters(reference), 1e-12)
    checks.true("attacks", ATTACKS["infinity"] is infinity)
    sgd = chainer.optimizers.SGD()
    robust = chainrob.distributed.Distributed(chainrob.Mean(), comm)
    make_optimizer = create_multi_node_optimizer
    checks.raises(
        "attack", ValueError, lambda: make_optimizer(sgd, comm, attack=hit), "robustifier"
    )
    checks.raises("robust", TypeError, lambda: make_optimizer(sgd, comm, robust), "rows")


def iterators() -> None:
    batches = GlobalBatchIterator(list(range(10)), 4, comm, seed=3)
    single = chainer.iterators.SerialIterator(
        range(10), 4, order_sampler=chainrob.training.SeededShuffle(3)
    )
    for _ in range(6):
        everywhere = comm.mpi_comm.allgather(batches.next())
        checks.true("batch", list(chain(*everywhere)) == single.next())
        checks.true("even", max(map(len, everywhere)) - min(map(len, everywhere)) <= 1)
        checks.true("epoch", batches.epoch_detail == single.epoch_detail)
    checks.raises("small", ValueError, lambda: GlobalBatchIterator([1], 1, comm), "batch_size")


def chainermn_in_its_usual_places() -> None:
    """scatter_dataset, multi-node evaluator, Trainer: the lines of a ChainerMN program."""
    data = chainer.datasets.TupleDataset(x, t) if comm.rank == 0 else None
    train = chainermn.scatter_dataset(data, comm, shuffle=True, seed=0)
    model = chainer.links.Classifier(make(chainrob.CoordinateMedian(), seed=comm.rank))
    distribute(model, comm)
    optimizer = create_multi_node_optimizer(chainer.optimizers.Adam(), comm).setup(model)
    iterator = chainer.iterators.SerialIterator(train, 3)
    updater = chainer.training.StandardUpdater(iterator, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = chainer.training.Trainer(updater, (4, "iteration"), out=folder)
        held_out = chainer.iterators.SerialIterator(train, 3, repeat=False, shuffle=False)
        evaluator = chainer.training.extensions.Evaluator(held_out, model)
        evaluator = chainermn.create_multi_node_evaluator(evaluator, comm)
        trainer.extend(evaluator, trigger=(4, "iteration"))
        trainer.run()
    everywhere = comm.mpi_comm.allgather(trainer.observation["validation/main/accuracy"])
    checks.true("one accuracy", len(set(everywhere)) == 1)
    mine = np.concatenate([one.ravel() for one in parameters(model)])
    all_of_them = comm.mpi_comm.allgather(mine)
    checks.true("in step", all(np.array_equal(one, mine) for one in all_of_them))


def main(mpi_comm: Any, found: Checks) -> None:
    """Check on the ranks of this communicator."""
    global counting, comm, checks
    counting, checks = CountingComm(mpi_comm), found
    comm = chainrob.distributed.create_communicator("naive", mpi_comm=counting)
    with chainer.using_config("dtype", np.dtype(np.float64)):
        gradients_of_layers()
        optimizers()
        lying_ranks()
        iterators()
        chainermn_in_its_usual_places()
