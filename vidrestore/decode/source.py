"""Opening a file safely: local regular files only, known containers only, one real video stream.

Everything that can be wrong with an input is a :class:`DecodeError` of one line here. FFmpeg itself would open a text
file as a list of other files, follow a playlist to the network, or wait on a pipe; none of that is let through.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vidrestore.errors import DecodeError, printable

__all__ = ["CONTAINERS", "MAX_PIXELS", "MAX_SIDE", "open_container", "video_stream"]

# Demuxers that read one local file. Not in it: concat, hls, dash, sdp, image sequences, devices, and every text format.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,mxf,ogg,nut,wtv,gxf,dv,rm,"
    "h264,hevc,vvc,av1,obu,ivf,m4v,vc1,vc1test,h261,h263,mjpeg,yuv4mpegpipe,gif,apng,swf,roq,smk,bink,nsv,"
    "wav,mp3,flac,aac,ac3,eac3,aiff,amr,w64,caf"
)
MAX_SIDE = 16384
"""Pixels on a side: 16K; larger pictures are damage or an attack."""
MAX_PIXELS = 1 << 28
"""Pixels of a picture: 16384 squared; FFmpeg's decoders are told the same."""
# PyAV 19 does so by itself and has no such argument; tags of old files are in any encoding
_TAGS_AS_THEY_ARE: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)
_MAX_STREAMS = 128
"""A disc holds tens of streams; every stream costs a decoder while probing."""


def open_container(path: str | os.PathLike[str], hardware: HWAccel | None = None) -> InputContainer:
    """Opens a local media file for reading.

    Args:
        path: the file.
        hardware: the device that decodes, None for the CPU.

    Raises:
        DecodeError: it is missing, no regular file, unreadable, empty, or no container out of the list.
    """
    _check_file(path)
    try:
        container: InputContainer = av.open(
            f"file:{Path(path).absolute()}",
            mode="r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "format_whitelist": CONTAINERS,
                "protocol_whitelist": "file",
                "max_streams": str(_MAX_STREAMS),
            },
            hwaccel=hardware,
            **_TAGS_AS_THEY_ARE,
        )
        return container
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodeError(f"{printable(path)}: {_reason(path, error)}", path=path) from error


def _check_file(path: str | os.PathLike[str]) -> None:
    name = printable(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError(f"{name}: is a folder, expected a video file", path=path)
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(f"{name}: is no regular file; record a pipe or device to a file first", path=path)
        with open(path, "rb"):
            pass
    except ValueError as error:
        raise DecodeError(f"{name}: is no file name: {error}", path=path) from error
    except FileNotFoundError as error:
        raise DecodeError(f"{name}: no such file, check the path", path=path) from error
    except PermissionError as error:
        raise DecodeError(f"{name}: no permission to read it", path=path) from error
    except OSError as error:
        raise DecodeError(f"{name}: cannot be read ({error.strerror})", path=path) from error
    if status.st_size == 0:
        raise DecodeError(f"{name}: the file is empty, expected a video", path=path)


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"mdat", b"moov", b"wide"):
        return "its index is missing or damaged, as in an MP4 or MOV that was cut short; repair or record it again"
    detail = getattr(error, "strerror", None) or type(error).__name__
    return f"is not a video file of a known container ({detail}); mp4, mov, mkv, webm, avi, ts and mxf are among them"


def video_stream(container: InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    """The best video stream that is not a cover picture, with its decoder at hand.

    Raises:
        DecodeError: there is none, its decoder is missing, or its size is absurd.
    """
    name = printable(path)
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise DecodeError(f"{name}: no video stream in it (found: {found})", path=path)
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if stream.codec_context is None:
        raise DecodeError(f"{name}: this build of FFmpeg has no decoder for its video; convert it first", path=path)
    check_size(stream.codec_context.width, stream.codec_context.height, path)
    return stream


def check_size(width: int, height: int, path: str | os.PathLike[str]) -> None:
    """Refuses pictures that no camera makes.

    Raises:
        DecodeError: a side above ``MAX_SIDE`` or an area above ``MAX_PIXELS``.
    """
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise DecodeError(
            f"{printable(path)}: pictures of {width}x{height} pixels, at most {MAX_SIDE} a side", path=path
        )
