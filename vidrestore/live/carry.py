"""A change that was computed for one frame is shown in the next ones, at their own pose.

What is kept is the difference restored - degraded in crop space, per track. In a later frame the face is cut out anew
by its *new* pose, and the difference is added to that crop: it moves, turns and grows with the face. Where the face
itself has changed since (a mouth that opens, a blink, a hand), the difference fades out and the frame's own pixels
show, so that lips keep their sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidrestore.blend.mask import blur, grow, shrink, smoothstep
from vidrestore.types import Crop, Restoration

__all__ = ["CarriedChanges", "still_fits"]

# Mean difference of luma, of [-1, 1], around a place: below the first it is noise and residual motion of a face that
# is otherwise the same (median over skin 0.02 to 0.04 between neighbouring frames of the committed clips), above the
# second it is another expression
_SAME, _OTHER = 0.06, 0.18
_SIGMA = 1.0 / 40.0  # of the side: half an iris
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class _Change:
    degraded: NDArray[np.float32]
    """(3, s, s), s <= 64: the crop that the network saw, shrunk."""
    delta: NDArray[np.float32]
    """(3, S, S)."""
    frame_index: int


class CarriedChanges:
    """The newest change of every track."""

    def __init__(self) -> None:
        self._changes: dict[int, _Change] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def keep(self, restorations: Iterable[Restoration]) -> None:
        """Takes the results of one frame; older ones never replace newer ones."""
        for restoration in restorations:
            crop = restoration.crop
            known = self._changes.get(crop.track_id)
            if known is None or known.frame_index <= crop.frame_index:
                delta = restoration.image - crop.image
                self._changes[crop.track_id] = _Change(shrink(crop.image), delta, crop.frame_index)

    def carry(self, crops: Sequence[Crop]) -> list[Restoration]:
        """The crops of a new frame with the changes that are known; faces without one are left out.

        Args:
            crops: cut out of the new frame at its own pose, of the same size as those that were kept.
        """
        carried = []
        for crop in crops:
            change = self._changes.get(crop.track_id)
            if change is not None and change.delta.shape == crop.image.shape:
                share = still_fits(change.degraded, crop.image)
                carried.append(Restoration(crop, crop.image + share * change.delta))
        return carried

    def forget(self, *, all_but: Iterable[int] = ()) -> None:
        """Drops the changes of tracks that are gone; all of them at a cut or where the network changes."""
        keep = set(all_but)
        self._changes = {track_id: change for track_id, change in self._changes.items() if track_id in keep}


def still_fits(before: NDArray[np.float32], now: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where a face looks as it did when the change was computed: 1, where it has changed: 0.

    Args:
        before: (3, s, s) in [-1, 1], shrunk by :func:`vidrestore.blend.mask.shrink`.
        now: (3, S, S) in [-1, 1].

    Returns:
        (S, S) in [0, 1].
    """
    difference = np.abs(np.tensordot(_LUMA, shrink(now) - before, 1)).astype(np.float32)
    share = smoothstep((_OTHER - blur(difference[None], _SIGMA)) / (_OTHER - _SAME))
    return np.asarray(grow(share, now.shape[-1])[0].clip(0.0, 1.0), np.float32)
