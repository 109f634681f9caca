"""Everything that wants a GPU, in one command of under ten minutes: ``python benchmarks/gpu_suite.py``.

Runs the tests marked ``needs_cuda``, measures goals P1 to P5 of the project, looks with torch.profiler for waiting and
allocating in the steady state, writes ``benchmarks/results/gpu_suite.json`` and prints a table against the goals.
Frames are made in memory, so neither PyAV nor a clip is needed; decode, detection and encode are left out of both
sides.

Wants: torch with CUDA, CuPy, numba, OpenCV, pydantic, safetensors, psutil; pytest and hypothesis for the tests.
``--rehearse`` runs the same code on a CPU with small numbers, to see that it works. ``--parts a,b`` runs those alone,
and ``--seconds N`` begins none after N seconds: the parts are in the order of their worth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measure, write_report
from numpy.typing import NDArray
from reference_order import load_parser, restore_pictures
from torch import Tensor

from vidrestore.blend.mask import face_mask
from vidrestore.config import load_config
from vidrestore.device import choose_device, describe_device
from vidrestore.engine import Engine, make_engine
from vidrestore.kernels import composite, reference
from vidrestore.kernels.device import composite_on, sample_crops_on
from vidrestore.lanes import Lanes, as_device_array, lanes_of
from vidrestore.restoration.batcher import SIZES, Graphs, capture_graph
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.mobile import shipped_mobile
from vidrestore.restoration.mobile_restorer import MobileRestorer
from vidrestore.restoration.motion import coarse_size, hold_by_torch, shrink
from vidrestore.restoration.restorer import CodeFormerRestorer, CompactRestorer, Restorer
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.steady import Steadiness, _Memory, _Now
from vidrestore.types import Frame, PixelFormat, StreamInfo, Track, TrackedFrame

FORMAT = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5))
LANDMARKS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)
CORNERS = [(300.0, 200.0), (1100.0, 250.0), (700.0, 500.0), (1450.0, 600.0)]
FACE_PX = 280.0
RESULTS = Path(__file__).parent / "results"
WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaMemcpy")
"""Calls that have no place in the steady state; the only wait is for the event of a frame's download."""


@dataclass
class Suite:
    """What was found out, line by line."""

    device: torch.device
    short: bool
    seconds: float | None = None
    report: str | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    def add(self, goal: str, what: str, value: float | str, unit: str, wanted: str, holds: bool | None) -> None:
        """One line of the table; ``holds`` is None where there is no goal."""
        shown = f"{value:.3g}" if isinstance(value, float) else value
        mark = {True: "holds", False: "MISSED", None: ""}[holds]
        print(f"{goal:4} {what:58} {shown:>10} {unit:9} {wanted:16} {mark}", flush=True)
        self.results.append(
            {"goal": goal, "what": what, "value": value, "unit": unit, "wanted": wanted, "holds": holds}
        )

    def part(self, name: str, run: Callable[[], object]) -> None:
        """Runs a part; one that fails is a line of the table and does not take the others with it."""
        begin = time.perf_counter()
        if self.seconds is not None and begin - self.begin > self.seconds:
            self.add("", f"{name}: not run", "time", "", "", None)
            return
        try:
            run()
        except Exception as error:  # noqa: BLE001, told in full, and the device's time is short
            traceback.print_exc()
            self.add("", f"{name}: {type(error).__name__}", str(error)[:60], "", "runs", False)
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
        self.add("", f"{name}: took", time.perf_counter() - begin, "s", "", None)
        RESULTS.mkdir(exist_ok=True)  # at once, should the device's time end; write() says more, and takes a second
        (RESULTS / f"{self.name}.json").write_text(json.dumps(self.results, indent=1) + "\n", "utf-8")

    def write(self) -> Path:
        """The report."""
        elapsed = round(time.perf_counter() - self.begin)
        method = __doc__ or ""
        return write_report(self.name, method, self.results, device=describe_device(self.device), elapsed_s=elapsed)

    @property
    def name(self) -> str:
        """Of the report."""
        return self.report or ("gpu_suite" if self.is_cuda else "gpu_suite_rehearsal")

    @property
    def is_cuda(self) -> bool:
        """Not a rehearsal."""
        return self.device.type == "cuda"


def synchronised(suite: Suite, run: Callable[[], object]) -> Callable[[], object]:
    """The device is waited for inside the timed part."""

    def timed() -> None:
        run()
        if suite.is_cuda:
            torch.cuda.synchronize()

    return timed


def make_frames(num: int, num_faces: int, height: int, width: int) -> list[TrackedFrame]:
    """Shading with grain, other from frame to frame, and faces that wander."""
    pictures = make_planes(height, width)
    frames = []
    for index in range(num):
        scale = height / 1080
        tracks = []
        for i in range(num_faces):
            corner = (np.array(CORNERS[i]) + index) * scale
            side = FACE_PX * scale
            box = np.array([*corner, *(corner + side)], np.float32)
            tracks.append(Track(i, box, (corner + side * LANDMARKS).astype(np.float32), 0.9))
        frame = Frame(index, index, Fraction(1, 25), pictures[index % len(pictures)], FORMAT)
        frames.append(TrackedFrame(frame, tuple(tracks)))
    return frames


@cache
def make_planes(height: int, width: int, num: int = 16) -> list[tuple[NDArray[np.uint8], ...]]:
    """So many pictures, which frames share: a second's work in place of one for every frame."""
    rng = np.random.default_rng(0)
    grain = [rng.normal(0, 6, FORMAT.plane_size(p, height + 64, width + 64)) for p in range(3)]
    pictures = []
    for index in range(num):
        planes = []
        for p in range(3):
            h, w = FORMAT.plane_size(p, height, width)
            at = (index * 7) % 64 // (1 if p == 0 else 2)
            shade = 120 + 50 * np.sin((np.arange(w) + 3 * index) / 90)
            planes.append(np.clip(shade + grain[p][at : at + h, at : at + w], 0, 255).astype(np.uint8))
        pictures.append(tuple(planes))
    return pictures


def info_of(height: int, width: int) -> StreamInfo:
    """A stream of such frames."""
    size: dict[str, Any] = {"frame_width": width, "frame_height": height, "width": width, "height": height}
    return StreamInfo(
        path="memory",
        **size,
        display_from_frame=np.eye(2, 3),
        rotation=0,
        sample_aspect_ratio=Fraction(1),
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        num_frames=None,
        duration_s=None,
        format=FORMAT,
        codec="none",
        bit_rate=None,
        has_audio=False,
    )


def seeded_codeformer(device: torch.device, precision: torch.dtype) -> CodeFormerRestorer:
    """The published network with seeded weights; its w is 0.5."""
    with torch.device("meta"):
        network = CodeFormer(RESTORATION.dims)
    return CodeFormerRestorer(fill_seeded(network), device, precision, 0.5)


class Captured:
    """A restorer whose ``restore`` replays graphs: CodeFormer with one w has no memory, so it may be captured."""

    is_pure = True

    def __init__(self, inner: Restorer) -> None:
        self.size, self.device, self._inner = inner.size, inner.device, inner

    def restore(self, images: Tensor, context: object = None) -> Tensor:
        """Without the context, which would only repeat w."""
        return self._inner.restore(images)


# --- the parts -------------------------------------------------------------------------------------------------------


def run_tests(suite: Suite) -> None:
    """The tests marked needs_cuda."""
    root = Path(__file__).parent.parent
    # by name: other files of these folders want PyAV
    marked = sorted(
        str(path.relative_to(root))
        for path in (root / "tests").rglob("test_*.py")
        if "mark.needs_cuda" in path.read_text("utf-8")
    )
    # what packages of another machine warn of is shown and fails nothing
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "-m", "needs_cuda"]
    command += ["--durations=5", *marked]
    environment = os.environ | ({"VIDRESTORE_REQUIRE_CUDA": "1"} if suite.is_cuda else {})
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    passed = done.returncode == 0 or (not suite.is_cuda and done.returncode == 5)
    if not passed:
        print(done.stdout[-4000:], done.stderr[-1000:])
    suite.add("R14", "tests marked needs_cuda", last.strip("= "), "", "all pass", passed)


def network_speed(suite: Suite, name: str, make: Callable[[torch.dtype], Restorer], goal_ms: float | None) -> None:
    """P2 and P5: graphs of every batch size in bf16 against fp32, batch 1, with a copy back per face."""
    device = suite.device
    plain = make(torch.float32)
    fast = make(torch.bfloat16)
    size = plain.size
    sizes = SIZES[:2] if suite.short else SIZES
    torch.manual_seed(0)
    images = torch.rand(sizes[-1], 3, size, size, device=device) * 2 - 1
    host = images[:1].cpu()
    graphs = Graphs(Captured(fast).restore, capture_graph) if suite.is_cuda else None

    def pass_of(count: int) -> Callable[[], object]:
        if graphs is None:
            return lambda: fast.restore(images[:count])
        return lambda: graphs.run(images[:count], SIZES[-1])

    candidates = {"plain": synchronised(suite, lambda: plain.restore(host.to(device)).cpu())}
    candidates |= {f"batch {n}": synchronised(suite, pass_of(n)) for n in sizes}
    stream = torch.cuda.Stream(device) if suite.is_cuda else None
    with torch.inference_mode(), torch.cuda.stream(stream):
        times = measure(candidates, rounds=3 if suite.short else 9, warm_up=1 if suite.short else 2)
        one, many = plain.restore(images[:2]), fast.restore(images[:2])
    per_face = {n: times[f"batch {n}"]["median_ms"] / n for n in sizes}
    best = min(per_face, key=lambda n: per_face[n])
    baseline = times["plain"]["median_ms"]
    suite.add("P2", f"{name}: fp32, batch 1, copy back", baseline, "ms/face", "", None)
    for n in sizes:
        suite.add("P2", f"{name}: bf16 graph, batch {n}", per_face[n], "ms/face", "", None)
    ratio = baseline / per_face[best]
    suite.add("P2", f"{name}: faster at batch {best}", ratio, "times", ">= 3", ratio >= 3)
    if goal_ms is not None:
        suite.add("P2", f"{name}: a face", per_face[best], "ms", f"<= {goal_ms}", per_face[best] <= goal_ms)
    gain = per_face[1] / per_face[sizes[-1]]
    suite.add("P5", f"{name}: batch {sizes[-1]} against batch 1", gain, "times", ">= 1.5", gain >= 1.5)
    error = (one - many).float().square().mean()
    decibel = float(10 * torch.log10(4 / error.clamp_min(1e-12)))
    suite.add("P2", f"{name}: bf16 against fp32", decibel, "dB", ">= 45", decibel >= 45)


def token_agreement(suite: Suite) -> None:
    """P2: share of code indices that are the same in the fast network."""
    torch.manual_seed(1)
    images = torch.rand(2, 3, 512, 512, device=suite.device) * 2 - 1
    codes = []
    with torch.inference_mode():
        for precision in (torch.float32, torch.bfloat16):
            network = seeded_codeformer(suite.device, precision)._network
            codes.append(network.predict_codes(network.encode(images)[0]))
    share = float((codes[0] == codes[1]).double().mean())
    suite.add("P2", "codeformer: equal tokens in bf16", 100 * share, "%", ">= 99", share >= 0.99)


def composite_speed(suite: Suite, lanes: Lanes) -> None:
    """P3: one launch for all faces against pastes on the CPU, and against float64."""
    import kernels as cpu  # noqa: TID251, benchmarks/kernels.py: the OpenCV pastes

    size, num_faces = 512, 4
    planes, maps = cpu.make_planes(FORMAT), cpu.make_maps(280, num_faces, size)
    mask = face_mask(size, 0.12).copy()
    rng = np.random.default_rng(1)
    deltas = rng.normal(0, 0.1, (num_faces, 3, size, size)).astype(np.float32)
    strength = np.ones(num_faces, np.float32)
    with lanes.on("network"):
        there = [torch.from_numpy(plane.copy()).to(suite.device) for plane in planes]
        arrays = [as_device_array(plane) for plane in there]
        on_device = as_device_array(torch.from_numpy(deltas).to(suite.device))
        masks = as_device_array(torch.from_numpy(mask[None]).to(suite.device))
        crops = as_device_array(torch.empty(num_faces, 3, size, size, device=suite.device))
        composite_on(lanes, arrays, FORMAT, on_device, masks, maps, strength)
        torch.cuda.synchronize()
        exact = reference.composite(planes, FORMAT, deltas, mask[None], maps, strength)
        near = [
            np.abs(plane.cpu().numpy().astype(float) - np.clip(value, 16, 240)) <= 1.0
            for plane, value in zip(there, exact, strict=True)
        ]
        share = 100 * float(np.concatenate([n.ravel() for n in near]).mean())
        suite.add("P3", "composite: within one level of float64", share, "%", ">= 99.9", share >= 99.9)
        runs = {
            "composite": lambda: composite_on(lanes, arrays, FORMAT, on_device, masks, maps, strength),
            "sample": lambda: sample_crops_on(lanes, arrays, FORMAT, maps, crops),
        }
        kernel_us = {name: _kernel_us(suite, name, run) for name, run in runs.items()}
        launched = measure({name: synchronised(suite, run) for name, run in runs.items()}, rounds=20)
    restored = np.clip((deltas + 1.0) * 127.5, 0, 255).astype(np.float32)
    pastes = measure(
        {
            "frame": lambda: cpu.opencv_frame(planes, restored, mask, maps),
            "roi": lambda: cpu.opencv_roi(planes, restored, mask, maps),
            "ours": lambda: composite(planes, FORMAT, deltas, mask[None], maps, strength),
        },
        rounds=5,
    )
    suite.add(
        "P3", "composite: 4 faces at 1080p, kernel", kernel_us["composite"], "us", "<= 30", kernel_us["composite"] <= 30
    )
    suite.add(
        "P3", "composite: 4 faces at 1080p, launch to end", 1e3 * launched["composite"]["median_ms"], "us", "", None
    )
    suite.add("P3", "sample: 4 crops of 512 at 1080p, kernel", kernel_us["sample"], "us", "", None)
    for name, wanted in (("frame", 1000), ("roi", 50)):
        ratio = 1e3 * pastes[name]["median_ms"] / kernel_us["composite"]
        suite.add(
            "P3",
            f"composite: against the paste of a {name} on the CPU",
            ratio,
            "times",
            f">= {wanted}",
            ratio >= wanted,
        )
    suite.add("P12", "composite on this CPU", pastes["ours"]["median_ms"], "ms", "", None)


def _kernel_us(suite: Suite, name: str, run: Callable[[], object], repeats: int = 50) -> float:
    """Time on the device of one launch, by the profiler; where it may not look, by events, uploads and all."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(5):
        run()
    torch.cuda.synchronize()
    by_profiler = 0.0
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(repeats):
                run()
            torch.cuda.synchronize()
        mine = [e for e in profiler.key_averages() if e.key.startswith((f"{name}_u", "means_u"))]
        by_profiler = sum(e.device_time_total for e in mine) / repeats
    except (RuntimeError, AssertionError) as error:
        print(f"the profiler may not look: {error}")
    by_events = _event_us(run)
    suite.add("P3", f"{name}: launches and uploads in a row, by events", by_events, "us", "", None)
    return by_profiler or by_events


def _event_us(run: Callable[[], object], repeats: int = 16) -> float:
    """Time on the device of one of several launches in a row: they queue while the device is kept busy."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(30_000_000)  # some 15 ms; the ring of parcels holds 64 uploads
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    torch.cuda.synchronize()
    return 1e3 * first.elapsed_time(last) / repeats


def end_to_end(suite: Suite, name: str, restorer: Restorer, plain: Restorer) -> None:
    """P1, P4, P5: the engine from arrays to arrays, against the reference order on the same arrays."""
    height, width = (270, 480) if suite.short else (1080, 1920)
    nums = dict.fromkeys((1, 4), 4) if suite.short else {1: 160, 4: 64}
    nums_reference = dict.fromkeys((1, 4), 1) if suite.short else {1: 6, 4: 4}
    rates: dict[int, float] = {}
    for num_faces, num in nums.items():
        rates[num_faces] = _engine_rate(suite, restorer, make_frames(num, num_faces, height, width))
        suite.add("P1", f"{name}: engine, {num_faces} face(s), {height} lines", rates[num_faces], "frames/s", "", None)
    frames = make_frames(nums[1], 4, height, width)
    if not name.startswith("codeformer"):
        rate = _engine_rate(suite, restorer, make_frames(nums[1], 1, height, width), steady=0.0, exposure_lock=0.0)
        suite.add("P1", f"{name}: engine, 1 face, not held in time", rate, "frames/s", "", None)
    parser = load_parser(suite.device) if suite.is_cuda else None  # half a minute a face on a CPU
    for num_faces, num in nums_reference.items():
        pictures = [bgr_of(item.frame) for item in frames[:num]]
        tracks = [t.tracks[:num_faces] for t in frames[:num]]
        with tempfile.TemporaryDirectory() as folder:
            find = lambda index, picture, tracks=tracks: np.stack([t.landmarks for t in tracks[index]])  # noqa: E731
            restore_pictures(pictures[:1], find, plain, parser, Path(folder))
            begin = time.perf_counter()
            restore_pictures(pictures, find, plain, parser, Path(folder))
            rate = num / (time.perf_counter() - begin)
        suite.add("P1", f"{name}: reference order, {num_faces} face(s)", rate, "frames/s", "", None)
        ratio = rates[num_faces] / rate
        wanted = ">= 20" if num_faces == 1 else ""
        suite.add(
            "P1",
            f"{name}: against the reference order, {num_faces} face(s)",
            ratio,
            "times",
            wanted,
            ratio >= 20 if wanted else None,
        )
    gain = 4 * rates[4] / rates[1]
    suite.add("P5", f"{name}: faces/s with 4 faces a frame against 1", gain, "times", ">= 1.1", gain >= 1.1)
    if suite.is_cuda:
        alone = nums[1] / _network_alone_s(suite, restorer, nums[1]), nums[1] / _copies_alone_s(frames)
        suite.add("P4", f"{name}: network alone", alone[0], "frames/s", "", None)
        suite.add("P4", f"{name}: the host's copies alone", alone[1], "frames/s", "", None)
        share = rates[1] / min(alone)
        suite.add("P4", f"{name}: frames/s against the slowest stage alone", share, "times", ">= 0.9", share >= 0.9)


def _engine_rate(suite: Suite, restorer: Restorer, frames: Sequence[TrackedFrame], **options: float) -> float:
    """Frames a second of an engine, after as many that fill graphs, slots and caches."""
    restore: dict[str, Any] = {"batch_size": 16, "device": str(suite.device), **options}
    height, width = frames[0].frame.planes[0].shape
    engine = make_engine(load_config(overrides={"restore": restore}), info_of(height, width), restorer)
    drain(engine, frames[:32])
    begin = time.perf_counter()
    drain(engine, frames)
    return len(frames) / (time.perf_counter() - begin)


def codeformer_end_to_end(suite: Suite, precision: torch.dtype) -> None:
    """The published network with seeded weights."""
    captured = Captured(seeded_codeformer(suite.device, precision))
    end_to_end(suite, "codeformer", captured, seeded_codeformer(suite.device, torch.float32))


def codeformer_layout(suite: Suite, precision: torch.dtype) -> None:
    """What channels last would be worth, for which the tensor cores' convolutions are made."""
    images = torch.rand(16, 3, 512, 512, device=suite.device) * 2 - 1
    runs: dict[str, Callable[[], object]] = {}
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream(suite.device)):
        for name, layout in (("as it is", torch.contiguous_format), ("channels last", torch.channels_last)):
            restorer = seeded_codeformer(suite.device, precision)
            restorer._network.to(memory_format=layout)  # type: ignore[call-overload]
            graph = capture_graph(Captured(restorer).restore, images.contiguous(memory_format=layout))
            runs[name] = synchronised(suite, graph.replay)
        times = measure(runs, rounds=5)
    for name, time_of in times.items():
        suite.add("P2", f"codeformer: {name}, batch 16", time_of["median_ms"] / 16, "ms/face", "", None)


def mobile_speed(suite: Suite, precision: torch.dtype) -> None:
    """Our own network with its 3D prior, as it runs where a track brings no face: the regressor and renderer in it."""
    fast, plain = (MobileRestorer(suite.device, p, 0.5) for p in (precision, torch.float32))
    sizes = (1, 2) if suite.short else (1, 16)
    images = torch.rand(sizes[-1], 3, fast.size, fast.size, device=suite.device) * 2 - 1
    candidates = {
        f"{name}, batch {n}": synchronised(suite, lambda of=of, n=n: of.restore(images[:n]))
        for name, of in (("fp32", plain), ("as used", fast))
        for n in sizes
    }
    with torch.inference_mode():
        times = measure(candidates, rounds=3 if suite.short else 9)
    for name, time_of in times.items():
        suite.add("P2", f"mobile: {name}", time_of["median_ms"] / int(name.split()[-1]), "ms/face", "", None)
    end_to_end(suite, "mobile", fast, plain)


def _network_alone_s(suite: Suite, restorer: Restorer, num_faces: int) -> float:
    images = torch.rand(16, 3, restorer.size, restorer.size, device=suite.device) * 2 - 1
    graphs = Graphs(restorer.restore, capture_graph) if getattr(restorer, "is_pure", False) else None
    run = restorer.restore if graphs is None else partial(graphs.run, largest=16)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream(suite.device)):
        run(images)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(num_faces // 16):
            run(images)
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _copies_alone_s(frames: Sequence[TrackedFrame]) -> float:
    """What the host must do for every frame: into staging memory and out of it."""
    staging = [np.empty_like(plane) for plane in frames[0].frame.planes]
    begin = time.perf_counter()
    for item in frames:
        for plane, room in zip(item.frame.planes, staging, strict=True):
            np.copyto(room, plane)
        for room in staging:
            room.copy()
    return time.perf_counter() - begin


def bgr_of(frame: Frame) -> NDArray[np.uint8]:
    """A picture as the scripts have it."""
    import cv2

    flat = np.concatenate([plane.ravel() for plane in frame.planes]).reshape(frame.height * 3 // 2, frame.width)
    picture: NDArray[np.uint8] = cv2.cvtColor(flat, cv2.COLOR_YUV2BGR_I420)
    return picture


def drain(engine: Engine, frames: Sequence[TrackedFrame]) -> int:
    """Runs frames through in batches of 8."""
    return sum(done.num_restored for done in engine.run(frames[i : i + 8] for i in range(0, len(frames), 8)))


def steady_state(suite: Suite, restorer: Restorer) -> None:
    """Nothing waits and nothing is allocated once the engine runs."""
    from torch.profiler import ProfilerActivity, profile

    config = load_config(overrides={"restore": {"batch_size": 16, "device": str(suite.device)}})
    frames = make_frames(32, 2, 1080, 1920)
    engine = make_engine(config, info_of(1080, 1920), restorer)
    drain(engine, frames)
    before = torch.cuda.memory_stats()["segment.all.allocated"]
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        drain(engine, frames)
    events = profiler.key_averages()
    found = {e.key: e.count for e in events if e.key in WAITS}
    found.pop("cudaDeviceSynchronize", None) if found.get("cudaDeviceSynchronize", 0) <= 1 else None  # profiler's own
    suite.add("P4", "steady state: waits and allocations by the driver", str(found or "none"), "", "none", not found)
    grown = torch.cuda.memory_stats()["segment.all.allocated"] - before
    suite.add("P4", "steady state: memory segments taken", float(grown), "", "0", grown == 0)
    top = sorted(events, key=lambda e: -e.device_time_total)[:12]
    suite.results.append({"profile": [(e.key, e.count, e.device_time_total) for e in top]})


def holding(suite: Suite) -> None:
    """What it costs to hold a face in time: some 150 small launches, and how far one graph of them would go."""
    size, device = 256, suite.device
    cells = coarse_size(size)
    earlier = torch.rand(1, 3, size, size, device=device) * 2 - 1
    lively = torch.zeros(cells, cells, device=device)
    coarse = shrink(earlier)[0]
    place: Any = None  # is not read here
    memory = _Memory(place, 9, earlier[0], coarse, torch.ones((), device=device), None)
    now = _Now(place, earlier[0], 0.9 * coarse, None, lively, None, None)
    steadiness = Steadiness(kernels=False)

    def step(restored: Tensor) -> Tensor:
        maps, _ = steadiness.followed_by_torch(memory, now, 0.65)
        out, shown = torch.empty_like(earlier[0]), torch.empty_like(earlier[0])
        hold_by_torch(earlier[0], restored[0], maps, out, shown)
        return shown[None]

    stream = torch.cuda.Stream(device) if suite.is_cuda else None
    with torch.inference_mode(), torch.cuda.stream(stream):
        times = measure({"eager": synchronised(suite, lambda: step(earlier))}, rounds=9)
        suite.add("P4", "holding a face, launch by launch", times["eager"]["median_ms"], "ms/face", "", None)
        if suite.is_cuda:
            expected, graph = step(earlier), capture_graph(step, earlier)
            times = measure({"graph": synchronised(suite, graph.replay)}, rounds=9)
            suite.add("P4", "holding a face, one graph", times["graph"]["median_ms"], "ms/face", "", None)
            same = bool(torch.equal(graph.restored, expected))
            suite.add("P4", "holding a face: the graph gives the same", str(same), "", "True", same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small numbers")
    parser.add_argument("--no-tests", action="store_true", help="figures alone")
    parser.add_argument("--seconds", type=float, help="begin no part after so many")
    parser.add_argument("--report", help="name of the report, so that a second run keeps the first one's")
    parser.add_argument("--parts", help="names with commas between; as a rule all")
    arguments = parser.parse_args()
    device = choose_device("cpu" if arguments.rehearse else "cuda")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    suite = Suite(device, short=arguments.rehearse, seconds=arguments.seconds, report=arguments.report)
    print(describe_device(device))
    lanes = lanes_of(device)
    if lanes is None and not arguments.rehearse:
        raise SystemExit("CuPy is not installed")
    parts = parts_of(suite, lanes)
    wanted = list(parts) if arguments.parts is None else arguments.parts.split(",")
    if unknown := set(wanted) - set(parts):
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name, run in parts.items():
        if name in wanted and not (name == "tests" and arguments.no_tests):
            suite.part(name, run)
    path = suite.write()
    missed = [r["what"] for r in suite.results if r.get("holds") is False]
    print(f"{len(missed)} goals missed, {time.perf_counter() - suite.begin:.0f} s, {path}")


def parts_of(suite: Suite, lanes: Lanes | None) -> dict[str, Callable[[], object]]:
    """All that there is to run, by name, in the order of its worth."""
    device = suite.device
    precision = torch.bfloat16 if suite.is_cuda else torch.float32

    def compact(of: torch.dtype) -> Restorer:
        return CompactRestorer(device, of)

    parts: dict[str, Callable[[], object]] = {"tests": lambda: run_tests(suite)}
    parts["compact"] = lambda: network_speed(suite, "compact", compact, None)
    if lanes is not None:
        parts["composite"] = lambda: composite_speed(suite, lanes)
    parts["compact-engine"] = lambda: end_to_end(suite, "compact", compact(precision), compact(torch.float32))
    if shipped_mobile().is_file():
        parts["mobile"] = lambda: mobile_speed(suite, precision)
    if suite.is_cuda:
        parts["steady"] = lambda: steady_state(suite, compact(precision))
        parts["codeformer"] = lambda: network_speed(suite, "codeformer", partial(seeded_codeformer, device), 4.0)
        parts["tokens"] = lambda: token_agreement(suite)
        parts["codeformer-engine"] = lambda: codeformer_end_to_end(suite, precision)
        parts["holding"] = lambda: holding(suite)
        parts["layout"] = lambda: codeformer_layout(suite, precision)
    return parts


if __name__ == "__main__":
    main()
