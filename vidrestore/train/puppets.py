"""Generated faces that act: a still picture and the teacher's points become a head that turns, speaks and blinks.

A :class:`Puppet` is one person: one or more *key* pictures (expressions, made by moving the generator's style) and the
teacher's 468 points in each. A move says how it is posed; :func:`pose` gives the points that result, exactly, and
:func:`picture_of` the picture, warped over the mesh. What is around the face follows the outline and fades to rest, so
that hair and chin do not tear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.geometry import Affine
from vidrestore.kernels.rasterize import draw
from vidrestore.morphable.files import load_vr468
from vidrestore.train.facemesh import FaceMesh
from vidrestore.train.faces import FaceGenerator
from vidrestore.train.meshes import INNER_LIPS, close_eyes, open_mouth, turn_head

__all__ = [
    "FIVE",
    "MOVES",
    "Puppet",
    "five_points",
    "frame_from_face",
    "load_puppets",
    "picture_of",
    "pose",
    "triangles",
]

Array = NDArray[np.float64]

SIDE = 512
"""Of a puppet's pictures, in pixels; they are aligned as FFHQ's."""

MOVES = ("x", "y", "scale", "roll", "yaw", "pitch", "mouth", "blink", "key")
"""What a move is made of, in order: x and y of the middle of the face in the frame, in pixels; frame pixels per pixel
of the picture; roll, yaw and pitch in radians, with the signs of :class:`vidrestore.types.Pose`; how far mouth and lids
are moved, from 0 as in the picture to 1 wide open or closed; and the expression, from key picture 0 to the last.
"""

FIVE = ((33, 133, 159, 145), (263, 362, 386, 374), (4,), (61,), (291,))
"""Vertices whose means are the five points: the eyes on the picture's left and right, nose, corners of the mouth."""

_MIDDLE = np.array([255.5, 300.0])  # of a face in FFHQ's crop
_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of FaceMesh's topology, clockwise from the top of the forehead."""
_RINGS = ((1.22, 0.6), (1.75, 0.0))  # around the outline: how far out, and what share of its motion they have
_FAR = 300.0 * SIDE  # where the face is looked at from: so far that the picture is carried over a triangle evenly
_GAP_RGB = (58.0, 20.0, 22.0)  # what is seen in an open mouth


@dataclass(frozen=True, slots=True)
class Puppet:
    """One generated person."""

    number: int
    """Of the face, which is its seed."""
    pictures: NDArray[np.uint8]
    """(K, 512, 512, 3) RGB, the expressions."""
    points: Array
    """(K, 468, 3) of the teacher in them: pixels, z smaller is nearer."""

    def __repr__(self) -> str:
        return f"Puppet({self.number}, {len(self.pictures)} expressions)"


def load_puppets(folder: Path, numbers: Sequence[int], *, expressions: bool = False) -> list[Puppet]:
    """People from pictures of ``vidrestore train faces``.

    Args:
        folder: of ``NNNNN.jpg``.
        numbers: of the faces.
        expressions: make a second key picture of each with the generator, on the way to another style (a second each).

    Raises:
        ConfigError: a picture is missing, or the teacher (or the generator) is not installed.
    """
    teacher = FaceMesh()
    generator = _generator() if expressions else None
    puppets = []
    for number in numbers:
        path = folder / f"{number:05d}.jpg"
        read = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if read is None:
            raise ConfigError(f"{path}: expected a picture of a generated face, see vidrestore train faces")
        pictures = [np.ascontiguousarray(cv2.resize(read, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[..., ::-1])]
        if generator is not None:
            own, other = generator.style(number), generator.style(number + 500_000)
            pictures.append(generator.picture((own + 0.22 * (other - own)).astype(np.float32)))
        found = [teacher.find(np.asarray(picture, np.uint8))[0] for picture in pictures]
        puppets.append(Puppet(number, np.stack(pictures), np.stack(found)))
    return puppets


@cache
def _generator() -> FaceGenerator:
    return FaceGenerator(1)  # its mean style takes two thousand looks


@cache
def triangles() -> NDArray[np.int64]:
    """(T, 3) of the FaceMesh topology."""
    return np.asarray(load_vr468().triangles.numpy(), np.int64)


def pose(puppet: Puppet, move: Array) -> Array:
    """(468, 3) points of a move, in pixels of the puppet's picture; place, scale and roll are not in them.

    Args:
        puppet: the person.
        move: (9,) in the order of :data:`MOVES`.
    """
    yaw, pitch, mouth, blink, key = move[4:]
    points = _between(puppet.points, key)
    points = close_eyes(open_mouth(points, mouth), (blink, blink))
    return turn_head(points, yaw, pitch)


def _between(points: Array, key: float) -> Array:
    at = key * (len(points) - 1)
    low = min(int(at), max(len(points) - 2, 0))
    if len(points) == 1:
        return np.asarray(points[0])
    return np.asarray((1 - at + low) * points[low] + (at - low) * points[low + 1])


def frame_from_face(move: Array) -> Affine:
    """The map from the puppet's picture to the frame."""
    x, y, scale, roll = move[:4]
    c, s = scale * math.cos(roll), scale * math.sin(roll)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, np.array([x, y]) - linear @ _MIDDLE])


def five_points(points: NDArray[np.floating]) -> Array:
    """(5, 2) of (468, 2 or 3): eyes, nose, corners of the mouth."""
    return np.stack([np.asarray(points[list(vertices), :2], np.float64).mean(0) for vertices in FIVE])


def picture_of(puppet: Puppet, move: Array) -> NDArray[np.float32]:
    """(512, 512, 3) RGB, 0..255, of a move; place, scale and roll are not in it."""
    after = pose(puppet, move)
    key = float(move[8]) * (len(puppet.pictures) - 1)
    low = min(int(key), len(puppet.pictures) - 1)
    picture = _warped(puppet, low, after)
    if key - low > 1e-6:
        share = np.float32(key - low)
        picture = picture * (1 - share) + _warped(puppet, low + 1, after) * share
    return _with_gap(picture, after, float(move[6]), puppet.points[low])


def _warped(puppet: Puppet, key: int, after: Array) -> NDArray[np.float32]:
    before = puppet.points[key]
    old, new, depth, faces = _with_rings(before, after)
    sources, seen = draw(new[None], depth[None], faces, old[None].astype(np.float32), SIDE)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    there = seen[0] >= 0
    at = np.where(there, sources[0, 0], x), np.where(there, sources[0, 1], y)
    moved = cv2.remap(puppet.pictures[key], *at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _with_rings(before: Array, after: Array) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Vertices before and after, (468 + 72, 2) each, their depth, and the triangles, face and surroundings."""
    oval = np.array(_OVAL)
    centre = before[oval, :2].mean(0)
    motion = after[oval, :2] - before[oval, :2]
    old, new, depth = [before[:, :2]], [after[:, :2]], [after[:, 2]]
    for reach, share in _RINGS:
        ring = centre + reach * (before[oval, :2] - centre)
        old.append(ring)
        new.append(ring + share * motion)
        depth.append(after[oval, 2].max() + reach * SIDE + np.zeros(len(oval)))
    strips = [triangles()]
    n = len(oval)
    inner = oval
    for k in range(len(_RINGS)):
        outer = len(before) + k * n + np.arange(n)
        i, o = np.roll(inner, -1), np.roll(outer, -1)
        strips += [np.stack([inner, outer, i], 1), np.stack([i, outer, o], 1)]
        inner = outer
    return np.concatenate(old), np.concatenate(new), np.concatenate(depth) + _FAR, np.concatenate(strips)


def _with_gap(picture: NDArray[np.float32], after: Array, mouth: float, before: Array) -> NDArray[np.float32]:
    """Darkens what lies between lips that were closed in the picture; teeth that were seen stay."""
    was_open = float(np.linalg.norm(before[14] - before[13]) / np.linalg.norm(before[263, :2] - before[33, :2]))
    share = min(1.0, 4.0 * mouth) * max(0.0, 1.0 - was_open / 0.08)
    if share <= 0.0:
        return picture
    outline = np.rint(after[list(INNER_LIPS), :2] * 16).astype(np.int32)
    gap = cv2.fillPoly(np.zeros((SIDE, SIDE), np.float32), [outline], 1.0, cv2.LINE_AA, 4)
    soft = share * cv2.GaussianBlur(cv2.erode(gap, np.ones((3, 3))), (0, 0), 1.2)[..., None]
    return np.asarray(picture * (1 - soft) + np.array(_GAP_RGB, np.float32) * soft, np.float32)
