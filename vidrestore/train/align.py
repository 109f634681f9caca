"""Faces of real people out of photographs and videos, aligned as FFHQ's are, for training.

Videos go through the pipeline's own stages: decode, detect, track; a person's crop is where ``restore`` would cut it
out, and each person gives every n-th frame. Photographs go through the detector alone. What would teach a network
wrong things is left, by the rules of :class:`AlignOptions`, each of which is counted in the manifest.

A folder of aligned faces holds ``SSSSS_PPP_FFFFFF.jpg`` (source, person, frame; JPEG of quality 97) and
``manifest.json``: the rules, and for each source its faces, how many looks each rule left, and why it could not be read
where it could not. A source that the manifest knows is not looked at again, so an interrupted run goes on, and new
sources are added to a folder; a file whose length in bytes has changed is a new source.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.config import DetectOptions, TrackOptions
from vidrestore.detect.detector import Detector, FaceFinder
from vidrestore.detect.yunet import YuNet
from vidrestore.errors import ConfigError, DecodeError
from vidrestore.geometry import apply, compose, invert, mean_scale
from vidrestore.kernels.sample import sample_crops
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.regressor import ShapeRegressor, load_regressor
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.restoration.align import crop_from_display, template
from vidrestore.track.rules import detail_of
from vidrestore.track.tracker import make_tracker
from vidrestore.train.data import IMAGE_SUFFIXES, list_images
from vidrestore.train.faces import write_face
from vidrestore.types import Detections, Frame, StreamInfo

__all__ = [
    "VIDEO_SUFFIXES",
    "AlignOptions",
    "AlignReport",
    "align_faces",
    "are_aligned",
    "list_sources",
    "training_faces",
]

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mts", ".mpg", ".mpeg", ".mxf", ".wmv")

_FORMAT = 1
_LOOKED_AT = 16  # pictures of a folder that tell whether it is aligned
_ASTRAY = 0.06  # of the crop's side: YuNet's points of aligned faces are 0.01 to 0.02 from the template


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """Which faces are taken. The names of the rules stand in the manifest's counts."""

    size: int = 512
    """Side of the aligned pictures in pixels."""
    every: int = 15
    """Of a person in a video, one of so many frames is taken: neighbours teach nothing new."""
    most: int = 60
    """Faces of one person in one video at most, so that one long interview does not outweigh the rest."""
    min_side_px: float = 256.0
    """``small``: the square that becomes the crop has at least this side in the source. Smaller ones are degraded
    already, and a network that learns from them learns softness. A face is about half as wide as its square."""
    min_detail: float = 6.0
    """``blurred``: least detail (:mod:`vidrestore.track.rules`): sharp faces have 10 to 17, blurred ones below 5."""
    max_yaw_deg: float = 60.0
    """``turned``: largest turn to the side, as the 3D model's regressor reads it off the crop."""
    min_score: float = 0.75
    """``unsure``: least confidence of the detector; what is no face is mostly below."""
    max_outside: float = 0.25
    """``cut``: largest share of the crop that lies beyond the picture's edge, where its last pixels are repeated."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.size < 16 or self.every < 1 or self.most < 1:
            raise ConfigError(f"size must be at least 16, every and most at least 1, got {self}")


@dataclass(frozen=True, slots=True)
class AlignReport:
    """What a folder of aligned faces holds of the sources that were asked for."""

    folder: Path
    faces: tuple[Path, ...]
    """Sorted by name."""
    sources: int
    """Photographs and videos."""
    looked_at: int
    """How many of them were not in the manifest before."""
    left: dict[str, int]
    """Rule -> looks at faces that it left out."""
    failures: tuple[tuple[str, str], ...]
    """(source, what is wrong with it) of those that cannot be read."""


@dataclass(slots=True)
class _Found:
    """What one source gave."""

    faces: list[dict[str, Any]] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


def list_sources(places: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Path]]:
    """(name, path) of the photographs and videos in files and folders, sub-folders included, sorted by name.

    A name is the place's last part and the way below it, so that a folder may be moved.

    Raises:
        ConfigError: a place is missing, or there is nothing in any of them.
    """
    found: dict[str, Path] = {}
    for place in map(Path, places):
        if place.is_dir():
            base = place.resolve().name
            paths = [p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and p.is_file()]
            found |= {f"{base}/{p.relative_to(place).as_posix()}": p for p in paths}
        elif place.is_file():
            found[place.name] = place
        else:
            raise ConfigError(f"{place}: no such file or folder")
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise ConfigError(f"{', '.join(map(str, places))}: no photographs or videos ({kinds})")
    return sorted(found.items())


def align_faces(
    places: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    options: AlignOptions | None = None,
    *,
    finder: FaceFinder | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> AlignReport:
    """Cuts the faces out of photographs and videos.

    Args:
        places: files and folders.
        folder: for the faces and the manifest; made if missing.
        options: the rules.
        finder: a face finder to use in place of YuNet.
        progress: called with (sources done, sources in all, name of the last one).

    Raises:
        ConfigError: a place is missing or empty, or the folder was made by other rules.
        WeightsError: the detector's file or the regressor's is missing.
    """
    options, target = options or AlignOptions(), Path(folder)
    sources = list_sources(places)
    manifest = _Manifest(target, options)
    cutter = _Cutter(options, finder, target)
    looked_at, known = 0, []
    for done, (name, path) in enumerate(sources, 1):
        entry = manifest.get(name, path)
        if entry is None:
            entry = manifest.add(name, path, cutter)
            looked_at += 1
        known.append((name, entry))
        if progress is not None:
            progress(done, len(sources), name)
    left: Counter[str] = Counter()
    for _, entry in known:
        left.update(entry["left"])
    return AlignReport(
        target,
        tuple(sorted(target / face["file"] for _, entry in known for face in entry["faces"])),
        len(sources),
        looked_at,
        dict(sorted(left.items())),
        tuple((name, entry["failure"]) for name, entry in known if entry["failure"] is not None),
    )


def are_aligned(paths: Sequence[Path], finder: FaceFinder | None = None) -> bool:
    """Whether pictures are square and, as far as the detector finds faces in them, aligned as FFHQ's.

    Args:
        paths: of pictures; 16 of them, evenly over the list, are looked at.
        finder: a face finder to use in place of YuNet.
    """
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int))]
    pictures = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in chosen]
    if any(picture is not None and picture.shape[0] != picture.shape[1] for picture in pictures):
        return False
    finder = finder or YuNet(DetectOptions().score_threshold)
    distances = []
    for picture in pictures:
        if picture is None:
            continue
        small = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
        found = finder.detect(np.asarray(small, np.uint8))
        away = np.linalg.norm(found.landmarks - template(256), axis=-1).mean(-1)  # (N,) pixels
        if len(away):
            distances.append(float(away.min()) / 256.0)
    return not distances or float(np.median(distances)) < _ASTRAY


def training_faces(
    folder: str | os.PathLike[str], aligned: bool | Literal["auto"], cache: str | os.PathLike[str]
) -> list[Path]:
    """The aligned pictures that a training's ``data.faces`` stands for, sorted by name.

    Args:
        folder: of pictures of aligned faces, of photographs, of videos, or of all of these.
        aligned: True takes the pictures as they are and no videos. False aligns all. ``auto`` aligns where there is a
            video, or where pictures are not square or their faces not where FFHQ's are.
        cache: the training's cache; aligned faces go beside it, into a folder of its name with ``.aligned``.

    Raises:
        ConfigError: the folder is missing, or holds no picture, or no face that the rules take.
    """
    root = Path(folder)
    if aligned is not True and root.is_dir():
        has_videos = any(p.suffix.lower() in VIDEO_SUFFIXES for p in root.rglob("*"))
        if aligned is False or has_videos or not are_aligned(list_images(root)):
            target = Path(cache).with_suffix(".aligned")
            _log.info("%s: photographs or videos; their faces are aligned into %s", root, target)
            report = align_faces([root], target)
            for name, failure in report.failures:
                _log.warning("%s is left out: %s", name, failure)
            if not report.faces:
                raise ConfigError(f"{root}: no face to train on; left out: {report.left or 'none was found'}")
            return list(report.faces)
    return list_images(root)


class _Manifest:
    """``manifest.json`` of a folder: written anew after each source, whole or not at all."""

    def __init__(self, folder: Path, options: AlignOptions) -> None:
        self.folder, self.path = folder, folder / "manifest.json"
        self.content: dict[str, Any] = {"format": _FORMAT, "rules": asdict(options), "sources": {}}
        if self.path.is_file():
            stored = json.loads(self.path.read_text("utf-8"))
            if stored.get("format") != _FORMAT or stored.get("rules") != self.content["rules"]:
                raise ConfigError(f"{self.path}: made by other rules; name another folder, or remove this one")
            self.content = stored

    def get(self, name: str, path: Path) -> dict[str, Any] | None:
        """What is known of a source; None where it is new, has changed, or a face of it is gone."""
        entry: dict[str, Any] | None = self.content["sources"].get(name)
        if entry is None or entry["bytes"] != path.stat().st_size:
            return None
        return entry if all((self.folder / face["file"]).is_file() for face in entry["faces"]) else None

    def add(self, name: str, path: Path, cutter: _Cutter) -> dict[str, Any]:
        """Looks at a source and keeps what it gave; its number is that of its earlier version, or a new one."""
        sources = self.content["sources"]
        before = sources.get(name)
        number = (
            int(before["number"])
            if before is not None
            else 1 + max((e["number"] for e in sources.values()), default=-1)
        )
        for face in before["faces"] if before is not None else []:
            (self.folder / face["file"]).unlink(missing_ok=True)
        found, failure = _Found(), None
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            cutter.cut(path, number, found)
        except DecodeError as error:  # what came before the damage is kept
            failure = str(error)
        entry: dict[str, Any] = {
            "number": number,
            "bytes": path.stat().st_size,
            "faces": found.faces,
            "left": dict(found.left),
            "failure": failure,
        }
        sources[name] = entry
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.content, indent=1), "utf-8")
        os.replace(part, self.path)
        return entry


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A face that was found."""

    person: int
    points: NDArray[np.float32]
    """(5, 2) that the crop is aligned by, in display pixels."""
    box: NDArray[np.float32]
    """(4,) xyxy in display pixels."""
    score: float


class _Cutter:
    """Looks at sources and writes the faces that the rules take."""

    def __init__(self, options: AlignOptions, finder: FaceFinder | None, folder: Path) -> None:
        self._options, self._finder, self._folder = options, finder, folder
        self._regressor: ShapeRegressor | None = None

    def cut(self, path: Path, number: int, found: _Found) -> None:
        """Writes the faces of a source, and adds to what it gave.

        Raises:
            DecodeError: it cannot be read, or not to its end.
        """
        is_picture = path.suffix.lower() in IMAGE_SUFFIXES
        looks = self._of_picture(path) if is_picture else self._of_video(path)
        last: dict[int, int] = {}
        taken: Counter[int] = Counter()
        for frame, info, candidates in looks:
            for one in candidates:
                if (
                    taken[one.person] >= self._options.most
                    or frame.index - last.get(one.person, -math.inf) < self._options.every
                ):
                    continue
                taken[one.person] += self._take(frame, info, one, number, found, last)

    def _of_picture(self, path: Path) -> Iterator[tuple[Frame, StreamInfo, list[_Candidate]]]:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DecodeError(f"{path}: is no picture that can be read", path=path)
        frame = frame_from_rgb(np.ascontiguousarray(picture[..., ::-1]), 0)
        info = info_of_frames(frame)
        seen = self._detector(info).detect(frame)
        order = np.argsort(-seen.scores, kind="stable")
        people = [_Candidate(k, seen.landmarks[i], seen.boxes[i], float(seen.scores[i])) for k, i in enumerate(order)]
        yield frame, info, people

    def _of_video(self, path: Path) -> Iterator[tuple[Frame, StreamInfo, list[_Candidate]]]:
        from vidrestore.decode.reader import VideoReader  # here alone: trainings run where there is no PyAV

        with VideoReader(path) as reader:
            detector = self._detector(reader.info)
            tracker = make_tracker(TrackOptions(), reader.info)

            def look(frame: Frame) -> Detections:
                return detector.detect(frame)

            for frame in reader.decode():
                for tracked in tracker.update(frame, look):
                    yield tracked.frame, reader.info, _people(tracked.tracks)
            for tracked in tracker.flush():
                yield tracked.frame, reader.info, _people(tracked.tracks)

    def _detector(self, info: StreamInfo) -> Detector:
        options = DetectOptions()
        if self._finder is None:
            self._finder = YuNet(options.score_threshold)
        return Detector(options, info, self._finder)

    def _take(
        self, frame: Frame, info: StreamInfo, one: _Candidate, number: int, found: _Found, last: dict[int, int]
    ) -> int:
        """Writes a face that no rule leaves; gives how many were written."""
        o = self._options
        crop_from_frame = compose(crop_from_display(one.points, o.size), info.display_from_frame)
        side_px, outside = o.size / mean_scale(crop_from_frame), _outside(crop_from_frame, o.size, frame)
        reason = "unsure" if one.score < o.min_score else "small" if side_px < o.min_side_px else None
        reason = reason or ("cut" if outside > o.max_outside else None)
        detail = detail_of(frame, _box_in_frame(one.box, info)) if reason is None else 0.0
        reason = reason or ("blurred" if detail < o.min_detail else None)
        if reason is not None:
            found.left[reason] += 1
            return 0
        crop = sample_crops(frame.planes, frame.format, crop_from_frame[None], o.size)[0]
        yaw_deg = self._yaw_deg(crop)
        if abs(yaw_deg) > o.max_yaw_deg:
            found.left["turned"] += 1
            return 0
        name = f"{number:05d}_{one.person:03d}_{frame.index:06d}.jpg"
        picture = np.rint((crop.transpose(1, 2, 0).clip(-1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
        write_face(self._folder / name, picture)
        last[one.person] = frame.index
        found.faces.append(
            {
                "file": name,
                "person": one.person,
                "frame": frame.index,
                "side_px": round(side_px, 1),
                "detail": round(detail, 2),
                "yaw_deg": round(yaw_deg, 1),
                "score": round(one.score, 3),
            }
        )
        return 1

    @torch.inference_mode()
    def _yaw_deg(self, crop: NDArray[np.float32]) -> float:
        if self._regressor is None:
            self._regressor = load_regressor()
        return math.degrees(float(split(self._regressor(torch.from_numpy(crop[None]))).angles[0, 1]))


def _people(tracks: Sequence[Any]) -> list[_Candidate]:
    """Those who were seen in the frame, and not only followed through it."""
    return [_Candidate(t.id, t.alignment, t.box, float(t.score)) for t in tracks if t.missed == 0]


def _box_in_frame(box: NDArray[np.float32], info: StreamInfo) -> NDArray[np.float64]:
    """(4,) xyxy in frame pixels, around the turned box."""
    left, top, right, bottom = box.astype(np.float64)
    corners = apply(invert(info.display_from_frame), [[left, top], [right, top], [left, bottom], [right, bottom]])
    return np.concatenate([corners.min(0), corners.max(0)])


def _outside(crop_from_frame: NDArray[np.float64], size: int, frame: Frame) -> float:
    """Share of a crop that lies beyond the picture, on a grid of 16 x 16 places."""
    places = (np.arange(16) + 0.5) / 16 * size - 0.5
    at = apply(invert(crop_from_frame), np.stack(np.meshgrid(places, places), -1).reshape(-1, 2))
    inside = (at >= -0.5).all(1) & (at <= np.array([frame.width, frame.height]) - 0.5).all(1)
    return float(1.0 - inside.mean())
