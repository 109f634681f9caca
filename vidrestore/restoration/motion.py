"""How a face moved between two of its crops: dense maps on a coarse grid, from the 3D mesh and from the crops.

A map is a displacement (2, G, G): where, in the earlier crop, each cell of the later one was. It is in the coordinates
of ``grid_sample``: -1 and 1 are the crop's edges, whatever its size, so the same map serves coarse and fine pictures.

    mesh_motion    what the tracked mesh says: head, jaw, lips and lids; beside the mesh its best affine map
    crop_motion    what the crops say: the similarity that makes the earlier one look most like the later one
    cell_motion    what is left then, place by place: what neither a mesh nor a similarity could say

Crops follow the tracked pose, so what is left is small: the tracker's jitter, and the motion of the face's parts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.geometry import apply, mean_scale
from vidrestore.kernels.follow import (
    CHANCE,
    DAMPING,
    FAR,
    FLAT,
    LUMA,
    MIDDLE_HEIGHT,
    MIDDLE_Y,
    REACH,
    REWEIGHTINGS,
    ROBUST,
    mesh_maps,
    shrink_crops,
)
from vidrestore.kernels.steady import hold_crop
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.render import render
from vidrestore.types import MeshTopology

__all__ = [
    "GRID",
    "box",
    "cell_motion",
    "centres",
    "coarse_size",
    "crop_motion",
    "grow",
    "hold",
    "hold_by_torch",
    "mesh_in_crop",
    "mesh_motion",
    "mesh_motion_by_torch",
    "on_cpu",
    "shrink",
    "smooth",
    "warp",
    "warp_sharp",
]

GRID = 64
"""Side of the coarse grid for crops of 256 pixels and more; a cell is then 4 pixels, a third of a lid's travel."""

_SHARPNESS = 0.6
"""Share of the second difference that is taken off a linearly interpolated picture. 0.5 is Catmull-Rom at half a pixel;
0.6 keeps the gain of what is sampled again and again within 0.5 % of 1 up to a quarter of the sampling rate."""


def coarse_size(size: int) -> int:
    """G, side of the coarse grid, for a crop of ``size`` pixels: 64, less where cells would be under 4 pixels."""
    return max(1, min(GRID, size // 4))


def on_cpu(tensor: Tensor) -> bool:
    """Whether the kernels for the CPU can read it: there, float32."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def shrink(images: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, C, G, G), the mean of each cell; on the CPU by a kernel where cells are of one size."""
    coarse = coarse_size(images.shape[-1])
    if on_cpu(images) and images.is_contiguous() and images.shape[-1] % coarse == 0:
        return torch.from_numpy(shrink_crops(images.numpy(), coarse))
    return functional.adaptive_avg_pool2d(images, coarse)


def grow(coarse: Tensor, size: int) -> Tensor:
    """(..., G, G) -> (..., S, S), linear between the cells' centres; two matrix products, twice as fast as resizing."""
    matrix = _growth(coarse.shape[-1], size, coarse.device)
    return matrix @ coarse @ matrix.T


def box(coarse: Tensor) -> Tensor:
    """(..., G, G): each cell's mean with its eight neighbours; the border is repeated."""
    return smooth(coarse, 1, 1)


def smooth(coarse: Tensor, reach: int, times: int = 2) -> Tensor:
    """(..., G, G): means over squares of ``2 reach + 1`` cells, ``times`` over; the border is repeated.

    Two products with a band matrix: at 64 cells a tenth of what pooling takes.
    """
    matrix = _means(coarse.shape[-1], reach, times, coarse.device)
    return matrix @ coarse @ matrix.T


def warp(pictures: Tensor, motion: Tensor) -> Tensor:
    """(C, S, S) of the earlier crop as they lie in the later one, interpolated linearly; the border is repeated.

    Args:
        pictures: (C, S, S).
        motion: (2, S, S), as this file's maps, in the same size.
    """
    places = (centres(pictures.shape[-1], pictures.device) + motion).permute(1, 2, 0)[None]
    return functional.grid_sample(pictures[None], places, padding_mode="border", align_corners=False)[0]


def warp_sharp(pictures: Tensor, motion: Tensor) -> Tensor:
    """As :func:`warp`, sharper: for what is warped again in every frame.

    Linear interpolation at a fraction s of a pixel loses about s (1 - s) / 2 of the second derivative. It is taken off
    again along both axes, which at half a pixel is cubic convolution, for a third of its price.
    """
    size = pictures.shape[-1]
    moved = warp(pictures, motion)
    if size < 3:
        return moved
    fraction = motion * (size / 2)
    fraction = fraction - fraction.floor()
    lost = _SHARPNESS * fraction * (1.0 - fraction)  # (2, S, S)
    across = moved[..., :-2] + moved[..., 2:] - 2.0 * moved[..., 1:-1]
    along = moved[:, :-2] + moved[:, 2:] - 2.0 * moved[:, 1:-1]
    sharp = moved.clone()
    sharp[..., 1:-1].addcmul_(across, lost[0, :, 1:-1], value=-1.0)
    sharp[:, 1:-1].addcmul_(along, lost[1, 1:-1], value=-1.0)
    return sharp


def hold(earlier: Tensor, now: Tensor, maps: Tensor, out: Tensor, shown: Tensor) -> bool:
    """Puts into a crop so much of the earlier one, moved and lit as now, as the weights say.

    Args:
        earlier: (3, S, S) on the CPU, as all others; may be not finite where the weights are 0.
        now: (3, S, S), contiguous; it is the result where the weights are 0.
        maps: (6, G, G): motion as this file's maps, weights in [0, 1], and light, which is added to what is carried.
        out: (3, S, S), contiguous, gets the result; may be ``now``.
        shown: (3, S, S), contiguous: gets it too.

    Returns:
        Whether all of the result is finite.
    """
    crops = (tensor.numpy() for tensor in (earlier.contiguous(), now, maps))
    return hold_crop(*crops, sharpness=_SHARPNESS, out=out.numpy(), shown=shown.numpy())


def hold_by_torch(earlier: Tensor, now: Tensor, maps: Tensor, out: Tensor, shown: Tensor) -> None:
    """The same on any device: what the kernel is compared with."""
    grown = grow(maps, now.shape[-1])
    carried = warp_sharp(earlier, grown[:2]) + grown[3:]
    share = grown[2]
    torch.where(share > 0.0, now + share * (carried - now), now, out=out)
    shown.copy_(out)


def mesh_in_crop(crop_from_display: NDArray[np.float64], mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    """A (V, 3) mesh of display pixels in those of a crop, z too."""
    placed = np.empty_like(mesh)
    placed[:, :2] = apply(crop_from_display, mesh[:, :2])
    placed[:, 2] = mesh[:, 2] * mean_scale(crop_from_display)
    return placed


def mesh_motion(
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    size: int,
    device: torch.device,
    topology: MeshTopology | None = None,
) -> Tensor:
    """Where each cell of the later crop was in the earlier one, after the mesh.

    Args:
        pairs: (earlier, later) meshes of one face, (V, 3) each, in pixels of its two crops, z towards the viewer.
        size: S of those crops.
        device: of the result.
        topology: of all these meshes; None is ``vr468``'s.

    Returns:
        (len(pairs), 2, G, G).
    """
    if device.type == "cpu":
        triangles = _triangles(len(pairs[0][0]), device, topology) if pairs else None
        found = mesh_maps(pairs, size, coarse_size(size), None if triangles is None else triangles.numpy())
        return torch.from_numpy(found)
    return mesh_motion_by_torch(pairs, size, device, topology)


def mesh_motion_by_torch(
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    size: int,
    device: torch.device,
    topology: MeshTopology | None = None,
) -> Tensor:
    """The same on any device: what the kernels are compared with."""
    coarse = coarse_size(size)
    if not pairs:
        return torch.zeros(0, 2, coarse, coarse, device=device)
    earlier = np.stack([pair[0][:, :2] for pair in pairs]).astype(np.float64)
    later = np.stack([pair[1][:, :2] for pair in pairs]).astype(np.float64)
    moved = 2.0 * (earlier - later) / size  # (N, V, 2)
    places = 2.0 * (later + 0.5) / size - 1.0
    fits = _affine_fits(places, moved)
    cells = np.concatenate([centres(coarse, torch.device("cpu")).numpy().reshape(2, -1), np.ones((1, coarse**2))])
    beside = (fits.transpose(0, 2, 1) @ cells).reshape(-1, 2, coarse, coarse)
    motion = torch.from_numpy(beside.astype(np.float32)).to(device, non_blocking=True)
    triangles = _triangles(earlier.shape[1], device, topology)
    if triangles is None:
        return motion
    points = torch.from_numpy(((later + 0.5) * (coarse / size) - 0.5).astype(np.float32)).to(device, non_blocking=True)
    heights = np.stack([pair[1][:, 2] for pair in pairs])
    depth = torch.from_numpy((FAR * size - heights).astype(np.float32)).to(device, non_blocking=True)
    rest = torch.from_numpy((moved - places @ fits[:, :2] - fits[:, 2:]).astype(np.float32)).to(
        device, non_blocking=True
    )
    drawn, _ = render(points, depth, triangles, rest, coarse)
    return motion + box(drawn)


def crop_motion(earlier: Tensor, later: Tensor) -> Tensor:
    """The similarity that makes the earlier crop look most like the later one, for motion of about a cell.

    Args:
        earlier: (3, G, G) in [-1, 1], already where a mesh put it.
        later: (3, G, G).

    Returns:
        (2, G, G).

    A similarity, as that is how an error of alignment moves a crop; a free affine map would stretch the whole face
    where a jaw falls.

    Source:
        Lucas and Kanade: An iterative image registration technique, 1981; gradients of the mean of both pictures, one
        step, each cell weighted by how well it fits (iteratively reweighted least squares with Cauchy's weights).
        Within a fifth of the shift where the crop is full of detail as fine as a cell, within a twentieth on faces.
    """
    size = later.shape[-1]
    weights = _luma(later.device, later.dtype)
    a, b = box(torch.tensordot(weights, torch.stack([earlier, later]), dims=([0], [1])))
    middle = 0.5 * (a + b)
    gx = functional.pad(middle[:, 2:] - middle[:, :-2], (1, 1)) * (size / 4)  # by grid_sample's unit, 2 / G a cell
    gy = functional.pad(middle[2:] - middle[:-2], (0, 0, 1, 1)) * (size / 4)
    x, y = centres(size, later.device)
    columns = torch.stack([gx, gy, gx * x + gy * y, gy * x - gx * y]).flatten(1)  # (4, G * G)
    change = (b - a).flatten()
    inside = _middle(size, later.device).flatten()
    found = change.new_zeros(4)
    for _ in range(REWEIGHTINGS):
        misfit = change - found @ columns
        misfit = misfit / (misfit.abs().mean() * ROBUST + 1e-6)
        weighted = columns * (inside / (1.0 + misfit * misfit))
        normal = weighted @ columns.T
        damping = torch.diag_embed(normal.diagonal() * DAMPING + 1e-6)
        found = torch.linalg.solve_ex(normal + damping, weighted @ change)[0]
    shift_x, shift_y, growth, turn = found * _evidence(change, change - found @ columns, inside)
    return torch.stack([shift_x + growth * x - turn * y, shift_y + growth * y + turn * x])


def cell_motion(earlier: Tensor, later: Tensor) -> Tensor:
    """Where each cell of the later crop was in the earlier one, as the crops around it show: a cell at most.

    Args:
        earlier: (3, G, G) in [-1, 1], already where mesh and similarity put it.
        later: (3, G, G).

    Returns:
        (2, G, G).

    Where there is no structure, or none beside the noise, nothing moves: the noise, told from the median change, damps
    the equations, and a motion is believed as far as it explains more of the change than noise would.

    Source:
        Lucas and Kanade, 1981, in windows; one step, as what is left here is under a cell.
    """
    size = later.shape[-1]
    weights = _luma(later.device, later.dtype)
    a, b = box(torch.tensordot(weights, torch.stack([earlier, later]), dims=([0], [1])))
    middle = 0.5 * (a + b)
    gx = functional.pad(middle[:, 2:] - middle[:, :-2], (1, 1)) * 0.5  # by cell
    gy = functional.pad(middle[2:] - middle[:-2], (0, 0, 1, 1)) * 0.5
    change = b - a
    noise = 2.0 * change.abs().median().square() + 1e-6  # variance of what has that median
    xx, yy, xy, xc, yc = smooth(torch.stack([gx * gx, gy * gy, gx * gy, gx * change, gy * change]), REACH)
    xx, yy = xx + noise, yy + noise
    x, y = torch.stack([yy * xc - xy * yc, xx * yc - xy * xc]) / (xx * yy - xy * xy)
    explained = (x * xc + y * yc).clamp_min(1e-9)
    believed = (1.0 - CHANCE * noise / explained).clamp(0.0, 1.0)
    moved: Tensor = (torch.stack([x, y]) * believed).clamp(-1.0, 1.0) * (2.0 / size)
    return moved


def _evidence(change: Tensor, misfit: Tensor, inside: Tensor) -> Tensor:
    """Share of a motion that is believed, (), from how much of the change it explains: noise alone moves nothing.

    Noise lets four unknowns explain four cells' worth of it; twice that is taken off (James and Stein's estimator).
    """
    before, after = ((inside * part.square()).sum() for part in (change, misfit))
    by_chance = 2.0 * 4.0 * after / inside.sum()
    return (1.0 - by_chance / (before - after).clamp_min(1e-9)).clamp(0.0, 1.0)


def _affine_fits(places: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, V, 2), (N, V, 2) -> (N, 3, 2): moved as linear functions of (x, y, 1), least squares in closed form.

    A mesh whose vertices lie on a line, which says nothing of what is beside it, moves as a whole.
    """
    middle, mean = places.mean(1, keepdims=True), moved.mean(1, keepdims=True)
    about = places - middle
    (xx, xy), (_, yy) = (about.transpose(0, 2, 1) @ about).transpose(1, 2, 0)  # (N,) each
    determinant = xx * yy - xy * xy
    says = determinant > FLAT * np.square(xx + yy)
    over = np.where(says, 1.0 / np.where(says, determinant, 1.0), 0.0)
    inverse = np.stack([yy, -xy, -xy, xx], -1).reshape(-1, 2, 2) * over[:, None, None]
    linear = inverse @ (about.transpose(0, 2, 1) @ (moved - mean))
    return np.concatenate([linear, mean - middle @ linear], 1)


@lru_cache(maxsize=8)
def _luma(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(3,), kept on the device: a copy anew for each crop would wait for all that was launched before it."""
    return torch.tensor(LUMA, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _growth(coarse: int, size: int, device: torch.device) -> Tensor:
    """(S, G): rows of weights of linear interpolation between cell centres."""
    rows: Tensor = functional.interpolate(torch.eye(coarse)[None], size=size, mode="linear")[0].T
    return rows.contiguous().to(device)


@lru_cache(maxsize=32)
def _means(size: int, reach: int, times: int, device: torch.device) -> Tensor:
    """(G, G): rows of weights of a mean over 2 reach + 1 places, the border repeated, so many times over."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset in range(-reach, reach + 1):
        columns = (torch.arange(size) + offset).clamp(0, size - 1)
        matrix[torch.arange(size), columns] += 1.0 / (2 * reach + 1)
    means: Tensor = torch.linalg.matrix_power(matrix, times)
    return means.float().to(device)


@lru_cache(maxsize=16)
def centres(size: int, device: torch.device) -> Tensor:
    """(2, S, S): x and y of the pixels' centres, from edge -1 to edge 1."""
    line = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) * (2.0 / size) - 1.0
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])


@lru_cache(maxsize=16)
def _middle(size: int, device: torch.device) -> Tensor:
    """(G, G): 1 over the face of the FFHQ template, falling to 0 at the crop's border, where another motion may be."""
    x, y = centres(size, device).unbind()
    weight: Tensor = MIDDLE_HEIGHT - MIDDLE_HEIGHT * (x.square() + (y - MIDDLE_Y).square())
    return weight.clamp(0.0, 1.0)


@lru_cache(maxsize=4)
def _triangles(num_vertices: int, device: torch.device, topology: MeshTopology | None) -> Tensor | None:
    """(T, 3) of meshes with so many vertices; None where they are not known: then the affine map must do."""
    if topology is not None:
        return torch.from_numpy(topology.triangles.astype(np.int64)).to(device)
    model = load_vr468()
    return model.triangles.to(device) if model.num_vertices == num_vertices else None
