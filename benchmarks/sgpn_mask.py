"""Does SGPN's mask learn to believe the degraded picture where the render is wrong?

    python benchmarks/sgpn_mask.py FOLDER [--steps N] [--size S] [--channels C] [--picture FILE]

FOLDER holds aligned faces. A small network is trained from scratch, with the reconstruction loss alone, on a task in
which the answer is known: the target is a face with a striped rectangle in front of it, the degraded picture is the
target shrunk four times and noisy, the "render" is the sharp face *without* the rectangle. Inside the rectangle only
the degraded picture tells the truth, outside it the render is the better one. The masks M of all fusion blocks are then
averaged, on faces that were held out, inside and outside the rectangle: 1 believes the degraded picture, 0 the render.
Beside it the same network with the maps concatenated in place of the AFFB, for its PSNR.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from common import write_report
from torch import Tensor
from torch.nn import functional

from vidrestore.restoration.sgpn import Sgpn, SgpnDims
from vidrestore.train.data import list_images

HELD_OUT = 64
RATE = 0.01
BATCH = 8


def faces_of(folder: Path, size: int, count: int) -> Tensor:
    pictures = [cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4) for path in list_images(folder)[:count]]
    small = [cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA)[..., ::-1] for p in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def samples(faces: Tensor, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(degraded, rendered, target, occluder), the last one (B, 1, S, S) of 0 and 1."""
    size = faces.shape[-1]
    rendered = faces[torch.from_numpy(rng.integers(0, len(faces), count))]
    occluder = torch.zeros(count, 1, size, size)
    for i in range(count):
        height, width = rng.integers(size // 4, size // 2, 2)
        y, x = rng.integers(1, size - height), rng.integers(1, size - width)
        occluder[i, :, y : y + height, x : x + width] = 1.0
    colour = torch.from_numpy(rng.uniform(-1, 1, (count, 3, 1, 1))).float()
    stripes = 0.4 * ((torch.arange(size) // 2 % 2) * 2.0 - 1.0)
    target = rendered * (1 - occluder) + (colour + stripes).clamp(-1, 1) * occluder
    small = functional.interpolate(target, scale_factor=0.25, mode="area")
    noise = 0.1 * torch.from_numpy(rng.standard_normal(target.shape)).float()
    degraded = functional.interpolate(small, size=(size, size), mode="bilinear") + noise
    return degraded, rendered, target, occluder


def psnr(a: Tensor, b: Tensor) -> float:
    return float((-10 * ((a - b) / 2).square().mean((1, 2, 3)).log10()).mean())


def trained(dims: SgpnDims, faces: Tensor, steps: int) -> Sgpn:
    torch.manual_seed(0)
    network = Sgpn(dims)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.0, 0.99))
    rng = np.random.default_rng(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2.0 * (1.0 - step / steps))
        degraded, rendered, target, _ = samples(faces[HELD_OUT:], rng, BATCH)
        loss = (network(degraded, rendered, torch.zeros(BATCH, dims.coefficients)) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


@torch.no_grad()
def measured(network: Sgpn, faces: Tensor) -> tuple[dict[str, object], Tensor]:
    degraded, rendered, target, occluder = samples(faces[:HELD_OUT], np.random.default_rng(1), HELD_OUT)
    masks: list[Tensor] = []
    zeros = torch.zeros(HELD_OUT, network.dims.coefficients)
    restored = network.decode(network.encode(degraded), network.encode(rendered), zeros, masks).clamp(-1, 1)
    result: dict[str, object] = {
        "psnr_degraded": round(psnr(degraded.clamp(-1, 1), target), 2),
        "psnr_rendered": round(psnr(rendered, target), 2),
        "psnr_restored": round(psnr(restored, target), 2),
    }
    size = network.dims.size
    rows = []
    shown = torch.zeros_like(occluder)
    for i, mask in enumerate(masks):
        large = functional.interpolate(mask.mean(1, keepdim=True), size=(size, size), mode="nearest")
        inside = float((large * occluder).sum() / occluder.sum())
        outside = float((large * (1 - occluder)).sum() / (1 - occluder).sum())
        rows.append({"block": i, "size": mask.shape[-1], "inside": round(inside, 3), "outside": round(outside, 3)})
        shown = shown + large / len(masks)
    if rows:
        result["masks"] = rows
    tiles = [degraded, rendered, target, restored, (2 * shown - 1).expand(-1, 3, -1, -1)]
    return result, torch.cat([torch.cat(list(t[:6].clamp(-1, 1)), 2) for t in tiles], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--faces", type=int, default=1000)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size, width = options.size, options.channels
    dims = SgpnDims(size=size, max_channels=width, area_channels=width * size, latent=16, style=32)
    faces = faces_of(options.folder, size, options.faces)
    results = []
    for fusion in ("affb", "concat"):
        begin = time.perf_counter()
        result, picture = measured(trained(replace(dims, fusion=fusion), faces, options.steps), faces)
        results.append({"fusion": fusion, **result, "seconds": round(time.perf_counter() - begin, 1)})
        print(results[-1])
        if options.picture is not None and fusion == "affb":
            pixels = ((picture.permute(1, 2, 0).numpy()[..., ::-1] + 1) * 127.5).round().astype(np.uint8)
            cv2.imwrite(str(options.picture), cv2.resize(pixels, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST))
    settings = {"steps": options.steps, "size": size, "channels": width, "batch": BATCH, "faces": len(faces)}
    print(write_report("sgpn_mask", __doc__.strip(), results, settings=settings))


if __name__ == "__main__":
    main()
