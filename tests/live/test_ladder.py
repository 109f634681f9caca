from __future__ import annotations

from itertools import pairwise

import pytest

from vidrestore.live.ladder import Ladder, rungs_for


def watch(ladder: Ladder, latency_of: list[float], *, begin: float, seconds: float, rate: float = 20.0) -> list[float]:
    """Shows the ladder frames whose latency depends on its rung alone; the times at which it moved."""
    moved = []
    for i in range(int(seconds * rate)):
        now = begin + i / rate
        if ladder.observe(now, latency_of[ladder.index]):
            moved.append(now)
    return moved


def test_every_rung_gives_up_something_and_the_smaller_network_is_one_of_them() -> None:
    with_small, without = rungs_for(has_smaller_network=True), rungs_for(has_smaller_network=False)
    assert len(set(with_small)) == len(with_small) == len(without) + 1
    assert {rung.network_index for rung in without} == {0}
    restores = [rung.restores for rung in with_small]
    assert restores == sorted(restores, key=["each", "second", "behind"].index)
    assert [rung.detect_every for rung in with_small] == sorted(rung.detect_every for rung in with_small)
    assert with_small[0].max_faces is None
    assert with_small[-1].max_faces == 1


def test_it_climbs_down_to_the_first_rung_that_keeps_the_budget_and_stays() -> None:
    ladder = Ladder(rungs_for(has_smaller_network=False), 90.0)
    latency = [200.0, 180.0, 120.0, 70.0, 60.0, 50.0, 40.0]
    assert len(watch(ladder, latency, begin=0.0, seconds=10.0)) == 3
    assert ladder.index == 3  # 70 ms: no room for a step up, no reason for one down
    assert watch(ladder, latency, begin=10.0, seconds=60.0) == []


def test_it_is_quick_to_climb_down_and_slow_to_climb_up() -> None:
    ladder = Ladder(rungs_for(has_smaller_network=False), 90.0)
    down = watch(ladder, [200.0] * 7, begin=0.0, seconds=8.0)
    assert ladder.is_at_bottom
    assert down[-1] < 6.0
    up = watch(ladder, [10.0] * 7, begin=8.0, seconds=40.0)
    assert ladder.index == 0
    assert up[0] - 8.0 >= 3.0


def test_a_step_up_that_fails_is_tried_ever_more_rarely() -> None:
    ladder = Ladder(rungs_for(has_smaller_network=False), 90.0)
    moved = watch(ladder, [200.0, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0], begin=0.0, seconds=300.0)
    climbs = moved[1::2]
    gaps = [b - a for a, b in pairwise(climbs)]
    assert len(climbs) < 14  # every three seconds it would be 80
    assert gaps[-1] > 4 * gaps[0]
    assert gaps[-1] <= 70.0


def test_no_step_is_tried_to_where_the_picture_would_wait_for_a_network_that_is_far_too_slow() -> None:
    for network_ms, expected in ((300.0, "behind"), (100.0, "each")):
        ladder = Ladder(rungs_for(has_smaller_network=False), 90.0)
        watch(ladder, [200.0] * 7, begin=0.0, seconds=8.0)
        for i in range(800):
            ladder.observe(8.0 + i / 20, 10.0, network_ms)
        assert ladder.rung.restores == expected


def test_one_late_frame_changes_nothing() -> None:
    ladder = Ladder(rungs_for(has_smaller_network=False), 90.0)
    for i in range(400):
        assert not ladder.observe(i / 20, 400.0 if i % 40 == 5 else 50.0)
    assert ladder.index == 0


def test_a_ladder_without_rungs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ladder((), 90.0)
