"""The rasterizer against its twin, against scenes that can be worked out, and its gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidrestore.errors import KernelError
from vidrestore.kernels import launch, reference_raster
from vidrestore.kernels.rasterize import NEAR, draw, draw_gradients, rasterize

Array = NDArray[np.float64]


def soup(
    seed: int, faces: int, size: int, num_triangles: int, *, grid: float = 0.0
) -> tuple[Array, Array, Array, Array]:
    """Points, depth, triangles and colours of random triangles about a picture, partly beyond its border.

    A ``grid`` above 0 puts corners on multiples of it: pixels then lie exactly on edges and corners.
    """
    rng = np.random.default_rng(seed)
    count = num_triangles + 12  # hardly ever twice the same three
    points = rng.uniform(-0.4 * size - 1, 1.4 * size + 1, (faces, count, 2))
    points = np.round(points / grid) * grid if grid else points
    depth = rng.uniform(0.5, 20.0, (faces, count))
    triangles = np.stack([rng.permutation(count)[:3] for _ in range(num_triangles)])
    return points, depth, triangles, rng.uniform(-50, 300, (faces, count, 4))


def lattice(rows: int, columns: int, size: int, seed: int) -> tuple[Array, Array]:
    """A mesh that covers a picture and reaches over its border, its inner vertices shaken: (1, N, 2), (T, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : size + 1 : rows * 1j, -1 : size + 1 : columns * 1j]
    shaken = np.stack([x, y], axis=-1)
    step = np.array([(size + 2) / (columns - 1), (size + 2) / (rows - 1)])
    shaken[1:-1, 1:-1] += rng.uniform(-0.3, 0.3, (rows - 2, columns - 2, 2)) * step
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return shaken.reshape(1, -1, 2), triangles


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    faces=st.integers(1, 3),
    size=st.sampled_from([1, 2, 7, 17, 33]),
    num_triangles=st.integers(1, 12),
    grid=st.sampled_from([0.0, 0.5, 1.0]),
    single=st.booleans(),
)
def test_agrees_with_its_twin(seed: int, faces: int, size: int, num_triangles: int, grid: float, single: bool) -> None:
    points, depth, triangles, values = soup(seed, faces, size, num_triangles, grid=grid)
    if single:
        points, depth, values = (a.astype(np.float32) for a in (points, depth, values))
    carried = np.concatenate([values, depth[..., None]], axis=2)
    expected, names = reference_raster.draw(points, depth, triangles, carried, size)
    picture, seen = draw(points, depth, triangles, carried, size)
    assert picture.dtype == carried.dtype
    np.testing.assert_array_equal(seen >= 0, names >= 0)
    np.testing.assert_allclose(picture[:, -1], expected[:, -1], rtol=1e-6)  # where two are as near, either may be seen
    same = np.broadcast_to((seen == names)[:, None], picture.shape)
    np.testing.assert_allclose(picture[same], expected[same], rtol=1e-5, atol=1e-3 if single else 1e-9)


@pytest.mark.parametrize("size", [16, 61, 128])
def test_a_mesh_has_no_holes_and_its_colours_no_seams(size: int) -> None:
    points, triangles = lattice(9, 14, size, seed=size)
    for shaken in (points, np.round(points), np.round(2.0 * points) / 2.0):  # on edges and corners too
        ramp = np.concatenate([shaken, shaken.sum(2, keepdims=True)], axis=2)
        picture, seen = draw(shaken, np.ones(shaken.shape[:2]), triangles, ramp, size)
        assert (seen >= 0).all()
        y, x = np.mgrid[:size, :size]
        np.testing.assert_allclose(picture[0], np.stack([x, y, x + y]), atol=1e-9)


def test_a_tilted_plane_has_its_depth_and_its_texture_in_perspective() -> None:
    """The plane z = 4 + x / 2 before a pinhole of focal length 40 at (20, 20): by hand, z = 4 / (1 - (u - 20) / 80)."""
    world = np.array([(-3, -3), (3, -3), (3, 3), (-3, 3)], np.float64)
    depth = 4.0 + 0.5 * world[:, 0]
    points = 20.0 + 40.0 * world / depth[:, None]
    values = np.concatenate([world, depth[:, None]], axis=1)
    picture, seen = draw(points[None], depth[None], np.array([(0, 1, 2), (0, 2, 3)]), values[None], 41)
    v, u = np.mgrid[:41, :41]
    z = 4.0 / (1.0 - (u - 20) / 80)
    x, y = (u - 20) * z / 40, (v - 20) * z / 40
    is_inside = (np.abs(x) <= 3) & (np.abs(y) <= 3)
    np.testing.assert_array_equal(seen[0] >= 0, is_inside)
    for channel, expected in enumerate((x, y, z)):
        np.testing.assert_allclose(picture[0, channel][is_inside], expected[is_inside], rtol=1e-12, atol=1e-12)


def test_pixel_centres_are_whole_numbers() -> None:
    square = np.array([[(1.6, 0.6), (3.4, 0.6), (3.4, 2.4), (1.6, 2.4)]])
    seen = rasterize(square, np.ones((1, 4)), np.array([(0, 1, 2), (0, 2, 3)]), 5)[0] >= 0
    assert np.argwhere(seen).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    published = square + 0.5  # counted from the corner, where the first centre is at 0.5
    assert [[y + 0.5, x + 0.5] for y, x in np.argwhere(seen)] == [
        [y, x]
        for y in np.arange(0.5, 5)
        for x in np.arange(0.5, 5)
        if published[0, :, 0].min() <= x <= published[0, :, 0].max()
        and published[0, :, 1].min() <= y <= published[0, :, 1].max()
    ]


def test_both_sides_are_drawn_and_the_nearer_one_is_seen_whatever_the_order() -> None:
    points = np.array([[(-9, -9), (30, -9), (-9, 30), (-9, -9), (-9, 30), (30, -9)]], np.float64)
    depth = np.array([[2.0, 2.0, 2.0, 3.0, 3.0, 3.0]])
    for triangles, front in (([(0, 1, 2), (3, 4, 5)], 0), ([(3, 4, 5), (0, 1, 2)], 1)):
        assert (rasterize(points, depth, np.array(triangles), 8) == front).all()


def test_of_equally_near_triangles_the_first_is_seen() -> None:
    points, triangles = np.array([[(-9, -9), (30, -9), (-9, 30)]], np.float64), np.zeros((3, 3), int) + np.arange(3)
    assert (rasterize(points, np.ones((1, 3)), triangles, 8) == 0).all()


@pytest.mark.parametrize(
    ("what", "value"),
    [("point", np.nan), ("point", np.inf), ("point", 1e9), ("depth", np.nan), ("depth", NEAR / 2), ("depth", -1.0)],
)
def test_a_triangle_with_an_impossible_corner_is_left_out_and_the_others_stay(what: str, value: float) -> None:
    points, depth, triangles, values = soup(5, 1, 21, 6)
    triangles = np.concatenate([triangles, [(0, 1, 2)]])
    spared = np.array([t for t in triangles if 0 not in t])
    expected, _ = draw(points, depth, spared, values, 21)
    if what == "point":
        points[0, 0, 1] = value
    else:
        depth[0, 0] = value
    np.testing.assert_array_equal(draw(points, depth, triangles, values, 21)[0], expected)


def test_a_triangle_without_area_is_left_out() -> None:
    points = np.array([[(0, 0), (4, 4), (8, 8), (0, 8)]], np.float64)
    assert (rasterize(points, np.ones((1, 4)), np.array([(0, 1, 2), (0, 0, 3)]), 9) == -1).all()


def test_no_faces_and_no_triangles_are_empty_pictures() -> None:
    picture, seen = draw(np.zeros((0, 5, 2)), np.zeros((0, 5)), np.array([(0, 1, 2)]), np.zeros((0, 5, 3)), 8)
    assert (picture.shape, seen.shape) == ((0, 3, 8, 8), (0, 8, 8))
    picture, seen = draw(np.zeros((2, 5, 2)), np.ones((2, 5)), np.zeros((0, 3), int), np.ones((2, 5, 3)), 8)
    assert (picture == 0).all()
    assert (seen == -1).all()


@pytest.mark.parametrize("num_threads", [1, 3, 8])
def test_how_rows_are_split_changes_nothing(monkeypatch: pytest.MonkeyPatch, num_threads: int) -> None:
    points, depth, triangles, values = soup(11, 3, 70, 40)
    expected = draw(points, depth, triangles, values, 70)
    monkeypatch.setattr("vidrestore.kernels.rasterize.num_threads", lambda: num_threads)
    monkeypatch.setattr(launch, "num_threads", lambda: num_threads)
    monkeypatch.setattr(launch, "_pool", None)
    for got, wanted in zip(draw(points, depth, triangles, values, 70), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("faces", [1, 3])
def test_gradients_are_the_differences(faces: int) -> None:
    points, depth, triangles, values = soup(3, faces, 12, 5)
    rng = np.random.default_rng(0)
    seen = rasterize(points, depth, triangles, 12)
    upstream = rng.normal(size=(faces, values.shape[2], 12, 12))
    d_points, d_depth, d_values = draw_gradients(seen, points, depth, triangles, values, upstream)
    assert np.abs(d_points).max() > 0
    step = 1e-6
    for array, gradient in ((points, d_points), (depth, d_depth), (values, d_values)):
        for at in rng.permutation(array.size)[:25]:
            losses = []
            for sign in (-1.0, 1.0):
                moved = array.copy()
                moved.flat[at] += sign * step
                picture, names = draw(*(moved if a is array else a for a in (points, depth, triangles, values)), 12)
                np.testing.assert_array_equal(names, seen)  # else the step went over a silhouette: choose another seed
                losses.append((picture * upstream).sum())
            np.testing.assert_allclose((losses[1] - losses[0]) / (2 * step), gradient.flat[at], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points_px": np.zeros((1, 4, 3))}, r"points must be \(B, N, 2\)"),
        ({"depth": np.ones((1, 3))}, r"depth \(B, N\)"),
        ({"triangles": np.zeros((2, 3))}, "whole numbers"),
        ({"triangles": np.array([(0, 1, 4)])}, "name vertices 0 to 4, there are 4"),
        ({"triangles": np.array([(0, 1, -1)])}, "name vertices -1 to 1, there are 4"),
        ({"values": np.zeros((1, 4, 3), np.int64)}, "float32 or float64"),
        ({"values": np.zeros((1, 5, 3))}, r"values must be \(1, 4, C\)"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    fitting: dict[str, object] = {
        "points_px": np.zeros((1, 4, 2)),
        "depth": np.ones((1, 4)),
        "triangles": np.array([(0, 1, 2)]),
        "values": np.zeros((1, 4, 3)),
        "size": 4,
    }
    with pytest.raises(KernelError, match=message):
        draw(**(fitting | change))  # type: ignore[arg-type]


def test_gradients_want_what_was_drawn() -> None:
    points, depth, triangles, values = soup(3, 1, 6, 2)
    seen = rasterize(points, depth, triangles, 6)
    with pytest.raises(KernelError, match="gradient must be"):
        draw_gradients(seen, points, depth, triangles, values, np.zeros((1, 4, 5, 6)))
    with pytest.raises(KernelError, match="triangles of this mesh"):
        draw_gradients(seen + 7, points, depth, triangles, values, np.zeros((1, 4, 6, 6)))
    with pytest.raises(KernelError, match="int32"):
        draw_gradients(seen.astype(np.int64), points, depth, triangles, values, np.zeros((1, 4, 6, 6)))  # type: ignore[arg-type]
