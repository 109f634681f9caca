"""Frames as pictures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidrestore.picture import display_picture, frame_from_rgb, info_of_frames, rgb_from_frame
from vidrestore.types import Frame, PixelFormat


def test_rgb_goes_in_and_comes_out_unchanged() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (17, 31, 3), np.uint8)
    frame = frame_from_rgb(rgb, 3, rate=Fraction(30000, 1001))
    np.testing.assert_array_equal(rgb_from_frame(frame), rgb)
    assert (frame.index, frame.time_base) == (3, Fraction(1001, 30000))
    assert info_of_frames(frame).width == 31


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected an"):
        frame_from_rgb(np.zeros(shape, np.uint8), 0)


@pytest.mark.parametrize(("depth", "name"), [(8, "yuv420p"), (10, "yuv420p10le")])
@pytest.mark.parametrize("full_range", [False, True])
def test_known_colours_of_limited_and_full_range(depth: int, name: str, full_range: bool) -> None:
    step = 1 << (depth - 8)
    fmt = PixelFormat(name, "yuv", depth, (1, 1), matrix="bt709", full_range=full_range)
    white, black = (255 * step + step - 1, 0) if full_range else (235 * step, 16 * step)
    for code, expected in ((white, 255), (black, 0)):
        planes = (
            np.full((6, 8), code, fmt.dtype),
            np.full((3, 4), 128 * step, fmt.dtype),
            np.full((3, 4), 128 * step, fmt.dtype),
        )
        rgb = rgb_from_frame(Frame(0, 0, Fraction(1, 25), planes, fmt))
        assert rgb.shape == (6, 8, 3)
        assert np.abs(rgb.astype(int) - expected).max() <= 1


def test_grey_has_three_equal_channels() -> None:
    plane = np.arange(48, dtype=np.uint8).reshape(6, 8) + 60
    rgb = rgb_from_frame(Frame(0, 0, Fraction(1, 25), (plane,), PixelFormat("gray", "gray", 8, full_range=True)))
    np.testing.assert_array_equal(rgb[..., 0], plane)
    assert (rgb[..., 0] == rgb[..., 2]).all()


@pytest.mark.parametrize("full_range", [False, True])
def test_the_detectors_picture_is_within_a_level_of_the_frames_own(full_range: bool) -> None:
    fmt = PixelFormat("yuv420p", "yuv", 8, (1, 1), matrix="bt709", full_range=full_range)
    rng = np.random.default_rng(0)
    shapes = ((48, 64), (24, 32), (24, 32))
    planes = tuple(rng.integers(0, 256, shape, np.uint8) for shape in shapes)
    frame = Frame(0, 0, Fraction(1, 25), planes, fmt)
    picture, _ = display_picture(frame, info_of_frames(frame), (48, 64))
    # bytes between the two steps round chroma, which blue has 2.1 times
    assert np.abs(picture[..., ::-1].astype(int) - rgb_from_frame(frame)).max() <= 2


def test_the_detectors_picture_of_rgb_is_exact() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (17, 31, 3), np.uint8)
    frame = frame_from_rgb(rgb, 0)
    np.testing.assert_array_equal(display_picture(frame, info_of_frames(frame), (17, 31))[0][..., ::-1], rgb)
