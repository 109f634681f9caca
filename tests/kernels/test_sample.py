from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_formats import GBR16, GRAY, SUBSAMPLINGS, about, affines, flat_planes, pixel_formats, random_planes, yuv

from vidrestore.errors import KernelError
from vidrestore.kernels import launch, reference, sample_crops
from vidrestore.kernels.colour import planes_from_rgb, rgb_from_planes
from vidrestore.types import PixelFormat

SIZES = st.sampled_from([(1, 1), (2, 1), (1, 7), (5, 4), (17, 31), (33, 18)])
IDENTITY = about((0, 0), (0, 0), 1.0)[None]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 5, 12]))
def test_agrees_with_its_twin(
    data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    planes = random_planes(pixel_format, *shape, seed=data.draw(st.integers(0, 9)))
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(2)])
    ours = sample_crops(planes, pixel_format, maps, size)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference.sample_crops(planes, pixel_format, maps, size), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), code=st.integers(1, 255))
def test_a_constant_stays_constant(data: st.DataObject, pixel_format: PixelFormat, code: int) -> None:
    planes = flat_planes(pixel_format, 12, 19, code << (pixel_format.depth - 8))
    crop = sample_crops(planes, pixel_format, data.draw(affines(12, 19, 8))[None], 8)[0]
    matrix, offset = rgb_from_planes(pixel_format)
    colour = np.clip(matrix.sum(1) * float(planes[0][0, 0]) + offset, -1, 1)
    np.testing.assert_allclose(crop, np.broadcast_to(colour[:, None, None], crop.shape), atol=2e-5)


def test_the_identity_gives_the_samples_themselves() -> None:
    planes = random_planes(GBR16, 16, 16, seed=1)
    crop = sample_crops(planes, GBR16, IDENTITY, 16)[0]
    np.testing.assert_allclose(crop, np.stack([planes[2], planes[0], planes[1]]) / 32767.5 - 1.0, atol=1e-5)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("subsampling", sorted(SUBSAMPLINGS))
def test_chroma_is_where_its_siting_says(subsampling: str, left: bool) -> None:
    pixel_format = yuv(subsampling, 16, left=left, full_range=True)
    shift, siting = pixel_format.chroma_shift, pixel_format.siting
    y, x = (np.arange(n)[:, None, None] for n in pixel_format.plane_size(1, 64, 64))
    ramp = 20000 + 180 * (x[:, 0].T * (1 << shift[0]) + siting[0]) + 90 * (y[:, 0] * (1 << shift[1]) + siting[1])
    planes = (np.full((64, 64), 30000, np.uint16), ramp.astype(np.uint16), ramp.astype(np.uint16))
    crop = sample_crops(planes, pixel_format, about((32.3, 31.1), (7.5, 7.5), 4.0, 0.3)[None], 16)[0].astype(float)
    matrix, offset = planes_from_rgb(pixel_format)
    codes = np.einsum("pc,chw->phw", matrix, crop) + offset[:, None, None]
    v, u = np.mgrid[:16, :16] - 7.5
    at_x, at_y = 32.3 + (np.cos(0.3) * u + np.sin(0.3) * v) / 4, 31.1 + (np.cos(0.3) * v - np.sin(0.3) * u) / 4
    np.testing.assert_allclose(codes[1], 20000 + 180 * at_x + 90 * at_y, atol=2.0)  # the ramp itself was rounded


def test_the_filter_does_not_jump_at_scale_one() -> None:
    planes = random_planes(GRAY, 40, 40, seed=2)
    finer, coarser = (
        sample_crops(planes, GRAY, about((20.2, 19.7), (12, 12), s, 0.2)[None], 24) for s in (1 + 1e-5, 1 - 1e-5)
    )
    np.testing.assert_allclose(finer, coarser, atol=2e-3)


@pytest.mark.parametrize("footprint", [4.0, 5.3, 7.9, 8.0, 13.0, 30.0])
def test_means_of_blocks_stay_near_the_wide_filter(footprint: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(600)[:, None], np.fft.fftfreq(600))
    frequency[0, 0] = 1.0
    natural = np.fft.ifft2(np.fft.fft2(rng.normal(size=(600, 600))) / frequency).real  # amplitude falls as 1 / f
    plane = np.clip(128 + 40 * natural / natural.std(), 0, 255).astype(np.uint8)
    size = int(480 / footprint)
    m = about((300.3, 299.4), (size / 2, size / 2), 1 / footprint, 0.0 if footprint == 8.0 else 0.3)[None]
    ours = sample_crops((plane,), GRAY, m, size)
    monkeypatch.setattr(launch, "WIDEST_FILTER", np.inf)
    error = ours - sample_crops((plane,), GRAY, m, size)
    assert 10 * np.log10(4 / np.mean(error**2)) > 46.0
    assert np.abs(error).max() > 0.0  # it is not the same code


def test_fine_patterns_average_out_when_shrunk() -> None:
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    crop = sample_crops((board,), GRAY, about((128, 128), (16, 16), 1 / 7.3, 0.1)[None], 32)
    np.testing.assert_allclose(crop, 0.0, atol=0.01)


def test_beyond_the_border_lies_the_edge_sample() -> None:
    plane = random_planes(GRAY, 9, 9, seed=4)[0]
    crop = sample_crops((plane,), GRAY, about((-5000, -5000), (4, 4), 1.0)[None], 9)
    np.testing.assert_allclose(crop, plane[0, 0] / 127.5 - 1.0, atol=1e-6)


def test_colours_out_of_range_are_clipped() -> None:
    pixel_format = yuv()
    crops = sample_crops(flat_planes(pixel_format, 8, 8, 255), pixel_format, IDENTITY, 8)
    assert crops.max() == 1.0


def test_strides_and_flags_of_the_planes_do_not_matter() -> None:
    pixel_format = yuv()
    planes = random_planes(pixel_format, 20, 30, seed=5)
    padded = [np.pad(plane, ((0, 3), (0, 7))) for plane in planes]
    views = tuple(big[: plane.shape[0], : plane.shape[1]] for big, plane in zip(padded, planes, strict=True))
    for view in views:
        view.flags.writeable = False
    m = about((15, 10), (8, 8), 0.6, 0.4)[None]
    np.testing.assert_array_equal(sample_crops(views, pixel_format, m, 16), sample_crops(planes, pixel_format, m, 16))


def test_no_maps_give_no_crops() -> None:
    assert sample_crops(random_planes(GRAY, 4, 4, 0), GRAY, np.zeros((0, 2, 3)), 8).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("planes", "maps", "size", "message"),
    [
        ((np.zeros((4, 4), np.uint16),), IDENTITY, 8, "must be .* uint8, got .* uint16"),
        ((np.zeros((4, 4), np.uint8),) * 2, IDENTITY, 8, "has 1 planes, got 2"),
        ((np.zeros((0, 4), np.uint8),), IDENTITY, 8, "not empty"),
        ((np.zeros((4, 4), np.uint8),), IDENTITY[0], 8, r"must be \(B, 2, 3\)"),
        ((np.zeros((4, 4), np.uint8),), IDENTITY * np.nan, 8, "not finite"),
        ((np.zeros((4, 4), np.uint8),), IDENTITY * 0, 8, "singular"),
        ((np.zeros((4, 4), np.uint8),), IDENTITY, 0, "size must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(planes: object, maps: object, size: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        sample_crops(planes, GRAY, maps, size)  # type: ignore[arg-type]
