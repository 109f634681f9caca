"""SGPN on video: who it is comes from the whole track, what the face does from each frame.

For each crop the regressor reads 257 coefficients, unless the tracker has read them already (``track.model = "bfm"``):
then these are taken, before the view that they were made for. Then, along a track:

- *Identity and texture* belong to the person. They are averaged over the track, each frame by its confidence, and held
  once enough has been seen. *Lighting* is averaged over a few frames.
- *Expression, angles and translation* are the frame's own, always: lips move, lids close.
- *The render* and its encoding, half of the encoder's work, are made anew where they have to be: after ``every``
  frames, and sooner where any of the mesh's 68 landmarks, lips included, would lie more than ``tolerance_px`` from
  where the render at hand shows it. Between, the render is carried by the crop's alignment, which follows the pose.
  The coefficients that go into the style are those of the frame in any case.

Where a track ends its state goes; a track never comes back under its id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.errors import WeightsError
from vidrestore.geometry import apply, compose, invert, scale_about_pixel_edges
from vidrestore.morphable.align import CROP_SIZE, d3dfr_from_display
from vidrestore.morphable.coefficients import COEFFICIENTS, Coefficients, join, split
from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.morphable.files import read_model
from vidrestore.morphable.model import MorphableModel
from vidrestore.restoration.align import SGPN_TEMPLATE_512, template
from vidrestore.restoration.sgpn import Encoded, Sgpn
from vidrestore.restoration.shape_prior import ShapePrior
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import WeightStore, find_model, missing
from vidrestore.types import CropContext, Track

__all__ = ["PriorOptions", "PriorWork", "SgpnRestorer", "load_bfm2009", "load_d3dfr", "load_sgpn"]


@dataclass(frozen=True, slots=True)
class PriorOptions:
    """How the shape prior is kept along a track."""

    every: int = 8
    """Frames after which the render is made anew at the latest; 1 makes it in each frame."""
    tolerance_px: float = 3.0
    """Largest error of a landmark of the render at hand, in pixels of a crop of 512."""
    pools: bool = True
    """Identity and texture are those of the track, lighting of a few frames; otherwise all is the frame's."""
    enough: float = 40.0
    """Sum of confidences, about one a frame, after which identity and texture are held."""
    light_frames: float = 5.0
    """Time constant of the lighting's average, in frames."""


@dataclass(slots=True)
class PriorWork:
    """What the shape prior has cost so far."""

    num_read: int = 0
    """Crops whose coefficients were read."""
    num_drawn: int = 0
    """Crops for which a render was drawn and encoded."""


@dataclass(frozen=True, slots=True)
class _Person:
    """What is known of a track; never changed, only replaced."""

    weight: float = 0.0
    identity: Tensor | None = None  # (80,), mean
    texture: Tensor | None = None  # (80,), mean
    lighting: Tensor | None = None  # (27,), recent mean
    drawn_at: int = 0  # frame index of the render
    points: Tensor | None = None  # (68, 2) landmarks of the render in crop pixels
    drawn: Encoded | None = None  # the encoded render, of a batch of one

    def is_stale(self, frame_index: int, points: Tensor, every: int, tolerance: float) -> bool:
        """The render is too old, or (68, 2) points that are off by more than the tolerance say so, or there is none."""
        if self.points is None or frame_index - self.drawn_at >= every:
            return True
        return float((points - self.points).norm(dim=1).max()) > tolerance


class SgpnRestorer:
    """SGPN as a :class:`vidrestore.restoration.restorer.Restorer`.

    Args:
        network: with its weights; of a smaller size in tests.
        prior: regressor and morphable model that the weights were trained with.
        device: where both go.
        precision: of encoder and generator; the shape prior stays in float32.
        options: how the prior is kept along a track.

    Attributes:
        template: where the network wants a face: not FFHQ's template.
        work: counters, for reports.
        is_pure: the results depend on what came before along the track.
    """

    is_pure = False
    template: NDArray[np.float64] = SGPN_TEMPLATE_512

    def __init__(
        self,
        network: Sgpn,
        prior: ShapePrior,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        options: PriorOptions | None = None,
    ) -> None:
        self.size = network.dims.size
        self.device = device
        self.options = options or PriorOptions()
        self.work = PriorWork()
        self._precision = precision
        self._network = network.to(device).eval().requires_grad_(False)
        self._prior = prior.to(device).eval().requires_grad_(False)
        self._people: dict[int, _Person] = {}

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`vidrestore.restoration.restorer.Restorer`; clamped to [-1, 1], as published.

        Holes are painted white, as the inpainting extension is trained; its weights fill them in.
        """
        if context is not None and context.holes is not None:
            holes = torch.from_numpy(context.holes).to(images)[:, None]
            images = torch.lerp(images, torch.ones_like(images), holes)
        if not self._network.dims.has_shape_prior:
            return self._paint(images, None, None)
        maps = self._maps(images, context)
        coefficients = self._coefficients(images, maps, context)
        if context is None:
            drawn = self._draw(coefficients, maps)
            return self._paint(images, [drawn.select(i) for i in _each(len(images))], coefficients)
        people = {i: p for i, p in self._people.items() if i not in context.ended}
        coefficients, drawn_each = self._steadied(coefficients, maps, context, people)
        restored = self._paint(images, drawn_each, coefficients)
        self._people = people  # not before the network has run: it may have been out of memory
        return restored

    def _points(self, images: Tensor, context: CropContext | None) -> NDArray[np.float64]:
        """(B, 5, 2) in crop pixels: the tracks' landmarks, or those of the template."""
        if context is None:
            return np.repeat(template(self.size, self.template)[None], len(images), 0)
        pairs = zip(context.crop_from_display, context.tracks, strict=True)
        return np.stack([apply(crop_from_display, track.landmarks) for crop_from_display, track in pairs])

    def _maps(self, images: Tensor, context: CropContext | None) -> Tensor:
        """(B, 2, 3) view_from_crop: where the regressor looks, or where the tracker's regressor looked."""
        maps = self._prior.maps(self._points(images, context), self.size)
        if context is None:
            return maps
        view = scale_about_pixel_edges(self._prior.camera.size / CROP_SIZE)
        for i, (track, crop_from_display) in enumerate(zip(context.tracks, context.crop_from_display, strict=True)):
            if _given(track) is not None:
                view_from_display = compose(view, d3dfr_from_display(track.alignment))
                maps[i] = torch.from_numpy(compose(view_from_display, invert(crop_from_display)))
        return maps

    def _coefficients(self, images: Tensor, maps: Tensor, context: CropContext | None) -> Tensor:
        """(B, 257): the tracks' own where they are of this model, read off the crops elsewhere."""
        given = [None] * len(images) if context is None else [_given(track) for track in context.tracks]
        wanted = [i for i, row in enumerate(given) if row is None]
        self.work.num_read += len(wanted)
        if len(wanted) == len(images):
            return self._prior.read(images, maps)
        rows = [torch.zeros(COEFFICIENTS) if row is None else torch.from_numpy(row).float() for row in given]
        coefficients = torch.stack(rows).to(images.device)
        if wanted:
            coefficients[wanted] = self._prior.read(images[wanted], maps[wanted])
        return coefficients

    def _steadied(
        self, coefficients: Tensor, maps: Tensor, context: CropContext, people: dict[int, _Person]
    ) -> tuple[Tensor, list[Encoded]]:
        """The coefficients with the person's own parts, and each crop's encoded render; ``people`` is brought up to
        date, crop after crop, so results do not depend on how frames fall into batches."""
        options = self.options
        if options.pools:
            read = split(coefficients)
            rows = []
            for i, track in enumerate(context.tracks):
                one = Coefficients(*(getattr(read, f.name)[i : i + 1] for f in dataclasses.fields(read)))
                people[track.id], steady = _pooled(people.get(track.id, _Person()), one, track, options)
                rows.append(steady)
            coefficients = torch.cat(rows)
        points = self._prior.points_in_crop(self._prior.model(coefficients, self._prior.camera), maps)
        tolerance = options.tolerance_px * self.size / 512
        wanted: list[int] = []  # crops that get a render of their own
        source: list[int | Encoded] = []  # for each crop: index into wanted, or a render from before this batch
        newest: dict[int, int] = {}
        for i, (track, index) in enumerate(zip(context.tracks, context.frame_indices, strict=True)):
            person = people.get(track.id, _Person())
            if person.is_stale(index, points[i], options.every, tolerance):
                newest[track.id] = len(wanted)
                wanted.append(i)
                people[track.id] = dataclasses.replace(person, drawn_at=index, points=points[i], drawn=None)
            before = people[track.id].drawn
            source.append(newest[track.id] if before is None else before)
        each: list[Encoded] = []
        if wanted:
            at = torch.tensor(wanted, device=coefficients.device)
            drawn = self._draw(coefficients[at], maps[wanted])
            each = [drawn.select(i) for i in _each(len(wanted))]
        for track_id, place in newest.items():
            people[track_id] = dataclasses.replace(people[track_id], drawn=each[place])
        return coefficients, [each[s] if isinstance(s, int) else s for s in source]

    def _draw(self, coefficients: Tensor, maps: Tensor) -> Encoded:
        """Encoded renders of (B, 257) coefficients."""
        self.work.num_drawn += len(coefficients)
        pictures = self._prior.draw(coefficients, maps, self.size)
        with self._lowered():
            return self._network.encode(pictures)

    def _paint(self, images: Tensor, drawn: Sequence[Encoded] | None, coefficients: Tensor | None) -> Tensor:
        """The network's two remaining parts. On a CPU one face after the other: batches gain nothing there, and the
        maps of one face fill 128 MB."""
        step = 1 if self.device.type == "cpu" else len(images)
        parts = []
        for i in range(0, len(images), step):
            here = slice(i, i + step)
            with self._lowered():
                seen = self._network.encode(images[here])
                there = None if drawn is None else _together(drawn[here])
                given = None if coefficients is None else coefficients[here]
                parts.append(self._network.decode(seen, there, given).float().clamp(-1.0, 1.0))
        return torch.cat(parts)

    def _lowered(self) -> torch.autocast:
        lowers = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision if lowers else torch.bfloat16, enabled=lowers)


def load_sgpn(store: WeightStore, device: torch.device, precision: torch.dtype, options: PriorOptions) -> SgpnRestorer:
    """The published network with the published shape prior, all three converted beforehand.

    Raises:
        WeightsError: one of the three is missing or damaged; it is told where to get it.
    """
    with torch.device("meta"):
        network = Sgpn()
    load_published(network, store.load("sgpn"), source="sgpn.safetensors")
    prior = ShapePrior(load_d3dfr(store), load_bfm2009(store))
    return SgpnRestorer(network, prior, device, precision, options)


def load_d3dfr(store: WeightStore) -> D3dfr:
    """The published regressor, converted beforehand, on the CPU.

    Raises:
        WeightsError: it is missing or damaged; it is told where to get it.
    """
    with torch.device("meta"):
        regressor = D3dfr()
    load_published(regressor, store.load("d3dfr"), source="d3dfr.safetensors")
    return regressor


def load_bfm2009(store: WeightStore) -> MorphableModel:
    """The user's Basel Face Model, converted beforehand, on the CPU.

    Raises:
        WeightsError: it is missing or damaged; it is told where to get it.
    """
    if store.receipt("bfm2009") is None:
        raise WeightsError(missing(find_model("bfm2009")))
    return read_model(store.path("bfm2009"))


def _given(track: Track) -> NDArray[np.float32] | None:
    """(257,) what the tracker read, where it reads with BFM."""
    return track.coefficients if track.topology is not None and track.topology.name == "bfm" else None


def _pooled(person: _Person, read: Coefficients, track: Track, options: PriorOptions) -> tuple[_Person, Tensor]:
    """The person after one more look, and the coefficients of this frame, (1, 257)."""
    confidence = _confidence(read, track)
    if _given(track) is not None:  # the tracker has pooled who it is
        person = dataclasses.replace(person, weight=0.0)
    identity, texture, lighting = read.identity[0], read.texture[0], read.lighting[0]
    if person.identity is None or person.texture is None or person.lighting is None:
        person = dataclasses.replace(person, weight=confidence, identity=identity, texture=texture, lighting=lighting)
    else:
        if person.weight < options.enough:
            weight = person.weight + confidence
            share = confidence / weight
            person = dataclasses.replace(
                person,
                weight=weight,
                identity=torch.lerp(person.identity, identity, share),
                texture=torch.lerp(person.texture, texture, share),
            )
        assert person.lighting is not None
        recent = torch.lerp(person.lighting, lighting, 1.0 / (1.0 + options.light_frames))
        person = dataclasses.replace(person, lighting=recent)
    assert person.identity is not None
    assert person.texture is not None
    assert person.lighting is not None
    steady = dataclasses.replace(
        read, identity=person.identity[None], texture=person.texture[None], lighting=person.lighting[None]
    )
    return person, join(steady)


def _confidence(read: Coefficients, track: Track) -> float:
    """How much a look tells of the person, in (0, 1]: sure detections of faces that look into the camera tell most."""
    frontal = float(torch.cos(read.angles[0, :2].clamp(-1.5, 1.5)).prod())
    seen = 1.0 if track.missed == 0 else 0.25
    return max(track.score, 0.05) * max(frontal, 0.05) * seen


def _each(count: int) -> list[Tensor]:
    return [torch.tensor([i]) for i in range(count)]


def _together(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    return Encoded(
        torch.cat([p.latent for p in parts]), tuple(torch.cat(m) for m in zip(*(p.maps for p in parts), strict=True))
    )
