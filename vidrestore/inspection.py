"""What is in a video, which faces are found in a sample of it, and what a run would do and take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vidrestore.config import RestoreConfig
from vidrestore.decode.reader import VideoReader
from vidrestore.decode.samples import sample_frames
from vidrestore.detect.detector import Detector
from vidrestore.device import describe_device
from vidrestore.pipeline import load_finder
from vidrestore.restoration.restorer import Restorer, choose_network, load_restorer
from vidrestore.types import StreamInfo

__all__ = ["ProbeReport", "probe"]

NUM_SAMPLES = 16
TIMED_FRAMES = 24
TIMED_FACES_CPU = 2


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What :func:`probe` found."""

    info: StreamInfo
    sampled_frames: int
    frames_with_faces: int
    most_faces: int
    """Most faces in one sampled frame."""
    face_width_px: tuple[float, float] | None
    """Narrowest and widest face box in display pixels; None where no face was found."""
    network: str
    network_size_px: int
    device: str
    decode_fps: float
    """Frames a second that the decoder gave here."""
    detect_ms: float
    """Per frame."""
    restore_ms: float
    """Per face, in a batch."""
    estimated_s: float | None
    """For the whole clip, without encoding and writing; None where its length is unknown."""

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each thing, for people."""
        info = self.info
        fmt = info.format
        rate = f"{float(info.average_rate):.3f} frames/s" if info.average_rate else "rate unknown"
        length = f"{info.duration_s:.2f} s" if info.duration_s else "length unknown"
        turned = f", turned by {info.rotation}°" if info.rotation else ""
        aspect = f", pixels {info.sample_aspect_ratio}:1" if info.sample_aspect_ratio != 1 else ""
        span = "none found"
        if self.face_width_px is not None:
            low, high = self.face_width_px
            span = f"in {self.frames_with_faces} of {self.sampled_frames} sampled frames, "
            span += f"up to {self.most_faces} at once, {low:.0f} to {high:.0f} px wide"
        estimate = "unknown" if self.estimated_s is None else f"about {_duration(self.estimated_s)}, and the encoder's"
        return [
            ("file", info.path),
            ("video", f"{info.codec}, {info.width}x{info.height}{turned}{aspect}, {rate}, {length}"),
            ("frames", "unknown" if info.num_frames is None else f"about {info.num_frames}"),
            ("format", f"{fmt.name}, {fmt.matrix if fmt.colour == 'yuv' else fmt.colour}, {_range(fmt.full_range)}"),
            ("audio", "copied" if info.has_audio else "none"),
            ("faces", span),
            ("would do", f"restore them with {self.network} at {self.network_size_px} px on {self.device}"),
            ("time", estimate),
        ]


def probe(path: str | os.PathLike[str], config: RestoreConfig | None = None) -> ProbeReport:
    """Looks at a video: a sample of its frames is searched for faces, and each stage is timed for a moment.

    Raises:
        DecodeError: the file is missing or no video.
        DeviceError: the configured device is not there.
    """
    config = config or RestoreConfig()
    with VideoReader(path, config.decode) as reader:
        info = reader.info
        begin = time.perf_counter()
        timed = sum(1 for _ in zip(range(TIMED_FRAMES), reader.decode(), strict=False))
        decode_fps = timed / max(time.perf_counter() - begin, 1e-6)
    detector = Detector(config.detect, info, load_finder(config))
    counts: list[int] = []
    widths: list[float] = []
    detect_s: list[float] = []
    seen: set[int] = set()  # a place leads to the key frame before it: far ones may lead to the same
    for frame in sample_frames(path, NUM_SAMPLES):
        if frame.pts in seen:
            continue
        seen.add(frame.pts)
        begin = time.perf_counter()
        found = detector.detect(frame)
        detect_s.append(time.perf_counter() - begin)
        counts.append(len(found))
        widths.extend(float(w) for w in found.boxes[:, 2] - found.boxes[:, 0])
    restorer = load_restorer(config.restore)
    # a CPU gains next to nothing from larger batches, and a person waits
    num_faces = min(config.restore.batch_size, TIMED_FACES_CPU) if restorer.device.type == "cpu" else None
    num_faces = num_faces or config.restore.batch_size
    restore_s = _median_s(_face_pass(restorer, num_faces), 3) / num_faces
    detect_ms = 1e3 * float(np.median(detect_s)) if detect_s else 0.0
    estimated = None
    if info.num_frames is not None and counts:
        per_frame = 1 / decode_fps + detect_ms / 1e3 / config.detect.every + restore_s * float(np.mean(counts))
        estimated = info.num_frames * per_frame
    return ProbeReport(
        info=info,
        sampled_frames=len(counts),
        frames_with_faces=sum(count > 0 for count in counts),
        most_faces=max(counts, default=0),
        face_width_px=(min(widths), max(widths)) if widths else None,
        network=choose_network(config.restore, restorer.device),
        network_size_px=restorer.size,
        device=describe_device(restorer.device),
        decode_fps=decode_fps,
        detect_ms=detect_ms,
        restore_ms=1e3 * restore_s,
        estimated_s=estimated,
    )


def _face_pass(restorer: Restorer, batch_size: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, restorer.size, restorer.size, generator=generator) * 2 - 1

    def run() -> object:
        with torch.inference_mode():
            return restorer.restore(images.to(restorer.device)).cpu()

    return run


def _median_s(run: Callable[[], object], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _range(is_full: bool) -> str:
    return "full range" if is_full else "limited range"
