"""What holding codes along a track does: flips of codes, flicker, and how much of mouth and eye motion is kept.

    python benchmarks/hysteresis.py --faces data/faces --network runs/codeformer_small_3/codeformer.safetensors

Synthetic clips, so that the truth is known: a held-out face speaks (its lower lip goes down and up at about 3 Hz of
25 frames a second), blinks twice, and drifts by a part of a pixel, as the crop of a smoothed track does. Each frame is
degraded by one chain with fresh noise. The same network restores it frame by frame and with hysteresis.

    flips            share of codes that differ from the last frame's, in all tokens, and in those under which the clean
                     face does not move
    flicker          mean absolute change from frame to frame, of 255, where the clean face does not change, less its
                     own there
    mouth, eyes      slope of the restored motion on the clean one (each pixel about its mean in time, luma): 1 is all
                     of it; ``kept`` is the ratio of hysteresis to frame by frame
    psnr             against the clean frames, in dB, of all and of the mouth
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from common import write_report
from torch import Tensor

from vidrestore.restoration.codeformer import CodeFormer
from vidrestore.restoration.hysteresis import CodeHysteresis, HysteresisOptions, TrackPlace
from vidrestore.train.codeformer import load_network, psnr
from vidrestore.train.data import list_images, to_tensor
from vidrestore.train.paper_degrade import BlindLevel, degrade_blind

FRAMES, RATE = 60, 25
FACES = (2, 14, 31, 47, 66, 85, 102, 121)
"""Numbers of held-out faces, chosen before any result was seen."""
BLINKS = (18, 44)
LEVELS = {
    "medium": BlindLevel((0.8, 0.8), (2.5, 2.5), (8.0, 8.0), (60.0, 60.0), 21),
    "heavy": BlindLevel((1.5, 1.5), (4.0, 4.0), (15.0, 15.0), (40.0, 40.0), 21),
}
MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0)
MOUTH = (160, 330, 354, 440)
EYES = (140, 205, 372, 275)
"""x0, y0, x1, y1 in a crop of 512, around FFHQ's template."""
_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def clean_frame(face: np.ndarray, frame: int, side: int) -> np.ndarray:
    """(side, side, 3) of a face of 512 in [0, 1]: the mouth opens and shuts, the eyes blink, the crop drifts."""
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    opening = 30.0 * max(0.0, math.sin(2 * math.pi * 3.0 * frame / RATE)) * (0.4 + 0.6 * math.sin(0.21 * frame) ** 2)
    lip = np.exp(-(((x - 257) / 60) ** 2) - ((y - 400) / 30) ** 2)  # pulls down what is below the lips' line
    dy = opening * lip * (y > 372) * np.clip((y - 372) / 20, 0, 1)
    shut = max(0.0, 1.0 - min(abs(frame - b) for b in BLINKS) / 2.5)
    for eye in (193, 319):
        dy += 13.0 * shut * np.exp(-(((x - eye) / 34) ** 2) - ((y - 236) / 13) ** 2)  # the lid comes down
    drift = 1.6 * np.array([math.sin(0.17 * frame), math.cos(0.11 * frame)])  # of 512: a fifth of a pixel of 64
    moved = cv2.remap(
        face,
        np.asarray(x - drift[0], np.float32),
        np.asarray(y - dy - drift[1], np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    inside = ((x - 257 - drift[0]) / 36) ** 2 + ((y - 374 - drift[1] - opening / 2) / (opening / 2 + 0.1)) ** 2
    gap = np.clip(2.0 * (1.0 - inside), 0.0, 1.0)[..., None] if opening > 1.0 else np.float32(0.0)
    moved = moved * (1 - gap) + np.array([0.22, 0.07, 0.07], np.float32) * gap
    return cv2.resize(np.asarray(moved, np.float32), (side, side), interpolation=cv2.INTER_AREA)


def clip_of(path: Path, level: BlindLevel, number: int, side: int) -> tuple[Tensor, Tensor]:
    """(degraded, clean), (FRAMES, 3, side, side) each in [-1, 1]."""
    face = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert face is not None
    face = cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC)[..., ::-1].astype(np.float32) / 255.0
    clean = [clean_frame(face, i, side) for i in range(FRAMES)]
    turn = np.random.default_rng([3, number]).integers(1 << 31)  # the recording's own, the same in all its frames
    bad = []
    for i, picture in enumerate(clean):
        recording = _Recording(int(turn), np.random.default_rng([5, number, i]))
        bad.append(to_tensor(degrade_blind(picture, level, recording)))  # type: ignore[arg-type]
    return torch.stack(bad), torch.stack([to_tensor(picture) for picture in clean])


class _Recording:
    """Random numbers of one shot: the chain's are the same in each frame, the noise is the frame's own."""

    def __init__(self, shot: int, frame: np.random.Generator) -> None:
        self._shot, self._frame = np.random.default_rng(shot), frame

    def uniform(self, low: float, high: float) -> float:
        return float(self._shot.uniform(low, high))

    def random(self) -> float:
        return float(self._shot.random())

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return self._frame.standard_normal(shape, dtype)


@torch.inference_mode()
def restore(network: CodeFormer, degraded: Tensor, w: float, options: HysteresisOptions | None) -> tuple[Tensor, ...]:
    """Pictures, codes (F, T) and gates (F, T), as the pipeline makes them: AdaIN on, clamped."""
    memory, pictures, codes, gates = CodeHysteresis(options), [], [], []
    for start in range(0, len(degraded), 12):
        part = degraded[start : start + 12]
        latent, skips = network.encode(part)
        logits = network.predict_logits(latent)
        chosen, gate = logits.argmax(-1), torch.ones(logits.shape[:2])
        if options is not None:
            decision = memory.decide(logits, part, [TrackPlace(0, 0, start + i) for i in range(len(part))])
            memory.keep(decision)
            chosen, gate = decision.codes, decision.openness
        pictures.append(network.decode(chosen, skips, w, latent=latent).clamp(-1, 1))
        codes.append(chosen)
        gates.append(gate)
    return torch.cat(pictures), torch.cat(codes), torch.cat(gates)


def window(pictures: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    x0, y0, x1, y1 = (round(v * pictures.shape[-1] / 512) for v in box)
    return pictures[..., y0:y1, x0:x1]


def slope(restored: Tensor, clean: Tensor, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """(covariance, variance) of motion in a window: their ratio over all clips is the slope."""
    a, b = ((window(p, box) * _LUMA).sum(1) for p in (restored, clean))
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum()), float((b * b).sum())


def sums(restored: Tensor, codes: Tensor, clean: Tensor) -> dict[str, float]:
    """The figures of one clip, to be averaged or divided later."""
    side = round(codes.shape[1] ** 0.5)
    change = (clean[1:] - clean[:-1]).abs().amax(1, keepdim=True)  # (F - 1, 1, S, S)
    patch = torch.nn.functional.adaptive_max_pool2d(change, side).flatten(1)
    still_token = patch < 8 / 127.5  # drift alone moves strong edges by more
    flips = codes[1:] != codes[:-1]
    still = (change < 3 / 127.5).expand_as(restored[1:])
    moved = ((restored[1:] - restored[:-1]).abs()[still].mean() - (clean[1:] - clean[:-1]).abs()[still].mean()) * 127.5
    mouth, eyes = slope(restored, clean, MOUTH), slope(restored, clean, EYES)
    return {
        "flips": float(flips.float().mean()),
        "flips_still": float(flips[still_token].float().mean()),
        "flicker": float(moved),
        "mouth_a": mouth[0],
        "mouth_b": mouth[1],
        "eyes_a": eyes[0],
        "eyes_b": eyes[1],
        "psnr": psnr(restored, clean),
        "psnr_mouth": psnr(window(restored, MOUTH), window(clean, MOUTH)),
    }


def figures(clips: list[dict[str, float]]) -> dict[str, float]:
    mean = {key: float(np.mean([clip[key] for clip in clips])) for key in clips[0]}
    found = {key: round(mean[key], 4) for key in ("flips", "flips_still", "flicker", "psnr", "psnr_mouth")}
    return found | {key: round(mean[f"{key}_a"] / mean[f"{key}_b"], 4) for key in ("mouth", "eyes")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--network", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_network(arguments.network)
    assert isinstance(network, CodeFormer)
    side, paths = network.dims.autoencoder.image_size, list_images(arguments.faces)
    results = []
    for name, level in LEVELS.items():
        clips = [clip_of(paths[number], level, number, side) for number in FACES]
        for w in (0.0, 0.5):
            rows = {}
            for margin in MARGINS:
                options = HysteresisOptions(margin=margin) if margin > 0.0 else None
                done = [(restore(network, degraded, w, options), clean) for degraded, clean in clips]
                row = figures([sums(pictures, codes, clean) for (pictures, codes, _), clean in done])
                row["gate"] = round(float(np.mean([gates[1:].mean() for (_, _, gates), _ in done])), 4)
                rows[margin] = row
                plain = rows[0.0]
                kept = {f"{key}_kept": round(row[key] / plain[key], 4) for key in ("mouth", "eyes")}
                label = "frame by frame" if margin == 0.0 else f"margin {margin:g}"
                results.append({"level": name, "w": w, "codes": label, **row, **kept})
                print(results[-1])
    method = f"{len(FACES)} synthetic clips of {FRAMES} frames of {side} px: speech, two blinks, drift, fresh noise"
    print(write_report("hysteresis", method, results))


if __name__ == "__main__":
    main()
