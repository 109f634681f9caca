"""Makes compact_pairs.npz: four held-out generated faces, clean and degraded at three levels.

    python tests/golden/make_compact_pairs.py FACES_FOLDER

FACES_FOLDER holds faces 0 to 127 of ``vidrestore.train.faces.make_faces``, which training never sees. The pictures
are 256 x 256, stored as JPEG of quality 95 to stay small; that adds the same small error to both of a pair.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from vidrestore.train.data import HeldOut, list_images

NUMBERS = (2, 33, 71, 105)
"""Three men and a woman, two of them with glasses; chosen before looking at results."""


def encode(picture: np.ndarray) -> np.ndarray:
    """JPEG bytes of a (3, H, W) float picture in [-1, 1]."""
    pixels = np.rint((picture.transpose(1, 2, 0)[..., ::-1] + 1) * 127.5).clip(0, 255).astype(np.uint8)
    ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not ok:
        raise SystemExit("JPEG encoding failed")
    return data.ravel()


def main(folder: str) -> None:
    paths = list_images(folder)
    held_out = HeldOut.make([paths[i] for i in NUMBERS], size=256, seed=1)
    arrays: dict[str, np.ndarray] = {"count": np.array(len(NUMBERS))}
    for name, pictures in (("clean", held_out.clean), *held_out.degraded.items()):
        for i, picture in enumerate(pictures.numpy()):
            arrays[f"{name}_{i}"] = encode(picture)
    np.savez(Path(__file__).with_name("compact_pairs.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
