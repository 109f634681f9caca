"""A 3D morphable model: coefficients to a coloured, lit mesh before a camera.

Figure:
    identity (80), expression (64) -> shape (N, 3) -> normals (N, 3)
    texture (80)                   -> texture (N, 3), 0..255
    angles (3), translation (3)    -> rotation -> vertices before the camera -> pixels and depth
    lighting (27), normals         -> colours (N, 3), 0..255 and beyond

Paper:
    Deng et al.: Accurate 3D Face Reconstruction with Weakly-Supervised Learning, CVPR Workshops 2019, section 2; the
    numbers are those of its PyTorch code as used by SGPN (Zhu et al., CVPR 2022). Two defects are not repeated:
    a batch of exactly three gets right normals, and a vertex without area gets the normal 0 instead of NaN.

Precision:
    float32. float16 and bfloat16 are too coarse for places in pixels: keep the model out of autocast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import WIDTHS, split

__all__ = ["AMBIENT", "Face", "MorphableModel", "harmonics", "incident_triangles"]

NUM_LANDMARKS = 68
AMBIENT = 0.8
"""Added to each colour's constant harmonic, so that zero lighting shows a face evenly lit at 0.71 of its texture."""


@dataclass(frozen=True, slots=True)
class Face:
    """The meshes of B faces, in the world of the :class:`Camera`."""

    vertices: Tensor
    """(B, N, 3), placed before the camera; x right, y up, z towards the camera, the model's unit."""
    points_px: Tensor
    """(B, N, 2), x right, y down, (0, 0) is the centre of the top-left pixel."""
    depth: Tensor
    """(B, N), distance from the camera along its axis, the model's unit."""
    colours: Tensor
    """(B, N, 3) lit R'G'B', 0..255 where nothing is over- or underexposed."""
    normals: Tensor
    """(B, N, 3), unit length, turned with the face."""

    def __repr__(self) -> str:
        batch, count, _ = self.vertices.shape
        return f"Face({batch} x {count} vertices, {self.vertices.device})"


class MorphableModel(nn.Module):
    """Bases of shape and texture over one mesh. All its tensors are buffers: it has nothing to train by itself.

    Args:
        mean_shape: (N, 3), y up, z out of the face; its origin is what ``angles`` turn about.
        identity_basis: (N * 3, 80), shape change per coefficient; row 3 i + k belongs to axis k of vertex i.
        expression_basis: (N * 3, 64), likewise.
        mean_texture: (N, 3), R'G'B' 0..255.
        texture_basis: (N * 3, 80), likewise.
        triangles: (T, 3) vertex indices, counter-clockwise seen from outside.
        landmarks: (68,) vertex indices in the order of the 68 usual face points.
        mirror: (N,) index of the vertex on the other side of the face, or None where the mesh is not symmetric.
        skin: (N,) True on skin (for losses on colours), or None.
        deviations: (224,) standard deviations of identity, expression and texture coefficients over the faces that the
            model was made from, or None where the bases are scaled so that they are 1.
        incident: (N, K) triangles around each vertex, filled up with T; None: found from ``triangles``.

    Raises:
        ValueError: shapes that do not fit, or an index out of range.
    """

    mean_shape: Tensor
    identity_basis: Tensor
    expression_basis: Tensor
    mean_texture: Tensor
    texture_basis: Tensor
    triangles: Tensor
    landmarks: Tensor
    incident: Tensor
    mirror: Tensor | None
    skin: Tensor | None
    deviations: Tensor | None

    def __init__(
        self,
        mean_shape: Tensor,
        identity_basis: Tensor,
        expression_basis: Tensor,
        mean_texture: Tensor,
        texture_basis: Tensor,
        triangles: Tensor,
        landmarks: Tensor,
        *,
        mirror: Tensor | None = None,
        skin: Tensor | None = None,
        deviations: Tensor | None = None,
        incident: Tensor | None = None,
    ) -> None:
        super().__init__()
        count = mean_shape.shape[0]
        _check("mean_shape", mean_shape, (count, 3))
        _check("identity_basis", identity_basis, (3 * count, WIDTHS["identity"]))
        _check("expression_basis", expression_basis, (3 * count, WIDTHS["expression"]))
        _check("mean_texture", mean_texture, (count, 3))
        _check("texture_basis", texture_basis, (3 * count, WIDTHS["texture"]))
        _check("triangles", triangles, (triangles.shape[0], 3), below=count)
        _check("landmarks", landmarks, (NUM_LANDMARKS,), below=count)
        if incident is None:
            incident = incident_triangles(triangles, count)
        _check("incident", incident, (count, incident.shape[-1]), below=triangles.shape[0] + 1)
        for name, values in (
            ("mean_shape", mean_shape),
            ("identity_basis", identity_basis),
            ("expression_basis", expression_basis),
            ("mean_texture", mean_texture),
            ("texture_basis", texture_basis),
        ):
            self.register_buffer(name, values.detach().to(torch.get_default_dtype()).contiguous())
        for name, indices in (("triangles", triangles), ("landmarks", landmarks), ("incident", incident)):
            self.register_buffer(name, indices.to(torch.int64).contiguous())
        if mirror is not None:
            _check("mirror", mirror, (count,), below=count)
            mirror = mirror.to(torch.int64)
        if skin is not None:
            _check("skin", skin, (count,))
            skin = skin.to(torch.bool)
        if deviations is not None:
            _check("deviations", deviations, (sum(WIDTHS[name] for name in ("identity", "expression", "texture")),))
            deviations = deviations.detach().to(torch.get_default_dtype())
        self.register_buffer("mirror", mirror)
        self.register_buffer("skin", skin)
        self.register_buffer("deviations", deviations)

    @property
    def num_vertices(self) -> int:
        """N."""
        return self.mean_shape.shape[0]

    def shape(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(B, 80), (B, 64) -> (B, N, 3), not yet turned or moved."""
        offsets = identity @ self.identity_basis.T + expression @ self.expression_basis.T  # (B, N * 3)
        return self.mean_shape + offsets.view(-1, self.num_vertices, 3)

    def texture(self, texture: Tensor) -> Tensor:
        """(B, 80) -> (B, N, 3) R'G'B' under even light, about 0..255, not clipped."""
        return self.mean_texture + (texture @ self.texture_basis.T).view(-1, self.num_vertices, 3)

    def normals(self, shape: Tensor) -> Tensor:
        """(B, N, 3) -> (B, N, 3) unit normals: the sum of the neighbouring triangles', weighted by their areas."""
        a, b, c = shape[:, self.triangles].unbind(2)  # (B, T, 3) each
        areas = torch.linalg.cross(a - b, b - c, dim=-1)
        padded = functional.pad(areas, (0, 0, 0, 1))  # (B, T + 1, 3): the last one stands for "no triangle"
        return functional.normalize(padded[:, self.incident].sum(2), dim=-1, eps=1e-20)

    @staticmethod
    def rotation(angles: Tensor) -> Tensor:
        """Rotation matrices, to be multiplied from the right: turned = points @ rotation.

        Args:
            angles: (B, 3) about x, y and z in radians, right-handed. With y up and z towards the camera, +x nods the
                face down, +y turns it to the picture's right, +z leans it counter-clockwise as seen in the picture.

        Returns:
            (B, 3, 3), the transpose of Rz Ry Rx.
        """
        (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(1), angles.sin().unbind(1)
        rows = [
            torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], dim=1),
            torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], dim=1),
            torch.stack([-sy, cy * sx, cy * cx], dim=1),
        ]
        return torch.stack(rows, dim=2)  # the rows of Rz Ry Rx as columns

    def place(self, shape: Tensor, angles: Tensor, translation: Tensor) -> Tensor:
        """Turns (B, N, 3) about the origin, then moves it: the vertices in the camera's world."""
        return shape @ self.rotation(angles) + translation[:, None]

    def light(self, texture: Tensor, normals: Tensor, lighting: Tensor) -> Tensor:
        """Colours under a distant environment, as nine spherical harmonics for each colour.

        Args:
            texture: (B, N, 3).
            normals: (B, N, 3), unit length, already turned.
            lighting: (B, 27): nine for red, nine for green, nine for blue.

        Returns:
            (B, N, 3), texture times light, not clipped.

        Source:
            Ramamoorthi and Hanrahan: An Efficient Representation for Irradiance Environment Maps, 2001, section 3. A
            cosine lobe weighs the bands by pi, 2 pi / 3 and pi / 4; the published code has pi, 2 pi / sqrt 3 and
            2 pi / sqrt 8, and its regressor has learned coefficients that fit those.
        """
        constants = functional.pad(lighting.new_full((1,), AMBIENT), (0, 8))  # (9,), of the constant harmonic only
        weights = lighting.view(-1, 3, 9) + constants
        return texture * (harmonics(normals) @ weights.transpose(1, 2))

    def landmarks3d(self, vertices: Tensor) -> Tensor:
        """The 68 landmarks of (B, N, C) vertices or points, (B, 68, C)."""
        return vertices[:, self.landmarks]

    def project(self, vertices: Tensor, camera: Camera | None = None) -> tuple[Tensor, Tensor]:
        """(B, N, 2) pixels and (B, N) depth of placed vertices; see :meth:`Camera.project`."""
        return (camera or Camera()).project(vertices)

    def forward(self, coefficients: Tensor, camera: Camera | None = None) -> Face:
        """All of it: (B, 257) to what :func:`vidrestore.morphable.render.render` draws."""
        c = split(coefficients)
        shape = self.shape(c.identity, c.expression)
        vertices = self.place(shape, c.angles, c.translation)
        normals = self.normals(shape) @ self.rotation(c.angles)
        colours = self.light(self.texture(c.texture), normals, c.lighting)
        points_px, depth = self.project(vertices, camera)
        return Face(vertices, points_px, depth, colours, normals)


def incident_triangles(triangles: Tensor, num_vertices: int) -> Tensor:
    """Which triangles meet at each vertex: (N, K) indices into ``triangles``, filled up with T."""
    corners = triangles.detach().cpu().to(torch.int64).flatten()
    order = corners.argsort(stable=True)
    counts = torch.bincount(corners, minlength=num_vertices)
    first = counts.cumsum(0) - counts
    owner = corners[order]
    place = torch.arange(len(corners)) - first[owner]
    table = torch.full((num_vertices, max(int(counts.max()), 1)), triangles.shape[0], dtype=torch.int64)
    table[owner, place] = order // 3
    return table.to(triangles.device)


def harmonics(normals: Tensor) -> Tensor:
    """(B, N, 3) unit vectors -> (B, N, 9): real spherical harmonics, weighted as in :meth:`MorphableModel.light`."""
    x, y, z = normals.unbind(-1)
    a0, a1, a2 = math.pi, 2.0 * math.pi / math.sqrt(3.0), 2.0 * math.pi / math.sqrt(8.0)
    c0 = 1.0 / math.sqrt(4.0 * math.pi)
    c1 = math.sqrt(3.0) / math.sqrt(4.0 * math.pi)
    c2 = 3.0 * math.sqrt(5.0) / math.sqrt(12.0 * math.pi)
    d0 = 0.5 / math.sqrt(3.0)
    terms = [
        torch.full_like(x, a0 * c0),
        -a1 * c1 * y,
        a1 * c1 * z,
        -a1 * c1 * x,
        a2 * c2 * x * y,
        -a2 * c2 * y * z,
        a2 * c2 * d0 * (3.0 * z * z - 1.0),
        -a2 * c2 * x * z,
        0.5 * a2 * c2 * (x * x - y * y),
    ]
    return torch.stack(terms, dim=-1)


def _check(name: str, values: Tensor, shape: tuple[int, ...], *, below: int | None = None) -> None:
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(values.shape)}")
    if below is not None and values.numel() and not (int(values.min()) >= 0 and int(values.max()) < below):
        raise ValueError(f"{name} must be indices of 0 to {below - 1}, got {int(values.min())} to {int(values.max())}")
