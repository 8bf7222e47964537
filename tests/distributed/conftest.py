"""What the tests of distributed training share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.mpi import command, environment

collect_ignore_glob = ["programs/*"]

RunRanks = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.mpi)


@pytest.fixture
def run_ranks() -> RunRanks:
    """Run a program on so many ranks and return how it ended; it must end well unless told."""
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'chainrob[mpi]'")

    def run(
        ranks: int, program: str, *arguments: str, status: int | None = 0, timeout: float = 100
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(ranks, program, *arguments),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if status is not None:
            assert done.returncode == status, done.stdout[-4000:] + done.stderr[-8000:]
        return done

    return run
