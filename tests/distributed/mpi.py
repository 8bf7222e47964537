"""Programs that mpiexec starts on several ranks of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
# The launcher of the environment that mpi4py is in comes before any other on the machine.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def environment() -> dict[str, str]:
    """The environment of a program: nothing of an MPI that runs around these tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PMI", "OMPI", "PRTE", "HYDI", "MPI_", "MPIR_"))
    }
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONUNBUFFERED": "1",
        # Open MPI, where that is the MPI, refuses to run as root and to share processors.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }


def command(ranks: int, program: str, *arguments: str) -> list[str]:
    """The command line that starts a program of ``programs/``, or Python with ``-m ...``."""
    assert MPIEXEC is not None, "mpi4py is installed, but no mpiexec is found"
    what = program.split() if program.startswith("-") else [str(PROGRAMS / program)]
    return [MPIEXEC, "-n", str(ranks), sys.executable, "-W", "error", *what, *arguments]


def start(ranks: int, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program and go on; its output is to be fetched with ``communicate``."""
    return subprocess.Popen(
        command(ranks, program, *arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
