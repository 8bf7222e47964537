"""The CUDA sources compiled as C++, so that they run without a device: their arithmetic by itself,
or all their threads and barriers (``emulated``).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from chainrob.atomic_files import atomic_path
from chainrob.kernels import gpu

COMPILER = shutil.which("g++") or shutil.which("c++")


# Beside the checkout's other build outputs: two processes of tests compile a source once.
BUILD = Path(__file__).parents[2] / "build" / "host_kernels"


@cache
def library(source: str, *options: str) -> ctypes.CDLL:
    """A source as a library of the host; products are not contracted, as on the device."""
    assert COMPILER is not None
    command = [
        COMPILER,
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-pthread",
        *options,
    ]
    BUILD.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256("\0".join([*command, source]).encode()).hexdigest()[:24]
    target = BUILD / f"{name}.so"
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with atomic_path(target) as half, tempfile.TemporaryDirectory() as folder:
                text = Path(folder) / "kernels.cpp"
                text.write_text(source)
                subprocess.run(
                    [*command, str(text), "-o", str(half)],
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
    return ctypes.CDLL(str(target))


EMULATOR = Path(__file__).with_name("cuda_on_host.hpp")


def emulated(source: str, *options: str) -> ctypes.CDLL:
    """A source with two entries a kernel, ``launch_NAME(dims, arguments)`` and
    ``signature_NAME()``, see cuda_on_host.hpp.
    """
    names = re.findall(r"^BOTH\((\w+),", source, flags=re.MULTILINE)
    names = [f"{name}_{dtype}" for name in names for dtype in ("float32", "float64")]
    names += re.findall(r"^ENTRY\((\w+),", source, flags=re.MULTILINE)
    names += re.findall(r'extern "C" __global__ void (?:__\w+\(\w+\) )?(\w+_float64)\(', source)
    source = source.replace(
        "extern __shared__ double vectors[];", "double *vectors = dynamic_shared;"
    )
    entry = (
        'extern "C" int launch_{0}(const int *d, void **a) {{ return launch({0}, d, a); }}\n'
        'extern "C" const char *signature_{0}() {{ return signature({0}); }}'
    )
    entries = "\n".join(entry.format(name) for name in names)
    return library(f"{EMULATOR.read_text()}\n{source}\n{entries}\n", *options)


def libraries() -> dict[str, ctypes.CDLL]:
    return {name: library(gpu.source(name)) for name in gpu.SOURCES}
