"""Codes that stay: along a track a code is changed only for good reason, so that the face does not flicker.

From frame to frame the noise of a recording moves the logits of a codebook network a little, and where two entries
score alike the best one flips back and forth: a different eyebrow in each frame. Here a running mean of the logits is
kept along each track, and a code is switched only when another one wins by a margin in that mean. Crops follow the
smoothed pose, so that a token sees the same part of the face in every frame.

Real motion must pass. Each token has a gate: it opens where the degraded crop under the token (or one of its eight
neighbours) changed by more than the recording's noise since what was kept of it. An open gate takes the frame's own
logits and its own best code, at once; a closed one averages and holds. The noise of the moment is the median of the
change over all tokens, as mouth and eyes are few of them; where the whole crop changed a lot, all gates open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["CodeHysteresis", "Decision", "HysteresisOptions", "TrackPlace"]

_CELLS = 4
"""A token's patch is compared as so many times as many means of pixels: fine enough for lips and lids, and of 64 pixels
each in a crop of 512, which takes nine tenths off white noise."""


@dataclass(frozen=True, slots=True)
class HysteresisOptions:
    """How strongly codes are held; benchmarks/hysteresis.py measures what it does."""

    memory: float = 0.8
    """Share of the mean logits that stays at each frame where nothing moves, in [0, 1)."""
    margin: float = 1.0
    """Logit by which another code must win in the mean to take over where nothing moves; e times as probable."""
    noise_low: float = 1.35
    """Gates begin to open at so many times the median change of the crop's tokens. From 1.6 to 3.0 flicker was lower
    still, but 18 % of the mouth's motion and 38 % of the eyes' were lost (margin 1; benchmarks/hysteresis.py)."""
    noise_high: float = 2.0
    """And are open at so many times."""
    change_low: float = 0.12
    """Whatever the noise, gates begin to open at this mean absolute change of a patch, of [-1, 1]."""
    change_high: float = 0.25
    """And are open here."""
    noise_floor: float = 0.004
    """The median counts as at least this (half a step of 8 bits): a picture without noise is not all motion."""
    max_gap: int = 2
    """A track whose last crop is more frames back begins anew."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 0.0 <= self.memory < 1.0 or self.margin < 0.0:
            raise ValueError(f"memory must be in [0, 1) and margin at least 0, got {self.memory}, {self.margin}")
        if not 0.0 < self.noise_low < self.noise_high or not 0.0 < self.change_low < self.change_high:
            raise ValueError(f"the lower end of a gate must be above 0 and below its upper end, got {self}")


@dataclass(frozen=True, slots=True)
class TrackPlace:
    """Where a crop belongs."""

    track_id: int
    shot: int
    frame_index: int


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is kept of a track."""

    place: TrackPlace
    logits: Tensor
    """(T, K): running mean."""
    codes: Tensor
    """(T,) int64: held."""
    patches: Tensor
    """(T, cells): means of pixels that the held codes stand for."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Codes of a batch, and the memory as it will be once they have been used."""

    codes: Tensor
    """(B, T) int64."""
    openness: Tensor
    """(B, T) in [0, 1]: how far each gate was open; 1 where a track begins."""
    memories: dict[int, _Memory]
    """By track."""


class CodeHysteresis:
    """The memory of all tracks.

    Args:
        options: strengths.
    """

    def __init__(self, options: HysteresisOptions | None = None) -> None:
        self.options = options or HysteresisOptions()
        self._memories: dict[int, _Memory] = {}

    def decide(self, logits: Tensor, images: Tensor, places: Sequence[TrackPlace]) -> Decision:
        """The codes to use for a batch of crops; the memory changes only with :meth:`keep`.

        Args:
            logits: (B, T, K) float32, T a square number of tokens in rows.
            images: (B, 3, S, S) the degraded crops in [-1, 1], on the same device.
            places: B; the crops of one track in the order of its frames.

        A track begins anew (its frame's own best codes) at its first crop, in another shot, after a gap, and where a
        frame does not come after the last one.
        """
        patches = _patches(images, round(logits.shape[1] ** 0.5))
        codes, openness = [], []
        fresh: dict[int, _Memory] = {}
        for i, place in enumerate(places):
            before = fresh.get(place.track_id, self._memories.get(place.track_id))
            memory, gate = self._next(before, place, logits[i], patches[i])
            fresh[place.track_id] = memory
            codes.append(memory.codes)
            openness.append(gate)
        return Decision(torch.stack(codes), torch.stack(openness), fresh)

    def keep(self, decision: Decision, ended: frozenset[int] = frozenset()) -> None:
        """Remembers a decision whose pictures were made.

        Args:
            decision: of :meth:`decide`.
            ended: tracks that will not come again.
        """
        self._memories |= decision.memories
        for track_id in ended:
            self._memories.pop(track_id, None)

    def __len__(self) -> int:
        return len(self._memories)

    def _next(
        self, before: _Memory | None, place: TrackPlace, logits: Tensor, patches: Tensor
    ) -> tuple[_Memory, Tensor]:
        if before is None or not self._follows(before.place, place):
            return _Memory(place, logits, logits.argmax(-1), patches), torch.ones_like(logits[:, 0])
        change = (patches - before.patches).abs().mean(-1)  # (T,)
        gate = self._gate(change.nan_to_num(nan=2.0))  # a broken crop is followed by a fresh start
        share = 1.0 - self.options.memory * (1.0 - gate)
        mean = before.logits + share[:, None] * (logits - before.logits)
        mean = torch.where(mean.isfinite(), mean, logits)
        best, held = mean.max(-1), mean.gather(-1, before.codes[:, None])[:, 0]
        switches = best.values - held > self.options.margin * (1.0 - gate)
        codes = torch.where(switches, best.indices, before.codes)
        kept = before.patches + share[:, None] * (patches - before.patches)
        return _Memory(place, mean, codes, torch.where(kept.isfinite(), kept, patches)), gate

    def _follows(self, before: TrackPlace, now: TrackPlace) -> bool:
        return before.shot == now.shot and 0 < now.frame_index - before.frame_index <= self.options.max_gap

    def _gate(self, change: Tensor) -> Tensor:
        """(T,) mean absolute changes -> (T,) openness, that of the most open of a token and its neighbours."""
        o = self.options
        noise = change.median().clamp_min(o.noise_floor)
        relative = (change / noise - o.noise_low) / (o.noise_high - o.noise_low)
        absolute = (change - o.change_low) / (o.change_high - o.change_low)
        side = round(len(change) ** 0.5)
        gate = torch.maximum(relative, absolute).clamp(0.0, 1.0).reshape(1, 1, side, side)
        return functional.max_pool2d(gate, 3, stride=1, padding=1).flatten()


def _patches(images: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) -> (B, side * side, 3 * cells): the means of small squares, gathered by token."""
    cells = min(_CELLS, images.shape[-1] // side)
    means = functional.adaptive_avg_pool2d(images.float(), side * cells)
    return functional.pixel_unshuffle(means, cells).flatten(2).transpose(1, 2)
