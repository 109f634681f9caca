"""The morphable model and its renderer on one core, and on a GPU if there is one: ``python benchmarks/rasterize.py``.

Meshes of the synthetic model: 35 778 vertices and 70 756 triangles, about as BFM 2009 (35 709 and 70 789), and 468
vertices and 850 triangles, those of vr468 and about its 898. The face covers half of the picture. Per face, in batches
of one:

- ``model``: 257 coefficients to vertices, normals and colours (two matrix products over the bases).
- ``draw``: those to picture and mask, the goal being 5 ms at 224 px with the large mesh.
- ``gradients``: what a picture's gradient means for colours, points and depth.

The process is bound to one core. Beside the usual times of the wall stands ``cpu_ms``, the median of the time that the
thread was really running: on a machine that others use too, that is what one core takes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import machine, measure, write_report

from vidrestore.kernels.rasterize import draw, draw_gradients
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.render import render
from vidrestore.morphable.synthetic import synthetic_model

MESHES = {"as BFM 2009": (267, 134), "as vr468": (26, 18)}
SIZES = (128, 224, 512)
ROUNDS = 31


def coefficients() -> torch.Tensor:
    """A face that is turned a little and lit from one side."""
    values = 0.3 * torch.randn(1, 257, generator=torch.Generator().manual_seed(0))
    values[:, 224:227], values[:, 254:257] = 0.2, 0.0
    values[:, 227:254] *= 0.3
    return values


def cpu_ms(job: Callable[[], object]) -> float:
    """Median of the thread's own time."""
    times = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        job()
        times.append(1e3 * (time.thread_time() - start))
    return round(statistics.median(times), 3)


def run_case(name: str, shape: tuple[int, int], size: int) -> dict[str, Any]:
    """All jobs of one mesh at one size, on the CPU."""
    model, numbers = synthetic_model(*shape), coefficients()
    camera = Camera().scaled(size)
    with torch.inference_mode():
        face = model(numbers, camera)
    arrays = face.points_px.numpy(), face.depth.numpy(), model.triangles.numpy(), face.colours.numpy()
    _, seen = draw(*arrays, size)
    upstream = np.ones((1, 3, size, size), np.float32)

    def run_model() -> object:
        with torch.inference_mode():
            return model(numbers, camera)

    jobs: dict[str, Callable[[], object]] = {
        "model": run_model,
        "draw": lambda: draw(*arrays, size),
        "gradients": lambda: draw_gradients(seen, *arrays, upstream),
    }
    times = measure(jobs, rounds=ROUNDS)
    for job, run in jobs.items():
        times[job]["cpu_ms"] = cpu_ms(run)
    return {
        "mesh": name,
        "vertices": model.num_vertices,
        "triangles": len(model.triangles),
        "size_px": size,
        "covered": round(float((seen >= 0).mean()), 3),
        "times": times,
    }


def run_on_gpu(name: str, shape: tuple[int, int], size: int, batch: int) -> dict[str, Any]:
    """``draw`` by torch's events, per face of a batch."""
    model = synthetic_model(*shape).cuda()
    with torch.inference_mode():
        face = model(coefficients().expand(batch, -1).cuda(), Camera().scaled(size))
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
        for round_index in range(-3, ROUNDS):
            if round_index >= 0:
                events[round_index][0].record()
            render(face.points_px, face.depth, model.triangles, face.colours, size)
            if round_index >= 0:
                events[round_index][1].record()
        torch.cuda.synchronize()
    times = [start.elapsed_time(stop) / batch for start, stop in events]
    return {"mesh": name, "size_px": size, "batch": batch, "draw_ms_per_face": round(statistics.median(times), 4)}


def main() -> None:
    """Runs every case, shows a table and writes the report."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    busy = machine()["core_share"] < 0.9
    results: list[dict[str, Any]] = []
    print("mesh          size |  model   draw  gradients   (ms of one core)")
    for name, shape in MESHES.items():
        for size in SIZES:
            result = run_case(name, shape, size)
            results.append(result)
            t = {job: values["cpu_ms"] for job, values in result["times"].items()}
            print(f"{name:13} {size:4} | {t['model']:6.2f} {t['draw']:6.2f} {t['gradients']:10.2f}")
    if torch.cuda.is_available():
        for name, shape in MESHES.items():
            for size in SIZES:
                for batch in (1, 16):
                    results.append(run_on_gpu(name, shape, size, batch))
                    print(results[-1])
    write_report("rasterize", __doc__ or "", results, machine_was_busy=bool(busy))


if __name__ == "__main__":
    main()
