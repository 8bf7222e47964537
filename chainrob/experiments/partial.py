"""Results of the parts of a long run that are finished, so that an interrupted run can go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.errors import UsageError
from chainrob.experiments.files import atomic_path, write_json

__all__ = ["PartialResults", "check_same_settings"]


class PartialResults:
    """One array a finished part, in ``FOLDER/partial``, beside the settings that made them.

    Args:
        folder (path): Folder of the run's results; it exists.
        settings (mapping): What the results depend on, as JSON can hold it.
        resume (bool): Go on from what is there; otherwise start with nothing.

    Raises:
        UsageError: On ``resume``, if the parts that are there were made with other settings or
            cannot be read.

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
            check_same_settings(record, settings)
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
                f"{file} is damaged ({error}); remove it and resume again to have that part redone"
            ) from error
        return result

    def remove(self) -> None:
        """Remove what was kept; the run is complete, or begins anew."""
        if self._folder.exists():
            shutil.rmtree(self._folder)


def check_same_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Raise UsageError unless the settings in a JSON file are these."""
    try:
        kept = json.loads(file.read_text())
        changed = [
            f"{key} was {json.dumps(kept.get(key))}, now {json.dumps(settings.get(key))}"
            for key in sorted({*kept, *settings})
            # Through JSON and back, so that a tuple equals the list that it was written as.
            if kept.get(key) != json.loads(json.dumps(settings.get(key)))
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"cannot resume: {file} is not readable ({error})") from error
    if changed:
        raise UsageError(
            f"cannot resume in {file.parent}: {'; '.join(changed)} "
            "(use the same settings, another --out, or no --resume to start anew)"
        )
