"""What holding picture and exposure along a track does to a network's result: flicker, sharpness, motion and lag.

    python benchmarks/steady.py --faces data/faces            # all clips
    python benchmarks/steady.py --faces data/faces --quick    # fewer and shorter ones
    python benchmarks/steady.py                               # the committed clip only
    python benchmarks/steady.py --cost                        # what the step costs only

Synthetic clips, so that the truth is known: a held-out face speaks (its lower lip goes down and up at about 3 Hz of
25 frames a second), blinks twice and sways; the light over it falls by a fifth for a while. The clean frames are made
bad in two ways, once with fresh sensor noise in every frame and once by x264 over the whole clip. They are cut out
with the tracker's error of place, smooth (a tenth of a pixel of 256) or rough (half a pixel, as raw detections are).
The network restores them frame by frame; then its results are held, by each mechanism alone and by all.

All crops are brought back to the face's true place before they are compared:

    flicker        mean absolute change from frame to frame, of 255, where the clean face does not change, above the
                   clean one's; ``excess`` is its ratio to the network's own
    exposure       standard deviation in time of the second difference of the face's mean against the clean one's
    sharpness      slope of the restored fine detail (less a blur of 2 pixels) on the clean one; ``kept`` is its ratio
                   to the network's own
    mouth, eyes    slope of restored motion on the clean one, luma, each pixel about its mean in time; kept likewise
    mouth_lag      frames by which the mouth comes later than the network's own, by the best fit with the clean one
    psnr           against the clean frames, in dB
    ms             processor time of the step for one face on one thread, median

And the committed clip with truth (tests/clips/temporal.mkv) through tracker, network and compositor, with the
measures of benchmarks/temporal.py: ``excess`` is the flicker of the restored faces above the clean ones' there, under
the true mesh, of 255; mouth and lids are shares of the source's motion; ``sharpness`` is a slope as above. The
tracker and the network run once: what differs between the rows is the step alone.

On the CPU kernels do the step; the row "all, by torch" is the same by torch's own operations, as on other devices. The
report's rows ``cost`` compare what both take of a face with a mesh, in turn in one process (``--cost``: these alone):
processor time of one thread in ms a face, faces one by one and four together.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import temporal
import torch
from common import summary, write_report
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.blend.compositor import Compositor
from vidrestore.config import RestoreConfig, RestoreOptions
from vidrestore.evaluate.texture import Unwrapping
from vidrestore.kernels.launch import limit_threads, thread_limit
from vidrestore.morphable.files import load_vr468
from vidrestore.picture import rgb_from_frame
from vidrestore.pipeline import track_frames
from vidrestore.restoration.align import template
from vidrestore.restoration.restorer import FaceRestorer, Restorer, load_restorer
from vidrestore.restoration.steady import Steadiness, SteadyOptions
from vidrestore.train.data import list_images
from vidrestore.types import CropContext, Track, TrackedFrame

SIZE, RATE = 256, 25
FACES = (2, 14, 31, 47, 66, 85)
"""Numbers of held-out faces, chosen before any result was seen."""
BLINKS = (18, 40)
CANDIDATES: dict[str, Callable[[], Steadiness | None]] = {
    "network": lambda: None,
    "exposure": lambda: Steadiness(SteadyOptions(weight=0.0)),
    "picture": lambda: Steadiness(SteadyOptions(exposure=0.0)),
    "all": Steadiness,
    "all, by torch": lambda: Steadiness(kernels=False),
}
COSTS: dict[str, Callable[[], Steadiness]] = {
    f"{name}{by}": partial(Steadiness, SteadyOptions(exposure=exposure), kernels=kernels)
    for name, exposure in (("picture", 0.0), ("all", 0.9))
    for by, kernels in (("", True), (", by torch", False))
}
MOUTH, EYES = (80, 165, 177, 220), (70, 102, 186, 138)
"""x0, y0, x1, y1 in a crop of 256, around FFHQ's template."""
FACE = (64, 60, 192, 230)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Clip = NDArray[np.float32]
"""(F, S, S, 3) RGB in [0, 1]."""


@dataclass(frozen=True)
class Case:
    """A degraded clip as it was cut out, and where the true face lies in the crops."""

    degraded: Clip
    clean: Clip
    """At the true place."""
    shifts: NDArray[np.float64]
    """(F, 2) px: the crop shows the face so much to the right and below its true place."""


def clean_frame(face: Clip, frame: int) -> Clip:
    """(512, 512, 3) of a face: the mouth opens and shuts, the eyes blink, for a second the light is a fifth less."""
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    opening = 30.0 * max(0.0, math.sin(2 * math.pi * 3.0 * frame / RATE)) * (0.4 + 0.6 * math.sin(0.21 * frame) ** 2)
    lip = np.exp(-(((x - 257) / 60) ** 2) - ((y - 400) / 30) ** 2)  # pulls down what is below the lips' line
    dy = opening * lip * (y > 372) * np.clip((y - 372) / 20, 0, 1)
    shut = max(0.0, 1.0 - min(abs(frame - b) for b in BLINKS) / 2.5)
    for eye in (193, 319):
        dy += 13.0 * shut * np.exp(-(((x - eye) / 34) ** 2) - ((y - 236) / 13) ** 2)  # the lid comes down
    moved = cv2.remap(face, x, np.asarray(y - dy, np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    inside = ((x - 257) / 36) ** 2 + ((y - 374 - opening / 2) / (opening / 2 + 0.1)) ** 2
    gap = np.clip(2.0 * (1.0 - inside), 0.0, 1.0)[..., None] if opening > 1.0 else np.float32(0.0)
    moved = moved * (1 - gap) + np.array([0.22, 0.07, 0.07], np.float32) * gap
    light = 1.0 - 0.2 * np.clip(min(frame - 24, 34 - frame) / 2.0, 0.0, 1.0)
    return np.asarray(np.clip(moved * light, 0.0, 1.0), np.float32)


def shifted(picture: Clip, shift: NDArray[np.float64], size: int) -> Clip:
    """(size, size, 3) of a square picture, the face moved by ``shift`` px of the result."""
    scale = size / picture.shape[0]
    matrix = np.array([[scale, 0.0, 0.5 * scale - 0.5 + shift[0]], [0.0, scale, 0.5 * scale - 0.5 + shift[1]]])
    mode = cv2.INTER_CUBIC if scale >= 1.0 else cv2.INTER_LINEAR
    source = picture if scale >= 1.0 else cv2.GaussianBlur(picture, (0, 0), 0.35 / scale)
    return np.asarray(
        cv2.warpAffine(source, matrix, (size, size), flags=mode, borderMode=cv2.BORDER_REFLECT_101), np.float32
    )


def through_x264(frames: list[NDArray[np.uint8]], crf: int) -> list[NDArray[np.uint8]]:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"crf": str(crf), "threads": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def case_of(path: Path, number: int, num_frames: int, damage: str, error_px: float) -> Case:
    """A recording of 128 pixels, and crops of 256 cut out of it."""
    face = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert face is not None
    face = cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC)[..., ::-1].astype(np.float32) / 255.0
    rng = np.random.default_rng([7, number])
    frames = np.arange(num_frames)
    sway = np.column_stack([3.0 * np.sin(0.17 * frames + number), 2.0 * np.cos(0.23 * frames)])  # px of 256
    wide = [np.pad(clean_frame(face, i), ((64, 64), (64, 64), (0, 0)), mode="reflect") for i in frames]
    video = []
    for i in frames:  # 160 px: the crop's 128 and a margin
        small = cv2.GaussianBlur(shifted(wide[i], sway[i] / 2, 160), (0, 0), 0.6)
        noise = rng.normal(0, 6.0 if damage == "noise" else 3.0, small.shape) / 255.0
        video.append(np.clip(np.rint((small + noise) * 255.0), 0, 255).astype(np.uint8))
    if damage == "codec":
        video = through_x264(video, 29)
    error = rng.normal(0, error_px, (num_frames, 2))
    matrix = [np.array([[2.0, 0.0, -31.5 - x], [0.0, 2.0, -31.5 - y]]) for x, y in sway + error]
    degraded = [
        cv2.warpAffine(picture.astype(np.float32) / 255.0, m, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
        for picture, m in zip(video, matrix, strict=True)
    ]
    clean = [shifted(picture[64:-64, 64:-64], np.zeros(2), SIZE) for picture in wide]
    return Case(np.clip(np.stack(degraded), 0, 1), np.stack(clean), -error)


def context_of(index: int) -> CropContext:
    track = Track(0, np.zeros(4, np.float32), template(SIZE).astype(np.float32), 1.0)
    maps = np.eye(2, 3)[None]
    return CropContext((track,), (index,), maps, maps, np.zeros(1, np.float32))


@torch.inference_mode()
def held(case: Case, restored: Tensor, steadiness: Steadiness | None) -> tuple[Clip, list[float]]:
    """The clip at the true place, and the times of the step in ms."""
    pictures, times = [], []
    for i, (degraded, result) in enumerate(zip(tensor_of(case.degraded), restored, strict=True)):
        begin = time.thread_time()
        if steadiness is not None:
            result = steadiness.steady(degraded[None], result[None], context_of(i))[0]
        times.append((time.thread_time() - begin) * 1e3)
        picture = (result.permute(1, 2, 0).numpy() + 1.0) / 2.0
        pictures.append(shifted(np.ascontiguousarray(picture), -case.shifts[i], SIZE))
    return np.stack(pictures), times


def tensor_of(clip: Clip) -> Tensor:
    return torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0


def window(clip: Clip, box: tuple[int, int, int, int]) -> Clip:
    x0, y0, x1, y1 = box
    return clip[:, y0:y1, x0:x1] @ _LUMA


def slope(a: Clip, b: Clip) -> float:
    return float((a * b).sum() / (b * b).sum())


def motion(clip: Clip, box: tuple[int, int, int, int]) -> Clip:
    part = window(clip, box)
    part = part / part.mean((1, 2), keepdims=True)  # not the light's
    return part - part.mean(0)


def lag(restored: Clip, clean: Clip) -> float:
    """Frames, positive where the restored motion comes later: the correlation's peak, by a parabola."""
    pairs = {k: (restored[3 + k : len(restored) - 3 + k] * clean[3:-3]).sum() for k in range(-3, 4)}
    best = max(range(-2, 3), key=lambda k: pairs[k])
    left, middle, right = (float(pairs[best + k]) for k in (-1, 0, 1))
    return best + 0.5 * (left - right) / (left - 2 * middle + right)


def figures(restored: Clip, clean: Clip) -> dict[str, float]:
    a, b = window(restored, FACE), window(clean, FACE)
    a, b = a / a.mean((1, 2), keepdims=True), b / b.mean((1, 2), keepdims=True)
    level = window(clean, FACE).mean()
    still = np.abs(np.diff(b, axis=0)).max(0) < 0.01  # never moves
    flicker = (np.abs(np.diff(a, axis=0))[:, still].mean() - np.abs(np.diff(b, axis=0))[:, still].mean()) * level * 255
    step = np.diff(window(restored, FACE).mean((1, 2)) - window(clean, FACE).mean((1, 2)), 2)
    fine = [
        np.stack([p - cv2.GaussianBlur(p, (0, 0), 2.0) for p in window(clip, FACE)])[:, still]
        for clip in (restored, clean)
    ]
    moves = {
        name: [motion(clip, box) for clip in (restored, clean)] for name, box in (("mouth", MOUTH), ("eyes", EYES))
    }
    error = float(np.square(restored - clean).mean())
    return {
        "flicker": float(flicker),
        "exposure": float(step.std() * 255),
        "sharpness": slope(*fine),
        "mouth": slope(*moves["mouth"]),
        "eyes": slope(*moves["eyes"]),
        "mouth_lag": lag(*moves["mouth"]),
        "psnr": 10 * math.log10(1.0 / error),
    }


def run(faces: Path, *, quick: bool, candidates: dict[str, Callable[[], Steadiness | None]]) -> list[dict[str, object]]:
    restorer = load_restorer(RestoreOptions(device="cpu"))
    paths = list_images(faces)
    numbers, num_frames = (FACES[:2], 50) if quick else (FACES, 60)
    results: list[dict[str, object]] = []
    for damage in ("noise", "codec"):
        for error_px in (0.1, 0.5):
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
            times: dict[str, list[float]] = {name: [] for name in candidates}
            for number in numbers:
                case = case_of(paths[number], number, num_frames, damage, error_px)
                with torch.inference_mode():
                    restored = torch.cat([restorer.restore(part) for part in tensor_of(case.degraded).split(10)])
                for name, make in candidates.items():
                    clip, ms = held(case, restored, make())
                    rows[name].append(figures(clip, case.clean))
                    times[name] += ms[2:]
            mean = {name: {key: float(np.mean([r[key] for r in of])) for key in of[0]} for name, of in rows.items()}
            own = mean[next(iter(candidates))]
            for name, row in mean.items():
                kept = {f"{key}_kept": round(row[key] / own[key], 3) for key in ("sharpness", "mouth", "eyes")}
                excess = {"excess": round(row["flicker"] / own["flicker"], 3)}
                row = {**row, "mouth_lag": row["mouth_lag"] - own["mouth_lag"]}
                shown = {key: round(value, 3) for key, value in row.items()}
                ms = round(float(np.median(times[name])), 2)
                results.append(
                    {"damage": damage, "error_px": error_px, "held": name, **shown, **excess, **kept, "ms": ms}
                )
                print(results[-1], flush=True)
    return results


class Once:
    """A network that restores each crop once and gives the same result again."""

    def __init__(self, restorer: Restorer) -> None:
        self.size, self.device = restorer.size, restorer.device
        self._restorer, self._known = restorer, dict[tuple[int, int], Tensor]()

    def restore(self, images: Tensor, context: CropContext) -> Tensor:
        places = list(zip(context.track_ids, context.frame_indices, strict=True))
        new = [i for i, place in enumerate(places) if place not in self._known]
        if new:
            self._known |= dict(zip([places[i] for i in new], self._restorer.restore(images[new]), strict=True))
        return torch.stack([self._known[place] for place in places])


class Held(FaceRestorer):
    """The stage with a given step."""

    def use(self, steadiness: Steadiness | None) -> Held:
        self._steadiness = steadiness
        return self


def restored_clip(
    clip: temporal.Clip, tracked: list[TrackedFrame], network: Once, steadiness: Steadiness | None
) -> temporal.Run:
    config = RestoreConfig()
    faces = Held(config.restore, clip.info, network).use(steadiness)
    compositor, pictures = Compositor(config.blend), []
    for begin in range(0, len(tracked), 4):
        part = tracked[begin : begin + 4]
        for item, restorations in zip(part, faces.restore(part), strict=True):
            pictures.append(rgb_from_frame(compositor.composite(item.frame, restorations)))
    return temporal.Run(pictures, [item.tracks for item in tracked], 0, 0.0)


def sharpness_of_faces(clip: temporal.Clip, done: temporal.Run, people: list[list[temporal.TrueFace | None]]) -> float:
    sums = np.zeros(2)
    for faces in people:
        for i, face in enumerate(faces):
            if face is None:
                continue
            (x0, y0), (x1, y1) = face.points[:, :2].min(0).clip(0).astype(int), face.points[:, :2].max(0).astype(int)
            fine = []
            for pictures in (done.pictures, clip.clean):
                grey = cv2.cvtColor(pictures[i], cv2.COLOR_RGB2GRAY)[y0 : y1 + 1, x0 : x1 + 1].astype(np.float32)
                fine.append(grey - cv2.GaussianBlur(grey, (0, 0), 1.5))
            sums += (fine[0] * fine[1]).sum(), (fine[1] * fine[1]).sum()
    return float(sums[0] / sums[1])


def run_clip(candidates: dict[str, Callable[[], Steadiness | None]]) -> list[dict[str, object]]:
    folder = Path(__file__).parent.parent / "tests" / "clips"
    names = [folder / f"temporal{end}" for end in (".mkv", "_clean.mkv", ".json")]
    clip = temporal.open_clip("temporal", names[0], names[1], names[2])
    tracked = list(track_frames(clip.frames, clip.info, RestoreConfig()))
    network = Once(load_restorer(RestoreOptions(network="compact", device="cpu")))
    people, model = temporal.people_of(clip, None), load_vr468()
    flat = Unwrapping(model.mean_shape.double().numpy() * [1.0, -1.0, -1.0], model.triangles.numpy(), 128)
    results: list[dict[str, object]] = []
    for name, make in candidates.items():
        done = restored_clip(clip, tracked, network, make())
        row = temporal.excess(clip, done, people, flat) | temporal.motion(clip, done, people, flat)
        row["sharpness"] = sharpness_of_faces(clip, done, people)
        results.append({"clip": clip.name, "held": name, **{key: round(value, 3) for key, value in row.items()}})
        print(results[-1], flush=True)
    return results


@torch.inference_mode()
def run_costs(*, quick: bool) -> list[dict[str, object]]:
    """Time of the step for a face that sways, has a mesh and fresh noise, ms a face."""
    rng = torch.Generator().manual_seed(0)
    texture = functional.interpolate(torch.randn(1, 3, 40, 40, generator=rng), SIZE, mode="bicubic") * 0.2
    rest = load_vr468().mean_shape.numpy() * [1.0, -1.0, 1.0] * (SIZE / 3) + [SIZE / 2, SIZE / 2, 0.0]
    limit, results = thread_limit(), []
    limit_threads(1)
    for batch in (1, 4):
        steps = {name: make() for name, make in COSTS.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(60 if quick else 240):
            frames = tuple(range(batch * turn, batch * turn + batch))
            tracks = tuple(
                Track(
                    0,
                    np.zeros(4, np.float32),
                    template(SIZE).astype(np.float32),
                    1.0,
                    mesh=(rest + np.array([2.0 * math.sin(0.3 * frame), 0.0, 0.0])).astype(np.float32),
                )
                for frame in frames
            )
            maps = np.tile(np.eye(2, 3), (batch, 1, 1))
            context = CropContext(tracks, frames, maps, maps, np.zeros(batch, np.float32))
            crops, restored = (
                texture + noise * torch.randn(batch, 3, SIZE, SIZE, generator=rng) for noise in (0.02, 0.05)
            )
            for name, step in steps.items():
                begin = time.thread_time()
                step.steady(crops, restored, context)
                times[name].append((time.thread_time() - begin) * 1e3 / batch)
        for name, of in times.items():
            results.append({"cost": name, "faces_together": batch, **summary(of[4:])})  # the first compile, then begin
            print(results[-1], flush=True)
    limit_threads(limit)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, help="folder of aligned faces, 0 to 127 held out")
    parser.add_argument("--quick", action="store_true", help="two faces of 50 frames")
    parser.add_argument("--cost", action="store_true", help="what the step costs, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = run_costs(quick=arguments.quick)
    if arguments.cost:
        print(write_report("steady_cost", "the step by kernels and by torch in turn, one thread", results))
        return
    results += run_clip(CANDIDATES)
    if arguments.faces is not None:
        results += run(arguments.faces, quick=arguments.quick, candidates=CANDIDATES)
    method = "the committed clip; synthetic clips: speech, two blinks, sway, a change of light; compact, one thread"
    name = "steady_clip" if arguments.faces is None else "steady_quick" if arguments.quick else "steady"
    print(write_report(name, method, results))


if __name__ == "__main__":
    main()
