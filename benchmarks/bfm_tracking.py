"""What the tracker pays for a Basel face, on one core: ``python benchmarks/bfm_tracking.py``.

Without the user's files nothing can be said about how well real faces are read; the network's cost does not depend on
its weights, nor the mesh's on its shape. So D3DFR is seeded and BFM 2009 stands in as ``synthetic_bfm(3)``, of 28 917
vertices.

- ``reading``: one face off one frame (crop, network, lit mesh, likeness), ours and D3DFR's, in turn, in batches of one
  and four.
- ``network``: D3DFR alone, as published and with its normalisation folded, in turn.
- ``frame``: a face's shape, place and coefficients, as they are made for every frame that comes out.
- ``load``: reducing the model and bringing it into the tracker's frame, once a run.
- ``sidecar``: bytes of a face in a frame.
- ``agreement``: of ``synthetic_bfm`` under our own regressor in D3DFR's place with ``vr468``, on clips: which faces
  both trackers follow, and by how much they differ.

Times are the thread's own, medians of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_report

from vidrestore.config import RestoreConfig, TrackOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.geometry import box_iou
from vidrestore.morphable.d3dfr import D3dfr, folded
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.synthetic import SyntheticD3dfr, synthetic_bfm
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.pipeline import _tracked, load_finder
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.sidecar import _packed
from vidrestore.track.bfm import BfmReader, BfmSource
from vidrestore.track.face import FaceModel, FaceReader
from vidrestore.types import Track

POSE = np.array([0.2, 0.2, 0.1, np.log(60.0), 200.0, 150.0])


def in_turn(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """{name: milliseconds}, medians; each round does every job once, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            begin = time.thread_time()
            job()
            times[name].append(1e3 * (time.thread_time() - begin))
    return {name: round(statistics.median(values[1:]), 3) for name, values in times.items()}


def per_frame(model: FaceModel, reader: FaceReader) -> None:
    """What a frame that comes out needs of a face."""
    rng = np.random.default_rng(0)
    identity, expression, texture, lighting = (
        0.3 * rng.standard_normal(n).astype(np.float32) for n in (80, 64, 80, 27)
    )
    anchors = model.place(model.five(identity), POSE)[:, :2]
    model.place(model.shape(identity, expression), POSE)
    model.coefficients(POSE, identity, expression, texture, lighting, reader.crop_at(anchors))


def face_bytes(model: FaceModel) -> int:
    """Of a face in a frame of a sidecar."""
    rng = np.random.default_rng(0)
    values = [0.3 * rng.standard_normal(n).astype(np.float32) for n in (80, 64, 257)]
    mesh = model.place(model.shape(values[0], values[1]), POSE).astype(np.float32)
    points = mesh[:5, :2]
    return len(_packed(Track(0, mesh[:2, :2].reshape(4), points, 0.9, coefficients=values[2], mesh=mesh)))


def agreement(clip: Path, count: int) -> dict[str, Any]:
    """The two trackers on the first frames of a clip; distances in shares of the eyes'."""
    model = synthetic_bfm()
    source, runs = BfmSource(SyntheticD3dfr(model), model), []
    for name in ("vr468", "bfm"):
        config = RestoreConfig(track=TrackOptions(model=name))
        with VideoReader(clip) as reader:
            frames = (frame for frame, _ in zip(reader.decode(), range(count), strict=False))
            runs.append(list(_tracked(frames, reader.info, config, load_finder(config), bfm=source)))
    own, other = (m.landmarks.numpy() for m in (load_vr468(), source.mesh))
    rows, alone = [], 0
    for ours, theirs in zip(*runs, strict=True):
        known = {track.id: track for track in theirs.tracks}
        alone += len({track.id for track in ours.tracks} ^ known.keys())
        for a in ours.tracks:
            b = known.get(a.id)
            if b is None or a.mesh is None or b.mesh is None or a.pose is None or b.pose is None:
                continue
            eyes = float(np.linalg.norm(a.alignment[1] - a.alignment[0]))
            turns = np.subtract((a.pose.yaw, a.pose.pitch, a.pose.roll), (b.pose.yaw, b.pose.pitch, b.pose.roll))
            rows.append(
                (
                    float(box_iou(a.box, b.box)[0, 0]),
                    float(np.linalg.norm(a.alignment - b.alignment, axis=1).mean()) / eyes,
                    float(np.linalg.norm(a.mesh[own, :2] - b.mesh[other, :2], axis=1).mean()) / eyes,
                    float(np.degrees(np.abs(turns).max())),
                )
            )
    mean = np.mean(rows, 0).round(3).tolist()
    names = ("overlap of boxes", "anchors", "68 landmarks", "largest angle, degrees")
    people = [len({track.id for t in run for track in t.tracks}) for run in runs]
    return {"faces": len(rows), "followed by one only": alone, "people": people} | dict(zip(names, mean, strict=True))


def main() -> None:
    """Runs everything and writes benchmarks/results/bfm_tracking.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds each")
    parser.add_argument("--clip", type=Path, action="append", help="for the agreement; the committed example if none")
    given = parser.parse_args()
    rounds = 3 if given.quick else 15
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    frame = frame_from_rgb(rng.integers(0, 255, (300, 400, 3)).astype(np.uint8), 0)
    info, network, model = info_of_frames(frame), fill_seeded(D3dfr()).eval(), synthetic_bfm(3)
    begin = time.thread_time()
    source = BfmSource(network, model)
    load_s = time.thread_time() - begin
    readers: dict[str, FaceReader] = {"vr468": FaceReader(info), "bfm": BfmReader(info, source)}
    points = readers["vr468"].model.place(readers["vr468"].model.five(np.zeros(80, np.float32)), POSE)[:, :2]
    results: dict[str, Any] = {"vertices": {"full": model.num_vertices, "reduced": source.mesh.num_vertices}}
    for batch in (1, 4):
        jobs = {
            name: (lambda reader=reader, batch=batch: reader.read([frame] * batch, [reader.crop_at(points)] * batch))
            for name, reader in readers.items()
        }
        found = in_turn(jobs, rounds)
        results[f"reading, {batch} at once, ms a face"] = {name: round(ms / batch, 2) for name, ms in found.items()}
    picture = torch.rand(1, 3, 224, 224)
    quick, last = folded(network).to(memory_format=torch.channels_last), torch.channels_last  # type: ignore[call-overload]
    with torch.inference_mode():
        results["network, ms"] = in_turn(
            {
                "as published": lambda: network(picture),
                "folded": lambda: quick(picture.contiguous(memory_format=last)),
            },
            rounds,
        )
    results["frame, ms a face"] = in_turn(
        {name: (lambda reader=reader: per_frame(reader.model, reader)) for name, reader in readers.items()}, 5 * rounds
    )
    results["load, s"] = round(load_s, 2)
    results["sidecar, bytes a face and frame"] = {name: face_bytes(reader.model) for name, reader in readers.items()}
    for clip in given.clip or [Path(__file__).parent.parent / "examples" / "clip.mp4"]:
        results[f"agreement, {clip.stem}"] = agreement(clip, 12 if given.quick else 60)
    for name, value in results.items():
        print(f"{name}: {value}")
    method = f"thread time of one core, medians of {rounds} rounds in turn; seeded weights, a stand-in for BFM"
    write_report("bfm_tracking", method, [{"name": name, "value": value} for name, value in results.items()])


if __name__ == "__main__":
    main()
