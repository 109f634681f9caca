"""The blend stage for crops that live on a device: what :mod:`vidrestore.blend.compositor` does, in torch.

Masks and differences of all faces of a batch are made together and stay where they are; the compositing kernel then
writes them into planes on the same device. Area shrink, Gaussian and cubic growth are separable and linear, so each is
a pair of small matrices, read off OpenCV's own functions: the results are those of the CPU up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.blend import mask as masks
from vidrestore.blend.compositor import GUARD_SIGMA
from vidrestore.blend.occluders import CropPlace, OccluderMemory
from vidrestore.blend.outline import coarse_outline
from vidrestore.config import BlendOptions
from vidrestore.kernels.colour import is_hdr, tone_curve
from vidrestore.types import MeshTopology, PixelFormat

__all__ = ["Change", "ResidentBlend"]


@dataclass(frozen=True, slots=True)
class Change:
    """What B crops change, as the compositing kernel wants it; all on one device."""

    deltas: Tensor
    """(B, 3, S, S) float32 R'G'B' in the frame's own signal, in [-2, 2]."""
    masks: Tensor
    """(B, S, S) float32 in [0, 1]."""
    usable: Tensor
    """(B,) uint8: 0 where the network's result was not finite."""


class ResidentBlend:
    """Makes the :class:`Change` of a batch of crops.

    Attributes:
        options: as :class:`~vidrestore.blend.compositor.Compositor` has them.
        colour_guard: likewise.
        lowers_disagreement: likewise.
    """

    def __init__(self, options: BlendOptions, *, colour_guard: float = 1.0, lowers_disagreement: bool = True) -> None:
        self.options = options
        self.colour_guard = colour_guard
        self.lowers_disagreement = lowers_disagreement
        self._occluders: OccluderMemory[Tensor] = OccluderMemory(options.occluder_frames, torch.minimum)

    def change(
        self,
        degraded: Tensor,
        restored: Tensor,
        crop_from_frame: NDArray[np.float64],
        frame_size: tuple[int, int],
        pixel_format: PixelFormat,
        *,
        meshes: Sequence[NDArray[np.float32] | None] | None = None,
        topologies: Sequence[MeshTopology | None] | None = None,
        places: Sequence[CropPlace] | None = None,
    ) -> Change:
        """Differences, guarded in colour, and their masks.

        Args:
            degraded: (B, 3, S, S) in [-1, 1].
            restored: the same shape; what is not finite is left out.
            crop_from_frame: (B, 2, 3), on the host.
            frame_size: height and width of the frames in which the crops lie.
            pixel_format: of those frames.
            meshes: of B crops, (V, 3) in crop pixels or None, on the host; None: no crop has any.
            topologies: of those meshes; None: all are ``vr468``'s.
            places: B tracks and frames that the crops are of, in order; what covered a face is then remembered. None:
                every crop is on its own.
        """
        usable = torch.isfinite(restored).flatten(1).all(1)
        restored = torch.where(usable[:, None, None, None], restored, degraded)
        difference = restored - degraded
        nothing = [None] * len(degraded)
        outline = self._outlines(
            meshes or nothing, topologies or nothing, degraded.shape[-1], degraded.device
        )  # (1 or B, S, S)
        mask = self._base(crop_from_frame, frame_size, outline)
        if self.lowers_disagreement:
            mask = mask * self._agreement(degraded, difference, places)
        mask = mask.expand(len(degraded), -1, -1)
        if self.colour_guard > 0.0 or self.options.colour < 1.0:
            difference = _damp(difference, self.options.colour)
            if self.colour_guard > 0.0:
                difference = _guard(difference, mask, self.colour_guard)
        if is_hdr(pixel_format):
            restored = degraded + difference
            curve = _curve(pixel_format, degraded.device)
            difference = _unmapped(restored, curve) - _unmapped(degraded, curve)
        return Change(difference.contiguous(), mask.contiguous(), usable.to(torch.uint8))

    def _base(
        self,
        maps: NDArray[np.float64],
        frame_size: tuple[int, int],
        outline: Tensor,
    ) -> Tensor:
        """(1 or B, S, S): the outline, and the fade of crops that the frame's border cuts."""
        size, device = outline.shape[-1], outline.device
        if all(masks.is_inside(size, m, *frame_size) for m in maps):
            return outline
        plain = outline.cpu().numpy()
        borders = [
            masks.border_mask(size, m, *frame_size, plain[i if len(plain) > 1 else 0]) for i, m in enumerate(maps)
        ]
        return outline * torch.from_numpy(np.stack(borders)).to(device)

    def _outlines(
        self,
        meshes: Sequence[NDArray[np.float32] | None],
        topologies: Sequence[MeshTopology | None],
        size: int,
        device: torch.device,
    ) -> Tensor:
        """(1 or B, S, S): meshes are outlined small on the host and grown on the device."""
        feather = self.options.feather
        fixed = _outline(size, feather, device)
        if self.options.mask == "ellipse" or all(mesh is None for mesh in meshes):
            return fixed
        coarse = [
            coarse_outline(mesh, size, feather, topology)
            for mesh, topology in zip(meshes, topologies, strict=True)
            if mesh is not None
        ]
        there = torch.from_numpy(np.stack(coarse)).to(device, non_blocking=True)
        grown = _both_axes(_growth(size, device, there.shape[-1]), there).clamp(0.0, 1.0) * _rim(size, device)
        drawn = iter(grown)
        return torch.stack([fixed[0] if mesh is None else next(drawn) for mesh in meshes])

    def _agreement(self, degraded: Tensor, difference: Tensor, places: Sequence[CropPlace] | None) -> Tensor:
        """(B, S, S): where what came out is what went in, now and in the frames before."""
        size = difference.shape[-1]
        share = _coarse_agreement(degraded, difference)
        if places is not None:
            share = torch.stack([self._occluders.hold(place, part) for place, part in zip(places, share, strict=True)])
        return _both_axes(_growth(size, difference.device), share[:, None])[:, 0].clamp(0.0, 1.0)


def _damp(difference: Tensor, share: float) -> Tensor:
    luma = torch.tensordot(difference, _luma(difference.device), ([1], [0]))[:, None]
    damped: Tensor = luma + share * (difference - luma)
    return damped


def _guard(difference: Tensor, mask: Tensor, share: float) -> Tensor:
    size = difference.shape[-1]
    weighted = torch.cat([difference * mask[:, None], mask[:, None]], 1)  # (B, 4, S, S)
    blurred = _both_axes(_low_pass(size, GUARD_SIGMA, difference.device), weighted)
    average = blurred[:, :3] / blurred[:, 3:].clamp_min(1e-3)
    return difference - share * _both_axes(_growth(size, difference.device), average)


def _coarse_agreement(degraded: Tensor, difference: Tensor) -> Tensor:
    """(B, s, s), as :func:`vidrestore.blend.mask.coarse_agreement`."""
    size, device = difference.shape[-1], difference.device
    coarse = _both_axes(_low_pass(size, masks.DISAGREEMENT_SIGMA, device), difference)
    ordered = coarse.flatten(2).sort(-1).values
    half = ordered.shape[-1] // 2
    median = (ordered[..., (ordered.shape[-1] - 1) // 2] + ordered[..., half]) / 2
    length = (coarse - median[..., None, None]).square().mean(1).sqrt()
    low, high = masks.DISAGREEMENT_LOW, masks.DISAGREEMENT_HIGH
    tone = _smoothstep((high - length) / (high - low))
    area = _area(size, device)
    luma = torch.stack([torch.tensordot(x, _luma(device), ([1], [0])) for x in (degraded, difference)], 1)
    return tone * (1.0 - _other_structure(_both_axes(area, luma)))


def _other_structure(pair: Tensor) -> Tensor:
    """(B, s, s) of (B, 2, s, s): luma of the degraded crops and of the differences."""
    size, device = pair.shape[-1], pair.device
    fine, wide, around = (
        _gaussian(size, sigma, device) for sigma in (masks.BAND_FINE, masks.BAND_WIDE, masks.BAND_AROUND)
    )
    before, change = (_both_axes(fine, pair) - _both_axes(wide, pair)).unbind(1)
    after = before + change
    products = torch.stack([change * change, before * before, after * after, before * after], 1)
    changed, before_power, after_power, common = _both_axes(around, products).unbind(1)
    likeness = common / (before_power * after_power).clamp_min(1e-12).sqrt()
    differs = _smoothstep((changed.sqrt() - masks.BAND_LOW) / (masks.BAND_HIGH - masks.BAND_LOW))
    other = differs * _smoothstep((masks.LIKE_HIGH - likeness) / (masks.LIKE_HIGH - masks.LIKE_LOW))
    side = masks.spread_size(size)
    spread = functional.max_pool2d(other[:, None], side, 1, side // 2)[:, 0]
    return _both_axes(_gaussian(size, masks.SPREAD_SOFT, device), spread)


def _smoothstep(x: Tensor) -> Tensor:
    t = x.clamp(0.0, 1.0)
    result: Tensor = t * t * (3.0 - 2.0 * t)
    return result


def _unmapped(rgb: Tensor, curve: Tensor) -> Tensor:
    """tone_unmap of :mod:`vidrestore.kernels.colour`: the broken line read from values to places, in float64."""
    wanted = rgb.double().clamp(-1.0, 1.0)
    node = torch.searchsorted(curve, wanted.contiguous(), right=True).clamp(1, len(curve) - 1) - 1
    low, high = curve[node], curve[node + 1]
    place = node + (wanted - low) / (high - low).clamp_min(1e-300)
    return (place * (2.0 / (len(curve) - 1)) - 1.0).float()


def _both_axes(matrix: Tensor, pictures: Tensor) -> Tensor:
    """(..., m, m) of (..., n, n) by an (m, n) matrix on rows and on columns."""
    return matrix @ pictures @ matrix.T


@lru_cache(maxsize=16)
def _outline(size: int, feather: float, device: torch.device) -> Tensor:
    return torch.from_numpy(masks.face_mask(size, feather).copy())[None].to(device)


@lru_cache(maxsize=16)
def _rim(size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(masks.rim_mask(size).copy()).to(device)


@lru_cache(maxsize=8)
def _luma(device: torch.device) -> Tensor:
    return torch.from_numpy(masks.LUMA).to(device)


@lru_cache(maxsize=8)
def _curve(pixel_format: PixelFormat, device: torch.device) -> Tensor:
    return torch.from_numpy(tone_curve(pixel_format)).to(device)


@lru_cache(maxsize=16)
def _low_pass(size: int, sigma: float, device: torch.device) -> Tensor:
    """(s, S): area shrink to the coarse copy, then a Gaussian of ``sigma`` * s."""
    area = _area(size, device)
    return _gaussian(len(area), sigma, device) @ area


@lru_cache(maxsize=16)
def _area(size: int, device: torch.device) -> Tensor:
    """(s, S): area shrink to the coarse copy."""
    coarse = min(size, masks.COARSE)
    shrink = cv2.resize(np.eye(size, dtype=np.float32), (size, coarse), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(shrink).to(device)


@lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    """(s, s): a Gaussian of ``sigma`` * s, borders repeated."""
    width = sigma * size
    length = round(width * 8 + 1) | 1  # what GaussianBlur takes for float pictures
    gaussian = cv2.getGaussianKernel(length, width, cv2.CV_32F)
    identity = np.eye(size, dtype=np.float32)
    blurred = cv2.sepFilter2D(identity, -1, np.ones(1, np.float32), gaussian, borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(blurred).to(device)


@lru_cache(maxsize=16)
def _growth(size: int, device: torch.device, coarse: int = masks.COARSE) -> Tensor:
    """(S, s): cubic interpolation from the coarse copy."""
    coarse = min(size, coarse)
    grown = cv2.resize(np.eye(coarse, dtype=np.float32), (coarse, size), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(grown).to(device)
