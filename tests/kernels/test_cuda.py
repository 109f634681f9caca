"""The CUDA kernels on a GPU against their twins; ``test_cuda_on_host.py`` runs the same text without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_formats import about, affines, pixel_formats, random_planes, yuv

from vidrestore.kernels import composite, sample_crops
from vidrestore.kernels.device import composite_on, sample_crops_on
from vidrestore.lanes import CudaLanes, as_device_array
from vidrestore.types import PixelFormat

pytestmark = pytest.mark.needs_cuda

SIZES = st.sampled_from([(1, 1), (2, 1), (1, 7), (5, 4), (17, 31), (33, 18), (9, 65), (257, 130)])


@pytest.fixture(scope="module")
def lanes() -> CudaLanes:
    pytest.importorskip("cupy")
    return CudaLanes(torch.device("cuda"))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 5, 33, 64]))
def test_sampling_agrees_with_the_cpu(
    lanes: CudaLanes, data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    planes = random_planes(pixel_format, *shape, seed=data.draw(st.integers(0, 9)))
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(3)])
    with lanes.on("network"):
        there = [torch.from_numpy(plane).to(lanes.device) for plane in planes]
        crops = torch.full((3, 3, size, size), float("nan"), device=lanes.device)
        sample_crops_on(lanes, [as_device_array(plane) for plane in there], pixel_format, maps, as_device_array(crops))
        ours = crops.cpu().numpy()
    np.testing.assert_allclose(ours, sample_crops(planes, pixel_format, maps, size), atol=2e-4)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), pixel_format=pixel_formats(), shape=SIZES, size=st.sampled_from([1, 6, 33]))
def test_compositing_agrees_with_the_cpu(
    lanes: CudaLanes, data: st.DataObject, pixel_format: PixelFormat, shape: tuple[int, int], size: int
) -> None:
    seed = data.draw(st.integers(0, 9))
    rng = np.random.default_rng(seed)
    planes = random_planes(pixel_format, *shape, seed)
    count = data.draw(st.integers(1, 4))
    deltas = rng.normal(0, 0.4, (count, 3, size, size)).astype(np.float32)
    masks = np.clip(rng.normal(0.3, 1.0, (count, size, size)), 0, 1).astype(np.float32)
    maps = np.stack([data.draw(affines(*shape, size)) for _ in range(count)])
    strength = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=count, max_size=count))
    with lanes.on("network"):
        there = [torch.from_numpy(plane.copy()).to(lanes.device) for plane in planes]
        arrays = [as_device_array(plane) for plane in there]
        on_device = [torch.from_numpy(array).to(lanes.device) for array in (deltas, masks)]
        changes, shown = (as_device_array(array) for array in on_device)
        composite_on(lanes, arrays, pixel_format, changes, shown, maps, strength)
        ours = [plane.cpu().numpy() for plane in there]
    for plane, twin in zip(ours, composite(planes, pixel_format, deltas, masks, maps, strength), strict=True):
        wrong = np.abs(plane.astype(int) - twin.astype(int))
        assert wrong.max() <= 1
        assert (wrong > 0).mean() <= 0.02 or wrong.sum() <= 1  # halves that float32 rounds the other way


def test_launches_follow_one_another_on_their_lane(lanes: CudaLanes) -> None:
    """What is read was written by the launch before it, a hundred times over, with parcels used again."""
    pixel_format = yuv("420")
    planes = random_planes(pixel_format, 120, 160, seed=0)
    maps = about((80, 60), (16, 16), 0.5)[None]
    with lanes.on("network"):
        there = [torch.from_numpy(plane.copy()).to(lanes.device) for plane in planes]
        arrays = [as_device_array(plane) for plane in there]
        delta = torch.full((1, 3, 32, 32), 2.0 / 219.0, device=lanes.device)
        mask = torch.ones(1, 32, 32, device=lanes.device)
        for _ in range(100):
            composite_on(lanes, arrays, pixel_format, as_device_array(delta), as_device_array(mask), maps, [1.0])
        luma = there[0].cpu().numpy()
    inside = np.s_[50:70, 70:90]
    expected = np.maximum(planes[0][inside].astype(int), np.minimum(planes[0][inside].astype(int) + 100, 235))
    np.testing.assert_array_equal(luma[inside], expected)
