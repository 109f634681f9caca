from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import vidrestore.bench
from vidrestore.bench import bench, median_ms
from vidrestore.cli import app
from vidrestore.config import load_config
from vidrestore.restoration.restorer import Restorer
from vidrestore.types import CropContext


class Same:
    """A network that does nothing."""

    size = 32
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        self.batches.append(len(images))
        assert images.std() > 0.1  # never zeros
        return images.clone()


CONFIG = load_config(overrides={"restore": {"batch_size": 4}, "encode": {"speed": "ultrafast"}})


@pytest.fixture(autouse=True)
def _small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidrestore.bench, "FRAMES", ((90, 160), (180, 320)))


def test_every_part_is_measured(face_clip: Path) -> None:
    network = Same()
    report = bench(CONFIG, face_clip, restorer=network, part_s=0.01)
    assert [line.batch for line in report.networks] == [1, 2, 4]
    assert {1, 2, 4} <= set(network.batches)
    assert all(line.faces_per_second == pytest.approx(1e3 / line.ms_per_face, rel=0.05) for line in report.networks)
    assert [(row.height, row.face_px) for row in report.kernels] == [(90, 23), (180, 47)]
    assert all(row.sample_ms > 0 and row.composite_ms > 0 for row in report.kernels)
    assert report.clip is not None
    assert set(report.clip.stages) >= {"decode", "restore", "encode"}
    assert report.clip.num_frames > 0


def test_the_warm_up_is_not_counted() -> None:
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        torch.tensor([sum(range(200_000 if len(calls) == 1 else 10))])

    assert median_ms(run, 0.0) < 2.0
    assert len(calls) == 4


def test_a_check_may_end_it() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(CONFIG, restorer=Same(), part_s=0.01, check=check)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_shows_it(as_json: bool, face_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(options: object) -> Restorer:
        return Same()

    monkeypatch.setattr(vidrestore.bench, "load_restorer", load)
    arguments = ["bench", str(face_clip), "--seconds", "0.05", "--set", "restore.batch_size=2"]
    result = CliRunner().invoke(app, [*arguments, *(["--json"] if as_json else [])], standalone_mode=False)
    assert result.exception is None, result.exception
    if as_json:
        assert json.loads(result.stdout)["clip"]["num_frames"] > 0
    else:
        assert "faces/s" in result.stdout
        assert "320x180" in result.stdout
        assert "decode" in result.stdout
