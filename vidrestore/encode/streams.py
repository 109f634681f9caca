"""Everything of the source but its pictures: packets copied as they are, in step with the encoded video."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

__all__ = ["StreamCopier"]

log = logging.getLogger(__name__)

_OWN_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id"})


class StreamCopier:
    """Reads a source a second time and hands its other streams to a muxer, never far ahead of the video."""

    def __init__(self, source: str | os.PathLike[str], output: OutputContainer, extension: str) -> None:
        """Adds the streams that can be copied to an output that has its video stream already."""
        self._output = output
        self._pairs: dict[int, Stream] = {}
        self._skipped: list[str] = []
        self._counts: dict[str, int] = {}
        self._container = av.open(
            f"file:{Path(source).absolute()}",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
        self._waiting: Packet[Any] | None = None
        try:
            self._add_streams()
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

    def close(self) -> None:
        """Gives the source back."""
        self._container.close()

    def _add_streams(self) -> None:
        self._output.metadata.update({k: v for k, v in self._container.metadata.items() if k not in _OWN_TAGS})
        self._output.set_chapters(self._container.chapters())
        for stream in self._container.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            try:
                copy = self._output.add_stream_from_template(stream)
            except (ValueError, av.error.FFmpegError) as error:
                self._skipped.append(f"{stream.type} stream {stream.index} was left out: {error}")
                continue
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._pairs[stream.index] = copy
            self._counts[stream.type] = self._counts.get(stream.type, 0) + 1

    def _demux(self) -> Iterator[Packet[Any]]:
        streams = [self._container.streams[index] for index in self._pairs]
        if not streams:
            return
        try:
            for packet in self._container.demux(streams):
                if packet.size:
                    yield packet
        except av.error.FFmpegError as error:
            log.warning("copying ended where the source is damaged: %s", error.strerror)

    def copy_until(self, time_s: Fraction | None) -> None:
        """Muxes every packet that is to be decoded before a time; None takes the rest."""
        while True:
            packet = self._waiting if self._waiting is not None else next(self._packets, None)
            self._waiting = None
            if packet is None:
                return
            if packet.dts is None:
                continue
            if time_s is not None and packet.dts * Fraction(packet.time_base) > time_s:
                self._waiting = packet
                return
            packet.stream = self._pairs[packet.stream_index]
            self._output.mux_one(packet)
