"""The outline of a tracked 3D face as a mask: where the head is, at the turn it has, softly.

mesh in crop pixels -> its silhouette as seen from the centre -> filled small -> blurred -> (s, s) mask.

The silhouette is made of the mesh's *contour*: its border, and the edges where a triangle that faces the camera meets
one that does not (the far cheek, a nose in profile). Seen from the face's centre, the farthest contour in each of 96
directions is kept, which gives one polygon, exact to 0.05 % of the radius, for every turn of the head. It moves
continuously with the mesh, and the blur is linear in the area that is covered, so the mask moves as smoothly.

The border of a face mesh is not the border of a face: forehead, temples and jaw go on. The mesh is continued along its
own surface there, in space: upwards into the hair, and *backwards* at the sides, where it shows on the near side of a
turned head and stays hidden behind the far one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.blend.mask import face_mask, grow, rim_mask
from vidrestore.config import BlendOptions
from vidrestore.morphable.files import load_vr468
from vidrestore.types import Crop, MeshTopology

__all__ = ["coarse_outline", "crop_outline", "mesh_mask", "outline_size"]

_DIRECTIONS = 96  # cos(pi / 96) = 0.9995: what a straight line between two of them loses
_TOP, _CHIN = 10, 152  # vertices of the FaceMesh topology (vr468) at the hairline and under the chin
# How far the surface goes on beyond the mesh, as shares of the height from chin to hairline: at the hairline, which is
# where the fixed outline fades too; at the ears; and under the chin, where the neck begins
_BEYOND_TOP, _BEYOND_SIDE, _BEYOND_CHIN = 0.20, 0.08, 0.02
# Of the soft edge's width, what lies outside the outline: skin ends there, but the outline may be off by as much as a
# face's points are (5 % of the eyes' distance, or 0.012 of the side; 0.3 of the default edge are 0.036)
_OUTSIDE = 0.4
_WIDTH = 2.2  # soft edges are so many standard deviations of the Gaussian wide: 0.25 to 0.94 of its integral
_FILL = 4  # a pixel of the coarse mask is filled as 4 x 4, in fractions that OpenCV's shift allows
_SHIFT = 6
_MOST = 0.3  # of the side: from there on the edge grows no wider, so that a middle remains


@dataclass(frozen=True, slots=True)
class _Topology:
    """What of a mesh does not depend on where its vertices are."""

    triangles: NDArray[np.int64]
    """(3, T)."""
    inner: NDArray[np.int64]
    """(2, E) edges between two triangles."""
    sides: NDArray[np.int64]
    """(2, E) the two triangles."""
    border: NDArray[np.int64]
    """(2, R) edges of one triangle only, as indices into ``rim``."""
    rim: NDArray[np.int64]
    """(R,) vertices on the border."""
    inwards: NDArray[np.float32]
    """(R, V): means over the neighbours of a rim vertex that are not on the rim."""
    top: int
    """The vertex at the hairline,"""
    chin: int
    """and the one under the chin."""


def crop_outline(crop: Crop, options: BlendOptions) -> NDArray[np.float32]:
    """(S, S) where the face is in its crop: by its mesh where it has one and that is wanted, else the fixed outline."""
    size = crop.image.shape[-1]
    if crop.mesh is None or options.mask == "ellipse":
        return face_mask(size, options.feather)
    return mesh_mask(crop.mesh, size, options.feather, crop.topology)


def mesh_mask(
    mesh: NDArray[np.float32], size: int, feather: float, topology: MeshTopology | None = None
) -> NDArray[np.float32]:
    """:func:`coarse_outline` at the crop's size, faded out towards the crop's own border.

    Returns:
        (S, S) in [0, 1], exactly 0 on the outer 2 % of the crop.
    """
    coarse = coarse_outline(mesh, size, feather, topology)
    mask: NDArray[np.float32] = grow(coarse[None], size)[0].clip(0.0, 1.0) * rim_mask(size)
    return mask


def outline_size(size: int, feather: float) -> int:
    """Side of the coarse mask for crops of ``size`` pixels: a narrow edge needs more of them."""
    return min(size, 64 if feather >= 0.08 else 128)


def coarse_outline(
    mesh: NDArray[np.float32], size: int, feather: float, topology: MeshTopology | None = None
) -> NDArray[np.float32]:
    """The soft outline of a face, on a coarse copy of the crop.

    Args:
        mesh: (V, 3), x and y in crop pixels, z in crop pixels towards the viewer.
        size: S, pixels of the crop's side.
        feather: width of the soft edge as a share of the side, in (0, 0.5]; from 0.3 on it no longer grows.
        topology: of the mesh. None: with V = 468 it is that of FaceMesh (``vr468``); of any other mesh the convex hull
            is taken.

    Returns:
        (s, s) float32 in [0, 1], s by :func:`outline_size`: 1 inside, about 0.2 on the outline, 0 from 0.3 of the
        edge's width outside of it.

    Raises:
        ValueError: no (V, 3), vertices that the topology wants and that are not there, or values that are not finite.
    """
    if mesh.ndim != 2 or mesh.shape[1] != 3 or not np.isfinite(mesh).all():
        raise ValueError(f"a mesh must be (V, 3) and finite, got {mesh.shape}")
    side = outline_size(size, feather)
    if topology is not None and topology.num_vertices > len(mesh):
        raise ValueError(f"a mesh of {topology} must have {topology.num_vertices} vertices, got {len(mesh)}")
    if topology is not None or len(mesh) == 468:
        polygon = _silhouette(np.asarray(mesh, np.float32), _topology(topology))
    else:
        polygon = np.asarray(cv2.convexHull(np.ascontiguousarray(mesh[:, :2], np.float32))[:, 0], np.float32)
    scale = side * _FILL / size  # pixel edges fall together, as in every area filter
    placed = np.clip((polygon + 0.5) * scale - 0.5, -8.0 * side, 8.0 * side)
    filled = np.zeros((side * _FILL, side * _FILL), np.uint8)
    corners = np.rint(placed * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(filled, [corners], 255, cv2.LINE_AA, _SHIFT)  # whole pixels let upright edges jump
    covered = cv2.resize(filled, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255.0)
    sigma = max(min(feather, _MOST) * side / _WIDTH, 0.8)
    blurred = cv2.GaussianBlur(covered, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    low, high = _levels()
    t = np.clip((blurred - low) / (high - low), 0.0, 1.0)
    mask: NDArray[np.float32] = (t * t * (3.0 - 2.0 * t)).astype(np.float32)
    return mask


@lru_cache(maxsize=1)
def _levels() -> tuple[np.float32, np.float32]:
    """Of a straight edge's blurred step, the values where the mask begins and where it is whole."""
    low, high = (0.5 * (1.0 + math.erf(x * _WIDTH / math.sqrt(2.0))) for x in (-_OUTSIDE, 1.0 - _OUTSIDE))
    return np.float32(low), np.float32(high)


def _silhouette(mesh: NDArray[np.float32], topology: _Topology) -> NDArray[np.float32]:
    """(96, 2) corners of the star-shaped hull of the contour, around the mean of the vertices."""
    points = mesh[:, :2] - mesh[:, :2].mean(0)
    x, y = np.ascontiguousarray(points.T)
    i, j, k = topology.triangles
    faces_us = (x[j] - x[i]) * (y[k] - y[i]) > (y[j] - y[i]) * (x[k] - x[i])
    turns = faces_us[topology.sides[0]] != faces_us[topology.sides[1]]
    beyond = _beyond(mesh, topology) - mesh[:, :2].mean(0)
    a = np.concatenate(
        [points[topology.inner[0][turns]], points[topology.rim[topology.border[0]]], beyond[topology.border[0]]]
    )
    b = np.concatenate(
        [points[topology.inner[1][turns]], points[topology.rim[topology.border[1]]], beyond[topology.border[1]]]
    )
    across, directions = _directions()
    across_a, across_b = a @ across, b @ across  # (E, 96): on which side of each ray, and how far
    along = (a[:, :1] * b[:, 1:] - a[:, 1:] * b[:, :1]) / (across_b - across_a + np.float32(1e-12))
    radius = (along * ((across_a >= 0.0) != (across_b >= 0.0))).max(0, initial=0.0)
    polygon: NDArray[np.float32] = mesh[:, :2].mean(0) + radius[:, None] * directions
    return polygon


def _beyond(mesh: NDArray[np.float32], topology: _Topology) -> NDArray[np.float32]:
    """(R, 2) where the surface ends that goes on beyond the rim, tangentially and in space."""
    rim = mesh[topology.rim]
    outwards = rim - topology.inwards @ mesh
    outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-6)
    upright = mesh[topology.top] - mesh[topology.chin]
    height = float(np.linalg.norm(upright))
    place = (rim - mesh[topology.chin]) @ upright / max(height * height, 1e-6)  # 0 at the chin, 1 at the hairline
    share = np.interp(place, [0.0, 0.5, 1.0], [_BEYOND_CHIN, _BEYOND_SIDE, _BEYOND_TOP]).astype(np.float32)
    beyond: NDArray[np.float32] = rim[:, :2] + (share * height)[:, None] * outwards[:, :2]
    return beyond


@lru_cache(maxsize=1)
def _directions() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(2, 96) vectors across the directions, and (96, 2) the directions."""
    angle = 2.0 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    directions = np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    return np.ascontiguousarray(np.stack([-directions[:, 1], directions[:, 0]])), directions


@lru_cache(maxsize=4)
def _topology(given: MeshTopology | None) -> _Topology:
    """Of a mesh; None is the FaceMesh topology, from the package's own model."""
    if given is None:
        triangles, top, chin = load_vr468().triangles.cpu().numpy().astype(np.int64), _TOP, _CHIN
    else:
        triangles, top, chin = given.triangles.astype(np.int64), given.top, given.chin
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    owner = np.tile(np.arange(len(triangles)), 3)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, owner = pairs[order], owner[order]
    starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(1)])
    counts = np.diff(np.r_[starts, len(pairs)])
    twice, once = starts[counts == 2], starts[counts == 1]
    rim, flat = np.unique(pairs[once], return_inverse=True)
    neighbours = np.zeros((triangles.max() + 1,) * 2, bool)
    neighbours[pairs[:, 0], pairs[:, 1]] = neighbours[pairs[:, 1], pairs[:, 0]] = True
    inwards = neighbours[rim].astype(np.float32)
    inwards[:, rim] = 0.0
    inwards /= np.maximum(inwards.sum(1, keepdims=True), 1.0)
    return _Topology(
        np.ascontiguousarray(triangles.T),
        np.ascontiguousarray(pairs[twice].T),
        np.stack([owner[twice], owner[twice + 1]]),
        np.ascontiguousarray(flat.reshape(-1, 2).T),
        rim,
        inwards,
        top,
        chin,
    )
