"""How fast this machine is, in a minute: the network at several batch sizes, the kernels, and a clip of the user's.

Each part is warmed up, then repeated until its share of the time is spent, and the median is told. Pictures are fresh
noise, never zeros, which some processors multiply faster.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.blend.mask import face_mask
from vidrestore.config import RestoreConfig
from vidrestore.device import describe_device
from vidrestore.kernels import composite, sample_crops
from vidrestore.pipeline import restore
from vidrestore.restoration.restorer import Restorer, choose_network, load_restorer
from vidrestore.types import PixelFormat, StageTime

__all__ = ["BenchReport", "ClipSpeed", "KernelSpeed", "NetworkSpeed", "bench"]

PART_S = 2.0
"""Seconds for each line of the table, and at least three repetitions."""

BATCHES = (1, 2, 4, 8, 16)
_FORMAT = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5))
FRAMES = ((720, 1280), (1080, 1920), (2160, 3840))
"""(height, width) of the frames that the kernels are timed on."""
_FACE_SHARE = 0.26  # of the picture's height: 280 px at 1080p, a presenter
_CROP_PER_FACE = 512 / 280  # the FFHQ template shows a face of about 280 px in 512


@dataclass(frozen=True, slots=True)
class NetworkSpeed:
    """One batch size."""

    batch: int
    ms_per_face: float
    faces_per_second: float


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """Cutting one face out of a frame and putting it back, on the CPU."""

    height: int
    width: int
    face_px: int
    sample_ms: float
    composite_ms: float


@dataclass(frozen=True, slots=True)
class ClipSpeed:
    """A whole clip, file to file."""

    num_frames: int
    num_faces: int
    elapsed_s: float
    frames_per_second: float
    stages: dict[str, StageTime]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured."""

    device: str
    cores: int
    load_average: float | None
    """Of the last minute, before; well above 0 means that something else was running."""
    network: str
    size_px: int
    precision: str
    networks: tuple[NetworkSpeed, ...]
    kernels: tuple[KernelSpeed, ...]
    clip: ClipSpeed | None


def bench(
    config: RestoreConfig,
    clip: Path | None = None,
    *,
    restorer: Restorer | None = None,
    part_s: float = PART_S,
    check: Callable[[], None] | None = None,
) -> BenchReport:
    """Measures.

    Args:
        config: names network, device and precision, and the settings for the clip.
        clip: a video to run as a whole; its result is thrown away.
        restorer: a network in place of the configured one.
        part_s: seconds for each line.
        check: called between the lines; what it raises ends it.

    Raises:
        DecodeError: the clip cannot be read.
        DeviceError: the device is not there.
        WeightsError: a weight file is missing.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    check = check or (lambda: None)
    restorer = restorer or load_restorer(config.restore)
    networks = []
    for batch in BATCHES:
        if batch > max(1, config.restore.batch_size):
            break
        check()
        networks.append(_network_speed(restorer, batch, part_s))
    kernels = []
    for height, width in FRAMES:
        check()
        kernels.append(_kernel_speed(restorer.size, height, width, part_s))
    check()
    return BenchReport(
        device=describe_device(restorer.device),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load_average=load,
        network=choose_network(config.restore, restorer.device),
        size_px=restorer.size,
        precision=config.restore.precision,
        networks=tuple(networks),
        kernels=tuple(kernels),
        clip=_clip_speed(clip, config, restorer, check) if clip is not None else None,
    )


def median_ms(run: Callable[[], object], part_s: float) -> float:
    """Median of at least three runs after one that warms up, within about ``part_s``."""
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < part_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _network_speed(restorer: Restorer, batch: int, part_s: float) -> NetworkSpeed:
    generator = torch.Generator().manual_seed(batch)
    images = torch.rand(batch, 3, restorer.size, restorer.size, generator=generator) * 2 - 1
    there = images.to(restorer.device)

    def run() -> None:
        with torch.inference_mode():
            restorer.restore(there)
        if restorer.device.type == "cuda":
            torch.cuda.synchronize(restorer.device)
        elif restorer.device.type == "mps":
            torch.mps.synchronize()

    per_face = median_ms(run, part_s) / batch
    return NetworkSpeed(batch, round(per_face, 3), round(1e3 / per_face, 2))


def _kernel_speed(size: int, height: int, width: int, part_s: float) -> KernelSpeed:
    rng = np.random.default_rng(0)
    shapes = [_FORMAT.plane_size(p, height, width) for p in range(3)]
    planes = tuple(rng.integers(40, 200, shape).astype(np.uint8) for shape in shapes)
    face_px = round(_FACE_SHARE * height)
    maps = _crop_of(face_px, size, height, width)[None]
    deltas = rng.normal(0, 0.1, (1, 3, size, size)).astype(np.float32)
    mask = face_mask(size, 0.12)[None]
    return KernelSpeed(
        height,
        width,
        face_px,
        sample_ms=round(median_ms(lambda: sample_crops(planes, _FORMAT, maps, size), part_s / 2), 3),
        composite_ms=round(median_ms(lambda: composite(planes, _FORMAT, deltas, mask, maps, [1.0]), part_s / 2), 3),
    )


def _crop_of(face_px: int, size: int, height: int, width: int) -> NDArray[np.float64]:
    """crop_from_frame of a face that leans by 5 degrees in the middle of a frame."""
    scale, angle = size / (face_px * _CROP_PER_FACE), np.deg2rad(5.0)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([(size - 1) / 2] * 2) - linear @ np.array([width / 2, height / 2])
    crop_from_frame: NDArray[np.float64] = np.column_stack([linear, shift])
    return crop_from_frame


def _clip_speed(clip: Path, config: RestoreConfig, restorer: Restorer, check: Callable[[], None]) -> ClipSpeed:
    with tempfile.TemporaryDirectory() as folder:
        extension = {"ffv1": ".mkv", "prores": ".mov", "dnxhr": ".mov"}.get(config.encode.codec, ".mp4")
        result = restore(clip, Path(folder) / f"out{extension}", config, restorer=restorer, check=check)
    return ClipSpeed(
        result.num_frames,
        result.num_faces,
        round(result.elapsed_s, 3),
        round(result.num_frames / result.elapsed_s, 2),
        result.stages,
    )
