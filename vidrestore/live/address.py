"""What the user typed for a camera or a sink becomes a checked description; nothing is opened here."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from vidrestore.errors import ConfigError, printable

__all__ = ["STREAMS", "CameraAddress", "SinkAddress", "StreamRules", "parse_camera", "parse_sink", "without_secrets"]


@dataclass(frozen=True, slots=True)
class StreamRules:
    """What FFmpeg may use for addresses of one scheme."""

    demuxers: str
    """Allow-list of containers; no playlist and no list of other files is among them."""
    protocols: str
    """Allow-list of protocols that the address may lead to; never the file system."""


_BROADCAST = "mpegts,h264,hevc,mjpeg,mpjpeg,matroska,webm,nut,flv,live_flv,ogg,ivf,mov,mp4,m4a,3gp,3g2,mj2"
STREAMS: dict[str, StreamRules] = {
    "rtsp": StreamRules("rtsp,sdp,rtp,mpegts", "rtsp,rtp,srtp,tcp,udp"),
    "rtsps": StreamRules("rtsp,sdp,rtp,mpegts", "rtsp,rtp,srtp,tls,tcp,udp"),
    "rtmp": StreamRules("flv,live_flv", "rtmp,tcp"),
    "udp": StreamRules("mpegts,h264,hevc,nut", "udp"),
    "tcp": StreamRules("mpegts,h264,hevc,nut,matroska,webm,mjpeg", "tcp"),
    "http": StreamRules(_BROADCAST, "http,tcp"),
    "https": StreamRules(_BROADCAST, "https,http,tls,tcp"),
}
"""Scheme of a camera's address -> what it may use."""

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")
_RECORDINGS = (".mp4", ".mkv")


@dataclass(frozen=True, slots=True)
class CameraAddress:
    """Where pictures come from."""

    kind: Literal["file", "device", "stream"]
    name: str
    """What is opened."""
    shown: str
    """The same for people: printable and without a password."""


@dataclass(frozen=True, slots=True)
class SinkAddress:
    """Where pictures go."""

    kind: Literal["browser", "v4l2", "virtualcam", "pipe", "udp", "file"]
    name: str = ""
    """Device, address or path; for a pipe its container, ``nut`` or ``yuv4mpegpipe``."""

    @property
    def shown(self) -> str:
        """For people."""
        return printable(f"{self.kind}:{self.name}" if self.name else self.kind)


def parse_camera(text: str, *, platform: str = sys.platform) -> CameraAddress:
    """Reads ``--camera``: a number, a device, an address or a file.

    Args:
        text: ``0``, ``/dev/video0``, ``video=NAME`` (Windows), ``rtsp://...``, or a file's name.
        platform: as ``sys.platform`` says; decides what a number means.

    Raises:
        ConfigError: an unknown scheme, or nothing at all.
    """
    if not text.strip():
        raise ConfigError("--camera: expected a number, a device, an address or a file")
    if text.isdecimal():
        return CameraAddress("device", _numbered_device(text, platform), f"camera {text}")
    if text.startswith("/dev/") or (platform == "win32" and text.startswith("video=")):
        return CameraAddress("device", text, printable(text))
    scheme = _SCHEME.match(text)
    if scheme is None:
        return CameraAddress("file", text, printable(Path(text).name))
    if scheme[1].lower() not in STREAMS:
        known = ", ".join(f"{name}://" for name in STREAMS)
        raise ConfigError(f"--camera {without_secrets(text)}: unknown kind of address, known are {known}")
    return CameraAddress("stream", text, without_secrets(text))


def _numbered_device(number: str, platform: str) -> str:
    if platform.startswith("linux"):
        return f"/dev/video{int(number)}"
    if platform == "darwin":
        return number
    raise ConfigError(f"--camera {number}: cameras have names here; use --camera 'video=NAME OF THE CAMERA'")


def parse_sink(text: str) -> SinkAddress:
    """Reads ``--sink``.

    Args:
        text: ``browser``, ``v4l2:/dev/videoN``, ``virtualcam:``, ``pipe:`` (NUT), ``pipe:y4m``, ``udp://host:port``, or
            a file ending in .mp4 or .mkv.

    Raises:
        ConfigError: none of these.
    """
    if text == "browser":
        return SinkAddress("browser")
    if text in ("virtualcam", "virtualcam:"):
        return SinkAddress("virtualcam")
    if text.startswith("v4l2:"):
        if not re.fullmatch(r"/dev/[\w.-]+", text[5:]):
            raise ConfigError(f"--sink {printable(text)}: expected v4l2:/dev/videoN")
        return SinkAddress("v4l2", text[5:])
    if text in ("pipe:", "pipe:nut", "-"):
        return SinkAddress("pipe", "nut")
    if text == "pipe:y4m":
        return SinkAddress("pipe", "yuv4mpegpipe")
    if text.startswith("udp://"):
        parts = urlsplit(text)
        try:
            is_whole = bool(parts.hostname) and parts.port is not None
        except ValueError:
            is_whole = False
        if not is_whole or parts.path not in ("", "/") or parts.query:
            raise ConfigError(f"--sink {printable(text)}: expected udp://HOST:PORT")
        return SinkAddress("udp", f"udp://{parts.netloc}")
    if _SCHEME.match(text) is None and Path(text).suffix.lower() in _RECORDINGS:
        return SinkAddress("file", text)
    raise ConfigError(
        f"--sink {printable(text)}: expected browser, v4l2:/dev/videoN, virtualcam, pipe:, pipe:y4m, udp://HOST:PORT, "
        "or a file ending in .mkv or .mp4"
    )


def without_secrets(address: str) -> str:
    """An address that may be shown: user name, password and query are left out."""
    scheme = _SCHEME.match(address)
    if scheme is None:
        return printable(address)
    rest = address[scheme.end() :]
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2].partition("?")[0]
    return printable(f"{scheme[1]}://{host}{slash}{path.partition('?')[0]}")
