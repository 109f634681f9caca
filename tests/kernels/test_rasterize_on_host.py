"""The rasterizer's CUDA source, run on the CPU against its numba twin; no GPU is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_backend import HostBackend, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_rasterize import lattice, soup

from vidrestore.errors import KernelError
from vidrestore.kernels.device import DeviceArray, cuda_source
from vidrestore.kernels.rasterize import (
    MAX_PLACE,
    MIN_AREA,
    NEAR,
    draw,
    draw_gradients,
    draw_gradients_on,
    draw_on,
)

pytestmark = needs_compiler

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]


def single(points: Any, depth: Any, triangles: Any, values: Any) -> Arrays:
    """In the types that the kernels take."""
    f, i = np.float32, np.int32
    return (
        np.ascontiguousarray(points, f),
        np.ascontiguousarray(depth, f),
        np.ascontiguousarray(triangles, i),
        np.ascontiguousarray(values, f),
    )


def drawn(arrays: Arrays, size: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    batch, _, num_values = arrays[3].shape
    picture = np.full((batch, num_values, size, size), np.nan, np.float32)
    seen = np.full((batch, size, size), 99, np.int32)
    backend = HostBackend()
    draw_on(backend, *(DeviceArray.of(a) for a in (*arrays, picture, seen)))
    assert len(backend.launches) <= 3  # all faces together
    return picture, seen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    faces=st.integers(1, 3),
    size=st.sampled_from([1, 2, 7, 17, 33]),
    num_triangles=st.integers(1, 70),
    grid=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_agrees_with_its_twin(seed: int, faces: int, size: int, num_triangles: int, grid: float) -> None:
    arrays = single(*soup(seed, faces, size, num_triangles, grid=grid))
    expected, names = draw(*arrays, size)
    picture, seen = drawn(arrays, size)
    np.testing.assert_array_equal(seen >= 0, names >= 0)
    same = seen == names
    assert same.mean() > 0.98  # two may be as near in float32, and then the last bit of a sum decides
    same = np.broadcast_to(same[:, None], picture.shape)
    np.testing.assert_allclose(picture[same], expected[same], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [16, 61])
def test_a_mesh_has_no_holes(size: int) -> None:
    points, triangles = lattice(9, 14, size, seed=size)
    for shaken in (points, np.round(points), np.round(2.0 * points) / 2.0):
        picture, seen = drawn(single(shaken, np.ones(shaken.shape[:2]), triangles, shaken), size)
        assert (seen >= 0).all()
        np.testing.assert_allclose(picture[0], np.stack(np.mgrid[:size, :size][::-1]), atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_a_triangle_with_an_impossible_corner_is_left_out(value: float) -> None:
    for array in (0, 1):
        arrays = single(*soup(5, 2, 21, 6))
        arrays[array].reshape(-1)[4:8] = value
        expected, names = draw(*arrays, 21)
        picture, seen = drawn(arrays, 21)
        np.testing.assert_array_equal(seen, names)
        np.testing.assert_allclose(picture, expected, rtol=1e-5, atol=1e-4)


def test_no_triangles_and_no_faces_are_empty() -> None:
    picture, seen = drawn(single(np.zeros((2, 5, 2)), np.ones((2, 5)), np.zeros((0, 3)), np.ones((2, 5, 3))), 9)
    assert (picture == 0).all()
    assert (seen == -1).all()
    picture, seen = drawn(single(np.zeros((0, 5, 2)), np.ones((0, 5)), np.zeros((0, 3)), np.ones((0, 5, 3))), 9)
    assert picture.size == 0


@pytest.mark.parametrize("faces", [1, 3])
def test_gradients_agree_with_their_twin(faces: int) -> None:
    arrays = single(*soup(3, faces, 20, 9))
    upstream = np.random.default_rng(0).normal(size=(faces, 4, 20, 20)).astype(np.float32)
    _, seen = draw(*arrays, 20)
    expected = draw_gradients(seen, *arrays, upstream)
    got = tuple(np.zeros_like(values) for values in expected)
    draw_gradients_on(HostBackend(), *(DeviceArray.of(a) for a in (seen, *arrays, upstream, *got)))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


def test_limits_are_those_of_the_twin() -> None:
    text = cuda_source("rasterize")
    for name, value in (("NEAR", NEAR), ("MAX_PLACE", MAX_PLACE), ("MIN_AREA", MIN_AREA)):
        line = next(line for line in text.splitlines() if line.startswith(f"#define {name} "))
        assert float(line.split()[2]) == value


def test_arrays_that_do_not_fit_are_named() -> None:
    points, depth, triangles, values = single(*soup(3, 1, 8, 4))
    picture, seen = np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 8, 8), np.int32)
    fitting = [points, depth, triangles, values, picture, seen]
    for place, array, message in (
        (0, points[..., ::-1], "points must be"),
        (1, depth.astype(np.float64), "depth must be"),
        (2, triangles.astype(np.int64), "triangles must be"),
        (4, picture[:, :3].copy(), "the picture must be"),
        (5, seen[:, :7].copy(), "seen must be"),
    ):
        arrays = [array if n == place else a for n, a in enumerate(fitting)]
        with pytest.raises(KernelError, match=message):
            draw_on(HostBackend(), *(DeviceArray.of(a) for a in arrays))
