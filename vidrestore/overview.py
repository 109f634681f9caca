"""Who is in a video: decoding and tracking without restoring, measured, drawn, and written as a sidecar."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.config import RestoreConfig
from vidrestore.decode.reader import Loss, VideoReader
from vidrestore.detect.detector import Detector, FaceFinder
from vidrestore.errors import DecodeError, EncodeError, printable
from vidrestore.evaluate.draw import Curve, Panel, contact_sheet, draw_panels
from vidrestore.evaluate.identity import Embedder, identity_drift, load_embedder
from vidrestore.evaluate.motion import jitter, openings
from vidrestore.evaluate.tracking import match_boxes
from vidrestore.geometry import compose
from vidrestore.kernels.sample import sample_crops
from vidrestore.pipeline import load_finder, track_frames
from vidrestore.restoration.align import crop_from_display
from vidrestore.sidecar import Sidecar, SidecarWriter, check_sidecar_target
from vidrestore.types import Detections, Frame, StreamInfo, Track, TrackedFrame

__all__ = ["Overview", "PersonReport", "look_over"]

FACES_KEPT = 12
"""Pictures of each person, evenly over his time."""
FACE_SIDE = 192
MATCH_IOU = 0.7  # goal P6
_DRAWN_PEOPLE = 24  # in one picture of plots; the ones that are there longest
_MESH_VERTICES = 468  # of the topology that openings are read from


@dataclass(frozen=True, slots=True)
class PersonReport:
    """One track id over the whole video."""

    id: int
    first_frame: int
    last_frame: int
    num_frames: int
    shots: tuple[int, ...]
    width_px: float
    """Median width of the box, in display pixels."""
    score: float
    """Mean confidence."""
    strength: float
    """Mean strength of the effect."""
    yaw_deg: tuple[float, float] | None
    """Least and largest; None where the tracker knows no pose."""
    pitch_deg: tuple[float, float] | None
    roll_deg: tuple[float, float] | None
    jitter: float | None
    """Trembling of the points that crops are aligned by, in % of the box's width; None of fewer than 3 frames on end.
    Without a truth, changes of speed count too: compare trackers on one video, not videos."""
    mouth: tuple[float, float] | None
    """Least and largest opening, in shares of the eyes' distance; None where no 3D face is tracked."""
    lids: tuple[float, float] | None
    identity_spread: float | None
    """Root mean square distance of the person's pictures from their mean (:mod:`vidrestore.evaluate.identity`)."""
    identity_drift: float | None
    """Distance between the first and the last third of them."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What :func:`look_over` found."""

    source: str
    num_frames: int
    num_shots: int
    num_faces: int
    """Counted once a frame."""
    detections_per_frame: float
    """How often the detector looked, per frame."""
    boxes_matched: float | None
    """Share of the boxes of a detector that looks at every frame which a track's box covers at an overlap of 0.7; None
    where that was not asked for, or it found nothing."""
    identity_by: str
    """Who told people apart: ``dlib`` or ``regressor``."""
    people: tuple[PersonReport, ...]
    losses: tuple[Loss, ...]
    files: tuple[str, ...]
    """What was written."""

    @property
    def is_whole(self) -> bool:
        """Nothing of the input was lost."""
        return not self.losses


@dataclass(slots=True)
class _Person:
    """What is kept of a track: a few numbers a frame, a few pictures in all."""

    rows: list[tuple[int, int, float, float, float, int]] = field(default_factory=list)
    """frame, shot, width, score, strength, missed"""
    poses: list[tuple[float, float, float]] = field(default_factory=list)
    points: list[NDArray[np.float32]] = field(default_factory=list)
    open: list[tuple[float, float]] = field(default_factory=list)
    faces: list[tuple[int, NDArray[np.uint8]]] = field(default_factory=list)
    stride: int = 1

    def wants_picture(self) -> bool:
        return (len(self.rows) - 1) % self.stride == 0

    def keep(self, index: int, face: NDArray[np.uint8]) -> None:
        self.faces.append((index, face))
        if len(self.faces) > FACES_KEPT:
            del self.faces[1::2]
            self.stride *= 2


class _Counting:
    """A face finder that counts its looks."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self.count = 0

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        self.count += 1
        return self._finder.detect(picture)


def look_over(
    source: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    checks_boxes: bool = False,
    drawn: Sidecar | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    check: Callable[[], None] | None = None,
    finder: FaceFinder | None = None,
    embedder: Embedder | None = None,
) -> Overview:
    """Tracks the faces of a video, and tells who they are and how well they are followed.

    Args:
        source: the video.
        config: defaults where None; the network is not used.
        output: a sidecar with the tracks and the measures, which ``restore --tracks`` replays; None writes none.
        pictures: a folder for ``tracks.png`` (pose, confidence and strength over time) and ``person_ID.png`` (faces);
            made if missing; None draws none.
        checks_boxes: run the detector on every frame beside the tracker, and compare.
        drawn: a sidecar of this video; the boxes in its ``manual`` count as faces where the detector finds none, and
            are followed from there.
        overwrite: replace files that exist.
        progress: called with (frames done, frames expected) after each frame.
        check: called before each frame; what it raises ends the run, and nothing half-written stays.
        finder: a face finder to use in place of the configured one.
        embedder: tells people apart; None takes dlib's where it is installed, else the regressor's.

    Raises:
        DecodeError: the input is missing or is no video that can be read.
        EncodeError: a file exists, or cannot be written.
        ConfigError: ``drawn`` is of another video.
    """
    config = config or RestoreConfig()
    if output is not None:
        check_sidecar_target(Path(output), overwrite=overwrite)
    counting = _Counting(finder or load_finder(config))
    embedder = embedder or load_embedder()
    people: dict[int, _Person] = {}
    cuts: list[int] = []
    num_frames, found, matched = 0, 0, 0
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source, config.decode))
        info = reader.info
        if drawn is not None:
            drawn.check_source(source, info)
        notes = None
        if output is not None:
            notes = stack.enter_context(SidecarWriter(output, source, info, config, overwrite=overwrite))
        every = Detector(config.detect, info, counting._finder) if checks_boxes else None
        shot = 0
        given = None if drawn is None else drawn.given
        for item in track_frames(_checked(reader.decode(), check), info, config, finder=counting, given=given):
            _note(item, info, people)
            if item.frame.shot != shot:
                shot = item.frame.shot
                cuts.append(item.frame.index)
            if every is not None:
                boxes = every.detect(item.frame).boxes
                mine = np.array([t.box for t in item.tracks], np.float32).reshape(-1, 4)
                found, matched = found + len(boxes), matched + len(match_boxes(mine, boxes, MATCH_IOU))
            if notes is not None:
                notes.add(item.frame, item.tracks)
            num_frames += 1
            if progress is not None:
                progress(num_frames, info.num_frames)
        if num_frames == 0:
            raise DecodeError(f"{info.path}: not a single frame could be decoded", path=source)
        overview = Overview(
            source=os.fspath(source),
            num_frames=num_frames,
            num_shots=shot + 1,
            num_faces=sum(len(person.rows) for person in people.values()),
            detections_per_frame=counting.count / num_frames,
            boxes_matched=matched / found if found else None,
            identity_by=embedder.name,
            people=tuple(_report(number, person, embedder) for number, person in sorted(people.items())),
            losses=reader.losses,
            files=(),
        )
        files = _draw(Path(pictures), people, num_frames, cuts, overwrite=overwrite) if pictures is not None else []
        if notes is not None:
            measures = asdict(overview)
            del measures["source"], measures["files"], measures["losses"]
            notes.seal([asdict(loss) for loss in reader.losses], measures)
            files.append(notes.publish())
    return Overview(**{f: getattr(overview, f) for f in Overview.__slots__} | {"files": tuple(map(os.fspath, files))})


def _checked(frames: Iterable[Frame], check: Callable[[], None] | None) -> Generator[Frame, None, None]:
    for frame in frames:
        if check is not None:
            check()
        yield frame


def _note(item: TrackedFrame, info: StreamInfo, people: dict[int, _Person]) -> None:
    for track in item.tracks:
        person = people.setdefault(track.id, _Person())
        width = float(track.box[2] - track.box[0])
        person.rows.append((item.frame.index, item.frame.shot, width, track.score, track.strength, track.missed))
        turn = track.pose
        person.poses.append((np.nan,) * 3 if turn is None else (turn.yaw, turn.pitch, turn.roll))
        person.points.append(track.alignment)
        person.open.append(_opening(track))
        if person.wants_picture():
            person.keep(item.frame.index, _face(item.frame, track, info))


def _opening(track: Track) -> tuple[float, float]:
    if track.mesh is None or len(track.mesh) != _MESH_VERTICES:
        return np.nan, np.nan
    found = openings(track.mesh[None])
    return float(found.mouth[0]), float(found.lids[0])


def _face(frame: Frame, track: Track, info: StreamInfo) -> NDArray[np.uint8]:
    """(S, S, 3) RGB crop, aligned as the networks' crops are."""
    matrix = compose(crop_from_display(track.alignment, FACE_SIDE), info.display_from_frame)
    crop = sample_crops(frame.planes, frame.format, matrix[None], FACE_SIDE)[0]
    return np.asarray(np.rint((crop.transpose(1, 2, 0) + 1.0) * 127.5).clip(0, 255), np.uint8)


def _report(number: int, person: _Person, embedder: Embedder) -> PersonReport:
    rows = np.array(person.rows, np.float64)
    frames, width = rows[:, 0].astype(int), float(np.median(rows[:, 2]))
    poses = np.degrees(np.array(person.poses, np.float64))
    opened = np.array(person.open, np.float64)
    drift = None
    if len(person.faces) >= 3:
        drift = identity_drift([embedder.embed(face) for _, face in person.faces])
    trembling = _jitter(frames, np.stack(person.points).astype(np.float64))
    return PersonReport(
        id=number,
        first_frame=int(frames[0]),
        last_frame=int(frames[-1]),
        num_frames=len(frames),
        shots=tuple(sorted({int(s) for s in rows[:, 1]})),
        width_px=round(width, 2),
        score=round(float(rows[:, 3].mean()), 4),
        strength=round(float(rows[:, 4].mean()), 4),
        yaw_deg=_span(poses[:, 0]),
        pitch_deg=_span(poses[:, 1]),
        roll_deg=_span(poses[:, 2]),
        jitter=None if trembling is None else round(100 * trembling / max(width, 1e-6), 4),
        mouth=_span(opened[:, 0], 4),
        lids=_span(opened[:, 1], 4),
        identity_spread=None if drift is None else round(drift.spread, 4),
        identity_drift=None if drift is None else round(drift.drift, 4),
    )


def _jitter(frames: NDArray[np.integer], points: NDArray[np.float64]) -> float | None:
    """Root mean square over the pieces without a gap."""
    pieces = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) != 1) + 1)
    squares = [(len(piece) - 2, jitter(points[piece]) ** 2) for piece in pieces if len(piece) >= 3]
    return float(np.sqrt(np.average([s for _, s in squares], weights=[n for n, _ in squares]))) if squares else None


def _span(values: NDArray[np.float64], digits: int = 1) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    return (round(float(known.min()), digits), round(float(known.max()), digits)) if len(known) else None


def _draw(folder: Path, people: dict[int, _Person], num_frames: int, cuts: list[int], *, overwrite: bool) -> list[Path]:
    longest = sorted(people, key=lambda number: -len(people[number].rows))[:_DRAWN_PEOPLE]
    rows = [_panels(number, people[number]) for number in sorted(longest)]
    pictures = {"tracks.png": draw_panels(rows, num_frames, cuts)}
    for number, person in people.items():
        title = f"id {number}: frames {person.rows[0][0]} to {person.rows[-1][0]}"
        pictures[f"person_{number:03d}.png"] = contact_sheet(person.faces, title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in pictures]
        taken = [path for path in paths if path.exists()]
        if taken and not overwrite:
            message = f"{printable(taken[0])}: exists already, choose another folder or allow overwriting (--overwrite)"
            raise EncodeError(message, path=taken[0])
        for path, picture in zip(paths, pictures.values(), strict=True):
            done, data = cv2.imencode(".png", picture)
            assert done
            path.write_bytes(data.tobytes())
    except OSError as error:
        raise EncodeError(f"{printable(folder)}: cannot be written ({error.strerror})", path=folder) from error
    return paths


def _panels(number: int, person: _Person) -> list[Panel]:
    rows = np.array(person.rows, np.float64)
    frames, poses = rows[:, 0].astype(int), np.degrees(np.array(person.poses, np.float64))
    turns = tuple(Curve(name, frames, poses[:, k]) for k, name in enumerate(("yaw", "pitch", "roll")))
    most = float(np.nanmax(np.abs(poses), initial=20.0)) if not np.isnan(poses).all() else 20.0
    reach = 10.0 * np.ceil(most / 10.0)
    return [
        Panel(f"id {number}: pose, degrees", turns, -reach, reach),
        Panel("confidence", (Curve("confidence", frames, rows[:, 3]),), 0.0, 1.0),
        Panel("strength", (Curve("strength", frames, rows[:, 4]),), 0.0, 1.0),
    ]
