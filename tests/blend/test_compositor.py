from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from turned_heads import head

from vidrestore.blend import Compositor
from vidrestore.blend.compositor import damp_colour, guard_colour
from vidrestore.blend.mask import face_mask
from vidrestore.config import BlendOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import KernelError
from vidrestore.kernels import sample_crops
from vidrestore.types import Crop, Frame, PixelFormat, Restoration

YUV420 = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5))
HDR = PixelFormat("yuv420p10le", "yuv", 10, (1, 1), (0.0, 0.0), matrix="bt2020", transfer=16)
SIZE = 128


def textured(pixel_format: PixelFormat, height: int = 240, width: int = 320) -> Frame:
    """Grain over slow shading, strong in luma and weak in chroma."""
    rng = np.random.default_rng(4)
    planes = []
    for p in range(pixel_format.num_planes):
        size = pixel_format.plane_size(p, height, width)
        slow = cv2.GaussianBlur(rng.normal(0, 1, size), (0, 0), 15)
        values = 0.5 + 0.08 * slow / slow.std() * (0.5 if p else 1.0) + rng.normal(0, 0.02, size)
        planes.append((values * (1 << pixel_format.depth)).astype(pixel_format.dtype))
    return Frame(3, 7, Fraction(1, 25), tuple(planes), pixel_format, carrier=object())


def similarity(x: float, y: float, scale: float, angle: float) -> NDArray[np.float64]:
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, (SIZE - 1) / 2 - linear @ np.array([x, y])])


def crop_of(frame: Frame, m: NDArray[np.float64], strength: float = 1.0) -> Crop:
    image = sample_crops(frame.planes, frame.format, m[None], SIZE)[0]
    return Crop(0, frame.index, image, m, strength)


def sharpened(crop: Crop, amount: float = 2.0) -> Restoration:
    image = np.moveaxis(crop.image, 0, -1)
    sharp = image + amount * (image - cv2.GaussianBlur(image, (0, 0), 2.0))
    return Restoration(crop, np.ascontiguousarray(np.moveaxis(np.clip(sharp, -1, 1), -1, 0)).astype(np.float32))


CENTRE = similarity(160, 120, 0.8, 0.2)


@pytest.mark.parametrize("pixel_format", [YUV420, HDR])
def test_a_network_that_changes_nothing_changes_nothing(pixel_format: PixelFormat) -> None:
    frame = textured(pixel_format)
    crop = crop_of(frame, CENTRE)
    assert Compositor(BlendOptions()).composite(frame, [Restoration(crop, crop.image.copy())]) is frame
    assert Compositor(BlendOptions()).composite(frame, []) is frame


def test_only_the_face_changes_and_the_rest_is_carried_along() -> None:
    frame = textured(YUV420)
    copies = [plane.copy() for plane in frame.planes]
    out = Compositor(BlendOptions()).composite(frame, [sharpened(crop_of(frame, CENTRE))])
    assert (out.index, out.pts, out.time_base, out.shot, out.format) == (3, 7, frame.time_base, 0, YUV420)
    assert out.carrier is frame.carrier
    y, x = np.indices(frame.planes[0].shape)
    outside = np.hypot(x - 160, y - 120) > 0.72 * SIZE / 0.8
    for new, old, copy in zip(out.planes, frame.planes, copies, strict=True):
        np.testing.assert_array_equal(old, copy)
        assert (new != old).any()
    np.testing.assert_array_equal(out.planes[0][outside], frame.planes[0][outside])


def test_strengths_multiply() -> None:
    frame = textured(YUV420)
    full = Compositor(BlendOptions()).composite(frame, [sharpened(crop_of(frame, CENTRE))])
    half = Compositor(BlendOptions(strength=0.5)).composite(frame, [sharpened(crop_of(frame, CENTRE, 0.5))])
    change, quarter = (f.planes[0].astype(float) - frame.planes[0] for f in (full, half))
    np.testing.assert_allclose(quarter, change / 4, atol=0.75)
    assert Compositor(BlendOptions(strength=0.0)).composite(frame, [sharpened(crop_of(frame, CENTRE))]) is frame
    assert Compositor(BlendOptions()).composite(frame, [sharpened(crop_of(frame, CENTRE, 0.0))]) is frame


def test_a_colour_cast_is_guarded_against() -> None:
    frame = textured(YUV420)
    crop = crop_of(frame, CENTRE)
    cast = Restoration(crop, crop.image + np.float32([0.2, -0.1, 0.1])[:, None, None])
    guarded = Compositor(BlendOptions()).composite(frame, [cast])
    trusting = Compositor(BlendOptions(colour=1.0), colour_guard=0.0).composite(frame, [cast])
    for p in range(3):
        assert np.abs(guarded.planes[p].astype(int) - frame.planes[p]).max() <= 1
    assert trusting.planes[2][60, 80] - frame.planes[2][60, 80] > 8  # Cr in the middle of the face


def test_damped_colour_keeps_luma_and_lets_a_share_of_colour_through() -> None:
    delta = np.random.default_rng(3).normal(0, 0.1, (3, 8, 8)).astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114])
    luma = np.tensordot(weights, delta, 1)
    np.testing.assert_allclose(np.tensordot(weights, damp_colour(delta, 0.3), 1), luma, atol=1e-6)
    np.testing.assert_allclose(damp_colour(delta, 0.3) - luma, 0.3 * (delta - luma), atol=1e-6)
    np.testing.assert_allclose(damp_colour(delta, 1.0), delta, atol=1e-7)


def test_without_colour_the_chroma_planes_stay() -> None:
    frame = textured(YUV420)
    blue_eyes = crop_of(frame, CENTRE)
    painted = Restoration(blue_eyes, blue_eyes.image + np.array([-0.3, 0.0, 0.4], np.float32)[:, None, None])
    out = Compositor(BlendOptions(colour=0.0), colour_guard=0.0).composite(frame, [painted])
    assert (out.planes[0] != frame.planes[0]).any()
    np.testing.assert_array_equal(out.planes[1], frame.planes[1])
    np.testing.assert_array_equal(out.planes[2], frame.planes[2])


def test_the_guard_takes_low_frequencies_and_leaves_detail() -> None:
    mask = face_mask(SIZE, 0.12)
    fine = np.random.default_rng(0).normal(0, 0.2, (3, SIZE, SIZE)).astype(np.float32)
    kept = guard_colour(fine + np.float32(0.3), mask, 1.0)
    inside = mask == 1.0
    assert abs(float(kept[:, inside].mean())) < 0.01
    assert np.corrcoef(kept[:, inside].ravel(), fine[:, inside].ravel())[0, 1] > 0.99
    np.testing.assert_allclose(guard_colour(fine, mask, 0.0), fine)
    assert not guard_colour(np.zeros_like(fine), mask, 1.0).any()


def test_an_invented_face_over_a_hand_is_held_back() -> None:
    frame = textured(YUV420)
    crop = crop_of(frame, similarity(160, 120, 1.0, 0.0))
    image = crop.image.copy()
    image[:, 80:104, 50:78] += 0.9
    hand = Restoration(crop, np.clip(image, -1, 1))
    place = np.s_[120 - 64 + 92, 160 - 64 + 64]
    held, shown = (
        Compositor(BlendOptions(), colour_guard=0.0, lowers_disagreement=lowers).composite(frame, [hand])
        for lowers in (True, False)
    )
    assert held.planes[0][place] == frame.planes[0][place]
    assert shown.planes[0][place] > frame.planes[0][place] + 60


def test_a_hand_that_wavers_at_the_limit_does_not_flicker() -> None:
    first = textured(YUV420)
    shown: dict[int, list[int]] = {0: [], 8: []}
    place = np.s_[120 - 64 + 92, 160 - 64 + 64]
    for frames, values in shown.items():
        compositor = Compositor(BlendOptions(occluder_frames=frames), colour_guard=0.0)
        for index in range(12):
            frame = replace(first, index=index)
            crop = crop_of(frame, similarity(160, 120, 1.0, 0.0))
            image = crop.image.copy()
            image[:, 80:104, 50:78] += 0.4 if index % 2 else 0.12
            out = compositor.composite(frame, [Restoration(crop, np.clip(image, -1, 1))])
            values.append(int(out.planes[0][place]) - int(frame.planes[0][place]))
    steps = {frames: np.abs(np.diff(values[1:])).max() for frames, values in shown.items()}
    assert steps[0] > 8
    assert steps[8] <= steps[0] / 4


def test_the_mesh_decides_where_a_face_changes() -> None:
    frame = textured(YUV420)
    plain = crop_of(frame, similarity(160, 120, 1.0, 0.0))
    turned = replace(plain, mesh=head(55.0, 0.0, SIZE))
    changed = []
    for crop, options in ((turned, BlendOptions()), (turned, BlendOptions(mask="ellipse")), (plain, BlendOptions())):
        out = Compositor(options).composite(frame, [sharpened(crop)])
        changed.append(out.planes[0] != frame.planes[0])
    np.testing.assert_array_equal(changed[1], changed[2])
    right = int(head(55.0, 0.0, SIZE)[:, 0].max()) + 160 - SIZE // 2
    beside = np.s_[100:140, right + round(0.1 * SIZE) :]  # right of the nose's tip
    assert not changed[0][beside].any()
    assert changed[1][beside].any()


def test_hdr_changes_have_the_direction_of_the_restoration() -> None:
    frame = textured(HDR)
    crop = crop_of(frame, CENTRE)
    brighter = Restoration(crop, np.clip(crop.image + np.float32(0.05), -1, 1))
    out = Compositor(BlendOptions(), colour_guard=0.0).composite(frame, [brighter])
    change = out.planes[0].astype(int) - frame.planes[0]
    assert change.min() >= 0
    assert 5 < change[120, 160] < 60


def test_what_does_not_belong_together_is_refused() -> None:
    frame = textured(YUV420)
    crop = crop_of(frame, CENTRE)
    other = Crop(0, 9, crop.image, CENTRE)
    with pytest.raises(ValueError, match="does not belong to frame 3"):
        Compositor(BlendOptions()).composite(frame, [Restoration(other, -crop.image)])
    small = Crop(0, 3, crop.image[:, :64, :64], CENTRE)
    with pytest.raises(ValueError, match="must have one size, got \\[64, 128\\]"):
        Compositor(BlendOptions()).composite(frame, [sharpened(crop), Restoration(small, -small.image)])
    with pytest.raises(ValueError, match="colour_guard must lie in"):
        Compositor(BlendOptions(), colour_guard=1.5)


def test_a_broken_restoration_is_an_error() -> None:
    frame = textured(YUV420)
    crop = crop_of(frame, CENTRE)
    with pytest.raises(KernelError, match=r"finite|masks must lie"):
        Compositor(BlendOptions()).composite(frame, [Restoration(crop, np.full_like(crop.image, np.nan))])


def seam_ratio(frame: Frame, out: Frame, m: NDArray[np.float64], size: int) -> float:
    """Mean luma step across the mask's outer edge, after over before (goal Q4: at most 1.1)."""
    inner = (face_mask(size, BlendOptions().feather) > 0.0).astype(np.float32)
    inside = cv2.warpAffine(inner, m, frame.planes[0].shape[::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    steps = []
    for picture in (out, frame):
        luma = picture.planes[0].astype(float)
        across = inside[:, 1:] != inside[:, :-1]
        down = inside[1:] != inside[:-1]
        steps.append(
            np.concatenate([np.abs(np.diff(luma, axis=1))[across], np.abs(np.diff(luma, axis=0))[down]]).mean()
        )
    return float(steps[0] / steps[1])


@pytest.mark.parametrize("scale", [0.4, 0.8, 2.0])
def test_no_seam_in_a_textured_picture(scale: float) -> None:
    frame = textured(YUV420, 400, 500)
    m = similarity(250, 200, scale, 0.3)
    restoration = sharpened(crop_of(frame, m), 4.0)
    shifted = Restoration(restoration.crop, np.clip(restoration.image + np.float32(0.2), -1, 1))
    for colour_guard in (0.0, 1.0):
        out = Compositor(BlendOptions(), colour_guard=colour_guard).composite(frame, [shifted])
        assert np.abs(out.planes[0].astype(int) - frame.planes[0]).max() > 10
        assert seam_ratio(frame, out, m, SIZE) <= 1.1


@pytest.mark.real_clip
@pytest.mark.parametrize("real_clip", ["single_face"], indirect=True)
def test_no_seam_in_a_real_picture(real_clip: Path) -> None:
    with VideoReader(real_clip) as reader:
        frame = next(iter(reader.decode()))
    # the face of the first frames: 146 px wide, the eyes 57 px apart
    m = similarity(290, 200, 126 / 512 * SIZE / 57, 0.0)
    out = Compositor(BlendOptions()).composite(frame, [sharpened(crop_of(frame, m), 3.0)])
    assert np.abs(out.planes[0].astype(int) - frame.planes[0]).max() > 20
    assert seam_ratio(frame, out, m, SIZE) <= 1.1
