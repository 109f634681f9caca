"""Training samples by workers and in batches on a device: ``python benchmarks/degradations.py [--quick]``.

- ``speed``: faces per second through the recording chains, by level, and as whole samples (move, occluders, colours,
  chain), by NumPy and OpenCV one at a time and by torch in a batch, side by side in turn, one thread each; then faces
  made by the generator. On a CPU processor time is told, which other work on the machine hardly touches; with
  ``--device cuda`` the batches run there and wall time is told, the device waited for.
- ``codecs``: how near the approximated video codecs come to x264 and FFmpeg's MPEG encoders: PSNR against the picture
  before compression, and what is left of its three finest octaves.

Writes ``benchmarks/results/degradations.json``. Without ``--faces`` pictures with the spectrum of photographs are made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import write_report
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.train.data import FaceCache, FacePairs, list_images
from vidrestore.train.degrade import LEVELS, Picture, apply_recipe, compress_video, draw_recipe
from vidrestore.train.degrade_batch import apply_recipes
from vidrestore.train.degrade_canvas import canvas_side
from vidrestore.train.degrade_codecs import approximate_video
from vidrestore.train.device_samples import PlannedFaces, StepGenerator, made

SIZE = 256
DRIFT = (0.7, -0.4)  # pixels per frame of the clips that are compressed


def natural(side: int, seed: int) -> NDArray[np.uint8]:
    """A picture with the spectrum of photographs, and some colour."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0 / side
    planes = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency, s=(side, side))
    planes /= planes.std((1, 2), keepdims=True)
    picture = 0.5 + 0.13 * planes[0][..., None] + 0.04 * np.moveaxis(planes, 0, 2)
    return np.asarray(np.clip(picture, 0, 1) * 255, np.uint8)


def open_faces(folder: str | None, count: int, work: Path) -> FaceCache:
    """So many pictures of 320 pixels."""
    if folder is None:
        for i in range(count):
            cv2.imwrite(str(work / f"{i:05d}.png"), natural(320, i))
    paths = list_images(folder or work)
    return FaceCache(paths[-count:], 320, work / "cache.npy")


def timed(candidates: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of interleaved rounds after one call of each."""
    is_cpu = device == "cpu"

    def once(run: Callable[[], object]) -> float:
        start = time.process_time() if is_cpu else time.perf_counter()
        run()
        if not is_cpu:
            torch.cuda.synchronize()
        return (time.process_time() if is_cpu else time.perf_counter()) - start

    for run in candidates.values():
        once(run)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(once(run))
    return {name: statistics.median(values) for name, values in times.items()}


def measure_speed(cache: FaceCache, batch: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Faces per second of both ways."""
    pictures = [cv2.resize(np.asarray(p), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for p in cache.pictures]
    faces: list[Picture] = [pictures[i % len(pictures)].astype(np.float32) / np.float32(255) for i in range(batch)]
    there = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).contiguous().to(device) * 2 - 1
    rows = []
    for name, level in LEVELS.items():
        recipes = [draw_recipe(np.random.default_rng(i), level) for i in range(batch)]
        chains = list(zip(faces, recipes, strict=True))
        seconds = timed(
            {
                "numpy": lambda chains=chains: [  # type: ignore[misc]
                    apply_recipe(face, recipe, np.random.default_rng(i)) for i, (face, recipe) in enumerate(chains)
                ],
                "batch": lambda recipes=recipes: apply_recipes(there, recipes, range(batch)),  # type: ignore[misc]
            },
            rounds,
            device,
        )
        rows.append(row(f"chain, {name}", seconds, batch))
    pairs = FacePairs(cache, size=SIZE, seed=1)
    planned = PlannedFaces(cache, pairs)
    seconds = timed(
        {
            "numpy": lambda: [pairs[i] for i in range(batch)],
            "batch": lambda: made([planned[i] for i in range(batch)], device, size=SIZE),
        },
        rounds,
        device,
    )
    rows.append(row("whole sample", seconds, batch))
    draws = timed({"draws": lambda: [planned[i] for i in range(batch)]}, rounds, device)
    rows.append({"part": "whole sample, draws alone", "faces_per_s": round(batch / draws["draws"], 1)})
    return rows


def row(part: str, seconds: Mapping[str, float], batch: int) -> dict[str, Any]:
    """One line of the report."""
    rates = {f"{name}_faces_per_s": round(batch / s, 2) for name, s in seconds.items()}
    return {"part": part, **rates, "batch_over_numpy": round(seconds["numpy"] / seconds["batch"], 3)}


def measure_generator(faces: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Faces per second that are made in the step."""
    try:
        generator = StepGenerator(320, 1, device)
    except ConfigError as error:
        return [{"part": "generator", "not_run": str(error)}]
    styles = generator.styles(range(faces))
    seconds = timed({"generator": lambda: generator.pictures(styles)}, rounds, device)["generator"]
    return [{"part": "generator, 1024 px, float32", "faces_per_s": round(faces / seconds, 3)}]


def measure_codecs(cache: FaceCache, count: int, device: str) -> list[dict[str, Any]]:
    """Harm done by real and by approximated codecs."""
    rows = []
    for codec, crf, side, frames in itertools.product(
        ("h264", "mpeg4", "mpeg2"), (18, 24, 30, 36), (64, 128, 200), (1, 3)
    ):
        values = []
        for number in range(count):
            small = cv2.resize(np.asarray(cache.pictures[number]), (side, side), interpolation=cv2.INTER_AREA)
            clip = [moved(small.astype(np.float32) / np.float32(255), k) for k in range(1 - frames, 1)]
            real = compress_video(clip, codec, crf)  # type: ignore[arg-type]
            ours = approximated(clip, codec, crf, device)
            values.append(
                [
                    decibel(real, clip[-1]),
                    decibel(ours, clip[-1]),
                    decibel(ours, real),
                    *octaves(real) / octaves(clip[-1]),
                    *octaves(ours) / octaves(clip[-1]),
                ]
            )
        means = [round(float(v), 3) for v in np.mean(values, 0)]
        names = ("real_db", "ours_db", "between_db")
        octave = {"real_octaves": means[3:6], "ours_octaves": means[6:9]}
        rows.append(
            {
                "codec": codec,
                "crf": crf,
                "side": side,
                "frames": frames,
                **dict(zip(names, means[:3], strict=True)),
                **octave,
            }
        )
    return rows


def moved(picture: Picture, frames: int) -> Picture:
    """The picture so many frames earlier or later."""
    matrix = np.array([[1.0, 0.0, frames * DRIFT[0]], [0.0, 1.0, frames * DRIFT[1]]])
    return np.asarray(cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101))


def approximated(clip: list[Picture], codec: Any, crf: int, device: str) -> Picture:
    """The last frame after the approximated codec."""
    side = clip[0].shape[0]
    canvas = np.zeros((1, len(clip), 3, canvas_side(side), canvas_side(side)), np.float32)
    canvas[0, :, :, :side, :side] = np.stack(clip).transpose(0, 3, 1, 2)
    motion = torch.tensor([[0.0, 0.0], *[DRIFT] * (len(clip) - 1)])[None].to(device)
    sizes = torch.tensor([side], device=device)
    found = approximate_video(torch.from_numpy(canvas).to(device), sizes, [codec], [crf], motion)
    return found[0, -1, :, :side, :side].permute(1, 2, 0).cpu().numpy()


def octaves(picture: Picture) -> NDArray[np.float64]:
    """Deviations of the luma in three octaves, finest first."""
    luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    levels = [luma, *(cv2.GaussianBlur(luma, (0, 0), s) for s in (1.0, 2.0, 4.0))]
    return np.array([(a - b).std() for a, b in itertools.pairwise(levels)])


def decibel(a: Picture, b: Picture) -> float:
    """PSNR of pictures in [0, 1]."""
    return float(-10 * np.log10(max(float(np.mean((a - b) ** 2)), 1e-10)))


def main() -> None:
    """Runs and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", help="folder of aligned faces")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    is_cpu, quick = arguments.device == "cpu", arguments.quick
    batch, rounds = (8 if quick else 16) if is_cpu else 64, 2 if quick else 5
    with tempfile.TemporaryDirectory() as work:
        cache = open_faces(arguments.faces, 16, Path(work))
        speed = measure_speed(cache, batch, rounds, arguments.device)
        speed += measure_generator(1 if is_cpu else 32, 2 if quick else 3, arguments.device)
        codecs = measure_codecs(cache, 2 if quick else 6, arguments.device)
    path = write_report(
        "degradations",
        f"{'processor' if is_cpu else 'wall'} time, one thread, interleaved rounds, crops of {SIZE} px, batch {batch}",
        [*speed, *codecs],
        device=arguments.device if is_cpu else torch.cuda.get_device_name(),
        pictures=(arguments.faces and "generated faces") or "made, spectrum of photographs",
        not_run="a GPU" if is_cpu else "",
        quick=quick,
    )
    for line in speed:
        print(json.dumps(line))
    worst = max(abs(line["real_db"] - line["ours_db"]) for line in codecs)
    print(f"codecs: PSNR within {worst:.2f} dB of the real ones; {path}")


if __name__ == "__main__":
    main()
