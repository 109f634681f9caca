"""How alike two runs are, goal R14: ``python benchmarks/determinism.py [--quick]``.

The first frames of the committed example, with ``compact`` in float32:

- ``batches``: frames restored with batches of 1, 2, 4 and 8 faces, against those of 1: PSNR over all samples and over
  those that were restored at all, the share of samples that differ and by how much at most (wanted: 60 dB).
- ``network``: crops of noise through the network alone, one by one and together: PSNR over [-1, 1], largest difference.
- ``files``: the same command twice, file to file: whether the SHA-256 of both files is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cut, machine, write_report

from vidrestore import load_config, restore, restore_frames
from vidrestore.decode.reader import VideoReader
from vidrestore.restoration.restorer import Restorer, load_restorer
from vidrestore.types import Frame

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
SETTINGS: dict[str, Any] = {"device": "cpu", "precision": "float32"}
BATCHES = (1, 2, 4, 8)


def decibels(mean_square: float, peak: float) -> float | None:
    """PSNR; None where nothing differs."""
    return round(10 * math.log10(peak**2 / mean_square), 1) if mean_square > 0.0 else None


def frames_of(batch_size: int, source: list[Frame], info: Any, restorer: Restorer) -> list[Frame]:
    """The restored frames."""
    config = load_config(overrides={"restore": {**SETTINGS, "batch_size": batch_size}})
    return [done.frame for done in restore_frames(source, info, config, restorer=restorer)]


def compare(frames: list[Frame], alone: list[Frame], source: list[Frame]) -> dict[str, Any]:
    """Differences to the frames of single faces, in code values."""
    error, changed, count, differing, most = 0.0, 0, 0, 0, 0
    for a, b, before in zip(frames, alone, source, strict=True):
        for p, q, s in zip(a.planes, b.planes, before.planes, strict=True):
            difference = np.abs(p.astype(np.int64) - q)
            error += float((difference**2).sum())
            differing += int((difference > 0).sum())
            changed += int((q != s).sum())
            count += p.size
            most = max(most, int(difference.max()))
    peak = (1 << source[0].format.depth) - 1
    return {
        "psnr_db": decibels(error / count, peak),
        "psnr_of_changed_samples_db": decibels(error / max(changed, 1), peak),
        "changed_samples": changed,
        "differing_share_of_changed": differing / max(changed, 1),
        "largest_difference": most,
    }


def network_alone(restorer: Restorer) -> list[dict[str, Any]]:
    """The network's own last bits."""
    images = torch.rand(8, 3, restorer.size, restorer.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = []
    with torch.inference_mode():
        alone = torch.cat([restorer.restore(image[None]) for image in images])
        for size in BATCHES[1:]:
            together = torch.cat([restorer.restore(part) for part in images.split(size)])
            square = float(((together - alone).double() ** 2).mean())
            largest = float((together - alone).abs().max())
            rows.append({"part": "network", "batch": size, "psnr_db": decibels(square, 2.0), "largest": largest})
    return rows


def two_files(num_frames: int) -> dict[str, Any]:
    """The same job twice."""
    with tempfile.TemporaryDirectory() as folder:
        clip = cut(EXAMPLE, Path(folder) / "clip.mp4", num_frames)
        sums = []
        for name in ("first", "second"):
            output = Path(folder) / f"{name}.mp4"
            restore(clip, output, load_config(overrides={"restore": SETTINGS}))
            sums.append(hashlib.sha256(output.read_bytes()).hexdigest())
    return {"part": "files", "frames": num_frames, "sha256": sums, "are_equal": sums[0] == sums[1]}


def main() -> None:
    """Runs the parts, shows them and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="three frames")
    parser.add_argument("--dry", action="store_true", help="write no report")
    arguments = parser.parse_args()
    before = machine()
    num_frames = 3 if arguments.quick else arguments.frames
    restorer = load_restorer(load_config(overrides={"restore": SETTINGS}).restore)
    with VideoReader(EXAMPLE) as video:
        info, source = video.info, list(islice(video.decode(), num_frames))
    alone = frames_of(1, source, info, restorer)
    results: list[dict[str, Any]] = []
    for size in BATCHES[1:]:
        row = {"part": "batches", "batch": size, "frames": num_frames}
        results.append(row | compare(frames_of(size, source, info, restorer), alone, source))
    results += [*network_alone(restorer), two_files(num_frames)]
    for result in results:
        print(result, flush=True)
    if not arguments.dry:
        print(write_report("determinism", __doc__ or "", results, machine_before=before))


if __name__ == "__main__":
    main()
