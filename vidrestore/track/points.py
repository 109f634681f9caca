"""The five-point tracker: detections in, persons out, each with an id, steady points and a strength that fades.

Looking ahead does three things: the smoother has no lag, a face counts from its first frame although it is believed
only after ``min_hits`` looks, and its effect can fade out *before* it is lost. With ``lookahead=0`` (live) the same
code works with what it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidrestore.config import TrackOptions
from vidrestore.track.associate import associate, distinct, states_of
from vidrestore.track.given import GivenBoxes, with_given
from vidrestore.track.life import strength_after
from vidrestore.track.smooth import smooth_at
from vidrestore.types import Detections, Frame, Track, TrackedFrame

__all__ = ["PointTracker"]


@dataclass(slots=True)
class _Person:
    """A face within one shot and the looks at it that are still of use."""

    id: int
    first_seen: int
    indices: list[int] = field(default_factory=list)
    states: list[NDArray[np.float64]] = field(default_factory=list)  # (15,) box 4, landmarks 10, score 1
    hits: int = 0
    strength: float | None = None  # at the last frame that came out

    def see(self, index: int, state: NDArray[np.float64]) -> None:
        self.indices.append(index)
        self.states.append(state)
        self.hits += 1

    @property
    def last_seen(self) -> int:
        return self.indices[-1]

    def predict(self, index: int) -> NDArray[np.float64]:
        """The box expected at a frame: the last one, moved on by the last velocity, at most three frames' worth."""
        box = self.states[-1][:4]
        if len(self.indices) < 2:
            return box
        before = self.states[-2][:4]
        step = (box - before) / (self.indices[-1] - self.indices[-2])
        shift = np.tile((step[:2] + step[2:]) / 2.0, 2)
        predicted: NDArray[np.float64] = box + shift * min(index - self.last_seen, 3)
        return predicted

    def forget_before(self, index: int) -> None:
        keep = next((i for i, seen in enumerate(self.indices) if seen >= index), len(self.indices) - 1)
        keep = min(keep, max(len(self.indices) - 4, 0))
        del self.indices[:keep], self.states[:keep]


class PointTracker:
    """Joins detections over time.

    Args:
        options: thresholds, window sizes.
        every: the detector looks at every so many-th frame and after each cut.
        given: boxes by frame index that count as faces where the detector finds none.
    """

    def __init__(self, options: TrackOptions, every: int = 1, given: GivenBoxes | None = None) -> None:
        self._options = options
        self._every = every
        self._given = given or {}
        self._waiting: deque[Frame] = deque()
        self._people: list[_Person] = []
        self._next_id = 0
        self._shot_start = 0
        self._shot: int | None = None
        self._looks = 0
        self._since = 0
        self._newest = -1

    def update(self, frame: Frame, look: Callable[[Frame], Detections], *, spacing: int = 1) -> list[TrackedFrame]:
        """See :class:`vidrestore.track.tracker.Tracker`."""
        done: list[TrackedFrame] = []
        # no longer than a face is believed in that is not seen
        every = min(self._every * spacing, max(self._every, self._options.max_missed))
        self._since += 1
        if frame.shot != self._shot:
            done = self.flush()
            self._shot, self._shot_start, self._looks, self._since = frame.shot, frame.index, 0, every
        self._newest = frame.index
        self._waiting.append(frame)
        boxes = self._given.get(frame.index)
        if self._since >= every or boxes:
            self._since = 0 if self._since >= every else self._since
            self._looks += 1
            self._see(frame.index, with_given(look(frame), boxes))
        while self._waiting and self._newest - self._waiting[0].index >= self._options.lookahead:
            done.append(self._finish(self._waiting.popleft(), shot_ended=False))
        return done

    def flush(self) -> list[TrackedFrame]:
        """Gives all frames that still wait (the shot or the clip is over) and forgets everybody."""
        done = [self._finish(frame, shot_ended=True) for frame in self._waiting]
        self._waiting.clear()
        self._people.clear()
        return done

    def _see(self, index: int, detections: Detections) -> None:
        found = states_of(detections)
        found = found[distinct(found[:, :4], found[:, 14])]
        reach = self._options.max_missed + self._every
        alive = [person for person in self._people if index - person.last_seen <= reach]
        predicted = np.array([p.predict(index) for p in alive], np.float32).reshape(-1, 4)
        pairs = associate(predicted, found[:, :4].astype(np.float32), self._options.match_iou)
        for person_index, found_index in pairs:
            alive[person_index].see(index, found[found_index])
        known = {found_index for _, found_index in pairs}
        for found_index in range(len(found)):
            if found_index not in known:
                person = _Person(self._next_id, index)
                self._next_id += 1
                person.see(index, found[found_index])
                self._people.append(person)

    def _finish(self, frame: Frame, *, shot_ended: bool) -> TrackedFrame:
        tracks = []
        for person in self._people:
            track = self._track(person, frame, shot_ended=shot_ended)
            if track is not None:
                tracks.append(track)
        self._drop_lost(frame.index)
        return TrackedFrame(frame, tuple(tracks))

    def _track(self, person: _Person, frame: Frame, *, shot_ended: bool) -> Track | None:
        options, index = self._options, frame.index
        born_with_shot = person.first_seen - self._shot_start <= 2 * self._every
        if index < (self._shot_start if born_with_shot else person.first_seen):
            return None
        if person.hits < (min(options.min_hits, self._looks) if shot_ended else options.min_hits):
            return None
        strength = self._strength(person, index, born_with_shot=born_with_shot, shot_ended=shot_ended)
        person.strength = strength
        if strength <= 0.0:
            return None
        # The last look may be behind or ahead; the smoother holds its course for a few frames and then stays.
        at = min(float(index), person.last_seen + 2.0)
        state = smooth_at(
            at,
            np.array(person.indices, np.float64),
            np.stack(person.states),
            np.array([max(s[14], 0.05) for s in person.states]),
            options.smoothing_frames,
        )
        seen_before = [i for i in person.indices if i <= index]
        return Track(
            id=person.id,
            box=state[:4].astype(np.float32),
            landmarks=state[4:14].reshape(5, 2).astype(np.float32),
            score=float(np.clip(state[14], 0.0, 1.0)),
            strength=strength,
            missed=index - seen_before[-1] if seen_before else 0,
            shot=frame.shot,
        )

    def _strength(self, person: _Person, index: int, *, born_with_shot: bool, shot_ended: bool) -> float:
        if person.strength is None:  # its first frame: no fade where the shot begins with the face in it
            person.strength = 1.0 if born_with_shot and index == self._shot_start else 0.0
        return strength_after(
            person.strength,
            index,
            person.last_seen,
            is_lost=self._is_lost(person, shot_ended),
            fade_frames=self._options.fade_frames,
        )

    def _is_lost(self, person: _Person, shot_ended: bool) -> bool:
        """Not seen for so long that the face is gone; at a shot's end, faces that were there stay to the end."""
        grace = self._every if shot_ended else self._options.max_missed + self._every - 1
        return self._newest - person.last_seen > (max(grace, 2) if shot_ended else grace)

    def _drop_lost(self, index: int) -> None:
        reach = self._options.max_missed + self._every + self._options.fade_frames
        self._people = [p for p in self._people if self._newest - p.last_seen <= reach or index <= p.last_seen + reach]
        window = int(3 * self._options.smoothing_frames) + 2 * self._every + 2
        for person in self._people:
            person.forget_before(index - window)
