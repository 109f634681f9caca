"""What covers a face, remembered along its track: a hand that was seen does not flicker in and out of the mask.

Whether a place of the crop is covered is decided in every frame (:func:`vidrestore.blend.mask.coarse_agreement`), and
near its thresholds the decision wavers with the noise. So it closes at once and opens slowly: from one frame to the
next a place may gain at most 1 / N of its share. Crops follow the face, so that a place of the crop is a place of the
face. What is shown is never more than the frame itself allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["CropPlace", "OccluderMemory"]

A = TypeVar("A")
"""Arrays of NumPy or tensors of torch."""


@dataclass(frozen=True, slots=True)
class CropPlace:
    """Where a crop belongs in time."""

    track_id: int
    shot: int
    frame_index: int


@dataclass(frozen=True, slots=True)
class _Held(Generic[A]):
    place: CropPlace
    share: A


class OccluderMemory(Generic[A]):
    """The shares of the last frames' masks, one small array for each track that was seen in them.

    Crops of a track come in order; it begins anew in another shot, after a gap of N frames, and where a frame is not
    newer than the last one. Tracks that ended are dropped then too, so it never holds more than the tracks of N frames.

    Args:
        frames: N, over which a place that was covered comes back; 0 remembers nothing.
        smaller: element by element, of two arrays.
    """

    def __init__(self, frames: int, smaller: Callable[[A, A], A]) -> None:
        self._frames = frames
        self._smaller = smaller
        self._held: dict[int, _Held[A]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, place: CropPlace, share: A) -> A:
        """The share of a crop's mask that is left, after what was seen before.

        Args:
            place: of the crop.
            share: (s, s) in [0, 1], what this frame alone would show.

        Returns:
            The same shape; nowhere above ``share``.
        """
        if self._frames == 0:
            return share
        last = self._held.get(place.track_id)
        if last is not None and self._continues(last, place, share):
            gained: Any = last.share
            share = self._smaller(share, gained + (place.frame_index - last.place.frame_index) / self._frames)
        self._held[place.track_id] = _Held(place, share)
        self._held = {track_id: held for track_id, held in self._held.items() if self._is_of_use(held, place)}
        return share

    def forget(self) -> None:
        """Drops everything: other frames come."""
        self._held.clear()

    def _continues(self, last: _Held[A], place: CropPlace, share: Any) -> bool:
        before: Any = last.share
        is_newer = last.place.frame_index < place.frame_index
        return is_newer and last.place.shot == place.shot and tuple(before.shape) == tuple(share.shape)

    def _is_of_use(self, held: _Held[A], now: CropPlace) -> bool:
        return held.place.shot == now.shot and abs(now.frame_index - held.place.frame_index) < self._frames
