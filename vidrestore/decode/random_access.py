"""Single pictures out of a clip by their number, for previews and contact sheets: through decord, an extra.

decord gives upright 8-bit R'G'B' pictures and nothing else (no time stamps to rely on at a variable rate, no 10 bits),
so it shows; it never feeds a restoration. Files go through the checks of :mod:`vidrestore.decode.source` first, as
decord's own FFmpeg is an old one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import decord  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from numpy.typing import NDArray

from vidrestore.decode.source import open_container, video_stream
from vidrestore.errors import DecodeError, printable

__all__ = ["RandomAccess", "contact_sheet"]

_BATCH = 16  # pictures decoded at once: decord sorts a batch by key frame; 100 MB at 1080p


class RandomAccess:
    """A clip whose pictures are asked for by number: a context manager.

    Args:
        path: a local video file.
        threads: decoder threads, 0 lets FFmpeg choose.

    Raises:
        DecodeError: the file cannot be opened, or decord's FFmpeg lacks its codec (AV1 is one).
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        with open_container(path) as container:
            codec = video_stream(container, path).codec_context.name
        self._path = path
        try:
            self._reader = decord.VideoReader(str(Path(path).absolute()), ctx=decord.cpu(0), num_threads=threads)
            self.num_frames = len(self._reader)
        except (decord.DECORDError, RuntimeError) as error:
            message = f"{printable(path)}: decord cannot decode its {codec}; PyAV reads it, but not at random"
            raise DecodeError(message, path=path) from error

    def __enter__(self) -> RandomAccess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._reader = None

    def pictures(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) R'G'B' pictures, upright, in the order of ``indices``.

        Raises:
            IndexError: a number outside [0, num_frames).
            DecodeError: a picture cannot be decoded.
        """
        outside = [index for index in indices if not 0 <= index < self.num_frames]
        if outside:
            raise IndexError(f"pictures {outside[:4]} of {self.num_frames}")
        for begin in range(0, len(indices), _BATCH):
            part = list(indices[begin : begin + _BATCH])
            try:
                batch = self._reader.get_batch(part).asnumpy()
            except (decord.DECORDError, RuntimeError) as error:
                message = f"{printable(self._path)}: pictures {part[0]} to {part[-1]} cannot be decoded"
                raise DecodeError(message, path=self._path, frame_index=part[0]) from error
            yield from batch


def contact_sheet(
    path: str | os.PathLike[str], *, columns: int = 4, rows: int = 4, width_px: int = 320, gap_px: int = 4
) -> NDArray[np.uint8]:
    """One (H, W, 3) R'G'B' picture of many, evenly spread over a clip, row by row; short clips leave places empty.

    Raises:
        DecodeError: the clip cannot be read.
        ValueError: a count below 1.
    """
    if min(columns, rows, width_px) < 1:
        raise ValueError(f"a sheet has at least one place, got {columns} x {rows} of {width_px} px")
    with RandomAccess(path) as clip:
        count = min(columns * rows, clip.num_frames)
        indices = [clip.num_frames * (2 * i + 1) // (2 * count) for i in range(count)]
        small: list[NDArray[np.uint8]] = []
        for picture in clip.pictures(indices):
            height = max(1, round(picture.shape[0] * width_px / picture.shape[1]))
            resized = cv2.resize(picture, (width_px, height), interpolation=cv2.INTER_AREA)
            small.append(np.asarray(resized, dtype=np.uint8))
    height = small[0].shape[0]
    sheet = np.full((rows * (height + gap_px) + gap_px, columns * (width_px + gap_px) + gap_px, 3), 24, np.uint8)
    for i, picture in enumerate(small):
        top, left = gap_px + (i // columns) * (height + gap_px), gap_px + (i % columns) * (width_px + gap_px)
        sheet[top : top + height, left : left + width_px] = picture
    return sheet
