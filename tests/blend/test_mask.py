from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.blend.mask import blur, border_mask, disagreement_mask, face_mask, grow, shrink
from vidrestore.geometry import scale_about_pixel_edges


@given(size=st.integers(1, 300), feather=st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_face_mask_is_zero_at_the_border_and_in_range(size: int, feather: float) -> None:
    mask = face_mask(size, feather)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0
    place = (np.arange(size) + 0.5) / size
    outer = np.minimum(place, 1.0 - place) < 0.02
    assert not mask[outer].any()
    assert not mask[:, outer].any()


@pytest.mark.parametrize("size", [256, 512])
def test_face_mask_holds_the_face_of_the_template(size: int) -> None:
    mask = face_mask(size, 0.12)
    eyes_nose_mouth_brow = [(193, 240), (319, 240), (257, 314), (201, 371), (313, 371), (257, 150)]
    assert all(mask[y * size // 512, x * size // 512] == 1.0 for x, y in eyes_nose_mouth_brow)
    assert mask[440 * size // 512, 257 * size // 512] > 0.8  # the chin


@pytest.mark.parametrize("feather", [0.05, 0.12, 0.5])
def test_face_mask_is_smooth(feather: float) -> None:
    mask = face_mask(512, feather)
    step = 1.0 / (min(feather, 0.3) * 512)
    for axis in (0, 1):
        slope = np.diff(mask, axis=axis)
        assert np.abs(slope).max() < 1.7 * step  # smoothstep's steepest is 1.5
        assert np.abs(np.diff(slope, axis=axis)).max() < 9.0 * step**2  # no kink: its curvature is 6


def test_face_mask_is_computed_once_and_read_only() -> None:
    assert face_mask(64, 0.12) is face_mask(64, 0.12)
    with pytest.raises(ValueError, match="read-only"):
        face_mask(64, 0.12)[0, 0] = 1.0


@pytest.mark.parametrize(("size", "feather"), [(0, 0.1), (64, 0.0), (64, 0.6)])
def test_face_mask_refuses_what_makes_no_mask(size: int, feather: float) -> None:
    with pytest.raises(ValueError, match="size must be at least 1 and feather"):
        face_mask(size, feather)


def low_pass(image: np.ndarray, sigma: float) -> np.ndarray:
    """The steps that the masks and the colour guard take."""
    return grow(blur(shrink(image), sigma), image.shape[-1])


@cache
def face_like(size: int = 128) -> np.ndarray:
    """Smooth shading with grain."""
    rng = np.random.default_rng(0)
    shading = low_pass(rng.normal(0, 3, (3, size, size)).astype(np.float32), 0.1)
    return np.clip(shading + rng.normal(0, 0.05, (3, size, size)), -1, 1).astype(np.float32)


@given(shift=st.tuples(*[st.floats(-0.5, 0.5)] * 3), grain=st.floats(0, 0.3))
@settings(max_examples=20, deadline=None)
def test_detail_and_a_constant_shift_are_no_disagreement(shift: tuple[float, ...], grain: float) -> None:
    degraded = face_like()
    detail = np.random.default_rng(1).normal(0, grain, degraded.shape)
    restored = (degraded + np.array(shift)[:, None, None] + detail).astype(np.float32)
    assert disagreement_mask(degraded, restored).min() > 0.99


@given(x=st.integers(30, 98), y=st.integers(30, 98), height=st.sampled_from([-1.5, 1.5]))
@settings(max_examples=20, deadline=None)
def test_a_hand_that_was_painted_over_lowers_the_mask_there_alone(x: int, y: int, height: float) -> None:
    degraded = face_like() * 0.2
    restored = degraded.copy()
    restored[:, y - 14 : y + 14, x - 14 : x + 14] += np.float32(height)
    mask = disagreement_mask(degraded, restored)
    assert mask[y, x] == 0.0
    far = np.hypot(*(np.indices(mask.shape) - np.array([y, x])[:, None, None])) > 65
    assert mask[far].min() > 0.99
    assert np.abs(np.diff(mask, axis=0)).max() < 0.5
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0


def drawn_face(size: int = 128) -> np.ndarray:
    """Skin with two dark eyes and a dark mouth, (3, S, S)."""
    y, x = (np.indices((size, size)) + 0.5) / size
    picture = np.full((size, size), 0.3)
    for cx, cy, rx, ry in ((0.37, 0.47, 0.07, 0.035), (0.63, 0.47, 0.07, 0.035), (0.5, 0.72, 0.13, 0.03)):
        picture -= 0.6 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1.0)
    return cv2.GaussianBlur(np.stack([picture] * 3, -1), (0, 0), size / 200).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("blurred_by", [0.01, 0.02, 0.03])
def test_eyes_and_mouth_made_sharp_are_no_disagreement(blurred_by: float) -> None:
    sharp = drawn_face()
    soft = cv2.GaussianBlur(sharp.transpose(1, 2, 0), (0, 0), blurred_by * 128).transpose(2, 0, 1)
    noisy = soft + np.random.default_rng(0).normal(0, 0.1, soft.shape).astype(np.float32)
    assert disagreement_mask(soft, sharp).min() > 0.99
    assert disagreement_mask(noisy.astype(np.float32), sharp).min() > 0.9


def test_a_mouth_drawn_through_fingers_of_the_same_tone_is_held_back() -> None:
    face = drawn_face()
    x = (np.arange(128) + 0.5) / 128
    fingers = face.copy()
    fingers[:, 80:, 32:96] = 0.3 - 0.25 * (np.abs(np.sin(np.pi * x * 10)) < 0.35)[32:96]  # dark gaps between them
    mask = disagreement_mask(fingers, face)
    mouth = np.s_[90:95, 52:76]
    assert mask[mouth].max() < 0.2
    assert mask[50:63].min() > 0.95  # the eyes stay
    assert np.abs(cv2.GaussianBlur((face - fingers).mean(0), (0, 0), 128 / 20)).max() < 0.25  # by tone nothing is found


def test_equal_pictures_agree_exactly() -> None:
    assert (disagreement_mask(face_like(), face_like()) == 1.0).all()


def test_pictures_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="two \\(3, S, S\\) pictures"):
        disagreement_mask(face_like(64), face_like(32))


def crop_at(left: float, top: float, scale: float = 1.0) -> np.ndarray:
    """crop_from_frame of an upright crop whose first pixel lies at (left, top)."""
    m = scale_about_pixel_edges(scale)
    m[:, 2] -= scale * np.array([left, top])
    return m


def test_a_face_inside_the_frame_does_not_fade() -> None:
    mask = face_mask(128, 0.12)
    assert (border_mask(128, crop_at(10, 10), 200, 200, mask) == 1.0).all()
    # the crop's corner is outside, the face is not
    assert (border_mask(128, crop_at(-2, -2), 200, 200, mask) == 1.0).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_cut_face_fades_at_the_border_and_only_there(scale: float) -> None:
    mask = face_mask(128, 0.12)
    border = border_mask(128, crop_at(-64 / scale, 10, scale), 2000, 2000, mask)
    assert not border[:, :63].any()
    assert border[64, 65] < 0.2
    assert (border[:, 64 + 9 :] == 1.0).all()  # 0.06 of the side is 7.7 px
    assert (np.diff(border[64]) >= 0.0).all()


def test_leaving_the_frame_is_gradual() -> None:
    mask = face_mask(128, 0.12)
    last, steps = None, []
    for left in np.arange(0.0, -40.0, -0.5):
        border = border_mask(128, crop_at(left, 10), 300, 300, mask) * mask
        if last is not None:
            steps.append(float(np.abs(border - last).sum()) / mask.sum())
        last = border
    assert max(steps) < 0.02


def test_low_pass_keeps_a_constant_and_matches_the_full_size_blur() -> None:
    assert low_pass(np.full((4, 200, 200), 0.7, np.float32), 0.1) == pytest.approx(0.7, abs=1e-5)
    y, x = np.indices((256, 256)) / 256
    image = np.stack([np.cos(9 * x), np.sin(12 * x * y), np.cos(15 * y)]).astype(np.float32)
    full = np.stack([cv2.GaussianBlur(c, (0, 0), 0.1 * 256, borderType=cv2.BORDER_REPLICATE) for c in image])
    error = np.abs(low_pass(image, 0.1) - full)
    assert error[:, 60:-60, 60:-60].max() < 0.01
    assert error.max() < 0.06  # at the border the repeated sample is an average of four
