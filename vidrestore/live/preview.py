"""The pictures of the page: JPEGs of the restored frame and, for the wipe, of the very same frame as it came in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.config import LiveOptions
from vidrestore.errors import EncodeError
from vidrestore.live.engine import LiveFrame
from vidrestore.live.overlay import MeshOf, overlay_of
from vidrestore.live.sinks import Fitter
from vidrestore.picture import display_picture
from vidrestore.types import Frame, StreamInfo

__all__ = ["Picture", "PreviewSink", "jpeg_of", "png_of"]

_HDR_TRANSFERS = (16, 18)  # PQ and HLG: tone-mapped by our own conversion; all else by FFmpeg's faster one


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame as the page gets it."""

    sequence: int
    arrived_s: float
    meta: dict[str, Any]
    """Kind, size and overlay."""
    restored: bytes
    """JPEG."""
    original: bytes
    """JPEG of the same frame before restoration; empty where nobody asked for it."""


class PreviewSink:
    """Makes the page's pictures while somebody looks, once for all of them.

    Args:
        options: width and quality.
        on_picture: told, in the sink's thread, that :attr:`latest` is new.
        mesh_of: mesh points of a track, where a tracker gives coefficients.
    """

    def __init__(self, options: LiveOptions, on_picture: Callable[[], None], mesh_of: MeshOf | None = None) -> None:
        self.name = "browser"
        self._options, self._on_picture, self._mesh_of = options, on_picture, mesh_of
        self._lock = threading.Lock()
        self._num_viewers = self._num_of_originals = 0
        self._fitter: Fitter | None = None
        self.latest: Picture | None = None

    def watch(self, viewers: int, originals: int) -> None:
        """Adds to the number of viewers and of those who want the original too; negative numbers take away."""
        with self._lock:
            self._num_viewers += viewers
            self._num_of_originals += originals

    def write(self, frame: LiveFrame) -> None:
        """See :class:`vidrestore.live.sinks.Sink`."""
        if self._num_viewers <= 0:
            return
        info = frame.info
        scale = min(1.0, self._options.preview_width_px / info.width)
        size = max(2, round(info.height * scale)), max(2, round(info.width * scale))
        restored = self._jpeg(frame, size)
        original = b""
        if self._num_of_originals > 0:
            is_untouched = frame.frame is frame.source
            original = restored if is_untouched else self._jpeg(replace(frame, frame=frame.source), size)
        meta = {
            "kind": frame.kind,
            "width": info.width,
            "height": info.height,
            "rung": frame.rung,
            "tracks": overlay_of(frame.tracks, info, self._mesh_of),
        }
        self.latest = Picture(frame.sequence, frame.arrived_s, meta, restored, original)
        self._on_picture()

    def close(self) -> None:
        """See :class:`vidrestore.live.sinks.Sink`."""

    def _jpeg(self, frame: LiveFrame, size: tuple[int, int]) -> bytes:
        if frame.frame.format.transfer in _HDR_TRANSFERS:
            picture = display_picture(frame.frame, frame.info, size)[0]
        else:
            if self._fitter is None or (self._fitter.height, self._fitter.width) != size:
                self._fitter = Fitter("bgr24", size[1], size[0])
            picture = np.asarray(self._fitter.fit(frame).to_ndarray(), dtype=np.uint8)
        return jpeg_of(picture, self._options.preview_quality)


def jpeg_of(picture: NDArray[np.uint8], quality: int) -> bytes:
    """An (H, W, 3) BGR picture as a JPEG."""
    return _encoded(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def png_of(frame: Frame, info: StreamInfo) -> bytes:
    """A frame at its full size, upright, as a PNG."""
    return _encoded(".png", display_picture(frame, info, (info.height, info.width))[0], [])


def _encoded(extension: str, picture: NDArray[np.uint8], parameters: list[int]) -> bytes:
    is_good, data = cv2.imencode(extension, picture, parameters)
    if not is_good:
        raise EncodeError(f"OpenCV cannot write {extension} pictures of {picture.shape}")
    return bytes(data.tobytes())
