"""``chainrob digits``: a classifier of handwritten digits, trained by one process or by many."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob import links, training
from chainer.training import extensions
from chainrob.datasets import random_split
from chainrob.datasets.contamination import flip_labels
from chainrob.experiments.files import prepare_folder, write_json
from chainrob.experiments.options import add_settings, given, made
from chainrob.experiments.robustifier_texts import LAYERS_HELP, parse_layers
from chainrob.experiments.usage import UsageError
from chainrob.experiments.versions import versions

__all__ = ["DigitsSettings", "add_arguments", "digits_data", "make_model", "run", "train"]

N_TRAIN = 1437

_OFFERED = ("epochs", "batch_size", "hidden", "learning_rate", "flips", "seed", "robustifier")


@dataclass(frozen=True)
class DigitsSettings:
    """Settings of a run.

    Args:
        epochs: Passes over the training data.
        batch_size: Samples in one step, on all ranks together.
        hidden: Units of each of the two hidden layers.
        learning_rate: Step of SGD with momentum 0.9.
        flips: Share of the training labels that are flipped to a wrong class.
        robustifier: LAYER=ROBUSTIFIER (see below); may be repeated.
        seed: Seed of the split, the flips, the initial weights and the order of the data.
    """

    epochs: int = 30
    batch_size: int = 64
    hidden: int = 64
    learning_rate: float = 0.02
    flips: float = 0.1
    robustifier: tuple[str, ...] = ("all=soft_truncation",)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.batch_size > N_TRAIN:
            raise ValueError(f"batch_size must not exceed {N_TRAIN}, found {self.batch_size}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, found {self.learning_rate}")
        if not 0 <= self.flips < 1:
            raise ValueError(f"flips must lie in [0, 1), found {self.flips}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        parse_layers(self.robustifier, 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob digits``."""
    parser.usage = "%(prog)s [options]"
    parser.description = (
        "Train a network with two hidden layers on scikit-learn's 8 x 8 digits. Some training "
        "labels are wrong; the test digits are clean. With --distributed, under mpiexec, each "
        "batch is split over the ranks, and the steps are the same as with one process. Writes "
        "log, model.npz and summary.json."
    )
    parser.epilog = (
        f"{LAYERS_HELP}\nexamples:\n"
        '  chainrob digits --flips 0.3 --robustifier "all=trimmed_mean:fraction=0.3"\n'
        "  mpiexec -n 4 chainrob digits --distributed"
    )
    add_settings(parser, DigitsSettings, _OFFERED, repeated=["robustifier"])
    add = parser.add_argument
    add(
        "--distributed",
        action="store_true",
        help="run on all ranks that mpiexec started",
    )
    add(
        "--communicator",
        choices=("naive", "flat", "pure_nccl"),
        default="naive",
        help="ChainerMN's communicator (default: %(default)s; the others use one GPU per rank)",
    )
    add(
        "--out",
        default="results/digits",
        metavar="FOLDER",
        help="folder of the results (default: %(default)s)",
    )
    add("--resume", action="store_true", help="continue from the last checkpoint in --out, if any")
    add(
        "--checkpoint-every",
        type=int,
        default=25,
        metavar="N",
        help="iterations between two checkpoints (default: 25)",
    )
    add("--quiet", action="store_true", help="do not print the progress")


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob digits`` and print its result.

    Returns:
        int: The exit status.
    """
    settings = made(DigitsSettings, **given(args, _OFFERED))
    try:
        if args.checkpoint_every < 1:
            raise ValueError(f"checkpoint-every must be at least 1, found {args.checkpoint_every}")
        comm = _communicator(args.communicator) if args.distributed else None
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    if comm is not None and comm.size > settings.batch_size:
        raise UsageError(
            f"--batch-size must be at least the number of ranks, {comm.size}, found "
            f"{settings.batch_size}"
        )
    with _all_ranks(comm):
        summary = train(
            settings,
            args.out,
            comm=comm,
            resume=args.resume,
            checkpoint_every=args.checkpoint_every,
            quiet=args.quiet,
        )
    if comm is None or comm.rank == 0:
        print(f"results are in {args.out}")
        print(
            f"test accuracy {summary['accuracy']:.4f} after {settings.epochs} epochs on "
            f"{summary['ranks']} rank{'s' if summary['ranks'] > 1 else ''}, {summary['seconds']} s"
        )
    return 0


def train(
    settings: DigitsSettings,
    out: str | os.PathLike[str],
    *,
    comm: Any = None,
    resume: bool = False,
    checkpoint_every: int = 25,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train, test and write the results.

    Args:
        settings: Settings of the run.
        out: Folder of the results; all ranks on one machine share it.
        comm: A communicator of ChainerMN, or None for this process alone.
        resume: Continue from the last checkpoint in ``out``.
        checkpoint_every: Iterations between checkpoints.
        quiet: Print nothing.

    Returns:
        dict: The summary: accuracy on the clean test digits, ranks, seconds.
    """
    folder = prepare_folder(out)
    leads = comm is None or comm.rank == 0
    train_set, test_set = digits_data(settings)
    model = chainer.links.Classifier(make_model(settings))
    optimizer: Any = chainer.optimizers.MomentumSGD(settings.learning_rate)
    iterator: Any
    if comm is None:
        sampler = training.SeededShuffle(settings.seed)
        iterator = chainer.iterators.SerialIterator(
            train_set, settings.batch_size, order_sampler=sampler
        )
    else:
        import chainermn
        from chainrob import distributed

        distributed.distribute(model, comm)
        optimizer = distributed.create_multi_node_optimizer(optimizer, comm)
        iterator = distributed.GlobalBatchIterator(
            train_set, settings.batch_size, comm, seed=settings.seed
        )
        # Unequal parts, so that no test digit counts twice; the accuracies are joined below.
        test_set = chainermn.scatter_dataset(test_set, comm, force_equal_length=False)
    optimizer.setup(model)
    updater = training_updater(iterator, optimizer, comm)
    trainer = chainer.training.Trainer(updater, (settings.epochs, "epoch"), out=str(folder))
    if leads:
        trainer.extend(extensions.LogReport(filename="log"))
        if not quiet:
            columns = ["epoch", "main/loss", "main/accuracy", "elapsed_time"]
            trainer.extend(extensions.PrintReport(columns))
    if comm is None:
        trainer.extend(training.Snapshot(), trigger=(checkpoint_every, "iteration"))
        if resume:
            training.resume(trainer)
    else:
        checkpointer = distributed.create_multi_node_checkpointer("digits", comm)
        trainer.extend(checkpointer, trigger=(checkpoint_every, "iteration"))
        if resume:
            checkpointer.maybe_load(trainer)
    start = time.perf_counter()
    trainer.run()
    seconds = round(time.perf_counter() - start, 2)
    correct, total = _count_correct(model, test_set)
    if comm is not None:
        correct, total = comm.allreduce_obj(correct), comm.allreduce_obj(total)
    summary = {
        "accuracy": correct / total,
        "ranks": 1 if comm is None else comm.size,
        "seconds": seconds,
        "settings": asdict(settings),
        "versions": versions(),
    }
    if leads:
        chainer.serializers.save_npz(folder / "model.npz", model)
        write_json(folder / "summary.json", summary)
    return summary


def training_updater(iterator: Any, optimizer: Any, comm: Any) -> Any:
    """The updater, on this rank's GPU if the communicator uses GPUs."""
    device = None
    if comm is not None and type(comm).__name__ != "NaiveCommunicator":
        device = chainer.get_device(f"@cupy:{comm.intra_rank}")
        device.use()
        optimizer.target.to_device(device)
    return chainer.training.StandardUpdater(iterator, optimizer, device=device)


def digits_data(settings: DigitsSettings) -> tuple[Any, Any]:
    """Training digits with some wrong labels, and clean test digits.

    Returns:
        tuple: Two data sets of pairs: pixels (64,) float32 in [0, 1], label int32.

    Example:
        >>> from chainrob.experiments.digits import DigitsSettings, digits_data
        >>> [len(part) for part in digits_data(DigitsSettings())]
        [1437, 360]
    """
    from sklearn.datasets import load_digits  # slow to import

    x, t = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    split = random_split(len(x), N_TRAIN, settings.seed)
    labels: NDArray[Any] = t[split.train].astype(np.int32)
    if settings.flips:
        labels = flip_labels(labels, settings.flips, seed=settings.seed).data
    make = chainer.datasets.TupleDataset
    return make(x[split.train], labels), make(x[split.test], t[split.test].astype(np.int32))


def make_model(settings: DigitsSettings) -> links.MLP:
    """The network, with initial weights that follow from the seed."""
    rng = np.random.RandomState(settings.seed)
    model = links.MLP(
        (64, settings.hidden, settings.hidden, 10), parse_layers(settings.robustifier, 3)
    )
    for layer in model.layers:
        scale = np.sqrt(2.0 / layer.W.shape[1])
        layer.W.array[...] = rng.normal(scale=scale, size=layer.W.shape)
    return model


def _count_correct(model: Any, dataset: Any) -> tuple[int, int]:
    if not len(dataset):
        return 0, 0
    x, t = chainer.dataset.concat_examples(dataset[:], device=model.device)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        scores = model.predictor(x).array
    return int((scores.argmax(axis=1) == t).sum()), len(t)


def _communicator(name: str) -> Any:
    from chainrob import distributed

    return distributed.create_communicator(name)


@contextmanager
def _all_ranks(comm: Any) -> Iterator[None]:
    """Inside, an exception on one rank ends the run on all ranks."""
    if comm is None:
        yield
        return
    from chainrob.distributed import abort_on_exception

    with abort_on_exception(comm):
        yield
