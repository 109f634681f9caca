"""Morphable models for tests, examples and benchmarks, with every part of a real one and no licence in the way.

:func:`synthetic_model` is made out of nothing, :func:`synthetic_bfm` out of the package's own model: it looks like a
face and shares neither unit, origin, vertices nor coefficients with it.

The first one's head is the front of an ellipsoid with a nose, in the size of the published model (decimetres, so that
the default camera shows it filling a crop). Its bases are smooth waves over the surface: the first ones bend it slowly,
the later ones ripple it. The result looks like an egg, not like a person.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from vidrestore.geometry import apply, compose, estimate_similarity, invert, mean_scale, scale_about_pixel_edges
from vidrestore.morphable.align import CROP_SIZE, FIVE_OF_68, d3dfr_from_display, warp
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import WIDTHS, Coefficients, join, split
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import NUM_LANDMARKS, MorphableModel
from vidrestore.morphable.regressor import REGRESSOR_SIZE, load_regressor
from vidrestore.morphable.template import FFHQ_TEMPLATE_512

__all__ = ["SyntheticD3dfr", "synthetic_bfm", "synthetic_model"]

BFM_SCALE, BFM_NOD = 1.1, 0.06
"""Of the stand-in for BFM against ``vr468``: its unit, and the radians by which its mean face looks down."""

HALF_WIDTH, HALF_HEIGHT, HALF_DEPTH = 0.85, 1.1, 0.8
"""Half axes; the published mean face measures about 1.6 x 2.0 x 1.3 decimetres."""


def synthetic_model(rows: int = 13, columns: int = 11) -> MorphableModel:
    """An egg of ``rows`` x ``columns`` vertices that are symmetric left and right.

    Args:
        rows: from the chin up to the brow, at least 2.
        columns: from the picture's left to its right, at least 2. 267 x 134 is about the size of BFM 2009.

    Raises:
        ValueError: fewer.
    """
    if rows < 2 or columns < 2:
        raise ValueError(f"rows and columns must be at least 2, got {rows} and {columns}")
    v, u = torch.meshgrid(
        torch.linspace(-1.0, 1.0, rows, dtype=torch.float64),
        torch.linspace(-1.0, 1.0, columns, dtype=torch.float64),
        indexing="ij",
    )
    u, v = u.flatten(), v.flatten()
    mean_shape = _egg(u, v)
    waves = _waves(u, v)  # (N, 224, 3), smooth, at most 1
    identity, expression, texture = torch.split(
        waves, [WIDTHS[k] for k in ("identity", "expression", "texture")], dim=1
    )
    mouth = torch.exp(-((v + 0.5) ** 2) / 0.1)[:, None, None]  # expressions move the lower face
    skin = torch.stack([200.0 - 20.0 * v * v, 150.0 - 25.0 * u * u, 130.0 + 15.0 * u * v], dim=1)
    return MorphableModel(
        mean_shape.float(),
        _basis(0.03 * identity),
        _basis(0.03 * mouth * expression),
        skin.float(),
        _basis(6.0 * texture),
        _grid_triangles(rows, columns),
        torch.linspace(0, rows * columns - 1, NUM_LANDMARKS).round().long(),
        mirror=torch.arange(rows * columns).reshape(rows, columns).flip(1).flatten(),
        skin=u.abs() < 0.9,
    )


def synthetic_bfm(subdivisions: int = 1, *, scale: float = BFM_SCALE, nod: float = BFM_NOD) -> MorphableModel:
    """``vr468`` in other clothes: a face whose model stands in for BFM 2009's.

    Args:
        subdivisions: how often every triangle is cut into four: 1833 vertices, 7257, 28881.
        scale: of its unit, against that of ``vr468``.
        nod: radians about x by which its mean face is turned.

    Returns:
        A model without mirror map whose mean lies in the origin, as BFM's. Each coefficient is a mixture of those of
        ``vr468``, orthogonal, so that they are as many standard deviations.

    Raises:
        ValueError: negative ``subdivisions``.
    """
    if subdivisions < 0:
        raise ValueError(f"subdivisions must not be negative, got {subdivisions}")
    own = load_vr468()
    triangles, between = own.triangles, torch.eye(own.num_vertices)
    for _ in range(subdivisions):
        triangles, step = _subdivided(triangles, len(between))
        between = step @ between
    turn = scale * _nodded(nod)

    def basis(columns: Tensor, turn: Tensor) -> Tensor:
        axes = torch.einsum("nv,vak,ab->nbk", between, columns.view(-1, 3, columns.shape[1]), turn)
        return _mixed(axes.reshape(-1, columns.shape[1]))

    mean = between @ own.mean_shape @ turn
    assert own.skin is None or isinstance(own.skin, Tensor)
    return MorphableModel(
        mean - mean.mean(0),
        basis(own.identity_basis, turn),
        basis(own.expression_basis, turn),
        between @ own.mean_texture,
        basis(own.texture_basis, torch.eye(3)),
        triangles,
        own.landmarks,
        skin=None if own.skin is None else between @ own.skin.float() > 0.5,
    )


class SyntheticD3dfr(nn.Module):
    """Our regressor in the place of D3DFR: reads real faces, in its view, as coefficients of :func:`synthetic_bfm`.

    So whatever wants a Basel face can be tried on real pictures without anybody's files. What it says of a face is what
    our regressor says of the same pixels, but for the view: it shows less around the face.

    Args:
        model: of :func:`synthetic_bfm`, with any subdivisions and its own scale and nod.
    """

    def __init__(self, model: MorphableModel) -> None:
        super().__init__()
        self._network = load_regressor()
        own = load_vr468()
        mean = own.mean_shape @ (BFM_SCALE * _nodded(BFM_NOD))
        self._origin = model.mean_shape[0] - mean[0]  # the first vertices are those of vr468
        if not torch.allclose(model.mean_shape[: len(mean)], mean + self._origin, atol=1e-4):
            raise ValueError("the model must be one of synthetic_bfm, with its own scale and nod")
        face = np.stack([own.mean_shape[own.landmarks[list(which)]].mean(0).numpy() for which in FIVE_OF_68])
        five = face[:, :2] * [100.0, -100.0]  # seen from the front
        crop = estimate_similarity(five, apply(scale_about_pixel_edges(REGRESSOR_SIZE / 512), FFHQ_TEMPLATE_512))
        self._crop_from_view = compose(crop, invert(d3dfr_from_display(five)))
        self._crop_from_view[:, :2] = mean_scale(self._crop_from_view) * np.eye(2)  # a degree of turn less

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, 224, 224) RGB in [0, 1], aligned as D3DFR's -> (B, 257)."""
        maps = torch.from_numpy(self._crop_from_view).expand(len(views), 2, 3)
        read = split(self._network(warp(2.0 * views - 1.0, maps, REGRESSOR_SIZE)))
        near, there = Camera().scaled(REGRESSOR_SIZE), Camera().scaled(CROP_SIZE)
        step, shift = float(self._crop_from_view[0, 0]), self._crop_from_view[:, 2]
        pixels = near.focal / (near.distance - read.translation[:, 2])  # of the crop, per unit of vr468
        x = (near.centre_px + pixels * read.translation[:, 0] - float(shift[0])) / step
        y = (near.centre_px - pixels * read.translation[:, 1] - float(shift[1])) / step
        depth = there.focal * BFM_SCALE * step / pixels
        place = (
            torch.stack([(x - there.centre_px) * depth, (there.centre_px - y) * depth, 0.0 * depth], 1) / there.focal
        )
        place[:, 2] = there.distance - depth
        angles = read.angles - read.angles.new_tensor([BFM_NOD, 0.0, 0.0])
        place = place - (self._origin.to(place) @ MorphableModel.rotation(angles)).view(-1, 3)
        kinds = (_mixed(read.identity), _mixed(read.expression), _mixed(read.texture))
        return join(Coefficients(*kinds, angles, read.lighting, place))


def _nodded(nod: float) -> Tensor:
    """(3, 3), points @ this."""
    return MorphableModel.rotation(torch.tensor([[nod, 0.0, 0.0]]))[0]


def _mixed(columns: Tensor) -> Tensor:
    """(N, K) with its columns mixed by Householder's reflection at (1, ..., 1), which is its own inverse."""
    return columns - 2.0 * columns.mean(1, keepdim=True)


def _subdivided(triangles: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(4 T, 3) triangles with a new vertex in the middle of every edge, and the (V + E, V) weights of the vertices."""
    edges = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    known, which = torch.unique(edges.sort(1)[0], dim=0, return_inverse=True)
    ab, bc, ca = (count + which).view(3, -1)
    a, b, c = triangles.unbind(1)
    parts = [torch.stack(corners, 1) for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    weights = torch.zeros(len(known), count).scatter_(1, known, 0.5)
    return torch.cat(parts), torch.cat([torch.eye(count), weights])


def _egg(u: Tensor, v: Tensor) -> Tensor:
    """(N, 3) places of the surface's parameters, y up, centred."""
    longitude, latitude = 0.5 * math.pi * 0.9 * u, 0.5 * math.pi * 0.9 * v
    nose = 0.18 * torch.exp(-((u / 0.18) ** 2) - ((v + 0.1) / 0.3) ** 2)
    x = HALF_WIDTH * longitude.sin() * latitude.cos()
    y = HALF_HEIGHT * latitude.sin()
    z = HALF_DEPTH * longitude.cos() * latitude.cos() + nose
    shape = torch.stack([x, y, z], dim=1)
    return shape - shape.mean(0)


def _waves(u: Tensor, v: Tensor) -> Tensor:
    """(N, 224, 3): cosines over the surface, slow ones first, falling off with their frequency."""
    index = torch.arange(sum(WIDTHS[k] for k in ("identity", "expression", "texture")), dtype=torch.float64)
    across, up = (index % 5).floor(), (index // 5 % 7).floor()
    axis = torch.arange(3, dtype=torch.float64)
    phase = 2.4 * index[:, None] + 2.1 * axis  # no two coefficients and axes alike
    argument = math.pi * (u[:, None] * across + v[:, None] * up)[..., None] + phase
    return argument.cos() / (1.0 + across + up)[:, None]


def _basis(waves: Tensor) -> Tensor:
    """(N, K, 3) -> (N * 3, K)."""
    return waves.transpose(1, 2).flatten(0, 1).float()


def _grid_triangles(rows: int, columns: int) -> Tensor:
    """Two triangles for each cell, counter-clockwise seen from outside (u right, v up)."""
    index = torch.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    lower, upper = torch.stack([a, b, c], dim=-1), torch.stack([a, c, d], dim=-1)
    return torch.cat([lower.flatten(0, 1), upper.flatten(0, 1)])
