"""Gradual changes from one scene to another, found online: dissolves, and fades through a uniform picture.

A *dissolve* mixes two pictures, so that each frame of it lies on the straight line between what was before and what is
now: as vectors of block means, x_m = x_s + a (x_t - x_s), with a rising steadily from 0 to 1. Nothing else does that
while the picture becomes another one: motion moves structure through pictures that are no mixture of the first and the
last, and a fade or a change of light leaves the structure what it is. A shot begins when the correlation with what was
before has fallen below 0.55, which two pictures of equal contrast reach at 0.6 of the way.

A *fade* through black, white or any other plain picture ends where something is seen again: if that is not what was
seen before, a shot begins there, while the picture still is all but uniform. A picture that comes back goes on.

No frame is looked at ahead. (The variance curve of Alattar, "Detecting and compressing dissolve regions in video
sequences", 1993, tells of a dissolve only after its end.)
"""

from __future__ import annotations

from collections import deque

import numpy as np

from vidrestore.decode.blocks import LEVEL, Blocks, best_correlation, correlation

__all__ = ["Transitions"]

# Standard deviation over the blocks: a picture below the first shows nothing, one above the second shows something
_NOTHING, _SOMETHING = 3 * LEVEL, 6 * LEVEL
# Correlation with the picture before: below it another one has come
_OTHER = 0.55
# Frames that a dissolve may have taken so far; the longest takes 2 s of 25 frames for 0.6 of its way
_SPANS = (6, 12, 24, 48)
# Of the squared distance between first and last picture, what a mixture of the two may leave unexplained on the way.
# Dissolves between still pictures leave 0.001, between people who talk 0.01; pans and zooms 0.05 and more
_UNEXPLAINED = 0.035
# Most of the way that may be gone in one frame: more is a cut, which is not decided here
_LONGEST_STEP = 0.45
# Least change that is looked at, root of the mean square over the blocks
_CHANGED = 8 * LEVEL
# Blocks, down and across, by which a slow camera may have moved
_SHIFTS = (2, 2)


class Transitions:
    """Says of each frame whether a new shot begins with it that came gradually."""

    def __init__(self) -> None:
        self._past: deque[Blocks] = deque(maxlen=_SPANS[-1])
        self._seen: Blocks | None = None
        self._is_after_nothing = False

    def begin(self, blocks: Blocks) -> None:
        """A shot begins with this picture, for whatever reason: what was before does not count any more."""
        self._past.clear()
        self._past.append(blocks)
        self._seen = blocks if blocks.std() >= _SOMETHING else None
        self._is_after_nothing = False

    def update(self, blocks: Blocks) -> bool:
        """Takes the next picture; True where a shot begins with it, which :meth:`begin` then need not be told."""
        is_new = self._came_after_nothing(blocks) or any(self._is_mixed(span, blocks) for span in _SPANS)
        if is_new:
            self.begin(blocks)
        else:
            self._past.append(blocks)
        return is_new

    def _came_after_nothing(self, blocks: Blocks) -> bool:
        spread = float(blocks.std())
        if spread < _NOTHING:
            self._is_after_nothing = True
            self._past.clear()
            return False
        if spread < _SOMETHING:
            return False
        is_other = (
            self._is_after_nothing
            and self._seen is not None
            and best_correlation(self._seen, blocks, most=_SHIFTS) < _OTHER
        )
        self._is_after_nothing = False
        self._seen = blocks
        return is_other

    def _is_mixed(self, span: int, now: Blocks) -> bool:
        """A dissolve has been going on for at most ``span`` frames and has come more than half its way."""
        if len(self._past) < span:
            return False
        before = self._past[-span]
        way = (now - before).ravel()
        length = float(way @ way)
        if length < way.size * _CHANGED**2 or min(before.std(), now.std()) < _SOMETHING:
            return False
        if correlation(before, now) >= _OTHER or best_correlation(before, now, most=_SHIFTS) >= _OTHER:
            return False
        gone = [0.0]
        for picture in list(self._past)[-span + 1 :]:
            step = (picture - before).ravel()
            share = float(step @ way) / length
            rest = step - share * way
            if float(rest @ rest) > _UNEXPLAINED * length:
                return False
            gone.append(share)
        return bool(np.diff([*gone, 1.0]).max() <= _LONGEST_STEP)
