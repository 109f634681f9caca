"""The CUDA sources' arithmetic, run on the CPU against the twins; no GPU is needed."""

from __future__ import annotations

import numpy as np
import pytest
from host_backend import HostBackend, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plane_formats import GRAY, about, affines, pixel_formats, random_planes, yuv

from vidrestore.errors import KernelError
from vidrestore.kernels import composite, reference, sample_crops
from vidrestore.kernels.device import DeviceArray, composite_on, cuda_source, sample_crops_on
from vidrestore.types import PixelFormat, Plane

pytestmark = needs_compiler

SIZES = st.sampled_from([(1, 1), (2, 1), (1, 7), (5, 4), (17, 31), (33, 18), (9, 65)])


def sampled(
    planes: tuple[Plane, ...], pixel_format: PixelFormat, maps: NDArray[np.float64], size: int
) -> NDArray[np.float32]:
    crops = np.full((len(maps), 3, size, size), np.nan, np.float32)
    on_device = [DeviceArray.of(plane) for plane in planes]
    sample_crops_on(HostBackend(), on_device, pixel_format, maps, DeviceArray.of(crops))
    return crops


def composited(
    planes: tuple[Plane, ...],
    pixel_format: PixelFormat,
    deltas: NDArray[np.float32],
    masks: NDArray[np.float32],
    maps: NDArray[np.float64],
    strength: object,
    usable: NDArray[np.uint8] | None = None,
) -> tuple[Plane, ...]:
    out = tuple(plane.copy() for plane in planes)
    backend = HostBackend()
    composite_on(
        backend,
        [DeviceArray.of(plane) for plane in out],
        pixel_format,
        DeviceArray.of(deltas),
        DeviceArray.of(masks),
        maps,
        strength,  # type: ignore[arg-type]
        None if usable is None else DeviceArray.of(usable),
    )
    assert len(backend.launches) <= 1  # all faces and planes together
    return out


@settings(max_examples=40, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 5, 12, 33]))
def test_sampling_agrees_with_its_twins(
    data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    planes = random_planes(pixel_format, *shape, seed=data.draw(st.integers(0, 9)))
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(2)])
    crops = sampled(planes, pixel_format, maps, size)
    np.testing.assert_allclose(crops, sample_crops(planes, pixel_format, maps, size), atol=2e-4)
    if size <= 12:
        np.testing.assert_allclose(crops, reference.sample_crops(planes, pixel_format, maps, size), atol=2e-4)


@pytest.mark.parametrize("transfer", [16, 18])
def test_sampling_shows_hdr_tone_mapped(transfer: int) -> None:
    pixel_format = yuv("420", 10, matrix="bt2020", transfer=transfer)
    planes = random_planes(pixel_format, 40, 60, seed=1)
    maps = np.stack([about((30, 20), (12, 12), 0.8, 0.2), about((25, 20), (12, 12), 0.1)])
    # the curve is steep near black: a float32 place is worth some 1e-4 there
    np.testing.assert_allclose(
        sampled(planes, pixel_format, maps, 24), sample_crops(planes, pixel_format, maps, 24), atol=1e-3
    )


def test_sampling_makes_the_means_of_a_plane_once() -> None:
    planes = random_planes(yuv(), 200, 200, seed=1)
    backend = HostBackend()
    maps = np.stack([about((x, 100), (8, 8), 0.1) for x in (60, 100, 140)])
    crops = np.empty((3, 3, 16, 16), np.float32)
    sample_crops_on(backend, [DeviceArray.of(p) for p in planes], yuv(), maps, DeviceArray.of(crops))
    assert backend.launches == ["means_u8", "means_u8", "means_u8", "sample_u8"]


@pytest.mark.parametrize("depth", [8, 10])
def test_semi_planar_chroma_is_read_and_written_where_it_lies(depth: int) -> None:
    pixel_format = yuv("420", depth)
    planes = random_planes(pixel_format, 64, 80, seed=2)
    joined = np.stack(planes[1:], -1)
    views = (planes[0].copy(), joined[..., 0], joined[..., 1])
    maps = np.stack([about((40, 30), (12, 12), 0.5, 0.2), about((30, 30), (12, 12), 0.12, 0.2)])
    np.testing.assert_array_equal(sampled(views, pixel_format, maps, 24), sampled(planes, pixel_format, maps, 24))
    delta = np.empty((2, 3, 24, 24), np.float32)
    delta[...] = np.array([0.3, -0.1, 0.2])[None, :, None, None]
    masks = np.ones((1, 24, 24), np.float32)
    plain = composited(planes, pixel_format, delta, masks, maps, [1.0, 0.5])
    composite_on(
        HostBackend(),
        [DeviceArray.of(view) for view in views],
        pixel_format,
        DeviceArray.of(delta),
        DeviceArray.of(masks),
        maps,
        [1.0, 0.5],
    )
    for view, plane in zip(views, plain, strict=True):
        np.testing.assert_array_equal(view, plane)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 6, 13]))
def test_compositing_agrees_with_its_twins(
    data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    seed = data.draw(st.integers(0, 9))
    rng = np.random.default_rng(seed)
    planes = random_planes(pixel_format, *shape, seed)
    count = data.draw(st.integers(1, 4))
    deltas = rng.normal(0, 0.4, (count, 3, size, size)).astype(np.float32)
    masks = np.clip(rng.normal(0.3, 1.0, (data.draw(st.sampled_from([1, count])), size, size)), 0, 1).astype(np.float32)
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(count)])
    strength = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=count, max_size=count))
    ours = composited(planes, pixel_format, deltas, masks, maps, strength)
    numba = composite(planes, pixel_format, deltas, masks, maps, strength)
    exact = reference.composite(planes, pixel_format, deltas, masks, maps, strength)
    for p, (plane, twin, source, value) in enumerate(zip(ours, numba, planes, exact, strict=True)):
        # what float32 may round the other way lies within this of a half
        near_half = np.abs(value - np.floor(value) - 0.5) < 1e-3 + 4e-6 * (1 << pixel_format.depth)
        for other in (twin, reference.to_codes(value, source, pixel_format, p)):
            wrong = np.abs(plane.astype(int) - other.astype(int))
            assert wrong.max() <= 1
            assert not wrong[~near_half].any()


def test_compositing_a_crowd_is_one_launch_and_one_painting_per_sample() -> None:
    pixel_format = yuv("420")
    planes = random_planes(pixel_format, 90, 130, seed=4)
    rng = np.random.default_rng(0)
    deltas = rng.normal(0, 0.2, (9, 3, 32, 32)).astype(np.float32)
    maps = np.stack([about((20 + 11 * i, 45 + 3 * i), (16, 16), 0.6 + 0.1 * i, 0.1 * i) for i in range(9)])
    masks = np.ones((1, 32, 32), np.float32)
    ours = composited(planes, pixel_format, deltas, masks, maps, np.full(9, 0.8))
    twin = composite(planes, pixel_format, deltas, masks, maps, np.full(9, 0.8))
    for plane, other in zip(ours, twin, strict=True):
        assert np.abs(plane.astype(int) - other.astype(int)).max() <= 1
        assert (plane != other).mean() < 1e-3


def test_a_face_that_is_not_usable_leaves_no_trace_even_of_nan() -> None:
    planes = random_planes(GRAY, 40, 40, seed=4)
    deltas = np.full((2, 3, 16, 16), 0.3, np.float32)
    deltas[1] = np.nan
    maps = np.stack([about((15, 20), (8, 8), 1.0), about((24, 20), (8, 8), 0.9)])
    masks = np.ones((1, 16, 16), np.float32)
    ours = composited(planes, GRAY, deltas, masks, maps, [1.0, 1.0], np.array([1, 0], np.uint8))
    alone = composite(planes, GRAY, deltas[:1], masks, maps[:1], [1.0])
    np.testing.assert_array_equal(ours[0], alone[0])


def test_no_face_is_no_launch() -> None:
    planes = random_planes(GRAY, 9, 9, seed=4)
    empty = np.zeros((0, 3, 8, 8), np.float32)
    assert sampled(planes, GRAY, np.zeros((0, 2, 3)), 8).shape == (0, 3, 8, 8)
    for maps, strength, deltas in (
        (np.zeros((0, 2, 3)), [], empty),
        (about((4, 4), (4, 4), 1.0)[None], [0.0], np.ones((1, 3, 8, 8), np.float32)),
        (about((400, 4), (4, 4), 1.0)[None], [1.0], np.ones((1, 3, 8, 8), np.float32)),
    ):
        out = composited(planes, GRAY, deltas, np.ones((1, 8, 8), np.float32), maps, strength)
        np.testing.assert_array_equal(out[0], planes[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deltas": np.ones((2, 3, 8, 8), np.float32)}, "deltas must be"),
        ({"deltas": np.ones((1, 3, 8, 8))}, "deltas must be"),
        ({"deltas": np.ones((1, 3, 8, 16), np.float32)[..., ::2]}, "contiguous"),
        ({"masks": np.ones((1, 9, 9), np.float32)}, "masks must be"),
        ({"strength": [1.5]}, "strength must be"),
        ({"strength": [np.nan]}, "strength must be"),
        ({"usable": np.ones(2, np.uint8)}, "usable must be"),
        ({"planes": (np.zeros((9, 9), np.uint16),)}, "uint8, got"),
        ({"maps": np.zeros((1, 2, 3))}, "singular"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "planes": random_planes(GRAY, 9, 9, seed=4),
        "pixel_format": GRAY,
        "deltas": np.ones((1, 3, 8, 8), np.float32),
        "masks": np.ones((1, 8, 8), np.float32),
        "maps": about((4, 4), (4, 4), 1.0)[None],
        "strength": [1.0],
    }
    with pytest.raises(KernelError, match=message):
        composited(**(arguments | changes))  # type: ignore[arg-type]


def test_an_object_without_memory_is_refused() -> None:
    with pytest.raises(KernelError, match="list is no array"):
        DeviceArray.of([1, 2])


def test_sources_are_one_text_without_includes() -> None:
    assert "#include" not in cuda_source("sample") + cuda_source("composite")
