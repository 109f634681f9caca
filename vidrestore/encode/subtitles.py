"""Text subtitles between MP4's mov_text and Matroska's SubRip: the words stay, their wrapping changes.

A mov_text packet is a big-endian length of 16 bits, the text in UTF-8 and boxes of style (3GPP TS 26.245, 5.17); a
SubRip packet in Matroska is the text alone.
"""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from typing import Any, Protocol

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

__all__ = ["Rewrap", "rewrap_for"]

_MOV_EXTENSIONS = (".mp4", ".m4v", ".mov")
_TAG = re.compile(r"</?[a-z][^>]*>|\{\\[^}]*\}", re.IGNORECASE)
# The least ASS header that FFmpeg's mov_text encoder makes its sample description from
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class Rewrap(Protocol):
    """One way of carrying the same subtitles."""

    def add_to(self, output: OutputContainer) -> Stream:
        """Adds the stream to be written."""
        ...

    def packet(self, source: Packet[Any]) -> Packet[Any] | None:
        """The packet in its new wrapping; None where there is nothing to show."""
        ...


def rewrap_for(stream: Stream, extension: str) -> Rewrap | None:
    """How the subtitles of a stream are to be carried in a container, or None where they are copied (or refused)."""
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else ""
    if codec == "mov_text" and extension == ".mkv":
        return _ToSubRip()
    if codec in ("subrip", "text") and extension in _MOV_EXTENSIONS:
        return _ToMovText()
    return None


class _ToSubRip:
    def add_to(self, output: OutputContainer) -> Stream:
        return output.add_mux_stream("subrip", time_base=Fraction(1, 1000))

    def packet(self, source: Packet[Any]) -> Packet[Any] | None:
        payload = bytes(source)
        (length,) = struct.unpack_from(">H", payload) if len(payload) >= 2 else (0,)
        text = payload[2 : 2 + length]
        return _retimed(text, source) if text else None


class _ToMovText:
    def add_to(self, output: OutputContainer) -> Stream:
        stream: Any = output.add_stream("mov_text")
        stream.codec_context.subtitle_header = _ASS_HEADER
        stream.codec_context.time_base = Fraction(1, 1000)
        return stream  # type: ignore[no-any-return]

    def packet(self, source: Packet[Any]) -> Packet[Any] | None:
        text = _TAG.sub("", bytes(source).decode("utf-8", "replace")).encode()[:65535]
        return _retimed(struct.pack(">H", len(text)) + text, source)


def _retimed(payload: bytes, source: Packet[Any]) -> Packet[Any]:
    made: Packet[Any] = Packet(payload)
    made.pts, made.dts, made.duration = source.pts, source.dts, source.duration
    made.time_base = source.time_base
    made.is_keyframe = True
    return made
