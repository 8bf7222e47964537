"""A Trainer extension that lists the samples to which robust layers gave little weight."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import chainer
from chainer.training import trigger as triggers
from chainrob._renamed import renamed_attribute
from chainrob.aggregation.observers import RankBy, check_rank_by
from chainrob.aggregation.weight_averages import WeightAverages
from chainrob.atomic_files import atomic_path, remove_leftovers
from chainrob.training.batch_indices import BatchIndices
from chainrob.training.observation import Observation, Watch, observe
from chainrob.training.suspect_files import draw_suspects, suspect_table

__all__ = ["SuspectReport"]


class SuspectReport(chainer.training.Extension):
    r"""Rank the samples of the training data by the weight that robust layers gave them.

    In every update each robust layer gives each sample of the batch an effective weight. It is 1 in
    a plain mean, and near 0 for a sample that was truncated, trimmed or outvoted. Samples are
    ranked by their average weight relative to their batches (see ``WeightAverages``). At every step
    the extension also reports, for each layer, the share of the batch with a weight below
    ``below``. It is called ``down_weighted/<layer>`` in ``LogReport`` and ``PrintReport``.

    The weights come from the pass that makes the estimate. They cost almost nothing with a
    weighting robustifier, and about half of that pass with others (``benchmarks/watching.py``). The
    averages are part of the trainer's snapshot, so a resumed run continues them.

    Args:
        model: The model to watch; None watches the target of every optimizer.
        iterator: The updater's iterator whose dataset the indices refer to.
        indices: ``indices(trainer)`` returns the dataset indices of the last batch, (B,). Needed
            for iterators other than Chainer's; None reads Chainer's iterators.
        n_samples: Size of the dataset; needed with ``indices`` only.
        layers: Names of the layers to use, such as ``'/predictor/l1'``, or a predicate of the name;
            None uses all.
        below: A sample with a smaller weight counts as down-weighted.
        rank_by: The measure by which samples are ranked. ``'weight'``: the effective weight, which
            finds bad inputs and gross outliers. ``'suspicion'``: one minus
            ``chainrob.robustifiers.suspicion``, which finds wrong labels better. It needs no robust
            estimate: with ``robustifier=chainrob.Mean()`` the training stays the plain one. Tables,
            figures and logs then hold one minus the suspicion in the weight's place.
        filename: CSV file in ``trainer.out`` with all samples, ranked; None writes none.
        plot_name: PNG file with the ranked weights, drawn at the end; None draws none.
        trigger: When to write the CSV file, as a trigger of Chainer. It is also written at the end.

    Attributes:
        averages: The ``WeightAverages``, with ``ranking()``, ``relative()`` and ``weights()``.

    Raises:
        TypeError, ValueError: At the start of training: the iterator's order is not known (see
            ``indices``), or the batch is larger than the dataset. During training: a layer saw
            other samples than those of the batch.

    Example:
        >>> import tempfile
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
        >>> t = (x[:, 0] > 0).astype(np.int32)
        >>> t[7] = 1 - t[7]
        >>> x[7] *= 20
        >>> np.random.seed(0)
        >>> model = chainer.links.Classifier(
        ...     chainrob.links.MLP((2, 10, 2), chainrob.GeometricMedian()))
        >>> updater = chainer.training.StandardUpdater(
        ...     chainer.iterators.SerialIterator(list(zip(x, t)), 10),
        ...     chainer.optimizers.SGD(0.1).setup(model))
        >>> report = chainrob.training.SuspectReport()
        >>> with tempfile.TemporaryDirectory() as out:
        ...     trainer = chainer.training.Trainer(updater, (20, 'epoch'), out=out)
        ...     trainer.extend(report)
        ...     trainer.run()
        >>> int(report.averages.ranking()[0])
        7
    """

    # Runs in every iteration, before the extensions that read its reports.
    trigger = (1, "iteration")
    priority = chainer.training.PRIORITY_WRITER
    default_name = "SuspectReport"

    def __init__(
        self,
        model: chainer.Link | None = None,
        *,
        iterator: str = "main",
        indices: Callable[[Any], ArrayLike] | None = None,
        n_samples: int | None = None,
        layers: Collection[str] | Callable[[str], bool] | None = None,
        below: float = 0.5,
        rank_by: RankBy = "weight",
        filename: str | None = "suspects.csv",
        plot_name: str | None = "suspects.png",
        trigger: Any = (1, "epoch"),
    ) -> None:
        if not 0 < below <= 1:
            raise ValueError(f"below must lie in (0, 1], found {below!r}")
        check_rank_by(rank_by)
        if (indices is None) != (n_samples is None):
            raise ValueError(
                "indices and n_samples must be given together, found "
                f"indices={indices!r} and n_samples={n_samples!r}"
            )
        self.model = model
        self.iterator = iterator
        self.below = below
        self.rank_by = rank_by
        self.filename = filename
        self.plot_name = plot_name
        self.averages: WeightAverages | None = (
            None if n_samples is None else WeightAverages(n_samples)
        )
        self._takes = _predicate(layers)
        self._indices = indices
        self._writes = triggers.get_trigger(trigger)
        self._batches: BatchIndices | None = None
        self._watches: list[Watch] = []
        self._step: list[tuple[str, NDArray[np.float64]]] = []
        self._out: Path | None = None
        self._restore: Any = None

    def initialize(self, trainer: Any) -> None:
        """Begin to watch. A snapshot, if there is one, has already been loaded."""
        if self._indices is None:
            self._batches = BatchIndices(trainer.updater.get_iterator(self.iterator))
            if self.averages is None:
                self.averages = WeightAverages(self._batches.n_samples)
        if self._restore is not None:
            self._averages.serialize(self._restore)
            self._restore = None
        if self.model is not None:
            models = [self.model]
        else:
            models = [one.target for one in trainer.updater.get_all_optimizers().values()]
        self._watches = [observe(model, self._keep) for model in models]
        self._out = Path(trainer.out)
        for name in (self.filename, self.plot_name):
            if name is not None:
                remove_leftovers(self._out, name)

    def __call__(self, trainer: Any) -> None:
        """Add the weights of the last update."""
        if trainer.is_before_training:
            return
        if self._batches is not None:
            indices = self._batches.next()
        else:
            assert self._indices is not None
            indices = np.asarray(self._indices(trainer))
        step, self._step = self._step, []
        for name, weights in step:
            if weights.shape != indices.shape:
                raise ValueError(
                    f"layer {name} saw {weights.size} samples in a batch of {indices.size}, so its "
                    f"weights cannot be matched to samples of the dataset; leave the layer out "
                    f"with layers="
                )
            self._averages.add(name, indices, weights)
        for name in dict.fromkeys(name for name, _ in step):
            share = np.mean([(w < self.below).mean() for layer, w in step if layer == name])
            chainer.reporter.report({f"down_weighted{name}": float(share)})
        if self._writes(trainer):
            self.write_table(trainer.out)

    def finalize(self) -> None:
        """Stop watching, and write the files."""
        for watch in self._watches:
            watch.close()
        self._watches = []
        if self._out is not None and self.averages is not None:
            self.write_table(self._out)
            self.write_figure(self._out)

    def write_table(self, folder: str | Path) -> None:
        """Write the CSV file, in one piece."""
        if self.filename is not None:
            with atomic_path(Path(folder) / self.filename) as temporary:
                temporary.write_bytes(suspect_table(self._averages).encode())

    def write_figure(self, folder: str | Path) -> None:
        """Write the figure, in one piece; nothing if no layer was seen."""
        if self.plot_name is not None and self._averages.layers:
            with atomic_path(Path(folder) / self.plot_name) as temporary:
                draw_suspects(self._averages, self.rank_by).savefig(
                    temporary, format="png", dpi=160
                )

    def serialize(self, serializer: Any) -> None:
        """Read or write the sums."""
        if hasattr(self._writes, "serialize"):
            self._writes.serialize(serializer["trigger"])
        if self.averages is not None:
            self.averages.serialize(serializer)
        elif isinstance(serializer, chainer.serializer.Deserializer):
            # The dataset is only known when the run begins, so keep the arrays until then.
            self._restore = _Kept({key: serializer(key, None) for key in _KEYS})

    tally = renamed_attribute("tally", "averages")

    @property
    def _averages(self) -> WeightAverages:
        if self.averages is None:
            raise RuntimeError("SuspectReport has no weights before the trainer runs")
        return self.averages

    def _keep(self, observation: Observation) -> None:
        name = observation.name if observation.name != "/" else "/model"
        if not self._takes(observation.name):
            return
        weights = observation.measure(self.rank_by)
        if weights is not None:
            # Replicas of a layer see the same samples.
            self._step.append((name, weights.reshape(-1, weights.shape[-1]).mean(axis=0)))


_KEYS = ("layers", "counts", "weights", "relative")


class _Kept(chainer.serializer.Deserializer):
    """Arrays from a snapshot, kept until the run begins."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays

    def __call__(self, key: str, value: Any) -> Any:
        return self.arrays[key]


def _predicate(layers: Collection[str] | Callable[[str], bool] | None) -> Callable[[str], bool]:
    if layers is None:
        return lambda name: True
    if callable(layers):
        return layers
    if isinstance(layers, str):
        raise TypeError(f"layers must be a collection of names or a predicate, found {layers!r}")
    names = frozenset(layers)
    return lambda name: name in names
