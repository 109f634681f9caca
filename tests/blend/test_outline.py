from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from turned_heads import head, model

from vidrestore.blend.mask import face_mask
from vidrestore.blend.outline import coarse_outline, crop_outline, mesh_mask, outline_size
from vidrestore.config import BlendOptions
from vidrestore.kernels.rasterize import rasterize
from vidrestore.types import Crop

SIZE = 256


def covered(mesh: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(S, S) where some triangle is seen."""
    seen = rasterize(mesh[None, :, :2], 1000.0 - mesh[None, :, 2], model().triangles.numpy(), SIZE)
    return np.asarray(seen[0] >= 0)


@pytest.mark.parametrize("yaw", [-70.0, -35.0, 0.0, 35.0, 70.0])
@pytest.mark.parametrize("pitch", [-25.0, 0.0, 25.0])
def test_the_mask_covers_the_face_and_not_what_is_far_from_it(yaw: float, pitch: float) -> None:
    mesh = head(yaw, pitch)
    mask, face = mesh_mask(mesh, SIZE, 0.12), covered(mesh)
    assert mask.dtype == np.float32
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0
    inner = cv2.erode(face.astype(np.uint8), np.ones((3, 3)), iterations=round(0.075 * SIZE)) > 0
    assert inner.any()
    assert mask[inner].min() > 0.95
    # what the surface goes on by is at most 0.2 of the face's height, and half of the edge lies outside
    height = float(np.linalg.norm(mesh[10] - mesh[152]))
    near = cv2.dilate(face.astype(np.uint8), np.ones((3, 3)), iterations=round(0.2 * height + 0.06 * SIZE)) > 0
    assert not mask[~near].any()


@pytest.mark.parametrize("yaw", [-60.0, -45.0, 45.0, 60.0])
def test_the_far_side_of_a_turned_head_does_not_spill(yaw: float) -> None:
    mesh = head(yaw)
    face = covered(mesh)
    fixed, mask = face_mask(SIZE, 0.12), mesh_mask(mesh, SIZE, 0.12)
    spilled = []
    for y in range(90, 180):  # from the brows to below the mouth
        x = np.flatnonzero(face[y])
        beyond = np.arange(SIZE) > x[-1] if yaw > 0 else np.arange(SIZE) < x[0]
        distance = np.arange(SIZE) - x[-1] if yaw > 0 else x[0] - np.arange(SIZE)
        # in the hollow under a nose in profile the nearest of the face is not beside it but above
        assert mask[y, distance > 0.05 * SIZE].max() < 0.2
        assert mask[y, distance > 0.1 * SIZE].max() < 1e-3
        spilled.append((float(mask[y, beyond].sum()), float(fixed[y, beyond].sum())))
    ours, ellipse = np.sum(spilled, 0)
    assert ours < 0.2 * ellipse


def test_the_mask_follows_the_chin_of_an_open_mouth() -> None:
    shut, wide = (mesh_mask(head(open_mouth=o), SIZE, 0.12).sum(1) for o in (0.0, 0.1))
    lowest_shut, lowest_wide = np.flatnonzero(shut > 5.0)[-1], np.flatnonzero(wide > 5.0)[-1]
    assert 8 <= lowest_wide - lowest_shut <= 25


def test_the_forehead_is_covered_beyond_the_mesh() -> None:
    mesh = head()
    x, y = mesh[10, :2].round().astype(int)
    mask = mesh_mask(mesh, SIZE, 0.12)
    assert mask[y, x] > 0.9
    assert mask[y - round(0.08 * SIZE), x] > 0.3
    assert mask[y - round(0.2 * SIZE), x] == 0.0


@given(st.floats(-60, 60), st.floats(-20, 20), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_the_mask_moves_as_smoothly_as_the_mesh(yaw: float, pitch: float, dx: float, dy: float) -> None:
    mesh = head(round(yaw), round(pitch))
    before = mesh_mask(mesh, SIZE, 0.12)
    after = mesh_mask(mesh + np.array([dx, dy, 0.0], np.float32), SIZE, 0.12)
    # the edge's steepest slope is 1.9 over its width of 0.12 S; rows of the fill snap by up to half of 1 / 256 S
    steepest = 1.9 / (0.12 * SIZE)
    assert np.abs(after - before).max() <= steepest * np.hypot(dx, dy) + 0.04


def test_a_turn_changes_the_mask_little_by_little() -> None:
    masks = [coarse_outline(head(float(yaw)), SIZE, 0.12) for yaw in range(-75, 76)]
    steps = [np.abs(b - a).max() for a, b in pairwise(masks)]
    assert max(steps) < 0.2  # one degree moves the nose of a profile by 2 px


@pytest.mark.parametrize("feather", [0.03, 0.08, 0.12, 0.3, 0.5])
@pytest.mark.parametrize("size", [64, 100, 256, 512])
def test_the_edge_is_as_wide_as_asked_at_every_size(feather: float, size: int) -> None:
    mask = mesh_mask(head(size=size), size, feather)
    assert mask.shape == (size, size)
    place = (np.arange(size) + 0.5) / size
    outer = np.minimum(place, 1.0 - place) < 0.02
    assert not mask[outer].any()
    assert not mask[:, outer].any()
    assert mask.max() > 0.85
    row = mask[size // 2]
    width = np.sum((row > 0.02) & (row < 0.98)) / 2 / size
    assert 0.5 * min(feather, 0.3) - 2 / size <= width <= 1.1 * min(feather, 0.3) + 3 / size


def test_meshes_of_another_topology_take_their_hull() -> None:
    square = np.array([[64, 64, 0], [192, 64, 0], [192, 192, 0], [64, 192, 0], [128, 128, 9]], np.float32)
    mask = mesh_mask(square, SIZE, 0.1)
    assert mask[128, 128] == 1.0
    assert mask[70:186, 70:186].min() > 0.1
    assert mask[:50].max() < 0.01


@pytest.mark.parametrize("mesh", [np.zeros((468, 2)), np.full((468, 3), np.nan), np.zeros(3)])
def test_what_is_no_mesh_is_refused(mesh: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"a mesh must be \(V, 3\) and finite"):
        coarse_outline(mesh.astype(np.float32), SIZE, 0.12)


@pytest.mark.parametrize("shift", [1e3, 1e9])
def test_a_mesh_that_is_elsewhere_gives_no_mask(shift: float) -> None:
    assert not coarse_outline(head() + np.float32(shift), SIZE, 0.12).any()


def test_a_mesh_without_extent_gives_no_mask() -> None:
    assert coarse_outline(np.full((468, 3), 100.0, np.float32), SIZE, 0.12).max() < 0.1


def test_the_options_choose() -> None:
    crop = Crop(0, 0, np.zeros((3, 64, 64), np.float32), np.eye(2, 3), mesh=head(size=64))
    bare = Crop(0, 0, crop.image, crop.crop_from_frame)
    fixed = face_mask(64, 0.12)
    np.testing.assert_array_equal(crop_outline(bare, BlendOptions()), fixed)
    np.testing.assert_array_equal(crop_outline(crop, BlendOptions(mask="ellipse")), fixed)
    np.testing.assert_array_equal(crop_outline(crop, BlendOptions()), mesh_mask(head(size=64), 64, 0.12))
    assert np.abs(crop_outline(crop, BlendOptions()) - fixed).max() > 0.5
    assert outline_size(512, 0.12) == 64 < outline_size(512, 0.05)
