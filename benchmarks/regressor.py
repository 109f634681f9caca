"""How well the 3DMM regressor sees shape: landmark error by degradation level, and whether it follows lips and lids.

    python benchmarks/regressor.py --faces data/faces --points data/points_lids.npz [--quick]

*Landmarks*: samples of faces that training never saw (the first 128 of the folder), with the augmentation of the first
training: off-centre crops, heads turned further, closed eyes, occluders. The error is the mean distance of the 68
landmarks from the teacher's on the clean face, in % of the distance between the eyes. Beside it: the mean face laid on
the five points that YuNet finds in the same degraded crop (a similarity, least squares) over those crops in which it
finds a face, and the regressor on the same ones.

*Acting*: the same faces open their mouths and close their eyes as puppets, four steps each (``vidrestore.train.
puppets``), which gives openings that are known exactly, and are damaged at each level. The slope of the regressed
opening on the true one says how much of a motion is followed, 1 is all; within one face it is not helped by differences
of people. *Clips* (``--clip``) are videos of real people, aligned by YuNet: lips against FaceMesh and lids against the
iris network on the clean frames; these teachers err themselves. *People* (``--people``) are generated and moved along
latent directions that open the mouth, smile, and open or close the eyes; the same teachers look at them. ``--beside
FILE`` measures other weights on the same samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from common import machine, measure
from numpy.typing import NDArray

from vidrestore.detect.yunet import YuNet
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import load_regressor
from vidrestore.restoration.align import crop_from_display
from vidrestore.train.data import FaceCache, list_images
from vidrestore.train.degrade import LEVELS, Picture, apply_recipe, draw_recipe
from vidrestore.train.eyes import EyeReader
from vidrestore.train.facemesh import FaceMesh
from vidrestore.train.generator import mean_style, styles_of
from vidrestore.train.meshes import MeshPairs, PointCache
from vidrestore.train.puppets import SIDE, Puppet, picture_of, pose
from vidrestore.train.regressor import LID_PAIRS, LIP_PAIRS, eye_distance, openings, point_errors
from vidrestore.train.variations import directions, make_expressions
from vidrestore.train.vr468 import mesh_of

NAMES = ("light", "medium", "heavy", "clean")
SIZE = 256
HELD_OUT = 128
FIRST_PERSON = 40_000  # numbers of people far from those of the folder
STEPS = (1 / 3, 2 / 3, 1.0)  # of the way to an open mouth or closed lids, after the face at rest
MOVES = {"lips": 6, "lids": 7}  # places in a puppet's move
PAIRS = {"lips": LIP_PAIRS, "lids": LID_PAIRS}

Priors = dict[str, ShapePrior]
"""By the name of the weights."""
Slopes = dict[str, dict[str, dict[str, float]]]
"""By level, and lips or lids."""
Openings = dict[str, NDArray[np.float64]]
"""(N,) of lips and of lids, in shares of the distance between the eyes."""


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
    values |= {name: errors[levels == i].mean() for i, name in enumerate(NAMES) if (levels == i).any()}
    return {name: round(100 * float(value), 2) for name, value in values.items()}


def damaged(picture: NDArray[np.uint8], level: str, rng: np.random.Generator) -> Picture:
    """An aligned picture as a crop of 256 px in [0, 1], at a level."""
    clean = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255.0)
    if level == "clean":
        return clean
    return np.asarray(apply_recipe(clean, draw_recipe(rng, LEVELS[level], crop=SIZE), rng), np.float32)


def read(prior: ShapePrior, crops: list[Picture]) -> NDArray[np.float64]:
    """(N, 468, 2) points that the regressor sees, in pixels of the crops."""
    stack = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) * 2 - 1
    coefficients = torch.cat([prior.coefficients(part) for part in stack.split(50)])
    return np.asarray(prior.model(coefficients, Camera().scaled(SIZE)).points_px.double().numpy())


def opened(seen: NDArray[np.float64], points: NDArray[np.float64]) -> Openings:
    """Openings of (N, 468, 2) points; the eyes of (N, 468, 3) ``points`` of the same size of crop give the unit."""
    one, unit = torch.from_numpy(seen[..., :2].copy()), torch.from_numpy(points)
    return {name: openings(one, pairs, unit).numpy() for name, pairs in PAIRS.items()}


def followed(seen: NDArray[np.float64], true: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, float]:
    """Slope and correlation about the mean of each group (a face, a clip), and the mean absolute error."""
    a, b = seen.copy(), true.copy()
    for group in np.unique(groups):
        a[groups == group] -= seen[groups == group].mean()
        b[groups == group] -= true[groups == group].mean()
    return {
        "slope": round(float(a @ b / (b @ b)), 3),
        "correlation": round(float(a @ b / np.sqrt((a @ a) * (b @ b))), 3),
        "error_percent": round(100 * float(np.abs(seen - true).mean()), 2),
    }


def acting(priors: Priors, cache: FaceCache, points: PointCache, count: int) -> dict[str, Slopes]:
    """Slopes of faces that act, by regressor and level."""
    rows: list[tuple[int, str, NDArray[np.uint8], NDArray[np.float64]]] = []  # face, what moves, picture, points
    for number in np.flatnonzero(points.trusted)[:count]:
        picture = cv2.resize(np.asarray(cache.pictures[number]), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        own = points.points[number].astype(np.float64) * SIDE - [0.5, 0.5, 0.0]
        puppet = Puppet(int(number), picture[None], own[None])
        for name, place in MOVES.items():
            for step in (0.0, *STEPS):
                move = np.zeros(9)
                move[place] = step
                shown = np.rint(np.clip(picture_of(puppet, move), 0, 255)).astype(np.uint8)
                rows.append((int(number), name, shown, pose(puppet, move)))
    truth = np.stack([row[3] for row in rows]) * (SIZE / SIDE)
    faces, what = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    true = opened(truth, truth)
    report: dict[str, Slopes] = {weights: {} for weights in priors}
    for level in NAMES:
        rng = np.random.default_rng([7, NAMES.index(level)])
        crops = [damaged(row[2], level, rng) for row in rows]
        for weights, prior in priors.items():
            seen = opened(read(prior, crops), truth)
            report[weights][level] = {
                name: followed(seen[name][what == name], true[name][what == name], faces[what == name])
                for name in MOVES
            }
    return report


def aligned_frames(clip: Path, most: int) -> Iterator[NDArray[np.uint8]]:
    """The first face of each frame, as FFHQ's are, 512 px."""
    detector = YuNet(0.6)
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index >= most:
                return
            picture = frame.to_ndarray(format="rgb24")
            scale = 640 / max(picture.shape[:2])
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            faces = detector.detect(np.ascontiguousarray(small[..., ::-1]))
            if len(faces):
                crop = crop_from_display(faces.landmarks[int(faces.scores.argmax())] / scale, SIDE)
                yield np.asarray(cv2.warpAffine(picture, crop, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.uint8)


def unlike_at_rest(paths: list[Path], points: PointCache, folder: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """People whom no training saw, moved along directions that are found on the faces after the held-out ones."""
    mean = mean_style()
    usable = np.flatnonzero(points.trusted)
    usable = usable[usable >= HELD_OUT]
    found = points.points[usable].astype(np.float64) * SIDE - [0.5, 0.5, 0.0]
    moves = directions(styles_of([paths[i] for i in usable], mean), found, mean)
    make_expressions(folder, moves, mean, start=FIRST_PERSON, count=count)
    for path in list_images(folder)[:count]:
        read_back = cv2.imread(str(path), cv2.IMREAD_COLOR)
        assert read_back is not None, path
        yield np.asarray(read_back[..., ::-1], np.uint8)


def on_pictures(priors: Priors, many: Iterable[NDArray[np.uint8]]) -> dict[str, Slopes]:
    """Slopes over aligned pictures, by regressor and level; the spread of the true openings beside them."""
    teacher, eyes = FaceMesh(), EyeReader()
    pictures, points = [], []
    for picture in many:
        picture = np.ascontiguousarray(picture)
        found, score = teacher.find(picture)
        if score > 20.0:
            pictures.append(picture)
            points.append(eyes.refine(picture, found) * (SIZE / SIDE))
    truth, one = np.stack(points), np.zeros(len(points), np.int64)
    true = opened(truth, truth)
    spread = {name: {"spread_percent": round(100 * float(true[name].std()), 2)} for name in MOVES}
    report: dict[str, Slopes] = {weights: {"truth": spread} for weights in priors}
    for level in NAMES:
        rng = np.random.default_rng([8, NAMES.index(level)])
        crops = [damaged(picture, level, rng) for picture in pictures]
        for weights, prior in priors.items():
            seen = opened(read(prior, crops), truth)
            report[weights][level] = {name: followed(seen[name], true[name], one) for name in MOVES}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True)
    parser.add_argument("--points", required=True)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--count", type=int, default=400, help="samples for the landmark error")
    parser.add_argument("--actors", type=int, default=48, help="faces that act")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="video of one real person")
    parser.add_argument("--frames", type=int, default=150, help="of each clip, at most")
    parser.add_argument("--people", type=int, default=0, help="generated people who are not at rest, 2 s each")
    parser.add_argument("--beside", action="append", default=[], help="weights to measure on the same samples")
    parser.add_argument("--lids", choices=("eyes", "mesh"), default="eyes", help="which network says where lids are")
    parser.add_argument("--quick", action="store_true", help="fewer samples, 24 actors, no times")
    parser.add_argument("--cache", default="build/regressor_held_out.npy")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/regressor.json"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.count, arguments.actors, arguments.frames = min(arguments.count, 200), 24, 60
    priors: Priors = {"shipped": ShapePrior()}
    priors |= {Path(file).stem: ShapePrior(regressor=load_regressor(file)) for file in arguments.beside}
    model = load_vr468()
    paths = list_images(arguments.faces)
    everything = PointCache.of(paths, arguments.points, lids=arguments.lids == "eyes")
    held = slice(0, arguments.held_out)
    cache = FaceCache(paths[held], 320, arguments.cache)
    known = PointCache(everything.points[held], everything.trusted[held])
    data = MeshPairs(cache, known, mesh_of(model), size=SIZE, seed=2)
    samples = [data[i] for i in range(arguments.count)]
    points = torch.stack([s["points"] for s in samples])
    degraded = torch.stack([s["degraded"] for s in samples])
    levels = np.array([int(s["level"]) for s in samples])
    crops = degraded.float() / 127.5 - 1
    unit = eye_distance(points)
    errors = {}
    for name, prior in priors.items():
        coefficients = torch.cat([prior.coefficients(part) for part in crops.split(50)])
        errors[name] = point_errors(model, coefficients, points, SIZE).double().numpy()
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
            **{f"regressor, {name}": summary(values, levels) for name, values in errors.items()},
            "regressor, where YuNet finds a face": summary(errors["shipped"][found], levels[found]),
            "mean face on YuNet's five points": summary(classical[found], levels[found]),
        },
        "yunet_finds": round(float(found.mean()), 3),
        "acting": acting(priors, cache, known, arguments.actors),
    }
    for clip in arguments.clip:
        report[f"clip {clip.stem}"] = on_pictures(priors, aligned_frames(clip, arguments.frames))
    if arguments.people:
        moved = unlike_at_rest(paths, everything, Path(arguments.cache).with_name("people"), arguments.people)
        report["people"] = on_pictures(priors, moved)
    if not arguments.quick:
        torch.set_num_threads(1)
        one, prior = crops[:1], priors["shipped"]
        shape = prior.coefficients(one)
        report["time_one_thread"] = measure(
            {
                "regressor": lambda: prior.coefficients(one),
                "render 128 px": lambda: prior.picture(shape, 128),
            }
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in report.items() if k != "machine"}, indent=2))


if __name__ == "__main__":
    main()
