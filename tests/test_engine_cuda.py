"""The engine on a GPU against the engine on the host; in a file of its own, as it wants no C++ compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_engine import FORMATS, Sharpener, info_of, run, tracked_frames

from vidrestore.config import RestoreConfig
from vidrestore.engine import ResidentEngine, make_engine


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", list(FORMATS))
def test_on_a_gpu_frames_are_those_of_the_cpu(name: str) -> None:
    pytest.importorskip("cupy")
    pixel_format = FORMATS[name]
    frames = tracked_frames(pixel_format, [2, 0, 3, 1, 0, 4, 1, 1, 2])

    class OnDevice(Sharpener):
        device = torch.device("cuda", 0)

    engine = make_engine(RestoreConfig(), info_of(pixel_format), OnDevice())
    assert isinstance(engine, ResidentEngine)
    ours = run(engine, frames)
    plain = run(make_engine(RestoreConfig(), info_of(pixel_format), Sharpener()), frames)
    for a, b in zip(ours, plain, strict=True):
        assert a.num_restored == b.num_restored
        for x, y in zip(a.frame.planes, b.frame.planes, strict=True):
            difference: NDArray[np.int_] = np.abs(x.astype(int) - y.astype(int))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 2e-3
