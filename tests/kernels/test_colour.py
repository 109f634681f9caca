from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from hypothesis import given
from plane_formats import GRAY, MATRICES, pixel_formats, yuv

from vidrestore.errors import KernelError
from vidrestore.kernels.colour import (
    legal_range,
    planes_from_rgb,
    rgb_from_planes,
    signal_delta,
    tone_map,
    tone_unmap,
)
from vidrestore.types import PixelFormat

HDR = [yuv(depth=10, matrix="bt2020", transfer=transfer) for transfer in (16, 18)]


@given(pixel_formats())
def test_the_two_maps_are_inverse(pixel_format: PixelFormat) -> None:
    matrix, offset = rgb_from_planes(pixel_format)
    back, back_offset = planes_from_rgb(pixel_format)
    codes = np.random.default_rng(0).uniform(0, 1 << pixel_format.depth, (matrix.shape[1], 50))
    rgb = matrix @ codes + offset[:, None]
    np.testing.assert_allclose(back @ rgb + back_offset[:, None], codes, atol=1e-9 * (1 << pixel_format.depth))


@given(pixel_formats())
def test_black_and_white_are_the_ends_of_the_legal_range(pixel_format: PixelFormat) -> None:
    matrix, offset = planes_from_rgb(pixel_format)
    lowest, highest = legal_range(pixel_format, 0)
    assert (matrix @ [-1.0, -1.0, -1.0] + offset)[0] == pytest.approx(lowest)
    assert (matrix @ [1.0, 1.0, 1.0] + offset)[0] == pytest.approx(highest)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("matrix", "colorspace"),
    [("bt601", Colorspace.ITU601), ("bt709", Colorspace.ITU709), ("bt2020", Colorspace.BT2020)],
)
def test_agrees_with_swscale_within_rounding(matrix: str, colorspace: Colorspace, full_range: bool, depth: int) -> None:
    pixel_format = yuv("444", depth, matrix=matrix, full_range=full_range)
    rng = np.random.default_rng(3)
    rgb = rng.uniform(-0.9, 0.9, (3, 64 * 64))
    to_codes, to_offset = planes_from_rgb(pixel_format)
    codes = np.round(to_codes @ rgb + to_offset[:, None]).astype(pixel_format.dtype)
    frame = av.VideoFrame(64, 64, "yuv444p" if depth == 8 else "yuv444p10le")
    for plane, values in zip(frame.planes, codes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(64, plane.line_size)  # type: ignore[call-overload]
        padded = np.zeros_like(rows)
        padded[:, : 64 * values.itemsize] = values.reshape(64, 64).view(np.uint8)
        plane.update(padded.tobytes())
    converted = frame.reformat(
        format="rgb24",
        src_colorspace=colorspace,
        dst_colorspace=colorspace,
        src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )
    theirs = np.moveaxis(converted.to_ndarray(), -1, 0).reshape(3, -1)
    ours, offset = rgb_from_planes(pixel_format)
    levels = (ours @ codes + offset[:, None] + 1.0) * 127.5
    # half a level of rounding and swscale's integer arithmetic; it also takes 1023 for 1023 / 4 = 255.75 levels
    excess = 0.75 if full_range and depth == 10 else 0.0
    np.testing.assert_allclose(levels, theirs, atol=1.0 + 0.5 * excess)
    assert abs(float((levels - theirs).mean())) < 0.2 + 0.5 * excess


@pytest.mark.parametrize("matrix", MATRICES)
def test_grey_has_no_chroma(matrix: str) -> None:
    scale, offset = planes_from_rgb(yuv(matrix=matrix))
    np.testing.assert_allclose(scale[1:] @ [0.3, 0.3, 0.3] + offset[1:], [128.0, 128.0])


def test_a_grey_plane_is_equal_red_green_and_blue() -> None:
    matrix, offset = rgb_from_planes(GRAY)
    np.testing.assert_allclose(matrix @ [255.0] + offset, [1.0, 1.0, 1.0])
    weights, _ = planes_from_rgb(GRAY)
    np.testing.assert_allclose(weights[0] / 127.5, [0.299, 0.587, 0.114])


def test_planes_of_rgb_come_as_green_blue_red() -> None:
    matrix, offset = rgb_from_planes(PixelFormat("gbrp", "rgb", 8, full_range=True))
    np.testing.assert_allclose(matrix @ [255.0, 0.0, 0.0] + offset, [-1.0, 1.0, -1.0])


def test_an_unknown_matrix_is_named() -> None:
    with pytest.raises(KernelError, match="'xyz', known: bt601"):
        rgb_from_planes(yuv(matrix="xyz"))


@pytest.mark.parametrize("pixel_format", HDR)
def test_tone_curve_rises_and_comes_back(pixel_format: PixelFormat) -> None:
    signal = np.linspace(-1, 1, 1001, dtype=np.float32)
    mapped = tone_map(signal, pixel_format)
    assert mapped[0] == -1.0
    assert mapped[-1] == 1.0
    assert (np.diff(mapped) >= 0.0).all()
    assert (np.diff(mapped[50:]) > 0.0).all()
    back = tone_unmap(mapped, pixel_format)
    np.testing.assert_allclose(back[50:], signal[50:], atol=2e-4)  # below, PQ holds less than 0.01 cd/m²


@pytest.mark.parametrize("pixel_format", HDR)
def test_reference_white_keeps_its_place(pixel_format: PixelFormat) -> None:
    white = 0.5807 if pixel_format.transfer == 16 else 0.75  # BT.2408 table 1: 203 cd/m² and 75 % HLG
    # half the light is 0.5 ** (1 / 2.4) = 0.749 of the signal; a lower peak (HLG) leaves a little more room below it
    assert tone_map(np.float32([2 * white - 1]), pixel_format)[0] == pytest.approx(2 * 0.749 - 1, abs=0.03)


@pytest.mark.parametrize("pixel_format", HDR)
def test_an_hdr_delta_has_the_direction_and_the_size_of_the_inverse_slope(pixel_format: PixelFormat) -> None:
    signal = np.linspace(-0.6, 0.5, 50, dtype=np.float32)
    degraded = tone_map(signal, pixel_format)
    assert not signal_delta(degraded, degraded, pixel_format).any()
    delta = signal_delta(degraded, degraded + np.float32(0.01), pixel_format)
    slope = (tone_map(signal + 0.004, pixel_format) - tone_map(signal - 0.004, pixel_format)) / 0.008
    assert (delta > 0.0).all()
    np.testing.assert_allclose(delta, 0.01 / slope, rtol=0.06)
    assert (signal_delta(degraded, degraded - np.float32(0.01), pixel_format) < 0.0).all()


def test_sdr_is_neither_mapped_nor_changed() -> None:
    signal = np.float32([-1.0, 0.25, 1.0])
    assert tone_map(signal, GRAY) is signal
    np.testing.assert_array_equal(signal_delta(signal, signal[::-1], GRAY), signal[::-1] - signal)
