"""Held-out generated faces and what became of them, for the tests of shipped weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

LEVELS = ("light", "medium", "heavy")
_PAIRS = Path(__file__).parent.parent / "golden" / "compact_pairs.npz"


def golden_pairs() -> dict[str, np.ndarray]:
    """``clean`` (N, 256, 256, 3) uint8 RGB, and the same faces degraded, by level."""
    with np.load(_PAIRS) as file:
        return {
            name: np.stack([_decode(file[f"{name}_{i}"]) for i in range(int(file["count"]))])
            for name in ("clean", *LEVELS)
        }


def tensor(pictures: np.ndarray) -> Tensor:
    """(N, 3, H, W) in [-1, 1] of (N, H, W, 3) bytes."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def picture(tensors: Tensor) -> np.ndarray:
    """The inverse of :func:`tensor`."""
    return ((tensors.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy().transpose(0, 2, 3, 1)


def grid_of(change: Tensor) -> float:
    """How far a network's change of the pictures, (N, 3, H, W), repeats every four pixels, in steps of 255."""
    phases = torch.nn.functional.pixel_unshuffle(change.mean(1, keepdim=True), 4)  # (N, 16, H / 4, W / 4)
    local = torch.nn.functional.avg_pool2d(phases, 8)  # over 32 x 32 pixels, where faces average out
    return float((local - local.mean(1, keepdim=True)).square().mean().sqrt()) * 127.5


def _decode(data: np.ndarray) -> np.ndarray:
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1])
