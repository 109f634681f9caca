"""The latency policy: which quality to give up next, and when to take it back.

A latest-frame slot bounds the latency whatever happens (a frame waits for at most one other). The ladder brings it
under the budget. Its rungs, from the top: as configured; look for faces less often; restore every second frame and
carry the change over to the frames between; restore behind the picture (the network works in a thread of its own, and
every frame shows the latest change at its own pose); look even less often; a smaller network; fewer faces. A carried
change always follows the *new* pose, and fades where the face itself has changed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Ladder", "Rung", "rungs_for"]

_WINDOW_S = 1.0  # judged over so much of the past: long enough for a percentile, short enough to be felt
_MIN_SAMPLES = 5  # a percentile of fewer says nothing
_FAR, _FAR_SAMPLES = 2.0, 2  # so many frames in a row beyond so many budgets need no percentile: a very slow machine
_SETTLE_S = 0.4  # after a step: frames that were on their way, a network's first run
_PERCENTILE = 90
_ROOM = 0.7  # share of the budget below which there is room for a step up
_CALM_S = 3.0  # so long there must have been room
_MAX_CALM_S = 60.0  # a step up that had to be taken back is tried again after twice the time, up to this


@dataclass(frozen=True, slots=True)
class Rung:
    """What the engine does on one rung."""

    name: str
    """For people."""
    detect_every: int = 1
    """Factor on the configured interval of the detector."""
    restores: Literal["each", "second", "behind"] = "each"
    """The network sees each frame, every second one, or whichever is newest when it is free."""
    network_index: int = 0
    """0 is the chosen network, 1 the smaller one."""
    max_faces: int | None = None
    """Largest faces that are restored; None is all."""


def rungs_for(*, has_smaller_network: bool) -> tuple[Rung, ...]:
    """The ladder from best to cheapest; without a smaller network its rung is left out."""
    rungs = [
        Rung("full quality"),
        Rung("detect less often", 2),
        Rung("restore every second frame", 2, "second"),
        Rung("restore behind the picture", 2, "behind"),
        Rung("detect rarely", 3, "behind"),
    ]
    index = 0
    if has_smaller_network:
        index = 1
        rungs.append(Rung("smaller network", 3, "behind", index))
    rungs += [
        Rung("two faces at most", 3, "behind", index, 2),
        Rung("one face at most", 4, "behind", index, 1),
    ]
    return tuple(rungs)


class Ladder:
    """Climbs down while frames are older than the budget allows, and up again when there is room.

    Hysteresis: down as soon as the 90th percentile of a second's latencies is above the budget, or two frames in a row
    take twice as long; up only after it was
    below 70 % of it for three seconds on end. A step up that had to be taken back within that time was wrong: the next
    try waits twice as long, up to a minute, so that a machine at its limit does not swing to and fro.

    Args:
        rungs: from best to cheapest, at least one.
        budget_ms: see ``LiveOptions.latency_budget_ms``.
    """

    def __init__(self, rungs: tuple[Rung, ...], budget_ms: float) -> None:
        if not rungs:
            raise ValueError("a ladder has at least one rung")
        self.rungs = rungs
        self.budget_ms = budget_ms
        self._index = 0
        self._samples: deque[tuple[float, float]] = deque()
        self._changed_at: float | None = None
        self._calm_since: float | None = None
        self._wait_s = [_CALM_S] * len(rungs)
        self._climbed_at: float | None = None
        self.num_steps = 0

    @property
    def index(self) -> int:
        """0 at the top."""
        return self._index

    @property
    def rung(self) -> Rung:
        """Where we stand."""
        return self.rungs[self._index]

    @property
    def is_at_bottom(self) -> bool:
        """Nothing is left to give up."""
        return self._index == len(self.rungs) - 1

    def observe(self, now_s: float, latency_ms: float, network_ms: float | None = None) -> bool:
        """Takes the age of a frame that was just handed on; True where the rung changed.

        Args:
            now_s: when, on any clock that only goes forward.
            latency_ms: age of the frame.
            network_ms: how long the network takes where it works behind the picture: a step up to where the picture
                waits for it is not tried while even half of that is beyond the budget (alone it may be faster).
        """
        if self._changed_at is None:
            self._changed_at = now_s
        if now_s < self._changed_at + _SETTLE_S:
            return False
        self._samples.append((now_s, latency_ms))
        while self._samples[0][0] < now_s - _WINDOW_S and len(self._samples) > _MIN_SAMPLES:
            self._samples.popleft()
        newest = [ms for _, ms in self._samples][-_FAR_SAMPLES:]
        if len(newest) == _FAR_SAMPLES and min(newest) > _FAR * self.budget_ms:
            return self._step_down(now_s)
        if len(self._samples) < _MIN_SAMPLES:
            return False
        level = float(np.percentile([ms for _, ms in self._samples], _PERCENTILE))
        if level > self.budget_ms:
            return self._step_down(now_s)
        self._calm_since = (
            (now_s if self._calm_since is None else self._calm_since) if self._has_room(level, network_ms) else None
        )
        if self._calm_since is not None and now_s - self._calm_since >= self._wait_s[self._index]:
            return self._step_up(now_s)
        return False

    def reset(self) -> None:
        """Forgets what was seen, for another camera or network; the rung stays until the new frames are judged."""
        self._samples.clear()
        self._calm_since = self._climbed_at = None

    def _has_room(self, level_ms: float, network_ms: float | None) -> bool:
        if self._index == 0 or level_ms > _ROOM * self.budget_ms:
            return False
        waits_for_network = self.rungs[self._index - 1].restores != "behind"
        return not (waits_for_network and network_ms is not None and network_ms / 2 > self.budget_ms)

    def _step_down(self, now_s: float) -> bool:
        if self.is_at_bottom:
            return False
        wait_s = self._wait_s[self._index + 1]
        if self._climbed_at is not None and now_s - self._climbed_at <= 2 * wait_s:
            self._wait_s[self._index + 1] = min(2 * wait_s, _MAX_CALM_S)
        self._climbed_at = None
        return self._move(1, now_s)

    def _step_up(self, now_s: float) -> bool:
        if self._climbed_at is not None:  # the step before this one held
            self._wait_s[self._index + 1] = _CALM_S
        self._climbed_at = now_s
        return self._move(-1, now_s)

    def _move(self, by: int, now_s: float) -> bool:
        self._index += by
        self._changed_at = now_s
        self._samples.clear()
        self._calm_since = None
        self.num_steps += 1
        return True
