"""How well the 3DMM regressor sees shape: landmark error by degradation level, beside a classical fit.

    python benchmarks/regressor.py --faces data/faces --points data/points.npz [--count 400]

Samples are made of faces that training never saw (the first 128 of the folder), with its augmentation: off-centre
crops, heads turned further, closed eyes, occluders. The error is the mean distance of the 68 landmarks from the
teacher's on the clean face, in % of the distance between the eyes. Beside it: the mean face laid on the five points
that YuNet finds in the same degraded crop (a similarity, least squares) over those crops in which it finds a face, and
the regressor on the same ones. And what a wink is worth: how far the opening of lids and lips, in % of the distance
between the eyes, is off (both as a mean absolute error, and as the correlation with the teacher's).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from common import machine, measure
from numpy.typing import NDArray

from vidrestore.detect.yunet import YuNet
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.prior import ShapePrior
from vidrestore.train.data import FaceCache, list_images
from vidrestore.train.meshes import MeshPairs, PointCache
from vidrestore.train.regressor import eye_distance
from vidrestore.train.vr468 import mesh_of

LEVELS = ("light", "medium", "heavy", "clean")
OPENINGS = {"lids": ((159, 145), (386, 374)), "lips": ((13, 14),)}


def five_points(model: MorphableModel) -> NDArray[np.float64]:
    """(5, 2) of the mean face, y down: eyes, nose, mouth corners."""
    groups = [[33, 133], [362, 263], [4], [61], [291]]
    mean = model.mean_shape.double().numpy()
    return np.stack([mean[group].mean(0)[:2] * [1.0, -1.0] for group in groups])


def laid_on(model: MorphableModel, found: NDArray[np.float32]) -> NDArray[np.float64]:
    """(68, 2) landmarks of the mean face under the similarity that fits five points best."""
    source, target = five_points(model), found.astype(np.float64)
    a, b = source - source.mean(0), target - target.mean(0)
    numbers = (a[:, 0] + 1j * a[:, 1]), (b[:, 0] + 1j * b[:, 1])
    turn = (numbers[0].conj() @ numbers[1]) / (numbers[0].conj() @ numbers[0])
    points = model.mean_shape.double().numpy()[model.landmarks.numpy()][:, :2] * [1.0, -1.0] - source.mean(0)
    moved = (points[:, 0] + 1j * points[:, 1]) * turn
    return np.stack([moved.real, moved.imag], 1) + target.mean(0)


def summary(errors: NDArray[np.float64], levels: NDArray[np.int64]) -> dict[str, float]:
    values = {"all": errors.mean(), "90th percentile": np.percentile(errors, 90)}
    values |= {name: errors[levels == i].mean() for i, name in enumerate(LEVELS) if (levels == i).any()}
    return {name: round(100 * float(value), 2) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True)
    parser.add_argument("--points", required=True)
    parser.add_argument("--held-out", type=int, default=128)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--cache", default="build/regressor_held_out.npy")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/regressor.json"))
    arguments = parser.parse_args()
    model, prior = load_vr468(), ShapePrior()
    paths = list_images(arguments.faces)
    everything = PointCache.of(paths, arguments.points)
    held = slice(0, arguments.held_out)
    data = MeshPairs(
        FaceCache(paths[held], 320, arguments.cache),
        PointCache(everything.points[held], everything.trusted[held]),
        mesh_of(model),
        size=256,
        seed=2,
    )
    samples = [data[i] for i in range(arguments.count)]
    points = torch.stack([s["points"] for s in samples])
    degraded = torch.stack([s["degraded"] for s in samples])
    levels = np.array([int(s["level"]) for s in samples])
    crops = degraded.float() / 127.5 - 1
    coefficients = torch.cat([prior.coefficients(part) for part in crops.split(50)])
    face = model(coefficients, Camera().scaled(256))
    unit = eye_distance(points)
    errors = ((face.points_px[:, model.landmarks] - points[:, model.landmarks, :2]).norm(dim=-1).mean(1) / unit).numpy()
    detector = YuNet(0.3)
    classical = np.full(len(samples), np.nan)
    for i, crop in enumerate(degraded):
        faces = detector.detect(np.ascontiguousarray(crop.permute(1, 2, 0).numpy()[..., ::-1]))
        if len(faces):
            laid = laid_on(model, faces.landmarks[int(faces.scores.argmax())])
            truth = points[i, model.landmarks, :2].double().numpy()
            classical[i] = np.linalg.norm(laid - truth, axis=1).mean() / float(unit[i])
    found = np.isfinite(classical)
    report = {
        "machine": machine(),
        "faces": f"{arguments.count} samples of {arguments.held_out} held-out faces",
        "landmark_error_percent": {
            "regressor": summary(errors, levels),
            "regressor, where YuNet finds a face": summary(errors[found], levels[found]),
            "mean face on YuNet's five points": summary(classical[found], levels[found]),
        },
        "yunet_finds": round(float(found.mean()), 3),
        "openings": {},
    }
    for name, places in OPENINGS.items():

        def opening(p: torch.Tensor, places: tuple[tuple[int, int], ...] = places) -> NDArray[np.float64]:
            wide = [(p[:, upper] - p[:, lower]).norm(dim=-1) / unit for upper, lower in places]
            return torch.stack(wide).mean(0).double().numpy()

        seen, truth = opening(face.points_px), opening(points[..., :2])
        report["openings"][name] = {
            "error_percent": round(100 * float(np.abs(seen - truth).mean()), 2),
            "spread_percent": round(100 * float(truth.std()), 2),
            "correlation": round(float(np.corrcoef(seen, truth)[0, 1]), 3),
        }
    torch.set_num_threads(1)
    one = crops[:1]
    report["time_one_thread"] = measure(
        {"regressor": lambda: prior.coefficients(one), "render 128 px": lambda: prior.picture(coefficients[:1], 128)}
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in report.items() if k != "machine"}, indent=2))


if __name__ == "__main__":
    main()
