"""A backend that runs the CUDA sources on the CPU: the same text, compiled by g++ behind ``cuda_on_host.h``."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vidrestore.kernels.device import BLOCK, DeviceArray, cuda_source

HEADER = Path(__file__).parent / "cuda_on_host.h"
COMPILER = shutil.which("g++") or shutil.which("clang++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++ or clang++) to run the kernels with")


@functools.cache
def host_library(source: str, *flags: str) -> ctypes.CDLL:
    """A .cu file as a library for this machine, kept in the temporary folder as long as its text is the same."""
    assert COMPILER is not None
    text = cuda_source(source)
    names = re.findall(r'extern "C" __global__ void (\w+)\(', text)
    assert names, f"{source}.cu has no kernel"
    launchers = "\n".join(
        f'extern "C" void run_{name}(const unsigned *grid, const unsigned *block, void **arguments)\n'
        f"{{ run_on_host({name}, grid, block, arguments); }}"
        for name in names
    )
    whole = f"{HEADER.read_text('utf-8')}\n{text}\n{launchers}\n"
    command = [COMPILER, "-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wno-unknown-pragmas", *flags]
    digest = hashlib.sha256((whole + " ".join(command)).encode()).hexdigest()[:20]
    library = Path(tempfile.gettempdir()) / f"vidrestore-host-kernels-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kernel.cpp").write_text(whole, "utf-8")
            made = Path(folder) / "kernel.so"
            done = subprocess.run(
                [*command, "-o", str(made), str(Path(folder) / "kernel.cpp")], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert not done.stderr, done.stderr
            shutil.move(made, library)
    return ctypes.CDLL(str(library))


class HostBackend:
    """Device memory is NumPy's; every launch has ended when it returns.

    Attributes:
        launches: names of the kernels that were launched, in order.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._alive: list[NDArray[Any]] = []
        self.launches: list[str] = []

    def upload(self, values: NDArray[Any]) -> DeviceArray:
        copy = np.array(values, order="C")
        self._alive.append(copy)
        return DeviceArray.of(copy)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        array = np.full(shape, 127, dtype)  # never what a kernel would write by accident
        self._alive.append(array)
        return DeviceArray.of(array)

    def launch(
        self, source: str, kernel: str, grid: tuple[int, int, int], arguments: Sequence[np.generic | DeviceArray | None]
    ) -> None:
        self.launches.append(kernel)
        values = [
            np.uint64(a.address) if isinstance(a, DeviceArray) else np.uint64(0) if a is None else a for a in arguments
        ]
        holders = [np.array(value) for value in values]
        addresses = (ctypes.c_void_p * len(holders))(*(holder.ctypes.data for holder in holders))
        run = getattr(host_library(source, *self._flags), f"run_{kernel}")
        run((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*BLOCK), addresses)
