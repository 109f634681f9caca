"""The measures on the committed clip: what its codec and noise do to faces, with the motion known."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vidrestore.evaluate.flicker import flicker, warp_error
from vidrestore.evaluate.motion import gain, lag_frames
from vidrestore.evaluate.texture import Unwrapping
from vidrestore.morphable.files import load_vr468
from vidrestore.train.clips import ClipTruth

CLIPS = Path(__file__).parent.parent / "clips"
SHOT = range(24, 44)
MOUTH = np.array([61, 291, 0, 17, 37, 267, 84, 314])


@pytest.fixture(scope="module")
def clip() -> tuple[list[np.ndarray], list[np.ndarray], ClipTruth, Unwrapping]:
    pictures = []
    for name in ("temporal.mkv", "temporal_clean.mkv"):
        with av.open(str(CLIPS / name)) as container:
            pictures.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    model = load_vr468()
    flat = Unwrapping(model.mean_shape.double().numpy() * [1.0, -1.0, -1.0], model.triangles.numpy(), 96)
    return pictures[0], pictures[1], ClipTruth.read(CLIPS / "temporal.json"), flat


Loaded = tuple[list[np.ndarray], list[np.ndarray], ClipTruth, Unwrapping]


def test_following_the_mesh_takes_the_motion_out(clip: Loaded) -> None:
    _, clean, truth, flat = clip
    seen = [i for i in SHOT if truth.frames[i][0].visible > 0.97]
    first = [i for i in seen if i < 30]
    meshes = [truth.frames[i][0].points for i in first]
    followed = flicker([clean[i] for i in first], meshes, flat)
    left = flicker([clean[i] for i in first], [meshes[0]] * len(first), flat)
    assert followed < 0.6 * left


def test_compression_and_noise_flicker(clip: Loaded) -> None:
    degraded, clean, truth, flat = clip
    still = degraded[24]
    meshes = [truth.frames[i][0].points if truth.frames[i][0].visible > 0.97 else None for i in SHOT]
    noise = np.random.default_rng(0)
    noisy = [np.clip(clean[i] + noise.normal(0, 8, still.shape), 0, 255).astype(np.uint8) for i in SHOT]
    assert flicker(noisy, meshes, flat) > flicker([clean[i] for i in SHOT], meshes, flat) + 2.0
    assert warp_error(noisy[:4], clean[24:28]) > warp_error(clean[24:28], clean[24:28]) + 2.0


def test_the_mouth_is_seen_to_move_in_both_at_the_same_time(clip: Loaded) -> None:
    degraded, clean, truth, flat = clip
    region = flat.region(MOUTH, 0.03)

    def window(pictures: list[np.ndarray]) -> np.ndarray:
        return np.array([flat.texture(pictures[i][..., 1], truth.frames[i][0].rest)[0][..., 0][region] for i in SHOT])

    source, true = window(degraded), window(clean)
    assert 0.5 < gain(source, true) < 1.1
    assert lag_frames(source, true) == pytest.approx(0.0, abs=0.3)
    late = np.concatenate([true[:1], true[:-1]])
    assert lag_frames(late, true) == pytest.approx(1.0, abs=0.4)
