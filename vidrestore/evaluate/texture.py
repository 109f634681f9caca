"""A face's surface laid flat: the same place of the skin at the same pixel, however the head moves.

With a mesh known in every frame, each frame's face is sampled into one common picture, the *texture*. Two textures are
both sampled once, bilinearly, so that their difference does not hide behind the blur of warping only one of them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.kernels.rasterize import rasterize

__all__ = ["Unwrapping"]

GRAZING = 0.2  # a triangle seen at less than this share of its flat size, beside its neighbours, is not looked at
_MARGIN = 0.04  # of the texture's side


class Unwrapping:
    """Samples the face of a picture into its texture.

    Args:
        flat: (V, 2) or (V, 3) the mesh as the texture shows it, such as a mean face from the front: x right, y down; z,
            where given, smaller is nearer. Any unit: it is made to fit.
        triangles: (T, 3) vertex indices.
        size: S, side of the texture in pixels.
    """

    def __init__(self, flat: NDArray[np.floating], triangles: NDArray[np.integer], size: int = 128) -> None:
        places = np.asarray(flat[:, :2], np.float64)
        low, high = places.min(0), places.max(0)
        scale = (1 - 2 * _MARGIN) * size / float((high - low).max())
        self.places = (places - (low + high) / 2) * scale + (size - 1) / 2
        """(V, 2) the vertices in pixels of the texture."""
        self.size = size
        self.triangles = np.asarray(triangles, np.int64)
        depth = np.asarray(flat[:, 2], np.float64) * scale + 10.0 * size if flat.shape[1] > 2 else np.ones(len(flat))
        depth = np.maximum(depth, 1.0)
        self._seen = rasterize(self.places[None], depth[None], self.triangles, size)[0]
        self.inside = self._seen >= 0
        """(S, S) where the texture shows the face."""
        rows, columns = np.nonzero(self.inside)
        corners = self.triangles[self._seen[rows, columns]]  # (P, 3)
        a, b, c = (self.places[corners[:, k]] for k in range(3))
        p = np.stack([columns, rows], 1).astype(np.float64)
        whole = _cross(b - a, c - a)
        weights = np.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], 1) / whole[:, None]
        self._pixels, self._corners, self._weights = (rows, columns), corners, weights
        self._flat_areas = self._areas(self.places)
        self._facing = np.sign(np.median(self._flat_areas))

    def region(self, vertices: NDArray[np.integer], margin: float = 0.0) -> NDArray[np.bool_]:
        """(S, S) where the texture shows what lies within the convex outline of some vertices.

        Args:
            vertices: indices.
            margin: widened by so much, a share of the side.
        """
        outline = cv2.convexHull(np.rint(self.places[vertices]).astype(np.int32))
        drawn = cv2.fillConvexPoly(np.zeros((self.size, self.size), np.uint8), outline, 1)
        reach = 2 * round(margin * self.size) + 1
        return np.asarray(cv2.dilate(drawn, np.ones((reach, reach), np.uint8)).astype(bool) & self.inside)

    def texture(
        self, picture: NDArray[np.generic], mesh: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The texture of one picture.

        Args:
            picture: (H, W) or (H, W, C).
            mesh: (V, 2) or (V, 3) the vertices in the picture's pixels.

        Returns:
            (S, S, C) float32, 0 beside the face; and (S, S) where it can be trusted: the surface faces the camera and
            lies in the picture.
        """
        image = np.asarray(picture, np.float32)
        image = image[..., None] if image.ndim == 2 else image
        height, width, channels = image.shape
        points = np.asarray(mesh[:, :2], np.float64)
        at = (points[self._corners] * self._weights[..., None]).sum(1)  # (P, 2)
        values = np.zeros((self.size, self.size, channels), np.float32)
        places = np.zeros((self.size, self.size, 2), np.float32)
        places[self._pixels] = at
        x, y = places[..., 0], places[..., 1]
        sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        values[self._pixels] = sampled.reshape(self.size, self.size, channels)[self._pixels]
        shown = self._areas(points) * self._facing / np.abs(self._flat_areas).clip(1e-9)
        in_view = shown > GRAZING * max(float(np.median(shown)), 1e-9)
        usable = np.zeros((self.size, self.size), bool)
        is_inside = (at >= 0).all(1) & (at[:, 0] <= width - 1) & (at[:, 1] <= height - 1)
        usable[self._pixels] = in_view[self._seen[self._pixels]] & is_inside
        return values, usable

    def _areas(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = (points[self.triangles[:, k]] for k in range(3))
        return _cross(b - a, c - a)


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
