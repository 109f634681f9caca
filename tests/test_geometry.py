"""Maps and boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrestore import geometry

angles = st.floats(-3.1, 3.1)
scales = st.floats(0.05, 20.0)
shifts = st.floats(-500.0, 500.0)


def similarity(angle: float, scale: float, x: float, y: float) -> geometry.Affine:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


@given(angles, scales, shifts, shifts)
def test_estimate_finds_the_similarity_that_made_the_points(angle: float, scale: float, x: float, y: float) -> None:
    source = np.array([[3.0, 4.0], [90.0, 10.0], [50.0, 60.0], [20.0, 80.0], [70.0, 85.0]])
    truth = similarity(angle, scale, x, y)
    np.testing.assert_allclose(
        geometry.estimate_similarity(source, geometry.apply(truth, source)), truth, atol=1e-7 * (1 + scale)
    )


@given(angles, scales, shifts, shifts)
def test_invert_after_apply_is_identity(angle: float, scale: float, x: float, y: float) -> None:
    forward = similarity(angle, scale, x, y)
    points = np.array([[0.0, 0.0], [10.0, -7.0]])
    there_and_back = geometry.apply(geometry.invert(forward), geometry.apply(forward, points))
    np.testing.assert_allclose(there_and_back, points, atol=1e-6)


@given(angles, scales, angles, scales)
def test_compose_applies_the_inner_map_first(a: float, s: float, b: float, t: float) -> None:
    inner, outer = similarity(a, s, 3.0, 4.0), similarity(b, t, -5.0, 1.0)
    point = np.array([2.0, 9.0])
    expected = geometry.apply(outer, geometry.apply(inner, point))
    np.testing.assert_allclose(geometry.apply(geometry.compose(outer, inner), point), expected, rtol=1e-9, atol=1e-9)


def test_a_similarity_is_never_mirrored() -> None:
    source = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    mirrored = source * [-1.0, 1.0]
    assert np.linalg.det(geometry.estimate_similarity(source, mirrored)[:, :2]) >= 0


def test_coinciding_points_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        geometry.estimate_similarity(np.ones((5, 2)), np.zeros((5, 2)))


def test_a_singular_map_is_refused() -> None:
    with pytest.raises(ValueError, match="determinant"):
        geometry.invert([[1, 2, 0], [2, 4, 0]])


def test_a_resize_keeps_the_edges_of_the_picture() -> None:
    doubled = geometry.scale_about_pixel_edges(2.0)
    np.testing.assert_allclose(geometry.apply(doubled, [-0.5, 9.5]), [-0.5, 19.5])


def test_mean_scale_is_the_root_of_the_area_factor() -> None:
    assert geometry.mean_scale([[4.0, 0, 0], [0, 1.0, 0]]) == pytest.approx(2.0)


def test_iou_of_known_boxes() -> None:
    iou = geometry.box_iou([[0, 0, 2, 2], [5, 5, 5, 5]], [[1, 0, 3, 2], [0, 0, 2, 2]])
    np.testing.assert_allclose(iou, [[1 / 3, 1.0], [0.0, 0.0]])
