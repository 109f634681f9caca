"""Frames as ordinary pictures and back: for detectors, previews and programs that hold RGB arrays.

The restored face never takes this way: it is sampled from the planes and composited into them by the kernels.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.geometry import Affine, identity, scale_about_pixel_edges
from vidrestore.kernels.colour import is_hdr, rgb_from_planes, tone_map
from vidrestore.types import Frame, PixelFormat, StreamInfo

__all__ = ["RGB24", "display_picture", "frame_from_rgb", "info_of_frames", "rgb_from_frame", "small_rgb"]

RGB24 = PixelFormat("gbrp", "rgb", 8, full_range=True, matrix_tag=0, range_tag=2)
"""8-bit RGB in planes G, B, R."""


def display_picture(frame: Frame, info: StreamInfo, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Affine]:
    """An upright BGR copy of a frame with square pixels, in any size.

    Args:
        frame: the frame.
        info: its stream; rotation and aspect ratio are honoured.
        size: (height, width) of the copy.

    Returns:
        picture (height, width, 3) BGR, of 8-bit video within two levels of :func:`rgb_from_frame`, and
        picture_from_display (2, 3).
    """
    height, width = size
    turn = np.sign(np.round(info.display_from_frame[:, :2] * 1e6)).astype(int)
    is_sideways = turn[0, 0] == 0
    turned = (width, height) if is_sideways else (height, width)
    small = (
        _bgr_of_bytes(frame, turned) if frame.format.depth == 8 and not is_hdr(frame.format) else _bgr(frame, turned)
    )
    if is_sideways:
        small = small.transpose(1, 0, 2)
    flip_x = turn[0].sum() < 0
    flip_y = turn[1].sum() < 0
    picture = np.ascontiguousarray(small[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
    return picture, scale_about_pixel_edges(width / info.width, height / info.height)


def rgb_from_frame(frame: Frame) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of a frame in its own orientation, for showing; HDR comes out tone-mapped."""
    return np.ascontiguousarray(_bgr(frame, (frame.height, frame.width))[..., ::-1])


def small_rgb(frame: Frame, side_px: int) -> NDArray[np.uint8]:
    """(h, w, 3) RGB copy in the frame's own orientation, squeezed to at most ``side_px`` on each side."""
    size = min(frame.height, side_px), min(frame.width, side_px)
    return np.ascontiguousarray(_bgr(frame, size)[..., ::-1])


def frame_from_rgb(rgb: NDArray[np.uint8], index: int, *, shot: int = 0, rate: Fraction = Fraction(25)) -> Frame:
    """A frame of an RGB picture that a program holds, without loss.

    Args:
        rgb: (height, width, 3) uint8.
        index: its number, counted from 0.
        shot: raise it by one at a cut.
        rate: frames per second; pts is the index.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 picture, got {rgb.shape} {rgb.dtype}")
    planes = tuple(np.ascontiguousarray(rgb[..., channel]) for channel in (1, 2, 0))
    return Frame(index, index, 1 / rate, planes, RGB24, shot, 1)


def info_of_frames(frame: Frame) -> StreamInfo:
    """The description of a stream of upright frames with square pixels that are all like this one."""
    return StreamInfo(
        path="",
        frame_width=frame.width,
        frame_height=frame.height,
        width=frame.width,
        height=frame.height,
        display_from_frame=identity(),
        rotation=0,
        sample_aspect_ratio=Fraction(1),
        time_base=frame.time_base,
        average_rate=1 / frame.time_base,
        num_frames=None,
        duration_s=None,
        format=frame.format,
        codec="",
        bit_rate=None,
        has_audio=False,
    )


def _bgr(frame: Frame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) in the frame's orientation; each plane is resized before the colours are made."""
    height, width = size
    count = 1 if frame.format.colour == "gray" else 3
    small = [_resized(plane, height, width) for plane in frame.planes[:count]]
    matrix, offset = rgb_from_planes(frame.format)
    affine = np.column_stack([matrix, offset])
    rgb = cv2.transform(np.stack(small, -1).astype(np.float32), affine).reshape(height, width, 3)
    rgb = tone_map(np.clip(rgb, -1.0, 1.0).astype(np.float32), frame.format)
    bgr: NDArray[np.uint8] = np.rint((rgb[..., ::-1] + 1.0) * 127.5).astype(np.uint8)
    return bgr


def _bgr_of_bytes(frame: Frame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The same for 8 bits, where planes stay bytes between the two steps: within two levels of it, at an eighth of its
    cost."""
    height, width = size
    count = 1 if frame.format.colour == "gray" else 3
    small = [_resized_bytes(plane, height, width) for plane in frame.planes[:count]]
    matrix, offset = rgb_from_planes(frame.format)
    affine = np.column_stack([matrix * 127.5, (offset + 1.0) * 127.5])[::-1]
    bgr = cv2.transform(cv2.merge(small), np.ascontiguousarray(affine))
    return np.asarray(bgr, np.uint8).reshape(height, width, 3)


def _resized_bytes(plane: NDArray[np.uint8] | NDArray[np.uint16], height: int, width: int) -> NDArray[np.uint8]:
    whole = np.ascontiguousarray(plane, np.uint8)
    if plane.shape == (height, width):
        return whole
    shrinks = plane.shape[0] > height or plane.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(whole, (width, height), interpolation=method), np.uint8)


def _resized(plane: NDArray[np.uint8] | NDArray[np.uint16], height: int, width: int) -> NDArray[np.float32]:
    if plane.shape == (height, width):
        return plane.astype(np.float32)
    shrinks = plane.shape[0] > height or plane.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=method), np.float32)
