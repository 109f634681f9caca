from __future__ import annotations

import pytest

from vidrestore.live.meter import Meter, Rate


def test_percentiles_are_of_the_recent_past() -> None:
    meter = Meter(window=100)
    for value in [999.0] * 50 + list(range(1, 101)):
        meter.add("restore", float(value))
    spread = meter.spreads()["restore"]
    assert spread.p50 == pytest.approx(50.5)
    assert spread.p95 == pytest.approx(95.05)
    assert spread.last == 100.0
    meter.reset()
    assert meter.spreads() == {}


def test_a_rate_is_counted_over_the_last_two_seconds() -> None:
    rate = Rate()
    for tick in range(100):
        rate.tick(tick / 25)
    assert rate.per_second(99 / 25) == pytest.approx(25.0)
    assert rate.per_second(60.0) == 0.0
