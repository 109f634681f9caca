"""Clips of generated faces whose truth is known: pose, points, openings, what is hidden, and the clean frames.

Puppets (:mod:`vidrestore.train.puppets`) act in small scenes: they talk, turn, cross, come nearer, leave and return, a
hand passes in front of them, shots are cut. The frames are degraded as recordings are and written by a real codec. A
clip is three files: ``NAME.mkv`` degraded, ``NAME_clean.mkv``, and ``NAME.json``, which :class:`ClipTruth` reads.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.geometry import apply, compose, scale_about_pixel_edges
from vidrestore.train.puppets import MOVES, Puppet, five_points, frame_from_face, load_puppets, picture_of, pose
from vidrestore.types import Pose

__all__ = [
    "LEVELS",
    "SCENES",
    "ClipTruth",
    "Level",
    "Occluder",
    "Role",
    "Scene",
    "Shot",
    "TrueFace",
    "make_clip",
    "make_clips",
    "render",
    "write_video",
]

Array = NDArray[np.float64]

RATE = Fraction(25)
_FORMAT = "vidrestore-clip-truth-1"
_FINE = 3.0  # a face is drawn so much finer than the frame and averaged: no aliasing
_POINT_UNIT = 1 / 16  # px of a puppet's picture, in which points are stored
_OVER = 0.5  # a face less visible than this is not asked of a tracker


@dataclass(frozen=True, slots=True)
class Role:
    """What one puppet does in a shot."""

    person: int
    """Index into the scene's people."""
    moves: Array
    """(F, 9) in the order of :data:`vidrestore.train.puppets.MOVES`; NaN where he is not there."""


@dataclass(frozen=True, slots=True)
class Occluder:
    """A hand-like shape that passes in front of everybody."""

    path: Array
    """(F, 3): x and y of its middle in frame pixels, angle in radians; NaN where it is not there."""
    size_px: float
    seed: int


@dataclass(frozen=True, slots=True)
class Shot:
    """Frames without a cut. Roles are drawn in their order: the last one is nearest."""

    num_frames: int
    background: int
    """Seed."""
    roles: tuple[Role, ...] = ()
    occluders: tuple[Occluder, ...] = ()
    lures: int = 0
    """Drawn things that look like faces and are none."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip before it is drawn."""

    num_people: int
    width: int
    height: int
    shots: tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class TrueFace:
    """One face in one frame, as it is."""

    person: int
    """Number of the generated face."""
    points: Array
    """(468, 3): x, y in display pixels; z on the same scale, smaller is nearer."""
    rest: Array
    """(468, 3): the same face at rest, mouth and eyes as in the picture that it was made from, in the same pose."""
    pose: Pose
    visible: float
    """Share of the mesh's outline that nothing hides and that lies in the frame, in [0, 1]."""
    mouth: float
    """0 as in the picture, 1 wide open."""
    blink: float
    """0 as in the picture, 1 closed."""

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,) xyxy around the mesh."""
        return np.concatenate([self.points[:, :2].min(0), self.points[:, :2].max(0)]).astype(np.float32)

    @property
    def landmarks(self) -> Array:
        """(5, 2) eyes, nose, corners of the mouth."""
        return five_points(self.points)

    @property
    def counts(self) -> bool:
        """Enough of it is seen to ask that it be tracked."""
        return self.visible >= _OVER


@dataclass(frozen=True, slots=True)
class Level:
    """How a clip is degraded: detail lost, blur and noise on the small picture, then a codec at full size."""

    scale: float
    blur_px: float
    noise: float
    """Standard deviation, of 255."""
    codec: Literal["libx264", "mpeg2video", "ffv1"]
    quality: int
    """Rate factor of x264, quantiser of MPEG-2."""


LEVELS = {
    "light": Level(1.3, 0.4, 2.0, "libx264", 26),
    "medium": Level(1.8, 0.6, 3.0, "libx264", 29),
    "heavy": Level(2.6, 0.8, 5.0, "libx264", 34),
    "tape": Level(2.0, 0.8, 5.0, "mpeg2video", 12),
}


def _waves(rng: np.random.Generator, frames: int, amplitude: float, hertz: float) -> Array:
    """A smooth path without a repeat: three sines about a frequency, their sum within the amplitude."""
    t = np.arange(frames) / float(RATE)
    rates, phases = hertz * rng.uniform(0.6, 1.4, 3), rng.uniform(0, 2 * math.pi, 3)
    waves = np.sin(2 * math.pi * rates[:, None] * t + phases[:, None])
    return np.asarray(amplitude * np.array([0.5, 0.3, 0.2]) @ waves)


def _acting(
    rng: np.random.Generator,
    frames: int,
    centre: tuple[float, float],
    side: float,
    *,
    sway: float = 4.0,
    turn: float = 0.12,
    speech: float = 0.6,
    keys: bool = True,
) -> Array:
    """(F, 9) of somebody who stands somewhere: sways, turns a little, speaks and blinks.

    Args:
        rng: source of the paths.
        frames: F.
        centre: of the face in the frame, pixels.
        side: of the face's FFHQ crop in the frame, pixels.
        sway: pixels.
        turn: radians.
        speech: opening of the mouth.
        keys: the expression wanders.
    """
    moves = np.zeros((frames, len(MOVES)))
    moves[:, 0] = centre[0] + _waves(rng, frames, sway, 0.5)
    moves[:, 1] = centre[1] + _waves(rng, frames, 0.6 * sway, 0.6)
    moves[:, 2] = side / 512 * (1 + _waves(rng, frames, 0.02, 0.3))
    moves[:, 3] = _waves(rng, frames, 0.5 * turn, 0.5)
    moves[:, 4] = _waves(rng, frames, turn, 0.45)
    moves[:, 5] = _waves(rng, frames, 0.6 * turn, 0.5)
    syllables = np.maximum(_waves(rng, frames, 1.6, 2.6), 0.0) * (0.5 + 0.5 * np.sin(0.21 * np.arange(frames)) ** 2)
    moves[:, 6] = speech * np.clip(syllables, 0.0, 1.0)
    at = int(rng.integers(6, 14))
    while at < frames:  # a blink: two frames down, one shut, three up
        for step, share in zip(range(-2, 4), (0.45, 0.9, 1.0, 0.8, 0.5, 0.2), strict=True):
            if 0 <= at + step < frames:
                moves[at + step, 7] = share
        at += int(rng.integers(18, 32))
    if keys:
        moves[:, 8] = np.clip(0.5 + _waves(rng, frames, 0.5, 0.35), 0, 1)
    return moves


def _still(frames: int, rng: np.random.Generator) -> Scene:
    width, height = 400, 304
    role = Role(0, _acting(rng, frames, (200, 150), 270, sway=1.5, turn=0.03, speech=0.15))
    return Scene(1, width, height, (Shot(frames, 1, (role,)),))


def _talk(frames: int, rng: np.random.Generator) -> Scene:
    moves = _acting(rng, frames, (200, 150), 250, sway=12.0, turn=0.4, speech=0.8)
    return Scene(1, 400, 304, (Shot(frames, 2, (Role(0, moves),)),))


def _cross(frames: int, rng: np.random.Generator) -> Scene:
    width, height = 480, 272
    roles = []
    for person, (start, end, y, side) in enumerate([(80.0, 400.0, 128.0, 170.0), (410.0, 70.0, 140.0, 215.0)]):
        moves = _acting(rng, frames, (0.0, y), side, turn=0.15)
        pause = np.clip((np.arange(frames) / max(frames - 1, 1) - 0.12) / 0.76, 0, 1)
        moves[:, 0] += start + (end - start) * pause
        roles.append(Role(person, moves))
    return Scene(2, width, height, (Shot(frames, 3, tuple(roles)),))


def _hand(frames: int, rng: np.random.Generator) -> Scene:
    moves = _acting(rng, frames, (200, 150), 250, sway=5.0, turn=0.12, speech=0.7)
    t = np.linspace(0, 1, frames)
    path = np.stack([-60 + 520 * t, 215 - 70 * np.sin(math.pi * t), -0.5 + 0.6 * t], 1)
    return Scene(1, 400, 304, (Shot(frames, 4, (Role(0, moves),), (Occluder(path, 150.0, 5),)),))


def _leave(frames: int, rng: np.random.Generator) -> Scene:
    stays = _acting(rng, frames, (120, 136), 180)
    goes = _acting(rng, frames, (350, 136), 190)
    out = np.clip(np.sin(np.linspace(0, math.pi, frames)) * 1.9 - 0.5, 0, 1)
    goes[:, 0] += 300 * out
    return Scene(2, 480, 272, (Shot(frames, 5, (Role(0, stays), Role(1, goes))),))


def _approach(frames: int, rng: np.random.Generator) -> Scene:
    moves = _acting(rng, frames, (220, 140), 110, turn=0.15)
    moves[:, 2] *= np.exp(np.linspace(0, math.log(2.6), frames))
    return Scene(1, 440, 304, (Shot(frames, 6, (Role(0, moves),)),))


def _cuts(frames: int, rng: np.random.Generator) -> Scene:
    third = max(frames // 3, 4)
    shots = (
        Shot(third, 7, (Role(0, _acting(rng, third, (150, 140), 200, turn=0.2)),)),
        Shot(third, 8, (Role(1, _acting(rng, third, (300, 130), 220, turn=0.2)),), lures=2),
        Shot(max(frames - 2 * third, 4), 9, (), lures=3),
    )
    return Scene(2, 480, 272, shots)


SCENES: dict[str, Callable[[int, np.random.Generator], Scene]] = {
    "still": _still,
    "talk": _talk,
    "cross": _cross,
    "hand": _hand,
    "leave": _leave,
    "approach": _approach,
    "cuts": _cuts,
}
"""Name -> (frames, rng) -> scene."""


def render(scene: Scene, people: Sequence[Puppet]) -> Iterator[tuple[NDArray[np.uint8], list[TrueFace], int]]:
    """The clean frames of a scene: (height, width, 3) RGB, the faces in it from the farthest to the nearest, the shot.

    Args:
        scene: what happens.
        people: at least as many as it needs.

    Raises:
        ConfigError: too few people.
    """
    if len(people) < scene.num_people:
        raise ConfigError(f"the scene wants {scene.num_people} people, got {len(people)}")
    head = _head_mask()
    for number, shot in enumerate(scene.shots):
        hands = [(_hand_picture(o.seed), o) for o in shot.occluders]
        for i in range(shot.num_frames):
            picture = _background(shot.background, scene.height, scene.width, i / float(RATE))
            for lure in range(shot.lures):
                _draw_lure(picture, lure, shot.background)
            faces: list[tuple[TrueFace, NDArray[np.float32]]] = []
            for role in shot.roles:
                move = role.moves[i]
                if not np.isnan(move).any():
                    alpha = _paste(picture, picture_of(people[role.person], move), head, frame_from_face(move))
                    faces = [(face, free * (1 - alpha)) for face, free in faces]
                    face = true_face(people[role.person], move)
                    faces.append((face, _outline(face.points, scene.height, scene.width)))
            for hand, occluder in hands:
                if not np.isnan(occluder.path[i]).any():
                    alpha = _paste_hand(picture, hand, occluder.path[i], occluder.size_px)
                    faces = [(face, free * (1 - alpha)) for face, free in faces]
            done = [_seen(face, free) for face, free in faces]
            yield np.rint(picture.clip(0, 255)).astype(np.uint8), [face for face in done if face.visible > 0], number


def true_face(puppet: Puppet, move: Array, visible: float = 1.0) -> TrueFace:
    """The truth of a move."""
    matrix, scale = frame_from_face(move), float(move[2])
    at_rest = move.copy()
    at_rest[6:8] = 0.0
    placed, rest = (
        np.column_stack([apply(matrix, points[:, :2]), points[:, 2] * scale])
        for points in (pose(puppet, move), pose(puppet, at_rest))
    )
    turn = Pose(yaw=float(move[4]), pitch=float(move[5]), roll=float(move[3]))
    return TrueFace(puppet.number, placed, rest, turn, visible, float(move[6]), float(move[7]))


def _seen(face: TrueFace, free: NDArray[np.float32]) -> TrueFace:
    outline = np.rint(face.points[:, :2]).astype(np.float32)
    area = float(cv2.contourArea(cv2.convexHull(outline)))
    visible = float(np.clip(free.sum() / max(area, 1.0), 0.0, 1.0))
    return replace(face, visible=visible)


def _outline(points: Array, height: int, width: int) -> NDArray[np.float32]:
    hull = cv2.convexHull(np.rint(points[:, :2]).astype(np.int32))
    return np.asarray(cv2.fillConvexPoly(np.zeros((height, width), np.float32), hull, 1.0))


def _head_mask() -> NDArray[np.float32]:
    """Soft ellipse around head and hair in a puppet's picture."""
    y, x = np.mgrid[0:512, 0:512]
    radius = np.hypot((x - 255.5) / 225.0, (y - 250.0) / 250.0)
    return np.asarray(np.clip((1.0 - radius) / 0.12, 0, 1), np.float32)


def _background(seed: int, height: int, width: int, t_s: float) -> NDArray[np.float32]:
    """A blurred room of soft blocks with some texture, that drifts slowly."""
    rng = np.random.default_rng(seed)
    tint = rng.uniform(0.85, 1.15, 3)
    coarse = (rng.uniform(30, 150, (6, 8, 1)) * tint + rng.uniform(-12, 12, (6, 8, 3))).astype(np.float32)
    fine = np.repeat(rng.uniform(-9, 9, (height // 6, width // 6, 1)), 3, 2).astype(np.float32)
    size = (width + 64, height + 64)
    wide = np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), np.float32)
    wide = wide + np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_CUBIC), np.float32)
    shift = np.array([[1.0, 0, -32 + 12 * np.sin(0.8 * t_s)], [0, 1.0, -32 + 6 * np.cos(0.6 * t_s)]])
    moved = cv2.warpAffine(wide, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _draw_lure(picture: NDArray[np.float32], number: int, seed: int) -> None:
    """A skin-coloured disc with dark spots where eyes and a mouth would be, as sockets and headlights have."""
    rng = np.random.default_rng([seed, number, 11])
    height, width = picture.shape[:2]
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.8) * height
    r = rng.uniform(0.06, 0.11) * height
    colour = rng.uniform((140, 100, 80), (210, 170, 150)).tolist()

    def disc(dx: float, dy: float, rx: float, ry: float, paint: list[float]) -> None:
        centre = (round(x + dx * r), round(y + dy * r))
        axes = (max(1, round(rx * r)), max(1, round(ry * r)))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, paint, -1, cv2.LINE_AA)

    disc(0, 0, 0.9, 1.15, colour)
    for side in (-0.38, 0.38):
        disc(side, -0.25, 0.16, 0.12, [40.0, 35.0, 35.0])
    disc(0, 0.55, 0.38, 0.12, [90.0, 40.0, 40.0])


def _paste(
    picture: NDArray[np.float32], face: NDArray[np.float32], mask: NDArray[np.float32], matrix: Array
) -> NDArray[np.float32]:
    """Draws a head into the picture; gives the (H, W) share of each pixel that it covers."""
    height, width = picture.shape[:2]
    corners = apply(matrix, np.array([[0.0, 0.0], [511.0, 0.0], [0.0, 511.0], [511.0, 511.0]]))
    low = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 3, [width, height])
    alpha = np.zeros((height, width), np.float32)
    if (high <= low).any():
        return alpha
    size = high - low
    shift = np.array([[1.0, 0.0, -low[0]], [0.0, 1.0, -low[1]]])
    fine = compose(scale_about_pixel_edges(_FINE), compose(shift, matrix))
    large = (int(_FINE * size[0]), int(_FINE * size[1]))
    cover = cv2.warpAffine(mask, fine, large, flags=cv2.INTER_LINEAR)[..., None]
    head = cv2.warpAffine(face, fine, large, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * cover
    there = tuple(map(int, size))
    head = np.asarray(cv2.resize(head, there, interpolation=cv2.INTER_AREA), np.float32)
    part = np.asarray(cv2.resize(cover, there, interpolation=cv2.INTER_AREA), np.float32)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    alpha[window] = part
    picture[window] = picture[window] * (1 - part[..., None]) + head
    return alpha


def _hand_picture(seed: int) -> NDArray[np.float32]:
    """(256, 256, 4) RGB and cover, 0..255 and 0..1, of a hand with its fingers upwards: palm, four fingers, a thumb."""
    rng = np.random.default_rng([seed, 3])
    cover = np.zeros((256, 256), np.float32)
    cv2.ellipse(cover, (128, 172), (50, 54), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    cv2.line(cover, (120, 200), (110, 300), 1.0, 66, cv2.LINE_AA)  # the wrist
    for k, (x, length) in enumerate([(88, 92), (114, 112), (140, 108), (164, 84)]):
        tip = (round(x + (k - 1.5) * 7), round(160 - length))
        cv2.line(cover, (x, 160), tip, 1.0, 23, cv2.LINE_AA)
    cv2.line(cover, (166, 190), (216, 138), 1.0, 25, cv2.LINE_AA)
    skin = np.array([206.0, 160.0, 134.0]) * rng.uniform(0.6, 1.1)
    relief = cv2.GaussianBlur(cover, (0, 0), 9.0)
    shade = 0.55 + 0.45 * relief + 0.03 * (cv2.GaussianBlur(rng.normal(0, 1, (256, 256)), (0, 0), 3.0) * 9)
    return np.dstack([skin[None, None] * shade[..., None], cv2.GaussianBlur(cover, (0, 0), 1.0)]).astype(np.float32)


def _paste_hand(picture: NDArray[np.float32], hand: NDArray[np.float32], at: Array, size: float) -> NDArray[np.float32]:
    x, y, angle = at
    k = size / 256
    c, s = k * math.cos(angle), k * math.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([linear, np.array([x, y]) - linear @ [128.0, 140.0]])
    moved = cv2.warpAffine(hand, matrix, (picture.shape[1], picture.shape[0]), flags=cv2.INTER_LINEAR)
    alpha = np.asarray(moved[..., 3], np.float32)
    picture[:] = picture * (1 - alpha[..., None]) + moved[..., :3] * alpha[..., None]
    return alpha


def degrade_frame(frame: NDArray[np.uint8], level: Level, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a camera makes of a clean frame, before the codec: (H, W, 3), the same size."""
    height, width = frame.shape[:2]
    small_size = max(8, round(width / level.scale)), max(8, round(height / level.scale))
    small = cv2.resize(frame, small_size, interpolation=cv2.INTER_AREA)
    if level.blur_px > 0:
        small = cv2.GaussianBlur(small, (0, 0), level.blur_px)
    back = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    if level.noise > 0:
        back += rng.standard_normal(back.shape, dtype=np.float32) * np.float32(level.noise)
    return np.asarray(np.rint(back.clip(0, 255)), np.uint8)


def write_video(
    path: str | os.PathLike[str], frames: Sequence[NDArray[np.uint8]], codec: str, quality: int, speed: str = "fast"
) -> None:
    """A Matroska file of RGB frames: 25 frames a second, 4:2:0, BT.601, one thread, so that its bytes do not vary.

    Args:
        path: of the file.
        frames: (H, W, 3) uint8, even sides.
        codec: libx264, mpeg2video or ffv1.
        quality: rate factor of x264, quantiser of MPEG-2; nothing to FFV1.
        speed: x264's preset.
    """
    height, width = frames[0].shape[:2]
    options = {"threads": "1"}
    if codec == "libx264":
        options |= {"crf": str(quality), "preset": speed}
    elif codec == "mpeg2video":
        options |= {"qmin": str(quality), "qmax": str(quality), "g": "15"}
    with av.open(os.fspath(path), "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG"
            )
            picture.pts, picture.time_base = index, 1 / RATE
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@dataclass(frozen=True, slots=True)
class ClipTruth:
    """What is true of a clip."""

    frames: tuple[tuple[TrueFace, ...], ...]
    """For each frame its faces, the farthest first; those that are wholly hidden are left out."""
    shots: tuple[int, ...]
    """For each frame the index of its shot."""
    people: tuple[int, ...] = field(default=())
    """Numbers of the generated faces that act in it."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ClipTruth:
        """Reads the ``.json`` of a clip; points follow from the people and their moves.

        Raises:
            ConfigError: the file is missing or is none of these.
        """
        try:
            raw = json.loads(Path(path).read_text("utf-8"))
            if raw["format"] != _FORMAT:
                raise ValueError(f"format {raw['format']!r}")
            people = {int(number): _stored_puppet(int(number), text) for number, text in raw["people"].items()}
            frames = tuple(
                tuple(true_face(people[f["person"]], np.array(f["move"]), f["visible"]) for f in frame["faces"])
                for frame in raw["frames"]
            )
            return cls(frames, tuple(int(frame["shot"]) for frame in raw["frames"]), tuple(people))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: is no truth of a clip: {error}") from error


def _stored_puppet(number: int, text: str) -> Puppet:
    points = np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, 468, 3) * _POINT_UNIT
    return Puppet(number, np.zeros((len(points), 1, 1, 3), np.uint8), points)


def _rounded(puppet: Puppet) -> Puppet:
    """With the points that are stored."""
    points = np.rint(puppet.points / _POINT_UNIT).clip(-32768, 32767) * _POINT_UNIT
    return Puppet(puppet.number, puppet.pictures, points)


def make_clip(
    folder: Path, name: str, scene: Scene, people: Sequence[Puppet], level: Level, *, seed: int = 0, clean_crf: int = 10
) -> ClipTruth:
    """Draws a scene and writes ``NAME.mkv``, ``NAME_clean.mkv`` and ``NAME.json``.

    Args:
        folder: made if missing.
        name: of the files.
        scene: what happens.
        people: at least as many as it needs.
        level: how it is degraded.
        seed: of the noise.
        clean_crf: x264's rate factor of the clean file.
    """
    people = [_rounded(puppet) for puppet in people[: scene.num_people]]
    rng = np.random.default_rng([seed, 17])
    clean, bad, frames = [], [], []
    moves = [(shot, i) for shot in scene.shots for i in range(shot.num_frames)]
    for (picture, faces, number), (shot, i) in zip(render(scene, people), moves, strict=True):
        clean.append(picture)
        bad.append(degrade_frame(picture, level, rng))
        acted = {people[role.person].number: role.moves[i] for role in shot.roles}
        frames.append(
            {
                "shot": number,
                "faces": [
                    {
                        "person": face.person,
                        "move": [round(float(v), 5) for v in acted[face.person]],
                        "visible": round(face.visible, 3),
                    }
                    for face in faces
                ],
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{name}.mkv", bad, level.codec, level.quality)
    write_video(folder / f"{name}_clean.mkv", clean, "libx264", clean_crf, "slow")
    stored = {
        str(p.number): base64.b64encode(np.rint(p.points / _POINT_UNIT).astype("<i2").tobytes()).decode()
        for p in people
    }
    truth = {"format": _FORMAT, "people": stored, "frames": frames}
    (folder / f"{name}.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n", "utf-8")
    return ClipTruth.read(folder / f"{name}.json")


def make_clips(
    folder: Path,
    faces: Path,
    *,
    scenes: Sequence[str] = tuple(SCENES),
    level: str = "medium",
    num_frames: int = 60,
    first_face: int = 0,
    expressions: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Makes one clip of each scene that is asked for and not there yet; gives the names.

    Args:
        folder: where they go.
        faces: pictures of ``vidrestore train faces``; the first 128 were never trained on.
        scenes: names out of :data:`SCENES`.
        level: a name out of :data:`LEVELS`.
        num_frames: of each clip, 12 or more.
        first_face: number of the first face that acts; each scene, asked for or not, takes the next ones.
        expressions: let the expression wander along the generator's style too (a second per person).
        progress: told the name of each clip that was made.

    Raises:
        ConfigError: a name that is not known, a picture is missing, or what makes them is not installed.
    """
    unknown = [name for name in scenes if name not in SCENES]
    if unknown or level not in LEVELS:
        raise ConfigError(f"unknown scene or level {unknown or level!r}; known: {', '.join([*SCENES, *LEVELS])}")
    if num_frames < 12:
        raise ConfigError(f"a clip has 12 frames or more, got {num_frames}")
    names = []
    first = {}  # a scene's people and motion depend on its name alone, not on what else is asked for
    number = first_face
    for index, key in enumerate(SCENES):
        scene = SCENES[key](num_frames, np.random.default_rng([first_face, index, 23]))
        first[key] = index, scene, range(number, number + scene.num_people)
        number += scene.num_people
    for key in scenes:
        index, scene, numbers = first[key]
        name = f"{key}_{level}_{num_frames}" + (f"_{first_face}" if first_face else "")
        names.append(name)
        if not all((folder / f"{name}{end}").is_file() for end in (".mkv", "_clean.mkv", ".json")):
            people = load_puppets(faces, numbers, expressions=expressions)
            make_clip(folder, name, scene, people, LEVELS[level], seed=index)
            if progress is not None:
                progress(name)
    return names
