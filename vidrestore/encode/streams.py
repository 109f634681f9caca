"""Everything of the source but its pictures: packets copied as they are, in step with the encoded video.

A stream that the target's container cannot hold is left out and named; nothing about it stops the run. Text
subtitles change their wrapping between MP4 (mov_text) and Matroska (SubRip), which keeps the words.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from vidrestore.encode.subtitles import Rewrap, rewrap_for

__all__ = ["DEMUXERS", "TAGS_AS_THEY_ARE", "StreamCopier"]

log = logging.getLogger(__name__)

DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,mxf,ogg,nut,wtv,gxf,dv,rm,"
    "h264,hevc,vvc,av1,obu,ivf,m4v,vc1,vc1test,h261,h263,mjpeg,yuv4mpegpipe,gif,apng,swf,roq,smk,bink,nsv,"
    "wav,mp3,flac,aac,ac3,eac3,aiff,amr,w64,caf"
)
"""Demuxers that a source may have: those of decode/source.py (a test holds them equal), no lists and no network."""

TAGS_AS_THEY_ARE: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)
"""For ``av.open``: tags of old files are in any encoding. PyAV 19 does so by itself and has no such argument."""

# Tags that describe the file they were read from; the muxer writes its own
_OWN_TAGS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id", "handler_name"}
)
# MPEG-TS takes any stream at its header and writes what nobody can read; these it really has
_TS_CODECS = frozenset(
    {"aac", "mp1", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus", "hdmv_pgs_subtitle", "dvb_subtitle"}
)
_MXF_RATE = 48000
_PICTURE_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails


class StreamCopier:
    """Reads a source a second time and hands its other streams to a muxer, never far ahead of the video."""

    def __init__(self, source: str | os.PathLike[str], output: OutputContainer, extension: str) -> None:
        """Adds the streams that can be copied to an output that has its video stream already.

        Args:
            source: a file that the reader has opened before.
            output: not yet started; stream 0 is the encoded video.
            extension: of the target's name, such as ``.mkv``.

        Raises:
            FFmpegError: the source cannot be opened any more.
        """
        self._output = output
        self._extension = extension
        self._copies: dict[int, Stream] = {}
        self._rewraps: dict[int, Rewrap] = {}
        self._last_dts: dict[int, int] = {}
        self._skipped: list[str] = []
        self._counts: Counter[str] = Counter()
        self._waiting: Packet[Any] | None = None
        self._path = source
        self._container = self._open()
        try:
            self._copy_tags()
            for stream in self._container.streams:
                self._add(stream)
        except BaseException:
            self.close()
            raise
        self._packets = self._demux()

    @property
    def skipped(self) -> tuple[str, ...]:
        """What could not be copied, one sentence each."""
        return tuple(self._skipped)

    @property
    def counts(self) -> dict[str, int]:
        """Copied streams by type."""
        return dict(self._counts)

    @property
    def field_order(self) -> int:
        """AVFieldOrder of the source's video, 0 where it does not say."""
        main: Any = self._main_video()
        return int(main.codec_context.field_order) if main is not None and main.codec_context is not None else 0

    def close(self) -> None:
        """Gives the source back."""
        self._container.close()

    def copy_until(self, time_s: Fraction | None) -> None:
        """Muxes every packet that is to be decoded before a time; None takes the rest."""
        while True:
            packet = self._waiting if self._waiting is not None else next(self._packets, None)
            self._waiting = None
            if packet is None:
                return
            if packet.pts is None and packet.dts is None and self._is_cover(packet):
                packet.pts = packet.dts = 0
            start = packet.dts if packet.dts is not None else packet.pts
            if start is None:
                self._drop(packet)
                continue
            if time_s is not None and start * Fraction(packet.time_base) > time_s:
                self._waiting = packet
                return
            self._mux(packet)

    def _open(self) -> InputContainer:
        container: InputContainer = av.open(
            f"file:{Path(self._path).absolute()}",
            mode="r",
            container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
            **TAGS_AS_THEY_ARE,
        )
        return container

    def _copy_tags(self) -> None:
        self._output.metadata.update(_without_own(self._container.metadata))
        self._output.set_chapters(self._container.chapters())
        main = self._main_video()
        video = self._output.streams[0]
        if main is not None:
            video.metadata.update(_without_own(main.metadata))
        timecode = next((s.metadata["timecode"] for s in self._container.streams if "timecode" in s.metadata), None)
        if timecode is not None:
            # the muxers of mov, mp4 and mxf make a timecode track of it
            video.metadata["timecode"] = timecode

    def _main_video(self) -> Stream | None:
        """The video stream that the reader decodes, by the same rule."""
        streams = [s for s in self._container.streams.video if not s.disposition & _COVER]
        best = self._container.streams.best("video")
        return next((s for s in streams if best is not None and s.index == best.index), streams[0] if streams else None)

    def _add(self, stream: Stream) -> None:
        main = self._main_video()
        if main is not None and stream.index == main.index:
            return
        if stream.type == "attachment":
            self._add_attachment(stream)
        elif stream.type == "video" and stream.disposition & _COVER:
            self._add_cover(stream)
        elif stream.type in ("audio", "subtitle"):
            self._add_packets_of(stream)
        elif "timecode" not in stream.metadata:
            what = "another picture stream" if stream.type == "video" else f"a stream of {stream.type}"
            self._skip(stream, f"{what} is not copied")

    def _add_packets_of(self, stream: Stream) -> None:
        rewrap = rewrap_for(stream, self._extension)
        try:
            if rewrap is not None:
                copy = rewrap.add_to(self._output)
                self._rewraps[stream.index] = rewrap
            else:
                self._try_out(stream)
                copy = self._output.add_stream_from_template(stream)
        except (ValueError, av.error.FFmpegError) as error:
            self._skip(stream, f"{self._extension} cannot hold {_codec(stream)} ({error})")
            return
        copy.metadata.update(_without_own(stream.metadata))
        copy.disposition = stream.disposition
        self._copies[stream.index] = copy
        self._counts[stream.type] += 1

    def _try_out(self, stream: Stream) -> None:
        """Writes the header of a file in memory with that stream alone: a muxer's refusal later would be too late.

        Raises:
            ValueError, FFmpegError: the container does not take the stream.
        """
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        muxer = self._output.format.name
        if muxer == "mpegts" and _codec(stream) not in _TS_CODECS:
            raise ValueError("not among the codecs of a transport stream")
        if muxer == "mxf":
            context: Any = stream.codec_context
            if not _codec(stream).startswith("pcm_s") or context.sample_rate != _MXF_RATE:
                raise ValueError("it takes PCM of 48 kHz")
            return
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()

    def _add_attachment(self, stream: Any) -> None:
        if self._output.format.name != "matroska":
            self._skip(stream, f"{self._extension} holds no attachments")
            return
        copy = self._output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        copy.metadata.update({k: v for k, v in stream.metadata.items() if k not in ("filename", "mimetype")})
        self._counts["attachment"] += 1

    def _add_cover(self, stream: Stream) -> None:
        muxer, codec = self._output.format.name, _codec(stream)
        if codec not in _PICTURE_TYPES or muxer not in ("matroska", "mp4", "mov"):
            self._skip(stream, f"{self._extension} holds no cover picture of {codec}")
        elif muxer == "matroska":
            name, mimetype = _PICTURE_TYPES[codec]
            name = stream.metadata.get("filename", name)
            self._output.add_attachment(name, mimetype, self._cover_bytes(stream.index))
            self._counts["attachment"] += 1
        else:
            copy = self._output.add_stream_from_template(stream)
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy
            self._counts["cover"] += 1

    def _cover_bytes(self, index: int) -> bytes:
        with self._open() as container:
            return next((bytes(p) for p in container.demux(container.streams[index]) if p.size), b"")

    def _skip(self, stream: Stream, reason: str) -> None:
        self._skipped.append(f"{stream.type} stream {stream.index} was left out: {reason}")

    def _demux(self) -> Iterator[Packet[Any]]:
        streams = [self._container.streams[index] for index in self._copies]
        if not streams:
            return
        try:
            for packet in self._container.demux(streams):
                if packet.size:
                    yield packet
        except av.error.FFmpegError as error:
            log.warning("copying ended where the source is damaged: %s", error.strerror)

    def _is_cover(self, packet: Packet[Any]) -> bool:
        return bool(packet.stream.type == "video")

    def _drop(self, packet: Packet[Any]) -> None:
        log.warning("a packet of stream %d has no time, it is left out", packet.stream_index)

    def _mux(self, packet: Packet[Any]) -> None:
        index = packet.stream_index
        rewrap = self._rewraps.get(index)
        made = packet if rewrap is None else rewrap.packet(packet)
        if made is None:
            return
        self._straighten(index, made)
        made.stream = self._copies[index]
        try:
            self._output.mux_one(made)
        except av.error.ArgumentError as error:
            log.warning("a packet of stream %d at %s was refused: %s", index, made.pts, error.strerror)

    def _straighten(self, index: int, packet: Packet[Any]) -> None:
        """Gives every packet the increasing decoding times that muxers insist on; sound ones are not changed."""
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.pts is None:
            packet.pts = packet.dts
        assert packet.dts is not None
        assert packet.pts is not None
        if self._output.format.name in ("matroska", "webm"):
            # No times before zero here, but for the run-in that the muxer writes as CodecDelay. What lies earlier is
            # not played either: it moves to the start instead of moving all other streams.
            first = -self._run_in(index, Fraction(packet.time_base))
            packet.dts, packet.pts = max(packet.dts, first), max(packet.pts, first)
        # matroska and mpegts allow equal times, the others do not
        step = 0 if self._output.format.name in ("matroska", "webm", "mpegts") else 1
        last = self._last_dts.get(index)
        if last is not None and packet.dts < last + step:
            packet.dts = last + step
            packet.pts = max(packet.pts, packet.dts)
        self._last_dts[index] = packet.dts

    def _run_in(self, index: int, time_base: Fraction) -> int:
        """Ticks of padding that an audio encoder put in front, as the source's headers tell it."""
        context: Any = self._container.streams[index].codec_context
        if context is None or context.type != "audio" or not context.sample_rate:
            return 0
        return math.ceil(Fraction(context.delay, context.sample_rate) / time_base)


def _codec(stream: Stream) -> str:
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else "an unknown codec"


def _without_own(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k.lower() not in _OWN_TAGS and not k.startswith(("DURATION", "_STATI"))}
