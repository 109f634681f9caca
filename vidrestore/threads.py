"""How many threads a run's libraries may use, for as long as the run lasts.

Stages run beside one another, and three libraries in them start threads of their own: torch (network), the kernels'
pool (sampling, compositing) and OpenCV (detector). Left alone each takes every core. FFmpeg's decoder and encoder count
theirs per file (``decode.threads``, ``encode.threads``).

All three counts belong to the process. The first run that sets one keeps what was there, the last one that ends puts it
back; runs beside one another share what the latest asked for.
"""

from __future__ import annotations

import threading
from types import TracebackType

import cv2
import torch

from vidrestore.kernels import launch

__all__ = ["RunThreads"]

_lock = threading.Lock()
_num_runs = 0
_before: tuple[int, int, int | None] | None = None


class RunThreads:
    """A context manager that bounds the threads of a run; entered in the thread that starts the stages.

    Args:
        compute: of network and kernels; 0 leaves both as they are: torch takes ``OMP_NUM_THREADS`` or all cores, the
            kernels all cores.
        vision: of OpenCV; 0 leaves it as it is.
    """

    def __init__(self, compute: int, vision: int) -> None:
        self._compute, self._vision = compute, vision
        self._is_entered = False

    def __enter__(self) -> RunThreads:
        global _num_runs, _before
        with _lock:
            if _before is None:
                _before = torch.get_num_threads(), cv2.getNumThreads(), launch.thread_limit()
            _num_runs += 1
            self._is_entered = True
            if self._compute:
                torch.set_num_threads(self._compute)
                launch.limit_threads(self._compute)
            if self._vision:
                cv2.setNumThreads(self._vision)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Puts back what was there before, where no other run goes on. A second call does nothing."""
        global _num_runs, _before
        with _lock:
            if not self._is_entered:
                return
            self._is_entered = False
            _num_runs -= 1
            if _num_runs or _before is None:
                return
            compute, vision, limit = _before
            _before = None
            if torch.get_num_threads() != compute:
                torch.set_num_threads(compute)
            if cv2.getNumThreads() != vision:
                cv2.setNumThreads(vision)
            launch.limit_threads(limit)
