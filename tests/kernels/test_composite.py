from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plane_formats import GRAY, about, affines, flat_planes, pixel_formats, random_planes, yuv

from vidrestore.errors import KernelError
from vidrestore.kernels import composite, reference, sample_crops
from vidrestore.kernels.colour import planes_from_rgb
from vidrestore.types import PixelFormat

SIZES = st.sampled_from([(1, 1), (2, 1), (1, 7), (5, 4), (17, 31), (33, 18)])


def noise(seed: int, count: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random deltas and masks with many exact zeros and ones."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(0, 0.4, (count, 3, size, size)).astype(np.float32)
    masks = np.clip(rng.normal(0.3, 1.0, (count, size, size)), 0, 1).astype(np.float32)
    return deltas, masks


def disc(size: int) -> NDArray[np.float32]:
    """(1, S, S): 1 in the middle, 0 near the border, soft between."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.clip((0.4 * size - np.hypot(x, y)) / (0.15 * size), 0, 1)[None].astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 6, 13]))
def test_agrees_with_its_twin(
    data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    seed = data.draw(st.integers(0, 9))
    planes = random_planes(pixel_format, *shape, seed)
    deltas, masks = noise(seed, 2, size)
    masks = masks[: data.draw(st.sampled_from([1, 2]))]
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(2)])
    strength = data.draw(st.sampled_from([(1.0, 1.0), (0.5, 0.9), (0.0, 1.0)]))
    ours = composite(planes, pixel_format, deltas, masks, maps, strength)
    exact = reference.composite(planes, pixel_format, deltas, masks, maps, strength)
    for p, (plane, source, value) in enumerate(zip(ours, planes, exact, strict=True)):
        twin = reference.to_codes(value, source, pixel_format, p).astype(int)
        assert plane.dtype == source.dtype
        # what float32 may round the other way lies within this of a half
        near_half = np.abs(value - np.floor(value) - 0.5) < 1e-3 + 4e-6 * (1 << pixel_format.depth)
        wrong = np.abs(plane.astype(int) - twin)
        assert wrong.max() <= 1
        assert not wrong[~near_half].any()


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.0, 1.3, 2.4, 5.0])
def test_a_face_of_any_size_agrees_within_a_level(scale: float) -> None:
    """Each way of summing: a pixel wide, a little wider, as wide as it comes, for luma and for chroma."""
    pixel_format = yuv("420")
    planes = random_planes(pixel_format, 90, 120, seed=3)
    size = 64
    deltas, _ = noise(4, 1, size)
    m = about((60.3, 44.6), (31.5, 31.5), scale, 0.09)[None]
    ours = composite(planes, pixel_format, deltas, disc(size), m, [0.9])
    exact = reference.composite(planes, pixel_format, deltas, disc(size), m, [0.9])
    wrong = np.concatenate(
        [
            np.abs(plane.astype(int) - reference.to_codes(value, source, pixel_format, p)).ravel()
            for p, (plane, source, value) in enumerate(zip(ours, planes, exact, strict=True))
        ]
    )
    assert wrong.max() <= 1
    assert (wrong > 0).mean() < 1e-3
    assert any((plane != source).any() for plane, source in zip(ours, planes, strict=True))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats())
def test_no_difference_gives_the_very_same_planes(data: st.DataObject, pixel_format: PixelFormat) -> None:
    planes = random_planes(pixel_format, 14, 22, seed=0)
    m = data.draw(affines(14, 22, 8))[None]
    crop = sample_crops(planes, pixel_format, m, 8)
    out = composite(planes, pixel_format, crop - crop, np.ones((1, 8, 8), np.float32), m, [1.0])
    assert all(a is b for a, b in zip(out, planes, strict=True))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), angle=st.floats(-3, 3))
def test_samples_without_mask_are_untouched(data: st.DataObject, pixel_format: PixelFormat, angle: float) -> None:
    planes = random_planes(pixel_format, 60, 80, seed=1)
    kept = [plane.copy() for plane in planes]
    scale = 2.0 ** data.draw(st.floats(-2, 2))
    m = about((41.3, 28.8), (15.5, 15.5), scale, angle)[None]
    out = composite(planes, pixel_format, np.full((1, 3, 32, 32), 0.3, np.float32), disc(32), m, [1.0])
    for p, (plane, source, copy) in enumerate(zip(out, planes, kept, strict=True)):
        np.testing.assert_array_equal(source, copy)
        step_x, step_y = (1 << s for s in pixel_format.chroma_shift) if p in (1, 2) else (1, 1)
        site_x, site_y = pixel_format.siting if p in (1, 2) else (0.0, 0.0)
        y, x = np.indices(plane.shape)
        distance = np.hypot(x * step_x + site_x - 41.3, y * step_y + site_y - 28.8)
        # the disc ends 12.8 crop pixels from its centre, and the filter reaches 2 footprints along each axis
        reach = (12.8 + 2 * np.sqrt(2) * max(1.0, scale * max(step_x, step_y))) / scale
        np.testing.assert_array_equal(plane[distance > reach], source[distance > reach])


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "411"])
@pytest.mark.parametrize(
    ("scale", "angle"), [(0.25, 0.0), (0.25, 0.5), (1.0, 0.3), (2.0, -1.0), (4.0, 0.0), (4.0, 2.0)]
)
def test_a_blob_arrives_at_its_place_with_its_size(subsampling: str, scale: float, angle: float) -> None:
    pixel_format = yuv(subsampling, 16, full_range=True)
    size = 64 if scale < 1 else 192
    spread = 5.0 * max(1.0, scale) if scale >= 1 else 3.0
    v, u = np.mgrid[:size, :size] - (size / 2 + np.array([0.3, -0.4]))[:, None, None]
    blob = 0.4 * np.exp(-(u**2 + v**2) / (2 * spread**2))
    deltas = (blob * np.array([1.0, 0.3, -0.5])[:, None, None])[None].astype(np.float32)
    m = about((60.37, 52.81), (size / 2 - 0.4, size / 2 + 0.3), scale, angle)
    planes = flat_planes(pixel_format, 110, 120, 1 << 15)
    out = composite(planes, pixel_format, deltas, np.ones((1, size, size), np.float32), m[None], [1.0])
    codes = planes_from_rgb(pixel_format)[0] @ [1.0, 0.3, -0.5]
    for p in range(3):
        change = out[p].astype(float) - 32768.0
        step_x, step_y = (1 << s for s in pixel_format.chroma_shift) if p else (1, 1)
        site_x, site_y = pixel_format.siting if p else (0.0, 0.0)
        y, x = np.indices(change.shape)
        centroid = np.array([(change * x).sum() * step_x, (change * y).sum() * step_y]) / change.sum()
        np.testing.assert_allclose(centroid + np.array([site_x, site_y]), (60.37, 52.81), atol=0.05)
        total = blob.sum() * codes[p] / scale**2 / (step_x * step_y)
        assert change.sum() == pytest.approx(total, rel=0.01)


def test_overlapping_faces_do_not_add_up() -> None:
    planes = flat_planes(GRAY, 40, 40, 100)
    deltas = np.full((3, 3, 24, 24), 0.2, np.float32)
    maps = np.stack([about((20, 20), (12, 12), 1.0 - 0.01 * i) for i in range(3)])
    out = composite(planes, GRAY, deltas, disc(24), maps, [1.0, 0.7, 1.0])
    assert out[0].max() == 100 + round(0.2 * 127.5)


def test_the_larger_face_lies_on_top_in_any_order() -> None:
    planes = flat_planes(GRAY, 60, 60, 100)
    deltas = np.stack([np.full((3, 24, 24), d, np.float32) for d in (0.2, -0.2)])
    maps = np.stack([about((30, 30), (12, 12), s) for s in (1.0, 0.5)])
    forth = composite(planes, GRAY, deltas, disc(24), maps, [1.0, 1.0])[0]
    back = composite(planes, GRAY, deltas[::-1], disc(24), maps[::-1], [1.0, 1.0])[0]
    np.testing.assert_array_equal(forth, back)
    assert forth[30, 30] == 75  # 100 - 25.5, halves are rounded up


def test_far_faces_in_one_row_do_not_disturb_each_other() -> None:
    planes = random_planes(GRAY, 30, 200, seed=8)
    deltas, _ = noise(3, 3, 16)
    maps = np.stack([about((x, 15), (8, 8), 1.0) for x in (180, 20, 100)])
    together = composite(planes, GRAY, deltas, disc(16), maps, [1.0, 1.0, 1.0])
    alone = planes
    for i in range(3):
        alone = composite(alone, GRAY, deltas[i : i + 1], disc(16), maps[i : i + 1], [1.0])
    np.testing.assert_array_equal(together[0], alone[0])


@pytest.mark.parametrize(
    ("source", "delta", "expected"), [(200, 1.0, 235), (250, 1.0, 250), (30, -1.0, 16), (5, -1.0, 5)]
)
def test_limited_range_is_kept_but_what_was_beyond_it_stays(source: int, delta: float, expected: int) -> None:
    pixel_format = yuv("444")
    planes = flat_planes(pixel_format, 30, 30, source)
    m = about((15, 15), (8, 8), 1.0)[None]
    out = composite(planes, pixel_format, np.full((1, 3, 16, 16), delta, np.float32), disc(16), m, [1.0])
    assert out[0][15, 15] == expected


def test_strength_scales_the_change() -> None:
    planes = flat_planes(GRAY, 30, 30, 100)
    m = about((15, 15), (8, 8), 1.0)[None]
    delta = np.full((1, 3, 16, 16), 40 / 127.5, np.float32)
    values = [composite(planes, GRAY, delta, disc(16), m, [s])[0][15, 15] for s in (0.0, 0.25, 0.5, 1.0)]
    assert values == [100, 110, 120, 140]


def test_alpha_and_unreached_planes_are_the_same_objects() -> None:
    pixel_format = yuv("420", has_alpha=True)
    planes = random_planes(pixel_format, 30, 30, seed=2)
    delta = np.full((1, 3, 16, 16), 0.2, np.float32)
    near, far = (about(point, (8, 8), 1.0)[None] for point in ((15, 15), (500, 15)))
    changed = composite(planes, pixel_format, delta, disc(16), near, [1.0])
    assert changed[3] is planes[3]
    assert changed[0] is not planes[0]
    assert all(
        a is b for a, b in zip(composite(planes, pixel_format, delta, disc(16), far, [1.0]), planes, strict=True)
    )
    nobody = composite(planes, pixel_format, delta[:0], disc(16), near[:0], [])
    assert all(a is b for a, b in zip(nobody, planes, strict=True))


def test_strided_read_only_planes_give_the_same() -> None:
    planes = random_planes(GRAY, 30, 40, seed=6)
    view = np.pad(planes[0], 5)[5:-5, 5:-5]
    view.flags.writeable = False
    delta, _ = noise(1, 1, 16)
    m = about((15, 15), (8, 8), 0.7, 0.4)[None]
    ours, plain = (composite(p, GRAY, delta, disc(16), m, [1.0])[0] for p in ((view,), planes))
    np.testing.assert_array_equal(ours, plain)
    assert ours.flags.writeable


DELTA, MAP = np.full((1, 3, 8, 8), 0.1, np.float32), about((5, 5), (4, 4), 1.0)[None]
BROKEN = DELTA.copy()
BROKEN[0, 1, 4, 4] = np.inf


@pytest.mark.parametrize(
    ("deltas", "masks", "maps", "strength", "message"),
    [
        (DELTA[0], disc(8), MAP, [1.0], "deltas must be"),
        (DELTA, disc(8)[0], MAP, [1.0], "masks must be"),
        (DELTA, disc(9), MAP, [1.0], "masks must be"),
        (DELTA, disc(8) * 1.5, MAP, [1.0], r"masks must lie in \[0, 1\]"),
        (DELTA, disc(8) * np.nan, MAP, [1.0], r"masks must lie in \[0, 1\]"),
        (DELTA, disc(8), MAP, 1.0, "strength must be"),
        (DELTA, disc(8), MAP, [1.1], r"strength must lie in \[0, 1\]"),
        (DELTA, disc(8), np.full((1, 2, 3), np.inf), [1.0], "not finite"),
        (BROKEN, disc(8), MAP, [1.0], "deltas hold values that are not finite"),
        (BROKEN * np.nan, disc(8), MAP, [1.0], "deltas hold values that are not finite"),
    ],
)
def test_wrong_arguments_are_refused(
    deltas: NDArray[np.float32], masks: NDArray[np.float32], maps: object, strength: object, message: str
) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(KernelError, match=message):
        composite(flat_planes(GRAY, 12, 12, 9), GRAY, deltas, masks, maps, strength)  # type: ignore[arg-type]
