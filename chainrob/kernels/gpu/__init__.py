"""CUDA forms of what matrix products cannot do.

CuPy compiles them at the first call and caches them; importing this module needs no CuPy. The
sources lie beside it; they compile as plain C++ too, which is how their arithmetic is tested
without a device. Nothing here waits for the device: a call queues its kernels and returns.
"""

from __future__ import annotations

from chainrob.kernels.gpu.coordinates import fused
from chainrob.kernels.gpu.loading import OPTIONS, SOURCES, WIDE, source
from chainrob.kernels.gpu.weiszfeld import geometric_median

__all__ = ["OPTIONS", "SOURCES", "WIDE", "fused", "geometric_median", "source"]
