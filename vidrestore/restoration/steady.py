"""Any network's faces hold still in time: what it makes of a crop is averaged along the track where nothing changed.

A network sees other noise in every frame and makes another face of it: skin crawls, brows and beards boil. Here the
restored face is carried from frame to frame, where the face went, and averaged:

    carried = the last frame's result, moved by the mesh and by what the crops themselves show (motion.py), plus light
    light   = smooth change of the degraded crop since, where it is more than a codec's
    result  = restored + weight * (1 - gate) * (carried - restored)

All of the face is averaged and not its fine detail alone: half of what flickers in a compressed recording is coarse,
shades of blocks that jump by a level (docs/steadiness.md). Light and shade of the scene still pass at once: ``light``
is measured in every frame and added; what is kept back of it is less than a level of 255.

The gate opens where the degraded crop changed since: against a carried average of degraded crops, coarsely, a change
counts where it exceeds the noise of the moment and what a small error of position makes of the edges there. Noise and
grain leave it shut; a blink, speech, a hand or a shadow's edge open it, and there the frame's own result is shown, at
once. With the gate open everywhere the result is the network's, bit for bit.

It is a step of its own after the network, on its device and without waiting for it: pure networks stay pure. Held codes
(hysteresis.py) act inside the network and so come before; exposure (exposure.py) is held first, then the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.config import RestoreOptions
from vidrestore.geometry import apply
from vidrestore.kernels.follow import LEAST_SCALE, LIGHT_REACH, UNLIKE, FollowOptions, follow_crop
from vidrestore.restoration import exposure
from vidrestore.restoration.exposure import Exposure
from vidrestore.restoration.motion import (
    box,
    cell_motion,
    centres,
    coarse_size,
    crop_motion,
    hold,
    hold_by_torch,
    mesh_in_crop,
    mesh_motion,
    mesh_motion_by_torch,
    on_cpu,
    shrink,
    smooth,
    warp,
)
from vidrestore.types import CropContext, MeshTopology

__all__ = ["Steadiness", "SteadyOptions", "make_steadiness"]


@dataclass(frozen=True, slots=True)
class SteadyOptions:
    """How strongly faces are held; benchmarks/steady.py measures what it does."""

    weight: float = 0.65
    """Share of the carried picture in the result where nothing changed, in [0, 1); 0: it is not held."""
    exposure: float = 0.9
    """Share of the kept exposure at each frame, in [0, 1); 0: exposure is not held."""
    noise: float = 1.2
    """A change counts from so many times the mean change of flat skin on."""
    slack_px: float = 0.3
    """Error of position, in pixels of a crop of 256, that is forgiven at edges."""
    lively: float = 0.8
    """Share by which gates of eyes and mouth open sooner, in [0, 1). With 0.5 flicker of the committed clip was 0.47
    of the network's own in place of 0.50, but 6 % of the mouth's motion were lost in place of 4.5 %."""
    open: float = 2.0
    """The gate is open at so many times the change at which it begins to."""
    noise_floor: float = 0.004
    """The noise counts as at least this (half a step of 8 bits, of [-1, 1]): a perfect recording is not all motion."""
    noise_ceiling: float = 0.06
    """And at most as this, three times what noise of 6 of 255 leaves in a cell: another picture is not noise."""
    light_step: float = 0.016
    """Smooth changes of so much (two steps of 8 bits, of [-1, 1]) are taken for light by half, larger ones wholly; what
    a codec does to a block is less. However the light drifts, no more than half of this is kept back in one frame."""
    max_gap: int = 4
    """A track whose last crop is more frames back begins anew."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 0.0 <= self.weight < 1.0 or not 0.0 <= self.exposure < 1.0:
            raise ValueError(f"weight and exposure must be in [0, 1), got {self.weight}, {self.exposure}")
        if not min(self.noise, self.slack_px, self.light_step) > 0.0 or not self.open > 1.0:
            raise ValueError(f"noise, slack_px and light_step must be above 0 and open above 1, got {self}")


def make_steadiness(options: RestoreOptions) -> Steadiness | None:
    """The step that the options ask for; None where both strengths are 0 and results stay as the network made them."""
    if options.steady == 0.0 and options.exposure_lock == 0.0:
        return None
    return Steadiness(SteadyOptions(weight=options.steady, exposure=options.exposure_lock))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a crop belongs, and the face's mesh in it."""

    track_id: int
    shot: int
    frame_index: int
    mesh: NDArray[np.float32] | None
    """(V, 3) in the crop's pixels."""
    landmarks: NDArray[np.float64]
    """(5, 2) in the crop's pixels."""
    topology: MeshTopology | None
    """Of the mesh; None is ``vr468``'s."""


@dataclass(frozen=True, slots=True)
class _Now:
    """One crop of a batch."""

    place: _Place
    restored: Tensor
    """(3, S, S)."""
    degraded: Tensor
    """(3, G, G), coarse."""
    exposure: Exposure | None
    lively: Tensor
    """(G, G) in [0, 1], 1 at eyes and mouth."""
    mesh_motion: Tensor | None
    """(2, G, G), or None without meshes in both crops."""
    hole: Tensor | None
    """(G, G) in [0, 1]: share of each cell that is missing and made up; None: nothing is."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is kept of a track."""

    place: _Place
    num_frames: int
    """Since the track began anew."""
    restored: Tensor | None
    """(3, S, S), averaged; None where the picture is not held."""
    degraded: Tensor
    """(3, G, G), averaged."""
    trust: Tensor | float
    """(), 1, or 0 after a result that was not finite."""
    exposure: Exposure | None


_SPARE = 8
"""Crops on the CPU that are kept to be written to again: a batch. Fresh memory costs more than the arithmetic."""

_LIVELY_REACH = np.array([[0.30, 0.20], [0.30, 0.20], [0.45, 0.40]])
"""Half widths and heights of what counts as eyes and mouth, of the eyes' distance."""


class Steadiness:
    """The memory of all tracks, and the step after the network.

    Args:
        options: strengths.
        kernels: on the CPU kernels do it; False: torch does, as on other devices, at several times the cost.
    """

    def __init__(self, options: SteadyOptions | None = None, *, kernels: bool = True) -> None:
        self.options = options or SteadyOptions()
        self._kernels = kernels
        self._memories: dict[int, _Memory] = {}
        self._spare: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._memories)

    def steady(self, crops: Tensor, restored: Tensor, context: CropContext) -> Tensor:
        """The restored crops, held along their tracks.

        Args:
            crops: (B, 3, S, S) float32 in [-1, 1], what the network saw.
            restored: (B, 3, S, S) float32, what it made of them, on the same device.
            context: of these crops.

        Returns:
            (B, 3, S, S). A track's first crop in a shot or after a gap is the network's own, and so is one that is not
            finite. A track that comes back to an earlier frame begins anew.

        The memory changes last: a pass that runs out of memory before that comes again and finds all as it was.
        """
        places = _places(context)
        befores = self._befores(places)
        motions = self._mesh_motions(befores, places, crops)
        coarse = shrink(crops)
        lively = _lively(np.stack([place.landmarks for place in places]), crops)
        holes = (
            None
            if context.holes is None
            else shrink(torch.from_numpy(context.holes)[:, None].to(crops.device, non_blocking=True))
        )
        exposures = exposure.measure(coarse, shrink(restored)) if self.options.exposure > 0.0 else None
        fresh: dict[int, _Memory] = {}
        held, made = torch.empty_like(restored, memory_format=torch.contiguous_format), []
        for i, place in enumerate(places):
            of_crop = exposures.of(i) if exposures is not None else None
            hole = None if holes is None else holes[i, 0]
            now = _Now(place, restored[i], coarse[i], of_crop, lively[i], motions.get(i), hole)
            memory = fresh.get(place.track_id, self._memories.get(place.track_id)) if befores[i] is not None else None
            # a copy of its own: what is kept is written to again later
            kept = self._begin(now, held[i]) if memory is None else self._go_on(memory, now, held[i])
            fresh[place.track_id] = kept
            made.append(kept.restored)
        made += [memory.restored for memory in self._memories.values()]
        self._memories |= fresh
        for track_id in context.ended:
            self._memories.pop(track_id, None)
        used = {id(memory.restored) for memory in self._memories.values()}
        free = [part for part in [*self._spare, *made] if part is not None and id(part) not in used]
        self._spare = free[:_SPARE] if held.device.type == "cpu" else []
        return held

    def _room(self, like: Tensor) -> Tensor:
        """For (3, S, S), contiguous: that of a crop that nobody reads any more, where there is one."""
        while self._spare:
            room = self._spare.pop()
            if room.shape == like.shape and room.dtype == like.dtype:
                return room
        return torch.empty_like(like, memory_format=torch.contiguous_format)

    def _befores(self, places: Sequence[_Place]) -> list[_Place | None]:
        """The last place of each one's track, in this call or before; None where the track begins anew."""
        last = {track_id: memory.place for track_id, memory in self._memories.items()}
        befores: list[_Place | None] = []
        for place in places:
            before = last.get(place.track_id)
            befores.append(before if before is not None and self._follows(before, place) else None)
            last[place.track_id] = place
        return befores

    def _follows(self, before: _Place, now: _Place) -> bool:
        return before.shot == now.shot and 0 < now.frame_index - before.frame_index <= self.options.max_gap

    def _mesh_motions(
        self, befores: Sequence[_Place | None], places: Sequence[_Place], crops: Tensor
    ) -> dict[int, Tensor]:
        """By index; drawn together."""
        if self.options.weight == 0.0:
            return {}
        pairs = {
            i: (before.mesh, place.mesh)
            for i, (before, place) in enumerate(zip(befores, places, strict=True))
            if before is not None and before.mesh is not None and place.mesh is not None
            if before.mesh.shape == place.mesh.shape and before.topology is place.topology
        }
        motions: dict[int, Tensor] = {}
        for topology in {places[i].topology for i in pairs}:  # one, unless a sidecar was put together of two runs
            mine = [i for i in pairs if places[i].topology is topology]
            make = mesh_motion if self._kernels else mesh_motion_by_torch
            made = make([pairs[i] for i in mine], crops.shape[-1], crops.device, topology)
            motions |= dict(zip(mine, made, strict=True))
        return motions

    def _begin(self, now: _Now, shown: Tensor) -> _Memory:
        shown.copy_(now.restored)
        kept = self._room(shown).copy_(now.restored) if self.options.weight > 0.0 else None
        return _memory_of(now, 1, kept, now.degraded.clone(), now.exposure)

    def _go_on(self, memory: _Memory, now: _Now, shown: Tensor) -> _Memory:
        """What is kept from now on; the result is written into ``shown``, (3, S, S)."""
        kept_exposure, num_frames = None, memory.num_frames + 1
        restored = now.restored
        if now.exposure is not None and memory.exposure is not None:
            share = max(1.0 - self.options.exposure, 1.0 / num_frames)
            kept_exposure, scale, shift = exposure.hold(now.exposure, memory.exposure, share)
            restored = torch.addcmul(shift[:, None, None], scale[:, None, None], restored)
        if memory.restored is None:
            shown.copy_(restored)
            return _memory_of(now, num_frames, None, now.degraded.clone(), kept_exposure)
        weight = min(self.options.weight, memory.num_frames / num_frames)
        room = self._room(shown)
        restored = restored if restored.is_contiguous() else room.copy_(restored)
        if self._kernels and on_cpu(restored):
            maps, degraded, is_sound = self._followed(memory, now, weight)
            is_finite = hold(memory.restored, restored, maps, room, shown)
            return _Memory(now.place, num_frames, room, degraded, float(is_sound and is_finite), kept_exposure)
        maps, degraded = self.followed_by_torch(memory, now, weight)
        hold_by_torch(memory.restored, restored, maps, room, shown)
        return _memory_of(now, num_frames, room, degraded, kept_exposure)

    def _followed(self, memory: _Memory, now: _Now, weight: float) -> tuple[Tensor, Tensor, bool]:
        """Motion, weights and light, (6, G, G), the degraded crop that is kept from now on, and whether all was finite:
        by kernels."""
        o = self.options
        options = FollowOptions(
            weight=weight * float(memory.trust),
            noise=o.noise,
            slack=o.slack_px / 256.0 * now.degraded.shape[-1],
            lively=o.lively,
            open=o.open,
            noise_floor=o.noise_floor,
            noise_ceiling=o.noise_ceiling,
            light_step=o.light_step,
        )
        mesh, hole = (None if part is None else part.numpy() for part in (now.mesh_motion, now.hole))
        found = follow_crop(memory.degraded.numpy(), now.degraded.numpy(), mesh, now.lively.numpy(), hole, options)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1]), found[2]

    def followed_by_torch(self, memory: _Memory, now: _Now, weight: float) -> tuple[Tensor, Tensor]:
        """The same on any device: what the kernel is compared with."""
        motion, carried = _carry(memory.degraded, now)
        light = _light(now.degraded - carried, self.options.light_step)
        carried = carried + light
        shut = 1.0 - self._gate(carried, now.degraded, motion, now.lively)
        shut = shut if now.hole is None else shut * (now.hole == 0.0)
        weights = memory.trust * weight * shut  # (G, G)
        return torch.cat([motion, weights[None], light]), now.degraded + weights * (carried - now.degraded)

    def _gate(self, carried: Tensor, degraded: Tensor, motion: Tensor, lively: Tensor) -> Tensor:
        """(G, G) in [0, 1]: 1 where the degraded crop changed, or where the earlier one had no pixels.

        Args:
            carried: (3, G, G) degraded crops, averaged and moved.
            degraded: (3, G, G) of now.
            motion: (2, G, G).
            lively: (G, G) in [0, 1], 1 at eyes and mouth.
        """
        o = self.options
        change = (degraded - carried).abs().mean(0)
        edges = _edges(carried)  # per cell
        flat = 1.0 / (1.0 + (edges / (edges.median() + 1e-6)).square().square())
        noise = ((change * flat).sum() / flat.sum()).clamp(o.noise_floor, o.noise_ceiling)
        slack = o.slack_px / 256.0 * degraded.shape[-1]  # in cells
        ratio = box(change) / ((o.noise * noise + slack * box(edges)) * (1.0 - o.lively * lively))
        gate = ((ratio - 1.0) / (o.open - 1.0)).clamp(0.0, 1.0)
        gate = box(functional.max_pool2d(gate[None], 3, stride=1, padding=1)[0])
        return torch.maximum(gate, _outside(motion))


def _places(context: CropContext) -> list[_Place]:
    return [
        _Place(
            track.id,
            track.shot,
            frame_index,
            None if track.mesh is None else mesh_in_crop(m, track.mesh),
            apply(m, track.landmarks),
            track.topology,
        )
        for track, frame_index, m in zip(context.tracks, context.frame_indices, context.crop_from_display, strict=True)
    ]


def _lively(landmarks: NDArray[np.float64], crops: Tensor) -> Tensor:
    """(B, G, G): 1 at eyes and mouth, falling smoothly to 0 at cheeks and brows.

    Args:
        landmarks: (B, 5, 2) in pixels of the crops.
        crops: (B, 3, S, S).
    """
    size = crops.shape[-1]
    line = (np.arange(coarse_size(size)) + 0.5) * (size / coarse_size(size)) - 0.5
    points = np.stack([landmarks[:, 0], landmarks[:, 1], 0.5 * (landmarks[:, 3] + landmarks[:, 4])], 1)  # (B, 3, 2)
    eyes = np.sqrt(np.square(landmarks[:, 1] - landmarks[:, 0]).sum(-1))[:, None, None] + 1e-3
    reach = eyes * _LIVELY_REACH  # (B, 3, 2)
    x, y = (((line - points[..., i, None]) / reach[..., i, None]) for i in (0, 1))  # (B, 3, G)
    near_x, near_y = (np.exp(-np.square(part)).astype(np.float32) for part in (x, y))
    parts = [near_y[:, i, :, None] * near_x[:, i, None, :] for i in range(3)]
    drawn = torch.from_numpy(np.maximum(np.maximum(parts[0], parts[1]), parts[2]))
    return drawn.to(crops.device, non_blocking=True)  # staged when it returns; else it would wait for the network


def _carry(degraded: Tensor, now: _Now) -> tuple[Tensor, Tensor]:
    """The whole motion since the last crop, (2, G, G), and its degraded picture moved by it."""
    if now.mesh_motion is None:
        motion = crop_motion(degraded, now.degraded)
    else:
        motion = now.mesh_motion + crop_motion(warp(degraded, now.mesh_motion), now.degraded)
    motion = motion + cell_motion(warp(degraded, motion), now.degraded)
    return motion, warp(degraded, motion)


def _light(change: Tensor, step: float) -> Tensor:
    """(3, G, G): the part of a degraded crop's change that is another light.

    Args:
        change: (3, G, G), since the crop that was carried.
        step: smooth changes of so much count half.

    What is smooth over a third of the face, and large. Cells that changed by much more than most count little. Of a
    change x all but the share step^2 / (x^2 + step^2) is light: at most ``step / 2`` is left to be averaged.
    """
    size = change.abs().mean(0)
    alike = 1.0 / (1.0 + (size / (UNLIKE * size.median() + LEAST_SCALE)).square())
    sums = smooth(torch.cat([change * alike, alike[None]]), LIGHT_REACH)
    even = sums[:3] / sums[3]
    return even * even.square() / (even.square() + step * step)


def _edges(coarse: Tensor) -> Tensor:
    """(3, G, G) -> (G, G): mean absolute difference to the next cells."""
    right = functional.pad((coarse[..., 1:] - coarse[..., :-1]).abs().mean(0), (0, 1))
    below = functional.pad((coarse[:, 1:] - coarse[:, :-1]).abs().mean(0), (0, 0, 0, 1))
    return right + below


def _outside(motion: Tensor) -> Tensor:
    """(G, G): 1 where the earlier crop ends before the place that is asked for."""
    return ((motion + centres(motion.shape[-1], motion.device)).abs().amax(0) > 1.0).to(motion.dtype)


def _memory_of(
    now: _Now, num_frames: int, restored: Tensor | None, degraded: Tensor, kept_exposure: Exposure | None
) -> _Memory:
    """A memory that is not trusted where a result was not finite: of such a picture nothing is shown again."""
    total = degraded.sum() if restored is None else degraded.sum() + restored.sum()
    degraded.nan_to_num_(0.0, 0.0, 0.0)
    return _Memory(now.place, num_frames, restored, degraded, total.isfinite().float(), kept_exposure)
