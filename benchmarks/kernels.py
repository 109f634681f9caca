"""The CPU kernels against what a paste with OpenCV costs: ``python benchmarks/kernels.py [--quick]``.

One 1080p 4:2:0 frame, faces of 60, 250, 400 and 700 px (width of the face; a crop shows 1.83 times that), one and four
of them, crops of 256 and 512. Both jobs do the whole of what a video tool must do between the decoder's
planes and the encoder's planes:

- ``sample``: planes -> network's crops.
- ``composite``: planes and restored crops -> planes.

Against them, both with 8-bit RGB as published tools have it (10 bits are thus lost, which is in OpenCV's favour):

- ``opencv_frame``: the frame to RGB, a warp per face into the crop; back: crop and mask warped to the size of the
  frame, blended in float over the whole frame, the frame to 4:2:0 again.
- ``opencv_roi``: the same, but only the face's box is warped and blended; the conversions still see the whole frame.

``reference_paste`` is the paste of ``reference_order.py``, once per face over the whole frame in float64, and nothing
else of it (goal P12: 30 times ``composite``); only for one face of 8 bits in a crop of 256, as it takes a second.

OpenCV's warp is bilinear without a low-pass, and its conversion has one fixed siting and matrix: its side of the table
does less, in quality, than the kernels' side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from common import machine, measure, write_report
from numpy.typing import NDArray
from reference_order import paste

from vidrestore.blend.mask import face_mask
from vidrestore.kernels import composite, sample_crops
from vidrestore.types import PixelFormat, Plane

HEIGHT, WIDTH = 1080, 1920
CROP_PER_FACE = 512 / 280  # an FFHQ crop of 512 shows a face of about 280
FORMATS = {
    8: PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5)),
    10: PixelFormat("yuv420p10le", "yuv", 10, (1, 1), (0.0, 0.5)),
}
CENTRES = [(960.3, 540.7), (420.5, 330.2), (1460.1, 700.9), (500.8, 760.4)]


def make_planes(pixel_format: PixelFormat) -> tuple[Plane, ...]:
    """Shading with grain, the same for every depth."""
    rng = np.random.default_rng(0)
    planes = []
    for p in range(3):
        size = pixel_format.plane_size(p, HEIGHT, WIDTH)
        values = 0.5 + 0.2 * np.sin(np.arange(size[1]) / 90) + rng.normal(0, 0.02, size)
        planes.append(np.clip(values * (1 << pixel_format.depth), 0, (1 << pixel_format.depth) - 1))
    return tuple(plane.astype(pixel_format.dtype) for plane in planes)


def make_maps(face_px: int, num_faces: int, size: int) -> NDArray[np.float64]:
    """crop_from_frame of faces that lean by 5 degrees."""
    scale, angle = size / (face_px * CROP_PER_FACE), np.deg2rad(5.0)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([(size - 1) / 2] * 2)
    return np.stack([np.column_stack([linear, middle - linear @ np.array(c)]) for c in CENTRES[:num_faces]])


def eight_bits(plane: Plane) -> NDArray[np.uint8]:
    """What a tool with an 8-bit pipeline takes of a plane."""
    return plane if plane.dtype == np.uint8 else (plane >> 2).astype(np.uint8)


def rgb_of(planes: tuple[Plane, ...]) -> NDArray[np.uint8]:
    """The whole frame as RGB."""
    packed = np.concatenate([eight_bits(plane).ravel() for plane in planes]).reshape(HEIGHT * 3 // 2, WIDTH)
    return cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420)


def planes_of(rgb: NDArray[np.uint8], depth: int) -> tuple[Plane, ...]:
    """The whole frame as 4:2:0 planes."""
    flat = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).ravel()
    luma, chroma = HEIGHT * WIDTH, HEIGHT * WIDTH // 4
    parts = flat[:luma], flat[luma : luma + chroma], flat[luma + chroma :]
    shapes = (HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2)
    planes = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    return tuple(p if depth == 8 else p.astype(np.uint16) << 2 for p in planes)


def opencv_sample(planes: tuple[Plane, ...], maps: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Frame to RGB, one bilinear warp per face, to float."""
    rgb = rgb_of(planes)
    crops = [cv2.warpAffine(rgb, m, (size, size), borderMode=cv2.BORDER_REPLICATE) for m in maps]
    return np.ascontiguousarray(np.moveaxis(np.stack(crops), -1, 1)).astype(np.float32) / 127.5 - 1.0


def opencv_frame(
    planes: tuple[Plane, ...], restored: NDArray[np.float32], mask: NDArray[np.float32], maps: NDArray[np.float64]
) -> tuple[Plane, ...]:
    """Warps crop and mask to the size of the frame and blends there, as published tools do."""
    rgb = rgb_of(planes).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for crop, m in zip(restored, maps, strict=True):
        face = cv2.warpAffine(np.moveaxis(crop, 0, -1), m, (WIDTH, HEIGHT), flags=flags)
        alpha = cv2.warpAffine(mask, m, (WIDTH, HEIGHT), flags=flags)[..., None]
        rgb = alpha * face + (1.0 - alpha) * rgb
    return planes_of(np.clip(rgb + 0.5, 0, 255).astype(np.uint8), planes[0].itemsize * 8)


def opencv_roi(
    planes: tuple[Plane, ...], restored: NDArray[np.float32], mask: NDArray[np.float32], maps: NDArray[np.float64]
) -> tuple[Plane, ...]:
    """The same within each face's box only."""
    rgb = rgb_of(planes)
    size = mask.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1.0]])
    for crop, m in zip(restored, maps, strict=True):
        box = corners @ cv2.invertAffineTransform(m).T
        x0, y0 = np.maximum(np.floor(box.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(box.max(0)) + 1, (WIDTH, HEIGHT)).astype(int)
        local = m.copy()
        local[:, 2] += m[:, :2] @ np.array([x0, y0])
        face = cv2.warpAffine(np.moveaxis(crop, 0, -1), local, (x1 - x0, y1 - y0), flags=flags)
        alpha = cv2.warpAffine(mask, local, (x1 - x0, y1 - y0), flags=flags)[..., None]
        blended = alpha * face + (1.0 - alpha) * rgb[y0:y1, x0:x1]
        rgb[y0:y1, x0:x1] = np.clip(blended + 0.5, 0, 255).astype(np.uint8)
    return planes_of(rgb, planes[0].itemsize * 8)


def copy_rate() -> float:
    """GB/s read plus written by a copy of 64 MiB."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    times = measure({"copy": lambda: np.copyto(target, source)})["copy"]
    return 2 * source.nbytes / times["median_ms"] / 1e6


def run_case(depth: int, face_px: int, num_faces: int, size: int, rounds: int) -> dict[str, Any]:
    """Both jobs for one kind of frame, all candidates in the same rounds."""
    pixel_format = FORMATS[depth]
    planes = make_planes(pixel_format)
    maps = make_maps(face_px, num_faces, size)
    mask = face_mask(size, 0.12)
    crops = sample_crops(planes, pixel_format, maps, size)
    rng = np.random.default_rng(1)
    deltas = rng.normal(0, 0.1, crops.shape).astype(np.float32)
    restored = np.clip((crops + deltas + 1.0) * 127.5, 0, 255).astype(np.float32)
    strength = np.ones(num_faces, np.float32)
    candidates: dict[str, Callable[[], object]] = {
        "sample": lambda: sample_crops(planes, pixel_format, maps, size),
        "sample_opencv": lambda: opencv_sample(planes, maps, size),
        "composite": lambda: composite(planes, pixel_format, deltas, mask[None], maps, strength),
        "composite_opencv_frame": lambda: opencv_frame(planes, restored, mask, maps),
        "composite_opencv_roi": lambda: opencv_roi(planes, restored, mask, maps),
    }
    times = measure(candidates, rounds=rounds)
    if (depth, num_faces, size) == (8, 1, 256):
        picture, face = rgb_of(planes).astype(np.float64), np.moveaxis(restored[0], 0, -1).astype(np.float64)
        slow = {"reference_paste": lambda: paste(picture, face, maps[0]), "composite": candidates["composite"]}
        times["reference_paste"] = measure(slow, rounds=max(2, rounds // 3), warm_up=1)["reference_paste"]
    frame_bytes = sum(plane.nbytes for plane in planes)
    touched = num_faces * (face_px * CROP_PER_FACE) ** 2 * planes[0].itemsize * 1.5
    moved = {
        "sample": touched + crops.nbytes,
        "composite": 2 * frame_bytes + 2 * touched + deltas.nbytes + mask.nbytes,
    }
    for name, num_bytes in moved.items():
        times[name]["gb_per_s"] = round(num_bytes / times[name]["median_ms"] / 1e6, 3)
    ratios = {
        "composite_vs_opencv_frame": times["composite_opencv_frame"]["median_ms"] / times["composite"]["median_ms"],
        "composite_vs_opencv_roi": times["composite_opencv_roi"]["median_ms"] / times["composite"]["median_ms"],
        "sample_vs_opencv": times["sample_opencv"]["median_ms"] / times["sample"]["median_ms"],
    }
    if "reference_paste" in times:
        ratios["composite_vs_reference_paste"] = times["reference_paste"]["median_ms"] / times["composite"]["median_ms"]
    case = {"depth": depth, "face_px": face_px, "num_faces": num_faces, "crop_px": size}
    return {**case, "times": times, "times_faster": {name: round(value, 2) for name, value in ratios.items()}}


def main() -> None:
    """Runs every case, shows a table and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two cases, two rounds")
    parser.add_argument("--dry", action="store_true", help="write no report")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    busy = machine()["core_share"] < 0.9
    results = []
    print("depth face faces crop |  sample  opencv | composite   frame     roi  reference (median ms)")
    faces = ((60, 1), (60, 4), (250, 1), (250, 4), (400, 1), (700, 1), (700, 4))
    for depth in FORMATS if not arguments.quick else (8,):
        for face_px, num_faces in faces if not arguments.quick else ((60, 1), (400, 1)):
            for size in (256, 512) if depth == 8 and not arguments.quick else (256,):
                result = run_case(depth, face_px, num_faces, size, rounds)
                results.append(result)
                t = {name: values["median_ms"] for name, values in result["times"].items()}
                print(
                    f"{depth:5} {face_px:4} {num_faces:5} {size:4} | {t['sample']:7.2f} {t['sample_opencv']:7.2f} | "
                    f"{t['composite']:9.2f} {t['composite_opencv_frame']:7.1f} {t['composite_opencv_roi']:7.2f}"
                    + (f" {t['reference_paste']:8.0f}" if "reference_paste" in t else ""),
                    flush=True,
                )
    if arguments.dry:
        return
    write_report(
        "kernels",
        __doc__ or "",
        results,
        frame={"height": HEIGHT, "width": WIDTH, "subsampling": "4:2:0"},
        opencv_threads=cv2.getNumThreads(),
        copy_gb_per_s=round(copy_rate(), 2),
        machine_was_busy=bool(busy),
    )


if __name__ == "__main__":
    main()
