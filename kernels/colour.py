"""The linear maps between code values of the planes and R'G'B' in [-1, 1], and the tone curve of HDR video.

Everything here is on gamma-encoded (primed) values, as the planes hold them; primaries are not converted.

Source:
    ITU-T H.273 (2021), section 8.3: equations for MatrixCoefficients and VideoFullRangeFlag, tables 2 to 4;
    SMPTE ST 2084 for PQ, ITU-R BT.2100 for HLG, BT.2408 for the reference white of 203 cd/m².
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import KernelError
from vidrestore.types import PixelFormat

__all__ = [
    "is_hdr",
    "legal_range",
    "planes_from_rgb",
    "rgb_from_planes",
    "signal_delta",
    "tone_curve",
    "tone_map",
    "tone_unmap",
]

LUMA_COEFFICIENTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
"""(K_R, K_B) of each matrix, H.273 table 4."""

TRANSFER_PQ, TRANSFER_HLG = 16, 18
"""TransferCharacteristics of H.273 table 3."""


def legal_range(pixel_format: PixelFormat, plane_index: int) -> tuple[int, int]:
    """Lowest and highest code value that a plane may be given: 16..235 (chroma 16..240) at 8 bits, or all of them."""
    if pixel_format.full_range:
        return 0, (1 << pixel_format.depth) - 1
    step = 1 << (pixel_format.depth - 8)
    is_chroma = pixel_format.colour == "yuv" and plane_index in (1, 2)
    return 16 * step, (240 if is_chroma else 235) * step


def rgb_from_planes(pixel_format: PixelFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The map from code values to R'G'B' in [-1, 1]: rgb = matrix @ codes + offset.

    Returns:
        matrix (3, P) and offset (3,); P is 1 for grey and 3 otherwise, in the order of the planes. A grey sample
        becomes R = G = B.

    Raises:
        KernelError: the format's matrix is not a known one.
    """
    scale, offset = _codes_from_signal(pixel_format)
    signal: NDArray[np.float64]
    if pixel_format.colour == "gray":
        signal = np.ones((3, 1))
    elif pixel_format.colour == "rgb":
        signal = _RGB_FROM_GBR
    else:
        signal = np.asarray(np.linalg.inv(_yuv_from_rgb(pixel_format.matrix)), np.float64)
    matrix = 2.0 * signal / scale
    return matrix, -matrix @ offset - 1.0


def planes_from_rgb(pixel_format: PixelFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The map from R'G'B' in [-1, 1] to code values: codes = matrix @ rgb + offset, not rounded.

    Grey takes Rec. 601 luma: it is what FFmpeg, OpenCV and Pillow make of colour, hence what the grey pictures that
    networks were trained on are made with. R = G = B comes back as it was, with any weights.

    Returns:
        matrix (P, 3) and offset (P,). Only the matrix applies to differences.

    Raises:
        KernelError: the format's matrix is not a known one.
    """
    scale, offset = _codes_from_signal(pixel_format)
    if pixel_format.colour == "gray":
        signal = _yuv_from_rgb("bt601")[:1]
    elif pixel_format.colour == "rgb":
        signal = _RGB_FROM_GBR.T
    else:
        signal = _yuv_from_rgb(pixel_format.matrix)
    matrix = 0.5 * scale[:, None] * signal
    return matrix, offset + matrix.sum(1)


_RGB_FROM_GBR = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _yuv_from_rgb(matrix: str) -> NDArray[np.float64]:
    """(3, 3): E'Y in [0, 1], E'Pb and E'Pr in [-0.5, 0.5] of E'R, E'G, E'B in [0, 1]; YCgCo has Cg, Co for Pb, Pr."""
    if matrix == "ycgco":
        return np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]])
    if matrix not in LUMA_COEFFICIENTS:
        known = ", ".join([*LUMA_COEFFICIENTS, "ycgco"])
        raise KernelError(f"unknown colour matrix {matrix!r}, known: {known}")
    k_r, k_b = LUMA_COEFFICIENTS[matrix]
    luma = np.array([k_r, 1.0 - k_r - k_b, k_b])
    blue, red = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    return np.stack([luma, 0.5 * (blue - luma) / (1.0 - k_b), 0.5 * (red - luma) / (1.0 - k_r)])


def _codes_from_signal(pixel_format: PixelFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset (P,) per plane: code = scale * signal + offset."""
    depth = pixel_format.depth
    step = float(1 << (depth - 8))
    top = float((1 << depth) - 1)
    luma_scale, luma_offset = (top, 0.0) if pixel_format.full_range else (219.0 * step, 16.0 * step)
    if pixel_format.colour == "gray":
        return np.array([luma_scale]), np.array([luma_offset])
    if pixel_format.colour == "rgb":
        return np.full(3, luma_scale), np.full(3, luma_offset)
    # H.273 forms YCgCo from R, G, B that are already in code values, so its chroma has luma's scale
    chroma_scale = top if pixel_format.full_range else (219.0 if pixel_format.matrix == "ycgco" else 224.0) * step
    centre = float(1 << (depth - 1))
    return np.array([luma_scale, chroma_scale, chroma_scale]), np.array([luma_offset, centre, centre])


# --- HDR -------------------------------------------------------------------------------------------------------------

_REFERENCE_WHITE = 203.0  # cd/m², BT.2408: where graphics white and, roughly, SDR white belong
_SDR_GAMMA = 2.4  # BT.1886
_NUM_NODES = 4097  # a quarter of a 10-bit step


def is_hdr(pixel_format: PixelFormat) -> bool:
    """Samples are PQ or HLG, so that the network must be shown a tone-mapped copy."""
    return pixel_format.transfer in (TRANSFER_PQ, TRANSFER_HLG)


def tone_map(rgb: NDArray[np.float32], pixel_format: PixelFormat) -> NDArray[np.float32]:
    """The SDR look of HDR samples: a monotone curve per channel, [-1, 1] -> [-1, 1]; SDR comes back as it is.

    Signal -> light L by the transfer function (HLG with the system gamma 1.2 of a 1000 cd/m² display, per channel),
    the extended Reinhard curve y = x (1 + x / x_peak²) / (1 + x) with x = L / 203 cd/m², then the SDR signal
    y ** (1 / 2.4). Skin at 50 cd/m² lands at 0.5 of the range, reference white at 0.75, the peak at 1. It need not
    please a viewer: nobody sees it but the network, and :func:`signal_delta` undoes it exactly.
    """
    if not is_hdr(pixel_format):
        return rgb
    return np.interp(rgb, _nodes(), _curve(pixel_format.transfer)).astype(np.float32)


def tone_curve(pixel_format: PixelFormat) -> NDArray[np.float64]:
    """The broken line of :func:`tone_map`: its values at evenly spaced places from -1 to 1, rising."""
    return _curve(pixel_format.transfer)


def tone_unmap(rgb: NDArray[np.float32], pixel_format: PixelFormat) -> NDArray[np.float64]:
    """The inverse of :func:`tone_map`: HDR signal in [-1, 1] of an SDR-like one; both are the same broken line."""
    if not is_hdr(pixel_format):
        return rgb.astype(np.float64)
    return np.interp(rgb, _curve(pixel_format.transfer), _nodes())


def signal_delta(
    degraded: NDArray[np.float32], restored: NDArray[np.float32], pixel_format: PixelFormat
) -> NDArray[np.float32]:
    """What a restoration changes, in the frame's own signal: for SDR restored - degraded.

    For HDR it is tone_unmap(restored) - tone_unmap(degraded): the delta times the mean slope of the inverse curve
    between the two values. Equal values give exactly 0, signs are kept, and what looks like one step in the SDR copy
    is one in the HDR picture.

    Args:
        degraded: (..., 3, S, S) in [-1, 1] as :func:`~vidrestore.kernels.sample_crops` gave it.
        restored: the same shape, in [-1, 1].
        pixel_format: the frame's format.

    Returns:
        The same shape, in [-2, 2].
    """
    if not is_hdr(pixel_format):
        return np.subtract(restored, degraded, dtype=np.float32)
    return (tone_unmap(restored, pixel_format) - tone_unmap(degraded, pixel_format)).astype(np.float32)


@cache
def _nodes() -> NDArray[np.float64]:
    return np.linspace(-1.0, 1.0, _NUM_NODES)


@cache
def _curve(transfer: int) -> NDArray[np.float64]:
    signal = (_nodes() + 1.0) / 2.0
    light = _pq_light(signal) if transfer == TRANSFER_PQ else _hlg_light(signal)
    x = light / _REFERENCE_WHITE
    y = x * (1.0 + x / x[-1] ** 2) / (1.0 + x)
    curve = 2.0 * (y / y[-1]) ** (1.0 / _SDR_GAMMA) - 1.0
    # PQ's first steps are below the precision of the curve: a rise of 1e-9 a node keeps it invertible
    rising: NDArray[np.float64] = np.maximum.accumulate(curve) + 1e-9 * np.arange(1 - _NUM_NODES, 1)
    rising[0] = -1.0
    return np.maximum.accumulate(rising)


def _pq_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """cd/m² of PQ samples in [0, 1], ST 2084 equation 4.1."""
    m1, m2 = 2610.0 / 16384.0, 2523.0 / 4096.0 * 128.0
    c1, c2, c3 = 3424.0 / 4096.0, 2413.0 / 4096.0 * 32.0, 2392.0 / 4096.0 * 32.0
    power = signal ** (1.0 / m2)
    light: NDArray[np.float64] = 10000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1.0 / m1)
    return light


def _hlg_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """cd/m² on a 1000 cd/m² display of HLG samples in [0, 1], BT.2100 table 5, the system gamma applied per channel."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3.0, (np.exp((np.maximum(signal, 0.5) - c) / a) + b) / 12.0)
    light: NDArray[np.float64] = 1000.0 * scene**1.2
    return light
