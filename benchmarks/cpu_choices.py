"""How the network runs best on a CPU, and how stages share its cores: ``python benchmarks/cpu_choices.py``.

- ``network``: `compact` in float32 and bfloat16, contiguous and channels-last, compiled by torch, and by OpenVINO where
  it is installed (float32, and bfloat16 where the processor has it), at batch 1 and 8.
- ``threads``: the committed example, file to file, in processes that differ in the environment alone: OpenMP threads
  that sleep while they wait (``OMP_WAIT_POLICY=PASSIVE``) or spin, one or two of them, OpenCV with one thread.

Told are wall time and processor time. On a machine that does something else too, wall time says little; processor time
says what a choice costs, spinning included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine, write_report
from torch import Tensor

from vidrestore.restoration.compact import COMPACT_SIZE, load_compact

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
CPU = torch.device("cpu")


def network_variants(compiles: bool) -> dict[str, Callable[[Tensor], object]]:
    """Name -> a pass over (B, 3, S, S)."""
    plain = load_compact(None, CPU)
    last = load_compact(None, CPU).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def in_bf16(images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result: Tensor = last(images.contiguous(memory_format=torch.channels_last))
        return result

    variants: dict[str, Callable[[Tensor], object]] = {
        "float32, contiguous": plain,
        "float32, channels-last": lambda images: last(images.contiguous(memory_format=torch.channels_last)),
        "bfloat16, channels-last": in_bf16,
    }
    if compiles:
        compiled = torch.compile(last)
        variants["float32, channels-last, torch.compile"] = lambda images: compiled(
            images.contiguous(memory_format=torch.channels_last)
        )
    variants |= _openvino_variants(plain)
    return variants


def _openvino_variants(network: torch.nn.Module) -> dict[str, Callable[[Tensor], object]]:
    try:
        import openvino
    except ImportError:
        return {}
    core = openvino.Core()
    example = torch.zeros(1, 3, COMPACT_SIZE, COMPACT_SIZE)
    model = openvino.convert_model(network, example_input=example, input=[-1, 3, COMPACT_SIZE, COMPACT_SIZE])
    made: dict[str, Callable[[Tensor], object]] = {}
    names = ["f32", *(["bf16"] if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else [])]
    for name in names:
        settings = {"INFERENCE_PRECISION_HINT": name, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        made[f"OpenVINO, {name}"] = lambda images, request=request: request.infer([images.numpy()])
    return made


def measure_network(rounds: int, compiles: bool) -> list[dict[str, Any]]:
    """Medians of interleaved rounds."""
    results = []
    for batch in (1, 8):
        torch.manual_seed(batch)
        images = torch.rand(batch, 3, COMPACT_SIZE, COMPACT_SIZE) * 2 - 1
        variants = network_variants(compiles)
        wall: dict[str, list[float]] = {name: [] for name in variants}
        spent: dict[str, list[float]] = {name: [] for name in variants}
        with torch.inference_mode():
            for run in variants.values():
                run(images)
            for _ in range(rounds):
                for name, run in variants.items():
                    begin, cpu = time.perf_counter(), time.process_time()
                    run(images)
                    wall[name].append(time.perf_counter() - begin)
                    spent[name].append(time.process_time() - cpu)
        for name in variants:
            ms, cpu_ms = (1e3 * statistics.median(values[name]) / batch for values in (wall, spent))
            results.append({"part": "network", "choice": name, "batch": batch, "ms_per_face": round(ms, 2)})
            results[-1]["cpu_ms_per_face"] = round(cpu_ms, 2)
            print(f"{name:40} batch {batch}: {ms:8.1f} ms a face, {cpu_ms:8.1f} ms of processor", flush=True)
    return results


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "OpenMP sleeps": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OpenMP sleeps, 1 thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
    "OpenMP sleeps, OpenCV 1 thread": {"OMP_WAIT_POLICY": "PASSIVE", "BENCH_CV_THREADS": "1"},
}


def run_clip() -> dict[str, float]:
    """The example once, after a warm-up, in this process."""
    import cv2

    from vidrestore import load_config, restore

    if "BENCH_CV_THREADS" in os.environ:
        cv2.setNumThreads(int(os.environ["BENCH_CV_THREADS"]))
    config = load_config(overrides={"restore": {"device": "cpu"}})
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for name in ("warm", "timed"):
            begin, cpu = time.perf_counter(), time.process_time()
            result = restore(EXAMPLE, Path(folder) / f"{name}.mp4", config)
            times.append((time.perf_counter() - begin, time.process_time() - cpu))
    return {"wall_s": times[-1][0], "cpu_s": times[-1][1], "frames": result.num_frames, "faces": result.num_faces}


def measure_threads(rounds: int) -> list[dict[str, Any]]:
    """Each environment in turn, each run in a process of its own."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ENVIRONMENTS}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "NUMBA_", "MKL_"))}
    for _ in range(rounds):
        for name, added in ENVIRONMENTS.items():
            command = [sys.executable, __file__, "--one"]
            text = subprocess.run(command, env=clean | added, capture_output=True, text=True, check=True).stdout
            runs[name].append(json.loads(text.splitlines()[-1]))
    results = []
    for name, done in runs.items():
        wall, cpu = (statistics.median(run[key] for run in done) for key in ("wall_s", "cpu_s"))
        results.append({"part": "threads", "choice": name, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)})
        results[-1] |= {"frames": int(done[0]["frames"]), "rounds": rounds}
        print(f"{name:40} {wall:7.1f} s, {cpu:7.1f} s of processor", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clip-rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    parser.add_argument("--one", action="store_true", help="one clip, used by the script itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_clip()))
        return
    before = machine()
    results = measure_network(arguments.rounds, not arguments.no_compile)
    if arguments.clip_rounds:
        results += measure_threads(arguments.clip_rounds)
    threads = torch.get_num_threads()
    print(write_report("cpu_choices", __doc__ or "", results, machine_before=before, torch_threads=threads))


if __name__ == "__main__":
    main()
