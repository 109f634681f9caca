"""How the network runs best on a CPU, and how stages share its cores: ``python benchmarks/cpu_choices.py [--quick]``.

- ``network``: `compact` in float32 and bfloat16, contiguous and channels-last, compiled by torch, and by OpenVINO where
  it is installed (float32, and bfloat16 where the processor has it), at batch 1 and 8.
- ``threads``: the first frames of the committed example, file to file, in processes that differ in how many threads
  torch and the kernels (``restore.threads``), OpenCV (``detect.threads``), decoder and encoder have, and in whether
  OpenMP's threads spin while they wait (as libgomp does unasked) or sleep (``OMP_WAIT_POLICY=PASSIVE``, which
  ``vidrestore`` in the shell sets).

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
from common import cut, machine, write_report
from torch import Tensor

from vidrestore.restoration.compact import COMPACT_SIZE, load_compact
from vidrestore.restoration.compiled import CompiledNetwork

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
CPU = torch.device("cpu")


def network_variants(compiles: bool) -> dict[str, Callable[[Tensor], object]]:
    """Name -> a pass over (B, 3, S, S)."""
    plain = load_compact(None, CPU).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
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
        # as restore.compile = "on" runs it
        variants["float32, channels-last, torch.compile"] = CompiledNetwork(load_compact(None, CPU), CPU)
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


Overrides = dict[str, dict[str, int]]
THREADS: dict[str, tuple[bool, Overrides]] = {
    "waiting threads spin": (False, {}),
    "they sleep (default)": (True, {}),
    "they sleep, torch and kernels 1": (True, {"restore": {"threads": 1}}),
    "they sleep, OpenCV 1": (True, {"detect": {"threads": 1}}),
    "they sleep, decoder 1, encoder 2": (True, {"decode": {"threads": 1}, "encode": {"threads": 2}}),
}
"""Name -> whether OpenMP's threads sleep while they wait, and the options."""


def run_clip(clip: Path, overrides: Overrides) -> dict[str, float]:
    """A clip once, after a warm-up, in this process."""
    from vidrestore import load_config, restore

    merged = {stage: dict(values) for stage, values in overrides.items()}
    merged["restore"] = {"device": "cpu", **merged.get("restore", {})}  # type: ignore[dict-item]
    config = load_config(overrides=merged)
    with tempfile.TemporaryDirectory() as folder:
        short = cut(clip, Path(folder) / "short.mp4", 2)
        for name, source in (("warm", short), ("timed", clip)):
            begin, cpu = time.perf_counter(), time.process_time()
            result = restore(source, Path(folder) / f"{name}-out.mp4", config)
            wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    return {"wall_s": wall_s, "cpu_s": cpu_s, "frames": result.num_frames, "faces": result.num_faces}


def measure_threads(rounds: int, num_frames: int) -> list[dict[str, Any]]:
    """Each choice in turn, each run in a process of its own."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in THREADS}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "NUMBA_", "MKL_"))}
    with tempfile.TemporaryDirectory() as folder:
        clip = cut(EXAMPLE, Path(folder) / "clip.mp4", num_frames)
        for _ in range(rounds):
            for name, (sleeps, overrides) in THREADS.items():
                command = [sys.executable, __file__, "--one", str(clip), json.dumps(overrides)]
                environment = clean | ({"OMP_WAIT_POLICY": "PASSIVE"} if sleeps else {})
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
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
    parser.add_argument("--frames", type=int, default=50, help="of the clip")
    parser.add_argument("--quick", action="store_true", help="few rounds and frames, nothing compiled")
    parser.add_argument("--dry", action="store_true", help="write no report")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    parser.add_argument("--one", nargs=2, metavar=("CLIP", "OPTIONS"), help="one run, used by the script itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_clip(Path(arguments.one[0]), json.loads(arguments.one[1]))))
        return
    if arguments.quick:
        arguments.rounds, arguments.clip_rounds, arguments.frames, arguments.no_compile = 2, 1, 6, True
    before = machine()
    results = measure_network(arguments.rounds, not arguments.no_compile)
    if arguments.clip_rounds:
        results += measure_threads(arguments.clip_rounds, arguments.frames)
    threads = torch.get_num_threads()
    if not arguments.dry:
        print(write_report("cpu_choices", __doc__ or "", results, machine_before=before, torch_threads=threads))


if __name__ == "__main__":
    main()
