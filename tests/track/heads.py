"""Heads whose truth is known: drawn with the 3D model for the real regressor, or read by one that knows the scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vidrestore.config import TrackOptions
from vidrestore.geometry import Affine, apply, invert, mean_scale
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.render import render
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.track.face import FaceModel, FaceReader, Look
from vidrestore.track.given import GivenBoxes
from vidrestore.track.mesh import MeshTracker
from vidrestore.types import Detections, Frame, StreamInfo, Track, TrackedFrame

BOX = np.array([-0.65, -0.98, 0.66, 0.8])  # of YuNet about the pose, in its scale: mean over generated faces
EASE = 0.197  # pitch of a face that looks into the camera
SIZE = 160


@dataclass(frozen=True, slots=True)
class Head:
    """Somebody in one frame."""

    who: int
    x: float
    y: float
    scale: float = 36.0  # display pixels per unit: eyes 21 px apart
    yaw: float = 0.0
    roll: float = 0.0
    mouth: float = 0.0

    @property
    def pose(self) -> NDArray[np.float64]:
        return np.array([self.yaw, EASE, self.roll, math.log(self.scale), self.x, self.y])

    @property
    def identity(self) -> NDArray[np.float32]:
        return np.random.default_rng(self.who).normal(0, 0.8, 80).astype(np.float32)

    @property
    def texture(self) -> NDArray[np.float32]:
        return np.random.default_rng(1000 + self.who).normal(0, 0.8, 80).astype(np.float32)

    @property
    def expression(self) -> NDArray[np.float32]:
        return (self.mouth * mouth_direction()).astype(np.float32)

    @property
    def anchors(self) -> NDArray[np.float64]:
        return face_model().place(face_model().five(self.identity), self.pose)[:, :2]

    @property
    def mesh(self) -> NDArray[np.float64]:
        return face_model().place(face_model().shape(self.identity, self.expression), self.pose)

    @property
    def box(self) -> NDArray[np.float64]:
        return BOX * self.scale + np.tile([self.x, self.y], 2)


@cache
def face_model() -> FaceModel:
    return FaceModel()


@cache
def morphable() -> MorphableModel:
    return load_vr468()


@cache
def mouth_direction() -> NDArray[np.float64]:
    """(64,) the expression that opens the lips most for its size."""
    basis = morphable().expression_basis.numpy().reshape(-1, 3, 64)
    opening = basis[13, 1] - basis[14, 1]  # inner lips, upper minus lower, upwards
    return np.asarray(opening / np.linalg.norm(opening), np.float64)


def lip_gap(mesh: NDArray[np.floating]) -> float:  # type: ignore[type-arg]
    """Pixels between the inner lips."""
    return float(np.linalg.norm(mesh[14, :2] - mesh[13, :2]))


def detections(heads: Sequence[Head], score: float = 0.9) -> Detections:
    """What a detector that never errs would find."""
    if not heads:
        return Detections.none()
    boxes = np.array([head.box for head in heads], np.float32)
    points = np.array([head.anchors for head in heads], np.float32)
    return Detections(boxes, points, np.full(len(heads), score, np.float32))


def picture(heads: Sequence[Head], index: int, *, shot: int = 0, size: int = SIZE) -> Frame:
    """A frame with heads drawn on a soft background, later ones in front."""
    rows, columns = np.mgrid[:size, :size]
    rgb = np.stack([90 + 20 * np.sin(columns / 11 + c) + 15 * np.cos(rows / 17 - c) for c in range(3)], -1)
    model = morphable()
    for head in heads:
        shape = torch.from_numpy(face_model().shape(head.identity, head.expression)[None])
        angles = torch.tensor([[EASE, head.yaw, -head.roll]], dtype=torch.float32)
        normals = model.normals(shape) @ model.rotation(angles)
        light = torch.zeros(1, 27)
        light[0, [2, 11, 20]] = -0.15  # a little from one side of the axis: shading shows the shape
        colours = model.light(model.texture(torch.from_numpy(head.texture[None])), normals, light)
        seen = torch.from_numpy(head.mesh[None].astype(np.float32))
        drawn, mask = render(seen[..., :2].contiguous(), 1000.0 - seen[..., 2], model.triangles, colours, size)
        inside = mask[0].numpy() > 0
        rgb[inside] = drawn[0].permute(1, 2, 0).numpy()[inside]
    return frame_from_rgb(np.clip(rgb, 0, 255).astype(np.uint8), index, shot=shot)


def blank(index: int, *, shot: int = 0, size: int = SIZE) -> Frame:
    """A frame for readers that do not look."""
    return frame_from_rgb(np.zeros((size, size, 3), np.uint8), index, shot=shot)


Scene = Callable[[int], Sequence[Head]]


class KnowingReader(FaceReader):
    """Reads the scene's truth instead of pixels: the head whose place is nearest to the middle of the crop."""

    def __init__(self, scene: Scene, *, tremble: float = 0.0) -> None:
        self.model = face_model()
        self.num_read = 0
        self._scene = scene
        self._tremble = tremble

    def read(self, frames: Sequence[Frame], maps: Sequence[Affine]) -> list[Look]:
        self.num_read += len(frames)
        return [self._one(frame.index, m) for frame, m in zip(frames, maps, strict=True)]

    def glance(self, frame: Frame, anchors: ArrayLike) -> NDArray[np.float32]:
        middle = np.asarray(anchors, np.float64).mean(0)
        heads = sorted(self._scene(frame.index), key=lambda head: float(np.hypot(*(middle - (head.x, head.y)))))
        patch = np.zeros((34, 32), np.float32)
        patch[20:30, 10:22] = 50.0 * heads[0].mouth if heads else 0.0
        return patch

    def _one(self, index: int, crop_from_display: Affine) -> Look:
        middle = apply(invert(crop_from_display), (64.0, 72.0))
        eyes = 31.0 / mean_scale(crop_from_display)
        heads = sorted(self._scene(index), key=lambda head: float(np.hypot(*(middle - (head.x, head.y)))))
        zeros = np.zeros(80, np.float32)
        if not heads or np.hypot(*(middle - (heads[0].x, heads[0].y))) > 1.2 * eyes:
            pose = np.array([0.0, EASE, 0.0, math.log(eyes / 0.59), *middle])
            return Look(pose, zeros, zeros[:64], zeros, zeros[:27], 0.05, 0.0)
        head = heads[0]
        pose = head.pose + np.random.default_rng(index).normal(0, self._tremble, 6) * [0, 0, 0, 0, 1, 1]
        return Look(pose, head.identity, head.expression, head.texture, zeros[:27], 0.85, 0.0)


@dataclass(slots=True)
class Run:
    """What came out of a clip."""

    tracked: list[TrackedFrame]
    asked: list[int] = field(default_factory=list)
    """Frames that the detector looked at."""

    def of(self, person: int) -> dict[int, Track]:
        """{frame index: track} of one id."""
        return {t.frame.index: track for t in self.tracked for track in t.tracks if track.id == person}

    @property
    def ids(self) -> set[int]:
        return {track.id for t in self.tracked for track in t.tracks}


def follow(
    scene: Scene,
    count: int,
    options: TrackOptions | None = None,
    *,
    reader: FaceReader | None = None,
    look: Callable[[Frame], Detections] | None = None,
    shots: Sequence[int] | None = None,
    given: GivenBoxes | None = None,
    draws: bool = False,
    every: int = 1,
) -> Run:
    """Runs a scene through the tracker."""
    asked: list[int] = []

    def found(frame: Frame) -> Detections:
        asked.append(frame.index)
        return look(frame) if look is not None else detections(scene(frame.index))

    tracker = MeshTracker(
        options or TrackOptions(), reader or KnowingReader(scene), (SIZE, SIZE), every=every, given=given
    )
    tracked: list[TrackedFrame] = []
    for index in range(count):
        shot = shots[index] if shots else 0
        frame = picture(scene(index), index, shot=shot) if draws else blank(index, shot=shot)
        tracked += tracker.update(frame, found)
    return Run(tracked + tracker.flush(), asked)


def stream() -> StreamInfo:
    """Of the drawn frames."""
    return info_of_frames(blank(0))
