"""Snapshots that survive a kill and hold everything that the rest of the run depends on."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import chainer
from chainer.serializers import DictionarySerializer, NpzDeserializer
from chainrob._chainer.npz import SafeNpz, UnsafeFileError
from chainrob.atomic_files import atomic_path, remove_leftovers
from chainrob.training import random_state
from chainrob.training.shuffle import SeededShuffle

__all__ = ["Snapshot", "SnapshotWarning", "resume"]


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


class SnapshotWarning(UserWarning):
    """A snapshot could not be read; an older one is used."""


class Snapshot(chainer.training.Extension):
    """Save the whole state of a training run, so that ``resume`` continues it exactly.

    A file holds the content of Chainer's own snapshot and the states of the random number
    generators. These are NumPy's global generator (shuffling and dropout use it), Python's, those
    of the iterators' order samplers, and ``generators``. So a run may be killed at any moment.
    Resumed from its last snapshot, it ends with the parameters of a run that was never killed, bit
    for bit. ``chainer.serializers.load_npz`` can load the file too.

    A file is written under another name, flushed to the disk and then renamed. So a file under the
    right name is always complete. The next run removes half-written files of a killed process. The
    folder is ``trainer.out``; the files are ``snapshot_iter_<iteration>``.

    Not included: cuRAND's state (dropout on a GPU) and dynamic loss scales.

    Args:
        keep: How many of the newest files to keep, at least 1; None keeps all.
        prefix: What the files' names start with.
        generators: Further ``numpy.random.Generator`` or ``RandomState`` objects that the run uses,
            for example in a dataset's transformation; always in the same order.
        exact: Refuse iterators with which a resumed run would differ: those that read ahead
            and shuffle from a random stream. False accepts them.

    Raises:
        ValueError: ``keep`` is below 1, or ``prefix`` is not a file name; or, at the start of the
            run, an iterator cannot be resumed exactly.

    Example:
        >>> import tempfile
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> data = chainer.datasets.TupleDataset(
        ...     np.eye(8, dtype=np.float32), np.arange(8, dtype=np.int32))
        >>> def trainer(epochs, out):
        ...     np.random.seed(0)
        ...     model = chainer.links.Classifier(chainrob.links.MLP((8, 8), chainrob.Mean()))
        ...     optimizer = chainer.optimizers.Adam().setup(model)
        ...     updater = chainer.training.StandardUpdater(
        ...         chainer.iterators.SerialIterator(data, 2), optimizer)
        ...     trainer = chainer.training.Trainer(updater, (epochs, 'epoch'), out=out)
        ...     trainer.extend(chainrob.training.Snapshot(), trigger=(1, 'epoch'))
        ...     return trainer
        >>> with tempfile.TemporaryDirectory() as out:
        ...     first = trainer(2, out)
        ...     first.run()                               # and here the process is killed
        ...     second = trainer(5, out)
        ...     print(chainrob.training.resume(second).name)
        ...     second.run()
        snapshot_iter_8
    """

    trigger = (1, "epoch")
    priority = -100
    default_name = "snapshot"

    def __init__(
        self,
        *,
        keep: int | None = 2,
        prefix: str = "snapshot_iter_",
        generators: Sequence[random_state.Generator] = (),
        exact: bool = True,
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, or None to keep all, found {keep!r}")
        if not prefix or prefix != os.path.basename(prefix) or prefix.startswith("."):
            raise ValueError(
                f"prefix must be the beginning of a file name without a folder, found {prefix!r}"
            )
        self.keep = keep
        self.prefix = prefix
        self.generators = tuple(generators)
        self.exact = exact
        self._samplers: dict[str, random_state.Generator] = {}
        self._loaded: dict[str, Any] | None = None

    def initialize(self, trainer: Any) -> None:
        """Check the iterators, remove files of a killed process, and set the loaded states."""
        iterators = getattr(trainer.updater, "_iterators", {})
        for name, iterator in iterators.items():
            self._check(name, iterator)
        self._samplers = {
            name: generator
            for name, iterator in iterators.items()
            if isinstance(
                generator := getattr(getattr(iterator, "order_sampler", None), "_random", None),
                random_state.Generator,
            )
        }
        remove_leftovers(Path(trainer.out), self.prefix)
        if self._loaded is not None:
            self._restore(self._loaded)
            self._loaded = None

    def __call__(self, trainer: Any) -> None:
        """Write a file, then remove old ones."""
        serializer = DictionarySerializer()
        serializer.save(trainer)
        folder = Path(trainer.out)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.prefix}{trainer.updater.iteration}"
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **serializer.target)
        if self.keep is not None:
            others = [old for old in self.files(folder) if old != path]
            for old in others[self.keep - 1 :]:
                old.unlink(missing_ok=True)

    def files(self, folder: str | os.PathLike[str]) -> list[Path]:
        """The snapshots in a folder, the newest first."""

        def age(path: Path) -> tuple[int, int]:
            return -path.stat().st_mtime_ns, -int(path.name[len(self.prefix) :])

        pattern = re.compile(re.escape(self.prefix) + r"\d+")
        try:
            found = [path for path in Path(folder).iterdir() if pattern.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=age)

    def serialize(self, serializer: Any) -> None:
        """Read or write the states of the generators, with the trainer's serializer."""
        if isinstance(serializer, chainer.serializer.Deserializer):
            try:
                content = serializer("random", None)
            except KeyError:  # a snapshot of Chainer's
                return
            if content is not None:
                self._loaded = json.loads(bytes(content).decode())
            return
        state = {
            "global": random_state.get_global_state(),
            "samplers": {name: random_state.get_state(g) for name, g in self._samplers.items()},
            "generators": [random_state.get_state(g) for g in self.generators],
        }
        serializer("random", np.frombuffer(json.dumps(state).encode(), np.uint8))

    def _restore(self, state: dict[str, Any]) -> None:
        if set(state["samplers"]) != set(self._samplers) or len(state["generators"]) != len(
            self.generators
        ):
            raise ValueError(
                f"the snapshot holds the states of the shuffling iterators "
                f"{sorted(state['samplers'])} and of {len(state['generators'])} generators, but "
                f"this run has the iterators {sorted(self._samplers)} and {len(self.generators)} "
                f"generators"
            )
        random_state.set_global_state(state["global"])
        for name, generator in self._samplers.items():
            random_state.set_state(generator, state["samplers"][name])
        for generator, one in zip(self.generators, state["generators"], strict=True):
            random_state.set_state(generator, one)

    def _check(self, name: str, iterator: Any) -> None:
        kind = type(iterator).__name__
        sampler = getattr(iterator, "order_sampler", None)
        if isinstance(iterator, chainer.iterators.MultiprocessIterator) and sampler is None:
            raise ValueError(
                f"Chainer cannot take a snapshot of iterator {name!r}, a {kind} that does not "
                f"shuffle; give it order_sampler=chainrob.training.SeededShuffle(seed)"
            )
        ahead = chainer.iterators.MultiprocessIterator | chainer.iterators.MultithreadIterator
        if not self.exact or not isinstance(iterator, ahead) or sampler is None:
            return
        if not isinstance(sampler, SeededShuffle):
            raise ValueError(
                f"iterator {name!r} is a {kind}, which shuffles ahead of time, so a resumed run "
                f"would see another order; give it "
                f"order_sampler=chainrob.training.SeededShuffle(seed), or Snapshot(exact=False)"
            )


def resume(trainer: Any, file: str | os.PathLike[str] | None = None) -> Path | None:
    """Load the newest whole snapshot into a trainer, if there is one.

    Call it right before ``trainer.run()``, when the trainer has all its extensions, also the
    ``Snapshot``. Extensions that change a learning rate read their values from the file.

    Args:
        trainer: A ``chainer.training.Trainer``, set up as for the run that was interrupted.
        file: The file to load; None takes the newest in ``trainer.out`` and skips
            damaged files with a warning.

    Returns:
        pathlib.Path or None: The file; None if there was none. Then the run starts from the
            beginning.

    Raises:
        ValueError: The trainer has no ``Snapshot``, or the trainer that wrote the file was set up
            differently.
        UnsafeFileError: The file holds pickled objects, which could run code; it is not loaded.
        OSError, zipfile.BadZipFile: ``file`` cannot be read.
    """
    snapshot = next(_snapshots(trainer), None)
    if snapshot is None:
        raise ValueError(
            "the trainer has no chainrob.training.Snapshot: extend it with one before resume"
        )
    for path in snapshot.files(trainer.out) if file is None else [Path(file)]:
        try:
            arrays = _read(path)
        except UnsafeFileError:
            raise
        except _UNREADABLE as error:
            if file is not None:
                raise
            warnings.warn(
                f"the snapshot {path} cannot be read ({error}); an older one is tried",
                SnapshotWarning,
                stacklevel=2,
            )
            continue
        try:
            NpzDeserializer(arrays).load(trainer)
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"the snapshot {path} is of a trainer that was set up differently (another "
                f"model, optimizer or set of extensions): {error}"
            ) from error
        return path
    return None


def _snapshots(trainer: Any) -> Iterator[Snapshot]:
    for entry in trainer._extensions.values():
        if isinstance(entry.extension, Snapshot):
            yield entry.extension


def _read(path: Path) -> dict[str, Any]:
    """All arrays of a file, if every checksum is right. So a trainer is never loaded by half."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    with SafeNpz(path) as content:
        return {name: content[name] for name in content}
