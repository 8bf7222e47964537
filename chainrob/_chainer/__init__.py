"""Make Chainer 7.8.1 importable, and right, on today's Python, NumPy and CuPy.

This package is the only place that knows what Chainer misses. Nothing is changed outside Chainer's
own modules, NumPy least of all: a finder at the head of ``sys.meta_path`` lets a few of Chainer's
modules see a stand-in where they import something that is gone, and mends a few of their functions
right after they are executed. So what is imported late (Chainer itself, ``chainer.testing``,
``chainermn``) is mended late, and costs nothing before.

- `mending`: how a module is given a stand-in, and how a function is mended in place.
- `imports`: what Chainer misses when it is imported.
- `faults`: what is wrong when it is called.
- `clearing`: that a gradient is cleared can be listened to.
- `hook_order`: a hook of an optimizer can ask to be the first.
- `caffe`: Caffe's model format under today's protobuf.
- `npz`: model and snapshot files are read without running what they hold.
- `workers`: worker processes that start anew (spawn, forkserver) import chainrob first.
- `cuda`: what is wrong with CuPy 14 and in ChainerMN.
"""

from __future__ import annotations

import sys
from typing import Any

from chainrob._chainer import (  # each registers what it mends
    caffe,
    clearing,
    cuda,
    faults,
    hook_order,
    imports,
    npz,
    workers,
)
from chainrob._chainer.mending import CHAINER_VERSION, install_finder, mend_loaded, mends

__all__ = [
    "CHAINER_VERSION",
    "caffe",
    "clearing",
    "cuda",
    "faults",
    "hook_order",
    "imports",
    "install",
    "npz",
    "workers",
]


def install() -> None:
    """Let Chainer be mended when it is imported; mend it in place where it was imported before.

    Chainer itself is not imported here.

    Raises:
        ImportError: the Chainer that was imported before is not the version that is mended here.
    """
    install_finder()
    chainer = sys.modules.get("chainer")
    if chainer is not None:
        check_version(chainer)
        mend_loaded()
    elif "chainer" not in sys.modules:
        # What a failed `import chainer` left behind counts as loaded, and nothing would make it an
        # attribute of the new package.
        for name in [name for name in sys.modules if name.startswith("chainer.")]:
            del sys.modules[name]
    workers.import_chainrob_in_children()


@mends("chainer")
def check_version(chainer: Any) -> None:
    """Raise where Chainer is not the version that is mended here."""
    if not chainer.__version__.startswith(CHAINER_VERSION):
        raise ImportError(
            f"chainrob needs Chainer {CHAINER_VERSION}, whose faults on today's NumPy it mends; "
            f"found Chainer {chainer.__version__}"
        )


install()
