"""Static HDR metadata of a decoded frame, in the words of the encoders' own option strings.

FFmpeg hands these to an encoder through a field that PyAV does not reach; x264, x265 and SVT-AV1 take them as text.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from av.sidedata.sidedata import Type

__all__ = ["HdrMetadata", "encoder_params", "read_hdr"]

# AVMasteringDisplayMetadata: primaries of R, G, B as (x, y) rationals, white point, least and most luminance, two flags
_MASTERING = struct.Struct("=20iii")
_LIGHT = struct.Struct("=II")


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """What SMPTE ST 2086 and CTA-861.3 tell about a programme."""

    primaries: tuple[tuple[float, float], ...] | None = None
    """CIE xy of red, green, blue and white."""
    luminance: tuple[float, float] | None = None
    """Least and most of the mastering display, cd/m2."""
    light_level: tuple[int, int] | None = None
    """MaxCLL and MaxFALL, cd/m2."""


def read_hdr(carrier: Any) -> HdrMetadata:
    """The HDR metadata of a decoder's frame; empty where there is none."""
    try:
        side_data = carrier.side_data if carrier is not None else {}
    except ValueError:
        # PyAV knows no name for one of the entries and then shows none of them
        return HdrMetadata()
    primaries = luminance = light = None
    mastering = side_data.get(Type.MASTERING_DISPLAY_METADATA)
    if mastering is not None:
        values = _MASTERING.unpack_from(memoryview(mastering))
        ratios = [n / d if d else 0.0 for n, d in zip(values[0:20:2], values[1:20:2], strict=True)]
        if values[20]:
            primaries = tuple((ratios[i], ratios[i + 1]) for i in range(0, 8, 2))
        if values[21]:
            luminance = ratios[8], ratios[9]
    content = side_data.get(Type.CONTENT_LIGHT_LEVEL)
    if content is not None:
        light = _LIGHT.unpack_from(memoryview(content))
    return HdrMetadata(primaries, luminance, light)


def encoder_params(hdr: HdrMetadata, codec: str) -> list[tuple[str, str]]:
    """(key, value) pairs for the parameter string of x264, x265 or SVT-AV1; empty for other codecs."""
    if codec not in ("h264", "hevc", "av1"):
        return []
    pairs: list[tuple[str, str]] = []
    if hdr.primaries is not None and hdr.luminance is not None:
        key = {"h264": "mastering-display", "hevc": "master-display", "av1": "mastering-display"}[codec]
        pairs.append((key, _mastering(hdr.primaries, hdr.luminance, codec)))
    if hdr.light_level is not None:
        key = {"h264": "cll", "hevc": "max-cll", "av1": "content-light"}[codec]
        pairs.append((key, f"{hdr.light_level[0]},{hdr.light_level[1]}"))
    return pairs


def _mastering(primaries: tuple[tuple[float, float], ...], luminance: tuple[float, float], codec: str) -> str:
    """G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min): in steps of 1/50000 and 1/10000, or as decimals for SVT-AV1."""
    red, green, blue, white = primaries
    least, most = luminance

    def point(xy: tuple[float, float]) -> str:
        return f"({xy[0]:.5f},{xy[1]:.5f})" if codec == "av1" else f"({xy[0] * 50000:.0f},{xy[1] * 50000:.0f})"

    light = f"({most:.4f},{least:.4f})" if codec == "av1" else f"({most * 10000:.0f},{least * 10000:.0f})"
    return f"G{point(green)}B{point(blue)}R{point(red)}WP{point(white)}L{light}"
