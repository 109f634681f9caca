from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from turned_heads import head

from vidrestore.blend.compositor import Compositor
from vidrestore.blend.occluders import CropPlace
from vidrestore.blend.resident import ResidentBlend
from vidrestore.config import BlendOptions
from vidrestore.kernels import signal_delta
from vidrestore.types import Crop, Frame, PixelFormat, Restoration

SDR = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5))
HLG = PixelFormat("yuv420p10le", "yuv", 10, (1, 1), (0.0, 0.5), matrix="bt2020", transfer=18)
PQ = PixelFormat("yuv420p10le", "yuv", 10, (1, 1), (0.0, 0.5), matrix="bt2020", transfer=16)


def pair(size: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A smooth picture, and the same with detail, a shift of colour and a patch that disagrees."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    degraded = 0.4 * np.sin(6 * x[None] + np.arange(3)[:, None, None]) * np.cos(5 * y) - 0.1
    restored = degraded + rng.normal(0, 0.05, (3, size, size)) + np.array([0.1, 0.0, -0.1])[:, None, None]
    restored[:, : size // 3, : size // 3] += 0.9
    return degraded.astype(np.float32), np.clip(restored, -1, 1).astype(np.float32)


def on_host(
    blend: Compositor, frame: Frame, restoration: Restoration
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mask = blend._mask(frame, restoration)
    return blend._delta(frame, restoration, mask), mask


def frame_of(pixel_format: PixelFormat) -> Frame:
    planes = tuple(np.zeros(pixel_format.plane_size(p, 300, 400), pixel_format.dtype) for p in range(3))
    return Frame(0, 0, Fraction(1, 25), planes, pixel_format)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize("pixel_format", [SDR, HLG, PQ], ids=["sdr", "hlg", "pq"])
@pytest.mark.parametrize("options", [BlendOptions(), BlendOptions(colour=1.0, feather=0.3)], ids=["damped", "full"])
def test_masks_and_differences_are_those_of_the_compositor(
    size: int, pixel_format: PixelFormat, options: BlendOptions
) -> None:
    frame = frame_of(pixel_format)
    inside = np.array([[size / 200, 0, -size / 4], [0, size / 200, -size / 5]])
    cut = np.array([[size / 200, 0, size / 3], [0, size / 200, -size / 5]])  # a third lies left of the frame
    pairs = [pair(size, seed) for seed in range(2)]
    maps = np.stack([inside, cut])
    degraded, restored = (torch.from_numpy(np.stack([p[i] for p in pairs])) for i in (0, 1))
    change = ResidentBlend(options).change(degraded, restored, maps, (300, 400), pixel_format)
    for i, (a, b) in enumerate(pairs):
        restoration = Restoration(Crop(0, 0, a, maps[i]), b)
        delta, mask = on_host(Compositor(options), frame, restoration)
        assert 0.0 < mask.mean() < 1.0
        np.testing.assert_allclose(change.masks[i].numpy(), mask, atol=2e-5)
        np.testing.assert_allclose(change.deltas[i].numpy(), delta, atol=2e-4 if pixel_format is PQ else 5e-5)
    assert change.usable.tolist() == [1, 1]


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("feather", [0.05, 0.12])
def test_meshes_and_what_covered_them_are_those_of_the_compositor(size: int, feather: float) -> None:
    options = BlendOptions(feather=feather, occluder_frames=4)
    frame = frame_of(SDR)
    inside = np.array([[size / 200, 0, -size / 4], [0, size / 200, -size / 5]])
    cut = np.array([[size / 200, 0, size / 3], [0, size / 200, -size / 5]])
    host, device = Compositor(options), ResidentBlend(options)
    covered, free = pair(size, 0), (pair(size, 1)[0], pair(size, 1)[0] + np.float32(0.02))
    # two persons in each of three frames, one of them without a mesh; the first frame's cover is gone in the second
    for index, (a, b) in enumerate([covered, free, free]):
        maps = np.stack([inside, cut, inside])
        meshes = [head(40.0, 5.0, size), head(0.0, 0.0, size), None]
        now = replace(frame, index=index)
        degraded, restored = (torch.from_numpy(np.stack([x] * 3)) for x in (a, b))
        places = [CropPlace(track_id, 0, index) for track_id in range(3)]
        change = device.change(degraded, restored, maps, (300, 400), SDR, meshes=meshes, places=places)
        for i in range(3):
            restoration = Restoration(Crop(i, index, a, maps[i], mesh=meshes[i]), b)
            delta, mask = on_host(host, now, restoration)
            np.testing.assert_allclose(change.masks[i].numpy(), mask, atol=2e-5)
            np.testing.assert_allclose(change.deltas[i].numpy(), delta, atol=5e-5)
            assert mask.max() > 0.2
            if index == 1:  # a quarter came back
                assert mask[size // 3 - size // 16, size // 3 - size // 16] < 0.3


def test_frames_of_one_track_in_one_batch_are_held_one_after_the_other() -> None:
    options = BlendOptions(occluder_frames=4)
    covered, free = pair(64, 0), (pair(64, 1)[0], pair(64, 1)[0] + np.float32(0.02))
    degraded, restored = (torch.from_numpy(np.stack([covered[i], free[i], free[i]])) for i in (0, 1))
    maps = np.tile(np.array([[0.3, 0, -20], [0, 0.3, -20.0]]), (3, 1, 1))
    places = [CropPlace(0, 0, i) for i in range(3)]
    together = ResidentBlend(options).change(degraded, restored, maps, (300, 400), SDR, places=places)
    blend = ResidentBlend(options)
    for i in range(3):
        one = np.s_[i : i + 1]
        alone = blend.change(degraded[one], restored[one], maps[one], (300, 400), SDR, places=places[one])
        torch.testing.assert_close(alone.masks[0], together.masks[i], atol=1e-6, rtol=0)
    assert together.masks[1].mean() < together.masks[2].mean()


def test_a_crop_that_is_not_finite_is_marked_and_harms_no_other() -> None:
    a, b = pair(64, 0)
    broken = b.copy()
    broken[1, 3, 4] = np.nan
    maps = np.tile(np.array([[0.3, 0, -20], [0, 0.3, -20.0]]), (2, 1, 1))
    degraded = torch.from_numpy(np.stack([a, a]))
    blend = ResidentBlend(BlendOptions())
    change = blend.change(degraded, torch.from_numpy(np.stack([broken, b])), maps, (300, 400), SDR)
    alone = blend.change(degraded[1:], torch.from_numpy(b[None]), maps[1:], (300, 400), SDR)
    assert change.usable.tolist() == [0, 1]
    assert torch.isfinite(change.deltas).all()
    torch.testing.assert_close(change.deltas[1], alone.deltas[0], atol=1e-6, rtol=0)


def test_a_network_that_changes_nothing_gives_no_difference() -> None:
    a = torch.from_numpy(pair(64, 0)[0][None])
    for pixel_format in (SDR, PQ):
        change = ResidentBlend(BlendOptions()).change(
            a, a.clone(), np.array([[[0.3, 0, -20], [0, 0.3, -20.0]]]), (300, 400), pixel_format
        )
        assert not change.deltas.any()


def test_without_guard_and_damping_the_difference_is_the_plain_one() -> None:
    a, b = pair(64, 1)
    blend = ResidentBlend(BlendOptions(colour=1.0), colour_guard=0.0, lowers_disagreement=False)
    maps = np.array([[[0.3, 0, -20], [0, 0.3, -20.0]]])
    change = blend.change(torch.from_numpy(a[None]), torch.from_numpy(b[None]), maps, (300, 400), SDR)
    np.testing.assert_array_equal(change.deltas[0].numpy(), signal_delta(a, b, SDR))
