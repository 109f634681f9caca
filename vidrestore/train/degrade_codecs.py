"""Compression of batches, on any device: JPEG, and an approximation of video codecs.

JPEG is the real thing up to rounding: colour conversion, 4:2:0 chroma, 8 x 8 cosine transform, the standard's tables at
libjpeg's scale, triangle upsampling. Only entropy coding is missing, which loses nothing.

The video codec is **an approximation**, not a codec: what a hybrid codec does to a picture (prediction from the decoded
frame before it, transform, quantisation with a dead zone, reconstruction, and H.264's deblocking) without its choices
(intra prediction, motion search, partitions, rate control). Motion is told by the caller. How near it comes to x264 and
to the MPEG encoders stands in ``docs/training.md``.

Source:
    ITU-T T.81 annex K (tables), ITU-T H.264 8.5 and 8.7 (steps, deblocking), ISO 13818-2 7.4 and ISO 14496-2 7.4.4
    (reconstruction), x264's adaptive quantisation. Pictures are (N, 3, M, M) RGB in [0, 1] on the canvases of
    :mod:`vidrestore.train.degrade_canvas`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.train.degrade import Codec, mpeg_quantiser
from vidrestore.train.degrade_canvas import filled, shifted

__all__ = ["approximate_video", "compress_jpeg_batch", "jpeg_tables"]

_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA_TABLE = np.full((8, 8), 99)
_CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_MPEG_INTRA = np.array(  # ISO 13818-2, 6.3.11: the default intra matrix
    [
        [8, 16, 19, 22, 26, 27, 29, 34],
        [16, 16, 22, 24, 27, 29, 34, 37],
        [19, 22, 26, 27, 29, 34, 34, 38],
        [22, 22, 26, 27, 29, 34, 37, 40],
        [22, 26, 27, 29, 32, 35, 40, 48],
        [26, 27, 29, 32, 35, 40, 48, 58],
        [26, 27, 29, 34, 38, 46, 56, 69],
        [27, 29, 35, 38, 46, 56, 69, 83],
    ]
)
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # Rec. 601
_FULL_RANGE = torch.stack(  # JFIF: YCbCr_from_RGB
    [_LUMA, (torch.tensor([0.0, 0, 1]) - _LUMA) / (2 * (1 - 0.114)), (torch.tensor([1.0, 0, 0]) - _LUMA) / (2 * 0.701)]
)
_LIMITED = torch.stack([219 / 255 * _FULL_RANGE[0], 224 / 255 * _FULL_RANGE[1], 224 / 255 * _FULL_RANGE[2]])


def _cosine_matrix(count: int = 8) -> Tensor:
    """Orthonormal: coefficients = D @ block @ D.T."""
    k, i = torch.arange(count, dtype=torch.float64)[:, None], torch.arange(count, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (2 * i + 1) * k / (2 * count)) * math.sqrt(2 / count)
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()


_COSINES = _cosine_matrix()


def jpeg_tables(quality: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """libjpeg's (8, 8) quantisation tables of luma and chroma at a quality of 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (np.clip((table * scale + 50) // 100, 1, 255) for table in (_LUMA_TABLE, _CHROMA_TABLE))
    return luma, chroma


def compress_jpeg_batch(pictures: Tensor, sizes: Tensor, qualities: Sequence[int]) -> Tensor:
    """The pictures after JPEG with 4:2:0 chroma, as :func:`vidrestore.train.degrade.compress_jpeg` has them.

    Args:
        pictures: (N, 3, M, M) RGB in [0, 1].
        sizes: (N,) int64.
        qualities: N whole numbers of 1 to 100.
    """
    levels = filled(pictures, sizes).clamp(0.0, 1.0).mul(255.0).round()
    ycc = _mixed(_FULL_RANGE, levels)
    luma, chroma = ycc[:, :1].round(), (ycc[:, 1:] + 128.0).round()
    bias = torch.tensor([0.25, 0.5], device=chroma.device).repeat(chroma.shape[-1] // 4)  # libjpeg's, by column
    chroma = (functional.avg_pool2d(chroma, 2) + bias).floor()
    tables = torch.from_numpy(np.stack([jpeg_tables(quality) for quality in qualities])).to(levels)  # (N, 2, 8, 8)
    planes = []
    for plane, table in ((luma, tables[:, 0]), (chroma, tables[:, 1])):
        steps = table[:, None, None, :, None, :]
        coefficients = _to_blocks(plane - 128.0)
        plane = _from_blocks((coefficients / steps).round() * steps) + 128.0
        planes.append(plane.round().clamp(0.0, 255.0))
    fine = _doubled(planes[1], sizes) - 128.0
    rgb = _mixed(torch.linalg.inv(_FULL_RANGE), torch.cat([planes[0], fine], 1))
    return rgb.round().clamp(0.0, 255.0) / 255.0


def _mixed(matrix: Tensor, pictures: Tensor) -> Tensor:
    """Another colour space: (N, 3, M, M)."""
    return functional.conv2d(pictures, matrix.to(pictures)[..., None, None])


def _doubled(chroma: Tensor, sizes: Tensor) -> Tensor:
    """Chroma of 4:2:0 on the grid of the luma, by a triangle."""
    return functional.interpolate(filled(chroma, (sizes + 1) // 2), scale_factor=2, mode="bilinear")


def _to_blocks(planes: Tensor) -> Tensor:
    """(N, C, M / 8, 8, M / 8, 8) coefficients: of block (2nd, 4th) the vertical (3rd) and horizontal (5th) ones."""
    count, channels, side, _ = planes.shape
    cosines = _COSINES.to(planes)
    tall = torch.matmul(cosines, planes.reshape(-1, 8, side))
    wide = torch.matmul(tall.reshape(-1, 8), cosines.T)
    return wide.reshape(count, channels, side // 8, 8, side // 8, 8)


def _from_blocks(coefficients: Tensor) -> Tensor:
    count, channels, rows = coefficients.shape[:3]
    cosines = _COSINES.to(coefficients)
    wide = torch.matmul(coefficients.reshape(-1, 8), cosines)
    tall = torch.matmul(cosines.T, wide.reshape(-1, 8, 8 * rows))
    return tall.reshape(count, channels, 8 * rows, 8 * rows)


# --- video -----------------------------------------------------------------------------------------------------------

_IP_STEPS = 6 * math.log2(1.4)  # x264's ipratio: key frames are that much finer
_AQ_STRENGTH, _AQ_ENERGY = 1.0397, 14.427  # x264's aq-mode 1: strength, and log2 of a block's energy without a change
_DEAD_ZONES = {"h264": (1 / 3, 1 / 6), "mpeg4": (0.0, -1 / 4), "mpeg2": (3 / 8, 0.0)}
"""What the encoders (x264, FFmpeg's) add to a level of an intra and of an inter block before they round it down."""


def approximate_video(
    clips: Tensor, sizes: Tensor, codecs: Sequence[Codec], crfs: Sequence[int], motion: Tensor
) -> Tensor:
    """Clips after an approximated video codec with 4:2:0 chroma; the first frame is a key frame.

    Args:
        clips: (N, T, 3, M, M) RGB in [0, 1].
        sizes: (N,) int64.
        codecs: N of h264, mpeg4, mpeg2.
        crfs: N rate factors, as of :func:`vidrestore.train.degrade.compress_video`.
        motion: (N, T, 2) x and y in pixels from the frame before to each frame, which a codec would search for.

    Returns:
        (N, T, 3, M, M) RGB in [0, 1].
    """
    is_h264 = torch.tensor([codec == "h264" for codec in codecs], device=clips.device)[:, None, None, None]
    plane_sizes = (sizes, (sizes + 1) // 2)
    decoded: list[Tensor] = []
    shown = []
    for t in range(clips.shape[1]):
        yuv = _mixed(_LIMITED, filled(clips[:, t], sizes).clamp(0.0, 1.0) * 255.0)
        planes = ((yuv[:, :1] + 16.0).round(), (functional.avg_pool2d(yuv[:, 1:], 2) + 128.0).round())
        if t == 0:
            guesses = [torch.full_like(plane, 128.0) for plane in planes]
        else:
            move = (motion[:, t] * 4.0).round() / 4.0  # quarter pixels, as H.264
            halves = zip(decoded, plane_sizes, (1, 2), strict=True)
            guesses = [shifted(plane, size, move / over) for plane, size, over in halves]
        gain = torch.where(is_h264, _adaptive_gain(planes), 1.0)  # (N, 1, M / 16, M / 16), of macroblocks
        is_intra = torch.ones_like(gain, dtype=torch.bool) if t == 0 else _is_intra(planes[0], guesses[0])
        coded = []
        for i, (plane, guess) in enumerate(zip(planes, guesses, strict=True)):
            guess = torch.where(_spread(is_intra, 16 >> i), 128.0, guess)
            tables = _tables(codecs, crfs, clips, is_key=t == 0, is_chroma=i == 1)  # (N, 2, 3, 8, 8)
            intra, inter = (kind[:, :, None, :, None, :] for kind in tables.unbind(1))
            chosen = torch.where(_blocks_of(is_intra, 2 >> i), intra, inter)
            coefficients = _requantised(_to_blocks(plane - guess), chosen, _blocks_of(gain, 2 >> i))
            coded.append((guess + _from_blocks(coefficients)).round().clamp(0.0, 255.0))
        smooth = _deblocked(coded[0], _qp(crfs, clips, is_key=t == 0), is_key=t == 0)
        coded[0] = torch.where(is_h264, smooth, coded[0])
        decoded = [filled(plane, size) for plane, size in zip(coded, plane_sizes, strict=True)]
        fine = _doubled(decoded[1], sizes) - 128.0
        shown.append(_mixed(torch.linalg.inv(_LIMITED), torch.cat([decoded[0] - 16.0, fine], 1)) / 255.0)
    return torch.stack(shown, 1).clamp(0.0, 1.0)


def _blocks_of(grid: Tensor, repeats: int) -> Tensor:
    """(N, 1, H, 1, W, 1) for coefficients, of (N, 1, ...) values of macroblocks."""
    return _spread(grid, repeats)[:, :, :, None, :, None]


def _spread(grid: Tensor, repeats: int) -> Tensor:
    return grid.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3)


def _requantised(coefficients: Tensor, tables: Tensor, gain: Tensor) -> Tensor:
    """Coefficients rounded to levels and put back.

    Args:
        coefficients: (N, C, H, 8, W, 8).
        tables: (N, 3, H, 8, W, 8): step; what is added to a level before it is rounded down, 0.5 being plain rounding
            and less a dead zone; where in its interval a level other than 0 is put back, in steps.
        gain: (N, 1, H, 1, W, 1) of the step.
    """
    step = tables[:, :1] * gain
    levels = (coefficients.abs() / step + tables[:, 1:2]).floor().clamp_min(0.0)
    return coefficients.sign() * (levels + tables[:, 2:] * (levels > 0)) * step


def _qp(crfs: Sequence[int], like: Tensor, *, is_key: bool) -> Tensor:
    """(N,) H.264's quantiser: x264's rate control comes out at the rate factor on faces, as measured."""
    return torch.tensor(list(crfs)).to(like) - (_IP_STEPS if is_key else 0.0)


def _tables(codecs: Sequence[Codec], crfs: Sequence[int], like: Tensor, *, is_key: bool, is_chroma: bool) -> Tensor:
    """(N, 2, 3, 8, 8): of intra and of inter blocks, what :func:`_requantised` wants."""
    rows = np.zeros((len(codecs), 2, 3, 8, 8), np.float32)
    qps = _qp(crfs, torch.zeros(()), is_key=is_key).tolist()
    for row, codec, crf, qp in zip(rows, codecs, crfs, qps, strict=True):
        row[:, 1] = np.array(_DEAD_ZONES[codec])[:, None, None]
        if codec == "h264":
            if is_chroma and qp > 29.0:
                qp = 29.0 + 0.48 * (qp - 29.0)  # table 8-15 of H.264: 39 at 51
            row[:, 0] = 0.625 * 2 ** (qp / 6)
            continue
        quantiser = mpeg_quantiser(crf)
        row[:, 0], row[:, 2] = 2.0 * quantiser, 0.5
        if codec == "mpeg2":
            row[0, 0], row[0, 2] = _MPEG_INTRA * quantiser / 8.0, 0.0
            row[0, :, 0, 0] = (8.0, 0.5, 0.0)
        else:
            row[0, :, 0, 0] = (_mpeg4_dc_step(quantiser, is_chroma=is_chroma), 0.5, 0.0)
    return torch.from_numpy(rows).to(like)


def _mpeg4_dc_step(quantiser: int, *, is_chroma: bool) -> int:
    """Table 7-1 of ISO 14496-2."""
    if quantiser < 5:
        return 8
    if is_chroma:
        return (quantiser + 13) // 2 if quantiser < 25 else quantiser - 6
    return 2 * quantiser if quantiser < 9 else quantiser + 8 if quantiser < 25 else 2 * quantiser - 16


def _adaptive_gain(planes: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 1, M / 16, M / 16): of the step, finer where a macroblock is flat."""
    energy: Tensor = torch.zeros(())
    for plane, side in zip(planes, (16, 8), strict=True):
        away = functional.avg_pool2d(plane.square(), side) - functional.avg_pool2d(plane, side).square()
        energy = energy + side * side * away.sum(1, keepdim=True)
    return torch.exp2(_AQ_STRENGTH * (energy.clamp_min(1.0).log2() - _AQ_ENERGY) / 6.0)


def _is_intra(luma: Tensor, guess: Tensor) -> Tensor:
    """(N, 1, M / 16, M / 16): where the frame before helps less than the mean of the macroblock."""
    mean = _spread(functional.avg_pool2d(luma, 16), 16)
    errors = [functional.avg_pool2d((luma - other).abs(), 16) for other in (guess, mean)]
    return errors[0] > errors[1]


def _deblocked(luma: Tensor, qp: Tensor, *, is_key: bool) -> Tensor:
    """H.264's normal filter over the edges of 8 x 8 blocks, at a strength of 3 in key frames and of 1 in others.

    Its tables over the quantiser are exponentials, which take their place here.
    """
    scale = torch.exp2(qp / 6.0)[:, None, None, None]
    alpha, beta = 0.8 * (scale - 1.0), (0.5 * qp[:, None, None, None] - 7.0).clamp_min(0.0)
    most = (0.07 if is_key else 0.036) * scale
    for axis in (3, 2):
        moved = luma.transpose(2, 3) if axis == 2 else luma
        count, channels, side, _ = moved.shape
        cut = functional.pad(moved, (4, 4)).reshape(count, channels, side, -1, 8)  # an edge in the middle of each piece
        p1, p0, q0, q1 = cut[..., 2:6].unbind(-1)
        is_edge = ((p0 - q0).abs() < alpha) & ((p1 - p0).abs() < beta) & ((q1 - q0).abs() < beta)
        is_edge[..., 0] = is_edge[..., -1] = False  # of the canvas
        change = ((4.0 * (q0 - p0) + (p1 - q1)) / 8.0).clamp(-most, most) * is_edge
        cut = cut.clone()
        cut[..., 3] += change
        cut[..., 4] -= change
        moved = cut.flatten(3)[..., 4:-4]
        luma = moved.transpose(2, 3) if axis == 2 else moved
    return luma
