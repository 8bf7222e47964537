"""The finished parts of a long run, kept so that an interrupted run can continue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.files import atomic_path, read_json, write_json
from chainrob.experiments.usage import UsageError

__all__ = ["PartialResults", "check_same_settings"]


class PartialResults:
    """One array per finished part, in ``FOLDER/partial``, with the settings of the run.

    Args:
        folder: Folder of the run's results; it exists.
        settings: What the results depend on, in values that JSON can hold.
        resume: Continue from the parts in the folder; otherwise remove them and start again.

    Raises:
        UsageError: On ``resume``, if the parts were made with other settings or cannot be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from chainrob.experiments.partial import PartialResults
        >>> folder = tempfile.mkdtemp()
        >>> PartialResults(folder, {"seed": 0}, resume=False).save("first", np.arange(3))
        >>> again = PartialResults(folder, {"seed": 0}, resume=True)
        >>> again.load("first").tolist(), again.load("second")
        ([0, 1, 2], None)
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, resume: bool
    ) -> None:
        self._folder = Path(folder) / "partial"
        if not resume:
            self.remove()
        self._folder.mkdir(exist_ok=True)
        record = self._folder / "settings.json"
        if record.exists():
            check_same_settings(read_json(record), settings, folder)
        else:
            write_json(record, settings)

    def save(self, part: str, result: NDArray[Any]) -> None:
        """Keep the result of a part that is finished."""
        with atomic_path(self._folder / f"{part}.npy") as temporary:
            np.save(temporary, result)

    def load(self, part: str) -> NDArray[Any] | None:
        """The result of a part, or None if it is not finished.

        Raises:
            UsageError: If its file is damaged.
        """
        file = self._folder / f"{part}.npy"
        if not file.exists():
            return None
        try:
            result: NDArray[Any] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(
                f"{file} is damaged ({error}); remove it and resume again, and that part is "
                "computed again"
            ) from error
        return result

    def count(self) -> int:
        """The number of finished parts."""
        return sum(not file.name.startswith(".") for file in self._folder.glob("*.npy"))

    def remove(self) -> None:
        """Remove all parts: the run is complete, or starts again."""
        if not self._folder.exists():
            return
        # Rename it first, so that a kill cannot leave parts without their settings.
        removed = self._folder.with_name(".partial-removed")
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(self._folder, removed)
        shutil.rmtree(removed)


def check_same_settings(
    kept: Mapping[str, Any], settings: Mapping[str, Any], folder: str | os.PathLike[str]
) -> None:
    """Raise UsageError if the settings differ from the kept ones; name the differences.

    Args:
        kept: The settings of the earlier run, as read from JSON.
        settings: The settings of this run.
        folder: Folder to name in the message.
    """
    # Convert to JSON and back, because JSON turns a tuple into a list.
    now = json.loads(json.dumps(settings))
    changed = [
        f"{key} was {json.dumps(kept.get(key))}, now {json.dumps(now.get(key))}"
        for key in sorted({*kept, *now})
        if kept.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(
            f"cannot resume in {os.fspath(folder)}: {'; '.join(changed)} "
            "(use the same settings, another --out, or no --resume to start again)"
        )
