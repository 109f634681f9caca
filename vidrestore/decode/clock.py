"""Presentation times: kept as the container has them, repaired only where they are missing or run backwards."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["PresentationClock"]

# A jump back by more than this many seconds is a restarted clock (joined files, a wrapped counter), not a slip
_RESTART_S = 1


class PresentationClock:
    """Gives every frame a pts that is later than the one before."""

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        """
        Args:
            time_base: seconds per tick.
            rate: frames per second for times that have to be invented; None takes 25.
        """
        self._time_base = time_base
        self._step = max(1, round(1 / ((rate or Fraction(25)) * time_base)))
        self._restart = max(1, math.ceil(_RESTART_S / time_base))
        self._last: int | None = None
        self._last_duration: int | None = None
        self._offset = 0

    @property
    def end(self) -> int | None:
        """Where the last frame ends, in ticks; None before the first."""
        return None if self._last is None else self._last + (self._last_duration or self._step)

    def stamp(self, pts: int | None, dts: int | None, duration: int | None) -> tuple[int, str | None]:
        """The time of the next frame.

        Args:
            pts: as the decoder gives it, in ticks.
            dts: its decoding time, the second choice.
            duration: ticks that the frame is shown, None if unknown.

        Returns:
            The pts to use, and what had to be done about it, or None where the container's own time stands.
        """
        step = self._last_duration or self._step
        problem: str | None = None
        given = pts if pts is not None else dts
        if given is None:
            stamped = 0 if self._last is None else self._last + step
            problem = "has no time stamp, one was made up from the frame rate"
        else:
            stamped = given + self._offset
            if self._last is not None and stamped <= self._last:
                problem = f"has time {given}, not later than the frame before it; moved on"
                if self._last - stamped > self._restart:
                    self._offset += self._last + step - stamped
                    stamped = self._last + step
                else:
                    stamped = self._last + 1
        self._last, self._last_duration = stamped, duration
        return stamped, problem
