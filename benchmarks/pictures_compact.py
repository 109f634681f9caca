"""Draws what ``compact`` does: degraded | restored | clean, held-out generated faces and real ones.

    python benchmarks/pictures_compact.py --faces data/faces [--folder docs/images]

Rows are the pictures, columns the faces: two of each level, the middle of the crop at its own size. Numbers of faces
and seeds are fixed in here, chosen before any result was seen. The sheet of real people is for looking at, not for
the repository: their pictures belong to the packages that carry them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from quality import degrade_faces, real_faces, to_bytes, to_image
from torch import Tensor

from vidrestore.restoration.compact import COMPACT_SIZE, CompactNet, load_compact
from vidrestore.train.data import HeldOut, list_images

NUMBERS = {"light": (5, 64), "medium": (17, 90), "heavy": (41, 118)}
SIDE = 176
"""Pixels of the middle that are shown."""
TOP = 56
"""First row of it: the eyes lie above the middle of the crop."""


def column(degraded: Tensor, clean: Tensor, network: CompactNet) -> np.ndarray:
    """Degraded, restored and clean below each other, (3 * SIDE, SIDE, 3) uint8 RGB."""
    with torch.inference_mode():
        restored = network(degraded[None])[0]
    left = (COMPACT_SIZE - SIDE) // 2
    return np.vstack([to_bytes(p)[TOP : TOP + SIDE, left : left + SIDE] for p in (degraded, restored, clean)])


def write(path: Path, columns: list[np.ndarray]) -> None:
    """A PNG of six bits per channel, dithered by nothing: small, and the difference is not seen at this size."""
    sheet = np.hstack(columns)
    sheet = (sheet.astype(np.uint16) * 63 + 127) // 255 * 255 // 63
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet.astype(np.uint8)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    network = load_compact()
    paths = list_images(arguments.faces)
    columns = []
    for level, numbers in NUMBERS.items():
        for number in numbers:
            # face i of a level depends on its place in the list alone, so the whole prefix is not needed
            one = HeldOut.make([paths[number]], size=COMPACT_SIZE, seed=number)
            columns.append(column(one.degraded[level][0], one.clean[0], network))
    write(arguments.folder / "compact_heldout.png", columns)
    real, _ = real_faces(COMPACT_SIZE)
    if not real:
        return
    faces = degrade_faces(real, ("medium", "heavy"))
    columns = []
    for i in (0, len(real) // 2, len(real) - 1):
        for level in ("medium", "heavy"):
            columns.append(column(to_image(faces.degraded[level][i]), to_image(real[i]), network))
    write(arguments.folder / "compact_real.png", columns)


if __name__ == "__main__":
    main()
