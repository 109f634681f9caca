"""How long the stages take, as values: rolling percentiles that any thread may read."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["Meter", "Rate", "Spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of the recent past, in milliseconds."""

    p50: float
    p95: float
    last: float


class Meter:
    """Collects durations by name and tells their percentiles over the last ``window`` values."""

    def __init__(self, window: int = 150) -> None:
        """
        Args:
            window: values kept per name; 150 are five seconds of a camera's frames.
        """
        self._window = window
        self._values: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, milliseconds: float) -> None:
        """Notes one duration."""
        with self._lock:
            self._values.setdefault(name, deque(maxlen=self._window)).append(milliseconds)

    def spreads(self) -> dict[str, Spread]:
        """The percentiles of every name that has values, in the order in which the names appeared."""
        with self._lock:
            values = {name: list(known) for name, known in self._values.items()}
        return {name: spread(known) for name, known in values.items()}

    def reset(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()


class Rate:
    """Events per second over a sliding window of two seconds."""

    _WINDOW_S = 2.0

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def tick(self, now_s: float) -> None:
        """Notes an event."""
        with self._lock:
            self._times.append(now_s)
            self._forget(now_s)

    def per_second(self, now_s: float) -> float:
        """Events per second; 0 where there were fewer than two."""
        with self._lock:
            self._forget(now_s)
            if len(self._times) < 2 or self._times[-1] <= self._times[0]:
                return 0.0
            return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def _forget(self, now_s: float) -> None:
        while self._times and self._times[0] < now_s - self._WINDOW_S:
            self._times.popleft()


def spread(values: Iterable[float]) -> Spread:
    """Percentiles of at least one value."""
    array = np.fromiter(values, np.float64)
    p50, p95 = np.percentile(array, [50, 95])
    return Spread(float(p50), float(p95), float(array[-1]))
