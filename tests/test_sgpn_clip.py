"""SGPN with seeded weights through the whole pipeline on a real clip."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.morphable.synthetic import synthetic_model
from vidrestore.pipeline import restore, restore_frames
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.sgpn import Sgpn, SgpnDims
from vidrestore.restoration.sgpn_restorer import SgpnRestorer
from vidrestore.restoration.shape_prior import ShapePrior


def seeded_restorer(dims: SgpnDims) -> SgpnRestorer:
    """The published layout, or a smaller one, with seeded weights and the egg for a face."""
    with torch.device("meta"):
        network, regressor = Sgpn(dims), D3dfr()
    prior = ShapePrior(fill_seeded(regressor), synthetic_model(60, 50))
    return SgpnRestorer(fill_seeded(network), prior, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.real_clip
@pytest.mark.parametrize("real_clip", ["carphone"], indirect=True)
def test_a_whole_clip_goes_through(real_clip: Path, tmp_path: Path) -> None:
    """All 120 frames, the network at 64 pixels and an eighth of its width."""
    restorer = seeded_restorer(SgpnDims(size=64, max_channels=64, area_channels=4096))
    config = load_config(overrides={"restore": {"device": "cpu"}, "encode": {"speed": "ultrafast"}})
    result = restore(real_clip, tmp_path / "out.mkv", config, restorer=restorer)
    assert (result.num_frames, result.num_faces, result.num_kept_faces) == (120, 120, 0)
    assert result.is_whole
    assert restorer.work.num_read == 120
    assert restorer.work.num_drawn <= 120


@pytest.mark.slow
@pytest.mark.real_clip
@pytest.mark.parametrize("real_clip", ["carphone"], indirect=True)
def test_the_published_size_goes_through(real_clip: Path) -> None:
    """The first frames, the network as published: 75 M parameters at 512 pixels."""
    restorer = seeded_restorer(SgpnDims())
    config = load_config(
        overrides={"restore": {"device": "cpu", "batch_size": 1}, "track": {"lookahead": 0, "min_hits": 1}}
    )
    with VideoReader(real_clip) as reader:
        frames = list(islice(reader.decode(), 3))
        out = list(restore_frames(frames, reader.info, config, restorer=restorer))
    assert [r.num_restored for r in out] == [1, 1, 1]
    for before, after in zip(frames, out, strict=True):
        changed = before.planes[0] != after.frame.planes[0]
        assert 0.02 < changed.mean() < 0.9, "the face, and not the whole picture"
        assert np.array_equal(before.planes[0][:4], after.frame.planes[0][:4])
