"""Two frames of one shot: same content where the offsets say, other noise, a function of seed and step alone."""

from __future__ import annotations

import pytest
import torch

from vidrestore.train.losses import unsteadiness
from vidrestore.train.views import two_frames


def faces(count: int = 2, size: int = 64) -> torch.Tensor:
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_clean_frames_agree_where_both_show_the_same(step: int) -> None:
    frames = two_frames(faces(), [0, 2], motion=6, seed=1, step=step, workers=0)
    assert frames.clean.shape == frames.degraded.shape == (4, 3, 64, 64)
    assert float(unsteadiness(frames.clean, frames.offsets, margin=8)) == 0.0


def test_frames_of_a_shot_differ_in_noise_and_are_restorable() -> None:
    frames = two_frames(faces(), [2, 2], motion=0, seed=1, step=0, workers=0)
    assert frames.offsets == ((0, 0), (0, 0))
    assert 0.001 < float(unsteadiness(frames.degraded)) < 0.2
    assert float((frames.degraded - frames.clean).abs().mean()) < 0.3


def test_faces_without_damage_have_none() -> None:
    frames = two_frames(faces(), [3, 0], motion=4, seed=1, step=3, workers=0)
    assert torch.equal(frames.degraded[:2], frames.clean[:2])
    assert not torch.equal(frames.degraded[2:], frames.clean[2:])


def test_seed_and_step_decide_and_threads_do_not() -> None:
    one = two_frames(faces(), [1, 1], motion=4, seed=1, step=5, workers=0)
    same = two_frames(faces(), [1, 1], motion=4, seed=1, step=5, workers=2)
    other = two_frames(faces(), [1, 1], motion=4, seed=1, step=6, workers=0)
    assert torch.equal(one.degraded, same.degraded)
    assert one.offsets == same.offsets
    assert not torch.equal(one.degraded, other.degraded)
