"""The result does not depend on timing at all, and on the batch size only in the last bits (goal R14)."""

from __future__ import annotations

import random
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.pipeline import RestoredVideo, _batches, restore, restore_frames
from vidrestore.restoration.restorer import Restorer, load_restorer
from vidrestore.types import CropContext, Frame


class Hesitant:
    """Takes another while for every batch, as a busy machine does; its result depends on its crops alone."""

    size = 32
    device = torch.device("cpu")

    def __init__(self, seed: int, longest_s: float) -> None:
        self._random, self._longest_s = random.Random(seed), longest_s

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        time.sleep(self._random.random() * self._longest_s)
        # a mean over the batch shows at once if other crops came together
        return images + 0.2 * torch.linspace(-1, 1, 32) + 0.05 * images.mean()


def frames_with(network: Restorer, path: Path, count: int, **settings: object) -> list[Frame]:
    config = load_config(overrides={"restore": settings})
    with RestoredVideo(path, config, restorer=network) as video:
        return [restored.frame for restored in islice(video, count)]


def test_what_is_restored_together_does_not_depend_on_timing(face_clip: Path) -> None:
    first, second, third = (
        frames_with(Hesitant(seed, longest_s), face_clip, 20, batch_size=3)
        for seed, longest_s in ((0, 0.0), (1, 0.05), (2, 0.05))
    )
    for frames in (second, third):
        for a, b in zip(first, frames, strict=True):
            for p, q in zip(a.planes, b.planes, strict=True):
                np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("extension", [".mp4", ".mov"])
def test_the_same_command_gives_the_same_file(extension: str, face_clip: Path, tmp_path: Path) -> None:
    config = load_config(overrides={"encode": {"speed": "ultrafast", "threads": 2}})
    files = []
    for seed in range(2):
        output = tmp_path / f"{seed}{extension}"
        restore(face_clip, output, config, restorer=Hesitant(seed, 0.02))
        files.append(output.read_bytes())
    assert files[0] == files[1]
    assert len(files[0]) > 10_000


@pytest.mark.parametrize("network", ["compact"])
def test_batch_sizes_agree_within_60_db(network: str, face_clip: Path) -> None:
    restorer = load_restorer(load_config(overrides={"restore": {"network": network, "device": "cpu"}}).restore)
    with VideoReader(face_clip) as video:
        info, source = video.info, list(islice(video.decode(), 6))
    results = []
    for batch_size in (1, 4):
        config = load_config(overrides={"restore": {"batch_size": batch_size, "precision": "float32"}})
        results.append([done.frame for done in restore_frames(source, info, config, restorer=restorer)])
    alone, together = results
    changed = 0
    error, count = 0.0, 0
    for a, b, before in zip(alone, together, source, strict=True):
        for p, q, s in zip(a.planes, b.planes, before.planes, strict=True):
            error += float(((p.astype(float) - q) ** 2).sum())
            count += p.size
            changed += int((p != s).sum())
    assert changed > 1000  # faces were restored
    peak = (1 << source[0].format.depth) - 1
    assert 10 * np.log10(peak**2 / max(error / count, 1e-12)) >= 60.0


@pytest.mark.parametrize(
    ("faces", "batch_size", "expected"),
    [
        ([1] * 20, 8, [1, 2, 4, 8, 5]),  # the first picture comes early
        ([1] * 8, 3, [1, 2, 3, 2]),
        ([2] * 12, 8, [1, 2, 4, 4, 1]),  # full with eight faces
        ([0, 0, 0, 1, 1, 1], 8, [1, 1, 1, 3]),  # frames without faces wait for nothing
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, [1] * 11),
    ],
)
def test_batches_grow_from_a_single_frame(faces: list[int], batch_size: int, expected: list[int]) -> None:
    items: Any = [SimpleNamespace(tracks=range(count)) for count in faces]
    engine: Any = SimpleNamespace(batch_size=batch_size)
    batches = list(_batches(items, engine))
    assert [len(batch) for batch in batches] == expected
    assert [item for batch in batches for item in batch] == items
