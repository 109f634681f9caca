"""Makes the committed clips: faces that nobody has, moved on known paths, then degraded by a real codec.

    python tests/clips/make_clips.py            # tests/clips/faces.mkv, faces_clean.mkv, faces_truth.json
    python tests/clips/make_clips.py --example  # examples/clip.mp4

Needs the extra ``train`` (openvino) and the package random-face (installed with --no-deps), whose generator makes
the faces. Everything follows from the seeds below.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vidrestore.geometry import apply, compose, scale_about_pixel_edges
from vidrestore.restoration.align import FFHQ_TEMPLATE_512
from vidrestore.train.faces import FaceGenerator

HERE = Path(__file__).parent
RATE = Fraction(25)
SAMPLE_RATE = 48000


@dataclass(frozen=True)
class Person:
    """A generated face on a path: place, size and turn in the frame, and how far its expression wanders."""

    seed: int
    other_seed: int
    centre: tuple[float, float]
    sway: tuple[float, float]
    side: float
    roll_deg: float
    phase: float


@dataclass(frozen=True)
class Scene:
    num_frames: int
    background_seed: int
    people: tuple[Person, ...]


def scenes_of_tests() -> list[Scene]:
    return [
        Scene(
            40,
            1,
            (
                Person(90001, 90002, (100.0, 120.0), (14.0, 6.0), 170.0, 7.0, 0.0),
                Person(90003, 90004, (272.0, 132.0), (10.0, 9.0), 140.0, 5.0, 1.3),
            ),
        ),
        Scene(25, 2, (Person(90005, 90006, (190.0, 124.0), (22.0, 8.0), 190.0, 9.0, 0.4),)),
        Scene(10, 3, ()),
    ]


def scenes_of_example() -> list[Scene]:
    return [
        Scene(
            75,
            4,
            (
                Person(90007, 90008, (190.0, 180.0), (26.0, 8.0), 250.0, 7.0, 0.0),
                Person(90009, 90010, (450.0, 190.0), (18.0, 12.0), 215.0, 6.0, 1.1),
            ),
        ),
        Scene(50, 5, (Person(90011, 90012, (320.0, 176.0), (34.0, 10.0), 300.0, 8.0, 0.3),)),
    ]


def crop_from_scene(person: Person, t_s: float) -> np.ndarray:
    """frame_from_crop of a person at a time: a smooth path without a repeat within the clip."""
    angle = np.radians(person.roll_deg) * np.sin(1.9 * t_s + person.phase)
    scale = person.side / 512 * (1 + 0.06 * np.sin(1.3 * t_s + 2 * person.phase))
    x = person.centre[0] + person.sway[0] * np.sin(2.3 * t_s + person.phase)
    y = person.centre[1] + person.sway[1] * np.sin(3.1 * t_s + person.phase)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, np.array([x, y]) - linear @ np.array([255.5, 280.0])])


def background(seed: int, height: int, width: int, t_s: float) -> np.ndarray:
    """A blurred room of soft blocks that drifts slowly."""
    rng = np.random.default_rng(seed)
    tint = rng.uniform(0.85, 1.15, 3)
    coarse = (rng.uniform(30, 150, (6, 8, 1)) * tint + rng.uniform(-12, 12, (6, 8, 3))).astype(np.float32)
    fine = np.repeat(rng.uniform(-9, 9, (height // 6, width // 6, 1)), 3, 2).astype(np.float32)
    wide = cv2.resize(coarse, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    wide += cv2.resize(fine, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    shift = np.array([[1.0, 0, -32 + 12 * np.sin(0.8 * t_s)], [0, 1.0, -32 + 6 * np.cos(0.6 * t_s)]])
    return cv2.warpAffine(wide, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def head_mask() -> np.ndarray:
    """Soft ellipse around head and hair in the 512-pixel crop."""
    y, x = np.mgrid[0:512, 0:512]
    radius = np.hypot((x - 255.5) / 225.0, (y - 250.0) / 250.0)
    return np.clip((1.0 - radius) / 0.12, 0, 1).astype(np.float32)


def render(scenes: list[Scene], height: int, width: int) -> tuple[list[np.ndarray], list[list[dict[str, object]]]]:
    """Clean BGR frames, and for each the true five points of the faces in it."""
    generator = FaceGenerator()
    mask = head_mask()
    frames: list[np.ndarray] = []
    truth: list[list[dict[str, object]]] = []
    for scene in scenes:
        latents = [(generator.style(p.seed, 0.75), generator.style(p.other_seed, 0.75)) for p in scene.people]
        for _ in range(scene.num_frames):
            t_s = float(len(frames) / RATE)
            picture = background(scene.background_seed, height, width, t_s)
            faces: list[dict[str, object]] = []
            for person, (own, other) in zip(scene.people, latents, strict=True):
                share = 0.14 * (1 + np.sin(2.7 * t_s + person.phase))
                crop = generator.picture((own + share * (other - own)).astype(np.float32))[..., ::-1]
                frame_from_crop = crop_from_scene(person, t_s)
                paste(picture, np.ascontiguousarray(crop), mask, frame_from_crop)
                points = apply(frame_from_crop, FFHQ_TEMPLATE_512)
                faces.append({"person": person.seed, "landmarks": points.round(3).tolist()})
            frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
            truth.append(faces)
    return frames, truth


def paste(picture: np.ndarray, crop: np.ndarray, mask: np.ndarray, frame_from_crop: np.ndarray) -> None:
    height, width = picture.shape[:2]
    fine = compose(scale_about_pixel_edges(3.0), frame_from_crop)  # three times finer, then averaged: no aliasing
    size = (3 * width, 3 * height)
    face = cv2.warpAffine(crop.astype(np.float32), fine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, fine, size, flags=cv2.INTER_LINEAR)[..., None]
    face = cv2.resize(face * alpha, (width, height), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    picture[:] = picture * (1 - alpha) + face


def degrade(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the detail, blur and sensor noise, as a cheap camera of the past."""
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (width * 10 // 18, height * 10 // 18), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 0.6)
    back = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.clip(np.rint(back + rng.normal(0, 3.0, back.shape)), 0, 255).astype(np.uint8)


def write(path: Path, frames: list[np.ndarray], crf: int, *, audio: bool, preset: str = "slow") -> None:
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": str(crf), "preset": preset, "threads": "1"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if audio else None
        if sound is not None:
            sound.bit_rate = 48000
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG"
            )
            picture.pts, picture.time_base = index, 1 / RATE
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound is not None:
            for packet in tones(sound, len(frames)):
                container.mux(packet)


def tones(stream: av.AudioStream, num_frames: int) -> list[av.Packet]:
    t = np.arange(int(num_frames / RATE * SAMPLE_RATE)) / SAMPLE_RATE
    wave = (0.2 * np.sin(2 * np.pi * (220 + 40 * np.sin(2 * np.pi * 0.5 * t)) * t)).astype(np.float32)
    packets = []
    for begin in range(0, len(wave) - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, begin, Fraction(1, SAMPLE_RATE)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", action="store_true", help="make the README's clip instead of the tests'")
    rng = np.random.default_rng(7)
    if parser.parse_args().example:
        frames, _ = render(scenes_of_example(), 360, 640)
        write(HERE.parent.parent / "examples" / "clip.mp4", [degrade(f, rng) for f in frames], 30, audio=True)
        return
    frames, truth = render(scenes_of_tests(), 256, 384)
    write(HERE / "faces_clean.mkv", frames, 14, audio=False)
    write(HERE / "faces.mkv", [degrade(f, rng) for f in frames], 29, audio=True)
    (HERE / "faces_truth.json").write_text(json.dumps(truth), "utf-8")


if __name__ == "__main__":
    main()
