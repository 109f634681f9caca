"""Files of installed packages are found without their code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vidrestore.packages import packaged_file


def test_a_file_is_found_and_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "carries_a_file"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('ran')", "utf-8")
    (folder / "data" / "weights.bin").write_bytes(b"1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_file("carries_a_file", "data/weights.bin") == folder / "data" / "weights.bin"
    assert packaged_file("carries_a_file", "data/other.bin") is None
    assert packaged_file("is_not_installed_at_all", "data/weights.bin") is None
    assert "carries_a_file" not in sys.modules
