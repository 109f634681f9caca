"""Threads of a run's libraries, bounded while it lasts and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from vidrestore.config import load_config
from vidrestore.kernels import launch
from vidrestore.pipeline import RestoredVideo
from vidrestore.threads import RunThreads
from vidrestore.types import CropContext


def counts() -> tuple[int, int, int | None]:
    return torch.get_num_threads(), cv2.getNumThreads(), launch.thread_limit()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = counts()
    yield
    assert counts() == before


def test_counts_hold_inside_and_are_put_back() -> None:
    before = counts()
    with RunThreads(1, 1):
        assert counts() == (1, 1, 1)
    assert counts() == before


def test_zero_leaves_them_alone() -> None:
    before = counts()
    with RunThreads(0, 0):
        assert counts() == before


def test_runs_that_overlap_leave_what_was_there_before_the_first() -> None:
    before = counts()
    first, second = RunThreads(3, 1), RunThreads(1, 2)
    first.__enter__()
    second.__enter__()
    first.close()
    assert counts() == (1, 2, 1), "the second still runs"
    first.close()
    second.close()
    assert counts() == before


def test_an_exception_puts_them_back() -> None:
    before = counts()
    with pytest.raises(RuntimeError, match="in a stage"), RunThreads(1, 1):
        raise RuntimeError("in a stage")
    assert counts() == before


class Counting:
    """Notes how many threads torch has where the network runs."""

    size = 32
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        self.seen.add(torch.get_num_threads())
        return images


def test_the_options_reach_the_stage(face_clip: Path) -> None:
    network = Counting()
    config = load_config(overrides={"restore": {"threads": 1}, "detect": {"threads": 1}})
    with RestoredVideo(face_clip, config, restorer=network) as video:
        for restored in video:
            if restored.num_restored:
                break
        assert cv2.getNumThreads() == 1
    assert network.seen == {1}
