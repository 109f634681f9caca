"""Where each frame's picture is missing: a mask picture, a mask video, or the white of the frame itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.decode.reader import VideoReader
from vidrestore.errors import ConfigError, DecodeError, printable
from vidrestore.kernels.colour import legal_range
from vidrestore.picture import display_picture
from vidrestore.types import Frame, StreamInfo

__all__ = ["MaskPicture", "MaskSource", "MaskVideo", "WhiteMask", "open_mask"]

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_HALF = 127
_WHITE = 0.97  # of the range: white that went through a lossy encoder
_NEUTRAL = 0.03  # of the range, largest chroma of such a white
_SPECK_PX = 5  # white patches that are narrower are highlights, on eyes and teeth, not holes


class MaskSource(Protocol):
    """Tells the holes of frames, which come in order."""

    def hole(self, frame: Frame) -> NDArray[np.uint8]:
        """(height, width) of the frame, 255 where its picture is missing and 0 elsewhere."""
        ...

    def close(self) -> None:
        """Gives files back."""
        ...


def open_mask(path: str | os.PathLike[str], info: StreamInfo) -> MaskSource:
    """A mask file as a source; white (the lighter half of the range) is a hole.

    Args:
        path: a picture, which holds for every frame, or a video with a frame for each.
        info: of the video that it belongs to.

    Raises:
        DecodeError: it is missing or cannot be read.
        ConfigError: its size is not the video's.
    """
    is_picture = Path(path).suffix.lower() in _PICTURES
    return MaskPicture(path, info) if is_picture else MaskVideo(path, info)


class MaskPicture:
    """One mask for all frames, upright as the video is shown."""

    def __init__(self, path: str | os.PathLike[str], info: StreamInfo) -> None:
        if not Path(path).is_file():
            raise DecodeError(f"{printable(path)}: there is no such file", path=path)
        picture: object = cv2.imread(os.fspath(path), cv2.IMREAD_GRAYSCALE)
        if not isinstance(picture, np.ndarray):
            raise DecodeError(f"{printable(path)}: is no picture that can be read", path=path)
        _check_size(path, picture.shape, info)
        self._hole = _binary(_in_frame(np.asarray(picture, np.uint8), info))

    def hole(self, frame: Frame) -> NDArray[np.uint8]:
        """See :class:`MaskSource`."""
        return self._hole

    def close(self) -> None:
        """Nothing is open."""


class MaskVideo:
    """A mask for each frame; a video of one frame holds for all."""

    def __init__(self, path: str | os.PathLike[str], info: StreamInfo) -> None:
        self._path = path
        self._info = info
        self._reader = VideoReader(path)
        try:
            _check_size(path, (self._reader.info.height, self._reader.info.width), info)
        except BaseException:
            self._reader.close()
            raise
        self._frames: Iterator[Frame] = self._reader.decode()
        self._num_read = 0
        self._latest: NDArray[np.uint8] | None = None

    def hole(self, frame: Frame) -> NDArray[np.uint8]:
        """See :class:`MaskSource`.

        Raises:
            DecodeError: the mask ended before the video.
        """
        mask = next(self._frames, None)
        if mask is None:
            if self._latest is None or self._num_read > 1:
                raise DecodeError(
                    f"{printable(self._path)}: the mask has {self._num_read} frames, the video has more",
                    path=self._path,
                    frame_index=frame.index,
                )
            return self._latest
        self._num_read += 1
        picture, _ = display_picture(mask, self._reader.info, (self._info.height, self._info.width))
        self._latest = _binary(_in_frame(picture[..., 1], self._info))
        return self._latest

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()


class WhiteMask:
    """What is white in the frame is missing, as the published inpainting script has it; highlights are not meant."""

    def hole(self, frame: Frame) -> NDArray[np.uint8]:
        """See :class:`MaskSource`."""
        low, high = legal_range(frame.format, 0)
        threshold = low + _WHITE * (high - low)
        white = frame.planes[0] >= threshold
        if frame.format.colour == "rgb":
            white = white & (frame.planes[1] >= threshold) & (frame.planes[2] >= threshold)
        if frame.format.colour == "yuv":
            centre, most = 1 << (frame.format.depth - 1), _NEUTRAL * (1 << frame.format.depth)
            neutral = np.ones(frame.planes[1].shape, np.bool_)
            for plane in frame.planes[1:3]:
                neutral &= np.abs(plane.astype(np.float32) - centre) <= most
            sx, sy = frame.format.chroma_shift
            white = white & neutral.repeat(1 << sy, 0).repeat(1 << sx, 1)[: frame.height, : frame.width]
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SPECK_PX, _SPECK_PX))
        opened = cv2.morphologyEx(white.astype(np.uint8) * 255, cv2.MORPH_OPEN, kernel)
        return np.asarray(opened, np.uint8)

    def close(self) -> None:
        """Nothing is open."""


def _check_size(path: str | os.PathLike[str], shape: tuple[int, ...], info: StreamInfo) -> None:
    if tuple(shape) != (info.height, info.width):
        raise ConfigError(
            f"{printable(path)}: the mask has {shape[1]}x{shape[0]} pixels, the video is shown with "
            f"{info.width}x{info.height}; they must agree"
        )


def _in_frame(picture: NDArray[np.uint8], info: StreamInfo) -> NDArray[np.uint8]:
    """An upright picture with square pixels turned and stretched into the frame's own pixels."""
    if info.rotation == 0 and picture.shape == (info.frame_height, info.frame_width):
        return picture
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (info.frame_width, info.frame_height)
    return np.asarray(
        cv2.warpAffine(picture, info.display_from_frame, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _binary(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(picture > _HALF, np.uint8(255), np.uint8(0))
