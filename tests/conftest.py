"""Import the library first: nothing may import Chainer before it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import chainrob  # noqa: F401

# The same examples in every run, and no complaint about a neighbour who keeps the machine busy.
settings.register_profile("chainrob", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("chainrob")


def pytest_collection_finish() -> None:
    """What is loaded now stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


RunPython = Callable[..., str]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a program in a fresh interpreter, every warning an error; return what it printed.

    The program is a file, which is what worker processes import, or with ``as_command=True`` the
    text after ``-c``, of which they see nothing. ``files`` lie beside it. With a ``status`` other
    than 0 the program must end so, and what it wrote to stderr is returned.
    """

    def run(
        program: str,
        *arguments: str,
        as_command: bool = False,
        files: dict[str, str] | None = None,
        status: int = 0,
        timeout: float = 60,
    ) -> str:
        main = tmp_path / "main_program.py"
        for name, text in {main.name: program, **(files or {})}.items():
            (tmp_path / name).write_text(text)
        how = ["-c", program] if as_command else [str(main)]
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *how, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, complaints = process.communicate(timeout=timeout)
        finally:
            # With what it started: a pool whose workers fail would outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == status, printed + complaints
        return complaints if status else printed

    return run
