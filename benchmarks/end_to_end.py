"""Whole clips through vidrestore and through the reference order, interleaved: ``python benchmarks/end_to_end.py``.

``--quick`` runs a few frames once, to see that it works.

``--network codeformer`` runs the published network with seeded weights (they cost what the published ones cost) over a
few frames of the example alone, as a CPU takes many seconds for each face.

Clips: the committed example (640 x 360, two faces, then one), and the same enlarged to 1920 x 1080, both without the
reference's parsing network, which is in its favour; and a few frames of the example with it, as a face then costs it
seconds.
Both sides read the same file, use the same network, weights and detector, and write H.264 with the same settings; the
tracker and all else are as by default. Beside the time stand the
peak resident memory of each side (in a process of its own) and the stages' own account of theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import psutil
import torch
from common import machine, summary, write_report
from reference_order import restore_in_reference_order

from vidrestore import load_config, restore
from vidrestore.config import RestoreConfig
from vidrestore.device import choose_device, choose_precision
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.restorer import CodeFormerRestorer, Restorer, load_restorer
from vidrestore.restoration.seeded import fill_seeded

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
METHOD = "wall time of a whole clip, file to file, sides in turn, each run in a process of its own after one warm-up"


def enlarge(source: Path, target: Path, height: int, num_frames: int) -> Path:
    """The first frames of a clip, enlarged, as H.264."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        video = container.streams.video[0]
        stream = out.add_stream("libx264", rate=video.average_rate or Fraction(25), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = video.width * height // video.height, height, "yuv420p"
        for index, frame in zip(range(num_frames), container.decode(video), strict=False):
            large = frame.reformat(width=stream.width, height=height)
            large.pts, large.time_base = index, 1 / Fraction(video.average_rate or 25)
            out.mux(stream.encode(large))
        out.mux(stream.encode(None))
    return target


def make_restorer(network: str, config: RestoreConfig) -> Restorer:
    """The network of the configuration, or the published CodeFormer with seeded weights."""
    if network != "codeformer":
        return load_restorer(config.restore)
    device = choose_device(config.restore.device)
    with torch.device("meta"):
        made = CodeFormer(RESTORATION.dims)
    return CodeFormerRestorer(fill_seeded(made), device, choose_precision("auto", device), config.restore.w)


def run_one(side: str, source: Path, device: str, network: str, *, parses: bool) -> dict[str, Any]:
    """One timed run in this process, after a short one that compiles and loads everything."""
    config = load_config(overrides={"restore": {"device": device, "network": network}})
    restorer = make_restorer(network, config)
    with tempfile.TemporaryDirectory() as folder:
        short = enlarge(source, Path(folder) / "short.mp4", 360, 1 if network == "codeformer" or parses else 4)
        result: dict[str, Any] = {}
        for name, clip in (("warm", short), ("timed", source)):
            output = Path(folder) / f"{name}-out.mp4"
            begin, spent = time.perf_counter(), time.process_time()
            if side == "vidrestore":
                done = restore(clip, output, config, restorer=restorer)
                faces, frames = done.num_faces, done.num_frames
                result["stages"] = {k: {"busy_s": v.busy_s, "blocked_s": v.blocked_s} for k, v in done.stages.items()}
            else:
                faces = restore_in_reference_order(clip, output, config, restorer, parses=parses and name == "timed")
                with av.open(str(output)) as container:
                    frames = container.streams.video[0].frames
            elapsed, processor = time.perf_counter() - begin, time.process_time() - spent
    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", None) or _peak_rss()
    result |= {"elapsed_s": elapsed, "processor_s": processor, "frames": frames, "faces": faces}
    return result | {"peak_memory_mb": round(peak / 2**20)}


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(source: Path, name: str, rounds: int, device: str, network: str, *, parses: bool = False) -> dict[str, Any]:
    """Both sides in turn, each in a process of its own."""
    runs: dict[str, list[dict[str, Any]]] = {"vidrestore": [], "reference_order": []}
    for _ in range(rounds):
        for side in runs:
            command = [sys.executable, __file__, "--one", side, str(source), "--device", device, "--network", network]
            command += ["--parses"] if parses else []
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as the command line sets it; for both sides
            text = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[side].append(json.loads(text.splitlines()[-1]))
    sides: dict[str, Any] = {}
    for side, done in runs.items():
        times = [r["elapsed_s"] * 1e3 for r in done]
        spread = summary(times) if len(times) > 1 else {"median_ms": round(times[0], 3)}
        sides[side] = spread | {
            "processor_s": round(sorted(r["processor_s"] for r in done)[len(done) // 2], 2),
            "frames_per_second": round(done[0]["frames"] / (sorted(times)[len(times) // 2] / 1e3), 2),
            "faces": done[0]["faces"],
            "peak_memory_mb": max(r["peak_memory_mb"] for r in done),
            "stages": done[-1].get("stages"),
        }
    ratio = sides["reference_order"]["median_ms"] / sides["vidrestore"]["median_ms"]
    processor = sides["reference_order"]["processor_s"] / sides["vidrestore"]["processor_s"]
    return {
        "clip": name,
        "frames": runs["vidrestore"][0]["frames"],
        **sides,
        "times_faster": round(ratio, 2),
        "times_less_processor": round(processor, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=25, help="of the enlarged clip")
    parser.add_argument("--parsed-frames", type=int, default=2, help="of the clip with the parsing network")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dry", action="store_true", help="write no report")
    parser.add_argument("--parses", action="store_true", help="used by the script itself")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "CLIP"), help="one run, used by the script itself")
    parser.add_argument(
        "--network",
        default=RestoreConfig().restore.network,
        help="any of restore.network; codeformer gets seeded weights",
    )
    arguments = parser.parse_args()
    device, network, rounds = arguments.device, arguments.network, arguments.rounds
    if arguments.one:
        print(json.dumps(run_one(arguments.one[0], Path(arguments.one[1]), device, network, parses=arguments.parses)))
        return
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        if network == "codeformer":
            few = enlarge(EXAMPLE, Path(folder) / "few.mp4", 360, 8)
            results = [compare(few, "example, 640x360, 8 frames", rounds, device, network)]
        else:
            whole, lines, rounds = (EXAMPLE, 1080, rounds) if not arguments.quick else (None, 540, 1)
            num_large, num_parsed = (2, 1) if arguments.quick else (arguments.frames, arguments.parsed_frames)
            whole = whole or enlarge(EXAMPLE, Path(folder) / "some.mp4", 360, 2)
            large = enlarge(EXAMPLE, Path(folder) / "large.mp4", lines, num_large)
            few = enlarge(EXAMPLE, Path(folder) / "few.mp4", 360, num_parsed)
            results = [
                compare(whole, "example, 640x360", rounds, device, network),
                compare(large, f"example enlarged, {lines} lines", rounds, device, network),
                compare(few, "example, 640x360, reference with parsing", 1, device, network, parses=True),
            ]
    for r in results:
        print(
            f"{r['clip']}: {r['vidrestore']['frames_per_second']} against "
            f"{r['reference_order']['frames_per_second']} frames/s, {r['times_faster']} times "
            f"({r['times_less_processor']} times less processor time)"
        )
    if not arguments.dry:
        name = f"end_to_end_{network}" if network == "codeformer" else "end_to_end"
        extra = {"network": network, "torch_threads": torch.get_num_threads(), "machine_before": before}
        print(write_report(name, METHOD, results, **extra))


if __name__ == "__main__":
    main()
