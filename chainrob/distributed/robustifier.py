"""A robustifier that uses the samples of all ranks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrob.distributed.gradients import EXCHANGES, Exchange, distributed_gradients
from chainrob.distributed.ranks import Partition, ranks_of
from chainrob.distributed.redistribution import gathered_layer
from chainrob.robustifiers.adaptive_mean import AdaptiveMean
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.from_function import FromFunction
from chainrob.robustifiers.robustifier import Estimate, Robustifier, as_operator
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

if TYPE_CHECKING:
    import chainer

__all__ = ["Distributed", "distribute", "undistribute"]


@dataclass(frozen=True, repr=False, init=False)
class Distributed(Robustifier):
    r"""A robustifier over the samples of all ranks.

    .. math:: \hat g = R(g_1, \dots, g_N), \qquad N = \sum_p n_p

    Every rank calls it with its own n_p rows (0 is allowed). It gets the estimate that one process
    would compute from all rows, in the order of the ranks. Rows stay on their ranks;
    ``DistributedGradients`` describes what is sent. Calls are collective: all ranks must make the
    same calls in the same order.

    Two objects are equal if robustifier, communicator and exchange are equal. A communicator cannot
    leave its process, so a pickle holds only the robustifier.

    Args:
        robustifier: A Robustifier (a whole pipeline, not a part of one), or any callable (N, D) ->
            (D,), which gets all rows on every rank.
        comm: A communicator of ChainerMN or mpi4py, or a ``Ranks``.
        exchange: What coordinate-wise robustifiers send. ``'factors'``: inputs and output gradients
            of the layer; the traffic grows with N. ``'reductions'``: sums and counts of each
            coordinate; the traffic does not grow with N, but this is much slower unless N is very
            large. ``'auto'``: the one that should be faster.

    Raises:
        TypeError: If the robustifier cannot be called, or ``comm`` is not a communicator.
        ValueError: If the exchange is unknown; at a call, if the ranks differ in robustifier, shape
            or dtype.

    Example:
        >>> import numpy as np, chainrob, chainrob.distributed
        >>> comm = chainrob.distributed.create_communicator('naive')
        >>> robust = chainrob.distributed.Distributed(chainrob.CoordinateMedian(), comm)
        >>> robust
        Distributed(CoordinateMedian(), ranks=1)
        >>> robust(np.array([[1.0, 5.0], [2.0, 6.0], [1e9, -1e9]]))
        array([2., 5.])
    """

    robustifier: Robustifier
    comm: Any
    exchange: Exchange = field(default="auto", kw_only=True)

    def __init__(
        self, robustifier: Callable[[Any], Any], comm: Any, *, exchange: Exchange = "auto"
    ) -> None:
        if isinstance(robustifier, Distributed):
            raise TypeError(f"robustifier is distributed already: {robustifier!r}")
        if not isinstance(robustifier, Robustifier):
            robustifier = FromFunction(robustifier)
        if exchange not in EXCHANGES:
            raise ValueError(f"exchange must be one of {EXCHANGES}, found {exchange!r}")
        ranks_of(comm)
        object.__setattr__(self, "robustifier", robustifier)
        object.__setattr__(self, "comm", comm)
        object.__setattr__(self, "exchange", exchange)
        object.__setattr__(self, "nonfinite", robustifier.nonfinite)

    def estimate(self, gradients: Array | SampleGradients, watch: bool = False) -> Estimate:
        """As ``Robustifier.estimate``. The weights are those of this rank's samples, (*R, n_p). If
        one rank watches, all ranks do.
        """
        operator = as_operator(gradients)
        partition, watch = self._partition(operator, watch)
        if partition.total == 0:
            weights = operator.xp.zeros((*operator.replicas, 0), np.float64) if watch else None
            return Estimate(operator.zeros(), weights)
        found = self.robustifier.estimate(self._all_rows(operator, partition), watch)
        return (
            found
            if found.weights is None
            else found._replace(weights=partition.mine(found.weights))
        )

    def count_samples(self, n_local: int) -> int:
        """The number of samples on all ranks together. The call is collective."""
        return int(ranks_of(self.comm).allreduce(np.array([n_local]))[0])

    def of(self, robustifier: Callable[[Any], Any]) -> Distributed:
        """Another robustifier over the same ranks."""
        return Distributed(robustifier, self.comm, exchange=self.exchange)

    def pullback(self, *args: Any, **options: Any) -> Any:
        raise NotDifferentiableError(
            f"{self!r} has no second derivative: the estimate depends on the samples of all ranks, "
            f"and a rank differentiates its own graph only"
        )

    def _partition(self, operator: SampleGradients, watch: bool) -> tuple[Partition, bool]:
        """The split of the samples, and whether any rank watches. Checks that all ranks do the
        same.
        """
        ranks = ranks_of(self.comm)
        shapes: list[Any] = []
        operator.each(lambda one: shapes.append((one.replicas, one.shape, str(one.dtype))))
        what = re.sub(r" at 0x[0-9a-f]+", "", repr(self.robustifier))  # addresses of functions
        task = f"{what} by {self.exchange} of {shapes}"
        # The next question is whether all rows are finite. So the answer is sent along here.
        looks = self.nonfinite != "propagate"
        finite = looks and (operator.n_samples == 0 or operator.all_finite())
        table = np.zeros((1, 4), np.int64)
        table[0] = operator.n_samples, zlib.crc32(task.encode()), finite, watch
        table = ranks.gather(table, [1] * ranks.size, -2)
        if not (table[:, 1] == table[0, 1]).all():
            others = np.flatnonzero(table[:, 1] != table[0, 1]).tolist()
            raise ValueError(
                f"all ranks must estimate the same parameter with the same robustifier; ranks "
                f"{others} differ from rank 0, and rank {ranks.rank} has {task}"
            )
        partition = Partition(ranks, table[:, 0].tolist(), bool(table[:, 2].all()) or None)
        return partition, bool(table[:, 3].any())

    def _all_rows(self, operator: SampleGradients, partition: Partition) -> SampleGradients:
        if partition.ranks.size == 1:
            return operator
        if _looks_at_factors(self.robustifier):
            return gathered_layer(operator, partition)
        return distributed_gradients(operator, partition, self.exchange)

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        raise TypeError(f"{self!r} must be outermost: distribute the whole pipeline")

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.robustifier,)

    def __copy__(self) -> Distributed:
        return self

    def __deepcopy__(self, memo: Any) -> Distributed:
        return self  # immutable, and a communicator belongs to its process

    def __repr__(self) -> str:
        options = "" if self.exchange == "auto" else f", exchange={self.exchange!r}"
        return f"Distributed({self.robustifier!r}, ranks={ranks_of(self.comm).size}{options})"


def distribute(model: chainer.Link, comm: Any, *, exchange: Exchange = "auto") -> chainer.Link:
    """Let the robust links of a model estimate from the samples of all ranks.

    Links without a robustifier stay plain: ``create_multi_node_optimizer`` averages their
    gradients. If a link's robustifier is distributed already, it gets the new communicator.

    Args:
        model: A link. It is changed, with all links below it.
        comm: A communicator of ChainerMN or mpi4py.
        exchange: See ``Distributed``.

    Returns:
        chainer.Link: The model.

    Example:
        >>> import chainrob, chainrob.distributed
        >>> comm = chainrob.distributed.create_communicator('naive')
        >>> model = chainrob.links.MLP((2, 3, 1), [chainrob.GeometricMedian(), None])
        >>> [layer.robustifier for layer in chainrob.distributed.distribute(model, comm).layers]
        [Distributed(GeometricMedian(), ranks=1), None]
    """
    for link in undistribute(model).links():
        robustifier = getattr(link, "robustifier", None)
        if robustifier is not None:
            link.robustifier = Distributed(robustifier, comm, exchange=exchange)
    return model


def undistribute(model: chainer.Link) -> chainer.Link:
    """Give the links of a model their robustifiers of one process back. Returns the model."""
    for link in model.links():
        if isinstance(getattr(link, "robustifier", None), Distributed):
            link.robustifier = link.robustifier.robustifier
    return model


def _looks_at_factors(robustifier: Any) -> bool:
    """Whether a robustifier, or one inside it, looks at inputs and output gradients separately."""
    if isinstance(robustifier, tuple):
        return any(map(_looks_at_factors, robustifier))
    if not isinstance(robustifier, Robustifier):
        return False
    return isinstance(robustifier, AdaptiveMean) or any(
        map(_looks_at_factors, vars(robustifier).values())
    )


def _itself(robustifier: Robustifier) -> Robustifier:
    return robustifier
