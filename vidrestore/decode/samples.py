"""A few frames spread over a file, found by seeking: for looking at a clip without decoding all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

import av.error
from av.video.reformatter import VideoReformatter

from vidrestore.decode.formats import native_layout, pixel_format, planes_of, repack
from vidrestore.decode.source import open_container, video_stream
from vidrestore.types import Frame

__all__ = ["sample_frames"]


def sample_frames(path: str | os.PathLike[str], count: int) -> Iterator[Frame]:
    """Up to ``count`` frames at even distances, each a shot of its own; places that cannot be decoded are left out.

    Args:
        path: a local video file.
        count: frames wanted.

    Raises:
        DecodeError: the file cannot be opened or holds no video.
    """
    container = open_container(path)
    with container:
        stream = video_stream(container, path)
        time_base = Fraction(stream.time_base or Fraction(1, 90000))
        start = stream.start_time or 0
        ticks = stream.duration or (
            int(Fraction(container.duration, av.time_base) / time_base) if container.duration else 0
        )
        reformatter = VideoReformatter()
        for index in range(count):
            target = start + ticks * (2 * index + 1) // (2 * count)
            try:
                container.seek(target, stream=stream, backward=True, any_frame=False)
                raw = next(container.decode(stream), None)
            except av.error.FFmpegError:
                continue
            if raw is None:
                continue
            layout = pixel_format(raw, stream.codec_context)
            native = native_layout(layout.name)
            assert native is not None
            carrier = repack(raw, reformatter)
            yield Frame(index, raw.pts or 0, time_base, planes_of(carrier, native), layout, shot=index, carrier=carrier)
