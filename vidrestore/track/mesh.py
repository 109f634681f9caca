"""The tracker that carries a 3D face: a regressor follows each face, the detector looks on key frames only.

Figure:
    frame -> every face: crop where its pose is expected -> regressor -> pose, shape, expression, light, likeness
          -> accepted, or doubted: then the detector looks at once
    key frame -> detector -> matched with the faces by overlap and by who they are -> confirmed, found again, new, lost

What is followed is a pose in display pixels (:mod:`vidrestore.track.face`). It is smoothed in time when a frame comes
out; who it is (identity and texture) is pooled over the track and then held; what the face does (expression) is taken
as read. Nothing passes a cut.

A face that the detector is sure of and that the 3D model does not fit (a drawing, a mask) is followed by its five
points, without a mesh.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.config import TrackOptions
from vidrestore.geometry import Affine, box_iou
from vidrestore.track.associate import associate, distinct, states_of
from vidrestore.track.face import PITCH_AT_EASE, FaceModel, Look, difference
from vidrestore.track.given import GIVEN_SCORE, GivenBoxes, points_in_box, with_given
from vidrestore.track.life import strength_after
from vidrestore.track.smooth import smooth_at
from vidrestore.types import Detections, Frame, Pose, Track, TrackedFrame

__all__ = ["MeshTracker", "ShapeReader"]

GROUP = 8  # frames that are read together offline: the pose is predicted so far ahead
LIKENESS = 0.45  # below it a reading is doubted
POOR_LIKENESS = 0.2  # a doubted reading above it is taken where it lies in the detector's box
POOR_IOU = 0.5  # to that overlap
SURE_LIKENESS = 0.7  # above it a face is followed for long although the detector does not see it
SURE_SCORE = 0.8  # of a detection that is never refused
FIT = 0.25  # mean distance of the mesh's five points from the detector's, in eye distances, that still is a fit;
# 0.04 to 0.11 on clear faces
LOOSE_FIT = (
    0.5  # likewise where the detector is sure or the picture looks like the 3D face so much: on damaged pictures
)
LOOSE_LIKENESS = 0.55  # it is the detector's points that are off
USUAL_BOX = np.array(
    [-0.645, -0.975, 0.658, 0.797]
)  # of YuNet about the pose in its scale, mean of 255 generated faces
EYES = 0.59  # distance of the eyes in the model's unit, mean of 255 generated faces
JUMP = 0.9  # of the eye distance: more between prediction and reading is doubted
SCALE_JUMP = 0.3  # of the logarithm of the scale, likewise
TURN_JUMP = 0.6  # radians, likewise
SAME_PERSON = 0.25  # distance of two pools up to which a face that comes back is the one that left: on clear faces
# 0.00 to 0.04 within a person, 0.57 to 0.70 between two; on very damaged ones up to 0.5 within a person
OTHER_PERSON = 0.5  # and from which it is somebody else for certain
HELD_AFTER = 40.0  # looks of full weight after which who it is does not change any more
REREAD = 0.09  # of the crop's side: a face further from its middle is read again in a better crop
REACH_ERROR = 0.3  # of the eye distance, to which a face's place must be foreseen to be read ahead
REACH_NOISE = 0.02  # of the eye distance: readings of a face that holds still are off by so much
REACH_WAY = 1.0  # of the eye distance, that it may go meanwhile
QUIET_MOVE = 0.15  # of the eye distance: a face that came so near to where it was expected is not read in between,
QUIET_TURN = 0.08  # radians, if it hardly turned,
QUIET_SHAPE = 0.05  # of the eye distance, and if no vertex moved more in the face: about what the regressor errs by
QUIET_PICTURE = 4.5  # levels of 255 by which a patch of a face between two readings may differ from the mean of theirs:
# over four frames of the degraded synthetic clips mouths then err by at most 0.03 of the eye distance; over two frames
# twice as much may pass
STRIDES = (2, 4, 8)  # every so manieth frame is read first, more rarely where the frames between needed no reading
COINCIDE = 0.45  # of the eye distance: two faces closer than that are one
RETRY = 8  # looks of the detector after which a face that is followed by its points is read once more
HIDDEN_AFTER = 2  # frames without a reading after which a face counts as hidden
LIKENESS_DROP = 0.15  # below the best readings around: a reading then counts for 1/e of them
POSE_NOISE = np.array([0.03, 0.03, 0.02, 0.01, 0.01, 0.01])  # of single readings: radians, logarithm, eye distances
TOUCHING = 0.05  # overlap of boxes from which a detection may mean one or the other, and one hides the other
MISSING_GAP = 2  # frames between the detector's looks while a face is missing or not confirmed
USUAL_DROP = 0.2  # below its usual likeness by so much a reading is doubted, on faces that never look like their mesh
REACH_OUT = 0.3  # of the eye distance: so far outside of the picture a face's middle may lie
CUT_PX = 2.0  # a detection whose side comes so near to the picture's edge may end there,
CUT_SHARE = 0.01  # or so near as a share of the picture's side
LEAST_INSIDE = 0.25  # of a box's sides: with less of it in the picture it is not cut there
NUM_BOXES = 7  # detections that say where a face's box lies about its pose
BOX_FRAMES = 12.0  # standard deviation in frames of their weights
GALLERY = 32  # people of one shot that are remembered after they left


@dataclass(slots=True)
class _Pool:
    """Who somebody is: means over confident looks, held after enough of them."""

    id: int
    identity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(80))
    texture: NDArray[np.float64] = field(default_factory=lambda: np.zeros(80))
    weight: float = 0.0

    def add(self, look: Look, weight: float) -> None:
        if self.weight >= HELD_AFTER:
            return
        self.weight += weight
        share = weight / self.weight
        self.identity += share * (look.identity - self.identity)
        self.texture += share * (look.texture - self.texture)

    def distance(self, identity: NDArray[np.floating[Any]], texture: NDArray[np.floating[Any]]) -> float:
        """1 - cosine of who this is and who that is."""
        a, b = np.concatenate([self.identity, self.texture]), np.concatenate([identity, texture])
        return 1.0 - float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


@dataclass(slots=True)
class _Person:
    """A face from when it is found until it is lost, within one shot, and the looks that are still of use."""

    pool: _Pool
    first_seen: int
    has_mesh: bool
    indices: list[int] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)  # of a face with a mesh
    weights: list[float] = field(default_factory=list)
    states: list[NDArray[np.float64]] = field(default_factory=list)  # of one without: (15,) box, five points, score
    box_indices: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)  # (5,) box about the pose in its scale, score
    quiet: set[int] = field(default_factory=set)  # frames that were not read because those around them say the same
    stride: int = STRIDES[0]
    reach: float = 2.0  # frames that its place can be predicted
    usual: float = 0.0  # likeness of readings that the detector confirmed
    hits: int = 0
    best_score: float = 0.0
    num_confirmed: int = 0
    num_asked: int = 0  # key frames since it was found
    unconfirmed_at: int | None = None
    joins: bool = False  # it goes on with somebody who was followed by his points
    heir: _Person | None = None  # who goes on in its place, with a mesh
    is_missing: bool = False
    has_ended: bool = False
    strength: float | None = None

    @property
    def last_seen(self) -> int:
        return self.indices[-1]

    def see(self, index: int, look: Look, weight: float) -> None:
        self.indices.append(index)
        self.looks.append(_unwrapped(look, self.looks[-1]) if self.looks else look)
        self.weights.append(weight)
        self.hits += 1
        self.is_missing = False
        self.usual += 0.1 * max(look.likeness - self.usual, 0.0)

    def see_before(self, index: int, look: Look, weight: float) -> None:
        self.indices.insert(0, index)
        self.looks.insert(0, _unwrapped(look, self.looks[0]))
        self.weights.insert(0, weight)
        self.hits += 1
        self.first_seen = index

    def insert(self, index: int, look: Look, weight: float) -> None:
        at = bisect_right(self.indices, index)
        self.indices.insert(at, index)
        self.looks.insert(at, look)
        self.weights.insert(at, weight)

    def see_points(self, index: int, state: NDArray[np.float64]) -> None:
        self.indices.append(index)
        self.states.append(state)
        self.weights.append(max(float(state[14]), 0.05))
        self.hits += 1
        self.is_missing = False

    def confirm(self, index: int, box: NDArray[np.float64], score: float, cut: NDArray[np.bool_] | None = None) -> None:
        """A detection; sides of it that are ``cut`` (4,) by the picture's edge say nothing of the face."""
        self.best_score = max(self.best_score, score)
        self.num_confirmed += 1
        self.unconfirmed_at = None
        if self.has_mesh:
            look = self.looks[-1]
            self.usual += (0.3 if self.num_confirmed > 1 else 1.0) * (look.likeness - self.usual)
            pose = look.pose
            relative = (box - np.tile(pose[4:], 2)) / math.exp(pose[3])
            if cut is not None:
                relative = np.where(cut, self.relative_box, relative)
            self.box_indices.append(index)
            self.boxes.append(np.append(relative, score))

    @property
    def relative_box(self) -> NDArray[np.float64]:
        """(4,) where its box lies about the pose, in its scale, as last detected."""
        return self.boxes[-1][:4] if self.boxes else USUAL_BOX

    def note_surprise(self, index: int, pose: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
        """Learns from a reading how far ahead its place can be told: what is not foreseen grows as the time squared."""
        away = float(np.linalg.norm(pose[4:] - expected[4:])) / (EYES * math.exp(pose[3]))
        foreseen = (index - self.last_seen) * math.sqrt(REACH_ERROR / max(away - REACH_NOISE, 1e-3))
        self.reach = min(foreseen, 1.5 * self.reach)

    def predict(self, index: int) -> NDArray[np.float64]:
        """(6,) pose, or (4,) box of a face without a mesh, expected at a frame."""
        if not self.has_mesh:
            return self._predict_box(index)
        poses = [look.pose for look in self.looks[-3:]]
        if len(poses) < 2:
            return poses[-1]
        indices = self.indices[-len(poses) :]
        velocity = (poses[-1] - poses[0]) / (indices[-1] - indices[0])
        ahead = index - indices[-1]
        predicted: NDArray[np.float64] = poses[-1] + velocity * min(ahead, 6)
        predicted[:4] = poses[-1][:4] + velocity[:4] * min(ahead, 2)  # turns and scale do not go on for long
        return predicted

    def _predict_box(self, index: int) -> NDArray[np.float64]:
        """The last box, moved on by the last velocity, at most three frames' worth."""
        box = self.states[-1][:4]
        if len(self.indices) < 2:
            return box
        step = (box - self.states[-2][:4]) / (self.indices[-1] - self.indices[-2])
        shift = np.tile((step[:2] + step[2:]) / 2.0, 2)
        predicted: NDArray[np.float64] = box + shift * min(index - self.last_seen, 3)
        return predicted

    def predict_before(self, index: int) -> NDArray[np.float64]:
        """(6,) pose expected before the first look."""
        poses = [look.pose for look in self.looks[:3]]
        if len(poses) < 2:
            return poses[0]
        velocity = (poses[-1] - poses[0]) / (self.indices[len(poses) - 1] - self.indices[0])
        predicted: NDArray[np.float64] = poses[0] + velocity * (index - self.indices[0])
        return predicted

    def box_at(self, index: int) -> NDArray[np.float64]:
        """(4,) where its box is, or is expected."""
        if not self.has_mesh:
            return self.predict(index)
        pose = self.looks[-1].pose if index == self.last_seen else self.predict(index)
        box: NDArray[np.float64] = self.relative_box * math.exp(pose[3]) + np.tile(pose[4:], 2)
        return box

    @property
    def least_likeness(self) -> float:
        """Below it a reading is doubted: below the usual on pictures so damaged that no reading looks like its mesh."""
        if self.num_confirmed < 3:
            return LIKENESS
        return min(LIKENESS, max(POOR_LIKENESS, self.usual - USUAL_DROP))

    def seen_box(self, at: float) -> NDArray[np.float64]:
        """(5,) box about the pose in its scale, and score: a mean of the detections about a frame, without outliers."""
        if len(self.boxes) == 1:
            return self.boxes[0]
        indices = np.array(self.box_indices)
        order = np.argsort(np.abs(indices - at), kind="stable")[:NUM_BOXES]
        boxes = np.array([self.boxes[i] for i in order])
        middle = np.sort(boxes[:, :4], axis=0)[len(boxes) // 2]
        sides = np.maximum(middle[2:] - middle[:2], 1e-6)
        away = (np.abs(boxes[:, :4] - middle) / np.tile(sides, 2)).max(1)
        weights = np.exp(-0.5 * ((indices[order] - at) / BOX_FRAMES) ** 2) * boxes[:, 4]
        weights = weights * np.where(away > 0.15, 0.05, 1.0) + 1e-9
        mean: NDArray[np.float64] = weights @ boxes / weights.sum()
        return mean

    def forget_after(self, index: int) -> None:
        """Drops the looks after a frame, but never all."""
        while len(self.indices) > 1 and self.indices[-1] > index:
            self.indices.pop()
            self.looks.pop()
            self.weights.pop()

    def forget_before(self, index: int) -> None:
        keep = next((i for i, seen in enumerate(self.indices) if seen >= index), len(self.indices))
        keep = min(max(keep - 1, 0), max(len(self.indices) - 4, 0))  # the last one before tells how long it was hidden
        del self.indices[:keep], self.looks[:keep], self.states[:keep], self.weights[:keep]
        self.quiet = {seen for seen in self.quiet if seen >= index}
        oldest = index - 3 * BOX_FRAMES
        keep = next((i for i, seen in enumerate(self.box_indices) if seen >= oldest), len(self.box_indices))
        keep = min(keep, max(len(self.box_indices) - 2, 0))
        del self.box_indices[:keep], self.boxes[:keep]


class ShapeReader(Protocol):
    """Reads 3D faces off frames: :class:`vidrestore.track.face.FaceReader` and :class:`vidrestore.track.bfm.BfmReader`.

    Whatever the model, poses and shapes are in the unit and frame of ``vr468``, which the thresholds here are about.
    """

    model: FaceModel
    """That is read, in NumPy."""

    def crop_at(self, points: ArrayLike) -> Affine:
        """crop_from_display of the crop in which a face with these (5, 2) points is to be read."""
        ...

    def read(self, frames: Sequence[Frame], maps: Sequence[Affine]) -> list[Look]:
        """Faces in B crops, cut out of B frames by maps of :meth:`crop_at`."""
        ...

    def glance(self, frame: Frame, anchors: ArrayLike) -> NDArray[np.float32]:
        """A small patch of the first plane about the five points, in levels of 255, to tell whether a face changed."""
        ...


class MeshTracker:
    """Follows 3D faces.

    Args:
        options: thresholds, window sizes, gaps between key frames.
        reader: reads faces off frames.
        size: (width, height) of the picture in display pixels.
        every: the detector's interval while a face is followed that the 3D model does not fit.
        given: boxes by frame index that count as faces where the detector finds none.

    Attributes:
        num_looks: frames that the detector was asked about.
    """

    def __init__(
        self,
        options: TrackOptions,
        reader: ShapeReader,
        size: tuple[int, int],
        *,
        every: int = 1,
        given: GivenBoxes | None = None,
    ) -> None:
        self._options = options
        self._reader = reader
        self._model = reader.model
        self._corner = np.array([*size, *size], np.float64)
        self._every = every
        self._given = given or {}
        self._group = next((g for g in (GROUP, GROUP // 2) if options.lookahead >= 2 * g), 1)
        self._waiting: deque[Frame] = deque()
        self._unread: list[Frame] = []
        self._people: list[_Person] = []
        self._gallery: deque[_Pool] = deque(maxlen=GALLERY)
        self._next_id = 0
        self._shot: int | None = None
        self._shot_start = 0
        self._newest = -1  # frame that was read
        self._last_key = self._next_key = 0
        self._gap = options.shortest_gap
        self._spacing = 1
        self._look: Callable[[Frame], Detections] | None = None
        self._doubted: dict[int, Look] = {}  # of the frame that is read now
        self._is_unclear = False  # a detection of the last look waits to be seen whole
        self._unclear_since: int | None = None
        self._kept: dict[tuple[int, int], Look] = {}  # readings of frames after a doubt, by face and frame
        self.num_looks = 0

    # --- the two verbs ----------------------------------------------------------------------------------------------

    def update(self, frame: Frame, look: Callable[[Frame], Detections], *, spacing: int = 1) -> list[TrackedFrame]:
        """See :class:`vidrestore.track.tracker.Tracker`."""
        done: list[TrackedFrame] = []
        self._look, self._spacing = look, spacing
        if frame.shot != self._shot:
            done = self.flush()
            self._begin(frame)
        self._waiting.append(frame)
        self._unread.append(frame)
        if self._is_key(frame) or len(self._unread) >= self._group:
            self._read_waiting()
        while self._waiting and frame.index - self._waiting[0].index >= self._options.lookahead:
            done.append(self._finish(self._waiting.popleft(), shot_ended=False))
        return done

    def flush(self) -> list[TrackedFrame]:
        """See :class:`vidrestore.track.tracker.Tracker`."""
        self._read_waiting()
        if self._waiting and self._newest - self._last_key >= self._options.shortest_gap:
            self._detect(self._waiting[-1])  # who came since the last look is followed back from here
        done = []
        while self._waiting:
            done.append(self._finish(self._waiting.popleft(), shot_ended=True))
        self._people.clear()
        self._gallery.clear()
        return done

    def _begin(self, frame: Frame) -> None:
        self._shot, self._shot_start = frame.shot, frame.index
        self._next_key = self._last_key = frame.index
        self._gap = self._options.shortest_gap

    def _is_key(self, frame: Frame) -> bool:
        return frame.index >= self._next_key or bool(self._given.get(frame.index))

    # --- following --------------------------------------------------------------------------------------------------

    def _read_waiting(self) -> None:
        """Reads every face in the frames that came since, and lets the detector look where it is due or needed."""
        frames, self._unread = self._unread, []
        while frames:
            people = [p for p in self._people if p.has_mesh and not p.is_missing and not p.has_ended]
            ahead = frames[: self._reach(people)]
            read = self._read_ahead(people, ahead)
            for step, frame in enumerate(ahead):
                self._newest = frame.index
                here = {id(p): look for p in people if (look := read[id(p)][step]) is not None}
                for person in people:
                    if id(person) not in here:
                        person.quiet.add(frame.index)
                doubted = [p for p in people if id(p) in here and not self._accept(p, frame, here[id(p)])]
                self._doubted = {id(p): here[id(p)] for p in doubted}
                doubted += self._part(frame.index)
                for person in doubted:
                    person.is_missing = True
                asks = self._is_key(frame) or bool(doubted)
                if asks:
                    self._detect(frame)
                self._end_lost(frame.index)
                if asks:  # poses and people may be others now
                    frames = frames[step + 1 :]
                    self._kept = {
                        (id(p), ahead[at].index): look
                        for p in people
                        for at in range(step + 1, len(ahead))
                        if (look := read[id(p)][at]) is not None and look.likeness >= LIKENESS
                    }
                    break
            else:
                frames = frames[len(ahead) :]
                self._kept = {}

    def _reach(self, people: Sequence[_Person]) -> int:
        """Frames that may be read at once: fewer while a face moves in ways that were not foreseen."""
        reach = min((min(p.reach, REACH_WAY / max(self._speed(p), 1e-3)) for p in people), default=1e9)
        return max(1, int(min(self._group, reach)))

    @staticmethod
    def _speed(person: _Person) -> float:
        """Eye distances a frame."""
        if not person.has_mesh or len(person.looks) < 2:
            return 0.0
        a, b = person.looks[-2].pose, person.looks[-1].pose
        frames = person.indices[-1] - person.indices[-2]
        return float(np.linalg.norm(b[4:] - a[4:])) / (EYES * math.exp(b[3]) * frames)

    def _read_ahead(self, people: Sequence[_Person], frames: Sequence[Frame]) -> dict[int, list[Look | None]]:
        """Looks at every face in every frame; None where the frames before and after say the same.

        Every second frame is read first, or every fourth or eighth of a face that was quiet before; the last one
        always. A stretch between two readings is halved, and its middle read, until nothing happens in it: what comes
        out is interpolated, so that a quiet face costs little and a lively one nothing of its motion.
        """
        count = len(frames)
        read: dict[int, list[Look | None]] = {id(person): [None] * count for person in people}
        stretches: list[tuple[_Person, int, int]] = []
        first: list[tuple[int, _Person, NDArray[np.float64]]] = []
        for person in people:
            steps = range(count - 1, -1, -person.stride)[::-1]
            first += [(step, person, person.predict(frames[step].index)) for step in steps]
            stretches += [(person, a, b) for a, b in pairwise([-1, *steps])]
        self._fill(read, frames, first)
        while stretches:
            open_ones = [
                s for s in stretches if s[2] - s[1] > 1 and not self._is_quiet(s[0], read[id(s[0])], frames, s)
            ]
            middles = [(a + b) // 2 for _, a, b in open_ones]
            poses = [
                _part_way(p, read[id(p)], frames, (a, b), middle)
                for (p, a, b), middle in zip(open_ones, middles, strict=True)
            ]
            self._fill(read, frames, [(m, s[0], k) for m, s, k in zip(middles, open_ones, poses, strict=True)])
            stretches = [
                half for (p, a, b), m in zip(open_ones, middles, strict=True) for half in ((p, a, m), (p, m, b))
            ]
        for person in people:
            self._choose_stride(person, read[id(person)])
        return read

    def _fill(
        self,
        read: dict[int, list[Look | None]],
        frames: Sequence[Frame],
        wanted: Sequence[tuple[int, _Person, NDArray[np.float64]]],
    ) -> None:
        new = []
        for step, person, pose in wanted:
            look = self._kept.get((id(person), frames[step].index))
            if look is None:
                new.append((step, person, pose))
            else:
                read[id(person)][step] = look
        looks = self._read_at([frames[step] for step, _, _ in new], [k for _, _, k in new], [p.pool for _, p, _ in new])
        for (step, person, _), look in zip(new, looks, strict=True):
            read[id(person)][step] = look

    @staticmethod
    def _choose_stride(person: _Person, read: Sequence[Look | None]) -> None:
        """Reads fewer frames first where those between needed no reading, more where most of them did."""
        at = STRIDES.index(person.stride)
        num_first = len(range(len(read) - 1, -1, -person.stride))
        more = sum(look is not None for look in read) - num_first
        if len(read) >= person.stride and more == 0:
            person.stride = STRIDES[min(at + 1, len(STRIDES) - 1)]
        elif 2 * more > len(read) - num_first:
            person.stride = STRIDES[max(at - 1, 0)]

    def _is_quiet(
        self,
        person: _Person,
        read: Sequence[Look | None],
        frames: Sequence[Frame],
        stretch: tuple[_Person, int, int],
    ) -> bool:
        """Whether a face did so little between two readings that the frames between need not be read.

        Both readings must say nearly the same, and the picture between them must be the mean of those at the ends (a
        blink, or a syllable, begins and ends at the same face).
        """
        _, a, b = stretch
        before = person.looks[-1] if a < 0 else read[a]
        after = read[b]
        if before is None or after is None or (a < 0 and person.last_seen != frames[0].index - 1):
            return False
        if min(before.likeness, after.likeness) < person.least_likeness or person.hits < self._options.min_hits:
            return False
        after = _unwrapped(after, before)
        unit = EYES * math.exp(after.pose[3])
        way = float(np.linalg.norm(after.pose[4:] - before.pose[4:])) / unit
        moved = float(np.linalg.norm(after.pose[4:] - self._expected_at(person, read, frames, (a, b))[4:])) / unit
        turned = float(np.abs(after.pose[:3] - before.pose[:3]).max())
        if min(moved, way) >= QUIET_MOVE or turned >= QUIET_TURN:
            return False
        identity = person.pool.identity.astype(np.float32)
        held = [self._model.expression_for(k.expression, k.identity, identity) for k in (before, after)]
        if self._model.most_moved(*held) >= QUIET_SHAPE * EYES:
            return False
        return self._looks_quiet(person, (before.pose, after.pose), frames, (a, b))

    @staticmethod
    def _expected_at(
        person: _Person, read: Sequence[Look | None], frames: Sequence[Frame], stretch: tuple[int, int]
    ) -> NDArray[np.float64]:
        """(6,) pose at the end of a stretch, if it goes on from its beginning as before."""
        a, b = stretch
        if a < 0:
            return person.predict(frames[b].index)
        start = read[a]
        assert start is not None
        earlier = next((i for i in range(a - 1, -1, -1) if read[i] is not None), -1)
        before = read[earlier] if earlier >= 0 else person.looks[-1]
        assert before is not None
        since = frames[a].index - (frames[earlier].index if earlier >= 0 else person.last_seen)
        pose: NDArray[np.float64] = start.pose + (start.pose - before.pose) * ((b - a) / since)
        return pose

    def _looks_quiet(
        self,
        person: _Person,
        ends: tuple[NDArray[np.float64], NDArray[np.float64]],
        frames: Sequence[Frame],
        stretch: tuple[int, int],
    ) -> bool:
        """Whether the pictures between two readings are the mean of those at the ends."""
        a, b = stretch
        begin = frames[a] if a >= 0 else next((f for f in self._waiting if f.index == frames[0].index - 1), None)
        if begin is None:
            return False

        def patch(frame: Frame, share: float) -> NDArray[np.float32]:
            pose = (1 - share) * ends[0] + share * ends[1]
            return self._reader.glance(frame, self._anchors(person.pool, pose))

        first, last = patch(begin, 0.0), patch(frames[b], 1.0)
        most = QUIET_PICTURE * (2.0 if b - a == 2 else 1.0)
        for step in range(a + 2, b, 2) if b - a > 2 else (a + 1,):
            share = (step - a) / (b - a)
            if difference(patch(frames[step], share), (1 - share) * first + share * last) > most:
                return False
        return True

    def _read_at(
        self, frames: Sequence[Frame], poses: Sequence[NDArray[np.float64]], pools: Sequence[_Pool]
    ) -> list[Look]:
        """Looks at faces where they are expected, and once more at those that were not in the middle."""
        maps = [self._reader.crop_at(self._anchors(pool, pose)) for pool, pose in zip(pools, poses, strict=True)]
        looks = self._reader.read(frames, maps)
        again = [i for i, look in enumerate(looks) if REREAD < look.off_centre < 0.5 and look.likeness > 0.0]
        if again:
            maps = [self._reader.crop_at(self._anchors(pools[i], looks[i].pose)) for i in again]
            for i, look in zip(again, self._reader.read([frames[i] for i in again], maps), strict=True):
                looks[i] = look
        return looks

    def _anchors(self, pool: _Pool, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._model.place(self._model.five(pool.identity.astype(np.float32)), pose)[:, :2]

    def _accept(self, person: _Person, frame: Frame, look: Look) -> bool:
        """Adds a look to a face, or doubts it."""
        look = _unwrapped(look, person.looks[-1])
        expected = person.predict(frame.index)
        person.note_surprise(frame.index, look.pose, expected)
        if look.likeness < person.least_likeness or self._jumps(person, look, expected):
            return False
        self._add(person, frame.index, look)
        return True

    def _jumps(self, person: _Person, look: Look, expected: NDArray[np.float64]) -> bool:
        """Whether a reading lies where a face that moves on cannot be."""
        pose = look.pose
        away = float(np.linalg.norm(pose[4:] - expected[4:])) / (EYES * math.exp(pose[3]))
        return (
            away > JUMP
            or abs(pose[3] - expected[3]) > SCALE_JUMP
            or bool((np.abs(pose[:3] - expected[:3]) > TURN_JUMP).any())
            or not self._is_inside(pose)
        )

    def _is_inside(self, pose: NDArray[np.float64]) -> bool:
        """Whether a face's middle lies in the picture, or little outside of it."""
        margin = REACH_OUT * EYES * math.exp(pose[3])
        return bool((pose[4:] > -margin).all() and (pose[4:] < self._corner[2:] + margin).all())

    def _clipped(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        """(4,) what of a box lies in the picture, as detectors give it; all of it where that is hardly anything."""
        inside: NDArray[np.float64] = np.minimum(np.maximum(box, 0.0), self._corner)
        is_large = (inside[2:] - inside[:2] >= LEAST_INSIDE * (box[2:] - box[:2])).all()
        return inside if is_large else box

    def _cut(self, box: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(4,) which sides of a detection the picture's edge may have cut."""
        margin = np.maximum(CUT_PX, CUT_SHARE * self._corner[2:])
        return np.concatenate([box[:2] <= margin, box[2:] >= self._corner[2:] - 1.0 - margin])

    def _uncut(self, box: NDArray[np.float64], relative: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
        """(4,) a detection as it were if the picture went on: by the face's usual box, and its last scale where the
        detection does not tell it."""
        cut = self._cut(box).reshape(2, 2)  # (first and last side, x and y)
        if not cut.any():
            return box
        usual, sides = relative.reshape(2, 2), box.reshape(2, 2).copy()
        whole = ~cut.any(0)
        if whole.any():
            scale = float(((sides[1] - sides[0]) / np.maximum(usual[1] - usual[0], 1e-6))[whole].mean())
        for axis in (0, 1):
            for side in (0, 1):
                if cut[side, axis] and not cut[1 - side, axis]:
                    sides[side, axis] = sides[1 - side, axis] + (usual[side] - usual[1 - side])[axis] * scale
        return sides.reshape(4)

    @staticmethod
    def _add(person: _Person, index: int, look: Look) -> None:
        person.see(index, look, _weight(look))
        if look.likeness >= LIKENESS:
            person.pool.add(look, _weight(look))

    def _part(self, index: int) -> list[_Person]:
        """Of faces that were read in one place, those that are less themselves there: another one hides them."""
        here = [p for p in self._people if p.has_mesh and not p.is_missing and p.last_seen == index]
        hidden: list[_Person] = []
        for i, a in enumerate(here):
            for b in here[i + 1 :]:
                if a in hidden or b in hidden or not _coincide(a.looks[-1].pose, b.looks[-1].pose):
                    continue
                other = max(a, b, key=lambda p: (self._strangeness(p), p.pool.id))
                hidden.append(other)
        for person in hidden:
            person.forget_after(index - 1)
        return hidden

    @staticmethod
    def _strangeness(person: _Person) -> float:
        look = person.looks[-1]
        return person.pool.distance(look.identity, look.texture)

    # --- key frames -------------------------------------------------------------------------------------------------

    def _detect(self, frame: Frame) -> None:
        assert self._look is not None
        self.num_looks += 1
        found = with_given(self._look(frame), self._given.get(frame.index))
        states = states_of(found)
        states = states[distinct(states[:, :4], states[:, 14])]
        self._is_unclear = False
        alive = self._alive()
        predicted = np.array([self._clipped(p.box_at(frame.index)) for p in alive], np.float32).reshape(-1, 4)
        looks: dict[int, Look] = {}
        penalty = self._penalty(frame, alive, predicted, states, looks)
        pairs = associate(predicted, states[:, :4].astype(np.float32), self._options.match_iou, penalty)
        for person in alive:
            person.num_asked += 1
        for a, b in pairs:
            self._confirm(alive[a], frame, states[b], looks.get(b))
        matched = {b for _, b in pairs}
        new = [b for b in range(len(states)) if b not in matched]
        unread = [b for b in new if b not in looks]
        looks.update(zip(unread, self._read_detections(frame, states[unread]), strict=True))
        born = [self._meet(frame, states[b], looks[b]) for b in new]
        if not self._is_unclear:
            self._unclear_since = None
        seen = {a for a, _ in pairs}
        missed = [p for a, p in enumerate(alive) if a not in seen]
        for person in missed:
            if person.unconfirmed_at is None:
                person.unconfirmed_at = frame.index
        self._plan(frame.index, is_quiet=not missed and not any(born))

    def _plan(self, index: int, *, is_quiet: bool) -> None:
        """When the detector looks next."""
        options = self._options
        self._gap = min(options.longest_gap, 2 * self._gap) if is_quiet else options.shortest_gap
        gap = self._gap
        # with look-ahead whoever is found is followed back to where he came from
        missing_gap = MISSING_GAP if options.lookahead < self._group + options.shortest_gap else options.shortest_gap
        alive = self._alive()
        if self._is_unclear:
            gap = min(gap, missing_gap)
        for person in alive:
            if not person.has_mesh:
                gap = min(gap, self._every)
            elif person.is_missing or person.unconfirmed_at is not None or not self._is_trusted(person):
                gap = min(gap, missing_gap)
            else:
                gap = min(gap, max(options.shortest_gap, int(2.0 / max(self._speed(person), 1e-3))))
        boxes = np.array([p.box_at(index) for p in alive]).reshape(-1, 4)
        if len(boxes) > 1 and (np.triu(box_iou(boxes, boxes), 1) > TOUCHING).any():
            gap = min(gap, missing_gap)
        gap = min(gap * self._spacing, max(gap, options.max_missed))
        self._last_key, self._next_key = index, index + gap

    def _penalty(
        self,
        frame: Frame,
        alive: Sequence[_Person],
        predicted: NDArray[np.float32],
        states: NDArray[np.float64],
        looks: dict[int, Look],
    ) -> NDArray[np.float64] | None:
        """(N, M) how unlike detections and people are, where more than one may be meant; fills ``looks``."""
        if len(alive) < 2 or not len(states):
            return None
        near = box_iou(predicted, states[:, :4]) > TOUCHING
        unclear = [b for b in range(len(states)) if near[:, b].sum() > 1]
        if not unclear:
            return None
        own = [p.looks[-1] for p in alive if p.has_mesh and p.last_seen == frame.index]
        for b in unclear:  # whoever was read in this frame where a detection lies has been read there
            if look := next((k for k in own if k.likeness >= LIKENESS and self._fit(k, states[b]) <= FIT), None):
                looks[b] = look
        unread = [b for b in unclear if b not in looks]
        looks.update(zip(unread, self._read_detections(frame, states[unread]), strict=True))
        penalty = np.zeros((len(alive), len(states)))
        for a, person in enumerate(alive):
            for b in unclear:
                if person.has_mesh:
                    penalty[a, b] = person.pool.distance(looks[b].identity, looks[b].texture)
        return penalty

    def _read_detections(self, frame: Frame, states: NDArray[np.float64]) -> list[Look]:
        """Looks at detected faces: by the detector's points first, then by the pose that was read there."""
        if not len(states):
            return []
        maps = [self._reader.crop_at(state[4:14].reshape(5, 2)) for state in states]
        looks = self._read_twice(frame, maps, states)
        unfit = [i for i, (look, state) in enumerate(zip(looks, states, strict=True)) if not self._fits(look, state)]
        if unfit:  # once more by the boxes alone, for points that are off
            maps = [self._reader.crop_at(points_in_box(states[i][:4])) for i in unfit]
            for i, look in zip(unfit, self._read_twice(frame, maps, states[unfit]), strict=True):
                if self._fits(look, states[i]):
                    looks[i] = look
        return looks

    def _read_twice(self, frame: Frame, maps: Sequence[Affine], states: NDArray[np.float64]) -> list[Look]:
        """Looks in given crops, and in crops by the poses that were read there, whichever fits."""
        first = self._reader.read([frame] * len(maps), maps)
        pools = [_Pool(-1, look.identity.astype(np.float64)) for look in first]
        again = [self._reader.crop_at(self._anchors(pool, look.pose)) for pool, look in zip(pools, first, strict=True)]
        second = self._reader.read([frame] * len(maps), again)
        fits = [(self._fit(a, state), self._fit(b, state)) for a, b, state in zip(first, second, states, strict=True)]
        return [b if fit[1] <= max(fit[0], FIT) else a for a, b, fit in zip(first, second, fits, strict=True)]

    def _fit(self, look: Look, state: NDArray[np.float64]) -> float:
        """Mean distance of the face's five points from the detector's, in eye distances."""
        five = self._model.place(self._model.five(look.identity, look.expression), look.pose)
        away = np.linalg.norm(five[:, :2] - state[4:14].reshape(5, 2), axis=1).mean()
        return float(away) / (EYES * math.exp(look.pose[3]))

    def _fits(self, look: Look, state: NDArray[np.float64]) -> bool:
        """What was read is the face that was detected."""
        if look.likeness >= LOOSE_LIKENESS:
            usual = USUAL_BOX * math.exp(look.pose[3]) + np.tile(look.pose[4:], 2)
            if box_iou(self._clipped(usual), state[:4])[0, 0] >= POOR_IOU:
                return True
        is_sure = look.likeness >= LOOSE_LIKENESS or state[14] >= SURE_SCORE
        return look.likeness >= LIKENESS and self._fit(look, state) <= (LOOSE_FIT if is_sure else FIT)

    def _confirm(self, person: _Person, frame: Frame, state: NDArray[np.float64], look: Look | None) -> None:
        """A detection that is this face."""
        index = frame.index
        if not person.has_mesh:
            person.see_points(index, state)
            person.confirm(index, state[:4], float(state[14]))
            if person.num_confirmed % RETRY == 0:
                self._read_at_last(person, frame, state)
            return
        own = person.looks[-1] if person.last_seen == index else None
        doubted = self._doubted.get(id(person))
        if own is None and doubted is not None and self._is_usual(person, doubted, state):
            self._add(person, index, doubted)
            own = doubted
        if own is None or not (self._fits(own, state) or self._is_usual(person, own, state)):
            look = look or self._read_detections(frame, state[None])[0]
            is_good = self._fits(look, state)
            if own is None:
                since = person.last_seen
                self._add(person, index, look if is_good else self._from_box(person, state))
                if is_good:
                    self._fill_back(person, since)
            elif is_good and self._fit(look, state) < self._fit(own, state):
                person.looks[-1] = _unwrapped(look, own)
                person.weights[-1] = _weight(look)
        person.confirm(index, state[:4], float(state[14]), self._cut(state[:4]))

    def _read_at_last(self, person: _Person, frame: Frame, state: NDArray[np.float64]) -> None:
        """A face that was followed by its points, because something hid half of it, may be read now: then the same
        person goes on with a mesh."""
        (look,) = self._read_detections(frame, state[None])
        if not self._fits(look, state):
            return
        heir = _Person(person.pool, frame.index, has_mesh=True)
        heir.hits, heir.num_asked, heir.joins = person.hits, person.num_asked, True
        self._add(heir, frame.index, look)
        heir.num_confirmed, heir.best_score = person.num_confirmed - 1, person.best_score
        heir.confirm(frame.index, state[:4], float(state[14]), self._cut(state[:4]))
        person.has_ended, person.heir = True, heir
        self._people.append(heir)

    def _is_usual(self, person: _Person, look: Look, state: NDArray[np.float64]) -> bool:
        """A reading where a well known face was expected, that lies in the detector's box: more readings would say no
        more, however little it looks like its mesh (something passes in front of it)."""
        if person.num_confirmed < 3 or look.likeness < POOR_LIKENESS:
            return False
        box = person.relative_box * math.exp(look.pose[3]) + np.tile(look.pose[4:], 2)
        return not self._jumps(person, look, person.predict(self._newest)) and bool(
            box_iou(self._clipped(box), state[:4])[0, 0] >= POOR_IOU
        )

    def _from_box(self, person: _Person, state: NDArray[np.float64]) -> Look:
        """For a face that the detector sees and the regressor cannot read now: what it read all the same, where that
        lies in the detector's box; else the last look, moved there. Points are not trusted here: on damaged pictures
        the detector finds the head, and puts eyes and mouth anywhere in it."""
        relative = person.relative_box
        doubted = self._doubted.get(id(person))
        if doubted is not None and doubted.likeness >= POOR_LIKENESS:
            box = relative * math.exp(doubted.pose[3]) + np.tile(doubted.pose[4:], 2)
            if box_iou(self._clipped(box), state[:4])[0, 0] >= POOR_IOU:
                return doubted
        last = person.looks[-1]
        box = self._uncut(state[:4], relative, math.exp(last.pose[3]))
        sides = (box[2:] - box[:2]).prod() / max((relative[2:] - relative[:2]).prod(), 1e-9)
        scale = math.sqrt(max(float(sides), 1e-6))
        place = ((box[:2] + box[2:]) - (relative[:2] + relative[2:]) * scale) / 2.0
        pose = np.concatenate([last.pose[:3], [math.log(scale)], place])
        return Look(pose, last.identity, last.expression, last.texture, last.lighting, 0.0, 0.0)

    def _meet(self, frame: Frame, state: NDArray[np.float64], look: Look) -> bool:
        """A detection that nobody is known for: a new face, somebody who comes back, or no face."""
        score = float(state[14])
        fits = self._fits(look, state)
        if not fits and score < SURE_SCORE:
            return False
        here = _with_hair(state[:4])
        touches = any(box_iou(_with_hair(p.box_at(frame.index)), here)[0, 0] > TOUCHING for p in self._alive())
        if touches and not fits and self._waits(frame.index):
            return False
        if fits and any(
            _coincide(p.looks[-1].pose, look.pose) for p in self._people if p.has_mesh and p.last_seen == frame.index
        ):
            return False
        pool, distance = self._recognised(look) if fits else (None, 1.0)
        if pool is None and touches and distance < OTHER_PERSON and self._waits(frame.index):
            return False
        if pool is None:
            pool = _Pool(self._next_id)
            self._next_id += 1
        person = _Person(pool, frame.index, fits)
        if fits:
            self._add(person, frame.index, look)
        else:
            person.see_points(frame.index, state)
        person.confirm(frame.index, state[:4], score, self._cut(state[:4]))
        person.num_asked = 1
        self._people.append(person)
        if fits:
            self._follow_back(person)
        return True

    def _alive(self) -> list[_Person]:
        return [p for p in self._people if not p.has_ended]

    def _waits(self, index: int) -> bool:
        """Notes that a face which is half hidden waits to be seen whole; False where it has waited for long."""
        if self._unclear_since is None:
            self._unclear_since = index
        self._is_unclear = index - self._unclear_since <= 2 * self._options.max_missed
        return self._is_unclear

    def _recognised(self, look: Look) -> tuple[_Pool | None, float]:
        """Who of those that left in this shot it is, if anybody; and the distance from the likest of them."""
        present = {p.pool.id for p in self._people if not p.has_ended}
        left = [pool for pool in self._gallery if pool.id not in present and pool.weight >= 3.0]
        if not left:
            return None, 1.0
        distance, _, nearest = min(
            ((pool.distance(look.identity, look.texture), pool.id, pool) for pool in left), key=lambda found: found[:2]
        )
        if distance > SAME_PERSON:
            return None, distance
        self._gallery.remove(nearest)
        return nearest, distance

    def _follow_back(self, person: _Person) -> None:
        """Finds a new face in the frames before, since the detector last looked, as far as it can be followed."""
        since = self._last_key if self._unclear_since is None else min(self._last_key, self._unclear_since - 1)
        frames = [f for f in self._waiting if since < f.index < person.first_seen]
        while frames:
            part = frames[-self._reach([person]) :][::-1]
            poses = [person.predict_before(f.index) for f in part]
            for frame, pose, look in zip(
                part, poses, self._read_at(part, poses, [person.pool] * len(part)), strict=True
            ):
                unit = EYES * math.exp(look.pose[3])
                away = float(np.linalg.norm(look.pose[4:] - pose[4:])) / unit
                # half hidden where the detector found it: it need not look like its mesh
                least = POOR_LIKENESS if self._was_unclear(frame.index) else LIKENESS
                if look.likeness < least or away > JUMP or abs(look.pose[3] - pose[3]) > SCALE_JUMP:
                    return
                if not self._is_inside(look.pose) or self._is_taken(person, frame.index, look):
                    return
                person.see_before(frame.index, look, _weight(look))
                if look.likeness >= LIKENESS:
                    person.pool.add(look, _weight(look))
            frames = frames[: -len(part)]

    def _was_unclear(self, index: int) -> bool:
        return self._unclear_since is not None and index >= self._unclear_since

    def _is_taken(self, person: _Person, index: int, look: Look) -> bool:
        """Whether somebody else was read in that place."""
        others = (p for p in self._people if p is not person and p.has_mesh and index in p.indices)
        return any(_coincide(p.looks[p.indices.index(index)].pose, look.pose) for p in others)

    def _fill_back(self, person: _Person, since: int) -> None:
        """Finds a face that was hidden until now in the frames before, back to when the detector last looked."""
        later, now = None, person.looks[-1]
        frames = [f for f in self._waiting if max(since, self._last_key) < f.index < person.last_seen]
        for frame in reversed(frames):
            pose = now.pose if later is None else 2.0 * now.pose - later.pose
            (look,) = self._read_at([frame], [pose], [person.pool])
            look = _unwrapped(look, now)
            if look.likeness < LIKENESS or self._jumps(person, look, pose):
                return
            person.insert(frame.index, look, _weight(look))
            later, now = now, look

    def _end_lost(self, index: int) -> None:
        options = self._options
        for person in self._people:
            if person.has_ended:
                continue
            if index - person.last_seen > options.max_missed + (0 if person.has_mesh else self._every - 1):
                person.has_ended = True
            elif person.has_mesh and person.unconfirmed_at is not None and person.best_score < GIVEN_SCORE:
                is_sure = person.looks[-1].likeness >= SURE_LIKENESS and self._is_trusted(person)
                if index - person.unconfirmed_at > options.max_missed * (4 if is_sure else 1):
                    person.has_ended = True
                    person.forget_after(person.unconfirmed_at)
            if person.has_ended and person.has_mesh:
                self._gallery.append(person.pool)

    # --- frames that are ready --------------------------------------------------------------------------------------

    def _finish(self, frame: Frame, *, shot_ended: bool) -> TrackedFrame:
        tracks: dict[int, Track] = {}
        for person in self._people:
            track = self._track(person, frame, shot_ended=shot_ended)
            if track is not None:
                tracks[track.id] = track  # somebody who came back replaces the same one who left
        self._forget(frame.index)
        return TrackedFrame(frame, tuple(tracks[track_id] for track_id in sorted(tracks)))

    def _is_trusted(self, person: _Person) -> bool:
        """A sure detection, or one that was repeated."""
        wanted = min(2, person.num_asked) if self._options.min_hits > 1 else 1
        return person.best_score >= SURE_SCORE or (person.num_confirmed >= wanted and person.num_asked > 1)

    def _track(self, person: _Person, frame: Frame, *, shot_ended: bool) -> Track | None:
        options, index = self._options, frame.index
        born_with_shot = not person.joins and person.first_seen - self._shot_start <= (
            0 if person.has_mesh else 2 * self._every
        )
        if index < (self._shot_start if born_with_shot else person.first_seen):
            return None
        seen_frames = self._newest - self._shot_start + 1
        if person.hits < (min(options.min_hits, seen_frames) if shot_ended else options.min_hits):
            return None
        if not (self._is_trusted(person) or options.min_hits == 1 or (shot_ended and person.num_asked == 1)):
            return None
        if person.strength is None:  # its first frame: no fade where the shot begins with the face in it
            person.strength = 1.0 if born_with_shot and index == self._shot_start else 0.0
        if person.heir is not None and index >= person.heir.first_seen:
            person.heir.strength = person.heir.strength or person.strength
            person.strength = 0.0
            return None
        is_gone = person.has_ended or (shot_ended and self._newest - person.last_seen > 2)
        person.strength = strength_after(
            person.strength,
            index,
            person.last_seen,
            is_lost=is_gone and person.heir is None,
            is_hidden=person.has_mesh and _missed(person, index) >= HIDDEN_AFTER,
            fade_frames=options.fade_frames,
        )
        if person.strength <= 0.0:
            return None
        return self._mesh_track(person, frame) if person.has_mesh else self._point_track(person, frame)

    def _point_track(self, person: _Person, frame: Frame) -> Track:
        at = min(float(frame.index), person.last_seen + 2.0)
        indices = np.array(person.indices, np.float64)
        weights = np.array(person.weights)
        state = smooth_at(at, indices, np.stack(person.states), weights, self._options.smoothing_frames)
        return Track(
            id=person.pool.id,
            box=state[:4].astype(np.float32),
            landmarks=state[4:14].reshape(5, 2).astype(np.float32),
            score=float(np.clip(state[14], 0.0, 1.0)),
            strength=float(person.strength or 0.0),
            missed=_missed(person, frame.index),
            shot=frame.shot,
        )

    def _mesh_track(self, person: _Person, frame: Frame) -> Track:
        at = min(float(frame.index), person.last_seen + 2.0)
        reach = 3.0 * self._options.smoothing_frames + 2.0
        indices = np.array(person.indices, np.float64)
        begin = max(min(int(np.searchsorted(indices, at - reach)), len(indices) - 3), 0)
        end = max(int(np.searchsorted(indices, at + reach)), min(begin + 3, len(indices)))
        indices = indices[begin:end]
        looks, weights = person.looks[begin:end], np.array(person.weights[begin:end])
        poses = np.stack([k.pose for k in looks])
        weights = weights * _trust(np.array([k.likeness for k in looks]))
        noise = POSE_NOISE.copy()
        noise[4:] *= EYES * math.exp(poses[-1, 3])
        pose = smooth_at(at, indices, poses, weights, self._options.smoothing_frames, noise=noise)
        i, j, share = _between(person.indices, at)
        a, b = person.looks[i], person.looks[j]
        now = [
            (1 - share) * first + share * second
            for first, second in (
                (a.expression, b.expression),
                (a.identity, b.identity),
                (a.lighting, b.lighting),
            )
        ]
        identity, texture = person.pool.identity.astype(np.float32), person.pool.texture.astype(np.float32)
        expression = self._model.expression_for(now[0], now[1], identity)
        parts = (
            self._model.five(identity),
            self._model.five(identity, expression),
            self._model.shape(identity, expression),
        )
        placed = self._model.place(np.concatenate(parts), pose)
        anchors, landmarks, mesh = placed[:5, :2], placed[5:10, :2], placed[10:]
        seen_box = person.seen_box(at)
        box = self._clipped(seen_box[:4] * math.exp(pose[3]) + np.tile(pose[4:], 2))
        coefficients = self._model.coefficients(
            pose, identity, expression, texture, now[2], self._reader.crop_at(anchors)
        )
        return Track(
            id=person.pool.id,
            box=box.astype(np.float32),
            landmarks=landmarks.astype(np.float32),
            score=float(np.clip(seen_box[4], 0.0, 1.0)),
            strength=float(person.strength or 0.0),
            pose=Pose(float(pose[0]), float(pose[1]) - PITCH_AT_EASE, float(pose[2])),
            coefficients=coefficients,
            missed=_missed(person, frame.index),
            shot=frame.shot,
            anchors=anchors.astype(np.float32),
            mesh=mesh.astype(np.float32),
            topology=self._model.topology,
        )

    def _forget(self, index: int) -> None:
        self._people = [p for p in self._people if not (p.has_ended and index > p.last_seen and not p.strength)]
        window = int(3 * self._options.smoothing_frames) + 4
        for person in self._people:
            person.forget_before(index - window)


def _weight(look: Look) -> float:
    """How much a look counts: likeness, how frontal the face is, and how large."""
    yaw, pitch = look.pose[:2]
    frontal = max(math.cos(yaw), 0.0) * max(math.cos(pitch), 0.0)
    large = min(EYES * math.exp(look.pose[3]) / 30.0, 1.0)  # eyes 30 px apart fill the regressor's crop
    return max(0.05, max(look.likeness, 0.0) * frontal * large)


def _trust(likeness: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) how much readings count beside others of the same face: hardly where they are clearly less like it."""
    good = np.sort(likeness)[(3 * len(likeness)) // 4]
    drop = np.maximum(good - likeness - 0.05, 0.0)
    trust: NDArray[np.float64] = np.maximum(np.exp(-((drop / LIKENESS_DROP) ** 2)), 0.02)
    return trust


def _part_way(
    person: _Person, read: Sequence[Look | None], frames: Sequence[Frame], ends: tuple[int, int], step: int
) -> NDArray[np.float64]:
    """(6,) pose expected between two readings, or from the last one on."""
    a, b = ends
    before, after = person.looks[-1] if a < 0 else read[a], read[b]
    if before is None or after is None or (a < 0 and person.last_seen != frames[0].index - 1):
        return person.predict(frames[step].index)
    share = (step - a) / (b - a)
    pose: NDArray[np.float64] = (1 - share) * before.pose + share * _unwrapped(after, before).pose
    return pose


def _unwrapped(look: Look, near: Look) -> Look:
    """The same look with a roll that does not jump by whole turns."""
    turns = round((near.pose[2] - look.pose[2]) / (2.0 * math.pi))
    if turns == 0:
        return look
    pose = look.pose.copy()
    pose[2] += 2.0 * math.pi * turns
    return replace(look, pose=pose)


def _with_hair(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4,) of the whole head: half as wide again."""
    more = 0.25 * np.tile(box[2:] - box[:2], 2) * [-1.0, -1.0, 1.0, 1.0]
    grown: NDArray[np.float64] = box + more
    return grown


def _coincide(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    unit = EYES * math.exp(min(a[3], b[3]))
    return float(np.linalg.norm(a[4:] - b[4:])) < COINCIDE * unit and abs(a[3] - b[3]) < 0.5


def _between(indices: Sequence[int], at: float) -> tuple[int, int, float]:
    """Places of the indices before and after, and how far from the one to the other it is; the last or first beyond."""
    after = bisect_right(indices, at)
    if after == 0 or after == len(indices):
        end = min(after, len(indices) - 1)
        return end, end, 0.0
    return after - 1, after, (at - indices[after - 1]) / (indices[after] - indices[after - 1])


def _missed(person: _Person, index: int) -> int:
    at = bisect_right(person.indices, index)
    if at == 0:
        return 0
    if index in person.quiet or (at < len(person.indices) and person.indices[at] - person.indices[at - 1] <= 2):
        return 0  # a frame that was not read because those beside it say the same
    return index - person.indices[at - 1]
