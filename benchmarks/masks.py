"""What the mask does: seams, what spills beside turned heads, what covers a face, and what it costs.

    python benchmarks/masks.py --faces data/faces [--count 24] [--quick]

Held-out generated faces of 256 px, as they are and turned by 35 degrees over their own mesh, are degraded (blurred and
shrunk by 4, noise of 6 levels, JPEG at quality 40, enlarged again) and restored two ways: by ``compact``, and by a
*perfect* network that gives the clean face, which changes most and shows every fault of a mask. The mesh is what the
regressor sees in the degraded crop.

- *Seam*: goal Q4's score (vidrestore.evaluate.seam) of the composited picture, 1.1 at most.
- *Spill*: beside the far cheek of a turned head, between brows and mouth, columns of full mask (of 256) per row.
- *Covers*: four fingers of the face's own tone are drawn before the mouth, and the perfect network draws the mouth
  through them. *Kept*: how much of that change is held back over the fingers, without any check, by tone alone, and by
  tone and structure. *Lowered*: how much of the mask is taken away from faces that nothing covers.
- *Wavering*: the fingers come and go at the limit of what is seen; mean change of the share from frame to frame.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import measure, write_report
from numpy.typing import NDArray

from vidrestore.blend import mask as masks
from vidrestore.blend.compositor import Compositor
from vidrestore.blend.mask import coarse_agreement, face_mask
from vidrestore.blend.occluders import CropPlace, OccluderMemory
from vidrestore.blend.outline import coarse_outline, mesh_mask
from vidrestore.config import BlendOptions, RestoreOptions
from vidrestore.evaluate.seam import seam_score
from vidrestore.kernels.rasterize import rasterize
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.regressor import load_regressor
from vidrestore.restoration.restorer import Restorer, load_restorer
from vidrestore.train.meshes import turn_head, warp_mesh
from vidrestore.types import Crop, Frame, PixelFormat, Restoration

SIZE = 256
RGB = PixelFormat("gbrp", "rgb", 8)
LEVELS = {"light": (2, 3.0, 60), "medium": (4, 6.0, 40), "heavy": (8, 8.0, 30)}
Picture = NDArray[np.uint8]
Image = NDArray[np.float32]


class Meshes:
    """The regressor's face in a crop."""

    def __init__(self) -> None:
        self._model, self._regressor = load_vr468(), load_regressor()
        self.triangles = self._model.triangles.numpy()

    def of(self, image: Image) -> Image:
        """(468, 3) in crop pixels, z towards the viewer."""
        camera = Camera().scaled(SIZE)
        with torch.inference_mode():
            face = self._model(self._regressor(torch.from_numpy(image[None])), camera)
        height = camera.distance - face.depth[0].numpy()
        z = (height - height.mean()) * camera.focal / camera.distance
        return np.column_stack([face.points_px[0].numpy(), z]).astype(np.float32)


def read(path: Path) -> Picture:
    """(S, S, 3) RGB."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise SystemExit(f"{path}: no picture of an aligned face")
    return np.ascontiguousarray(cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)[..., ::-1])


def as_image(picture: Picture) -> Image:
    """(3, S, S) in [-1, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1) / np.float32(127.5) - 1, np.float32)


def degraded(picture: Picture, level: str, seed: int) -> Picture:
    """Shrunk, noisy, compressed and enlarged again."""
    factor, noise, quality = LEVELS[level]
    side = SIZE // factor
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    small += np.random.default_rng(seed).normal(0, noise, small.shape)
    coded = cv2.imencode(".jpg", np.clip(small, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.resize(cv2.imdecode(coded, cv2.IMREAD_COLOR), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


def with_fingers(picture: Picture, mesh: Image, seed: int) -> tuple[Picture, NDArray[np.bool_]]:
    """Four fingers of the cheek's tone before the mouth, and where they are."""
    rng = np.random.default_rng(seed)
    cheek = mesh[205, :2].round().astype(int).clip(8, SIZE - 9)
    skin = picture[cheek[1] - 6 : cheek[1] + 6, cheek[0] - 6 : cheek[0] + 6].reshape(-1, 3).mean(0)
    skin = skin * rng.uniform(0.85, 1.1)
    mouth = mesh[[61, 291], :2].mean(0)
    layer, shade = np.zeros((SIZE, SIZE), np.uint8), np.ones((SIZE, SIZE), np.float32)
    lean = rng.uniform(-0.5, 0.5)
    for finger in range(4):
        drawn = np.zeros_like(layer)
        foot = np.array([mouth[0] - 40 + 26 * finger + rng.uniform(-3, 3), SIZE - 1])
        tip = foot + (SIZE - mouth[1] + 15 + rng.uniform(-8, 8)) * np.array([math.sin(lean), -math.cos(lean)])
        cv2.line(drawn, foot.round().astype(int).tolist(), tip.round().astype(int).tolist(), 255, 24)
        depth = cv2.distanceTransform(drawn, cv2.DIST_L2, 3)
        shade = np.where(drawn > 0, 0.72 + 0.28 * np.clip(depth / 10, 0, 1), shade).astype(np.float32)
        layer |= drawn
    soft = cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), 1.0)[..., None]
    covered = picture * (1 - soft) + soft * skin * shade[..., None]
    inner = cv2.erode(layer, np.ones((7, 7), np.uint8)) > 0
    return np.clip(covered, 0, 255).astype(np.uint8), inner


def frame_of(picture: Picture, index: int = 0) -> Frame:
    red, green, blue = (np.ascontiguousarray(picture[..., k]) for k in range(3))
    return Frame(index, index, Fraction(1, 25), (green, blue, red), RGB)


def composited(
    picture: Picture, restored: Image, mesh: Image, options: BlendOptions, *, checks: bool = True
) -> Picture:
    """The picture with its face restored, as the blend stage does it."""
    crop = Crop(0, 0, as_image(picture), np.eye(2, 3), mesh=mesh)
    frame = Compositor(options, lowers_disagreement=checks).composite(frame_of(picture), [Restoration(crop, restored)])
    green, blue, red = frame.planes
    return np.stack([red, green, blue], -1).astype(np.uint8)


def restored_by(network: Restorer, picture: Picture) -> Image:
    with torch.inference_mode():
        restored: Image = network.restore(torch.from_numpy(as_image(picture)[None]))[0].numpy()
    return restored


@contextmanager
def tone_alone() -> Iterator[None]:
    """The check as it is without structure."""
    low, high = masks.BAND_LOW, masks.BAND_HIGH
    masks.BAND_LOW, masks.BAND_HIGH = 9.0, 10.0
    try:
        yield
    finally:
        masks.BAND_LOW, masks.BAND_HIGH = low, high


def spill(mask: Image, mesh: Image, triangles: NDArray[np.int64], *, far_is_right: bool) -> float:
    """Columns of full mask per row, beside the far cheek."""
    face = rasterize(mesh[None, :, :2], 1000.0 - mesh[None, :, 2], triangles, SIZE)[0] >= 0
    top, bottom = int(mesh[105, 1]), int(mesh[61, 1])  # a brow, a corner of the mouth
    rows = []
    for y in range(max(top, 0), min(bottom, SIZE)):
        columns = np.flatnonzero(face[y])
        if len(columns):
            rows.append(mask[y, columns[-1] + 1 :].sum() if far_is_right else mask[y, : columns[0]].sum())
    return float(np.mean(rows))


def outlines(paths: list[Path], meshes: Meshes, network: Restorer) -> list[dict[str, Any]]:
    """Seam and spill, mesh against ellipse."""
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths):
        for yaw_deg in (0, 35 if number % 2 else -35):
            clean = read(path)
            if yaw_deg:
                points = meshes.of(as_image(clean)).astype(np.float64) * [1.0, 1.0, -1.0]
                turned = turn_head(points, math.radians(yaw_deg), 0.0)
                clean = warp_mesh(clean, points, turned, meshes.triangles)
            source = degraded(clean, "medium", number)
            mesh = meshes.of(as_image(source))
            for name, restored in (("compact", restored_by(network, source)), ("perfect", as_image(clean))):
                for choice in ("mesh", "ellipse"):
                    options = BlendOptions(mask="mesh" if choice == "mesh" else "ellipse")
                    mask = mesh_mask(mesh, SIZE, options.feather) if choice == "mesh" else face_mask(SIZE, 0.12)
                    out = composited(source, restored, mesh, options)
                    far = spill(mask, mesh, meshes.triangles, far_is_right=yaw_deg > 0) if yaw_deg else None
                    score = seam_score(out, source, mask)
                    rows.append({"mask": choice, "network": name, "turned": bool(yaw_deg), "seam": score, "spill": far})
    return [
        {
            "measure": "outline",
            "mask": choice,
            "network": name,
            "turned": turned,
            "faces": len(chosen),
            "seam_median": round(float(np.median([r["seam"] for r in chosen])), 3),
            "seam_95_percent": round(float(np.percentile([r["seam"] for r in chosen], 95)), 3),
            "spill_columns": round(float(np.mean([r["spill"] for r in chosen])), 2) if turned else None,
        }
        for choice in ("mesh", "ellipse")
        for name in ("compact", "perfect")
        for turned in (False, True)
        if (chosen := [r for r in rows if (r["mask"], r["network"], r["turned"]) == (choice, name, turned)])
    ]


def covers(paths: list[Path], meshes: Meshes, network: Restorer) -> list[dict[str, Any]]:
    """What is kept of fingers, and what is lost of faces."""
    rows = []
    for level in LEVELS:
        kept: dict[str, list[float]] = {"no check": [], "tone": [], "tone and structure": []}
        lowered: dict[str, list[float]] = {"perfect": [], "compact": []}
        for number, path in enumerate(paths):
            clean = read(path)
            mesh = meshes.of(as_image(clean))
            inside = mesh_mask(mesh, SIZE, 0.12) > 0.9
            covered, fingers = with_fingers(clean, mesh, number)
            fingers &= inside
            source, ghost = degraded(covered, level, number), as_image(clean)
            changes = {}
            for name in kept:
                if name == "tone":
                    with tone_alone():
                        out = composited(source, ghost, mesh, BlendOptions())
                else:
                    out = composited(source, ghost, mesh, BlendOptions(), checks=name != "no check")
                changes[name] = np.abs(out.astype(float) - source)[fingers].sum()
            for name, change in changes.items():
                kept[name].append(1.0 - change / max(changes["no check"], 1e-9))
            plain = degraded(clean, level, number)
            small = cv2.resize(inside.astype(np.float32), (masks.COARSE,) * 2, interpolation=cv2.INTER_AREA) > 0.99
            for name, restored in (("perfect", ghost), ("compact", restored_by(network, plain))):
                lowered[name].append(1.0 - float(coarse_agreement(as_image(plain), restored)[small].mean()))
        rows.append(
            {
                "measure": "covers",
                "level": level,
                "kept": {name: round(float(np.mean(values)), 3) for name, values in kept.items()},
                "lowered": {name: round(float(np.mean(values)), 4) for name, values in lowered.items()},
            }
        )
    return rows


def wavering(paths: list[Path], meshes: Meshes, num_frames: int) -> dict[str, Any]:
    """Fingers that are half seen, with new noise in each frame."""
    steps: dict[int, list[float]] = {0: [], BlendOptions().occluder_frames: []}
    for number, path in enumerate(paths):
        clean = read(path)
        mesh = meshes.of(as_image(clean))
        covered, fingers = with_fingers(clean, mesh, number)
        small = cv2.resize(fingers.astype(np.float32), (masks.COARSE,) * 2, interpolation=cv2.INTER_AREA) > 0.99
        rng = np.random.default_rng(number)
        shares = []
        for index in range(num_frames):
            part = 0.45 + 0.1 * rng.standard_normal()
            mixed = (clean + np.clip(part, 0, 1) * (covered.astype(np.float32) - clean)).astype(np.uint8)
            shares.append(coarse_agreement(as_image(degraded(mixed, "medium", index)), as_image(clean)))
        for frames, values in steps.items():
            memory: OccluderMemory[Image] = OccluderMemory(frames, np.minimum)
            held = [memory.hold(CropPlace(0, 0, i), share)[small] for i, share in enumerate(shares)]
            values.append(float(np.abs(np.diff(held[1:], axis=0)).mean()))
    return {
        "measure": "wavering",
        "change_a_frame": {f"{frames} frames": round(float(np.mean(v)), 4) for frames, v in steps.items()},
    }


def costs(path: Path, meshes: Meshes, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds a face."""
    clean = as_image(read(path))
    soft = as_image(degraded(read(path), "medium", 0))
    mesh = meshes.of(clean)
    crop = Crop(0, 0, soft, np.eye(2, 3), mesh=mesh)
    frame = frame_of(read(path))
    plain = Compositor(BlendOptions(mask="ellipse"))
    ours = Compositor(BlendOptions())
    times = measure(
        {
            "outline, 64 px": lambda: coarse_outline(mesh, SIZE, 0.12),
            "outline, 256 px": lambda: mesh_mask(mesh, SIZE, 0.12),
            "agreement": lambda: coarse_agreement(soft, clean),
            "composite, mesh": lambda: ours.composite(frame, [Restoration(crop, clean)]),
            "composite, ellipse": lambda: plain.composite(frame, [Restoration(replace(crop, mesh=None), clean)]),
        },
        rounds=rounds,
        warm_up=3,
    )
    return [{"measure": "cost", "what": name, **values} for name, values in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faces", type=Path, required=True, help="folder of `vidrestore train faces`")
    parser.add_argument("--count", type=int, default=24, help="how many of its first faces, at most 128")
    parser.add_argument("--quick", action="store_true", help="6 faces, fewer rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = 6 if args.quick else min(args.count, 128)
    paths = sorted(args.faces.glob("*.jpg"))[:count]
    if len(paths) < count:
        raise SystemExit(f"{args.faces}: {count} faces are needed, {len(paths)} are there")
    meshes, network = Meshes(), load_restorer(RestoreOptions(network="compact", device="cpu", precision="float32"))
    results = outlines(paths, meshes, network)
    results += covers(paths, meshes, network)
    results.append(wavering(paths, meshes, 12 if args.quick else 40))
    results += costs(paths[0], meshes, 40 if args.quick else 200)
    for row in results:
        print(row)
    method = (__doc__ or "").split("\n\n", 2)[2].replace("\n", " ").strip()
    report = write_report("masks", method, results, faces=count, quick=args.quick)
    print(report.name)


if __name__ == "__main__":
    main()
