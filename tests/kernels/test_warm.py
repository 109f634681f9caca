"""Compiling ahead."""

from __future__ import annotations

import pytest
from plane_formats import GBR16, GRAY, yuv

from vidrestore.kernels import warm_up
from vidrestore.kernels.composite import _composite_band
from vidrestore.kernels.sample import _sample_band
from vidrestore.types import PixelFormat


@pytest.mark.parametrize(
    "pixel_format",
    [GRAY, GBR16, yuv(), yuv(depth=10), PixelFormat("yuva420p", "yuv", 8, (1, 1), (0.0, 0.5), has_alpha=True)],
    ids=lambda f: f.name,
)
def test_what_a_frame_needs_is_compiled(pixel_format: PixelFormat) -> None:
    warm_up(pixel_format)
    assert _sample_band.signatures, "cut nothing out"  # type: ignore[attr-defined]
    layouts = {str(signature[0].dtype) for signature in _composite_band.signatures}  # type: ignore[attr-defined]
    assert str(pixel_format.dtype) in layouts
