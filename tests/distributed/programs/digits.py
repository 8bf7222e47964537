"""``chainrob digits --distributed`` with a rank that fails: FAILURE RANK ITERATION FOLDER OPTIONS.

FAILURE is ``none``, ``raise``, ``exit`` or ``kill``. Where FOLDER holds ``{rank}`` each rank has a
folder of its own, like machines without a common disk. Each rank leaves its process number there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from mpi4py import MPI

import chainrob  # noqa: F401 - before chainer
import chainer
from chainrob import cli

failure, where, when, folder, *options = sys.argv[1:]
rank = MPI.COMM_WORLD.rank
own = Path(folder.format(rank=rank))
own.mkdir(parents=True, exist_ok=True)
(own / f"process{rank}").write_text(str(os.getpid()))

updater = chainer.training.updaters.StandardUpdater
update = updater.update
(own / f"began{rank}").unlink(missing_ok=True)


def fail_once(self: chainer.training.updaters.StandardUpdater) -> None:
    if not (own / f"began{rank}").exists():
        (own / f"began{rank}").write_text(str(self.iteration))
    if failure != "none" and rank == int(where) and self.iteration == int(when):
        (own / "failed").write_text(str(time.time()))
        if failure == "raise":
            raise RuntimeError("the disk of this rank is gone")
        if failure == "exit":
            sys.exit(3)
        if failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    update(self)


updater.update = fail_once
raise SystemExit(cli.main(["digits", "--distributed", "--out", str(own), *options]))
