"""Sidecars: what a run knew of its faces, as a JSON file beside the output that can be edited and replayed.

``OUT.vidrestore.json`` is one JSON object, written line by line as frames come, so that its size costs no memory:

    format, version, source, settings, weights      what was restored, with what
    frames      one line each: index, pts, shot and tracks: id, box, landmarks, anchors, score, strength, pose, face
    people      one entry per id: first and last frame, and what may be changed: ``restore``, ``strength``, ``note``
    manual      faces drawn by hand, for the frames between the boxes that are given; `vidrestore tracks --drawn`
                follows them as any other face
    meshes      one entry per face model other than our own whose meshes are in ``face``: its triangles
    losses, num_frames, measures

A replay takes tracks from it in place of detector and tracker, exactly as they are written. ``face`` holds the 3D face
(mesh, coefficients) bit by bit, with the box and points that it was made for: where those were edited, the mesh moves
along. ``model`` says whose mesh and coefficients they are where that is not ``vr468``: a replay takes them for what
they are, whatever its own ``track.model``. So an unedited sidecar gives the same pixels, and an edited one what the
editor wrote:

    - a track that was removed from a frame's line is not restored there; a frame without a line has no faces;
    - points (``landmarks``) that were moved place the crop; a box alone that was moved takes the points along;
    - ``strength`` of a track or person scales the effect; ``restore: false`` leaves the person as he is.

Nothing in it is ever opened, fetched or run: names in it are for people to read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidrestore import __version__
from vidrestore.config import RestoreConfig
from vidrestore.errors import ConfigError, EncodeError, printable
from vidrestore.geometry import apply, estimate_similarity, mean_scale
from vidrestore.track.given import points_in_box
from vidrestore.types import Frame, MeshTopology, Pose, StreamInfo, Track, TrackedFrame

__all__ = ["Replay", "Sidecar", "SidecarWriter", "fingerprint", "sidecar_path"]

log = logging.getLogger(__name__)

FORMAT = "vidrestore-sidecar-1"
SUFFIX = ".vidrestore.json"
_ENDS_BYTES = 1 << 20  # of the source, at its start and at its end, that tell it from other files
_MOST_BYTES = 8 << 30
_MOST_LINE = 64 << 20
_MOST_UNSTREAMED = 512 << 20  # a file that an editor has laid out anew is read in one piece
_MOST_VERTICES = 100_000
_COEFFICIENTS = 257
_FRAMES_BEGIN = b'"frames": [\n'
_FRAMES_END = b"],\n"

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Index = Annotated[int, Field(ge=0, lt=1 << 53)]
Box = tuple[Number, Number, Number, Number]
Points = Annotated[list[tuple[Number, Number]], Field(min_length=5, max_length=5)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TrackRecord(_Record):
    """A face in a frame; only ``id`` and ``box`` have to be there."""

    id: Index
    box: Box
    landmarks: Points | None = None
    anchors: Points | None = None
    score: Unit = 1.0
    strength: Unit = 1.0
    missed: Index = 0
    pose: tuple[Number, Number, Number] | None = None
    model: Annotated[str, Field(pattern="^[a-z][a-z0-9]{0,30}$")] | None = None
    face: Annotated[str, Field(max_length=8 << 20)] | None = None


class FrameRecord(_Record):
    """A frame and its faces."""

    index: Index
    pts: int
    shot: Index = 0
    tracks: Annotated[list[TrackRecord], Field(max_length=1000)] = []


class PersonRecord(_Record):
    """What holds for a track id all over the clip."""

    id: Index
    first: Index = 0
    last: Index = 0
    num_frames: Index = 0
    restore: bool = True
    strength: Unit = 1.0
    note: Annotated[str, Field(max_length=1000)] = ""


class ManualRecord(_Record):
    """A face that was drawn by hand: boxes at some frames, and in between on a straight way."""

    id: Index
    boxes: Annotated[dict[Index, Box], Field(min_length=1, max_length=100_000)]
    strength: Unit = 1.0


class MeshRecord(_Record):
    """What the meshes of one face model have in common."""

    model: Annotated[str, Field(pattern="^[a-z][a-z0-9]{0,30}$")]
    num_triangles: Annotated[int, Field(ge=1, le=2 * _MOST_VERTICES)]
    triangles: Annotated[str, Field(max_length=8 << 20)]
    top: Annotated[int, Field(ge=0, lt=_MOST_VERTICES)]
    chin: Annotated[int, Field(ge=0, lt=_MOST_VERTICES)]


class SourceRecord(_Record):
    """What the sidecar belongs to."""

    name: Annotated[str, Field(max_length=4096)] = ""
    num_bytes: Index | None = None
    sha256_of_ends: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    codec: Annotated[str, Field(max_length=100)] = ""
    width: Index
    height: Index
    time_base: Annotated[str, Field(max_length=50)]


class _Head(_Record):
    format: Literal["vidrestore-sidecar-1"]
    version: Annotated[str, Field(max_length=100)] = ""
    source: SourceRecord
    settings: dict[str, dict[str, Any]] = {}
    weights: dict[str, Annotated[str, Field(max_length=200)]] = {}


class _Tail(_Record):
    people: Annotated[list[PersonRecord], Field(max_length=1_000_000)] = []
    manual: Annotated[list[ManualRecord], Field(max_length=100_000)] = []
    meshes: Annotated[list[MeshRecord], Field(max_length=10)] = []
    losses: list[dict[str, Any]] = []
    num_frames: Index | None = None
    measures: dict[str, Any] | None = None


R = TypeVar("R", bound=_Record)


def sidecar_path(output: str | os.PathLike[str]) -> Path:
    """The sidecar of an output: its name and ``.vidrestore.json``."""
    return Path(os.fspath(output) + SUFFIX)


def fingerprint(path: str | os.PathLike[str]) -> tuple[int, str] | None:
    """Size of a file and SHA-256 over its first and last MiB; None of what is no ordinary file."""
    if not Path(path).is_file():
        return None
    size = Path(path).stat().st_size
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(_ENDS_BYTES))
        if size > _ENDS_BYTES:
            file.seek(max(size - _ENDS_BYTES, _ENDS_BYTES))
            digest.update(file.read(_ENDS_BYTES))
    return size, digest.hexdigest()


def _source_of(source: str | os.PathLike[str], info: StreamInfo) -> SourceRecord:
    found = fingerprint(source)
    return SourceRecord(
        name=printable(Path(source).name)[:4096],
        num_bytes=found[0] if found else None,
        sha256_of_ends=found[1] if found else None,
        codec=info.codec,
        width=info.frame_width,
        height=info.frame_height,
        time_base=f"{info.time_base.numerator}/{info.time_base.denominator}",
    )


class SidecarWriter:
    """Writes a sidecar into a hidden file beside its place, frame by frame, and moves it there when all is whole.

    Args:
        path: of the sidecar.
        source: the video that the tracks are of.
        info: its stream.
        config: settings of the run.
        weights: {file: SHA-256} of the networks that were used.
        overwrite: replace a file that is there.

    Raises:
        EncodeError: the file exists or cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        source: str | os.PathLike[str],
        info: StreamInfo,
        config: RestoreConfig,
        weights: Mapping[str, str] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        check_sidecar_target(self.path, overwrite=overwrite)
        self._people: dict[int, PersonRecord] = {}
        self._topologies: dict[str, MeshTopology] = {}
        self._num_frames = 0
        self._part = self.path.with_name(f".{self.path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
        head = {
            "format": FORMAT,
            "version": __version__,
            "source": _source_of(source, info).model_dump(),
            "settings": config.as_dict(),
            "weights": dict(weights or {}),
        }
        with self._failing():
            self._file: BinaryIO | None = open(self._part, "xb")  # noqa: SIM115, closed by close()
            self._file.write(
                b"{\n" + b"".join(_line(key, value) + b",\n" for key, value in head.items()) + _FRAMES_BEGIN
            )

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, frame: Frame, tracks: Sequence[Track]) -> None:
        """Writes the next frame's line; its tracks as they came out of the tracker.

        Raises:
            EncodeError: the disk refuses.
        """
        record = {
            "index": frame.index,
            "pts": frame.pts,
            "shot": frame.shot,
            "tracks": [_stored(track) for track in tracks],
        }
        for track in tracks:
            person = self._people.setdefault(track.id, PersonRecord(id=track.id, first=frame.index))
            person.last, person.num_frames = frame.index, person.num_frames + 1
            if track.topology is not None:
                self._topologies.setdefault(track.topology.name, track.topology)
        assert self._file is not None
        with self._failing():
            self._file.write((b",\n" if self._num_frames else b"") + _json(record))
        self._num_frames += 1

    def seal(self, losses: Sequence[Mapping[str, Any]] = (), measures: Mapping[str, Any] | None = None) -> None:
        """Writes the end; the file stays hidden until :meth:`publish`.

        Raises:
            EncodeError: the disk refuses.
        """
        assert self._file is not None
        people = [person.model_dump() for _, person in sorted(self._people.items())]
        tail: dict[str, Any] = {"people": people, "manual": [], "losses": list(losses), "num_frames": self._num_frames}
        if self._topologies:
            tail["meshes"] = [_mesh_record(topology) for _, topology in sorted(self._topologies.items())]
        if measures is not None:
            tail["measures"] = dict(measures)
        with self._failing():
            self._file.write(
                b"\n" + _FRAMES_END + b",\n".join(_line(key, value) for key, value in tail.items()) + b"\n}\n"
            )
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._file = None

    def publish(self) -> Path:
        """Moves the whole file to its place.

        Raises:
            EncodeError: the disk refuses.
        """
        assert self._file is None, "seal() comes first"
        with self._failing():
            os.replace(self._part, self.path)
        return self.path

    def close(self) -> None:
        """Removes what was not published."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with suppress(FileNotFoundError):
            self._part.unlink()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{printable(self.path)}: cannot be written ({error.strerror})"
            raise EncodeError(message, path=self.path) from error


def check_sidecar_target(path: Path, *, overwrite: bool) -> None:
    """Whether a sidecar may be written there.

    Raises:
        EncodeError: it exists and may not be replaced, or is a folder.
    """
    if path.is_dir():
        raise EncodeError(f"{printable(path)}: is a folder, expected a file name", path=path)
    if os.path.lexists(path) and not overwrite:
        message = f"{printable(path)}: exists already, remove it or allow overwriting (--overwrite)"
        raise EncodeError(message, path=path)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str).encode()


def _line(key: str, value: Any) -> bytes:
    if isinstance(value, list) and value:  # entries on lines of their own, for people who edit them
        return f'"{key}": [\n'.encode() + b",\n".join(_json(entry) for entry in value) + b"\n]"
    return f'"{key}": '.encode() + _json(value)


def _decimals(values: NDArray[np.float32]) -> Any:
    """Nested lists of the shortest decimals that read back as the same float32."""
    texts = [float(str(v)) for v in np.asarray(values, np.float32).ravel()]
    return texts if values.ndim == 1 else [texts[i : i + 2] for i in range(0, len(texts), 2)]


def _stored(track: Track) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": track.id,
        "box": _decimals(track.box),
        "landmarks": _decimals(track.landmarks),
        "score": track.score,
        "strength": track.strength,
        "missed": track.missed,
    }
    if track.pose is not None:
        record["pose"] = [track.pose.yaw, track.pose.pitch, track.pose.roll]
    if track.anchors is not None:
        record["anchors"] = _decimals(track.anchors)
    if track.topology is not None:
        record["model"] = track.topology.name
    record["face"] = _packed(track)
    return record


def _mesh_record(topology: MeshTopology) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(topology.triangles.astype("<u4").tobytes(), 6)).decode()
    record = MeshRecord(
        model=topology.name,
        num_triangles=len(topology.triangles),
        triangles=packed,
        top=topology.top,
        chin=topology.chin,
    )
    return record.model_dump()


def _topology_of(record: MeshRecord) -> MeshTopology:
    """The inverse.

    Raises:
        ValueError: it is none of these, or larger than it may be.
    """
    num_bytes = 12 * record.num_triangles
    try:
        packed = base64.b64decode(record.triangles, validate=True)
        raw = zlib.decompressobj().decompress(packed, num_bytes + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the triangles of {record.model!r} are damaged: {error}") from error
    if len(raw) != num_bytes:
        raise ValueError(f"the triangles of {record.model!r} are damaged: {record.num_triangles} are not there")
    triangles = np.frombuffer(raw, "<u4").reshape(-1, 3)
    if int(triangles.max()) >= _MOST_VERTICES:
        raise ValueError(f"the triangles of {record.model!r} are damaged: they name vertex {triangles.max()}")
    return MeshTopology(record.model, triangles.astype(np.int32), record.top, record.chin)


@dataclass(frozen=True, slots=True)
class _Face:
    """What a packed face holds."""

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    anchors: NDArray[np.float32]
    """(5, 2), the landmarks where there were none."""
    coefficients: NDArray[np.float32] | None
    mesh: NDArray[np.float32] | None


def _packed(track: Track) -> str:
    """Base64 of a deflated block: two counts, then float32 values, their bytes sorted by significance."""
    parts = [track.box, track.landmarks, track.alignment]
    counts = [0, 0]
    if track.coefficients is not None:
        parts.append(track.coefficients)
        counts[0] = len(track.coefficients)
    if track.mesh is not None:
        parts.append(track.mesh)
        counts[1] = len(track.mesh)
    values = np.concatenate([np.asarray(part, "<f4").ravel() for part in parts])
    planes = np.frombuffer(values.tobytes(), np.uint8).reshape(-1, 4).T
    return base64.b64encode(zlib.compress(struct.pack("<II", *counts) + planes.tobytes(), 6)).decode()


def _unpacked(text: str) -> _Face:
    """The inverse.

    Raises:
        ValueError: it is none of these, or larger than it may be.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        unzip = zlib.decompressobj()
        raw = unzip.decompress(packed, 8 + 4 * (24 + _COEFFICIENTS + 3 * _MOST_VERTICES) + 1)
        coefficients, vertices = struct.unpack("<II", raw[:8])
    except (binascii.Error, zlib.error, struct.error) as error:
        raise ValueError(f"the packed face is damaged: {error}") from error
    count = 24 + coefficients + 3 * vertices
    if coefficients not in (0, _COEFFICIENTS) or vertices > _MOST_VERTICES or len(raw) != 8 + 4 * count:
        raise ValueError(f"the packed face is damaged: {coefficients} coefficients, {vertices} vertices")
    planes = np.frombuffer(raw, np.uint8, offset=8).reshape(4, count)
    values = np.ascontiguousarray(planes.T).view("<f4").ravel().astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the packed face holds values that are not finite")
    ends = np.cumsum([4, 10, 10, coefficients])
    box, landmarks, anchors, shape, mesh = np.split(values, ends)
    return _Face(
        box,
        landmarks.reshape(5, 2),
        anchors.reshape(5, 2),
        shape if coefficients else None,
        mesh.reshape(-1, 3) if vertices else None,
    )


class Sidecar:
    """A sidecar that was read: its head and tail at once, its frames one by one, as often as they are wanted.

    Args:
        path: the file.

    Raises:
        ConfigError: it cannot be read, or is no sidecar; the message says where.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._frames: list[Any] | None = None
        self._begin = 0
        try:
            size = self.path.stat().st_size
            if not self.path.is_file() or size > _MOST_BYTES:
                raise ConfigError(f"{printable(self.path)}: expected a sidecar, an ordinary file of at most 8 GiB")
            head, tail = self._scan() or self._load(size)
        except OSError as error:
            raise ConfigError(f"{printable(self.path)}: cannot be read ({error.strerror})") from error
        self._head = self._checked(_Head, head, "its head")
        self._tail = self._checked(_Tail, tail, "its end")
        self.people = {person.id: person for person in self._tail.people}
        """{id: what holds for that person all over the clip}"""
        try:
            self.topologies = {record.model: _topology_of(record) for record in self._tail.meshes}
            """{face model: what its meshes have in common}, of models other than ``vr468``"""
        except ValueError as error:
            raise ConfigError(f"{printable(self.path)}: its end: {error}") from error

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of the run that wrote it, unchecked; without those that belong to a machine (devices)."""
        machine = {("restore", "device"), ("decode", "hardware"), ("encode", "hardware")}
        return {
            stage: {key: value for key, value in values.items() if (stage, key) not in machine}
            for stage, values in self._head.settings.items()
        }

    @property
    def weights(self) -> dict[str, str]:
        """{file: SHA-256} of the networks of the run that wrote it."""
        return self._head.weights

    @property
    def manual(self) -> list[ManualRecord]:
        """Faces drawn by hand."""
        return self._tail.manual

    @property
    def given(self) -> dict[int, list[Box]]:
        """{frame index: boxes in display pixels} of the faces drawn by hand, for the tracker to follow."""
        boxes: dict[int, list[Box]] = {}
        for face in self._tail.manual:
            for index, box in face.boxes.items():
                boxes.setdefault(index, []).append(box)
        return boxes

    @property
    def num_frames(self) -> int | None:
        """Frames of the run that wrote it."""
        return self._tail.num_frames

    @property
    def measures(self) -> dict[str, Any] | None:
        """Of ``vidrestore tracks``."""
        return self._tail.measures

    def check_source(self, source: str | os.PathLike[str], info: StreamInfo) -> None:
        """Whether it belongs to a video.

        Raises:
            ConfigError: it is of another one.
        """
        mine, other = self._head.source, _source_of(source, info)
        for name in ("width", "height", "time_base", "num_bytes", "sha256_of_ends"):
            a, b = getattr(mine, name), getattr(other, name)
            if a is not None and b is not None and a != b:
                what = {"num_bytes": "size in bytes", "sha256_of_ends": "contents"}.get(name, name)
                told = "differ" if name == "sha256_of_ends" else f"{a} there, {b} here"
                raise ConfigError(
                    f"{printable(self.path)}: is the sidecar of another video ({printable(mine.name)}): {what} {told}"
                )

    def frames(self) -> Iterator[FrameRecord]:
        """The frames in order.

        Raises:
            ConfigError: a line that is none, or out of order.
        """
        last = -1
        for number, raw in enumerate(self._raw_frames()):
            record = self._checked(FrameRecord, raw, f"frame {number} of it")
            if record.index <= last:
                raise ConfigError(f"{printable(self.path)}: frame {record.index} comes after frame {last}")
            ids = [track.id for track in record.tracks]
            if len(set(ids)) != len(ids):
                raise ConfigError(f"{printable(self.path)}: frame {record.index} has an id twice: {sorted(ids)}")
            last = record.index
            yield record

    def _raw_frames(self) -> Iterator[Any]:
        if self._frames is not None:
            yield from self._frames
            return
        with open(self.path, "rb") as file:
            file.seek(self._begin)
            for line in _lines(file):
                if line in (_FRAMES_END, b"]\n"):
                    return
                if line.strip():
                    yield self._parsed(line.rstrip().removesuffix(b","))

    def _scan(self) -> tuple[Any, Any] | None:
        """Head and tail of a file that is laid out as it was written; None where an editor has laid it out anew."""
        with open(self.path, "rb") as file:
            head, tail, part = [], [], "head"
            for line in _lines(file):
                if part == "head":
                    if line == _FRAMES_BEGIN:
                        self._begin, part = file.tell(), "frames"
                    elif file.tell() > _MOST_LINE:
                        return None
                    else:
                        head.append(line)
                elif part == "frames":
                    if line == _FRAMES_END:
                        part = "tail"
                    elif line[:1] not in (b"{", b"\n"):
                        return None
                else:
                    tail.append(line)
        if part != "tail":
            return None
        text = b"".join(head).rstrip()
        return self._parsed(text.removesuffix(b",") + b"}"), self._parsed(b"{" + b"".join(tail))

    def _load(self, size: int) -> tuple[Any, Any]:
        if size > _MOST_UNSTREAMED:
            raise ConfigError(f"{printable(self.path)}: is too large to be read in another layout than the written one")
        whole = self._parsed(self.path.read_bytes())
        if not isinstance(whole, dict) or not isinstance(whole.get("frames"), list):
            raise ConfigError(f"{printable(self.path)}: is no sidecar, it has no list of frames")
        self._frames = whole.pop("frames")
        heads = set(_Head.model_fields)
        return {k: v for k, v in whole.items() if k in heads}, {k: v for k, v in whole.items() if k not in heads}

    def _parsed(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{printable(self.path)}: is no JSON: {error}") from error

    def _checked(self, kind: type[R], raw: Any, what: str) -> R:
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            message = f"{printable(self.path)}: {what} cannot be used: {printable(place)}: {first['msg']}"
            raise ConfigError(message) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_MOST_LINE):
        yield line


class Replay:
    """Gives the tracks of a sidecar where a detector and a tracker would.

    Args:
        sidecar: the file, or one that was read.
        source: the video.
        info: its stream.

    Raises:
        ConfigError: the file cannot be used, or is of another video.
    """

    def __init__(
        self, sidecar: Sidecar | str | os.PathLike[str], source: str | os.PathLike[str], info: StreamInfo
    ) -> None:
        self.sidecar = sidecar if isinstance(sidecar, Sidecar) else Sidecar(sidecar)
        self.sidecar.check_source(source, info)
        for _ in self.sidecar.frames():  # a fault is told before the first frame is restored, not after an hour
            pass

    def tracked(self, frames: Iterable[Frame]) -> Generator[TrackedFrame, None, None]:
        """Every frame with its tracks.

        Raises:
            ConfigError: the frames are not those that the sidecar was written for.
        """
        path = printable(self.sidecar.path)
        records = self.sidecar.frames()
        record = next(records, None)
        for frame in frames:
            mine = None
            if record is not None and record.index == frame.index:
                mine, record = record, next(records, None)
                if mine.pts != frame.pts:
                    raise ConfigError(
                        f"{path}: is not of this video: frame {frame.index} has pts {mine.pts} there, {frame.pts} here"
                    )
            yield TrackedFrame(frame, tuple(self._tracks(mine, frame)))
        if record is not None:
            log.warning("%s: the video ends before frame %d of it", path, record.index)

    def _tracks(self, record: FrameRecord | None, frame: Frame) -> Iterator[Track]:
        by_hand = dict(self._by_hand(frame))
        for stored in record.tracks if record is not None else []:
            person = self.sidecar.people.get(stored.id)
            if stored.id in by_hand or (person is not None and not person.restore):
                continue
            track = _track(stored, frame, self.sidecar)
            if person is not None and person.strength != 1.0:
                track = replace(track, strength=track.strength * person.strength)
            yield track
        yield from by_hand.values()

    def _by_hand(self, frame: Frame) -> Iterator[tuple[int, Track]]:
        for face in self.sidecar.manual:
            box = _box_between(face.boxes, frame.index)
            if box is not None and face.strength > 0.0:
                points = points_in_box(box)
                yield face.id, Track(face.id, box, points, 1.0, face.strength, shot=frame.shot)


def _box_between(boxes: Mapping[int, Box], index: int) -> NDArray[np.float32] | None:
    """The box at a frame, on a straight way between those that are given; None before the first and after the last."""
    known = sorted(boxes)
    if not known[0] <= index <= known[-1]:
        return None
    values = np.array([boxes[i] for i in known], np.float64)
    return np.array([np.interp(index, known, values[:, k]) for k in range(4)], np.float32)


def _track(stored: TrackRecord, frame: Frame, sidecar: Sidecar) -> Track:
    """A track as it is written; where box or points were edited, what was not follows."""
    path = sidecar.path
    box = np.array(stored.box, np.float32)
    if not (box[2] > box[0] and box[3] > box[1]):
        raise ConfigError(f"{printable(path)}: frame {frame.index}: the box {stored.box} has no area")
    try:
        face = _unpacked(stored.face) if stored.face is not None else None
    except ValueError as error:
        raise ConfigError(f"{printable(path)}: frame {frame.index}, id {stored.id}: {error}") from error
    landmarks = None if stored.landmarks is None else np.array(stored.landmarks, np.float32)
    anchors = None if stored.anchors is None else np.array(stored.anchors, np.float32)
    mesh = face.mesh if face is not None else None
    if face is not None:
        landmarks, anchors, mesh = _followed(face, box, landmarks, anchors)
    if landmarks is None:
        landmarks = points_in_box(box)
    topology = None if stored.model in (None, "vr468") else sidecar.topologies.get(stored.model or "")
    where = f"{printable(path)}: frame {frame.index}, id {stored.id}"
    if topology is None and stored.model not in (None, "vr468"):
        raise ConfigError(f"{where}: the file lacks the triangles of its face model {stored.model!r}")
    if topology is not None and mesh is not None and len(mesh) < topology.num_vertices:
        raise ConfigError(f"{where}: {len(mesh)} vertices are no mesh of {stored.model!r}")
    return Track(
        id=stored.id,
        box=box,
        landmarks=landmarks,
        score=stored.score,
        strength=stored.strength,
        pose=None if stored.pose is None else Pose(*stored.pose),
        coefficients=face.coefficients if face is not None else None,
        missed=stored.missed,
        shot=frame.shot,
        anchors=anchors,
        mesh=mesh,
        topology=topology,
    )


def _followed(
    face: _Face,
    box: NDArray[np.float32],
    landmarks: NDArray[np.float32] | None,
    anchors: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Landmarks, anchors and mesh after an edit: what was changed stays as written, the rest moves along with it."""
    landmarks = face.landmarks if landmarks is None else landmarks
    is_moved = not np.array_equal(landmarks, face.landmarks)
    is_turned = anchors is not None and not np.array_equal(anchors, face.anchors)
    if is_turned and anchors is not None:
        way = estimate_similarity(face.anchors, anchors)
    elif is_moved:
        way = estimate_similarity(face.landmarks, landmarks)
        anchors = None if anchors is None else apply(way, anchors).astype(np.float32)
    elif not np.array_equal(box, face.box):
        corners = [b.reshape(2, 2) for b in (face.box, box)]
        way = estimate_similarity(*corners)
        turn = mean_scale(way)
        centres = [c.astype(np.float64).mean(0) for c in corners]
        way = np.column_stack([np.eye(2) * turn, centres[1] - turn * centres[0]])  # a box does not turn a face
        landmarks = apply(way, landmarks).astype(np.float32)
        anchors = None if anchors is None else apply(way, anchors).astype(np.float32)
    else:
        return landmarks, anchors, face.mesh
    mesh = face.mesh
    if mesh is not None:
        scale = mean_scale(way)
        mesh = np.column_stack([apply(way, mesh[:, :2]), scale * mesh[:, 2]]).astype(np.float32)
    return landmarks, anchors, mesh
