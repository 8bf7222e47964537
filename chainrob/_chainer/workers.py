"""Worker processes that start anew import chainrob before anything of Chainer's, and never hang."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.process
import threading
from collections.abc import Callable
from typing import Any

from chainrob._chainer.mending import StandIn, mends, rebind


def import_chainrob_in_children() -> None:
    """Let every process object made from now on carry an `ImportInChild`."""
    config = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    config.setdefault("chainrob", ImportInChild())


class ImportInChild:
    """Makes a process that starts anew import chainrob before anything of Chainer's.

    A child under spawn or forkserver unpickles its process object, and with it a dataset, say,
    whose class imports Chainer. Without stand-ins that fails, and a pool starts children for ever
    in place of those that failed. But every process object carries the ``_config`` of the process
    that made it, ahead of its target and arguments: an instance of this class rides there, and to
    unpickle it is to import chainrob. Grandchildren inherit it.
    """

    def __reduce__(self) -> tuple[type[ImportInChild], tuple[()]]:
        return ImportInChild, ()


@mends("chainer.iterators.multiprocess_iterator")
def _multiprocess_iterator(module: Any) -> None:
    class Thread(threading.Thread):
        def setDaemon(self, daemonic: bool) -> None:
            self.daemon = daemonic

    launch = module._PrefetchLoop.launch_thread
    rebind(launch, threading=StandIn(threading, Thread=Thread))

    @functools.wraps(launch)
    def rehearse_first(self: Any) -> Any:
        # A pool replaces workers that fail to start, for ever. One worker ahead of it tells.
        if multiprocessing.get_start_method() != "fork":
            arguments = (self.dataset, self.mem_size, self.mem_bulk)
            _rehearse(module._fetch_setup, arguments)
        return launch(self)

    module._PrefetchLoop.launch_thread = rehearse_first


def _rehearse(initializer: Callable[..., object], arguments: tuple[object, ...]) -> None:
    worker = multiprocessing.Process(target=initializer, args=arguments, daemon=True)
    worker.start()
    worker.join()
    if worker.exitcode != 0:
        raise RuntimeError(
            f"the workers of MultiprocessIterator cannot start: one ended with exit code "
            f"{worker.exitcode} (its traceback is above; start method "
            f"{multiprocessing.get_start_method()!r}). A worker imports the main module anew and "
            f"unpickles the dataset: what the main module does must stand under "
            f"`if __name__ == '__main__':`, and the class of the dataset must be importable"
        )
