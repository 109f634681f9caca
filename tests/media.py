"""Clips for the tests, made through PyAV alone: none of the code under test touches their pixels or times."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vidrestore.encode.scheduling import ordinary_scheduling

PCM_RATE = 48000


def picture(pix_fmt: str, width: int, height: int, *, seed: int = 0, is_noise: bool = False) -> av.VideoFrame:
    """A frame with reproducible samples in every plane: soft waves that move with the seed, or noise."""
    frame = av.VideoFrame(width, height, pix_fmt)
    rng = np.random.default_rng(seed)
    bits = {part.plane: part.bits for part in frame.format.components}
    for i, plane in enumerate(frame.planes):
        depth = bits[i]
        dtype = np.dtype(np.uint8 if depth <= 8 else np.uint16)
        rows = np.frombuffer(memoryview(plane), np.uint8).view(dtype).reshape(plane.height, -1)
        if is_noise:
            rows[:] = rng.integers(0, 1 << depth, rows.shape, dtype)
        else:
            y, x = np.mgrid[: plane.height, : rows.shape[1]]
            waves = np.sin(x / 7 + seed / 3 + i) + np.cos(y / 5 - seed / 4) * (1 if i == 0 else 0.3)
            rows[:] = np.clip((0.5 + 0.2 * waves) * ((1 << depth) - 1), 0, (1 << depth) - 1).astype(dtype)
    return frame


def samples(frame: av.VideoFrame) -> list[NDArray[Any]]:
    """Copies of the planes of a planar frame, cropped to the picture."""
    bits = {part.plane: part.bits for part in frame.format.components}
    planes = []
    for i, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), np.uint8).view(np.uint8 if bits[i] <= 8 else np.uint16)
        planes.append(rows.reshape(plane.height, -1)[:, : plane.width].copy())
    return planes


def write_clip(
    path: Path,
    frames: Sequence[av.VideoFrame],
    *,
    codec: str = "ffv1",
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction = Fraction(25),
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    format: str | None = None,
    clockwise: int = 0,
    is_mirrored: bool = False,
    sample_aspect_ratio: Fraction = Fraction(1),
    tags: tuple[int, int, int, int] | None = None,
    audio: Sequence[str] = (),
) -> Path:
    """Encodes frames, with as many seconds of tone beside them as there are pictures.

    Args:
        tags: AVColorSpace, AVColorRange, AVColorPrimaries, AVColorTransferCharacteristic.
        audio: encoder names, one stream each.
    """
    pts = range(len(frames)) if pts is None else pts
    if codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # it would write to the terminal
    with av.open(path, "w", format=format, container_options=dict(container_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        context.time_base = stream.time_base = time_base
        context.sample_aspect_ratio = sample_aspect_ratio
        if tags is not None:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
        if clockwise or is_mirrored:
            stream.set_display_rotation(-clockwise, hflip=is_mirrored)
        tones = [_add_tone(container, name) for name in audio]
        if codec == "libsvtav1":
            with ordinary_scheduling():
                container.start_encoding()
        for frame, time in zip(frames, pts, strict=True):
            frame.pts, frame.time_base = time, time_base
            if tags is not None:
                frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        seconds = float(pts[-1] * time_base) + float(1 / rate)
        for i, tone in enumerate(tones):
            _write_tone(container, tone, seconds, 440.0 * (i + 1))
    return path


def _add_tone(container: Any, codec: str) -> Any:
    stream = container.add_stream(codec, rate=PCM_RATE)
    stream.codec_context.layout = "mono"
    return stream


def _write_tone(container: Any, stream: Any, seconds: float, hertz: float) -> None:
    count = 960 if "opus" in stream.codec_context.name else 1024
    layout = stream.codec_context.format.name
    for start in range(0, int(seconds * PCM_RATE), count):
        wave = 0.4 * np.sin((start + np.arange(count)) * (2 * np.pi * hertz / PCM_RATE))
        values = wave if "flt" in layout else wave * 32767
        dtype = np.float32 if "flt" in layout else np.int16
        tone = av.AudioFrame.from_ndarray(values.astype(dtype)[None], format=layout, layout="mono")
        tone.sample_rate, tone.pts = PCM_RATE, start
        container.mux(stream.encode(tone))
    container.mux(stream.encode(None))


def movie(num_frames: int, width: int = 64, height: int = 48, pix_fmt: str = "yuv420p") -> list[av.VideoFrame]:
    """Frames of one moving picture."""
    return [picture(pix_fmt, width, height, seed=i) for i in range(num_frames)]


def packets(path: Path, kind: str, index: int = 0) -> list[tuple[bytes, Fraction | None]]:
    """(payload, presentation time in seconds) of every packet of a stream of a kind."""
    with av.open(path) as container:
        stream = [s for s in container.streams if s.type == kind][index]
        return [
            (bytes(p), None if p.pts is None else p.pts * Fraction(p.time_base))
            for p in container.demux(stream)
            if p.size
        ]
