"""Codes are held against noise, follow motion at once, and begin anew where a track does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidrestore.config import RestoreOptions
from vidrestore.restoration.codeformer import CodeFormer, CodeFormerDims
from vidrestore.restoration.hysteresis import CodeHysteresis, HysteresisOptions, TrackPlace
from vidrestore.restoration.restorer import CodeFormerRestorer
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.vqgan import VqganDims
from vidrestore.types import CropContext, Track

TOKENS, CODES, SIDE = 16, 8, 32
FLIPPED = 5
"""A token whose two best codes score alike."""
INSIDE = 10
"""A token that sees motion; its neighbours open their gates with it."""


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits_at(frame: int, spread: float = 0.4) -> torch.Tensor:
    """(1, T, K): code 0 is best everywhere; token FLIPPED wavers between codes 0 and 1."""
    logits = torch.zeros(TOKENS, CODES)
    logits[:, 0] = 6.0
    logits[FLIPPED, 1] = 6.0
    return (logits + spread * noise(frame, TOKENS, CODES))[None]


def image_at(frame: int, moved: float = 0.0) -> torch.Tensor:
    """(1, 3, S, S): a still noisy crop; the patch of token INSIDE is brighter by ``moved``."""
    image = 0.3 * noise(1000, 1, 3, SIDE, SIDE) + 0.05 * noise(2000 + frame, 1, 3, SIDE, SIDE)
    y, x = divmod(INSIDE, 4)
    image[..., y * 8 : y * 8 + 8, x * 8 : x * 8 + 8] += moved
    return image


def place(frame: int, track: int = 0, shot: int = 0) -> list[TrackPlace]:
    return [TrackPlace(track, shot, frame)]


def step(memory: CodeHysteresis, frame: int, logits: torch.Tensor, moved: float = 0.0, track: int = 0) -> torch.Tensor:
    decision = memory.decide(logits, image_at(frame, moved), place(frame, track))
    memory.keep(decision)
    return decision.codes[0]


def test_the_first_frame_takes_its_best_codes() -> None:
    logits = noise(3, 1, TOKENS, CODES)
    assert torch.equal(step(CodeHysteresis(), 0, logits), logits[0].argmax(-1))


def test_wavering_codes_are_held() -> None:
    memory = CodeHysteresis()
    held = torch.stack([step(memory, i, logits_at(i)) for i in range(60)])
    plain = torch.cat([logits_at(i).argmax(-1) for i in range(60)])
    flips = [int((codes[1:, FLIPPED] != codes[:-1, FLIPPED]).sum()) for codes in (plain, held)]
    assert flips[0] > 15
    assert flips[1] <= 1


def test_a_lasting_change_of_mind_is_followed_though_nothing_moves() -> None:
    memory = CodeHysteresis()
    for i in range(5):
        step(memory, i, logits_at(i))
    better = torch.zeros(1, TOKENS, CODES)
    better[:, :, 3] = 6.0
    codes = [int(step(memory, 5 + i, better)[0]) for i in range(12)]
    assert codes[0] == 0
    assert codes[-1] == 3


def test_motion_takes_the_frames_own_codes_at_once_and_only_there() -> None:
    memory = CodeHysteresis()
    for i in range(8):
        step(memory, i, logits_at(i))
    other = logits_at(8)
    other[..., 2] = 6.5  # a little better everywhere: too little to switch where nothing moves
    codes = step(memory, 8, other, moved=0.4)
    assert int(codes[INSIDE]) == int(other[0, INSIDE].argmax()) == 2
    far = 0  # a corner, two tokens away
    assert int(codes[far]) == 0


def test_where_everything_changes_all_gates_open() -> None:
    memory = CodeHysteresis()
    step(memory, 0, logits_at(0))
    logits = noise(4, 1, TOKENS, CODES)
    decision = memory.decide(logits, image_at(1) + 0.6, place(1))
    assert decision.openness.min() == 1.0
    assert torch.equal(decision.codes[0], logits[0].argmax(-1))


def test_noise_alone_keeps_the_gates_shut() -> None:
    memory = CodeHysteresis()
    for i in range(10):
        decision = memory.decide(logits_at(i), image_at(i), place(i))
        memory.keep(decision)
    assert float(decision.openness.mean()) < 0.2


@pytest.mark.parametrize("now", [TrackPlace(0, 1, 6), TrackPlace(0, 0, 9), TrackPlace(0, 0, 5), TrackPlace(1, 0, 6)])
def test_another_shot_track_or_time_begins_anew(now: TrackPlace) -> None:
    memory = CodeHysteresis()
    for i in range(6):
        step(memory, i, logits_at(i))
    logits = noise(5, 1, TOKENS, CODES)
    assert torch.equal(memory.decide(logits, image_at(6), [now]).codes[0], logits[0].argmax(-1))


def test_tracks_of_one_batch_are_independent_and_frames_of_one_track_follow() -> None:
    places = [TrackPlace(i % 2, 0, i // 2) for i in range(12)]
    logits = torch.cat([logits_at(10 + i) for i in range(12)])
    images = torch.cat([image_at(i) for i in range(12)])
    together = CodeHysteresis().decide(logits, images, places).codes
    for track in (0, 1):
        memory = CodeHysteresis()
        for i in range(track, 12, 2):
            decision = memory.decide(logits[i : i + 1], images[i : i + 1], places[i : i + 1])
            memory.keep(decision)
            assert torch.equal(decision.codes[0], together[i])


def test_a_decision_that_is_not_kept_leaves_no_trace() -> None:
    memory = CodeHysteresis()
    step(memory, 0, logits_at(0))
    first = memory.decide(logits_at(1), image_at(1), place(1))
    again = memory.decide(logits_at(1), image_at(1), place(1))
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.openness, again.openness)
    assert float(again.openness.mean()) < 1.0  # a track that goes on, not one that begins


def test_ended_tracks_are_forgotten() -> None:
    memory = CodeHysteresis()
    for track in (0, 1):
        step(memory, 0, logits_at(0), track=track)
    memory.keep(memory.decide(logits_at(1), image_at(1), place(1, track=2)), frozenset({0, 2}))
    assert len(memory) == 1


def test_a_broken_frame_does_not_stay() -> None:
    memory = CodeHysteresis()
    step(memory, 0, logits_at(0))
    broken = memory.decide(logits_at(1) * torch.nan, image_at(1) * torch.nan, place(1))
    memory.keep(broken)
    assert torch.equal(step(memory, 2, logits_at(2)), logits_at(2)[0].argmax(-1))
    decision = memory.decide(logits_at(3), image_at(3), place(3))
    assert torch.isfinite(decision.openness).all()
    assert float(decision.openness.mean()) < 1.0


def test_no_memory_and_no_margin_change_nothing() -> None:
    memory = CodeHysteresis(HysteresisOptions(memory=0.0, margin=0.0))
    for i in range(10):
        assert torch.equal(step(memory, i, logits_at(i)), logits_at(i)[0].argmax(-1))


@pytest.mark.parametrize("bad", [{"memory": 1.0}, {"margin": -0.1}, {"noise_low": 4.0}, {"change_low": 0.3}])
def test_wrong_options_are_errors(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HysteresisOptions(**bad)


def small_network() -> CodeFormer:
    """16 tokens of 8 pixels, weights from key names."""
    inner = VqganDims(32, 8, (1, 2, 2, 2), 1, (), 32, 16, 0.25, 4)
    return fill_seeded(CodeFormer(CodeFormerDims(inner, 32, 2, 2, 2, (8, 16))))


def context(frames: list[int], ended: frozenset[int] = frozenset()) -> CropContext:
    """Crops of one track."""
    track = Track(7, np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9)
    maps = np.tile(np.eye(2, 3), (len(frames), 1, 1))
    w = np.full(len(frames), 0.5, np.float32)
    return CropContext((track,) * len(frames), tuple(frames), maps, maps, w, ended)


def restorer(hysteresis: CodeHysteresis | None) -> CodeFormerRestorer:
    return CodeFormerRestorer(small_network(), torch.device("cpu"), torch.float32, 0.5, hysteresis=hysteresis)


def test_the_restorer_holds_codes_along_a_track_and_only_with_a_context() -> None:
    memory = CodeHysteresis(HysteresisOptions(margin=20.0))  # nothing wins by so much
    held, plain = restorer(memory), restorer(None)
    still = torch.cat([image_at(i) for i in range(4)])
    with torch.inference_mode():
        steady = held.restore(still, context([0, 1, 2, 3]))
        free = plain.restore(still, context([0, 1, 2, 3]))
        alone = held.restore(still)
        torch.testing.assert_close(alone, free)
        torch.testing.assert_close(steady[0], free[0])  # a track begins with its own codes
        assert float((steady[1:] - free[1:]).abs().max()) > 1e-3
        assert len(memory) == 1
        held.restore(still[:1], context([4], frozenset({7})))
    assert len(memory) == 0


def test_batches_do_not_change_what_a_track_gets() -> None:
    still = torch.cat([image_at(i) for i in range(4)])
    together, apart = restorer(CodeHysteresis()), restorer(CodeHysteresis())
    with torch.inference_mode():
        expected = together.restore(still, context([0, 1, 2, 3]))
        got = torch.cat([apart.restore(still[i : i + 1], context([i])) for i in range(4)])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_the_option_is_off_unless_asked_for() -> None:
    assert RestoreOptions().code_hysteresis == 0.0
