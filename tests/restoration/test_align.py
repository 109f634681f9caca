"""Templates and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrestore.geometry import apply
from vidrestore.restoration.align import FFHQ_TEMPLATE_512, crop_from_display, template


def test_the_template_scales_about_the_picture_s_edges() -> None:
    np.testing.assert_allclose(template(512), FFHQ_TEMPLATE_512)
    np.testing.assert_allclose(template(256), (FFHQ_TEMPLATE_512 + 0.5) / 2 - 0.5)


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-500, 500), st.floats(-500, 500))
def test_a_face_that_is_a_moved_template_lands_on_it(angle: float, scale: float, x: float, y: float) -> None:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    face = apply(np.array([[c, -s, x], [s, c, y]]), FFHQ_TEMPLATE_512)
    np.testing.assert_allclose(apply(crop_from_display(face, 256), face), template(256), atol=1e-6)


def test_coinciding_points_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        crop_from_display(np.ones((5, 2)), 256)
