"""The method of every benchmark: warm up, repeat the candidates in turn, report medians and quartiles as JSON.

- Each candidate runs ``warm_up`` times first (compilation, caches, lazy allocations); the first call is timed apart.
- Then rounds: in each round every candidate runs once, in an order shuffled with a fixed seed, so that a load from
  outside or a change of clock falls on all of them alike. Candidates compared with one another share their rounds.
- Inputs come from fixed seeds; only public functions are timed; a device is waited for inside the timed part.
- The report says what it ran on (processor, cores, versions, commit, date) and how busy the machine was: the load
  average, and the share of a core that one spinning thread got.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("vidrestore", "numpy", "numba", "opencv-python-headless", "torch", "av")


def measure(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, warm_up: int = 2, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Times candidates in interleaved rounds.

    Returns:
        For each name ``median_ms``, ``lower_quartile_ms``, ``upper_quartile_ms``, ``best_ms`` and ``first_call_ms``.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    first: dict[str, float] = {}
    for name, run in candidates.items():
        first[name] = _time_ms(run)
        for _ in range(warm_up - 1):
            run()
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(_time_ms(candidates[name]))
    return {name: {**summary(values), "first_call_ms": round(first[name], 3)} for name, values in times.items()}


def summary(values_ms: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and best of at least two times in milliseconds."""
    lower, median, upper = statistics.quantiles(values_ms, n=4, method="inclusive")
    return {
        "median_ms": round(median, 3),
        "lower_quartile_ms": round(lower, 3),
        "upper_quartile_ms": round(upper, 3),
        "best_ms": round(min(values_ms), 3),
    }


def _time_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def cut(source: Path, target: Path, num_frames: int) -> Path:
    """The first frames of a clip, packets as they are."""
    import av

    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        video = container.streams.video[0]
        stream = out.add_stream_from_template(video)
        for index, packet in enumerate(container.demux(video)):
            if index >= num_frames or packet.dts is None:
                break
            packet.stream = stream
            out.mux(packet)
    return target


def machine() -> dict[str, Any]:
    """What the numbers were measured on; no names of hosts or folders."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "core_share": round(core_share(), 2),
    }


def core_share(duration_s: float = 1.0) -> float:
    """Share of one core that a single spinning thread gets; 1 on an idle machine."""
    wall, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - wall < duration_s:
        pass
    return (time.thread_time() - cpu) / (time.perf_counter() - wall)


def write_report(name: str, method: str, results: Sequence[Mapping[str, Any]], **extra: Any) -> Path:
    """Writes ``benchmarks/results/NAME.json`` and gives its path."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    report = {"benchmark": name, "method": method, "machine": machine(), **extra, "results": list(results)}
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # a machine without git
        return "unknown"
    return result.stdout.strip() or "unknown"
