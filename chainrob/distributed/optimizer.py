"""ChainerMN's multi-node optimizer, for robust links and for ranks that may send anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import chainer
from chainrob.distributed.ranks import Ranks
from chainrob.distributed.robustifier import Distributed
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array

__all__ = ["create_multi_node_optimizer"]


def create_multi_node_optimizer(
    optimizer: Any,
    comm: Any,
    robustifier: Callable[[Array], Array] | None = None,
    *,
    attack: Callable[[Array], Array] | None = None,
    zero_fill: bool = True,
) -> Any:
    r"""ChainerMN's multi-node optimizer, adapted to robust gradients.

    Without ``robustifier`` it is ChainerMN's: the communicator averages gradients over the ranks.
    Links that ``distribute`` made robust over all ranks are an exception. Their gradients are the
    same on all ranks already and are not sent again. (A parameter that a plain link also uses is
    averaged.)

    With ``robustifier`` nothing is averaged. The gradient of the whole model on rank p is row p,

    .. math:: \hat g = R(g_1, \dots, g_P).

    As many ranks as R tolerates may send anything, even NaN, because of bad data, bad hardware or a
    bad program. Every rank gets all rows and computes the estimate itself. So a rank has influence
    on its own row only, as long as MPI delivers what was sent. A rank sends P - 1 gradients and
    stores P of them.

    ``setup`` sends the parameters of rank 0 to all ranks. So, unlike in ChainerMN, the first update
    (and the first after a resume) is a normal update. Parameters without a shape at that time are
    sent at their first update, which is then skipped.

    Args:
        optimizer: A Chainer optimizer.
        comm: A communicator of ChainerMN.
        robustifier: A Robustifier or any callable (P, D) -> (D,), or None.
        attack: For studies: a function that corrupts the rows (P, D), the same on all ranks. It may
            change its argument.
        zero_fill: Whether gradients that are None count as zeros.

    Returns:
        The multi-node optimizer; call its ``setup(model)``.

    Raises:
        ValueError: If there is an attack without a robustifier.
        TypeError: If the robustifier is itself distributed.

    Example:
        >>> import numpy as np, chainrob, chainrob.distributed
        >>> import chainer
        >>> comm = chainrob.distributed.create_communicator('naive')
        >>> optimizer = chainrob.distributed.create_multi_node_optimizer(
        ...     chainer.optimizers.SGD(1.0), comm, chainrob.CoordinateMedian())
        >>> model = chainer.links.Linear(2, 1, initialW=0)
        >>> optimizer = optimizer.setup(model)
        >>> optimizer.update(lambda: chainer.functions.sum(model(np.ones((1, 2), np.float32))))
        >>> model.W.array
        array([[-1., -1.]], dtype=float32)
    """
    from chainermn import optimizers  # needs mpi4py, so not at the top

    if attack is not None and robustifier is None:
        raise ValueError("attack needs a robustifier, found None")
    if isinstance(robustifier, Distributed):
        raise TypeError(
            f"robustifier must not be distributed: it estimates from the rows of the ranks, found "
            f"{robustifier!r}"
        )
    own: _Communicator = (
        _PlainGradients(comm) if robustifier is None else _RankRows(comm, robustifier, attack)
    )
    kind = type("MultiNodeOptimizer", (_SendsAtSetup, optimizers._MultiNodeOptimizer), {})
    return kind(optimizer, own, zero_fill)


class _SendsAtSetup:
    def setup(self, link: chainer.Link) -> Any:
        self.actual_optimizer.setup(link)  # type: ignore[attr-defined]
        self.communicator.bcast_data(link)  # type: ignore[attr-defined]
        self.is_changed(link)  # type: ignore[attr-defined]  # remembers the parameters sent
        return self


class _Communicator:
    """A communicator of ChainerMN that joins the gradients of the ranks in another way."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)


class _PlainGradients(_Communicator):
    """Averages all gradients except those that are robust over all ranks already."""

    def multi_node_mean_grad(self, model: chainer.Link, zero_fill: bool = False) -> None:
        plain = _PlainParameters(model)
        if plain.parameters:
            self.comm.multi_node_mean_grad(plain, zero_fill)


class _PlainParameters:
    """Some parameters of a link, with the part of its interface that communicators use."""

    def __init__(self, model: chainer.Link) -> None:
        plain: set[int] = set()
        for link in model.links():
            if not isinstance(getattr(link, "robustifier", None), Distributed):
                own = (parameter for name, parameter in link.namedparams() if name.count("/") == 1)
                plain.update(map(id, own))
        self.parameters = [pair for pair in model.namedparams() if id(pair[1]) in plain]

    def namedparams(self) -> list[tuple[str, chainer.Parameter]]:
        return self.parameters


class _RankRows(_Communicator):
    """Replaces the average by the estimate from the gradients of all ranks, one row per rank."""

    def __init__(
        self,
        comm: Any,
        robustifier: Callable[[Array], Array],
        attack: Callable[[Array], Array] | None,
    ) -> None:
        super().__init__(comm)
        self.robustifier = robustifier
        self.attack = attack
        self.ranks = Ranks(comm)

    def multi_node_mean_grad(self, model: chainer.Link, zero_fill: bool = False) -> None:
        parameters = [
            parameter
            for _, parameter in sorted(model.namedparams())
            if parameter.array is not None and (zero_fill or parameter.grad is not None)
        ]
        if not parameters:
            return
        xp = array_module(parameters[0].array)
        dtype = np.result_type(*(one.dtype for one in parameters))
        row = xp.concatenate([_gradient(one, xp).astype(dtype).reshape(-1) for one in parameters])
        rows = self.ranks.gather(row[None], [1] * self.ranks.size, -2)
        if self.attack is not None:
            rows = self.attack(rows)
        estimate = self.robustifier(rows)
        if estimate.shape != row.shape:
            raise ValueError(
                f"robustifier {self.robustifier!r} must turn an array of shape {rows.shape} into "
                f"one of shape {row.shape}, found {estimate.shape}"
            )
        start = 0
        for one in parameters:
            piece = estimate[start : start + one.size]
            one.grad = piece.reshape(one.shape).astype(one.dtype)
            start += one.size


def _gradient(parameter: chainer.Parameter, xp: Any) -> Array:
    return xp.zeros_like(parameter.array) if parameter.grad is None else parameter.grad
