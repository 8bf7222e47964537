"""Which samples the robust layers of a PyTorch model did not trust."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from chainrob._renamed import renamed_attribute
from chainrob.aggregation import Observation, add_observer, remove_observer
from chainrob.aggregation.observers import RankBy, check_rank_by
from chainrob.aggregation.weight_averages import WeightAverages
from chainrob.torch import gradient_accumulation
from chainrob.torch.robust_modules import RobustModule

__all__ = ["Suspects"]


class Suspects:
    """Rank the samples of the training data by the weight that robust layers gave them.

    In every backward pass each robust layer gives each sample of the batch an effective weight. It
    is 1 in a plain mean, and near 0 for a sample that was truncated, trimmed or outvoted. The
    weights are added up by the sample's index (``chainrob.training.WeightAverages``). ``follow``
    knows the indices from the loader. For batches of another origin, say them by ``next``.

    Args:
        module: the model; all robust layers below are watched until ``close``.
        n_samples: size of the dataset.
        layers: names of the layers to take into account; None takes all. With ``scope='model'``
            there is one, ``'model'``.
        rank_by: the measure by which samples are ranked. ``'weight'``: the effective weight, which
            finds bad inputs and gross outliers. ``'suspicion'``: one minus
            ``chainrob.robustifiers.suspicion``, which finds wrong labels better. It needs no robust
            estimate: with ``chainrob.Mean()`` the training stays the plain one. ``weights`` and
            ``relative`` then hold one minus the suspicion in the weight's place.

    Attributes:
        averages: the ``WeightAverages`` behind ``ranking``, ``relative`` and ``weights``.

    Raises:
        ValueError: no robust layer, or another ``rank_by``; in a backward pass: a layer whose
            samples are not the batch's.
        RuntimeError: in a backward pass: nobody said which samples the batch holds.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(40, 2)
        >>> t = (x[:, 0] > 0).long()
        >>> t[7], x[7] = 1 - t[7], 20 * x[7]
        >>> data = torch.utils.data.TensorDataset(x, t)
        >>> loader = torch.utils.data.DataLoader(data, 10, shuffle=True)
        >>> net = chainrob.torch.robustify(torch.nn.Linear(2, 2), chainrob.GeometricMedian())
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> suspects = chainrob.torch.Suspects(net, len(data))
        >>> for epoch in range(5):
        ...     for x, t in suspects.follow(loader):
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.cross_entropy(net(x), t).backward()
        ...         optimizer.step()
        >>> int(suspects.ranking()[0])
        7
    """

    def __init__(
        self,
        module: torch.nn.Module,
        n_samples: int,
        *,
        layers: Collection[str] | None = None,
        rank_by: RankBy = "weight",
    ) -> None:
        check_rank_by(rank_by)
        if isinstance(layers, str):
            raise TypeError(f"layers must be a collection of names, found {layers!r}")
        self.averages = WeightAverages(n_samples)
        self.rank_by = rank_by
        self._names = None if layers is None else frozenset(layers)
        self._indices: np.ndarray | None = None
        self._joined: Any = None  # the accumulation whose micro-batches the indices are of
        self._watched = [one for one in module.modules() if isinstance(one, RobustModule)]
        if not self._watched:
            raise ValueError(
                "Suspects: the module has no robust layer; call chainrob.torch.robustify first"
            )
        for one in self._watched:
            add_observer(one, self._keep)

    def follow(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The batches of a loader, in its order; the indices of each are known while it is used.

        Workers of a loader that keeps them (``persistent_workers``) are started anew.

        Raises:
            TypeError: a loader without indices.
        """
        if not isinstance(loader, DataLoader):
            raise TypeError(
                f"Suspects.follow needs a torch DataLoader, found {type(loader).__name__}; call "
                f"next(indices) for each batch"
            )
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise TypeError(
                "Suspects.follow needs a loader that draws batches of indices, found one of an "
                "IterableDataset or with batch_size=None; call next(indices) for each batch"
            )
        drawn = _Drawn(loader.batch_sampler)
        copy = DataLoader(
            loader.dataset,
            batch_sampler=drawn,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
        )
        for batch in copy:
            self.next(drawn.indices.popleft())
            yield batch

    def next(self, indices: Any) -> None:
        """Say which samples of the dataset the following backward passes see.

        Inside ``accumulate_samples`` the micro-batches are one batch, and their indices one list.

        Args:
            indices: integers (B,), in the order of the batch.
        """
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 1 or (
            indices.size and not 0 <= indices.min() <= indices.max() < self.averages.n_samples
        ):
            raise ValueError(
                f"Suspects: indices must be one axis of numbers from 0 to "
                f"{self.averages.n_samples - 1}, found shape {indices.shape} and values "
                f"{indices.reshape(-1)[:5].tolist()}"
            )
        running = (gradient_accumulation.running(one) for one in self._watched)
        joined = next((one for one in running if one is not None), None)
        if joined is not None and joined is self._joined and self._indices is not None:
            indices = np.concatenate([self._indices, indices])
        self._indices, self._joined = indices, joined

    tally = renamed_attribute("tally", "averages")

    def ranking(self) -> np.ndarray:
        """Indices of the samples that were weighed, the most suspect first."""
        return self.averages.ranking()

    def relative(self, layer: str | None = None) -> np.ndarray:
        """The mean relative weight of every sample, (n,); 1 is not at all suspect."""
        return self.averages.relative(layer)

    def weights(self, layer: str | None = None) -> np.ndarray:
        """The mean weight of every sample, (n,), NaN if never weighed."""
        return self.averages.weights(layer)

    def close(self) -> None:
        """Stop watching; the sums stay."""
        for one in self._watched:
            remove_observer(one, self._keep)
        self._watched = []

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return self.averages.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from sums of ``state_dict``."""
        self.averages.load_state(state)

    def _keep(self, observation: Observation) -> None:
        owner = observation.owner
        name = owner.path or "model" if isinstance(owner, RobustModule) else "model"
        if self._names is not None and name not in self._names:
            return
        weights = observation.measure(self.rank_by)
        if weights is None:
            return
        if self._indices is None:
            raise RuntimeError(
                "Suspects does not know which samples the batch holds: loop over "
                "suspects.follow(loader), or call suspects.next(indices) before backward()"
            )
        if weights.shape != self._indices.shape:
            raise ValueError(
                f"Suspects: layer {name!r} saw {weights.size} samples in a batch of "
                f"{self._indices.size}, so its weights belong to no sample of the dataset; leave "
                f"the layer out with layers="
            )
        self.averages.add(name, self._indices, weights)

    def __enter__(self) -> Suspects:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Drawn:
    """A batch sampler that remembers what it drew, batches of workers that are ahead included."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler
        self.indices: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.sampler:
            batch = list(batch)
            self.indices.append(batch)
            yield batch

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]
