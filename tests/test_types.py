"""The values that travel check themselves."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidrestore.types import Crop, Detections, Frame, PixelFormat, Restoration

YUV420 = PixelFormat("yuv420p", "yuv", 8, (1, 1))


def test_odd_sizes_round_chroma_up() -> None:
    assert YUV420.plane_size(0, 17, 31) == (17, 31)
    assert YUV420.plane_size(1, 17, 31) == (9, 16)


def test_a_frame_with_a_wrong_plane_is_refused() -> None:
    planes = (np.zeros((4, 4), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="plane 2 of yuv420p must be"):
        Frame(0, 0, Fraction(1, 25), planes, YUV420)


def test_a_frame_with_too_few_planes_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 planes, got 1"):
        Frame(0, 0, Fraction(1, 25), (np.zeros((4, 4), np.uint8),), YUV420)


def test_depths_above_eight_are_sixteen_bit_words() -> None:
    assert PixelFormat("gray10le", "gray", 10).dtype == np.uint16


def test_detections_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected boxes"):
        Detections(np.zeros((2, 4), np.float32), np.zeros((1, 5, 2), np.float32), np.zeros(2, np.float32))


def test_no_face_is_an_empty_result() -> None:
    assert len(Detections.none()) == 0


def test_a_restoration_has_the_size_of_its_crop() -> None:
    crop = Crop(0, 0, np.zeros((3, 8, 8), np.float32), np.eye(2, 3))
    with pytest.raises(ValueError, match="does not match its crop"):
        Restoration(crop, np.zeros((3, 4, 4), np.float32))


def test_repr_shows_shapes_and_not_pixels() -> None:
    crop = Crop(7, 3, np.zeros((3, 8, 8), np.float32), np.eye(2, 3))
    assert repr(crop) == "Crop(track_id=7, frame_index=3, image=(3, 8, 8))"
