"""Whether tracks follow the right people: id switches, false faces, boxes against truth and against a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidrestore.geometry import box_iou

__all__ = ["TrackingScore", "boxes_matched", "match_boxes", "score_tracks"]

Boxes = Mapping[int, NDArray[np.floating]]
"""Faces of one frame: {id: (4,) xyxy}."""

SAME_FACE_IOU = 0.3
"""Overlap from which a track's box is taken for a true face's: boxes of different makers frame a face differently."""


@dataclass(frozen=True, slots=True)
class TrackingScore:
    """How tracks stand to the truth."""

    id_switches: int
    """How often a person's track became another one."""
    num_faces: int
    """True faces, counted once a frame."""
    num_found: int
    """Of these, with a track."""
    num_false: int
    """Tracks' faces, counted once a frame, where no true face is."""
    false_ids: tuple[int, ...]
    """Tracks that never had a true face under them."""
    num_ids: int
    """Tracks in all."""


def match_boxes(
    first: NDArray[np.floating], second: NDArray[np.floating], min_iou: float
) -> list[tuple[int, int, float]]:
    """Pairs (index in first, index in second, overlap), each index once, the largest overlap first.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy.
        min_iou: least overlap of a pair, (0, 1].
    """
    overlap = box_iou(first, second)
    pairs: list[tuple[int, int, float]] = []
    while overlap.size and overlap.max() >= min_iou:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(i), int(j), float(overlap[i, j])))
        overlap[i, :] = overlap[:, j] = -1.0
    return pairs


def score_tracks(truth: Sequence[Boxes], tracks: Sequence[Boxes], min_iou: float = SAME_FACE_IOU) -> TrackingScore:
    """Compares the tracks of a clip with its true faces.

    A person keeps the track that he had in the frame before as long as their boxes overlap enough, and only then may
    take another, as in the CLEAR MOT measures: two boxes that cross are no switch by themselves.

    Args:
        truth: for each frame {person: box}.
        tracks: for each frame {track id: box}.
        min_iou: overlap from which they are the same face.

    Raises:
        ValueError: another number of frames.

    Source:
        Bernardin and Stiefelhagen: Evaluating Multiple Object Tracking Performance, 2008, section 2.1.
    """
    if len(truth) != len(tracks):
        raise ValueError(f"truth of {len(truth)} frames and tracks of {len(tracks)}")
    last: dict[int, int] = {}
    switches = found = false = 0
    ids: set[int] = set()
    good: set[int] = set()
    for people, faces in zip(truth, tracks, strict=True):
        ids |= set(faces)
        pairs = _assign(people, faces, last, min_iou)
        for person, track in pairs.items():
            switches += last.get(person, track) != track
            last[person] = track
        found += len(pairs)
        false += len(faces) - len(pairs)
        good |= set(pairs.values())
    total = sum(len(people) for people in truth)
    return TrackingScore(switches, total, found, false, tuple(sorted(ids - good)), len(ids))


def _assign(people: Boxes, faces: Boxes, last: Mapping[int, int], min_iou: float) -> dict[int, int]:
    kept = {
        person: track
        for person, track in last.items()
        if person in people and track in faces and box_iou(people[person], faces[track])[0, 0] >= min_iou
    }
    rest, free = [p for p in people if p not in kept], [f for f in faces if f not in kept.values()]
    boxes = np.array([people[p] for p in rest]).reshape(-1, 4), np.array([faces[f] for f in free]).reshape(-1, 4)
    return kept | {rest[i]: free[j] for i, j, _ in match_boxes(*boxes, min_iou)}


def boxes_matched(
    tracks: Sequence[NDArray[np.floating]], detections: Sequence[NDArray[np.floating]], min_iou: float = 0.7
) -> float:
    """Share of a detector's boxes, looked for on every frame, that a track's box of the same frame covers.

    Args:
        tracks: for each frame (N, 4) xyxy.
        detections: for each frame (M, 4) xyxy.
        min_iou: overlap from which a box counts as matched; each track's box counts once.

    Returns:
        [0, 1]; NaN where the detector found nothing at all.
    """
    total = sum(len(boxes) for boxes in detections)
    pairs = (len(match_boxes(a, b, min_iou)) for a, b in zip(tracks, detections, strict=True))
    matched = sum(pairs)
    return matched / total if total else float("nan")
