"""A morphable model with fewer vertices, for what is done in every frame: masks, motion, likeness, files of tracks.

BFM 2009 has 35709 vertices and 70789 triangles; a face 100 pixels wide has 8000 pixels. The reduced model's vertices
are some of the full one's, so its bases are rows of theirs and its coefficients mean the same.

    border and landmarks, then the farthest vertex again and again -> representatives
    every vertex joins the representative that is nearest along the surface -> cells
    a triangle whose corners lie in three cells joins their representatives
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.morphable.model import MorphableModel

__all__ = ["NUM_VERTICES", "reduced"]

NUM_VERTICES = 1024
"""About twice as many as ``vr468`` has."""

BORDER_SHARE = 0.1
"""Of the representatives on the mesh's border, so that its outline stays; vr468 has 36 of 468 there."""


def reduced(model: MorphableModel, num_vertices: int = NUM_VERTICES) -> MorphableModel:
    """The model on at most so many of its vertices, with its 68 landmarks among them.

    Args:
        model: on the CPU.
        num_vertices: at least 128; a model that has no more comes back as it is.

    Raises:
        ValueError: fewer wanted.

    Source:
        Farthest point sampling (Eldar et al. 1997) and the dual of the cells (Rossignac and Borrel 1993; Peyré and
        Cohen: Geodesic remeshing using front propagation, 2006), with ways along the mesh's edges as distances.
    """
    if num_vertices < 128:
        raise ValueError(f"num_vertices must be at least 128, got {num_vertices}")
    if model.num_vertices <= num_vertices:
        return model
    points = model.mean_shape.double().numpy()
    triangles = model.triangles.numpy()
    chosen = _representatives(points, triangles, model.landmarks.numpy(), num_vertices)
    owner = _cells(points, triangles, chosen)
    whose = torch.from_numpy(np.sort(chosen))
    rows = (3 * whose[:, None] + torch.arange(3)).flatten()
    place = np.full(len(points), -1, np.int64)
    place[whose.numpy()] = np.arange(len(whose))
    return MorphableModel(
        model.mean_shape[whose],
        model.identity_basis[rows],
        model.expression_basis[rows],
        model.mean_texture[whose],
        model.texture_basis[rows],
        torch.from_numpy(_dual(place[owner][triangles])),
        torch.from_numpy(place[model.landmarks.numpy()]),
        skin=None if model.skin is None else model.skin[whose],
        deviations=model.deviations,
    )


def border_vertices(triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted indices of the vertices on edges that belong to one triangle only."""
    edges, counts = _edges(triangles)
    return np.unique(edges[counts == 1])


def _edges(triangles: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(E, 2) every edge once, the smaller index first, and (E,) how many triangles it belongs to."""
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    step = int(triangles.max()) + 1
    keys, counts = np.unique(pairs[:, 0] * step + pairs[:, 1], return_counts=True)  # rows would be sorted as text is
    return np.stack([keys // step, keys % step], 1), counts


def _representatives(
    points: NDArray[np.float64], triangles: NDArray[np.int64], landmarks: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """(count,) vertices: the landmarks, a share of the border, then always the one that is farthest from all others."""
    used = np.unique(triangles)  # what belongs to no triangle is never seen
    chosen = list(dict.fromkeys(landmarks.tolist()))
    away = np.full(len(points), -1.0)
    away[used] = np.inf
    x, y, z = np.ascontiguousarray(points.T)

    def note(index: int) -> None:
        way = x - x[index]
        way *= way
        for axis in (y, z):
            part = axis - axis[index]
            part *= part
            way += part
        np.minimum(away, way, out=away)

    for index in chosen:
        note(index)
    border = border_vertices(triangles)
    for among, most in ((border, len(chosen) + int(BORDER_SHARE * count)), (used, count)):
        while len(chosen) < most:
            farthest = int(among[away[among].argmax()])
            if away[farthest] <= 0.0:
                break
            chosen.append(farthest)
            note(farthest)
    return np.array(chosen, np.int64)


def _cells(points: NDArray[np.float64], triangles: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """(V,) for each vertex the chosen one that is nearest along edges; -1 where none can be reached."""
    pairs, _ = _edges(triangles)
    start, end = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    length = np.linalg.norm(points[start] - points[end], axis=1)
    at = np.arange(len(start)) - np.searchsorted(start, start)  # place among a vertex's neighbours
    neighbours = np.zeros((len(points), int(at.max()) + 1), np.int64)
    ways = np.full(neighbours.shape, np.inf)
    neighbours[start, at], ways[start, at] = end, length
    distance, owner = np.full(len(points), np.inf), np.full(len(points), -1, np.int64)
    distance[chosen], owner[chosen] = 0.0, chosen
    while True:  # as many rounds as the longest way to a chosen vertex has edges
        through = distance[neighbours] + ways
        best = through.argmin(1)
        shorter = np.take_along_axis(through, best[:, None], 1)[:, 0]
        changed = shorter < distance
        if not changed.any():
            return owner
        via = np.take_along_axis(neighbours, best[:, None], 1)[:, 0]
        owner[changed] = owner[via[changed]]
        distance[changed] = shorter[changed]


def _dual(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """(T', 3) triangles between three cells, each once, turned as the first of them."""
    a, b, c = corners.T
    three = corners[(a != b) & (b != c) & (a != c) & (corners >= 0).all(1)]
    _, first = np.unique(np.sort(three, axis=1), axis=0, return_index=True)
    dual: NDArray[np.int64] = three[np.sort(first)]
    return dual
