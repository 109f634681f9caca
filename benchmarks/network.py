"""Networks alone (goal P2): one face at a time in float32 with a copy back for each, against batches.

    python benchmarks/network.py [--network codeformer] [--faces 8] [--rounds 5] [--device auto]

The weights are seeded, so nothing has to be fetched; they cost what the published ones cost. On a GPU the batches run
in bfloat16 (generator and fusion; what decides the codes stays float32), channels-last and as a CUDA graph; on a CPU
the same without a graph. ``benchmarks/gpu_suite.py`` has the goals of a GPU in one table; this script is the same
comparison for any machine, written down with its quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import measure, write_report
from torch import Tensor

from vidrestore.device import choose_device, describe_device
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.compact import load_compact
from vidrestore.restoration.seeded import fill_seeded

W = 0.5


def codeformer(device: torch.device, precision: torch.dtype, *, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """The published network as its authors call it."""
    with torch.device("meta"):
        network = CodeFormer(RESTORATION.dims)
    network = fill_seeded(network).to_precision(precision).to(device).eval().requires_grad_(False)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda images: network(images, W, adain=True)


def compact(device: torch.device, precision: torch.dtype, *, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """Our small network."""
    network = load_compact(None, device)
    is_lower = precision != torch.float32

    def run(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_lower):
            out: Tensor = network(images)
        return out.float()

    return run


NETWORKS: dict[str, tuple[Any, int]] = {"codeformer": (codeformer, 512), "compact": (compact, 256)}


def one_by_one(run: Callable[[Tensor], Tensor], faces: Tensor, device: torch.device) -> Callable[[], object]:
    """Each face is sent, restored and fetched before the next is touched."""

    def timed() -> list[Tensor]:
        return [run(face[None].to(device)).cpu() for face in faces]

    return timed


def batched(
    run: Callable[[Tensor], Tensor], faces: Tensor, device: torch.device, size: int, *, channels_last: bool
) -> Callable[[], object]:
    """Batches of ``size``; what was restored is fetched at the end."""
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def timed() -> list[Tensor]:
        done = [run(part.to(device).contiguous(memory_format=layout)) for part in faces.split(size)]
        return [part.cpu() for part in done]

    return timed


def captured(
    run: Callable[[Tensor], Tensor], shape: tuple[int, ...], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The same as a CUDA graph of one batch size."""
    static = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(static)

    def replay(images: Tensor) -> Tensor:
        static.copy_(images)
        graph.replay()
        return result.clone()

    return replay


def decibels(got: Tensor, expected: Tensor) -> float:
    """PSNR for a range of 2."""
    return float(10 * torch.log10(4.0 / (got - expected).square().mean()))


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="codeformer")
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    make, side = NETWORKS[options.network]
    faces = torch.rand(options.faces, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        full = make(device, torch.float32, channels_last=False)
        lower = make(device, torch.bfloat16, channels_last=True)
        candidates = {"one by one, float32": one_by_one(full, faces, device)}
        for size in options.batches:
            candidates[f"batches of {size}, float32"] = batched(full, faces, device, size, channels_last=False)
            run = captured(lower, (size, 3, side, side), device) if device.type == "cuda" else lower
            name = f"batches of {size}, bfloat16 channels-last" + (", graph" if device.type == "cuda" else "")
            if options.faces % size == 0:  # a graph has one size
                candidates[name] = batched(run, faces, device, size, channels_last=True)
        times = measure(candidates, rounds=options.rounds, warm_up=1)
        quality = decibels(lower(faces[:1].to(device)).cpu(), full(faces[:1].to(device)).cpu())
    base = times["one by one, float32"]["median_ms"]
    rows = {
        name: {
            "ms_per_face": round(t["median_ms"] / options.faces, 2),
            "lower_quartile_ms_per_face": round(t["lower_quartile_ms"] / options.faces, 2),
            "upper_quartile_ms_per_face": round(t["upper_quartile_ms"] / options.faces, 2),
            "times_faster": round(base / t["median_ms"], 2),
        }
        for name, t in times.items()
    }
    for name, row in rows.items():
        print(f"{name:48s} {row['ms_per_face']:10.2f} ms a face   x {row['times_faster']:.2f}")
    print(f"bfloat16 against float32: {quality:.1f} dB")
    write_report(
        f"network_{options.network}",
        "goal P2: batches at least 3 x the faces per second of one by one in float32; rounds interleaved",
        [{"name": name, **row} for name, row in rows.items()],
        network=options.network,
        weights="seeded" if options.network == "codeformer" else "ours",
        device=describe_device(device),
        threads=torch.get_num_threads(),
        faces=options.faces,
        rounds=options.rounds,
        bfloat16_psnr_db=round(quality, 1),
    )


if __name__ == "__main__":
    main()
