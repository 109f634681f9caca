"""People who are not at rest: what the moves are made of, with a tiny generator in place of the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidrestore.restoration.mobilestyle import GeneratorDims, StyleGenerator
from vidrestore.train import variations
from vidrestore.train.generator import Mapping
from vidrestore.train.variations import directions, make_expressions, measures


def test_a_direction_moves_its_own_measure_by_one_deviation_and_no_other() -> None:
    """Points whose measures are linear in the style: what a direction does can be read off them."""
    rng = np.random.default_rng(0)
    styles = torch.from_numpy(rng.normal(size=(1200, 512))).float()
    pairs = {14: 0, 291: 1, 145: 3, 374: 3, 454: 5}  # vertices and the axis of the style that each follows

    def seen(styles: np.ndarray) -> np.ndarray:
        points = np.zeros((len(styles), 468, 3))
        points[:, 263, 0], points[:, 291, 0], points[:, [14, 145, 374], 1] = 100.0, 40.0, 20.0
        for vertex, axis in pairs.items():
            points[:, vertex, {291: 0, 454: 2}.get(vertex, 1)] += 3.0 * styles[:, axis]
        points[:, [105, 334], 1] = -10.0 - 2.0 * styles[:, [4]]
        points[:, [61, 291], 1] = 2.0 * styles[:, [2]]
        return points

    before = seen(styles.double().numpy())
    moves = directions(styles, before, torch.zeros(512))
    spread = measures(before).std(0)
    for number in range(6):
        step = measures(seen((styles + moves[number]).double().numpy())).mean(0) - measures(before).mean(0)
        wanted = np.eye(6)[number]
        np.testing.assert_allclose(step / spread, wanted, atol=0.15, err_msg=f"direction {number}")


def test_people_are_made_once_and_depend_on_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moves = 20.0 * torch.randn(6, 512)
        networks = Mapping(512, 1).eval(), StyleGenerator(GeneratorDims(base=16, channels=(16, 8, 8, 8))).eval()
    monkeypatch.setattr(variations, "load_mapping", lambda: networks[0])
    monkeypatch.setattr(variations, "load_generator", lambda: networks[1])
    networks[1].head.pointwise.weight.data *= 30.0  # random networks are nearly grey
    mean, heard = torch.zeros(512), list[tuple[int, int]]()
    made = make_expressions(tmp_path, moves, mean, start=5, count=3, progress=lambda *done: heard.append(done))
    assert made == 3
    assert heard == [(1, 3), (2, 3), (3, 3)]
    first = (tmp_path / "00006.jpg").read_bytes()
    (tmp_path / "00006.jpg").unlink()
    assert make_expressions(tmp_path, moves, mean, start=5, count=3) == 1
    assert (tmp_path / "00006.jpg").read_bytes() == first
    assert make_expressions(tmp_path, moves, mean, start=5, count=3) == 0
    (tmp_path / "00006.jpg").unlink()
    make_expressions(tmp_path, 0.0 * moves, mean, start=6, count=1)
    assert (tmp_path / "00006.jpg").read_bytes() != first, "the moves are seen"
