"""The 3D face as the tracker uses it: regressed from crops, described in display pixels, drawn at any pose.

A :class:`Look` is one reading. Its pose is a weak perspective in display pixels, which can be smoothed, predicted and
compared whatever crop it was read from: yaw, pitch, roll, the logarithm of the scale (display pixels per unit of the
model) and the place of the model's origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vidrestore.geometry import (
    Affine,
    apply,
    compose,
    estimate_similarity,
    invert,
    mean_scale,
    scale_about_pixel_edges,
)
from vidrestore.kernels.sample import sample_crops
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import COEFFICIENTS, WIDTHS
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import AMBIENT, MorphableModel, harmonics
from vidrestore.morphable.regressor import REGRESSOR_SIZE, FlatRegressor, ShapeRegressor, load_regressor
from vidrestore.morphable.template import FFHQ_TEMPLATE_512
from vidrestore.types import Frame, MeshTopology, StreamInfo

__all__ = ["PITCH_AT_EASE", "POSE", "FaceModel", "FaceReader", "Look", "crop_at", "difference"]

POSE = ("yaw", "pitch", "roll", "log_scale", "x", "y")
"""What the six numbers of a pose are: radians as in :class:`vidrestore.types.Pose`, logarithm of display pixels per
unit of the model, display pixels."""

VIEWING_DISTANCE = 10.9
"""Of the camera from a face that fills its crop as FFHQ's faces do, in the model's unit: the mean of what the regressor
reads off 255 of them. It sets how strong perspective is."""

FIVE_VERTICES: tuple[tuple[int, ...], ...] = (
    (33, 133, 159, 145),
    (362, 263, 386, 374),
    (1, 4),
    (61,),
    (291,),
)
"""FaceMesh vertices whose means stand for the five points: corners and lids of the eyes, tip of the nose, corners of
the mouth, left to right in the picture."""

FIVE_OFFSETS: NDArray[np.float64] = np.array(
    [
        (0.0171, 0.0081, 0.0),
        (-0.0008, 0.0, 0.0),
        (0.0018, -0.0157, 0.0),
        (0.0139, 0.0045, 0.0),
        (-0.0298, -0.0071, 0.0),
    ]
)
"""Added to those means of a face at rest, in the model's unit, so that on average they are where YuNet puts its points:
least squares over 255 generated faces of 512 px (numbers 128 to 387), of which each was read in the crop that YuNet's
points give. Single points then differ by 0.024 to 0.035, of eyes that are 0.6 apart."""

PITCH_AT_EASE = 0.197
"""What the regressor reads, in radians, off a face that looks into the camera: the mean over the same faces. The mean
mesh of the model is bowed that much."""

_SIDES = {
    name: slice(end - width, end)
    for (name, width), end in zip(WIDTHS.items(), np.cumsum(list(WIDTHS.values())), strict=True)
}
_MIDDLE = apply(scale_about_pixel_edges(REGRESSOR_SIZE / 512), FFHQ_TEMPLATE_512).mean(0)
_PATCH = 48  # a crop's side at which faces are glanced at: an eye is 6 wide
_INNER = slice(10, 44), slice(8, 40)  # rows and columns of it that show eyes, nose and mouth
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SHAPE_END = WIDTHS["identity"] + WIDTHS["expression"]  # the coefficients of the shape come first


@dataclass(frozen=True, slots=True)
class LitFaces:
    """Faces as they are drawn into B crops."""

    shape: NDArray[np.float32]
    """(B, V, 3), the model's unit, looking at the viewer."""
    points: NDArray[np.float32]
    """(B, V, 2), pixels of the crop."""
    luma: NDArray[np.float32]
    """(B, V) brightness, 0..255 where nothing is over- or underexposed."""
    facing: NDArray[np.float32]
    """(B, V), 1 where the surface looks at the camera."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the regressor saw of one face in one frame."""

    pose: NDArray[np.float64]
    """(6,), see :data:`POSE`."""
    identity: NDArray[np.float32]
    """(80,)"""
    expression: NDArray[np.float32]
    """(64,)"""
    texture: NDArray[np.float32]
    """(80,)"""
    lighting: NDArray[np.float32]
    """(27,)"""
    likeness: float
    """Correlation, in [-1, 1], of the lit 3D face's brightness with the picture's at the vertices that are seen. On 255
    generated faces 0.83 in the median and below 0.49 for one in a hundred; in crops half beside them 0.15, and above
    0.5 for one in twenty."""
    off_centre: float
    """How far the face lay from its place in the crop, in shares of the crop's side."""


def crop_at(points: ArrayLike, size: int = REGRESSOR_SIZE) -> Affine:
    """crop_from_display that brings five points onto FFHQ's template.

    Args:
        points: (5, 2) in display pixels.
        size: of the crop in pixels.

    Raises:
        ValueError: the points coincide.
    """
    return estimate_similarity(points, _template(size))


@cache
def _template(size: int) -> NDArray[np.float64]:
    """(5, 2) where the five points are in a crop."""
    return apply(scale_about_pixel_edges(size / 512), FFHQ_TEMPLATE_512)


def difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Root of the mean square between two patches of :meth:`FaceReader.glance`, where they differ most: over 9 x 9
    pixels, about an eye or a mouth; brightness aside."""
    away = first - second
    power = cv2.blur(np.square(away - away.mean()), (9, 9))[4:-4, 4:-4]
    return math.sqrt(max(float(power.max()), 0.0))


class FaceModel:
    """A morphable model in NumPy: shapes, and where they are seen at a pose.

    Args:
        model: None is ``vr468``; another one lies in its frame (:mod:`vidrestore.track.bfm`).
        five: the vertices whose means stand for the five points.
        offsets: (5, 3) what is added to them.
        viewing_distance: of the camera from a face that fills the regressor's crop, in the unit of ``vr468``.
        camera: that the regressor's coefficients are about; None is the published one.
        crop_size: pixels of the regressor's crop.
        topology: of the mesh; None is that of ``vr468``.
    """

    def __init__(
        self,
        model: MorphableModel | None = None,
        *,
        five: Sequence[Sequence[int]] = FIVE_VERTICES,
        offsets: NDArray[np.float64] = FIVE_OFFSETS,
        viewing_distance: float = VIEWING_DISTANCE,
        camera: Camera | None = None,
        crop_size: int = REGRESSOR_SIZE,
        topology: MeshTopology | None = None,
    ) -> None:
        model = model or load_vr468()
        self.topology = topology
        self.camera = camera or Camera()
        self._viewing_distance = viewing_distance
        self._crop_size = crop_size
        self._mean = model.mean_shape.numpy().astype(np.float32)  # (V, 3)
        self._bases = torch.cat([model.identity_basis, model.expression_basis], 1).cpu().numpy().astype(np.float32)
        self._identity, self._expression = self._bases[:, :80].copy(), self._bases[:, 80:].copy()
        self._texture_mean = model.mean_texture.cpu().numpy().astype(np.float32)  # (V, 3)
        self._texture = model.texture_basis.cpu().numpy().astype(np.float32)
        self._corners = np.ascontiguousarray(model.triangles.cpu().numpy().T)  # (3, T)
        self._incident = np.ascontiguousarray(model.incident.cpu().numpy().T)  # (K, V), T where there are fewer
        pick = np.zeros((5, len(self._mean)))
        for row, which in zip(pick, five, strict=True):
            row[list(which)] = 1.0 / len(which)
        self._five_mean = pick @ self._mean + offsets
        self._five_identity, self._five_expression = (
            np.einsum("fv,vkc->fkc", pick, basis.reshape(-1, 3, basis.shape[1])).reshape(15, -1)
            for basis in (self._identity, self._expression)
        )
        # what of a change of identity the expressions can follow: keeps the shape when the identity is replaced
        basis = self._expression.astype(np.float64)
        ridge = 1e-3 * np.trace(basis.T @ basis) / basis.shape[1] * np.eye(basis.shape[1])
        self._expression_from_identity = np.linalg.solve(basis.T @ basis + ridge, basis.T @ self._identity)

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self._mean)

    def shape(
        self, identity: NDArray[np.float32], expression: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(V, 3) in the model's unit, looking at the viewer; without expression the face is at rest."""
        offsets = self._identity @ identity
        if expression is not None:
            offsets = offsets + self._expression @ expression
        shape: NDArray[np.float32] = self._mean + offsets.reshape(-1, 3)
        return shape

    def lit(self, coefficients: NDArray[np.float32], camera: Camera) -> LitFaces:
        """What a camera sees of faces, as :class:`MorphableModel` has it: at a tenth of its cost for a face or two.

        Args:
            coefficients: (B, 257).
            camera: of the crops' size.
        """
        part = {name: coefficients[:, where] for name, where in _SIDES.items()}
        shape = (coefficients[:, :_SHAPE_END] @ self._bases.T).reshape(len(coefficients), -1, 3)
        shape += self._mean
        turn = np.stack([_rotation(*angles) for angles in part["angles"].astype(np.float64)]).astype(np.float32)
        normals = self._normals(shape) @ turn
        weights = part["lighting"].reshape(-1, 3, 9).copy()
        weights[..., 0] += AMBIENT
        light = harmonics(torch.from_numpy(normals)).numpy() @ weights.transpose(0, 2, 1)
        texture = (part["texture"] @ self._texture.T).reshape(shape.shape)
        texture += self._texture_mean
        placed = shape @ turn + part["translation"][:, None]
        scale = camera.focal / (camera.distance - placed[..., 2])
        points = np.stack(
            [camera.centre_px + placed[..., 0] * scale, camera.centre_px - placed[..., 1] * scale], axis=-1
        )
        luma = (texture * light) @ _LUMA
        return LitFaces(shape, np.asarray(points, np.float32), np.asarray(luma, np.float32), normals[..., 2])

    def _normals(self, shape: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, V, 3) -> (B, V, 3), unit length."""
        a, b, c = shape[:, self._corners[0]], shape[:, self._corners[1]], shape[:, self._corners[2]]  # (B, T, 3)
        u, v = a - b, b - c
        areas = np.zeros((len(shape), u.shape[1] + 1, 3), np.float32)  # the last one stands for "no triangle"
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            areas[:, :-1, i] = u[..., j] * v[..., k] - u[..., k] * v[..., j]
        sums: NDArray[np.float32] = areas[:, self._incident].sum(1)  # (B, K, V, 3) -> (B, V, 3)
        sums /= np.maximum(np.sqrt(np.square(sums).sum(-1, keepdims=True)), np.float32(1e-20))
        return sums

    def expression_for(
        self, expression: NDArray[np.float32], identity: NDArray[np.float32], held: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The expression that, with the held identity, comes nearest to the shape read with its own."""
        moved: NDArray[np.float32] = (expression + self._expression_from_identity @ (identity - held)).astype(
            np.float32
        )
        return moved

    def most_moved(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
        """How far the vertex that differs most lies between two (64,) expressions, in the model's unit."""
        away = (self._expression @ (second - first)).reshape(-1, 3)
        return float(np.sqrt(np.square(away).sum(1).max()))

    def five(self, identity: NDArray[np.float32], expression: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """(5, 3) eyes, nose and corners of the mouth, in the model's unit; without expression of the face at rest."""
        offsets = self._five_identity @ identity
        if expression is not None:
            offsets = offsets + self._five_expression @ expression
        five: NDArray[np.float64] = self._five_mean + offsets.reshape(5, 3)
        return five

    def place(self, points: NDArray[np.floating[Any]], pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the model as they are seen.

        Args:
            points: (N, 3) in the model's unit.
            pose: (6,).

        Returns:
            (N, 3): x and y in display pixels, z in display pixels towards the viewer.
        """
        yaw, pitch, roll, log_scale, x, y = pose.tolist()
        placed: NDArray[np.float64] = points @ _rotation(pitch, yaw, -roll)
        scale = math.exp(log_scale)
        placed *= (scale / (1.0 - placed[:, 2] / self._viewing_distance))[:, None]
        placed *= (1.0, -1.0, 1.0)
        placed += (x, y, 0.0)
        return placed

    def coefficients(
        self,
        pose: NDArray[np.float64],
        identity: NDArray[np.float32],
        expression: NDArray[np.float32],
        texture: NDArray[np.float32],
        lighting: NDArray[np.float32],
        crop_from_display: Affine,
    ) -> NDArray[np.float32]:
        """(257,) as the regressor's camera sees the face in its crop, to which the map leads."""
        camera = self.camera  # any size: coefficients do not depend on it
        size = camera.size
        crop_from_display = compose(scale_about_pixel_edges(size / self._crop_size), crop_from_display)
        yaw, pitch, roll, log_scale, x, y = pose
        turn = math.atan2(crop_from_display[1, 0], crop_from_display[0, 0])
        depth = camera.focal / (math.exp(log_scale) * mean_scale(crop_from_display))
        u, v = apply(crop_from_display, (x, y)) - camera.centre_px
        out = np.empty(COEFFICIENTS, np.float32)
        out[_SIDES["identity"]] = identity
        out[_SIDES["expression"]] = expression
        out[_SIDES["texture"]] = texture
        out[_SIDES["angles"]] = pitch, yaw, -(roll + turn)
        out[_SIDES["lighting"]] = lighting
        out[_SIDES["translation"]] = u * depth / camera.focal, -v * depth / camera.focal, camera.distance - depth
        return out


class FaceReader:
    """Reads faces off frames.

    Args:
        info: of the stream; its map to display pixels is used.
        device: where the regressor runs.
        regressor: None is the one that comes with the package.
    """

    def __init__(
        self, info: StreamInfo, device: torch.device | str = "cpu", regressor: ShapeRegressor | None = None
    ) -> None:
        self._display_from_frame = info.display_from_frame
        self._device = torch.device(device)
        self._network = FlatRegressor(regressor or load_regressor(), self._device)
        self._size, self._camera, self._middle = REGRESSOR_SIZE, Camera().scaled(REGRESSOR_SIZE), _MIDDLE
        self.model = FaceModel()
        self.num_read = 0

    def crop_at(self, points: ArrayLike) -> Affine:
        """crop_from_display of the crop in which the regressor wants a face with these (5, 2) points."""
        return crop_at(points)

    @torch.inference_mode()
    def read(self, frames: Sequence[Frame], maps: Sequence[Affine]) -> list[Look]:
        """Faces in B crops.

        Args:
            frames: B frames that the crops are cut from; equal ones stand side by side.
            maps: B crop_from_display, as :meth:`crop_at` gives them.
        """
        if not frames:
            return []
        self.num_read += len(frames)
        crops = self._sample(frames, maps)
        values = self._network(torch.from_numpy(crops).to(self._device)).cpu().numpy()
        faces = self.model.lit(values, self._camera)
        likeness = _likeness(crops, faces)
        return [self._look(*row) for row in zip(values, faces.shape, faces.points, likeness, maps, strict=True)]

    def glance(self, frame: Frame, anchors: ArrayLike) -> NDArray[np.float32]:
        """(34, 32) the first plane about eyes, nose and mouth, in levels of 255: cheap, to tell whether a face changed.

        Args:
            frame: any format.
            anchors: (5, 2) in display pixels.
        """
        matrix = compose(crop_at(anchors, _PATCH), self._display_from_frame)
        plane = frame.planes[0]
        step = int(1.0 / mean_scale(matrix))  # frame pixels per pixel of the patch
        if step > 1:
            corners = apply(invert(matrix), _PATCH * np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]))
            left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (frame.width - step, frame.height - step))
            right, bottom = np.ceil(corners.max(0)).astype(int)
            columns = max(1, (min(right, frame.width) - left) // step)
            rows = max(1, (min(bottom, frame.height) - top) // step)
            part = np.ascontiguousarray(plane[top : top + rows * step, left : left + columns * step])
            plane = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)  # type: ignore[assignment, arg-type]
            middle = (step - 1) / 2.0
            matrix = compose(matrix, np.array([[step, 0.0, left + middle], [0.0, step, top + middle]]))
        shown = cv2.warpAffine(plane, matrix, (_PATCH, _PATCH), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(shown[_INNER], np.float32) * np.float32(255.0 / ((1 << frame.format.depth) - 1))

    def _sample(self, frames: Sequence[Frame], maps: Sequence[Affine]) -> NDArray[np.float32]:
        parts = []
        begin = 0
        while begin < len(frames):
            end = begin + 1
            while end < len(frames) and frames[end] is frames[begin]:
                end += 1
            frame = frames[begin]
            here = np.stack([compose(m, self._display_from_frame) for m in maps[begin:end]])
            parts.append(sample_crops(frame.planes, frame.format, here, self._size))
            begin = end
        return np.concatenate(parts)

    def _look(
        self,
        values: NDArray[np.float32],
        shape: NDArray[np.float32],
        points: NDArray[np.float32],
        likeness: float,
        crop_from_display: Affine,
    ) -> Look:
        camera = self._camera
        part = {name: values[where] for name, where in _SIDES.items()}
        pitch, yaw, lean = (float(a) for a in part["angles"])
        tx, ty, tz = (float(t) for t in part["translation"])
        turn = math.atan2(crop_from_display[1, 0], crop_from_display[0, 0])
        pixels_per_unit = camera.focal / max(camera.distance - tz, 1.0)
        centre = camera.centre_px + pixels_per_unit * np.array([tx, -ty])
        display_from_crop = invert(crop_from_display)
        x, y = apply(display_from_crop, centre)
        log_scale = math.log(pixels_per_unit * mean_scale(display_from_crop))
        pose = np.array([yaw, pitch, -lean - turn, log_scale, x, y])
        # what of the perspective the pose cannot say (a face beside the crop's middle) goes into its place
        middle = points.mean(0, dtype=np.float64)
        pose[4:] += apply(display_from_crop, middle) - self.model.place(shape, pose)[:, :2].mean(0)
        rest = self.model.place(self.model.five(part["identity"]), pose)[:, :2].mean(0)
        off = math.dist(apply(crop_from_display, rest), self._middle) / self._size
        return Look(pose, part["identity"], part["expression"], part["texture"], part["lighting"], likeness, off)


def _rotation(about_x: float, about_y: float, about_z: float) -> NDArray[np.float64]:
    """(3, 3), points @ rotation: the transpose of Rz Ry Rx, as :meth:`MorphableModel.rotation`."""
    cx, cy, cz = math.cos(about_x), math.cos(about_y), math.cos(about_z)
    sx, sy, sz = math.sin(about_x), math.sin(about_y), math.sin(about_z)
    turn = np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )
    return turn.T


def _likeness(crops: NDArray[np.float32], faces: LitFaces) -> list[float]:
    """Correlation of brightness per crop; see :class:`Look`."""
    size = crops.shape[-1]
    found = []
    for crop, places, luma, facing in zip(crops, faces.points, faces.luma, faces.facing, strict=True):
        x, y = np.rint(places.T).astype(np.int64)
        seen = np.flatnonzero((facing > 0.2) & (x >= 0) & (x < size) & (y >= 0) & (y < size))
        if len(seen) < 40:
            found.append(-1.0)
            continue
        shown = _LUMA @ crop.reshape(3, -1)[:, y[seen] * size + x[seen]]
        drawn = luma[seen]
        shown, drawn = shown - shown.mean(), drawn - drawn.mean()
        found.append(float(shown @ drawn / (math.sqrt(float(shown @ shown) * float(drawn @ drawn)) + 1e-6)))
    return found
