"""What distributed robust training costs: bytes and time a step, measured and on paper.

    python benchmarks/scaling.py              # starts mpiexec by itself

One step is forward and backward of a layer 256 -> 256, 64 samples a rank, float32, with its
gradient estimated from the samples of all ranks. Measured are

- *bytes*, by a communicator that counts, and on the wire: the ranks are made to talk over TCP and
  the loopback device's counter is read (Linux and MPICH; zero elsewhere);
- *time*, the median of repeated steps. Ranks share this machine's processors, so the time of 4
  ranks on 2 cores says what the library costs in all, not what a cluster would take;
- *latency and bandwidth* of MPI here, fitted to allreduces of many sizes.

From these a model of the time of a step is made and extended to 1,024 ranks on networks of three
kinds, with its assumptions in the report. Results: ``benchmarks/results/scaling.md``, ``.json`` and
``.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import chainrob
import chainer
from chainrob.experiments.files import write_json

RESULTS = Path(__file__).parent / "results"
INPUTS, OUTPUTS, SAMPLES = 256, 256, 64
LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")

# (robustifier, exchange); None is ChainerMN's own average of plain gradients.
CASES: dict[str, tuple[Any, Any]] = {
    "plain allreduce (ChainerMN)": (None, "auto"),
    "Mean()": (chainrob.Mean(), "auto"),
    **{
        f"{robustifier!r}, {exchange}": (robustifier, exchange)
        for robustifier in (
            chainrob.SoftTruncation(),
            chainrob.SoftTruncation(pilot="median"),
            chainrob.MEstimator(),
            chainrob.CoordinateMedian(),
            chainrob.TrimmedMean(fraction=0.1),
            chainrob.WinsorizedMean(fraction=0.1),
            chainrob.MeanAroundMedian(f=6),
            chainrob.Phocas(f=6),
            chainrob.MedianOfMeans(n_blocks=11, center="coordinate"),
        )
        for exchange in ("factors", "reductions")
    },
    **{
        repr(robustifier): (robustifier, "auto")
        for robustifier in (
            chainrob.GeometricMedian(),
            chainrob.MedianOfMeans(n_blocks=11),
            chainrob.Krum(f=6),
            chainrob.MultiKrum(f=6),
            chainrob.CenteredClipping(),
            chainrob.CAF(f=6),
            chainrob.NearestNeighborMixing(f=6) >> chainrob.TrimmedMean(count=6),
        )
    },
}


class Step:
    """Forward, backward and the join over ranks, of one layer."""

    def __init__(self, comm: Any, robustifier: Any, exchange: Any) -> None:
        from chainrob.distributed import create_multi_node_optimizer, distribute

        rng = np.random.default_rng(comm.rank)
        self.x = rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
        self.gy = rng.standard_t(3, size=(SAMPLES, OUTPUTS)).astype(np.float32)
        self.layer = chainrob.links.Linear(INPUTS, OUTPUTS, robustifier=robustifier)
        distribute(self.layer, comm, exchange=exchange)
        sgd = chainer.optimizers.SGD(0.0)
        self.optimizer = create_multi_node_optimizer(sgd, comm).setup(self.layer)

    def __call__(self) -> None:
        self.layer.cleargrads()
        y = self.layer(self.x)
        y.grad = self.gy
        y.backward()
        self.optimizer.update()


def measure_steps(repeat: int, only_bytes: bool) -> dict[str, Any]:
    """What every rank does: all cases, one after the other."""
    from chainrob.distributed import CountingComm, create_communicator

    counting = CountingComm()
    comm = create_communicator("naive", mpi_comm=counting)
    found: dict[str, Any] = {}
    for name, (robustifier, exchange) in CASES.items():
        step = Step(comm, robustifier, exchange)
        slow = exchange == "reductions" and not isinstance(robustifier, chainrob.MedianOfMeans)
        if not only_bytes:
            step()  # compiles, allocates
        seconds = []
        counting.reset()
        comm.mpi_comm.Barrier()
        before = _transmitted()
        for _ in range(1 if only_bytes or slow else repeat):
            counting.reset()
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        sent, calls = counting.traffic.sent, counting.traffic.calls
        comm.mpi_comm.Barrier()
        wire = (_transmitted() - before) / comm.size
        everywhere = comm.mpi_comm.allgather((sent, float(np.median(seconds))))
        found[name] = {
            "bytes": float(np.mean([one for one, _ in everywhere])),
            "calls": calls,
            "wire": wire if only_bytes else None,
            "seconds": max(one for _, one in everywhere),
        }
    return found


def _transmitted() -> int:
    return int(LOOPBACK.read_text()) if LOOPBACK.exists() else 0


def measure_network(repeat: int) -> list[dict[str, float]]:
    """Times of allreduces of many sizes over all ranks."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    found = []
    for count in (1, 16, 256, 4096, 65536, 262144, 1048576):
        array = np.ones(count, np.float32)
        seconds = []
        for _ in range(repeat + 1):
            comm.Barrier()
            start = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, array)
            seconds.append(time.perf_counter() - start)
        found.append({"bytes": 4.0 * count, "seconds": comm.allreduce(min(seconds), op=MPI.MAX)})
    return found


def measure_weights() -> list[dict[str, float]]:
    """Times of the geometric median's weights from an N x N Gram matrix, and of the product that
    makes one, in one process.
    """
    found = []
    for n in (64, 128, 256, 512, 1024):
        rows = np.random.default_rng(0).standard_t(3, size=(n, 2 * n))
        start = time.perf_counter()
        gram = rows @ rows.T
        product = time.perf_counter() - start
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            chainrob.GeometricMedian().weights(gram)
            seconds.append(time.perf_counter() - start)
        flops = 4.0 * n**3 / product
        found.append({"samples": n, "seconds": min(seconds), "flops": flops})
    return found


def rank_main(what: str, repeat: int, out: Path) -> None:
    """Be one rank."""
    from mpi4py import MPI

    import chainrob.distributed

    with chainrob.distributed.abort_on_exception():
        if what == "network":
            result: Any = measure_network(repeat)
        else:
            result = measure_steps(repeat, only_bytes=what == "wire")
        if MPI.COMM_WORLD.rank == 0:
            write_json(out, result)


def start_ranks(ranks: int, what: str, repeat: int) -> Any:
    """Start ranks, wait for them, and return what rank 0 found."""
    part = RESULTS / "scaling-part.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if what == "wire":  # MPICH: no shared memory, TCP
        environment |= {
            "MPIR_CVAR_NOLOCAL": "1",
            "MPIR_CVAR_CH4_NETMOD": "ofi",
            "FI_PROVIDER": "tcp",
        }
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    command = [beside or "mpiexec", "-n", str(ranks), sys.executable, __file__]
    command += ["--what", what, "--repeat", str(repeat), "--part", str(part)]
    print(f"{what} on {ranks} ranks ...", flush=True)
    subprocess.run(command, check=True, env=environment)
    found = json.loads(part.read_text())
    part.unlink()
    return found


def main() -> None:
    """Start the ranks and write the report, or be a rank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--report-only", action="store_true", help="from scaling.json")
    parser.add_argument("--what", choices=("steps", "wire", "network"), help=argparse.SUPPRESS)
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        rank_main(args.what, args.repeat, args.part)
        return
    # Beside this file, and named like what it does: the report and its cost model.
    from scaling_report import write_report

    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "scaling.json"
    if args.report_only:
        results = json.loads(file.read_text())
    else:
        from chainrob.experiments.versions import versions

        results = {
            "layer": [INPUTS, OUTPUTS],
            "samples": SAMPLES,
            "cores": os.cpu_count(),
            "steps": {p: start_ranks(p, "steps", args.repeat) for p in (1, 2, 4)},
            "wire": {p: start_ranks(p, "wire", 1) for p in (2, 4)},
            "network": {p: start_ranks(p, "network", 20) for p in (2, 4)},
            "weights": measure_weights(),
            "versions": versions(),
        }
        write_json(file, results)
        results = json.loads(file.read_text())
    write_report(results, RESULTS)


if __name__ == "__main__":
    main()
