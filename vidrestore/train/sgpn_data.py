"""Samples for SGPN: a clean face on the network's template, what a bad recording makes of it, and where its points lie.

Every sample is a function of (seed, index) alone, as in :mod:`vidrestore.train.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vidrestore.errors import ConfigError
from vidrestore.geometry import compose, scale_about_pixel_edges
from vidrestore.restoration.align import FFHQ_TEMPLATE_512, SGPN_TEMPLATE_512, crop_from_ffhq, template
from vidrestore.train.data import FaceCache, augment, list_images, split_held_out
from vidrestore.train.degrade import LEVELS, Picture, degrade
from vidrestore.train.paper_degrade import BlindLevel, BrushOptions, brush_strokes, degrade_blind, punch_holes

__all__ = ["Batch", "SgpnData", "SgpnSamples", "as_batch", "held_out_batch", "open_faces"]

Template = Literal["sgpn", "ffhq"]

_TEMPLATES = {"sgpn": SGPN_TEMPLATE_512, "ffhq": FFHQ_TEMPLATE_512}
_SAMPLES, _HELD_OUT = 11, 12  # streams of random numbers, beside those of data.py


@dataclass(frozen=True, slots=True)
class SgpnData:
    """Where faces come from and what happens to them. The paper's text leaves its degradation open."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces (FFHQ's template)."""
    cache: str = "data/faces_512.npy"
    """File of the resized faces; made when missing or out of date."""
    cache_size: int = 512
    """Side of the cached faces in pixels."""
    template: Template = "sgpn"
    """Where the face lies in the crop: as the published network's own alignment puts it, or as FFHQ. The surroundings
    that SGPN's larger crop shows beyond FFHQ's are mirrored."""
    held_out: int = 128
    """The first so many faces are for validation and never trained on."""
    workers: int = 2
    """Processes that make samples."""
    varied: bool = False
    """Moves, colours, occluders, glasses (:func:`vidrestore.train.data.augment`); the paper flips, and no more."""
    chain: Literal["blind", "video"] = "blind"
    """``blind``: blur, shrink, noise, JPEG, enlarge, with the ranges below; ``video``: the recording chains of
    :mod:`vidrestore.train.degrade`, light to heavy."""
    blind: BlindLevel = field(default_factory=lambda: BlindLevel((0.2, 10.0), (1.0, 16.0), (0.0, 20.0), (30.0, 95.0)))
    """Ranges for 512 pixels, from nearly clean to a face of 32 pixels."""
    hole_share: float = 0.0
    """Share of the samples with holes, white brush strokes over the degraded picture: 1 trains the paper's inpainting
    extension, which is the same network."""
    brush: BrushOptions = field(default_factory=BrushOptions)


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples."""

    degraded: Tensor
    """(B, 3, S, S) float32 in [-1, 1]."""
    clean: Tensor
    """(B, 3, S, S) float32 in [-1, 1]."""
    points: NDArray[np.float64]
    """(B, 5, 2) eyes, nose and mouth corners of the template in crop pixels."""

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        return Batch(self.degraded.to(device), self.clean.to(device), self.points)


class SgpnSamples(Dataset[tuple[Tensor, Tensor]]):
    """(degraded, clean), (3, S, S) uint8 each.

    Args:
        cache: clean faces in FFHQ's template.
        data: what happens to them.
        size: S.
        seed: of the whole stream.
    """

    def __init__(self, cache: FaceCache, data: SgpnData, *, size: int, seed: int) -> None:
        self.cache, self.data, self.size, self.seed = cache, data, size, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(index, len(self.cache))
        order = np.random.default_rng([self.seed, _SAMPLES, epoch]).permutation(len(self.cache))
        rng = np.random.default_rng([self.seed, _SAMPLES, 0, index])
        face = self.cache.pictures[order[place]]
        if self.data.varied:
            other = self.cache.pictures[int(rng.integers(len(self.cache)))]
            picture = augment(face, face.shape[0], rng, other)
        else:
            picture = np.asarray(face[:, ::-1] if rng.random() < 0.5 else face, np.float32) / np.float32(255.0)
        clean = _placed(picture, self.data.template, self.size)
        degraded = _degraded(clean, self.data, rng)
        if rng.random() < self.data.hole_share:
            degraded = punch_holes(degraded, brush_strokes(self.size, self.data.brush, rng))
        return _bytes(degraded), _bytes(clean)


def as_batch(pictures: Sequence[Tensor], template_name: Template) -> Batch:
    """Collated uint8 samples as floats, with the template's points.

    The points are those of the template: a detector finds them within the moves of ``varied``, which the regressor
    then learns to bear.
    """
    degraded, clean = (p.float() * (2.0 / 255.0) - 1.0 for p in pictures)
    points = template(degraded.shape[-1], _TEMPLATES[template_name])
    return Batch(degraded, clean, np.repeat(points[None], len(degraded), 0))


def open_faces(data: SgpnData) -> tuple[FaceCache, list[Path]]:
    """The training faces, and the paths of those held out.

    Raises:
        ConfigError: no faces, or too few.
    """
    paths, held_out = split_held_out(list_images(data.faces), data.held_out)
    return FaceCache(paths, data.cache_size, data.cache), held_out


def held_out_batch(paths: Sequence[Path], data: SgpnData, size: int) -> Batch:
    """The first faces, each degraded once; face i depends on i alone.

    Raises:
        ConfigError: a picture cannot be read or is not square.
    """
    degraded, clean = [], []
    for i, path in enumerate(paths):
        read = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if read is None or read.shape[0] != read.shape[1]:
            raise ConfigError(f"{path}: expected a square picture of an aligned face")
        method = cv2.INTER_AREA if read.shape[0] > data.cache_size else cv2.INTER_CUBIC
        face = np.asarray(cv2.resize(read, (data.cache_size, data.cache_size), interpolation=method), np.float32)
        picture = _placed(face[..., ::-1] / np.float32(255.0), data.template, size)
        clean.append(_bytes(picture))
        rng = np.random.default_rng([_HELD_OUT, i])
        bad = _degraded(picture, data, rng)
        if data.hole_share == 1.0:
            bad = punch_holes(bad, brush_strokes(size, data.brush, rng))
        degraded.append(_bytes(bad))
    return as_batch([torch.stack(degraded), torch.stack(clean)], data.template)


def _placed(picture: Picture, name: Template, size: int) -> Picture:
    """A face of FFHQ's template in the network's crop."""
    side = picture.shape[0]
    crop = scale_about_pixel_edges(size / side)
    if name != "ffhq":
        crop = compose(crop_from_ffhq(size, _TEMPLATES[name]), crop)
    shrink = 1.0 / float(np.sqrt(abs(np.linalg.det(crop[:, :2]))))
    if shrink > 1.5:  # a warp takes single samples: what it would alias goes out first
        blurred = cv2.GaussianBlur(picture, (0, 0), 0.5 * np.sqrt(shrink**2 - 1.0))
        picture = np.asarray(blurred, np.float32)
    flags = cv2.INTER_LINEAR if shrink > 1.0 else cv2.INTER_CUBIC
    placed = cv2.warpAffine(picture, crop, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.clip(placed, 0.0, 1.0).astype(np.float32)


def _degraded(clean: Picture, data: SgpnData, rng: np.random.Generator) -> Picture:
    if data.chain == "video":
        return degrade(clean, LEVELS[("light", "medium", "heavy")[rng.choice(3, p=(0.3, 0.4, 0.3))]], rng)
    scale = clean.shape[0] / 512  # the blur's ranges are for 512 pixels
    low, high = data.blind.blur
    level = BlindLevel((low * scale, high * scale), data.blind.scale, data.blind.noise, data.blind.quality)
    return degrade_blind(clean, level, rng)


def _bytes(picture: Picture) -> Tensor:
    return torch.from_numpy(np.rint(picture.transpose(2, 0, 1) * 255.0).astype(np.uint8))
