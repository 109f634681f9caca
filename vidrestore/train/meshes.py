"""Samples for all that learns with the 3D model: a degraded crop, the clean one, and the teacher's points in it.

The teacher looks at the clean face once; its points follow every move of the picture. Faces are turned to profiles and
their eyes are closed by warping the picture over the teacher's own mesh, since generated people look into the camera
with open eyes and real ones do not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vidrestore.errors import ConfigError
from vidrestore.kernels.rasterize import draw
from vidrestore.morphable.files import load_vr468
from vidrestore.train.data import (
    DAMAGE,
    FaceCache,
    Hiding,
    Recolour,
    apply_hiding,
    apply_recolour,
    apply_texture,
    draw_hiding,
    draw_recolour,
    stream,
    texture_or_none,
    to_bytes,
)
from vidrestore.train.degrade import Picture, degrade
from vidrestore.train.eyes import EyeReader
from vidrestore.train.facemesh import FaceMesh
from vidrestore.train.paper_degrade import BlindLevel, degrade_blind
from vidrestore.train.run import Clock, rng_at
from vidrestore.train.vr468 import LIDS, Mesh

__all__ = [
    "INNER_LIPS",
    "MeshPairs",
    "MeshPlan",
    "PointCache",
    "SampleSource",
    "StoredSamples",
    "close_eyes",
    "draw_level",
    "draw_wide_move",
    "fill_mouth",
    "mirrored",
    "open_mouth",
    "paint_lids",
    "turn_head",
    "warp_mesh",
]

Array = NDArray[np.float64]

_JAW_RAD = 0.30  # a mouth wide open
_LOWER = {
    1.0: (
        14,
        87,
        317,
        17,
        84,
        314,
        181,
        405,
        15,
        86,
        316,
        16,
        85,
        315,
        18,
        83,
        313,
        200,
        199,
        175,
        152,
        148,
        377,
        176,
        400,
    ),
    0.9: (178, 402, 91, 321, 179, 403, 180, 404, 149, 378),
    0.7: (88, 318, 146, 375, 89, 319, 90, 320, 150, 379),
    0.4: (95, 324, 96, 325, 77, 307),
    0.3: (61, 291, 78, 308, 62, 292, 76, 306),
}
_UPPER = (
    *(13, 82, 312, 81, 311, 80, 310, 191, 415, 0, 37, 267, 39, 269, 40, 270, 185, 409, 12, 38, 268, 41, 271, 42, 272),
    *(11, 72, 302, 73, 303, 74, 304, 1, 2, 4, 98, 327, 94, 164, 234, 454, 127, 356, 10, 109, 338, 33, 263, 168),
)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
"""The inner lips, around the mouth: the upper one from the picture's left to its right, the lower one back."""
_GAP_RGB = ((20.0, 70.0), (8.0, 30.0), (8.0, 32.0))  # what is seen in an open mouth: darkest and brightest
_UNDER_EYES = {145: (110, 24, 23, 22), 374: (339, 254, 253, 252)}  # by the lower lid's fourth vertex
_TEETH_RGB = (226.0, 214.0, 202.0)
_FOREHEAD = 10  # its top, on the outline
_UNLIKE, _FIRST_IDENTITIES = 1.6, 30  # how far faces are reshaped, in deviations of identity, and along which of them
_FADE = 0.5  # the outline's stillness ends so far inside, in distances between the eyes' outer corners
_TRUSTED = 22.0  # score of the teacher; below it one face in a hundred


@dataclass(frozen=True, slots=True)
class PointCache:
    """The teacher's points of a folder of pictures."""

    points: NDArray[np.float32]
    """(F, 468, 3): x, y in shares of the picture's side from its corner, z on the same scale, smaller is nearer."""
    trusted: NDArray[np.bool_]
    """(F,) False where the teacher is not sure."""

    @classmethod
    def of(cls, paths: Sequence[Path], file: str | os.PathLike[str], *, lids: bool = False) -> PointCache:
        """Reads them from a ``.npz``, or looks at every picture (about 20 ms each) and writes it.

        Args:
            paths: square pictures of aligned faces.
            file: made anew where its list of names is another one, or where it was made without the lids that are
                asked for.
            lids: the lids' points are those of :class:`vidrestore.train.eyes.EyeReader` (10 ms more each).

        Raises:
            ConfigError: a picture cannot be read, or the teacher is not installed.
        """
        target = Path(file)
        names = [path.name for path in paths]
        if target.is_file():
            with np.load(target) as stored:
                if list(stored["names"]) == names and lids <= bool(stored.get("lids", False)):
                    return cls(stored["points"], stored["scores"] > _TRUSTED)
        teacher, eyes = FaceMesh(), EyeReader() if lids else None
        rows, scores = [], []
        for path in paths:
            picture = _read(path)
            found, score = teacher.find(picture)
            rows.append(_shares(eyes.refine(picture, found) if eyes is not None else found, picture.shape[0]))
            scores.append(score)
        points, sure = np.stack(rows).astype(np.float32), np.array(scores, dtype=np.float32)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, points=points, scores=sure, names=np.array(names), lids=np.array(lids))
        return cls(points, sure > _TRUSTED)


def _read(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ConfigError(f"{path}: expected a picture of an aligned face")
    return np.ascontiguousarray(cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA)[..., ::-1])


def _shares(points: Array, side: int) -> Array:
    return np.asarray((points + np.array([0.5, 0.5, 0.0])) / side)


def warp_mesh(
    picture: NDArray[np.uint8], before: Array, after: Array, triangles: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Moves the surface of a face, hidden parts behind the seen ones; what is around the face stays.

    Args:
        picture: (S, S, 3) uint8.
        before: (468, 3) points in pixels, z smaller is nearer.
        after: (468, 3) where they go.
        triangles: (T, 3).
    """
    size = picture.shape[0]
    sources, seen = draw(
        after[None, :, :2], after[None, :, 2] + 10.0 * size, triangles, before[None, :, :2].astype(np.float32), size
    )
    soft = cv2.GaussianBlur(cv2.erode((seen[0] >= 0).astype(np.float32), np.ones((3, 3))), (0, 0), size / 160.0)
    inside = cv2.erode((seen[0] >= 0).astype(np.uint8), np.ones((3, 3)))
    soft = np.minimum(soft, cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0))[..., None]
    moved = cv2.remap(picture, sources[0, 0], sources[0, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.rint(picture * (1 - soft) + moved * soft), dtype=np.uint8)


def turn_head(points: Array, yaw: float, pitch: float) -> Array:
    """(468, 3) points turned about the middle of the head, which lies behind the face.

    Args:
        points: x right, y down, z away.
        yaw: radians, > 0 turns the nose to the right of the picture.
        pitch: radians, > 0 lowers the nose.
    """
    width = float(np.ptp(points[:, 0]))
    centre = points.mean(0) + np.array([0.0, 0.0, 0.25 * width])
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    about_y = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    return np.asarray((points - centre) @ (about_x @ about_y).T + centre)


def reshape_face(points: Array, rng: np.random.Generator) -> Array:
    """(468, 3) points of somebody else in the same pose and outline: features moved along ``vr468``'s identities.

    A generator's faces are alike in ways that people are not. A picture warped so is 0.26 away from what it was by
    dlib's embedding (16 faces), where two pictures of one person may be 0.6.

    Args:
        points: of the teacher.
        rng: of the identity.
    """
    model, inner = load_vr468(), _inner_weights()
    drawn = rng.normal(0.0, _UNLIKE, _FIRST_IDENTITIES)
    move = (model.identity_basis[:, :_FIRST_IDENTITIES].numpy() @ drawn).reshape(-1, 3) * inner[:, None]
    mean = model.mean_shape.numpy().astype(np.float64)
    mean = mean - mean.mean(0)
    left, values, right = np.linalg.svd((points - points.mean(0)).T @ mean)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])  # a turn, not a mirror (Umeyama 1991)
    turn = (left * signs) @ right
    scale = float((values * signs).sum() / np.square(mean).sum())
    return np.asarray(points + scale * move @ turn.T)


@cache
def _inner_weights() -> Array:
    """(468,) 0 on the mesh's outline, 1 well inside it: what is around a face stays where it is."""
    model = load_vr468()
    edges = np.sort(model.triangles.numpy()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
    single, counts = np.unique(edges, axis=0, return_counts=True)
    outline, grown = {_FOREHEAD}, True
    while grown:  # the loop that the top of the forehead lies on; eyes and mouth have loops of their own
        more = {int(v) for edge in single[counts == 1] if outline & set(edge.tolist()) for v in edge}
        outline, grown = outline | more, not more <= outline
    mean = model.mean_shape.numpy()
    away = np.linalg.norm(mean[:, None] - mean[sorted(outline)], axis=2).min(1)
    share = np.clip(away / (_FADE * np.linalg.norm(mean[33] - mean[263])), 0.0, 1.0)
    return np.asarray(share * share * (3.0 - 2.0 * share), np.float64)


def close_eyes(points: Array, shares: tuple[float, float]) -> Array:
    """(468, 3) points with the lids moved together.

    Args:
        points: of the teacher.
        shares: of the way to closed, for the eye on the picture's left and the one on its right.
    """
    result = points.copy()
    for share, (upper, lower, crease) in zip(shares, LIDS, strict=True):
        for u, low, c in zip(upper, lower, crease, strict=True):
            move = 0.95 * share * (points[low] - points[u])
            result[u] += move
            result[c] += 0.4 * move
    return result


@cache
def _jaw_weights() -> Array:
    """(468,) how much a vertex goes with the jaw: given on lips, chin and skull, harmonic over the mesh in between."""
    count = 468
    fixed = dict.fromkeys(_UPPER, 0.0) | {v: share for share, vertices in _LOWER.items() for v in vertices}
    laplacian = np.zeros((count, count))
    for a, b, c in load_vr468().triangles.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            laplacian[i, j] = laplacian[j, i] = -1.0
    np.fill_diagonal(laplacian, -laplacian.sum(1))
    right = np.zeros(count)
    for vertex, share in fixed.items():
        laplacian[vertex] = 0.0
        laplacian[vertex, vertex], right[vertex] = 1.0, share
    return np.asarray(np.linalg.solve(laplacian, right))


def open_mouth(points: Array, share: float) -> Array:
    """(468, 3) points with the jaw turned about the line through the ears.

    Args:
        points: of the teacher.
        share: from 0 as it is to 1 wide open.
    """
    hinge = (points[234] + points[454]) / 2
    angle = _JAW_RAD * share * _jaw_weights()
    y, z = points[:, 1] - hinge[1], points[:, 2] - hinge[2]
    result = points.copy()
    result[:, 1] = hinge[1] + y * np.cos(angle) - z * np.sin(angle)
    result[:, 2] = hinge[2] + z * np.cos(angle) + y * np.sin(angle)
    return result


def fill_mouth(picture: NDArray[np.uint8], before: Array, after: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Darkens what lies between lips that were closed before the jaw was turned, in half of the cases under teeth.

    Args:
        picture: (S, S, 3) uint8 RGB, warped.
        before: (468, 3) points before the move.
        after: (468, 3) points in the picture.
        rng: of the colours.
    """
    unit = float(np.linalg.norm(before[263, :2] - before[33, :2]))
    was, now = (float(np.linalg.norm(p[14] - p[13])) / unit for p in (before, after))
    share = min(1.0, 12.0 * max(0.0, now - was)) * max(0.0, 1.0 - was / 0.08)
    dark = np.array([rng.uniform(*ends) for ends in _GAP_RGB], np.float32)
    teeth = rng.uniform(0.15, 0.45) if rng.random() < 0.5 else 0.0
    shade = rng.uniform(0.45, 1.0)
    if share <= 0.0:
        return picture
    lips = after[list(INNER_LIPS), :2]
    shown = _painted(picture, lips, dark, share)
    if teeth > 0.0:
        upper, lower = lips[:11], np.concatenate([lips[:1], lips[:10:-1], lips[10:11]])  # corner to corner
        edge = upper + teeth * (lower - upper)
        shown = _painted(shown, np.concatenate([upper, edge[::-1]]), shade * np.array(_TEETH_RGB, np.float32), share)
    return shown


def paint_lids(
    picture: NDArray[np.uint8], after: Array, shares: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Skin and lashes of lids that were closed by a warp, which stretches their narrow strip and its lashes.

    Args:
        picture: (S, S, 3) uint8 RGB, warped.
        after: (468, 3) points in the picture.
        shares: of the way to closed, as for :func:`close_eyes`.
        rng: of the colours.
    """
    size = picture.shape[0]
    for share, (upper, lower, crease) in zip(shares, LIDS, strict=True):
        strength = rng.uniform(0.4, 0.9) * min(1.0, 1.5 * share)
        lashes = rng.uniform(0.2, 0.8) * share
        if share <= 0.0:
            continue
        around = np.rint(after[[*crease, *_UNDER_EYES[lower[3]]], :2]).astype(int).clip(0, size - 1)
        skin = np.median(picture[around[:, 1], around[:, 0]], 0).astype(np.float32) * np.float32(rng.uniform(0.8, 1.0))
        lid = np.concatenate([after[list(upper), :2], after[list(crease)[::-1], :2]])
        picture = _painted(picture, lid, skin, strength)
        line = cv2.polylines(
            np.zeros((size, size), np.float32),
            [np.rint(after[list(upper), :2] * 16).astype(np.int32)],
            False,
            1.0,
            max(1, round(size / 200)),
            cv2.LINE_AA,
            4,
        )
        soft = np.float32(lashes) * cv2.GaussianBlur(line, (0, 0), 0.7)[..., None]
        picture = np.asarray(np.rint(picture * (1 - soft) + 0.3 * skin * soft), np.uint8)
    return picture


def _painted(
    picture: NDArray[np.uint8], outline: Array, colour: NDArray[np.float32], share: float
) -> NDArray[np.uint8]:
    """Blends a colour into a polygon with soft edges."""
    size = picture.shape[0]
    area = cv2.fillPoly(
        np.zeros((size, size), np.float32), [np.rint(outline * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4
    )
    soft = np.float32(share) * cv2.GaussianBlur(area, (0, 0), size / 400.0)[..., None]
    return np.asarray(np.rint(picture * (1 - soft) + colour * soft), np.uint8)


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """What is drawn for one sample of :class:`MeshPairs`."""

    number: int
    """Of the face."""
    other: int
    """Of another face, of which a part may be in front."""
    matrix: NDArray[np.float64]
    """(2, 3) crop_from_face."""
    hiding: Hiding
    colour: Recolour
    level: int
    """Of the degradation: a place in :data:`vidrestore.train.data.DAMAGE`."""
    texture: NDArray[np.float32] | None
    """(S, S, 1) of the clean crop."""
    rng: np.random.Generator
    """Where the numbers of the degradation are drawn next."""
    face: NDArray[np.uint8]
    """(S', S', 3) RGB, warped over its mesh."""
    points: Array
    """(468, 3) of the teacher, in pixels of the crop."""


class MeshPairs(Dataset[dict[str, Tensor]]):
    """Samples made on the fly; number i depends on (seed, i) alone.

    A sample holds ``degraded`` and ``clean``, (3, S, S) uint8 RGB; ``points``, (468, 3) float32 in pixels of the crop,
    z on their scale and smaller when nearer; ``face``, the number in the cache; and ``level``, a place in
    :data:`vidrestore.train.data.DAMAGE`. What hides a part of the face is in both pictures.

    Args:
        cache: faces.
        points: of the same faces.
        mesh: topology.
        size: S, side of the crops in pixels.
        seed: of the whole stream.
        wide: share of the samples whose crop is off by as much as a tracker can be after a fast move.
        turned: share whose head is turned further.
        blinking: share whose eyes are closed in part.
        speaking: share whose mouth is opened, up to as wide as it goes.
        painted: share of the closed eyes whose lids are painted over the warp.
        stills: share that is degraded as CodeFormer's training does, in half of the cases largely.
        texture: share whose clean picture gets skin texture or grain first (:class:`vidrestore.train.data.Mix`).
        reshaped: share whose features are somebody else's (:func:`reshape_face`).
    """

    def __init__(
        self,
        cache: FaceCache,
        points: PointCache,
        mesh: Mesh,
        *,
        size: int,
        seed: int,
        wide: float = 0.4,
        turned: float = 0.25,
        blinking: float = 0.2,
        speaking: float = 0.0,
        painted: float = 0.0,
        stills: float = 0.0,
        texture: float = 0.0,
        reshaped: float = 0.0,
    ) -> None:
        self.cache, self.points, self.mesh, self.size, self.seed = cache, points, mesh, size, seed
        self.wide, self.turned, self.blinking = wide, turned, blinking
        self.speaking, self.painted = speaking, painted
        self.stills, self.texture, self.reshaped = stills, texture, reshaped
        if len(points.points) != len(cache):
            raise ConfigError(f"{len(cache)} faces and points of {len(points.points)}")
        self._usable = np.flatnonzero(points.trusted)

    def plan(self, index: int) -> MeshPlan:
        """A face, warped over its mesh, and all else that is drawn for a sample before its degradation."""
        epoch, place = divmod(index, len(self._usable))
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self._usable))
        rng = np.random.default_rng([self.seed, 2, index])
        number = int(self._usable[order[place]])
        face, side = self.cache.pictures[number], self.cache.side
        points = self.points.points[number].astype(np.float64) * side - [0.5, 0.5, 0.0]
        face, points = self._reshape(np.asarray(face), points, rng)
        matrix = draw_wide_move(rng, self.size, side, wide=rng.random() < self.wide)
        points = _moved(points, matrix, self.mesh)
        other = int(rng.integers(len(self.cache)))
        hiding, colour = draw_hiding(rng, self.size, side), draw_recolour(rng)
        level = draw_level(rng, self.stills)
        rough = texture_or_none(rng, self.size, self.texture)
        return MeshPlan(number, other, matrix, hiding, colour, level, rough, rng, face, points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        plan = self.plan(index)
        clean = _shown(plan.face, plan.matrix, self.size)
        clean = apply_recolour(apply_hiding(clean, self.cache.pictures[plan.other], plan.hiding), plan.colour)
        if plan.texture is not None:
            clean = apply_texture(clean, plan.texture)
        degraded, level = clean, DAMAGE[plan.level]
        if isinstance(level, BlindLevel):
            degraded = degrade_blind(clean, level, plan.rng)
        elif level is not None:
            degraded = degrade(clean, level, plan.rng)
        return {
            "degraded": to_bytes(degraded),
            "clean": to_bytes(clean),
            "points": torch.from_numpy(plan.points.astype(np.float32)),
            "face": torch.tensor(plan.number),
            "level": torch.tensor(plan.level),
        }

    def _reshape(
        self, face: NDArray[np.uint8], points: Array, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Array]:
        closed, angles = (0.0, 0.0), None
        if rng.random() < self.blinking:
            both = rng.uniform(0.2, 1.0)
            closed = (both, both) if rng.random() < 0.8 else (both, 0.0)
        if rng.random() < self.turned:
            angles = rng.uniform(-0.6, 0.6), rng.uniform(-0.25, 0.25)
        mouth = rng.random() if self.speaking > 0.0 and rng.random() < self.speaking else 0.0
        other = self.reshaped > 0.0 and rng.random() < self.reshaped
        if angles is None and mouth <= 0.0 and max(closed) <= 0.0 and not other:
            return face, points
        after = reshape_face(points, rng) if other else points
        after = close_eyes(open_mouth(after, mouth) if mouth > 0.0 else after, closed)
        if angles is not None:
            after = turn_head(after, *angles)
        shown = warp_mesh(face, points, after, self.mesh.triangles)
        if mouth > 0.0:
            shown = fill_mouth(shown, points, after, rng)
        if self.painted > 0.0 and rng.random() < self.painted:
            shown = paint_lids(shown, after, closed, rng)
        return shown, after


class StoredSamples:
    """Samples on disk as memory maps: a CPU makes one in 40 to 60 ms, more than a small network needs to learn from it.

    Args:
        folder: made if missing; holds ``degraded.npy``, ``clean.npy``, ``points.npy`` and ``labels.npy``.
        count: of samples.
        size: S, side of the crops in pixels.

    Raises:
        ConfigError: the folder holds samples of another size or number.
    """

    def __init__(self, folder: str | os.PathLike[str], count: int, size: int) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.degraded = self._open("degraded", (count, 3, size, size), np.uint8)
        self.clean = self._open("clean", (count, 3, size, size), np.uint8)
        self.points = self._open("points", (count, 468, 3), np.float32)
        self.labels = self._open("labels", (count, 3), np.int32)
        """(count, 3): the face's number, the level, and 1 where the sample is there."""

    def _open(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        stored: NDArray[Any] = np.load(path, mmap_mode="r+")
        if stored.shape != shape or stored.dtype != dtype:
            raise ConfigError(f"{path}: holds {stored.dtype} {stored.shape}, {np.dtype(dtype)} {shape} is wanted")
        return stored

    def __len__(self) -> int:
        return len(self.labels)

    def fill(self, samples: MeshPairs, *, start: int = 0, step: int = 1) -> Iterator[int]:
        """Makes those that are missing among ``start``, ``start + step``, ...; yields the number of each one made."""
        for index in range(start, len(self), step):
            if not self.labels[index, 2]:
                sample = samples[index]
                self.degraded[index], self.clean[index] = sample["degraded"].numpy(), sample["clean"].numpy()
                self.points[index] = sample["points"].numpy()
                self.labels[index] = int(sample["face"]), int(sample["level"]), 1
                yield index

    @property
    def ready(self) -> NDArray[np.int64]:
        """The numbers of the samples that are there."""
        return np.flatnonzero(self.labels[:, 2])


class SampleSource:
    """Batches of samples, finished ones or made on the fly; what a step gets depends on the seed and the step alone.

    Args:
        faces: the training pictures.
        points: of the teacher, of the same pictures.
        mesh: topology.
        cache: file of the resized faces.
        cache_size: their side in pixels.
        size: S, side of the crops in pixels.
        seed: of the stream.
        stored: folder of finished samples; None makes them on the fly.
        num_stored: how many finished samples there shall be; those that are missing are made now.
        workers: processes that make samples on the fly.
        shares: of :class:`MeshPairs`: ``wide``, ``turned``, ``blinking`` and so on.
    """

    def __init__(
        self,
        faces: Sequence[Path],
        points: PointCache,
        mesh: Mesh,
        *,
        cache: str | os.PathLike[str],
        cache_size: int,
        size: int,
        seed: int,
        stored: str | None = None,
        num_stored: int = 0,
        workers: int = 0,
        **shares: float,
    ) -> None:
        self.mesh, self._seed, self._workers = mesh, seed, workers
        self.samples = MeshPairs(FaceCache(faces, cache_size, cache), points, mesh, size=size, seed=seed, **shares)
        self.stored = StoredSamples(stored, num_stored, size) if stored is not None else None
        if self.stored is not None:
            for _ in self.stored.fill(self.samples):
                pass
        self._stream: Iterator[dict[str, Tensor]] = iter(())
        self._batch = 0

    def batch(self, clock: Clock, size: int) -> dict[str, Tensor]:
        """The next samples.

        ``degraded`` and ``clean`` are (B, 3, S, S) float32 in [-1, 1]; ``points`` are (B, 468, 3); ``face`` and
        ``level`` are (B,) int64.

        Args:
            clock: of the run.
            size: B.
        """
        if self.stored is None:
            if size != self._batch:  # a phase with another one
                self._batch = size
                self._stream = stream(self.samples, batch=size, start=clock.samples, workers=self._workers)
            raw = next(self._stream)
        else:
            rng = rng_at(self._seed, 5, clock.step)
            chosen = np.sort(rng.choice(self.stored.ready, size))
            raw = {
                "degraded": torch.from_numpy(self.stored.degraded[chosen]),
                "clean": torch.from_numpy(self.stored.clean[chosen]),
                "points": torch.from_numpy(self.stored.points[chosen]),
                "face": torch.from_numpy(self.stored.labels[chosen, 0].astype(np.int64)),
                "level": torch.from_numpy(self.stored.labels[chosen, 1].astype(np.int64)),
            }
            if rng.random() < 0.5:
                raw = mirrored(raw, self.mesh.mirror)
        return raw | {name: raw[name].float() * (2.0 / 255.0) - 1.0 for name in ("degraded", "clean")}


def mirrored(batch: dict[str, Tensor], mirror: NDArray[np.int64]) -> dict[str, Tensor]:
    """A batch of samples as a mirror shows it."""
    points = batch["points"][:, torch.from_numpy(mirror)].clone()
    points[..., 0] = batch["clean"].shape[-1] - 1 - points[..., 0]
    return batch | {"degraded": batch["degraded"].flip(-1), "clean": batch["clean"].flip(-1), "points": points}


def draw_level(rng: np.random.Generator, stills: float = 0.0) -> int:
    """How a sample is degraded, a place in :data:`vidrestore.train.data.DAMAGE`.

    Args:
        rng: source of randomness.
        stills: share of CodeFormer's degradations.
    """
    level = int(rng.choice(4, p=[0.25, 0.35, 0.35, 0.05]))
    return int(rng.integers(4, 6)) if stills > 0.0 and rng.random() < stills else level


def draw_wide_move(rng: np.random.Generator, size: int, side: int, *, wide: bool) -> Array:
    """(2, 3) crop_from_face: turned, scaled, shifted, in half of the cases mirrored.

    Args:
        rng: source of randomness.
        size: side of the crop in pixels.
        side: of the face in pixels.
        wide: off by as much as a tracker after a fast move, otherwise by as much as a detector.
    """
    most_angle, most_scale, most_shift = (0.35, 0.25, 0.12) if wide else (0.1, 0.12, 0.05)
    angle, scale = rng.uniform(-most_angle, most_angle), math.exp(rng.uniform(-most_scale, most_scale))
    shift = rng.uniform(-most_shift, most_shift, 2) * size
    k = size / side * scale
    turn = k * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    offset = (size - 1) / 2 + shift - turn @ np.full(2, (side - 1) / 2)
    return np.column_stack([turn, offset])


def _shown(face: NDArray[np.uint8], matrix: Array, size: int) -> Picture:
    """(size, size, 3) in [0, 1] at crop_from_face."""
    flags = cv2.INTER_AREA if math.sqrt(abs(np.linalg.det(matrix[:, :2]))) < 0.7 else cv2.INTER_LINEAR
    moved = cv2.warpAffine(face, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return moved.astype(np.float32) / np.float32(255.0)


def _moved(points: Array, matrix: Array, mesh: Mesh) -> Array:
    """The points in the crop; in a mirrored one each is its partner's."""
    turn = matrix[:, :2]
    determinant = float(np.linalg.det(turn))
    places = np.column_stack([points[:, :2] @ turn.T + matrix[:, 2], points[:, 2] * math.sqrt(abs(determinant))])
    return places[mesh.mirror] if determinant < 0 else places
