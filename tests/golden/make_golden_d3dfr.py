"""Makes the golden files of the morphable model; the tests run the same cases and compare.

    python tests/golden/make_golden_d3dfr.py                     the outputs: d3dfr.npz
    python tests/golden/make_golden_d3dfr.py --reference FOLDER  the key list too: keys_d3dfr.json
    python tests/golden/make_golden_d3dfr.py --bfm               bfm_tiny.mat, which needs scipy

As ``make_golden_networks.py``: the key list is a fact about the published file, the outputs are our own, from seeded
weights and seeded input. ``bfm_tiny.mat`` holds whole numbers under the names and shapes of a converted BFM 2009, for
eight vertices, as scipy writes such files (compressed, as MATLAB does).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.restoration.seeded import fill_seeded, seeded_values

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4  # of float32, as a share of the spread of the expected values
NUM_VERTICES = 8


def network() -> D3dfr:
    """At its published size, with seeded weights."""
    with torch.device("meta"):
        empty = D3dfr()
    return fill_seeded(empty).eval()


def run() -> NDArray[np.float32]:
    """The coefficients of two seeded pictures, computed now, (2, 257)."""
    patches = torch.from_numpy(seeded_values("patches", (2, 3, 8, 8)))
    coarse = functional.interpolate(patches, size=(224, 224), mode="nearest")
    images = 0.5 + 0.375 * coarse + 0.125 * torch.from_numpy(seeded_values("picture", (2, 3, 224, 224)))
    with torch.no_grad():
        return network()(images).numpy()


def check() -> None:
    """Compares with the golden output."""
    with np.load(FOLDER / "d3dfr.npz") as golden:
        expected = golden["coefficients"]
    difference = np.abs(run() - expected) / expected.std()
    assert difference.max() <= TOLERANCE, f"{(difference > TOLERANCE).mean():.1%} differ, by up to {difference.max()}"


def check_keys() -> None:
    """Compares all parameters and buffers with the published list, on no memory at all."""
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in D3dfr().state_dict().items()}
    expected: dict[str, list[int]] = json.loads((FOLDER / "keys_d3dfr.json").read_text("utf-8"))
    assert list(own) == list(expected), sorted(own.keys() ^ expected.keys())[:10]
    wrong = {key: (own[key], shape) for key, shape in expected.items() if own[key] != shape}
    assert not wrong, wrong


def bfm_arrays() -> dict[str, NDArray[np.generic]]:
    """What a converted BFM 2009 holds, for a cube: numbers that tell each place of each array."""
    n = 3 * NUM_VERTICES
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    faces = [
        (0, 1, 3),
        (0, 3, 2),
        (4, 7, 5),
        (4, 6, 7),
        (0, 5, 1),
        (0, 4, 5),
        (2, 3, 7),
        (2, 7, 6),
        (0, 2, 6),
        (0, 6, 4),
    ]
    around = [[t for t, face in enumerate(faces) if vertex in face] for vertex in range(NUM_VERTICES)]
    return {
        "meanshape": (corners.reshape(1, n) + 3.0).astype(np.float32),
        "idBase": np.arange(n * 80, dtype=np.float64).reshape(n, 80),
        "exBase": 10_000.0 + np.arange(n * 64, dtype=np.float64).reshape(n, 64),
        "meantex": np.arange(n, dtype=np.float64)[None],
        "texBase": 20_000.0 + np.arange(n * 80, dtype=np.float64).reshape(n, 80),
        "tri": (np.array(faces) + 1).astype(np.int32),
        "point_buf": np.array([(row + [len(faces)] * 8)[:8] for row in around], np.uint16) + 1,
        "keypoints": (np.arange(68) % NUM_VERTICES + 1)[None].astype(np.float64),
        "skinmask": (np.arange(NUM_VERTICES) % 2)[None].astype(np.uint8),
        "tri_mask2": np.ones((2, 3)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="folder of the long key list")
    parser.add_argument("--bfm", action="store_true", help="write bfm_tiny.mat")
    arguments = parser.parse_args()
    if arguments.reference is not None:
        entries = json.loads((arguments.reference / "d3dfr.keys.json").read_text("utf-8"))["entries"]
        lines = ",\n".join(f"{json.dumps(entry['key'])}: {json.dumps(entry['shape'])}" for entry in entries)
        (FOLDER / "keys_d3dfr.json").write_text(f"{{\n{lines}\n}}\n", "utf-8")
    if arguments.bfm:
        from scipy.io import savemat

        extras = {"note": "not a number", "cell": np.array([1, "two"], dtype=object)}
        savemat(FOLDER / "bfm_tiny.mat", {**bfm_arrays(), **extras}, do_compression=True)
    np.savez_compressed(FOLDER / "d3dfr.npz", coefficients=run())


if __name__ == "__main__":
    main()
