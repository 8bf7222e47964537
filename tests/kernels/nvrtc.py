"""Compile CUDA C++ with the run-time compiler's own library: no device and no CuPy needed."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path


def find_library() -> Path | None:
    """The compiler's library from the wheel ``nvidia-cuda-nvrtc``, or None."""
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return None
    for folder in spec.submodule_search_locations:
        found = sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))
        found = [path for path in found if "builtins" not in path.name]
        if found:
            return found[-1]
    return None


class Compiler:
    """CUDA source to a device binary; a source that does not compile raises with the log."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    def compile(self, source: str, architecture: str, options: tuple[str, ...]) -> bytes:
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.encode(),
            b"kernel.cu",
            0,
            None,
            None,
        )
        arguments = [
            f"--gpu-architecture={architecture}".encode(),
            *(one.encode() for one in options),
        ]
        status = self.lib.nvrtcCompileProgram(
            program, len(arguments), (ctypes.c_char_p * len(arguments))(*arguments)
        )
        size = ctypes.c_size_t()
        if status != 0:
            self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            self._call("nvrtcGetProgramLog", program, log)
            raise RuntimeError(log.value.decode())
        self._call("nvrtcGetCUBINSize", program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        self._call("nvrtcGetCUBIN", program, binary)
        return binary.raw

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.lib, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with status {status}")
