"""What can be done with the faces of a video beside restoring them: colours for grey ones, parts for holed ones.

A task is what differs between them: the network, what the frames are turned into before faces are looked for, and what
of the result is written. The pipeline does the rest in the same way for all.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.blend.chroma import ChromaCompositor
from vidrestore.blend.holes import HoleCompositor, close_holes
from vidrestore.config import RestoreConfig, RestoreOptions
from vidrestore.decode.masks import MaskSource, WhiteMask, open_mask
from vidrestore.device import choose_device, choose_precision
from vidrestore.engine import Engine, HostEngine, make_engine
from vidrestore.restoration.codeformer import COLORIZATION, INPAINTING, CodeFormer, Variant
from vidrestore.restoration.colorize import HOLD_FRAMES, ColorizationRestorer
from vidrestore.restoration.inpaint import InpaintingRestorer
from vidrestore.restoration.restorer import FaceRestorer, Restorer
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import WeightStore
from vidrestore.types import Frame, PixelFormat, StreamInfo

__all__ = ["Colorize", "Inpaint", "Task", "coloured_format", "with_chroma"]


class Task:
    """One run over one video; the base restores faces and changes nothing else.

    The order of calls: ``begin``, ``restorer``, ``engine``, ``frames``; ``close`` at the end.
    """

    may_grey = True
    """Faces of a black-and-white clip are to stay so."""

    def begin(self, info: StreamInfo) -> StreamInfo:
        """Takes the input's description and gives that of the frames that will come out of ``frames``."""
        return info

    def restorer(self, config: RestoreConfig) -> Restorer | None:
        """The network, or None where the configured one is meant."""
        return None

    def engine(self, config: RestoreConfig, info: StreamInfo, restorer: Restorer) -> Engine:
        """What takes tracked frames through the network and writes the result."""
        return make_engine(config, info, restorer)

    def frames(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """The frames as faces are to be looked for and cropped in them."""
        yield from frames

    def close(self) -> None:
        """Gives files back."""


class Colorize(Task):
    """Colours the faces of a grey, sepia or nearly grey video; the luma of every pixel stays.

    Args:
        restorer: a network in place of ``codeformer_colorization``.
        hold_frames: frames over which colours are averaged along a track.
        weights_folder: where converted weights are kept; None is the user's data folder.
    """

    may_grey = False

    def __init__(
        self, restorer: Restorer | None = None, *, hold_frames: int = HOLD_FRAMES, weights_folder: Path | None = None
    ) -> None:
        self._restorer = restorer
        self._hold_frames = hold_frames
        self._weights_folder = weights_folder
        self._format: PixelFormat | None = None

    def begin(self, info: StreamInfo) -> StreamInfo:
        """Grey formats become YUV, so that there is chroma to be written."""
        if info.format.colour != "gray":
            return info
        self._format = coloured_format(info.format, info.height)
        return replace(info, format=self._format)

    def restorer(self, config: RestoreConfig) -> Restorer:
        """The colour variant with its weights."""
        if self._restorer is not None:
            return self._restorer
        network, device, precision = _load(
            "codeformer_colorization", COLORIZATION, config.restore, self._weights_folder
        )
        return ColorizationRestorer(network, device, precision, hold_frames=self._hold_frames)

    def engine(self, config: RestoreConfig, info: StreamInfo, restorer: Restorer) -> Engine:
        """Writes chroma alone."""
        return HostEngine(FaceRestorer(config.restore, info, restorer), ChromaCompositor(config.blend))

    def frames(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """Grey frames with neutral chroma planes; all others as they are."""
        for frame in frames:
            yield frame if self._format is None else with_chroma(frame, self._format)


class Inpaint(Task):
    """Makes up the missing parts of faces: scratches, stains, logos; only what the mask covers within faces changes.

    Args:
        mask: a picture that holds for all frames, a video with a frame for each (white is a hole), or None: what is
            white in the video itself is missing.
        grow_px: holes are taken larger by so many pixels: damage rarely ends where it was drawn.
        restorer: a network in place of ``codeformer_inpainting``.
        weights_folder: where converted weights are kept; None is the user's data folder.
    """

    def __init__(
        self,
        mask: str | os.PathLike[str] | None,
        *,
        grow_px: int = 0,
        restorer: Restorer | None = None,
        weights_folder: Path | None = None,
    ) -> None:
        if not 0 <= grow_px <= 100:
            raise ValueError(f"grow_px must lie in 0..100, got {grow_px}")
        self._mask_path = mask
        self._grow_px = grow_px
        self._restorer = restorer
        self._weights_folder = weights_folder
        self._mask: MaskSource | None = None
        self._compositor: HoleCompositor | None = None

    def begin(self, info: StreamInfo) -> StreamInfo:
        """Opens the mask.

        Raises:
            DecodeError: it is missing or cannot be read.
            ConfigError: its size is not the video's.
        """
        self._mask = WhiteMask() if self._mask_path is None else open_mask(self._mask_path, info)
        return info

    def restorer(self, config: RestoreConfig) -> Restorer:
        """The inpainting variant with its weights."""
        if self._restorer is not None:
            return self._restorer
        network, device, precision = _load("codeformer_inpainting", INPAINTING, config.restore, self._weights_folder)
        return InpaintingRestorer(network, device, precision)

    def engine(self, config: RestoreConfig, info: StreamInfo, restorer: Restorer) -> Engine:
        """Writes under the holes alone."""
        self._compositor = HoleCompositor(config.blend)
        faces = FaceRestorer(config.restore, info, restorer, holes=self._compositor.hole)
        return HostEngine(faces, self._compositor)

    def frames(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """Frames with their holes closed, so that faces are found behind scratches."""
        assert self._mask is not None
        assert self._compositor is not None
        with closing(self._mask):
            for frame in frames:
                hole = _grown(self._mask.hole(frame), self._grow_px)
                closed = close_holes(frame, hole)
                if closed is not frame:
                    self._compositor.expect(frame, hole)
                yield closed

    def close(self) -> None:
        """Closes the mask."""
        if self._mask is not None:
            self._mask.close()


def coloured_format(grey: PixelFormat, height: int) -> PixelFormat:
    """The 4:2:0 format whose luma holds a grey format's samples as they are.

    The colour matrix is the usual one of the size, and named in the file: players would guess.
    """
    depth = grey.depth
    alpha = grey.has_alpha and depth in (8, 9, 10, 16)  # FFmpeg has no 12-bit one
    is_hd = height >= 720
    return replace(
        grey,
        name=f"yuv{'a' if alpha else ''}420p" + ("" if depth == 8 else f"{depth}le"),
        colour="yuv",
        chroma_shift=(1, 1),
        siting=(0.0, 0.5),
        has_alpha=alpha,
        matrix="bt709" if is_hd else "bt601",
        matrix_tag=1 if is_hd else 6,
    )


def with_chroma(frame: Frame, coloured: PixelFormat) -> Frame:
    """A grey frame's samples as luma of a YUV frame without colour."""
    luma = frame.planes[0]
    size = coloured.plane_size(1, frame.height, frame.width)
    neutral = np.full(size, 1 << (coloured.depth - 1), coloured.dtype)
    alpha = frame.planes[1:] if coloured.has_alpha else ()
    return replace(frame, planes=(luma, neutral, neutral, *alpha), format=coloured)


def _grown(hole: NDArray[np.uint8], grow_px: int) -> NDArray[np.uint8]:
    if grow_px == 0:
        return hole
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow_px + 1,) * 2)
    return np.asarray(cv2.dilate(hole, kernel), np.uint8)


def _load(
    name: str, variant: Variant, options: RestoreOptions, folder: Path | None
) -> tuple[CodeFormer, torch.device, torch.dtype]:
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    with torch.device("meta"):
        network = CodeFormer(variant.dims)
    load_published(network, WeightStore(folder).load(name), source=f"{name}.safetensors")
    return network, device, precision
