"""Wires the stages: decode -> detect and track -> restore and blend -> encode, each ahead of the next in its thread.

Queues are bounded, so memory does not grow with the length of the clip: at any time no more frames are held than
the queues, the tracker's look-ahead and one batch have room for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from vidrestore import __version__
from vidrestore.ahead import Ahead
from vidrestore.config import RestoreConfig
from vidrestore.decode.grey import clip_is_grey
from vidrestore.decode.reader import Loss, VideoReader
from vidrestore.detect.detector import Detector, FaceFinder
from vidrestore.detect.facexlib import FacexlibFinder
from vidrestore.detect.retinaface import MOBILENET, RESNET50, RetinaFace, RetinaFaceFinder
from vidrestore.detect.yunet import YuNet
from vidrestore.device import choose_device, describe_device
from vidrestore.encode.writer import VideoWriter, check_target
from vidrestore.engine import Engine, HostEngine
from vidrestore.errors import DecodeError, WeightsError
from vidrestore.kernels import warm_up
from vidrestore.restoration.grey import GreyRestorer
from vidrestore.restoration.restorer import Restorer, choose_network, load_restorer, weights_used
from vidrestore.restoration.sgpn_restorer import load_bfm2009, load_d3dfr
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import WeightStore, sha256_of
from vidrestore.sidecar import Replay, Sidecar, SidecarWriter, check_sidecar_target, sidecar_path
from vidrestore.tasks import Task
from vidrestore.threads import RunThreads
from vidrestore.track.bfm import BfmSource
from vidrestore.track.given import GivenBoxes
from vidrestore.track.rules import FaceRules
from vidrestore.track.tracker import make_tracker
from vidrestore.types import Frame, PixelFormat, StageTime, StreamInfo, Track, TrackedFrame

__all__ = [
    "Progress",
    "RestoreResult",
    "RestoredFrame",
    "RestoredVideo",
    "load_bfm",
    "load_finder",
    "restore",
    "restore_frames",
    "track_frames",
]

QUEUE_FRAMES = 4  # between two stages: enough to hide jitter, 12 MB each at 1080p
BATCH_FRAMES = 8  # at most so many frames wait for a batch of crops to fill


@dataclass(frozen=True, slots=True)
class RestoredFrame:
    """A frame with its faces restored."""

    frame: Frame
    """Outside the masks its samples are those of the input; without faces it is the input's frame itself."""
    tracks: tuple[Track, ...]
    """The faces in it."""
    num_restored: int
    """How many of them were restored; fewer than tracks where a result was not finite."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each written frame."""

    num_frames: int
    """Frames written so far."""
    expected_frames: int | None
    """Frames in all as the container tells, None if unknown."""
    num_faces: int
    """Faces restored so far, counted once a frame."""
    elapsed_s: float
    """Wall clock since the first frame was asked for."""


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a finished run did."""

    source: str
    output: str
    num_frames: int
    """Frames written."""
    num_faces: int
    """Faces restored, counted once a frame."""
    num_people: int
    """Track ids that were restored."""
    num_shots: int
    num_kept_faces: int
    """Faces left as they were because the network's result was not finite."""
    losses: tuple[Loss, ...]
    """What of the input could not be read; empty where nothing was lost."""
    skipped_streams: tuple[str, ...]
    """Streams of the input that the output's container cannot hold."""
    output_bytes: int
    output_codec: str
    output_pix_fmt: str
    elapsed_s: float
    stages: dict[str, StageTime]
    """Seconds per stage: decode, track (with detection), restore (with blending), encode."""
    device: str
    config: RestoreConfig
    version: str = __version__

    @property
    def is_whole(self) -> bool:
        """Nothing of the input was lost."""
        return not self.losses

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {
            "is_whole": self.is_whole,
            "frames_per_second": self.num_frames / self.elapsed_s if self.elapsed_s > 0 else None,
        }


def load_finder(config: RestoreConfig, weights_folder: Path | None = None) -> FaceFinder:
    """The face finder that the options name, on its device.

    Args:
        config: detector and score threshold; the network's device and precision hold for RetinaFace too.
        weights_folder: where converted weights are kept; None is the user's data folder.

    Raises:
        ConfigError: the detector is that of a package that is not installed.
        DeviceError: the device is not there.
        WeightsError: the weight file is missing or damaged.
    """
    name = config.detect.detector
    if name == "yunet":
        return YuNet(config.detect.score_threshold)
    if name == "facexlib":
        return FacexlibFinder(WeightStore(weights_folder).load("retinaface"), config.detect.score_threshold)
    device = choose_device(config.restore.device)
    with torch.device("meta"):
        network = RetinaFace(RESNET50 if name == "retinaface" else MOBILENET)
    load_published(network, WeightStore(weights_folder).load(name), source=f"{name}.safetensors")
    return RetinaFaceFinder(network, device=device, score_threshold=config.detect.score_threshold)


def load_bfm(config: RestoreConfig, weights_folder: Path | None = None) -> BfmSource | None:
    """The user's regressor and Basel model, where the options let them follow faces; else None.

    Args:
        config: its track part is used.
        weights_folder: where converted weights are kept; None is the user's data folder.

    Raises:
        WeightsError: one of the two files is missing, damaged, or of another model.
    """
    if config.track.model != "bfm" or config.track.method != "mesh":
        return None
    store = WeightStore(weights_folder)
    regressor, model = load_d3dfr(store), load_bfm2009(store)
    try:
        return BfmSource(regressor, model)
    except WeightsError as error:
        raise WeightsError(f"{store.path('bfm2009')}: {error}") from error


def track_frames(
    frames: Iterable[Frame],
    info: StreamInfo,
    config: RestoreConfig | None = None,
    *,
    finder: FaceFinder | None = None,
    given: GivenBoxes | None = None,
) -> Generator[TrackedFrame, None, None]:
    """Finds and follows faces without restoring them, in the caller's thread.

    Args:
        frames: in order, every index one above the last; ``Frame.shot`` rises at cuts.
        info: of the stream.
        config: defaults where None; its decode, detect and track parts and the device are used.
        finder: a face finder to use in place of the configured one.
        given: boxes by frame index that count as faces where the finder finds none.

    Yields:
        Every frame with the faces in it, in order, later by the tracker's look-ahead.
    """
    config = config or RestoreConfig()
    yield from _tracked(frames, info, config, finder or load_finder(config), given)


def restore_frames(
    frames: Iterable[Frame],
    info: StreamInfo,
    config: RestoreConfig | None = None,
    *,
    restorer: Restorer | None = None,
    finder: FaceFinder | None = None,
    task: Task | None = None,
) -> Generator[RestoredFrame, None, None]:
    """Restores the faces of frames that a program makes or reads itself, in the caller's thread.

    Args:
        frames: in order, every index one above the last; ``Frame.shot`` rises at cuts.
        info: of the stream; its size, rotation and aspect ratio are used.
        config: defaults where None.
        restorer: a network to use in place of the configured one.
        finder: a face finder to use in place of the configured one.
        task: what is done with the faces, where it is not restoring; one object for one call.

    Yields:
        Every frame, in order, later by the tracker's look-ahead.
    """
    config = config or RestoreConfig()
    task = task or Task()
    with closing(task):
        info = task.begin(info)
        is_grey = config.restore.grey == "yes" or (config.restore.grey == "auto" and info.format.colour == "gray")
        restorer = restorer or task.restorer(config) or load_restorer(config.restore)
        finder = finder or load_finder(config)
        engine = task.engine(config, info, GreyRestorer(restorer) if is_grey and task.may_grey else restorer)
        yield from _restored(_tracked(task.frames(frames), info, config, finder), engine)


class RestoredVideo:
    """A video file whose frames come out restored: a context manager to iterate over.

        with RestoredVideo("clip.mp4") as video:
            for restored in video:
                print(restored.frame.pts, len(restored.tracks))

    Args:
        path: the file.
        config: defaults where None.
        restorer: a network to use in place of the configured one.
        finder: a face finder to use in place of the configured one.
        task: what is done with the faces, where it is not restoring; one object for one video.
        check: called in the caller's thread before each frame and ten times a second of waiting; what it raises ends
            the iteration.
        tracks: a sidecar, or its file, whose tracks are taken in place of detecting and tracking anew.

    Raises:
        ConfigError: the sidecar cannot be used, or is of another video.
        DecodeError: the file is missing or is no video that can be read.
        DeviceError: the configured device is not there.
        WeightsError: a weight file is missing or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: RestoreConfig | None = None,
        *,
        restorer: Restorer | None = None,
        finder: FaceFinder | None = None,
        task: Task | None = None,
        check: Callable[[], None] | None = None,
        tracks: Sidecar | str | os.PathLike[str] | None = None,
    ) -> None:
        self._config = config = config or RestoreConfig()
        self._check = check
        self._reader = VideoReader(path, config.decode)
        self._task = task = task or Task()
        self._stages: list[Ahead[Any]] = []
        self._threads = RunThreads(config.restore.threads, config.detect.threads)
        try:
            self._threads.__enter__()
            self._replay = None if tracks is None else Replay(tracks, path, self._reader.info)
            self.info = task.begin(self._reader.info)
            self._restorer = restorer or task.restorer(config) or load_restorer(config.restore)
            self._finder = finder or (load_finder(config) if tracks is None else None)
            self._bfm = load_bfm(config) if tracks is None else None
            is_grey = task.may_grey and _is_grey(config.restore.grey, path, self.info)
            self._engine = task.engine(config, self.info, GreyRestorer(self._restorer) if is_grey else self._restorer)
        except BaseException:
            self._threads.close()
            task.close()
            self._reader.close()
            raise

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What could not be read so far; complete after the last frame."""
        return self._reader.losses

    @property
    def num_restored(self) -> int:
        """Faces restored so far, counted once a frame."""
        return self._engine.num_restored

    @property
    def num_kept(self) -> int:
        """Faces left as they were because the network's result was not finite."""
        return self._engine.num_kept

    @property
    def device(self) -> str:
        """Where the network runs."""
        return describe_device(self._restorer.device)

    @property
    def waited_s(self) -> float:
        """Seconds that the one who iterates has waited for frames."""
        return self._stages[-1].waited_s if self._stages else 0.0

    def __enter__(self) -> RestoredVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[RestoredFrame]:
        if self._stages:
            raise ValueError("a RestoredVideo can be iterated once; open the file again")
        decoded = Ahead(_closing(self._reader.decode()), QUEUE_FRAMES, "decode")
        self._stages.append(decoded)  # one by one, so that close() finds each thread that was started
        frames = self._task.frames(decoded)
        tracked = Ahead(self._tracked(frames), QUEUE_FRAMES, "track")
        self._stages.append(tracked)
        warmed = _warmed(_restored(tracked, self._engine), self._engine, self.info.format)
        restored = Ahead(warmed, QUEUE_FRAMES, "restore", self._check)
        self._stages.append(restored)
        yield from restored

    def _tracked(self, frames: Iterable[Frame]) -> Generator[TrackedFrame, None, None]:
        if self._replay is not None:
            return self._replay.tracked(frames)
        assert self._finder is not None
        return _tracked(frames, self.info, self._config, self._finder, bfm=self._bfm)

    def stage_times(self) -> dict[str, StageTime]:
        """Seconds of decode, track and restore so far."""
        upstream: list[Ahead[Any] | None] = [None, *self._stages[:-1]]
        return {s.name: s.stage_time(u) for s, u in zip(self._stages, upstream, strict=True)}

    def close(self) -> None:
        """Stops all threads, last stage first, and closes the file."""
        for stage in reversed(self._stages):
            stage.close()
        self._threads.close()
        self._task.close()
        self._reader.close()


def restore(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    restorer: Restorer | None = None,
    task: Task | None = None,
    check: Callable[[], None] | None = None,
    sidecar: bool = False,
    tracks: Sidecar | str | os.PathLike[str] | None = None,
) -> RestoreResult:
    """Restores the faces of a video file into another file; the main job.

    Everything but the faces stays: frames, time stamps, audio, subtitles, chapters, colour tags. The output appears
    under its name only when it is whole.

    Args:
        source: any video that FFmpeg's libraries read.
        output: its suffix chooses the container (.mp4, .mkv, .mov, ...).
        config: defaults where None; see :func:`vidrestore.config.load_config` for presets.
        overwrite: replace an output that exists.
        progress: called after each frame, in the caller's thread.
        restorer: a network to use in place of the configured one.
        task: what is done with the faces, where it is not restoring: ``tasks.Colorize``, ``tasks.Inpaint``; one object
            for one video.
        check: called in the caller's thread before each frame and ten times a second of waiting; what it raises ends
            the run, and nothing half-written stays.
        sidecar: write what was tracked, and with which settings, to ``OUTPUT.vidrestore.json``
            (:mod:`vidrestore.sidecar`).
        tracks: a sidecar, perhaps edited, or its file, whose tracks are taken in place of detecting and tracking anew.

    Raises:
        ConfigError: the sidecar in ``tracks`` cannot be used, or is of another video.
        DecodeError: the input is missing or is no video that can be read.
        EncodeError: the output exists, is the input, or cannot be written.
        DeviceError: the configured device is not there or out of memory.
        WeightsError: a weight file is missing or damaged.
    """
    config = config or RestoreConfig()
    check_target(output, config.encode, source=source, overwrite=overwrite)
    if sidecar:
        check_sidecar_target(sidecar_path(output), overwrite=overwrite)
    people: set[int] = set()
    num_frames, shot = 0, 0
    encode_s = 0.0
    begin = time.perf_counter()
    with (
        RestoredVideo(source, config, restorer=restorer, task=task, check=check, tracks=tracks) as video,
        VideoWriter(output, video.info, config.encode, source=source, overwrite=overwrite) as writer,
        _noting(source, output, video, config, overwrite=overwrite) if sidecar else nullcontext() as notes,
    ):
        for restored in video:
            write_begin = time.perf_counter()
            writer.write(restored.frame)
            if notes is not None:
                notes.add(restored.frame, restored.tracks)
            encode_s += time.perf_counter() - write_begin
            num_frames, shot = num_frames + 1, restored.frame.shot
            people.update(track.id for track in restored.tracks)
            if progress is not None:
                elapsed_s = time.perf_counter() - begin
                progress(Progress(num_frames, video.info.num_frames, video.num_restored, elapsed_s))
        if num_frames == 0:
            raise DecodeError(f"{video.info.path}: not a single frame could be decoded", path=source)
        write_begin = time.perf_counter()
        if notes is not None:
            notes.seal([asdict(loss) for loss in video.losses])
        written = writer.finish()
        if notes is not None:
            notes.publish()
        encode_s += time.perf_counter() - write_begin
        stages = video.stage_times() | {"encode": StageTime(encode_s, video.waited_s, 0.0)}
        return RestoreResult(
            source=os.fspath(source),
            output=os.fspath(output),
            num_frames=num_frames,
            num_faces=video.num_restored,
            num_people=len(people),
            num_shots=shot + 1 if num_frames else 0,
            num_kept_faces=video.num_kept,
            losses=video.losses,
            skipped_streams=written.skipped,
            output_bytes=written.num_bytes,
            output_codec=written.codec,
            output_pix_fmt=written.pix_fmt,
            elapsed_s=time.perf_counter() - begin,
            stages=stages,
            device=video.device,
            config=config,
        )


def _noting(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    video: RestoredVideo,
    config: RestoreConfig,
    *,
    overwrite: bool,
) -> SidecarWriter:
    """The sidecar of a run. It stands under its name only after the output does."""
    device = choose_device(config.restore.device)
    config = replace(config, restore=replace(config.restore, network=choose_network(config.restore, device)))
    weights = weights_used(config.restore)
    if config.track.model == "bfm" and config.track.method == "mesh":
        files = [WeightStore().path(name) for name in ("d3dfr", "bfm2009")]
        weights |= {file.name: sha256_of(file) for file in files if file.is_file()}
    return SidecarWriter(sidecar_path(output), source, video.info, config, weights, overwrite=overwrite)


def _is_grey(choice: str, path: str | os.PathLike[str], info: StreamInfo) -> bool:
    return choice == "yes" or (choice == "auto" and clip_is_grey(path, info))


def _closing(frames: Iterator[Frame]) -> Generator[Frame, None, None]:
    yield from frames


def _tracked(
    frames: Iterable[Frame],
    info: StreamInfo,
    config: RestoreConfig,
    finder: FaceFinder,
    given: GivenBoxes | None = None,
    bfm: BfmSource | None = None,
) -> Generator[TrackedFrame, None, None]:
    bfm = bfm or load_bfm(config)
    detector = Detector(config.detect, info, finder)
    device = choose_device(config.restore.device)
    tracker = make_tracker(config.track, info, every=config.detect.every, device=device, given=given, bfm=bfm)
    rules = FaceRules(config.track, info)
    for frame in frames:
        yield from map(rules.apply, tracker.update(frame, detector.detect))
    yield from map(rules.apply, tracker.flush())


def _restored(tracked: Iterable[TrackedFrame], engine: Engine) -> Generator[RestoredFrame, None, None]:
    for done in engine.run(_batches(tracked, engine)):
        yield RestoredFrame(done.frame, done.tracked.tracks, done.num_restored)


def _warmed(
    restored: Generator[RestoredFrame, None, None], engine: Engine, pixel_format: PixelFormat
) -> Generator[RestoredFrame, None, None]:
    """The same; the kernels are compiled or loaded while the first frames are decoded and looked at."""
    if isinstance(engine, HostEngine):
        warm_up(pixel_format)
    yield from restored


def _batches(tracked: Iterable[TrackedFrame], engine: Engine) -> Generator[list[TrackedFrame], None, None]:
    """Gathers frames until a batch of faces is full or enough frames wait.

    The bound is one of frames, not of time: what is restored together must not depend on how fast frames came, or two
    runs would differ in the last bit. The first batch is one frame, the next two, and so on: the first picture comes
    as early as it can.
    """
    waiting: list[TrackedFrame] = []
    num_faces, most_frames = 0, 1
    for item in tracked:
        waiting.append(item)
        num_faces += len(item.tracks)
        if num_faces >= engine.batch_size or len(waiting) >= most_frames or num_faces == 0:
            yield waiting
            waiting, num_faces = [], 0
            most_frames = min(2 * most_frames, BATCH_FRAMES)
    if waiting:
        yield waiting
