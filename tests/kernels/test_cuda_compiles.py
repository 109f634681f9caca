"""Every CUDA source compiles for the GPUs we name, with nvcc and with NVRTC where these are installed."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from vidrestore.kernels.device import cuda_source

SOURCES = ["composite", "rasterize", "sample"]
ARCHITECTURES = [75, 90, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 86, 89))]  # Turing to Hopper


def nvcc() -> str | None:
    """The compiler on the path, or the one of a pip package."""
    found = shutil.which("nvcc")
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if found is None and spec is not None else []:
        found = next((str(path) for path in sorted(Path(folder).glob("*/bin/nvcc"))), found)
    return found


def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's run-time compiler, which CuPy uses, out of a pip package or the system."""
    candidates: list[str] = []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for builtins in Path(folder).glob("*/lib/libnvrtc-builtins.so.*"):
            if ".alt" not in builtins.name:  # it is looked for by name alone
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        candidates += [
            str(path) for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")) if ".alt" not in path.name
        ]
    for name in (*candidates, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_without_a_warning(source: str, architecture: int, tmp_path: Path) -> None:
    compiler = nvcc()
    if compiler is None:
        pytest.skip("nvcc is not installed")
    file = tmp_path / f"{source}.cu"
    file.write_text(cuda_source(source), "utf-8")
    cubin = tmp_path / f"{source}.cubin"
    command = [compiler, "-cubin", f"-arch=sm_{architecture}", "-Werror", "all-warnings", "-Xptxas", "-v"]
    done = subprocess.run([*command, str(file), "-o", str(cubin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert cubin.stat().st_size > 1000
    assert " 0 bytes spill stores" in done.stderr
    spills = [line for line in done.stderr.splitlines() if "spill" in line and "0 bytes spill stores" not in line]
    assert not spills  # registers that do not suffice would go to memory


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_what_cupy_will_compile(source: str, architecture: int) -> None:
    library = nvrtc()
    if library is None:
        pytest.skip("NVRTC is not installed")
    program = ctypes.c_void_p()
    text = cuda_source(source).encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, f"{source}.cu".encode(), 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17")
    status = library.nvrtcCompileProgram(program, 2, options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()


def test_every_source_is_looked_at() -> None:
    from importlib import resources

    folder = resources.files("vidrestore.kernels") / "cuda"
    found = {entry.name[: -len(".cu")] for entry in folder.iterdir() if entry.name.endswith(".cu")}
    assert set(SOURCES) <= found
