"""Per-sample gradients of any Chain, as operators. There is never an N x D array."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import Recorder, exact_backward
from chainrob.differentiation.forward_and_reverse import named_parameters, untouched
from chainrob.links.conversion import MIXES_SAMPLES, UnsupportedLinkWarning, robustify
from chainrob.robustifiers import Mean
from chainrob.sample_gradients import Dense, Joined, OuterProducts, SampleGradients, add_up
from chainrob.sample_gradients.operator_base import squared_distances

__all__ = ["PerSampleGradients", "per_sample_gradients"]

Array = Any


def per_sample_gradients(
    model: chainer.Link,
    loss: Callable[[Any, Any], Any],
    x: Any,
    t: Any,
    *,
    loss_reduction: str = "mean",
    loop: bool = False,
) -> PerSampleGradients:
    r"""The gradient of each sample's own loss in all parameters, from one backward pass.

    .. math:: g_n = \nabla_\theta \, \ell(f_\theta(x_n), t_n), \qquad n = 1, \ldots, N

    Layers keep the N gradients of a parameter as factors: a Linear layer has N (P + Q) numbers
    instead of N P Q. So norms, the Gram matrix, weighted sums and products with vectors need no
    N x D array. The model does not change: neither parameters and gradients, nor robustifiers and
    running averages.

    Args:
        model: A Link, or a Chain of layers with a robust form in ``chainrob.links``. Its layers may
            also be robust already.
        loss: ``loss(model(x), t)`` gives a Variable of one number, the mean or the sum over the
            samples (see ``loss_reduction``), such as Chainer's losses. There is a warning if the
            loss mixes the samples, or divides by another number. For example,
            ``softmax_cross_entropy`` divides by the number of labels that it does not ignore,
            unless ``normalize=False``.
        x: Batch, N samples along the first axis, or a tuple of such arguments of the model.
        t: Targets, N along the first axis.
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        loop: Run one backward pass per sample for the parameters of links without a robust form.
            This takes N passes, and N times the memory of these parameters.

    Returns:
        A :class:`PerSampleGradients`.

    Raises:
        ValueError: If there is no sample; if a link has no robust form and ``loop`` is off; if the
            model mixes the samples (BatchNormalization in training mode); or if the loss is not one
            number or depends on no parameter.
        TypeError: If the model is not a Link.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> from chainrob.differentiation import per_sample_gradients
        >>> model = chainer.Sequential(chainer.links.Linear(3, 50), F.tanh,
        ...                            chainer.links.Linear(50, 1))
        >>> x, t = np.ones((8, 3), np.float32), np.zeros((8, 1), np.float32)
        >>> rows = per_sample_gradients(model, F.mean_squared_error, x, t)
        >>> sorted(rows)
        ['/0/W', '/0/b', '/1/W', '/1/b']
        >>> rows.norms().shape, rows.gram().shape, rows.mean()['/0/W'].shape
        ((8,), (8, 8), (50, 3))
    """
    if not isinstance(model, chainer.Link):
        raise TypeError(f"model must be a chainer.Link, found {type(model).__name__}")
    inputs = x if isinstance(x, tuple) else (x,)
    if not len(t):
        raise ValueError("t must hold at least one sample, found none")
    parameters = named_parameters(model)
    names = {id(one): name for name, one in parameters.items()}
    recorder = Recorder()
    with _recording(model, recorder, loss_reduction, loop):
        slopes = _slopes(model, loss, inputs, t, parameters, loss_reduction)
        uses: dict[str, list[SampleGradients]] = {}
        for one in recorder.collect():
            if id(one.target) not in names:
                raise ValueError(
                    f"parameters must be used as they are, found that a link hook changes "
                    f"{one.name} of a {type(one.owner).__name__}; remove the hook"
                )
            uses.setdefault(names[id(one.target)], []).extend(one.operators)
    operators = {name: add_up(each) for name, each in uses.items()}
    for name, slope in slopes.items():
        if name in operators and bool((slope != 0).any()):
            raise ValueError(
                f"loss must be made of the samples' own losses, found a part in {name} that "
                f"belongs to no sample (a penalty, or a use outside of the link)"
            )
    rest = {name: parameters[name] for name in slopes if name not in operators}
    if rest:
        operators.update(_one_by_one(model, loss, inputs, t, rest))
    if not operators:
        raise ValueError("loss must depend on the parameters of the model, found no dependence")
    counts = {name: one.n_samples for name, one in operators.items()}
    if set(counts.values()) != {len(t)}:
        raise ValueError(
            f"x and t must hold the same samples along their first axes, found {len(t)} targets "
            f"and numbers of samples {counts}"
        )
    unused = tuple(name for name in parameters if name not in operators)
    return PerSampleGradients({name: operators[name] for name in sorted(operators)}, unused)


class PerSampleGradients(Mapping[str, SampleGradients]):
    """The gradients of N samples in all parameters: operators by name, and facts about the rows.

    A row is a sample's gradient in all parameters together, D numbers.

    Attributes:
        n_samples: N.
        unused: Names of the parameters that the loss does not depend on; their rows are zero, and
            they are not among the operators.
        joined: One operator (N, D) of all parameters, in the order of the names, for a
            robustifier.
    """

    def __init__(
        self, operators: Mapping[str, SampleGradients], unused: Sequence[str] = ()
    ) -> None:
        self._operators = dict(operators)
        self.unused = tuple(unused)
        self.joined = Joined(list(self._operators.values()))
        self.n_samples = self.joined.n_samples

    def __getitem__(self, name: str) -> SampleGradients:
        return self._operators[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._operators)

    def __len__(self) -> int:
        return len(self._operators)

    def squared_norms(self) -> Array:
        """Squared Euclidean norms of the rows: (N,), float64."""
        return self.joined.squared_norms()

    def norms(self) -> Array:
        """Euclidean norms of the rows: (N,), float64."""
        return self.squared_norms() ** 0.5

    def gram(self) -> Array:
        """Inner products of the rows: (N, N), float64."""
        return self.joined.gram()

    def squared_distances(self) -> Array:
        """Squared distances between the rows: (N, N), float64, exact where rows nearly agree."""
        return squared_distances(self.joined.centered_gram())

    def mean(self) -> dict[str, Array]:
        """The mean of the rows, by name: the gradient of a loss that is a mean."""
        return {name: one.mean() for name, one in self._operators.items()}

    def weighted_sum(self, weights: Array) -> dict[str, Array]:
        """sum_n weights[n] g_n, by name."""
        weights = self.joined.xp.asarray(weights)
        if weights.shape != (self.n_samples,):
            raise ValueError(f"weights must have shape {(self.n_samples,)}, found {weights.shape}")
        return {name: one.weighted_sum(weights) for name, one in self._operators.items()}

    def products(self, vectors: Mapping[str, Any]) -> Array:
        """Inner product of every row with one vector, given by name (names left out are zero).

        Returns:
            (N,), float64: the derivative of each sample's loss along the vector.
        """
        unknown = sorted(set(vectors) - set(self._operators) - set(self.unused))
        if unknown:
            raise KeyError(f"vectors must have names of parameters, found {unknown}")
        total = self.joined.xp.zeros(self.n_samples)
        for name, vector in vectors.items():
            if name in self._operators:
                operator = self._operators[name]
                vector = operator.xp.asarray(vector)
                if vector.shape != operator.shape:
                    raise ValueError(
                        f"the vector of {name} must have shape {operator.shape}, "
                        f"found {vector.shape}"
                    )
                total = total + _row_products(operator, vector)
        return total


def _row_products(operator: SampleGradients, vector: Array) -> Array:
    """G v as (N,) float64: by the factors if there are some, else tile by tile."""
    vector = vector.astype(np.float64, copy=False)
    if type(operator) is OuterProducts:
        return (operator.xp.matmul(operator.gy, vector) * operator.x).sum(axis=(-2, -1))
    total = operator.xp.zeros(operator.n_samples)
    for index, values in operator.tiles():
        total += operator.xp.matmul(values, vector[index].reshape(-1))
    return total


@contextmanager
def _recording(
    model: chainer.Link, recorder: Recorder, loss_reduction: Any, loop: bool
) -> Iterator[None]:
    """Inside, the recorder collects the operators of backward passes through the model."""
    classes = [(link, type(link)) for link in model.links()]
    with untouched(model), recorder.instead(model.links()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnsupportedLinkWarning)
                robustify(
                    model,
                    Mean(),
                    scope="model",
                    loss_reduction=loss_reduction,
                    on_unsupported="skip" if loop else "raise",
                )
        except ValueError as error:
            if "no robust form" not in str(error):
                raise
            reasons = str(error).removeprefix("robustify: ").partition("; choose others")[0]
            raise ValueError(
                f"{reasons}; pass loop=True to run one backward pass per sample for them"
            ) from None
        try:
            if chainer.config.train:
                for link in model.links():
                    if isinstance(link, MIXES_SAMPLES):
                        raise ValueError(
                            f"model must treat each sample by itself, found {type(link).__name__} "
                            f"in training mode; use chainer.using_config('train', False)"
                        )
            yield
        finally:
            for link, kind in classes:
                link.__class__ = kind


def _slopes(
    model: chainer.Link,
    loss: Callable[[Any, Any], Any],
    inputs: tuple[Any, ...],
    t: Any,
    parameters: Mapping[str, chainer.Parameter],
    reduction: str | None = None,
) -> dict[str, Array]:
    """Gradients of the loss by name, only for parameters that it depends on."""
    with chainer.force_backprop_mode():
        y = model(*inputs)
        value = loss(y, t)
        if not isinstance(value, chainer.Variable) or value.size != 1:
            found = getattr(value, "shape", type(value).__name__)
            raise ValueError(f"loss must return a Variable of one number, found {found}")
        if value.creator_node is None:
            return {}
        used = {name: one for name, one in parameters.items() if one.array is not None}
        slopes = chainer.grad([value], list(used.values()))
    if reduction is not None and isinstance(y, chainer.Variable) and len(y) == len(t):
        _warn_unless_it_adds_up(loss, chainer.Variable(y.array), t, value.array, reduction)
    pairs = zip(used, slopes, strict=True)
    return {name: slope.array for name, slope in pairs if slope is not None}


def _warn_unless_it_adds_up(
    loss: Callable[[Any, Any], Any], y: Any, t: Any, whole: Array, reduction: str
) -> None:
    """Compare the loss with that of parts of the batch: a mean or a sum of samples adds up.

    Parts have at least two samples. A loss that requires the whole batch usually raises an error on
    a part. Then there is no warning.
    """
    count = len(t)
    ends = [0, 2, 2 + (count - 2) // 2, count] if count >= 6 else [0, 2, count]
    if count < 4:
        return
    values, sizes = [], []
    with chainer.no_backprop_mode():
        for start, end in pairwise(ends):
            try:
                part = loss(y[start:end], t[start:end])
            except Exception:
                return  # it takes whole batches only
            values.append(float(part.array) * (end - start if reduction == "mean" else 1))
            sizes.append(abs(values[-1]))
    total = float(whole) * (count if reduction == "mean" else 1)
    rounding = float(np.finfo(whole.dtype).eps) ** 0.5 * max(abs(total), *sizes)
    if np.isfinite([total, *values]).all() and abs(sum(values) - total) > rounding:
        warnings.warn(
            f"the loss is not the {reduction} of the samples' own losses (parts of the batch add "
            f"up to {sum(values):.6g}, the whole is {total:.6g}), so the rows are not their "
            f"gradients; see loss_reduction, and normalize=False of softmax_cross_entropy",
            stacklevel=4,
        )


def _one_by_one(
    model: chainer.Link,
    loss: Callable[[Any, Any], Any],
    inputs: tuple[Any, ...],
    t: Any,
    parameters: Mapping[str, chainer.Parameter],
) -> dict[str, SampleGradients]:
    """Rows of the parameters, by one backward pass per sample."""
    rows: dict[str, list[Array]] = {name: [] for name in parameters}
    for n in range(len(t)):
        one = tuple(value[n : n + 1] for value in inputs)
        with untouched(model), exact_backward():
            slopes = _slopes(model, loss, one, t[n : n + 1], parameters)
        for name, parameter in parameters.items():
            slope = slopes.get(name)
            rows[name].append(parameter.xp.zeros_like(parameter.array) if slope is None else slope)
    return {name: Dense(parameters[name].xp.stack(each)) for name, each in rows.items()}
