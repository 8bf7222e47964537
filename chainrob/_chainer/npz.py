"""Model and snapshot files are read without running what they hold.

Chainer writes ``None`` as an object array, which NumPy stores as a pickle. So Chainer reads its
files with ``allow_pickle=True``, and whoever made the file chooses what runs. The reader here
knows one pickle only, that of ``None``, and refuses every other.
"""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from chainrob._chainer.mending import StandIn, mends, rebind

_RECONSTRUCT = np.array(None, dtype=object).__reduce__()[0]
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""What the pickle of ``numpy.array(None)`` names, whichever version of NumPy wrote it."""


class UnsafeFileError(ValueError):
    """A file holds pickled objects, which could run code when they are read."""


class SafeNpz:
    """The arrays of an ``.npz`` file by name, each read when it is asked for.

    Args:
        file: a path, or a file object opened for reading bytes.

    Raises:
        UnsafeFileError: the file is a pickle, or one of its arrays is, of anything but None. That
            is found before anything is read, so nothing is ever half loaded.
    """

    def __init__(self, file: Any) -> None:
        try:
            content = np.load(file, allow_pickle=False)
        except (ValueError, pickle.UnpicklingError) as error:
            if "pickle" not in str(error):
                raise
            raise UnsafeFileError(
                f"{_name_of(file)} is no .npz file but a pickle, or damaged; it is not read, for a "
                f"pickle can run code"
            ) from None
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError(f"{_name_of(file)} holds a single array; an .npz file is needed")
        self._content: Any = content
        self._file = _name_of(file)
        try:
            self._nones = dict(self._pickled())
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> list[str]:
        return list(self._content.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self._content

    def __getitem__(self, name: str) -> Any:
        none = self._nones.get(name)
        return self._content[name] if none is None else none

    def _pickled(self) -> Iterator[tuple[str, Any]]:
        """The arrays of None that Chainer wrote, by name; everything else is refused."""
        for name in self.files:
            with self._content.zip.open(self._member(name)) as stream:
                try:
                    value = _object_array(stream)
                except Exception as error:
                    # A crafted pickle may fail in any way; all of them mean the same here.
                    raise UnsafeFileError(
                        f"{self._file}: {name!r} holds pickled objects, which could run code; only "
                        f"None may be stored so, and the file is not loaded"
                    ) from error
            if value is not None:
                yield name, value

    def _member(self, name: str) -> str:
        return name if name in self._content.zip.namelist() else f"{name}.npy"

    def __enter__(self) -> SafeNpz:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._content.close()


class _Unpickler(pickle.Unpickler):
    """Knows the names that an array of None needs, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return _NAMES[module, name]


def _object_array(stream: Any) -> np.ndarray | None:
    """The array of None that an ``.npy`` stream holds; None where it holds no objects."""
    prefix = stream.read(len(np.lib.format.MAGIC_PREFIX) + 2)
    if prefix[:-2] != np.lib.format.MAGIC_PREFIX:
        return None  # NumPy hands such a member over as bytes
    # Headers of version 1 have a length of two bytes, later ones of four.
    length = int.from_bytes(stream.read(2 if prefix[-2] == 1 else 4), "little")
    header = ast.literal_eval(stream.read(length).decode("utf-8" if prefix[-2] > 2 else "latin1"))
    if not np.dtype(np.lib.format.descr_to_dtype(header["descr"])).hasobject:
        return None
    value: Any = _Unpickler(stream, encoding="ASCII").load()
    if isinstance(value, np.ndarray) and value.shape == () and value.item() is None:
        return value
    raise ValueError("objects other than None")


def _name_of(file: Any) -> str:
    return str(getattr(file, "name", file if isinstance(file, str) else "the file"))


@mends("chainer.serializers.npz")
def _load_npz(module: Any) -> None:
    def load(file: Any, **kwargs: Any) -> SafeNpz:
        return SafeNpz(file)

    rebind(module.load_npz, numpy=StandIn(np, load=load))
